//! The certificate: a shared word that the kernel itself marks when a thread is gone.
//!
//! Each thread may give the kernel a list of robust futexes (`set_robust_list(2)`, see
//! `exit_robust_list` in Linux's `kernel/futex/core.c`). However the thread ends, by exit,
//! SIGKILL or exec, the kernel walks that list before it tears the address space down:
//! where a word holds the thread's id it puts `FUTEX_OWNER_DIED`, and wakes one sleeper
//! if `FUTEX_WAITERS` is set.
//!
//! The list here has one entry, in memory of this process: the kernel finds the word at a fixed
//! distance from the entry, and that distance can reach the shared page. So nothing in the
//! table holds a pointer.
//!
//! It is memory that could be shared, though nobody shares it: private memory of a killed
//! process may be taken away before its threads have ended, when memory is short or somebody
//! asks for it (`process_mrelease(2)`), and the kernel would find no list to walk.
//!
//! A mark is a reason to look, never a proof: other threads of the process may still run.

use std::io;
use std::marker::PhantomData;
use std::mem;
use std::ptr;

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

use super::fork::Gate;
use super::{futex, process};
use crate::sync::{AtomicU32, Ordering};

const WAITERS: u32 = libc::FUTEX_WAITERS;
const OWNER_DIED: u32 = libc::FUTEX_OWNER_DIED;
const TID_MASK: u32 = libc::FUTEX_TID_MASK;

/// The kernel has marked the word: the keeper thread is gone.
#[must_use]
pub(crate) const fn is_marked(value: u32) -> bool {
    value & OWNER_DIED != 0
}

/// The word is on a living thread's list, as far as anybody has been told.
#[must_use]
pub(crate) const fn is_intact(value: u32) -> bool {
    value & TID_MASK != 0 && !is_marked(value)
}

/// The thread that an intact word names, by its id in its own PID namespace.
#[must_use]
pub(crate) const fn keeper(value: u32) -> Option<u32> {
    if is_intact(value) {
        Some(value & TID_MASK)
    } else {
        None
    }
}

/// Linux's `struct robust_list`: a link in a ring.
#[repr(C)]
struct Link {
    next: *const Link,
}

/// Linux's `struct robust_list_head`.
#[repr(C)]
struct Head {
    ring: Link,
    futex_offset: isize,
    list_op_pending: *const Link,
}

const _: () = assert!(mem::size_of::<Head>() == 3 * mem::size_of::<usize>());

/// The head and its only entry: the kernel reads both when the thread ends, so they stay
/// where they are until the list is given back.
#[repr(C)]
struct Ring {
    head: Head,
    entry: Link,
}

/// The calling thread's claim on a certificate word, withdrawn when dropped.
///
/// It cannot leave its thread: the kernel's list is the thread's. While it stands, a
/// robust `pthread_mutex_t` that this thread takes is not on the kernel's list.
#[derive(Debug)]
pub(crate) struct Certificate<'a> {
    word: &'a AtomicU32,
    /// Its session's, by which it knows a forked child.
    gate: &'a Gate,
    ring: *mut Ring,
    memory: Memory,
    /// The C library's own list, which this one stands in for.
    replaced: *const Head,
    tid: u32,
    /// Neither `Send` nor `Sync`, like the pointers; said aloud because it matters.
    _thread_bound: PhantomData<*const ()>,
}

impl<'a> Certificate<'a> {
    /// Puts the word on the calling thread's list: from now on the kernel marks it at
    /// this thread's end.
    ///
    /// # Errors
    ///
    /// When a system call is filtered, or there is no memory. The word is then as it was, and a
    /// session can do without: its waiters look for its death themselves, every 50 ms at least.
    pub(crate) fn register(word: &'a AtomicU32, gate: &'a Gate) -> io::Result<Self> {
        Self::register_in(word, gate, Memory::Shared)
            .or_else(|_| Self::register_in(word, gate, Memory::Private))
    }

    /// The same by a thread that another is soon to relieve, from memory that may be taken: to
    /// map a page is a percent or more of all that a short command costs.
    ///
    /// # Errors
    ///
    /// As [`register`](Self::register).
    pub(crate) fn register_briefly(word: &'a AtomicU32, gate: &'a Gate) -> io::Result<Self> {
        Self::register_in(word, gate, Memory::Private)
    }

    fn register_in(word: &'a AtomicU32, gate: &'a Gate, memory: Memory) -> io::Result<Self> {
        let replaced = current_list();
        let ring = new_ring(memory)?;
        // SAFETY:
        // - made just now of null pointers, and nobody else knows it.
        unsafe {
            let entry = &raw const (*ring).entry;
            (*ring).entry.next = (&raw const (*ring).head).cast();
            (*ring).head.ring.next = entry;
            (*ring).head.futex_offset = ptr::from_ref(word)
                .addr()
                .wrapping_sub(entry.addr())
                .cast_signed();
        }
        if let Err(error) = set_list(ring.cast()) {
            // SAFETY:
            // - the kernel refused the list, so nobody else knows the ring.
            unsafe { drop_ring(ring, memory) };
            return Err(error);
        }
        let tid = process::tid();
        // Relaxed: the word stands for itself; waiters act on other words. After the list
        // is in place, so that a word with an id in it has somebody to mark it.
        word.store(tid | WAITERS, Ordering::Relaxed);
        Ok(Self {
            word,
            gate,
            ring,
            memory,
            replaced,
            tid,
            _thread_bound: PhantomData,
        })
    }

    /// Takes the word off the list without a mark, and wakes who sleeps on it, unless
    /// another certificate has been made of the word meanwhile.
    pub(crate) fn withdraw(self) {
        drop(self);
    }
}

impl Drop for Certificate<'_> {
    fn drop(&mut self) {
        if self.gate.is_wiped() {
            // A child forked on this very thread: its kernel list is empty, and the word
            // is its parent's, perhaps not even mapped here. The thread's id does not tell: in
            // a PID namespace of its own the child may have the same.
            return;
        }
        // The list goes first: once the word is 0 another session may put an id of its own
        // there, which in another PID namespace may be the same number.
        if current_list() != self.ring.cast() {
            // A later certificate's list stands in for this one, and will give it back: it
            // must stay, with nothing on it.
            // SAFETY:
            // - only this thread changes the ring, and the kernel reads it at its end.
            unsafe { (*self.ring).head.ring.next = self.ring.cast() };
        } else if set_list(self.replaced).is_err() {
            // The kernel still has the ring: it must stay, and the word with it, until
            // this thread's end marks it.
            return;
        } else {
            // SAFETY:
            // - the kernel has forgotten the ring, and only `self` knows it besides.
            unsafe { drop_ring(self.ring, self.memory) };
        }
        // Relaxed: as in `register`. Compared, because another thread of this process may
        // have put its own id there: a session passes from one keeper to the next.
        let (mine, order) = (self.tid | WAITERS, Ordering::Relaxed);
        if self.word.compare_exchange(mine, 0, order, order).is_ok() {
            futex::wake(self.word, u32::MAX);
        }
    }
}

/// Where a ring lies.
#[derive(Clone, Copy, Debug)]
enum Memory {
    /// In a page that could be shared: the kernel finds it there until the thread has ended.
    Shared,
    /// On the heap, which may be taken from a dying process before.
    Private,
}

/// A ring of null pointers. A page of its own is not there in children.
fn new_ring(memory: Memory) -> io::Result<*mut Ring> {
    if let Memory::Private = memory {
        return Ok(Box::into_raw(Box::new(Ring {
            head: Head {
                ring: Link { next: ptr::null() },
                futex_offset: 0,
                list_op_pending: ptr::null(),
            },
            entry: Link { next: ptr::null() },
        })));
    }
    let protection = ProtFlags::READ | ProtFlags::WRITE;
    let bytes = mem::size_of::<Ring>();
    // SAFETY:
    // - a new mapping at an address of the kernel's choice disturbs nothing.
    let page = unsafe { mmap_anonymous(ptr::null_mut(), bytes, protection, MapFlags::SHARED)? };
    // SAFETY:
    // - that children do not have the range matters to nobody: only this thread uses it.
    // A child that has it all the same keeps a page that it does not need.
    let _ = unsafe { madvise(page, bytes, Advice::LinuxDontFork) };
    Ok(page.cast())
}

/// # Safety
///
/// `ring` is [`new_ring`]'s for the same `memory`, and used no more.
unsafe fn drop_ring(ring: *mut Ring, memory: Memory) {
    match memory {
        // SAFETY:
        // - the caller's promise; it fails only for an impossible range.
        Memory::Shared => unsafe {
            let _ = munmap(ring.cast(), mem::size_of::<Ring>());
        },
        // SAFETY:
        // - the caller's promise.
        Memory::Private => drop(unsafe { Box::from_raw(ring) }),
    }
}

/// The calling thread's list, null if it has none or the call is filtered.
fn current_list() -> *const Head {
    let (mut head, mut bytes) = (ptr::null::<Head>(), 0_usize);
    // SAFETY:
    // - 0 is the calling thread; both places are live and of the widths the kernel writes.
    let got = unsafe { libc::syscall(libc::SYS_get_robust_list, 0, &raw mut head, &raw mut bytes) };
    if got == 0 { head } else { ptr::null() }
}

fn set_list(head: *const Head) -> io::Result<()> {
    // SAFETY:
    // - the head is a whole `Ring`'s that lives until it is replaced, or what the kernel
    //   itself named before, or null, which means none.
    let set = unsafe { libc::syscall(libc::SYS_set_robust_list, head, mem::size_of::<Head>()) };
    if set == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::clock::now_ns;
    use crate::os::fork::GatePage;
    use crate::os::futex::{Ended, wait_two};
    use crate::os::testing::{Child, SharedPage, Watchdog, deny, skip};
    use std::thread;
    use std::time::Duration;

    const CERTIFICATE: usize = 0;
    const WAKE: usize = 16;
    const READY: usize = 32;

    fn gate() -> &'static Gate {
        Box::leak(Box::new(GatePage::new().unwrap()))
    }

    fn register(word: &AtomicU32) -> io::Result<Certificate<'_>> {
        Certificate::register(word, gate())
    }

    fn wait_until_nonzero(word: &AtomicU32) -> u32 {
        loop {
            let value = word.load(Ordering::Acquire);
            if value != 0 {
                return value;
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Sleeps on the certificate of a child that `end` then ends; returns the word after.
    fn outlive(page: &SharedPage, end: impl FnOnce() + Send) -> u32 {
        let word = page.word(CERTIFICATE);
        let value = wait_until_nonzero(word);
        assert!(is_intact(value) && !is_marked(value), "{value:#x}");
        let until = now_ns() + 40_000_000_000;
        thread::scope(|scope| {
            let sleeper = scope.spawn(|| wait_two(page.word(WAKE), 0, word, value, until));
            // Time to fall asleep; too little only means that the mark is seen at once.
            thread::sleep(Duration::from_millis(30));
            end();
            let ended = sleeper.join().unwrap();
            assert!(
                matches!(ended, Ended::Certificate | Ended::Again),
                "{ended:?}"
            );
            assert!(now_ns() < until);
        });
        word.load(Ordering::Acquire)
    }

    fn forever() -> ! {
        loop {
            thread::sleep(Duration::from_secs(1000));
        }
    }

    /// A child that has a certificate of this word, and stays.
    fn holder(page: &SharedPage) -> Child {
        Child::fork(|| {
            let _certificate = register(page.word(CERTIFICATE)).unwrap();
            forever()
        })
    }

    #[test]
    fn a_killed_process_has_its_certificate_marked_and_its_sleeper_woken() {
        let _watchdog = Watchdog::start();
        let page = SharedPage::new();
        let child = holder(&page);
        let value = outlive(&page, || child.kill());
        assert!(is_marked(value) && !is_intact(value), "{value:#x}");
    }

    /// What the kernel does itself to a process that it kills for want of memory.
    #[test]
    fn a_process_whose_memory_is_taken_before_it_has_ended_has_its_certificate_marked() {
        let _watchdog = Watchdog::start();
        let page = SharedPage::new();
        let child = holder(&page);
        let value = wait_until_nonzero(page.word(CERTIFICATE));
        let Some(taken) = kill_and_take_memory(child.pid().cast_signed()) else {
            skip("this kernel takes no memory from the dying, or allows no tracing");
            return;
        };
        taken.unwrap();
        drop(child);
        let value = page.word(CERTIFICATE).load(Ordering::Acquire) ^ value;
        assert!(is_marked(value), "{value:#x}");
    }

    /// Kills a process, stops it before it has looked at its robust list, and has the kernel
    /// take its private memory away; `None` where that cannot be done at all.
    fn kill_and_take_memory(pid: i32) -> Option<io::Result<()>> {
        let answer = |answer: libc::c_long| match answer {
            -1 => Err(io::Error::last_os_error()),
            other => Ok(other),
        };
        let nothing = ptr::null_mut::<libc::c_void>();
        let options = libc::PTRACE_O_TRACEEXIT as *mut libc::c_void;
        // SAFETY:
        // - calls with numbers and null pointers, about a child of this test's.
        unsafe {
            let pidfd = answer(libc::syscall(libc::SYS_pidfd_open, pid, 0)).ok()?;
            answer(libc::ptrace(libc::PTRACE_SEIZE, pid, nothing, options)).ok()?;
            libc::kill(pid, libc::SIGKILL);
            let mut status = 0;
            libc::waitpid(pid, &raw mut status, libc::__WALL);
            if status >> 8 != libc::SIGTRAP | (libc::PTRACE_EVENT_EXIT << 8) {
                return None;
            }
            let taken = answer(libc::syscall(libc::SYS_process_mrelease, pidfd, 0));
            libc::close(pidfd as libc::c_int);
            libc::ptrace(libc::PTRACE_CONT, pid, nothing, nothing);
            match taken {
                Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => None,
                taken => Some(taken.map(drop)),
            }
        }
    }

    #[test]
    fn a_process_that_execs_has_its_certificate_marked() {
        let _watchdog = Watchdog::start();
        let page = SharedPage::new();
        let child = Child::fork(|| {
            let _certificate = register(page.word(CERTIFICATE)).unwrap();
            wait_until_nonzero(page.word(READY));
            let args = [c"sleep".as_ptr(), c"1000".as_ptr(), ptr::null()];
            // SAFETY:
            // - a null-terminated vector of live C strings.
            unsafe { libc::execvp(args[0], args.as_ptr()) };
            panic!("exec: {}", io::Error::last_os_error());
        });
        let value = outlive(&page, || page.word(READY).store(1, Ordering::Release));
        assert!(is_marked(value), "{value:#x}");
        child.kill_and_reap();
    }

    #[test]
    fn a_process_whose_leader_lives_on_has_its_keeper_thread_marked_all_the_same() {
        let _watchdog = Watchdog::start();
        let page = SharedPage::new();
        thread::scope(|scope| {
            scope.spawn(|| {
                // Not withdrawn, as by a keeper that was cancelled.
                mem::forget(register(page.word(CERTIFICATE)).unwrap());
            });
        });
        while !is_marked(page.word(CERTIFICATE).load(Ordering::Acquire)) {
            thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn withdrawing_leaves_no_mark_wakes_all_and_gives_the_c_library_its_list_back() {
        let _watchdog = Watchdog::start();
        let page = SharedPage::new();
        let before = current_list();
        let certificate = register(page.word(CERTIFICATE)).unwrap();
        assert_ne!(current_list(), before);
        let value = page.word(CERTIFICATE).load(Ordering::Acquire);
        let until = now_ns() + 40_000_000_000;
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    wait_two(page.word(WAKE), 0, page.word(CERTIFICATE), value, until);
                    assert!(now_ns() < until);
                });
            }
            thread::sleep(Duration::from_millis(30));
            certificate.withdraw();
        });
        assert_eq!(current_list(), before);
        let value = page.word(CERTIFICATE).load(Ordering::Acquire);
        assert!(!is_intact(value) && !is_marked(value));
    }

    #[test]
    fn of_two_certificates_of_one_thread_either_may_be_withdrawn_first() {
        let page = SharedPage::new();
        let [one, other] = [page.word(CERTIFICATE), page.word(WAKE)];
        let intact = || [one, other].map(|word| is_intact(word.load(Ordering::Acquire)));
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let before = current_list();
                let [first, second] = [one, other].map(|word| register(word).unwrap());
                second.withdraw();
                assert_eq!(intact(), [true, false]);
                let second = register(other).unwrap();
                first.withdraw();
                assert_eq!(intact(), [false, true]);
                second.withdraw();
                assert_eq!(intact(), [false, false]);
                let list = current_list();
                assert_ne!(list, before);
                // SAFETY:
                // - the first one's, which stays.
                assert_eq!(unsafe { (*list).ring.next }, list.cast());
                let third = register(one).unwrap();
                assert_eq!(intact(), [true, false]);
                std::mem::forget(third);
            });
            thread.join().unwrap();
        });
        assert!(is_marked(one.load(Ordering::Acquire)));
        assert_eq!(other.load(Ordering::Acquire), 0);
    }

    #[test]
    fn where_no_shared_memory_is_to_be_had_the_heap_will_do() {
        let page = SharedPage::new();
        let child = Child::fork(|| {
            let (word, gate) = (page.word(CERTIFICATE), gate());
            deny(libc::SYS_mmap, libc::EPERM);
            std::mem::forget(Certificate::register(word, gate).unwrap());
            assert!(is_intact(page.word(CERTIFICATE).load(Ordering::Acquire)));
        });
        child.join();
        assert!(is_marked(page.word(CERTIFICATE).load(Ordering::Acquire)));
    }

    #[test]
    fn a_child_forked_on_the_keeper_thread_leaves_its_parents_word_alone() {
        let _watchdog = Watchdog::start();
        let page = SharedPage::new();
        let certificate = register(page.word(CERTIFICATE)).unwrap();
        let value = page.word(CERTIFICATE).load(Ordering::Acquire);
        let mut inherited = Some(certificate);
        Child::fork(|| drop(inherited.take())).join();
        assert_eq!(page.word(CERTIFICATE).load(Ordering::Acquire), value);
        inherited.take().expect("the parent's").withdraw();
    }

    #[test]
    fn a_filtered_system_call_is_an_error_and_the_word_stays_as_it_was() {
        let page = SharedPage::new();
        let child = Child::fork(|| {
            deny(libc::SYS_set_robust_list, libc::EPERM);
            let error = register(page.word(CERTIFICATE)).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EPERM));
        });
        child.join();
        assert_eq!(page.word(CERTIFICATE).load(Ordering::Acquire), 0);
    }
}
