//! Taking and giving back a lock that nobody else wants, beside the peers.
//!
//! Criterion measures one after the other, so on a noisy machine compare by the `pairs`
//! binary, which takes turns; this one is for seeing a change against the last run.

use std::hint::black_box;
use std::io;

use caslock::LockTable;
use caslock_bench::memory_dir;
use caslock_bench::peers::{BareCas, Flock, Kind, PthreadMutex};
use criterion::Criterion;

fn uncontended(criterion: &mut Criterion) {
    let dir = memory_dir().expect("a directory in memory");
    let at = |name: &str| dir.path().join(name);
    let mutex = |name: &str, kind| PthreadMutex::create(&at(name), kind);
    let peers = || -> io::Result<_> {
        Ok((
            BareCas::open(&at("bare"))?,
            mutex("plain", Kind::Plain)?,
            mutex("robust", Kind::Robust)?,
            Flock::open(&at("flock"))?,
        ))
    };
    let (bare, plain, robust, flock) = peers().expect("the peers' files");
    let table = LockTable::open(at("app.table")).expect("a lock table");
    let lock = table.lock("uncontended").expect("a lock");

    let mut group = criterion.benchmark_group("uncontended");
    group.bench_function("bare CAS pair", |b| b.iter(|| bare.pair()));
    group.bench_function("caslock", |b| {
        b.iter(|| drop(lock.acquire().expect("granted")))
    });
    group.bench_function("pthread mutex", |b| {
        b.iter(|| {
            black_box(plain.lock());
            plain.unlock();
        });
    });
    group.bench_function("pthread robust mutex", |b| {
        b.iter(|| {
            black_box(robust.lock());
            robust.unlock();
        });
    });
    group.bench_function("flock", |b| {
        b.iter(|| {
            flock.lock();
            flock.unlock();
        });
    });
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    uncontended(&mut criterion);
    criterion.final_summary();
}
