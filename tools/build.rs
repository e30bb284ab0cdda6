//! Links the C library and the unwinder into the command line, where this machine has both as
//! archives.
//!
//! Each start of `caslock run` would have the loader find, map and relocate the shared ones:
//! a sixth of a whole `caslock run NAME true` for libc, a twentieth for libgcc_s, which asks
//! the CPU for its features a dozen times, and each of those leaves a virtual machine. Nothing
//! here looks up users, hosts or locales, which is what a static C library is bad at.
//!
//! rustc names the libraries by `-l`, the shared ones first. Linker scripts of their names,
//! found before them, put the archives in their place; `-static-pie` leaves out the loader.
//! Whether that works is tried on a small program: whatever is not as it is expected here
//! leaves the shared libraries. So does `--no-default-features`, for who packages.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What rustc links on glibc. One it should ever add makes the trial fail, or is an archive.
const C_LIBRARIES: [&str; 6] = ["c", "dl", "m", "pthread", "rt", "util"];

/// A thread, and a panic that is caught: what of the libraries is hardest to link statically.
const TRIAL: &str = r#"
fn main() {
    let thread = std::thread::spawn(|| {
        if cfg!(panic = "unwind") {
            std::panic::resume_unwind(Box::new(()));
        }
    });
    assert_eq!(thread.join().is_err(), cfg!(panic = "unwind"));
}
"#;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=RUSTC_LINKER");
    if !is_glibc_of_this_machine() || is_set("CARGO_CFG_TARGET_FEATURE", "crt-static") {
        return;
    }
    let directory = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    let wants_static = env::var_os("CARGO_FEATURE_STATIC").is_some();
    let arguments = if wants_static && let Ok(arguments) = static_libraries(&directory) {
        arguments
    } else if let Ok(arguments) = static_unwinder(&directory) {
        arguments
    } else {
        return;
    };
    for argument in arguments {
        println!("cargo::rustc-link-arg-bins={argument}");
    }
}

/// Another target's linker would have to be asked for another target's archives.
fn is_glibc_of_this_machine() -> bool {
    let is = |name, value| env::var(name).is_ok_and(|found| found == value);
    is("CARGO_CFG_TARGET_OS", "linux")
        && is("CARGO_CFG_TARGET_ENV", "gnu")
        && env::var_os("HOST") == env::var_os("TARGET")
}

/// Whether a variable that lists things, with commas, lists this.
fn is_set(name: &str, value: &str) -> bool {
    env::var(name).is_ok_and(|list| list.split(',').any(|set| set == value))
}

/// What the linker has to be told to take both from archives.
fn static_libraries(directory: &Path) -> io::Result<Vec<String>> {
    let scripts = directory.join("static");
    let archives = ["gcc_eh", "gcc"].into_iter().chain(C_LIBRARIES);
    let archives = archives.map(archive).collect::<io::Result<Vec<_>>>()?;
    for library in C_LIBRARIES.into_iter().chain(["gcc_s"]) {
        write_script(&scripts, library, &archives)?;
    }
    let arguments = vec![format!("-L{}", scripts.display()), "-static-pie".into()];
    try_out(directory, &arguments)?;
    Ok(arguments)
}

/// What the linker has to be told to take the unwinder alone from its archive.
fn static_unwinder(directory: &Path) -> io::Result<Vec<String>> {
    let scripts = directory.join("unwinder");
    write_script(&scripts, "gcc_s", &[archive("gcc_eh")?])?;
    let arguments = vec![format!("-L{}", scripts.display())];
    try_out(directory, &arguments)?;
    Ok(arguments)
}

/// The archive of a library, as the C compiler that links tells it.
fn archive(library: &str) -> io::Result<String> {
    let linker = env::var_os("RUSTC_LINKER").unwrap_or_else(|| "cc".into());
    let asked = Command::new(linker)
        .arg(format!("-print-file-name=lib{library}.a"))
        .output()?;
    let path = String::from_utf8(asked.stdout).map_err(io::Error::other)?;
    let path = path.trim_end();
    // Not found, the compiler repeats the bare name. A script's words end at a blank.
    let is_usable = Path::new(path).is_absolute()
        && Path::new(path).is_file()
        && !path.contains([' ', '"', '(', ')', ',']);
    if is_usable {
        // With the compiler's next version it may lie elsewhere.
        println!("cargo::rerun-if-changed={path}");
        Ok(path.into())
    } else {
        Err(io::ErrorKind::NotFound.into())
    }
}

/// Puts the archives in the place of a shared library. They need one another.
fn write_script(scripts: &Path, library: &str, archives: &[String]) -> io::Result<()> {
    fs::create_dir_all(scripts)?;
    let script = format!("GROUP({})\n", archives.join(" "));
    fs::write(scripts.join(format!("lib{library}.so")), script)
}

/// Links a small program in the same way, and runs it.
fn try_out(directory: &Path, arguments: &[String]) -> io::Result<()> {
    let source = directory.join("trial.rs");
    let program = directory.join("trial");
    fs::write(&source, TRIAL)?;
    let mut rustc = Command::new(env::var_os("RUSTC").expect("cargo sets it"));
    rustc.arg(&source).arg("-o").arg(&program);
    rustc.arg("--cap-lints=allow");
    if let Some(linker) = env::var_os("RUSTC_LINKER") {
        rustc.arg("-C").arg(format!("linker={}", linker.display()));
    }
    if let Ok(flags) = env::var("CARGO_ENCODED_RUSTFLAGS") {
        rustc.args(flags.split('\x1f').filter(|flag| !flag.is_empty()));
    }
    for argument in arguments {
        rustc.arg("-C").arg(format!("link-arg={argument}"));
    }
    succeeds(&mut rustc)?;
    // What it may leave behind, a profile for one, is not to lie among the sources.
    succeeds(Command::new(&program).current_dir(directory))
}

fn succeeds(command: &mut Command) -> io::Result<()> {
    let status = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()?;
    if status.success() {
        Ok(())
    } else {
        Err(io::Error::other(status.to_string()))
    }
}
