//! A SQLite database that refuses lower fencing tokens, and a holder that sleeps through
//! its own eviction.
//!
//! ```text
//! cargo run --example fenced_sqlite                  # in a temporary directory
//! cargo run --example fenced_sqlite -- DATABASE      # in a database of yours, new or not
//! ```
//!
//! The first writer takes the lock, writes a row and is stopped (SIGSTOP) past its lease.
//! The second is granted the lock and writes. The first is continued and, believing that it
//! still holds the lock, writes: the database refuses, because the row carries a lower
//! token than one it has accepted. No pause, however long or unlucky, gets around this; a
//! lock alone cannot do it (M. Kleppmann, "How to do distributed locking", 2016).
//!
//! Prints who did what; exits with 1 if the stale write got in.

use std::error::Error;
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitCode, Stdio};
use std::time::Duration;
use std::{env, process, thread};

use caslock::{FencingToken, LockTable, Reclaim};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rusqlite::{Connection, params};

/// Short, so that the example takes seconds. The default is 10 s.
const LEASE: Duration = Duration::from_millis(500);
const PATIENCE: Duration = Duration::from_secs(60);

/// The fence lives in the database: a writer cannot forget to check.
const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS entry (
        id INTEGER PRIMARY KEY, token INTEGER NOT NULL, writer INTEGER NOT NULL, what TEXT NOT NULL
    );
    CREATE TABLE IF NOT EXISTS fence (only INTEGER PRIMARY KEY CHECK (only = 1), highest INTEGER);
    INSERT OR IGNORE INTO fence VALUES (1, 0);
    CREATE TRIGGER IF NOT EXISTS refuse_lower_tokens BEFORE INSERT ON entry
        WHEN NEW.token < (SELECT highest FROM fence)
        BEGIN SELECT RAISE(ABORT, 'fenced off: a later holder has written'); END;
    CREATE TRIGGER IF NOT EXISTS raise_fence AFTER INSERT ON entry
        BEGIN UPDATE fence SET highest = MAX(highest, NEW.token); END;
";

type Failure = Box<dyn Error>;

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let outcome = match args[..] {
        ["--first", table, database] => first_writer(Path::new(table), Path::new(database)),
        ["--second", table, database] => second_writer(Path::new(table), Path::new(database)),
        [] | [_] => referee(args.first().map(Path::new)),
        _ => Err("usage: fenced_sqlite [DATABASE]".into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("fenced_sqlite: {failure}");
            ExitCode::FAILURE
        }
    }
}

// ---- the writers ---------------------------------------------------------------------

fn open(database: &Path) -> Result<Connection, Failure> {
    let connection = Connection::open(database)?;
    connection.busy_timeout(PATIENCE)?;
    connection.execute_batch(SCHEMA)?;
    Ok(connection)
}

/// One row under one token. The check, the row and the raised fence are one transaction.
fn write(connection: &Connection, token: FencingToken, what: &str) -> Result<(), Failure> {
    // SQLite's integers are signed; at a grant a nanosecond these last 292 years.
    let token = i64::try_from(token.0)?;
    connection.execute(
        "INSERT INTO entry (token, writer, what) VALUES (?1, ?2, ?3)",
        params![token, process::id(), what],
    )?;
    Ok(())
}

fn first_writer(table: &Path, database: &Path) -> Result<(), Failure> {
    let connection = open(database)?;
    let table = LockTable::options().open_existing(table)?;
    let lock = table.lock("entries")?;
    let guard = lock.acquire_timeout(PATIENCE)?;
    write(&connection, guard.token(), "first")?;
    say(&format!(
        "has the lock with token {} and wrote",
        guard.token()
    ))?;

    // The referee stops this process here and continues it much later.
    io::stdin().read_line(&mut String::new())?;

    // As any program would that looked at its guard before the pause and not after it.
    match write(&connection, guard.token(), "stale") {
        Ok(()) => return Err("the database took a stale write".into()),
        Err(refusal) => say(&format!("wrote again: {refusal}"))?,
    }
    if guard.is_held() {
        return Err("the evicted holder's guard still says that it is held".into());
    }
    match guard.release() {
        Ok(()) => Err("the evicted holder's release went through".into()),
        Err(lost) => say(&format!("looked at its guard: {lost}")),
    }
}

fn second_writer(table: &Path, database: &Path) -> Result<(), Failure> {
    let connection = open(database)?;
    let table = LockTable::options().open_existing(table)?;
    let lock = table.lock("entries")?;
    let guard = lock.acquire_timeout(PATIENCE)?;
    write(&connection, guard.token(), "second")?;
    say(&format!(
        "was granted token {} ({}) and wrote",
        guard.token(),
        guard.previous()
    ))?;
    // Kept while the first one wakes, so that its release could do harm if it did any.
    io::stdin().read_line(&mut String::new())?;
    guard.release()?;
    say("released the lock: untouched by the first writer")
}

/// One line to the referee.
fn say(line: &str) -> Result<(), Failure> {
    println!("{line}");
    Ok(io::stdout().flush()?)
}

// ---- the referee ---------------------------------------------------------------------

/// A writer process and its pipes; killed and reaped if it still runs when dropped.
struct Writer {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Writer {
    fn start(role: &str, table: &Path, database: &Path) -> Result<Self, Failure> {
        let mut child = Command::new(env::current_exe()?)
            .arg(role)
            .args([table, database])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = BufReader::new(child.stdout.take().ok_or("no pipe")?);
        Ok(Self { child, output })
    }

    /// Prints the writer's next line.
    fn hear(&mut self) -> Result<(), Failure> {
        let mut line = String::new();
        if self.output.read_line(&mut line)? == 0 {
            return Err(format!("writer {} ended early", self.child.id()).into());
        }
        print!("{:>8}  {line}", self.child.id());
        Ok(())
    }

    fn tell(&mut self) -> Result<(), Failure> {
        Ok(self
            .child
            .stdin
            .as_mut()
            .ok_or("no pipe")?
            .write_all(b"go\n")?)
    }

    fn signal(&self, signal: Signal) -> Result<(), Failure> {
        println!("{:>8}  gets {signal}", self.child.id());
        Ok(kill(Pid::from_raw(self.child.id().try_into()?), signal)?)
    }

    fn succeed(&mut self) -> Result<(), Failure> {
        match self.child.wait()?.success() {
            true => Ok(()),
            false => Err(format!("writer {} failed", self.child.id()).into()),
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // Fails only for a child that has ended, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn referee(database: Option<&Path>) -> Result<(), Failure> {
    let dir = tempfile::Builder::new()
        .prefix("caslock-fenced-")
        .tempdir_in("/dev/shm")?;
    let scratch = dir.path().join("entries.sqlite");
    let database = database.unwrap_or(&scratch);
    // A table lives as long as what it fences, or its tokens would start again below the
    // highest one that the database has seen.
    let table = database.with_extension("table");
    LockTable::options()
        .reclaim(Reclaim::OnExpiry { lease: LEASE })
        .open(&table)?;
    let stale_before = count(&open(database)?, "stale")?;
    watchdog();

    let mut first = Writer::start("--first", &table, database)?;
    first.hear()?;
    first.signal(Signal::SIGSTOP)?;
    let mut second = Writer::start("--second", &table, database)?;
    second.hear()?;
    first.signal(Signal::SIGCONT)?;
    first.tell()?;
    first.hear()?;
    first.hear()?;
    first.succeed()?;
    second.tell()?;
    second.hear()?;
    second.succeed()?;

    let connection = open(database)?;
    if count(&connection, "stale")? != stale_before {
        return Err("a stale row is in the database".into());
    }
    let unordered: i64 = connection.query_row(
        "SELECT COUNT(*) FROM entry a JOIN entry b ON a.id < b.id AND a.token > b.token",
        [],
        |row| row.get(0),
    )?;
    if unordered != 0 {
        return Err("rows are out of token order".into());
    }
    println!("\nevery row is in token order, and the stale one was refused");
    Ok(())
}

fn count(connection: &Connection, what: &str) -> Result<i64, Failure> {
    let sql = "SELECT COUNT(*) FROM entry WHERE what = ?1";
    Ok(connection.query_row(sql, [what], |row| row.get(0))?)
}

/// Ends a run that hangs; its writers then read the end of their input and end as well.
fn watchdog() {
    thread::spawn(|| {
        thread::sleep(2 * PATIENCE);
        eprintln!("fenced_sqlite: nothing happened for too long");
        process::exit(1);
    });
}
