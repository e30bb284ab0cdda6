//! Taking and giving back a lock that nobody else wants, beside the peers.
//!
//! Criterion measures one after the other, so on a noisy machine compare by the `pairs`
//! binary, which takes turns; this one is for seeing a change against the last run.

use std::path::Path;

use caslock::LockTable;
use caslock_bench::memory_dir;
use caslock_bench::peers::{Name, Peer, Visitor};
use criterion::{BenchmarkGroup, Criterion, measurement::WallTime};

/// Redis is left out: what it takes is a round trip, thousands of times the others.
fn peers() -> impl Iterator<Item = Name> {
    let all = Name::ALL.iter().copied();
    all.filter(|peer| *peer != Name::Redis)
}

struct Pair<'a, 'b> {
    group: &'a mut BenchmarkGroup<'b, WallTime>,
    name: Name,
    dir: &'a Path,
}

impl Visitor for Pair<'_, '_> {
    type Output = ();

    fn visit<P: Peer>(self) {
        let peer = P::create(self.dir).expect("the peer's files");
        self.group
            .bench_function(self.name.label(), |b| b.iter(|| drop(peer.take())));
    }
}

fn uncontended(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("uncontended");
    for name in peers() {
        let dir = memory_dir().expect("a directory in memory");
        name.dispatch(Pair {
            group: &mut group,
            name,
            dir: dir.path(),
        });
    }
    group.finish();
}

fn resolve(criterion: &mut Criterion) {
    let dir = memory_dir().expect("a directory in memory");
    let table = LockTable::open(dir.path().join("app.table")).expect("a lock table");
    criterion.bench_function("resolve a name", |b| {
        b.iter(|| table.lock("nightly-report").expect("a lock"));
    });
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    uncontended(&mut criterion);
    resolve(&mut criterion);
    criterion.final_summary();
}
