//! Fault campaigns against the lock table: `torture --help`.

use std::process::ExitCode;

#[cfg(target_arch = "x86_64")]
use caslock_torture::instructions;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use caslock_torture::syscalls;
use caslock_torture::{bytes, dashboard, matrix, planted, racers, soak};
use clap::Parser;

#[derive(Parser)]
#[command(version, about = "Fault campaigns against the lock table.")]
enum Command {
    /// Every instruction of every operation is a crash point
    #[cfg(target_arch = "x86_64")]
    Instructions(instructions::Options),
    /// A nemesis: workers on a few locks, and everything that may befall them
    Soak(soak::Options),
    /// All campaigns, and what they have found in one place
    Dashboard(dashboard::Options),
    /// Many that reclaim at once from one dead holder: one of them wins
    Racers(racers::Options),
    /// Each hazard of the environment, and the tests that show its defence
    Matrix(matrix::Options),
    /// Bugs planted in a copy of the source, for the tests to catch
    Planted(planted::Options),
    /// Images of tables that nobody's rules have made, and a scribbler in a table in use
    Bytes(bytes::Options),
    /// One that uses the images
    #[command(hide = true)]
    BytesWorker(bytes::WorkerOptions),
    /// Every system call of every operation fails once, in every way it can
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    Syscalls(syscalls::Options),
    /// One whose system calls fail
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    #[command(hide = true)]
    SyscallsVictim(syscalls::VictimOptions),
    /// One of the soak's workers
    #[command(hide = true)]
    SoakWorker(soak::WorkerOptions),
    /// One that wants the processor
    #[command(hide = true)]
    SoakHog,
}

fn main() -> anyhow::Result<ExitCode> {
    let clean = match Command::parse() {
        #[cfg(target_arch = "x86_64")]
        Command::Instructions(options) => instructions::run(&options)?,
        Command::Soak(options) => soak::run(&options)?,
        Command::Dashboard(options) => return dashboard::run(&options),
        Command::Racers(options) => racers::run(&options)?,
        Command::Matrix(options) => matrix::run(&options)?,
        Command::Planted(options) => planted::run(&options)?,
        Command::Bytes(options) => bytes::run(&options)?,
        Command::BytesWorker(options) => {
            bytes::run_worker(&options)?;
            true
        }
        #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
        Command::Syscalls(options) => syscalls::run(&options)?,
        #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
        Command::SyscallsVictim(options) => {
            syscalls::run_victim(&options)?;
            true
        }
        Command::SoakWorker(options) => {
            soak::run_worker(options)?;
            true
        }
        Command::SoakHog => loop {
            std::hint::spin_loop();
        },
    };
    Ok(if clean {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
