//! The stacks of the models' threads, used again.
//!
//! loom asks the kernel for a stack for each thread of each execution, guards it, and gives
//! it back: with the page faults in between that was two thirds of the time of a search.
//! Those three calls are answered here, for stacks alone, and with what an earlier execution
//! on the same thread has given back; everything else goes on to the kernel.

use std::cell::RefCell;

use libc::{c_int, c_long, c_void, off_t, size_t};

/// No more than loom's stacks are; a larger mapping is somebody else's.
const LARGEST: size_t = 1 << 20;

/// One stack, by its address and length.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stack {
    at: usize,
    len: size_t,
}

#[derive(Default)]
struct Stacks {
    used: Vec<Stack>,
    free: Vec<Stack>,
    /// Those that have a guard page already.
    guarded: Vec<Stack>,
}

thread_local! {
    static STACKS: RefCell<Stacks> = RefCell::default();
}

/// Answers for the stacks of this thread, or with what the kernel says.
fn answer(
    ours: impl FnOnce(&mut Stacks) -> Option<c_long>,
    kernel: impl FnOnce() -> c_long,
) -> c_long {
    let answered = STACKS.try_with(|stacks| {
        // Asked again from within by an allocation: then it is no stack.
        stacks
            .try_borrow_mut()
            .ok()
            .and_then(|mut stacks| ours(&mut stacks))
    });
    answered.ok().flatten().unwrap_or_else(kernel)
}

/// Has this file linked: its functions are called by their names alone.
#[inline(never)]
pub(crate) fn reuse() {}

/// As the C library's.
///
/// # Safety
///
/// As of the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmap(
    at: *mut c_void,
    len: size_t,
    prot: c_int,
    flags: c_int,
    file: c_int,
    offset: off_t,
) -> *mut c_void {
    let is_stack = at.is_null() && flags & libc::MAP_STACK != 0 && len <= LARGEST;
    // SAFETY: the caller's promise, handed on.
    let map = || unsafe { libc::syscall(libc::SYS_mmap, at, len, prot, flags, file, offset) };
    let mapped = answer(
        |stacks| {
            let place = stacks
                .free
                .iter()
                .rposition(|free| is_stack && free.len == len);
            let stack = match place {
                Some(place) => stacks.free.swap_remove(place),
                None if is_stack => {
                    let mapped = map();
                    if mapped == -1 {
                        return Some(mapped);
                    }
                    Stack {
                        at: mapped as usize,
                        len,
                    }
                }
                None => return None,
            };
            stacks.used.push(stack);
            Some(stack.at as c_long)
        },
        map,
    );
    mapped as *mut c_void
}

/// As the C library's.
///
/// # Safety
///
/// As of the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mprotect(at: *mut c_void, len: size_t, prot: c_int) -> c_int {
    // SAFETY: the caller's promise, handed on.
    let protect = || unsafe { libc::syscall(libc::SYS_mprotect, at, len, prot) };
    let protected = answer(
        |stacks| {
            let stack = *stacks.used.iter().find(|stack| stack.at == at as usize)?;
            if prot != libc::PROT_NONE || stacks.guarded.contains(&stack) {
                return (prot == libc::PROT_NONE).then_some(0);
            }
            stacks.guarded.push(stack);
            None
        },
        protect,
    );
    protected as c_int
}

/// As the C library's.
///
/// # Safety
///
/// As of the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn munmap(at: *mut c_void, len: size_t) -> c_int {
    let given = Stack {
        at: at as usize,
        len,
    };
    // SAFETY: the caller's promise, handed on.
    let unmap = || unsafe { libc::syscall(libc::SYS_munmap, at, len) };
    let unmapped = answer(
        |stacks| {
            let place = stacks.used.iter().position(|used| *used == given)?;
            let stack = stacks.used.swap_remove(place);
            stacks.free.push(stack);
            Some(0)
        },
        unmap,
    );
    unmapped as c_int
}
