//! What a name costs: finding one in a table that is 90 % full, creating one, and opening
//! such a table.
//!
//! ```text
//! cargo run --release -p caslock-bench --bin resolve [-- [--csv] [SLOTS]]
//! ```
//!
//! Finding is the whole public call, `table.lock(name)`, with the handle dropped again. It
//! is shown for a set of names in use, where all is in the caches, and for names drawn from
//! the whole table, where each has to come from memory. Names are read in a row from one
//! buffer, so that theirs are not among the cache misses. Every creation is timed on its own,
//! with what reading the clock costs.

use std::env;
use std::error::Error;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use caslock::LockTable;
use caslock_bench::draw::Draws;
use caslock_bench::memory_dir;
use caslock_bench::stats::{Sample, as_nanoseconds, machine, nanoseconds};

const SLOTS: u32 = 1 << 20;
/// How many names are in use in the warm case.
const IN_USE: usize = 1000;
/// How many resolutions share one reading of the clock.
const BATCH: usize = 100;
const BATCHES: usize = 3000;
const OPENS: usize = 30;

type Failure = Box<dyn Error>;

fn main() -> Result<(), Failure> {
    let mut csv = false;
    let mut slots = SLOTS;
    let args: Vec<String> = env::args().skip(1).collect();
    if let [flag, path] = &args[..]
        && flag == "--open"
    {
        return open_once(Path::new(path));
    }
    for arg in args {
        match arg.as_str() {
            "--csv" => csv = true,
            number => slots = number.parse()?,
        }
    }
    if slots < 10 * IN_USE as u32 {
        return Err("a table of 10,000 slots at least".into());
    }
    measure(slots, csv)
}

/// Prints how many nanoseconds the open took.
fn open_once(path: &Path) -> Result<(), Failure> {
    let start = Instant::now();
    let _table = LockTable::options().open_existing(path)?;
    println!("{}", start.elapsed().as_nanos());
    Ok(())
}

fn measure(slots: u32, csv: bool) -> Result<(), Failure> {
    let dir = memory_dir()?;
    let path = dir.path().join("app.table");
    let table = LockTable::options().slots(slots).open(&path)?;
    let full = (f64::from(slots) * 0.9) as usize;
    let mut rows = Vec::new();

    let created = create(&table, 0..full)?;
    rows.push(("create, the first tenth", created[..full / 10].to_vec()));
    rows.push((
        "create, the last tenth",
        created[full - full / 10..].to_vec(),
    ));
    let mut draws = Draws::new(1);
    let warm: Vec<usize> = (0..BATCH * BATCHES)
        .map(|_| draws.below(IN_USE) * (full / IN_USE))
        .collect();
    let cold: Vec<usize> = (0..BATCH * BATCHES).map(|_| draws.below(full)).collect();
    for (case, drawn) in [("find, 1000 names in use", warm), ("find, any name", cold)] {
        rows.push((case, find(&table, &drawn)?));
    }
    rows.push(("open in a new process", open(&path)?));
    // Fill it up; from then on each new name takes the slot of an idle one.
    create(&table, full..slots as usize)?;
    let more = slots as usize..slots as usize + slots as usize / 20;
    rows.push(("create in a full table", create(&table, more)?));

    if !csv {
        println!("{}; {slots} slots, {full} names\n", machine());
        println!("{:<26} {:>9}  {:>9}  {:>9}", "", "median", "10%", "90%");
    }
    for (case, values) in rows {
        let sample = Sample::new(values);
        let [median, low, high] = [0.5, 0.1, 0.9].map(|share| sample.quantile(share));
        if csv {
            println!("resolve,{slots},\"{case}\",{median:.1},{low:.1},{high:.1}");
        } else {
            let [median, low, high] = [median, low, high].map(nanoseconds);
            println!("{case:<26} {median:>9}  {low:>9}  {high:>9}");
        }
    }
    Ok(())
}

/// Names of 10 to 40 bytes.
fn name(number: usize) -> String {
    const PREFIXES: [&str; 4] = [
        "a/",
        "report/eu/",
        "queue/emails/shard/",
        "tenant/4711/invoices/export/pdf/",
    ];
    format!("{}{number:08}", PREFIXES[number % PREFIXES.len()])
}

/// Creates these names, and says how long each took.
fn create(table: &LockTable, numbers: std::ops::Range<usize>) -> Result<Vec<f64>, Failure> {
    numbers
        .map(|number| {
            let name = name(number);
            let start = Instant::now();
            drop(table.lock(name)?);
            Ok(as_nanoseconds(start.elapsed()))
        })
        .collect()
}

/// Resolves these names twice, and says how long each took in the second pass, by batches.
fn find(table: &LockTable, numbers: &[usize]) -> Result<Vec<f64>, Failure> {
    let mut buffer = String::new();
    let ends: Vec<usize> = numbers
        .iter()
        .map(|&number| {
            buffer.push_str(&name(number));
            buffer.len()
        })
        .collect();
    let mut took = Vec::new();
    for _pass in 0..2 {
        took.clear();
        let mut begin = 0;
        for batch in ends.chunks(BATCH) {
            let start = Instant::now();
            for &end in batch {
                drop(table.lock(&buffer[begin..end])?);
                begin = end;
            }
            took.push(as_nanoseconds(start.elapsed()) / batch.len() as f64);
        }
    }
    Ok(took)
}

/// Opens the table in new processes, since a second open in one shares the first's session.
fn open(path: &Path) -> Result<Vec<f64>, Failure> {
    (0..OPENS)
        .map(|_| {
            let output = Command::new(env::current_exe()?)
                .arg("--open")
                .arg(path)
                .output()?;
            let text = String::from_utf8(output.stdout)?;
            Ok(text
                .trim()
                .parse()
                .map_err(|_| "opening the table failed")?)
        })
        .collect()
}
