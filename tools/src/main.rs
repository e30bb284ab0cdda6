//! `caslock`, the command line: parse, dispatch, and turn every outcome into an exit code.

#![cfg_attr(not(test), no_main)]

mod advice;
mod cli;
mod command;
mod crew;
mod entry;
mod exit_code;
mod late_keeper;
mod offspring;
mod output;
mod paste;
mod placement;
mod processes;
mod program;
mod stat;
mod supervise;
mod sys;
mod table_path;
mod waits;

use std::ffi::OsString;

use crate::exit_code::ExitCode;

/// The whole program, from its arguments, its own name included, to its exit code.
fn run(arguments: Vec<OsString>) -> i32 {
    let outcome = match cli::parse(&arguments) {
        Ok(cli) => command::dispatch(cli),
        Err(error) => return exit_code::of_parse(&error, &arguments).into(),
    };
    match outcome {
        Ok(code) => code.into(),
        Err(error) => report(&error).into(),
    }
}

/// Says on stderr what went wrong, unless it is only that nobody reads stdout any more.
fn report(error: &anyhow::Error) -> ExitCode {
    let code = exit_code::of_error(error);
    if code != ExitCode::Success {
        output::say(format_args!("{}", output::in_one_line(error)));
    }
    code
}
