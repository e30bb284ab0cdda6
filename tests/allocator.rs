//! Beside an allocator that holds its locks across a fork, as jemalloc does: whoever forks takes
//! them, and the library's own, and another thread takes them the other way round.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use caslock::LockTable;
use common::{Boss, Child, Scratch, dispatch, on_death, sys, watchdog};

/// The C library's mutex, which is what may be locked across a fork.
struct Mutex(UnsafeCell<libc::pthread_mutex_t>);

// SAFETY: it is made for that.
unsafe impl Sync for Mutex {}

static HEAP: Mutex = Mutex(UnsafeCell::new(libc::PTHREAD_MUTEX_INITIALIZER));

unsafe extern "C" {
    fn pthread_atfork(
        prepare: Option<extern "C" fn()>,
        parent: Option<extern "C" fn()>,
        child: Option<extern "C" fn()>,
    ) -> libc::c_int;
}

extern "C" fn lock() {
    // SAFETY: initialised, and never moved.
    unsafe { libc::pthread_mutex_lock(HEAP.0.get()) };
}

extern "C" fn unlock() {
    // SAFETY: as above; locked by this thread, or by the one that this child is a copy of.
    unsafe { libc::pthread_mutex_unlock(HEAP.0.get()) };
}

/// The system's, with one lock for all.
struct Locked;

impl Locked {
    fn with<T>(work: impl FnOnce() -> T) -> T {
        // As the first allocation does that there is.
        static BEGUN: Once = Once::new();
        BEGUN.call_once(|| {
            // SAFETY: functions that are always there.
            unsafe { pthread_atfork(Some(lock), Some(unlock), Some(unlock)) };
        });
        lock();
        let outcome = work();
        unlock();
        outcome
    }
}

// SAFETY: all of it is the system's.
unsafe impl GlobalAlloc for Locked {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        Self::with(|| unsafe { System.alloc(layout) })
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        Self::with(|| unsafe { System.dealloc(memory, layout) });
    }
}

#[global_allocator]
static ALLOCATOR: Locked = Locked;

#[test]
fn child_role() {
    dispatch(&[("forker", forker)]);
}

/// Opens a table again and again while another thread forks.
fn forker(boss: &mut Boss) {
    let path = boss.hear();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let Some(child) = sys::fork() else {
                    sys::leave(0);
                };
                let child = nix::unistd::Pid::from_raw(child.cast_signed());
                nix::sys::wait::waitpid(child, None).expect("our child");
            }
        });
        for _ in 0..500 {
            drop(LockTable::open(&path).expect("the table opens"));
        }
        done.store(true, Ordering::Relaxed);
    });
    boss.say("all opened");
    boss.hear();
}

#[test]
fn a_table_is_opened_beside_forks_that_hold_the_allocators_locks() {
    let _watchdog = watchdog("a_table_is_opened_beside_forks_that_hold_the_allocators_locks");
    let scratch = Scratch::with(on_death());
    let mut forker = Child::start("forker");
    forker.say(scratch.table().display());
    assert_eq!(forker.hear(), "all opened");
    forker.say("done");
}
