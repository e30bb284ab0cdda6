//! Worker processes share a list of work under one lock an item, and one of them is killed
//! in the middle.
//!
//! ```text
//! cargo run --example workers                 # on texts that it writes itself
//! cargo run --example workers -- DIRECTORY    # on the files of a directory
//! ```
//!
//! An item is a file, the work is to count its words. A worker takes the item's lock, looks
//! whether the result is there, and if not counts and publishes it with `link(2)`, which
//! fails when there is one already: work done twice cannot go unnoticed. One worker gets
//! SIGKILL between counting and publishing; the next owner of that lock is told of it and
//! does the item again. At the end every file is counted once more and compared; the exit
//! code is 1 if anything was lost, done twice or wrong.

use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc::{self, Sender};
use std::time::Duration;
use std::{env, fs, io, process, thread};

use caslock::{AcquireError, Guard, LockTable, Reclaim};

/// How many workers there are besides the one that gets killed.
const WORKERS: usize = 3;
/// Nothing here takes anywhere near this long; past it the run has failed.
const PATIENCE: Duration = Duration::from_secs(60);

type Failure = Box<dyn Error>;

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let outcome = match args[..] {
        ["--worker", texts, scratch] => Worker::new(texts, scratch, false).run(),
        ["--victim", texts, scratch] => Worker::new(texts, scratch, true).run(),
        [] => write_texts().and_then(|texts| supervise(texts.path())),
        [texts] => supervise(Path::new(texts)),
        _ => Err("usage: workers [DIRECTORY]".into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("workers: {failure}");
            ExitCode::FAILURE
        }
    }
}

// ---- the worker ----------------------------------------------------------------------

/// One worker process.
struct Worker {
    texts: PathBuf,
    scratch: PathBuf,
    /// It stops before it publishes its second item, and waits there to be killed.
    doomed: bool,
    published: usize,
}

impl Worker {
    fn new(texts: &str, scratch: &str, doomed: bool) -> Self {
        Self {
            texts: texts.into(),
            scratch: scratch.into(),
            doomed,
            published: 0,
        }
    }

    fn run(mut self) -> Result<(), Failure> {
        let table = LockTable::options().open_existing(table_path(&self.scratch))?;
        let items = list(&self.texts)?;
        let mut busy = Vec::new();
        for item in &items {
            let lock = table.lock(item)?;
            match lock.try_acquire() {
                Ok(guard) => self.process(item, guard, items.len())?,
                Err(AcquireError::Busy { .. }) => busy.push(lock.clone()),
                Err(other) => return Err(other.into()),
            }
        }
        // What others were at: done by the time they release it, or left by one that died.
        for lock in busy {
            let guard = lock.acquire_timeout(PATIENCE)?;
            self.process(lock.name(), guard, items.len())?;
        }
        Ok(())
    }

    /// Does the item that the guard protects, unless it has been done.
    fn process(&mut self, item: &str, guard: Guard<'_>, items: usize) -> Result<(), Failure> {
        let result = result_path(&self.scratch, item);
        if !result.exists() {
            let counted = count_words(&self.texts.join(item))?;
            if self.doomed && (self.published > 0 || items == 1) {
                report("stuck", item, &guard);
                return wait_to_be_killed();
            }
            let draft = self.scratch.join(format!("draft-{}", process::id()));
            fs::write(&draft, counted)?;
            fs::hard_link(&draft, &result).map_err(|e| format!("{item}: done twice? {e}"))?;
            fs::remove_file(&draft)?;
            self.published += 1;
            report("done", item, &guard);
        }
        Ok(guard.release()?)
    }
}

/// Tells the supervisor, which reads this process's standard output.
fn report(what: &str, item: &str, guard: &Guard<'_>) {
    let (token, previous) = (guard.token(), guard.previous());
    let from = previous.departed().map_or(0, |who| who.pid);
    println!(
        "{what}\t{}\t{token}\t{}\t{from}\t{item}",
        process::id(),
        previous.as_str()
    );
}

/// Returns only if the supervisor is gone, so that a doomed worker cannot be left over.
fn wait_to_be_killed() -> Result<(), Failure> {
    io::stdin().read_to_end(&mut Vec::new())?;
    Err("the supervisor is gone".into())
}

fn count_words(file: &Path) -> io::Result<String> {
    let text = fs::read(file)?;
    let mut seen: HashMap<&[u8], usize> = HashMap::new();
    for word in text
        .split(u8::is_ascii_whitespace)
        .filter(|word| !word.is_empty())
    {
        *seen.entry(word).or_default() += 1;
    }
    Ok(format!(
        "{} words, {} distinct\n",
        seen.values().sum::<usize>(),
        seen.len()
    ))
}

// ---- the supervisor ------------------------------------------------------------------

/// What a worker reported.
struct Event {
    what: String,
    pid: u32,
    token: u64,
    previous: String,
    /// The dead predecessor's PID, or 0.
    from: u32,
    item: String,
}

impl Event {
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.splitn(6, '\t');
        Some(Self {
            what: fields.next()?.to_owned(),
            pid: fields.next()?.parse().ok()?,
            token: fields.next()?.parse().ok()?,
            previous: fields.next()?.to_owned(),
            from: fields.next()?.parse().ok()?,
            item: fields.next()?.to_owned(),
        })
    }
}

/// The worker processes; whichever still runs when this is dropped is killed and reaped.
struct Crew(Vec<Child>);

impl Crew {
    fn start(
        &mut self,
        role: &str,
        texts: &Path,
        scratch: &Path,
        events: &Sender<Event>,
    ) -> Result<(), Failure> {
        let mut child = Command::new(env::current_exe()?)
            .arg(role)
            .args([texts, scratch])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = BufReader::new(child.stdout.take().ok_or("no pipe")?);
        let events = events.clone();
        thread::spawn(move || {
            for event in output
                .lines()
                .map_while(Result::ok)
                .filter_map(|l| Event::parse(&l))
            {
                // The supervisor may have given up; the worker need not know.
                let _ = events.send(event);
            }
        });
        self.0.push(child);
        Ok(())
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // Fails only for a child that has ended, which is what is wanted.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn supervise(texts: &Path) -> Result<(), Failure> {
    let items = list(texts)?;
    let scratch = tempfile::Builder::new()
        .prefix("caslock-workers-")
        .tempdir_in("/dev/shm")?;
    fs::create_dir(scratch.path().join("results"))?;
    // A slow worker is to keep its item: only death takes a lock away here.
    LockTable::options()
        .reclaim(Reclaim::OnDeath)
        .create(table_path(scratch.path()))?;

    let (events, inbox) = mpsc::channel();
    let mut crew = Crew(Vec::new());
    let mut done = Vec::new();
    crew.start("--victim", texts, scratch.path(), &events)?;
    let stuck = loop {
        let event = inbox.recv_timeout(PATIENCE)?;
        if event.what == "stuck" {
            break event;
        }
        show(&event);
        done.push(event);
    };
    for _ in 0..WORKERS {
        crew.start("--worker", texts, scratch.path(), &events)?;
    }
    let mut killed = false;
    while done.len() < items.len() {
        if !killed && done.len() >= items.len() / 2 {
            crew.0[0].kill()?;
            killed = true;
            println!(
                "{:>8}  KILLED holding {} (token {})",
                stuck.pid, stuck.item, stuck.token
            );
        }
        let event = inbox.recv_timeout(PATIENCE)?;
        show(&event);
        done.push(event);
    }
    for worker in &mut crew.0[1..] {
        if !worker.wait()?.success() {
            return Err(format!("worker {} failed", worker.id()).into());
        }
    }
    verify(texts, scratch.path(), &items, &done, &stuck)
}

fn show(event: &Event) {
    let Event {
        pid,
        token,
        item,
        from,
        ..
    } = event;
    match event.previous.as_str() {
        "none" | "released" => println!("{pid:>8}  {item} (token {token})"),
        how => println!("{pid:>8}  {item} (token {token}), taken over: {from} {how}"),
    }
}

/// Holds the run against what was promised.
fn verify(
    texts: &Path,
    scratch: &Path,
    items: &[String],
    done: &[Event],
    stuck: &Event,
) -> Result<(), Failure> {
    for item in items {
        let times = done.iter().filter(|event| event.item == *item).count();
        if times != 1 {
            return Err(format!("{item} was done {times} times").into());
        }
        if fs::read_to_string(result_path(scratch, item))? != count_words(&texts.join(item))? {
            return Err(format!("{item}: the result is wrong").into());
        }
    }
    let heir = done
        .iter()
        .find(|event| event.item == stuck.item)
        .ok_or("an item was lost")?;
    if heir.previous != "died" || heir.from != stuck.pid {
        return Err(format!("{} was not told that {} died", heir.pid, stuck.pid).into());
    }
    if heir.token <= stuck.token {
        return Err(format!("token {} came after {}", heir.token, stuck.token).into());
    }
    let mut shares: BTreeMap<u32, usize> = BTreeMap::new();
    for event in done {
        *shares.entry(event.pid).or_default() += 1;
    }
    println!("\n{} items, each done once, none lost:", items.len());
    for (pid, share) in shares {
        let fate = if pid == stuck.pid {
            ", then killed"
        } else {
            ""
        };
        println!("{pid:>8}  did {share}{fate}");
    }
    println!(
        "{} was finished by {}, which was told that {} died holding it",
        stuck.item, heir.pid, stuck.pid
    );
    Ok(())
}

// ---- files ---------------------------------------------------------------------------

fn table_path(scratch: &Path) -> PathBuf {
    scratch.join("work.table")
}

fn result_path(scratch: &Path, item: &str) -> PathBuf {
    scratch.join("results").join(item)
}

/// The names of the directory's regular files, in order: those that can be lock names.
fn list(texts: &Path) -> Result<Vec<String>, Failure> {
    let mut items = Vec::new();
    for entry in fs::read_dir(texts).map_err(|e| format!("{}: {e}", texts.display()))? {
        let entry = entry?;
        if entry.file_type()?.is_file()
            && let Ok(name) = entry.file_name().into_string()
        {
            items.push(name);
        }
    }
    if items.is_empty() {
        return Err(format!("{}: no files in it", texts.display()).into());
    }
    items.sort();
    Ok(items)
}

/// Two dozen texts of half a megabyte, the same in every run.
fn write_texts() -> Result<tempfile::TempDir, Failure> {
    const WORDS: [&str; 8] = [
        "lock", "table", "owner", "token", "lease", "slot", "wake", "beat",
    ];
    let dir = tempfile::Builder::new()
        .prefix("caslock-texts-")
        .tempdir_in("/dev/shm")?;
    let mut state: u64 = 1;
    for number in 1..=24 {
        let mut text = String::with_capacity(512 << 10);
        while text.len() < (512 << 10) - 32 {
            // Knuth's MMIX generator; its high bits are the good ones.
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            text.push_str(WORDS[(state >> 61) as usize]);
            text.push_str(&(state >> 52 & 0xff).to_string());
            text.push(if state >> 40 & 0xf == 0 { '\n' } else { ' ' });
        }
        fs::write(dir.path().join(format!("text-{number:02}")), text)?;
    }
    Ok(dir)
}
