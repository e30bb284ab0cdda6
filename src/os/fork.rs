//! What a fork does to an open table, and how a child finds out.
//!
//! A forked child inherits descriptors and private memory, but it is not the session:
//! it must neither use its parent's grants nor keep the parent's byte lock.
//!
//! - [`Gate`]: words that read 0 in a child, so that the check costs one load.
//! - [`hold_forks`]: no fork of this process falls in between.

use std::cell::UnsafeCell;
use std::hint;
use std::io;
use std::marker::PhantomData;
use std::ops::Deref;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::AtomicI32;

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

use crate::sync::{AtomicU32, AtomicU64, Ordering};

// The C library has it on every Linux target; the libc crate does not declare it there.
unsafe extern "C" {
    fn pthread_atfork(
        prepare: Option<unsafe extern "C" fn()>,
        parent: Option<unsafe extern "C" fn()>,
        child: Option<unsafe extern "C" fn()>,
    ) -> libc::c_int;
}

/// Words in private memory that read 0 in every forked child.
///
/// Whoever asks before each grant whether it may go on gets by the same load what it goes on
/// with: the pass, its session's identity.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Gate {
    state: AtomicU32,
    pass: AtomicU64,
}

impl Gate {
    /// This process was forked from the one that made the gate.
    pub(crate) const WIPED: u32 = 0;
    /// Go ahead.
    pub(crate) const OPEN: u32 = 1;
    /// The table was replaced: no further grants.
    pub(crate) const CLOSED: u32 = 2;

    /// [`Gate::OPEN`], [`Gate::CLOSED`] or [`Gate::WIPED`].
    #[inline]
    pub(crate) fn state(&self) -> u32 {
        // Relaxed: it orders nothing. A fork orders the child after its parent, and a gate
        // that is seen closed a moment late is like a table replaced a moment later.
        self.state.load(Ordering::Relaxed)
    }

    /// Whether this process is a child of the one that made the gate.
    #[inline]
    pub(crate) fn is_wiped(&self) -> bool {
        self.state() == Self::WIPED
    }

    /// Hands out `pass`, which is not 0, for as long as the gate is open: once, by whoever has
    /// made it, before anybody else knows it.
    pub(crate) fn issue(&self, pass: u64) {
        debug_assert!(self.state() == Self::OPEN && pass != 0);
        // Relaxed, here and below: as in `state`.
        self.pass.store(pass, Ordering::Relaxed);
    }

    /// What was issued; nothing in a child, or once the gate is closed.
    #[inline]
    pub(crate) fn pass(&self) -> Option<u64> {
        match self.pass.load(Ordering::Relaxed) {
            0 => None,
            pass => Some(pass),
        }
    }

    /// Closes it, for good. In a child it stays [`Gate::WIPED`].
    pub(crate) fn close(&self) {
        // Relaxed: as in `state`. Compared, so that a child's gate does not lose its news.
        let (from, to, order) = (Self::OPEN, Self::CLOSED, Ordering::Relaxed);
        // A failure means closed or forked already.
        let _ = self.state.compare_exchange(from, to, order, order);
        self.pass.store(0, Ordering::Relaxed);
    }

    fn wipe(&self) {
        self.state.store(Self::WIPED, Ordering::Relaxed);
        self.pass.store(0, Ordering::Relaxed);
    }
}

/// A share in a gate, which lies alone in a page that the kernel wipes on fork
/// (`MADV_WIPEONFORK`, Linux 4.14), whichever way the child was forked. Where the kernel
/// cannot do that, an atfork handler wipes it; a child made by a bare `clone` is not seen
/// there.
#[derive(Clone, Debug)]
pub(crate) struct GatePage {
    // The page's, to be reached without a look at it.
    gate: GateAt,
    page: Arc<Page>,
}

/// Where a gate is, to be looked at while its page is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct GateAt(NonNull<Gate>);

// SAFETY: it leads to atomics, and whoever follows it sees to it that they are there.
unsafe impl Send for GateAt {}
// SAFETY: as above.
unsafe impl Sync for GateAt {}

#[derive(Debug)]
struct Page {
    gate: GateAt,
    wiped_by: WipedBy,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WipedBy {
    Kernel,
    Handler,
}

impl Page {
    /// The smallest mapping there is; the kernel rounds up where pages are larger.
    const BYTES: usize = 4096;
}

impl GatePage {
    /// Makes an open gate.
    ///
    /// # Errors
    ///
    /// When there is no memory, or neither the kernel nor the C library can see to forks.
    pub(crate) fn new() -> io::Result<Self> {
        Self::wiped_by(WipedBy::Kernel).or_else(|_| Self::wiped_by(WipedBy::Handler))
    }

    fn wiped_by(wiped_by: WipedBy) -> io::Result<Self> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY:
        // - a new mapping at an address of the kernel's choice disturbs nothing.
        let page =
            unsafe { mmap_anonymous(ptr::null_mut(), Page::BYTES, protection, MapFlags::PRIVATE)? };
        // Zero pages come zeroed: forked, until it is opened below.
        let gate = GateAt(NonNull::new(page.cast()).ok_or(io::ErrorKind::OutOfMemory)?);
        let watched = match wiped_by {
            // SAFETY:
            // - the range is the mapping made above; wiping it in children touches nothing
            //   that anybody refers to there but through a gate.
            WipedBy::Kernel => unsafe {
                madvise(page, Page::BYTES, Advice::LinuxWipeOnFork).map_err(io::Error::from)
            },
            WipedBy::Handler => {
                handlers_installed().map(|()| GATES.change(|gates| gates.push(gate)))
            }
        };
        if let Err(error) = watched {
            // SAFETY:
            // - the mapping made above, which nobody knows yet.
            let _ = unsafe { munmap(page, Page::BYTES) };
            return Err(error);
        }
        let page = Arc::new(Page { gate, wiped_by });
        let share = Self { gate, page };
        share.state.store(Gate::OPEN, Ordering::Relaxed);
        Ok(share)
    }
}

impl Deref for GatePage {
    type Target = Gate;

    #[inline]
    fn deref(&self) -> &Gate {
        debug_assert_eq!(self.gate, self.page.gate);
        // SAFETY:
        // - aligned and in bounds: the gate is the first thing in a page;
        // - mapped: the last share unmaps it; in a child the page is there, too, and zero.
        unsafe { self.gate.0.as_ref() }
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY:
        // - as in `deref`: this is what unmaps it, below.
        let is_wiped = unsafe { self.gate.0.as_ref() }.is_wiped();
        // A child leaves everything of its parent's as it found it: one page is a small
        // price for never asking what is at an address.
        if is_wiped {
            return;
        }
        if self.wiped_by == WipedBy::Handler {
            GATES.change(|gates| gates.retain(|&gate| gate != self.gate));
        }
        // SAFETY:
        // - the range is the gate's own page, which only its shares could refer to.
        let _ = unsafe { munmap(self.gate.0.as_ptr().cast(), Self::BYTES) };
    }
}

/// While it lives, every `fork` of this process waits: dropped, they go on.
///
/// A child that was born between the open and the close of a session's descriptor would
/// inherit the open file description, and with it keep the byte lock of its parent after
/// the parent's death: held too long, until the child ends. (`posix_spawn` and `vfork`
/// do not wait; such a child execs at once, which closes the descriptor. Nor does a bare
/// `clone`.)
///
/// To be held for a few system calls only; or, once after a reboot, for a reset: milliseconds, or
/// a second for a million slots; or to fill the holes of a table from a backup, as long as that
/// takes; or, where all of a table's sessions have been used, until the
/// dead ones' are collected: the same, and up to a second of waiting for who does so just then.
/// A fork by the thread that holds it would wait for itself.
pub(crate) struct ForkHold {
    _held: Held,
}

/// Makes forks of this process wait, and other holders, too.
pub(crate) fn hold_forks() -> ForkHold {
    // Where the C library had no memory for the handlers, a fork may fall in between.
    ForkHold {
        _held: FORKS.hold(),
    }
}

/// Locked from before each fork until after it, and by whoever holds forks off.
static FORKS: AtforkMutex = AtforkMutex::new();

/// The gates that the child handler wipes. Locked after [`FORKS`] by whoever locks both.
static GATES: Gates = Gates {
    mutex: AtforkMutex::new(),
    gates: UnsafeCell::new(Vec::new()),
};

/// A mutex that may be locked before a fork and unlocked on both sides of it, whatever
/// other threads were doing with it meanwhile: what `pthread_atfork(3)` is for, and
/// promised for a `pthread_mutex_t` alone.
struct AtforkMutex(UnsafeCell<libc::pthread_mutex_t>);

// SAFETY: the C library's mutex is made for it.
unsafe impl Sync for AtforkMutex {}

impl AtforkMutex {
    const fn new() -> Self {
        Self(UnsafeCell::new(libc::PTHREAD_MUTEX_INITIALIZER))
    }

    fn hold(&'static self) -> Held {
        self.lock();
        Held {
            mutex: self,
            _thread_bound: PhantomData,
        }
    }

    fn lock(&'static self) {
        // SAFETY:
        // - initialised, never destroyed, never moved: it is in a static.
        let error = unsafe { libc::pthread_mutex_lock(self.0.get()) };
        // A plain mutex can neither overflow nor detect anything.
        debug_assert_eq!(error, 0);
    }

    fn unlock(&'static self) {
        // SAFETY:
        // - as in `lock`, and locked by this thread, or by the one that this child is a
        //   copy of.
        let error = unsafe { libc::pthread_mutex_unlock(self.0.get()) };
        debug_assert_eq!(error, 0);
    }
}

struct Held {
    mutex: &'static AtforkMutex,
    /// A mutex is unlocked by the thread that locked it.
    _thread_bound: PhantomData<*const ()>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.mutex.unlock();
    }
}

struct Gates {
    mutex: AtforkMutex,
    /// Touched only with the mutex locked.
    gates: UnsafeCell<Vec<GateAt>>,
}

// SAFETY: the mutex guards the list.
unsafe impl Sync for Gates {}

impl Gates {
    fn change(&'static self, change: impl FnOnce(&mut Vec<GateAt>)) {
        let _held = self.mutex.hold();
        // SAFETY:
        // - the mutex is locked, so this is the only reference.
        change(unsafe { &mut *self.gates.get() });
    }
}

/// What the C library answered to the handlers; at first, that it has not been asked.
static INSTALLED: AtomicI32 = AtomicI32::new(libc::EAGAIN);

/// Installs the handlers when the library is loaded, and so for its children, too.
///
/// When a table is first opened would be too late. A fork by another thread that has begun by
/// then runs none of them, and may fall amid that opening: its child would wait for ever for
/// what the one thread that it does not have was about to finish.
#[used]
#[unsafe(link_section = ".init_array")]
static AT_LOAD: extern "C" fn() = {
    extern "C" fn install() {
        // An allocator that holds its locks across forks has its handlers installed by now, at
        // the latest by this. Those installed last run first: a fork is to wait for `FORKS`, whose
        // holder may want memory, before it has the allocator's locks.
        drop(hint::black_box(Box::new(0_u8)));
        // SAFETY:
        // - the handlers are functions of this library, there as long as the process is, or
        //   until the C library itself forgets them as it unloads this.
        let error = unsafe { pthread_atfork(Some(before), Some(after), Some(after_in_child)) };
        // Relaxed: before there is anybody to tell.
        INSTALLED.store(error, Ordering::Relaxed);
    }
    install
};

fn handlers_installed() -> io::Result<()> {
    match INSTALLED.load(Ordering::Relaxed) {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

unsafe extern "C" fn before() {
    FORKS.lock();
    GATES.mutex.lock();
}

unsafe extern "C" fn after() {
    GATES.mutex.unlock();
    FORKS.unlock();
}

unsafe extern "C" fn after_in_child() {
    // SAFETY:
    // - `before` locked the mutex in the parent, and this child has no other thread.
    for gate in unsafe { &*GATES.gates.get() } {
        // SAFETY:
        // - a page takes its gate off the list before it unmaps it.
        unsafe { gate.0.as_ref() }.wipe();
    }
    GATES.mutex.unlock();
    FORKS.unlock();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::testing::{Child, SharedPage, Watchdog, deny};
    use std::thread;
    use std::time::Duration;

    fn in_a_child(gate: GatePage) {
        assert_eq!((gate.state(), gate.pass()), (Gate::OPEN, None));
        gate.issue(7);
        Child::fork(|| {
            assert_eq!((gate.state(), gate.pass()), (Gate::WIPED, None));
            gate.close();
            assert!(gate.is_wiped());
            // A grandchild, too.
            Child::fork(|| assert!(gate.is_wiped())).join();
        })
        .join();
        assert_eq!((gate.state(), gate.pass()), (Gate::OPEN, Some(7)));
        gate.close();
        assert_eq!((gate.state(), gate.pass()), (Gate::CLOSED, None));
        Child::fork(|| assert!(gate.is_wiped())).join();
    }

    #[test]
    fn a_gate_reads_wiped_in_a_child_and_stays_as_it_is_in_the_parent() {
        let _watchdog = Watchdog::start();
        in_a_child(GatePage::wiped_by(WipedBy::Kernel).unwrap());
    }

    #[test]
    fn without_the_kernels_help_the_handler_wipes_the_gates() {
        let _watchdog = Watchdog::start();
        in_a_child(GatePage::wiped_by(WipedBy::Handler).unwrap());
    }

    #[test]
    fn a_kernel_that_refuses_to_wipe_is_done_without() {
        let _watchdog = Watchdog::start();
        Child::fork(|| {
            deny(libc::SYS_madvise, libc::EINVAL);
            let gate = GatePage::new().unwrap();
            assert_eq!(gate.page.wiped_by, WipedBy::Handler);
            in_a_child(gate);
        })
        .join();
    }

    #[test]
    fn a_child_may_drop_its_parents_gate_and_make_its_own() {
        let _watchdog = Watchdog::start();
        for wiped_by in [WipedBy::Kernel, WipedBy::Handler] {
            let mut gate = Some(GatePage::wiped_by(wiped_by).unwrap());
            Child::fork(|| {
                drop(gate.take());
                in_a_child(GatePage::wiped_by(wiped_by).unwrap());
            })
            .join();
            assert_eq!(gate.as_ref().map(|gate| gate.state()), Some(Gate::OPEN));
        }
    }

    #[test]
    fn a_fork_waits_for_whoever_holds_forks_and_no_child_is_left_waiting() {
        let _watchdog = Watchdog::start();
        let page = SharedPage::new();
        let hold = hold_forks();
        thread::scope(|scope| {
            let forker = scope.spawn(|| {
                page.word(0).store(1, Ordering::Release);
                Child::fork(|| {
                    assert_eq!(page.word(1).load(Ordering::Acquire), 1);
                    drop(hold_forks());
                })
                .join();
            });
            while page.word(0).load(Ordering::Acquire) == 0 {
                thread::sleep(Duration::from_millis(1));
            }
            // Time for a fork that would not wait.
            thread::sleep(Duration::from_millis(30));
            page.word(1).store(1, Ordering::Release);
            drop(hold);
            forker.join().unwrap();
        });
        drop(hold_forks());
    }

    #[test]
    fn a_gate_can_be_made_and_dropped_while_forks_are_held() {
        let _watchdog = Watchdog::start();
        let hold = hold_forks();
        drop(GatePage::wiped_by(WipedBy::Handler).unwrap());
        drop(hold);
    }

    #[test]
    fn forks_beside_many_holders_all_end() {
        let _watchdog = Watchdog::start();
        let page = SharedPage::new();
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while page.word(0).load(Ordering::Acquire) == 0 {
                        drop(hold_forks());
                    }
                });
            }
            for _ in 0..50 {
                Child::fork(|| drop(hold_forks())).join();
            }
            page.word(0).store(1, Ordering::Release);
        });
    }
}
