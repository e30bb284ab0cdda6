//! `caslock`, the command line: parse, dispatch, and turn every outcome into an exit code.

mod cli;
mod command;
mod exit_code;
mod output;
mod program;
mod supervise;
mod sys;
mod table_path;

use std::process::ExitCode as ProcessExitCode;

use clap::Parser;

use crate::cli::Cli;
use crate::exit_code::ExitCode;

fn main() -> ProcessExitCode {
    let outcome = match Cli::try_parse() {
        Ok(cli) => command::dispatch(cli),
        Err(error) => return exit_code::of_parse(&error).into(),
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
