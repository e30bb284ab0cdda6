//! The way into the program, in place of the Rust runtime's.
//!
//! The runtime reads `/proc/self/maps` for its stack's guard page and installs two signal
//! handlers, which the command would have to be rid of again: a twentieth of a whole
//! `caslock run NAME true`, for a message on a stack overflow. The rest of what it does is
//! done here: the standard streams are open, a closed pipe is an error and not a signal,
//! and a panic ends the process with 101.

use std::ffi::{CStr, OsString, c_char, c_int};
use std::os::unix::ffi::OsStringExt;
use std::panic;
use std::process;

use crate::sys;

/// What the Rust runtime exits with after a panic.
const PANICKED: i32 = 101;

/// The C runtime's way in.
// SAFETY: no other function of this name: `no_main` takes the runtime's out.
#[cfg_attr(not(test), unsafe(no_mangle))]
#[cfg_attr(
    test,
    expect(dead_code, reason = "the test harness has its own way in")
)]
extern "C" fn main(count: c_int, arguments: *const *const c_char) -> c_int {
    sys::open_standard_streams();
    sys::ignore_closed_pipes();
    let count = usize::try_from(count).unwrap_or(0);
    // `std::env::args_os` knows them only where the C library hands them to initialisers.
    let arguments = (0..count)
        .map(|at| {
            // SAFETY: the C runtime passes `count` pointers to strings that live as long as
            // the process.
            let argument = unsafe { CStr::from_ptr(*arguments.add(at)) };
            OsString::from_vec(argument.to_bytes().to_vec())
        })
        .collect();
    let code = panic::catch_unwind(|| crate::run(arguments)).unwrap_or(PANICKED);
    // Not by returning: this also flushes what is left for stdout.
    process::exit(code)
}
