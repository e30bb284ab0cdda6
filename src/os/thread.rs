//! Threads that begin in a forked child, too, whatever the parent's other threads were doing.
//!
//! The standard library's threads take locks of that as they begin and end, of which a fork knows
//! nothing: in a child that was forked while one was taken, no thread ever gets past it. What the
//! C library locks it sees to at a fork.

use std::ffi::CStr;
use std::io;
use std::mem::{self, MaybeUninit};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;

/// As large as the standard library's.
const STACK_BYTES: usize = 2 << 20;

/// A thread, which is detached when this is dropped.
#[derive(Debug)]
pub(crate) struct Thread(libc::pthread_t);

// SAFETY: a thread's id is good for any thread of its process; on some C libraries it is a pointer.
unsafe impl Send for Thread {}
// SAFETY: as above.
unsafe impl Sync for Thread {}

/// What a thread runs, and what it is called in the kernel.
struct Start {
    name: &'static CStr,
    code: Box<dyn FnOnce() + Send>,
}

extern "C" fn begin(start: *mut libc::c_void) -> *mut libc::c_void {
    // SAFETY: the box that `Thread::start` has given up for this thread.
    let Start { name, code } = *unsafe { Box::from_raw(start.cast::<Start>()) };
    // SAFETY: a string that ends with its zero. It fails for nothing but that.
    let _ = unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
    // A panic was reported by its hook and ends with the thread; to drop what it carries is
    // somebody's code again.
    if let Err(panic) = catch_unwind(AssertUnwindSafe(code)) {
        mem::forget(panic);
    }
    ptr::null_mut()
}

impl Thread {
    /// Starts one that runs `code`. The kernel shows the first 15 bytes of its name.
    ///
    /// # Errors
    ///
    /// When there is no thread to be had; the code has been dropped.
    pub(crate) fn start(
        name: &'static CStr,
        code: impl FnOnce() + Send + 'static,
    ) -> io::Result<Self> {
        let code = Box::new(code);
        let start = Box::into_raw(Box::new(Start { name, code }));
        let (mut attributes, mut id) = (MaybeUninit::uninit(), MaybeUninit::uninit());
        // SAFETY: the attributes are initialised before they are used, and destroyed once; the
        // thread gets the box, for it alone.
        let error = unsafe {
            match libc::pthread_attr_init(attributes.as_mut_ptr()) {
                0 => {
                    // Where the system wants more, its own default is as good.
                    libc::pthread_attr_setstacksize(attributes.as_mut_ptr(), STACK_BYTES);
                    let attributes = attributes.as_mut_ptr();
                    let error =
                        libc::pthread_create(id.as_mut_ptr(), attributes, begin, start.cast());
                    libc::pthread_attr_destroy(attributes);
                    error
                }
                error => error,
            }
        };
        if error != 0 {
            // SAFETY: no thread has come of it that could have taken the box.
            drop(unsafe { Box::from_raw(start) });
            return Err(io::Error::from_raw_os_error(error));
        }
        // SAFETY: written, as there was no error.
        Ok(Self(unsafe { id.assume_init() }))
    }

    /// Waits for its end.
    pub(crate) fn join(self) {
        let thread = mem::ManuallyDrop::new(self);
        // SAFETY: joined once, and not detached. It fails for a thread that would wait for itself,
        // which then goes on.
        let _ = unsafe { libc::pthread_join(thread.0, ptr::null_mut()) };
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        // SAFETY: neither joined nor detached before.
        let _ = unsafe { libc::pthread_detach(self.0) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::testing::{Child, Watchdog, deny};
    use std::fs;
    use std::sync::mpsc;

    #[test]
    fn a_thread_runs_its_code_under_its_name_and_is_waited_for() {
        let _watchdog = Watchdog::start();
        let (tell, told) = mpsc::channel();
        let thread = Thread::start(c"caslock-test", move || {
            tell.send(fs::read_to_string("/proc/thread-self/comm").unwrap())
                .unwrap();
        });
        thread.unwrap().join();
        assert_eq!(told.try_recv().unwrap(), "caslock-test\n");
        let (tell, told) = mpsc::channel();
        drop(Thread::start(c"detached", move || tell.send(7).unwrap()).unwrap());
        assert_eq!(told.recv(), Ok(7));
    }

    #[test]
    fn a_panic_ends_its_thread_and_nothing_else() {
        let _watchdog = Watchdog::start();
        Thread::start(c"panics", || panic!("as the test wants"))
            .unwrap()
            .join();
    }

    #[test]
    fn where_there_is_no_thread_its_code_is_dropped() {
        let _watchdog = Watchdog::start();
        Child::fork(|| {
            for call in [libc::SYS_clone, libc::SYS_clone3] {
                deny(call, libc::EAGAIN);
            }
            let (kept, given) = mpsc::channel::<()>();
            let error = Thread::start(c"none", move || drop(kept)).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EAGAIN));
            assert!(given.recv().is_err(), "nobody has the other end");
        })
        .join();
    }
}
