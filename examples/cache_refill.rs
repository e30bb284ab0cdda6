//! Many processes miss the same cache entry; one refills it, the others wait and read.
//!
//! ```text
//! cargo run --example cache_refill                # in a temporary directory
//! cargo run --example cache_refill -- DIRECTORY   # with the cache kept in a directory
//! ```
//!
//! Without a lock every process that misses would ask the origin: the stampede that takes
//! databases down. Here each key has a lock, and whoever is granted it looks again before
//! it asks. In the second round the refilling process is killed with SIGKILL while the
//! origin is at work; the next owner is told that its predecessor died, and refills.
//!
//! The origin is a server on a Unix socket that counts its requests, so that the claim is
//! checked by the one who would suffer. Exits with 1 if it was asked once too often, or if
//! a reader got anything but what the origin had sent.

use std::error::Error;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use std::{env, fs, mem, process, thread};

use caslock::{LockTable, Previous};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const READERS: usize = 16;
const KEY: &str = "price-list";
/// What one answer costs the origin.
const QUERY: Duration = Duration::from_millis(200);
/// Nothing here takes anywhere near this long; past it the run has failed.
const PATIENCE: Duration = Duration::from_secs(60);

type Failure = Box<dyn Error>;

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let outcome = match args[..] {
        ["--reader", cache, socket] => reader(Path::new(cache), Path::new(socket)),
        [] => temporary_dir().and_then(|dir| rounds(dir.path())),
        [cache] => rounds(Path::new(cache)),
        _ => Err("usage: cache_refill [DIRECTORY]".into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("cache_refill: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn temporary_dir() -> Result<tempfile::TempDir, Failure> {
    Ok(tempfile::Builder::new()
        .prefix("caslock-cache-")
        .tempdir_in("/dev/shm")?)
}

fn entry_path(cache: &Path) -> PathBuf {
    cache.join(KEY)
}

// ---- the reader ----------------------------------------------------------------------

/// Gets the entry and prints how, and what it read.
fn reader(cache: &Path, socket: &Path) -> Result<(), Failure> {
    let table = LockTable::open(cache.join("cache.table"))?;
    let lock = table.lock(KEY)?;
    println!("ready");
    io::stdin().read_line(&mut String::new())?;

    if let Some(body) = cached(cache)? {
        println!("hit\t{body}");
        return Ok(());
    }
    let guard = lock.acquire_timeout(PATIENCE)?;
    // Whoever had the lock before has most likely refilled the entry.
    if let Some(body) = cached(cache)? {
        println!("waited\t{body}");
        return Ok(());
    }
    let body = ask_origin(socket)?;
    let draft = cache.join(format!("{KEY}.{}", process::id()));
    fs::write(&draft, &body)?;
    fs::rename(&draft, entry_path(cache))?;
    match guard.previous() {
        Previous::Died(who) => println!("refilled after {}\t{body}", who.pid),
        _ => println!("refilled\t{body}"),
    }
    Ok(guard.release()?)
}

fn cached(cache: &Path) -> io::Result<Option<String>> {
    match fs::read_to_string(entry_path(cache)) {
        Ok(body) => Ok(Some(body)),
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(other) => Err(other),
    }
}

fn ask_origin(socket: &Path) -> Result<String, Failure> {
    let mut origin = UnixStream::connect(socket)?;
    writeln!(origin, "{}", process::id())?;
    let mut body = String::new();
    origin.read_to_string(&mut body)?;
    match body.is_empty() {
        true => Err("the origin did not answer".into()),
        false => Ok(body),
    }
}

// ---- the origin ----------------------------------------------------------------------

/// One request that the origin got.
#[derive(Clone)]
struct Request {
    from: u32,
    /// What it was answered; nothing if it was killed while the origin was at work.
    answer: Option<String>,
}

/// The server that the cache protects.
struct Origin {
    requests: Mutex<Vec<Request>>,
    /// The next one who asks is killed before it gets its answer.
    kill_next: AtomicBool,
}

impl Origin {
    fn start(socket: &Path) -> Result<Arc<Self>, Failure> {
        let listener = UnixListener::bind(socket)?;
        let origin = Arc::new(Self {
            requests: Mutex::default(),
            kill_next: AtomicBool::new(false),
        });
        let server = Arc::clone(&origin);
        thread::spawn(move || {
            for stream in listener.incoming() {
                if let Err(failure) = stream.map_err(Into::into).and_then(|s| server.serve(s)) {
                    eprintln!("origin: {failure}");
                }
            }
        });
        Ok(origin)
    }

    fn serve(&self, mut stream: UnixStream) -> Result<(), Failure> {
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line)?;
        let from: u32 = line.trim().parse()?;
        thread::sleep(QUERY);
        let mut requests = self.requests.lock().map_err(|_| "a request panicked")?;
        if self.kill_next.swap(false, Ordering::Relaxed) {
            requests.push(Request { from, answer: None });
            return Ok(kill(Pid::from_raw(from.try_into()?), Signal::SIGKILL)?);
        }
        let body = format!("price list, revision {}", requests.len() + 1);
        requests.push(Request {
            from,
            answer: Some(body.clone()),
        });
        Ok(stream.write_all(body.as_bytes())?)
    }

    /// The requests since the last call.
    fn take(&self) -> Result<Vec<Request>, Failure> {
        Ok(mem::take(
            &mut *self.requests.lock().map_err(|_| "a request panicked")?,
        ))
    }
}

// ---- the rounds ----------------------------------------------------------------------

fn rounds(cache: &Path) -> Result<(), Failure> {
    watchdog();
    let sockets = temporary_dir()?;
    let socket = sockets.path().join("origin");
    let origin = Origin::start(&socket)?;

    println!("{READERS} processes miss the entry:");
    let (told, asked) = round(cache, &socket, &origin)?;
    expect(asked.len() == 1, "the origin was asked more than once")?;
    let body = asked[0]
        .answer
        .as_deref()
        .ok_or("the origin did not answer")?;
    expect(told.len() == READERS, "a reader went without")?;
    expect(
        told.iter().all(|(_, read)| read == body),
        "a reader read something else",
    )?;
    expect(
        told.iter().filter(|(how, _)| how == "refilled").count() == 1,
        "not one refill",
    )?;

    println!("\nagain, and the one that refills is killed in the middle:");
    origin.kill_next.store(true, Ordering::Relaxed);
    let (told, asked) = round(cache, &socket, &origin)?;
    expect(asked.len() == 2, "the origin was not asked exactly twice")?;
    let dead = asked[0].from;
    println!("{dead:>8}  KILLED while the origin was at work for it");
    let body = asked[1]
        .answer
        .as_deref()
        .ok_or("the origin did not answer")?;
    expect(told.len() == READERS - 1, "a reader went without")?;
    expect(
        told.iter().all(|(_, read)| read == body),
        "a reader read something else",
    )?;
    let heir = format!("refilled after {dead}");
    expect(
        told.iter().filter(|(how, _)| *how == heir).count() == 1,
        "the heir was not told",
    )?;

    println!("\nthe origin was asked once, and once more after the kill");
    Ok(())
}

fn expect(holds: bool, complaint: &str) -> Result<(), Failure> {
    if holds { Ok(()) } else { Err(complaint.into()) }
}

/// A reader process; killed and reaped if it still runs when dropped.
struct Reader(Child);

impl Drop for Reader {
    fn drop(&mut self) {
        // Fails only for a child that has ended, which is what is wanted.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

type Told = (String, String);

/// Empties the cache, lets all readers loose on it at once, and returns what each one that
/// lived told (how it came by the entry, and what it read) and what the origin was asked.
fn round(
    cache: &Path,
    socket: &Path,
    origin: &Origin,
) -> Result<(Vec<Told>, Vec<Request>), Failure> {
    if let Err(failure) = fs::remove_file(entry_path(cache))
        && failure.kind() != io::ErrorKind::NotFound
    {
        return Err(failure.into());
    }
    let mut readers = Vec::new();
    for _ in 0..READERS {
        let mut child = Command::new(env::current_exe()?)
            .arg("--reader")
            .args([cache, socket])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = BufReader::new(child.stdout.take().ok_or("no pipe")?);
        readers.push((Reader(child), output.lines()));
    }
    for (_, lines) in &mut readers {
        expect(
            lines.next().transpose()?.as_deref() == Some("ready"),
            "a reader failed early",
        )?;
    }
    for (reader, _) in &mut readers {
        reader
            .0
            .stdin
            .as_mut()
            .ok_or("no pipe")?
            .write_all(b"go\n")?;
    }
    let mut told = Vec::new();
    for (reader, lines) in &mut readers {
        // A killed reader says nothing more.
        if let Some(line) = lines.next().transpose()? {
            let (how, body) = line.split_once('\t').ok_or("a reader mumbled")?;
            println!("{:>8}  {how}", reader.0.id());
            told.push((how.to_owned(), body.to_owned()));
        }
    }
    for (reader, _) in &mut readers {
        let status = reader.0.wait()?;
        expect(
            status.success() || status.signal() == Some(9),
            "a reader failed",
        )?;
    }
    Ok((told, origin.take()?))
}

/// Ends a run that hangs; its readers then read the end of their input and end as well.
fn watchdog() {
    thread::spawn(|| {
        thread::sleep(2 * PATIENCE);
        eprintln!("cache_refill: nothing happened for too long");
        process::exit(1);
    });
}
