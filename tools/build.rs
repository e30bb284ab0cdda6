//! Links the unwinder into the command line, where the C compiler has it as an archive.
//!
//! The shared libgcc_s is one more library for every start of `caslock run` to find, map
//! and relocate, and asks the CPU for its features a dozen times, each of which leaves a
//! virtual machine: a twentieth of a whole `caslock run NAME true`. Rust names the library
//! by `-lgcc_s`; a linker script of that name, found first, puts the archive of the same
//! code in its place. Whatever is not as it is expected here leaves the shared library.

use std::env;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=RUSTC_LINKER");
    if let (true, Some(archive)) = (is_glibc_of_this_machine(), unwinder_archive()) {
        let directory = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
        let script = format!("INPUT({})\n", archive.display());
        if fs::write(directory.join("libgcc_s.so"), script).is_ok() {
            println!("cargo::rustc-link-search=native={}", directory.display());
        }
    }
}

/// Another target's linker would have to be asked for another target's archive.
fn is_glibc_of_this_machine() -> bool {
    let is = |name, value| env::var(name).is_ok_and(|found| found == value);
    is("CARGO_CFG_TARGET_OS", "linux")
        && is("CARGO_CFG_TARGET_ENV", "gnu")
        && env::var_os("HOST") == env::var_os("TARGET")
}

/// The archive's path, as the C compiler that links tells it.
fn unwinder_archive() -> Option<PathBuf> {
    let linker = env::var_os("RUSTC_LINKER").unwrap_or_else(|| "cc".into());
    let asked = Command::new(linker)
        .arg("-print-file-name=libgcc_eh.a")
        .output()
        .ok()?;
    let path = PathBuf::from(String::from_utf8(asked.stdout).ok()?.trim_end());
    // Not found, the compiler repeats the bare name. A script's words end at a blank.
    let is_usable = path.is_absolute()
        && path.is_file()
        && path
            .to_str()
            .is_some_and(|path| !path.contains([' ', '"', '(', ')', ',']));
    is_usable.then_some(path)
}
