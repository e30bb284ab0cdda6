//! What can be said on the command line: clap types, their help texts, nothing else.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

const EXAMPLES: &str = "\
Examples:
  caslock run nightly-report -- ./report.sh      wait for the lock, run, release
  caslock run -n backup -- rsync -a src/ dst/    or give up at once (exit code 75)
  caslock run -w 2.5 deploy -- make deploy       or after 2.5 seconds (exit code 124)
  caslock ls                                     who holds what
  caslock show deploy                            one lock, with everything known of it
  caslock doctor                                 what is wrong, and what to do about it

The table is a file: --table PATH, or else $CASLOCK_TABLE, or else
$XDG_RUNTIME_DIR/caslock/default.table, or else /dev/shm/caslock-<uid>/default.table.
It has to be on a local filesystem, and everybody who is to be kept out has to use it.

Exit codes: 0 success, 1 refused, 64 usage, 66 no such table, 73 cannot create,
77 permission, 125 internal; `caslock run --help` lists those of `run`.";

const RUN_HELP: &str = "\
Examples:
  caslock run nightly-report -- ./report.sh --all
  caslock run -n -E 0 cron-job -- ./job.sh       busy is fine, the other one does it
  caslock run --on-abandoned fail db -- ./migrate.sh
  caslock run counter -- sh -c './write --token \"$CASLOCK_TOKEN\"'

The command runs without a shell, with this terminal and stdin, and gets every signal
that is sent to caslock. If caslock is killed, even by SIGKILL, the command is killed too
(a command that changes its user on exec, like sudo, is out of reach). A lock is lost when
its holder is taken for hung or when an operator forces it.

The command's environment:
  CASLOCK_TABLE     absolute path of the table
  CASLOCK_NAME      the lock's name
  CASLOCK_TOKEN     fencing token: larger than that of every earlier holder
  CASLOCK_PREVIOUS  how the last holder left: none, released, died, expired, forced

Exit codes: the command's own, and 128 + n when signal n ended it, or else
   75  busy (-n)                       64  usage
  124  timed out (-w)                  66  no such table
  120  lost while running              73  cannot create
  121  the last holder did not         77  permission
       release (--on-abandoned fail)  125  internal
  126  command cannot be executed     127  command not found";

const CREATE_HELP: &str = "\
Examples:
  caslock create /run/app/locks.table
  caslock create --reclaim on-death /dev/shm/db.table
  caslock create --lease 60 --mode 0660 --slots 65536 /run/team/locks.table

`caslock run` creates a missing table with the defaults; this is for other numbers.
The policy is fixed here for the life of the table:
  on-expiry   a holder that sends no heartbeat for a whole lease loses its locks
  on-death    only a holder that is certainly dead loses them, a hung one never does";

const LS_HELP: &str = "\
Examples:
  caslock ls
  caslock ls --json | jq -r '.[] | select(.state == \"held\") | .name'

Each JSON object has name, state (free, held, abandoned, corrupt), token, waiters, held_ms,
holder (null, or pid, session, command, liveness, heartbeat_age_ms) and note.";

const SHOW_HELP: &str = "\
Examples:
  caslock show nightly-report
  caslock show --json nightly-report | jq .holder.pid

Exit code 1 if the table has no such name. The JSON object is that of `caslock ls --json`.";

const FORCE_HELP: &str = "\
Examples:
  caslock show deploy                            look first: who, how long, which token
  caslock force-release deploy --token 17
  caslock force-release deploy --token 17 --even-if-alive

A dead holder's lock needs no force: the next one to ask gets it. Forcing a holder that
still runs lets another one in beside it, unless what they share refuses the lower token.
The next holder is told that the lock was forced, and the old one that it was lost.
On a lock that was abandoned and is free, this acknowledges the news.

Exit code 1 if it was refused; nothing was changed then.";

const SESSIONS_HELP: &str = "\
Examples:
  caslock sessions
  caslock sessions --json | jq -r '.[] | select(.liveness == \"late\") | .pid'

A session is one process's attachment to the table. Late means that its heartbeat is older
than the lease: it hangs, is stopped, or gets no CPU.";

const DOCTOR_HELP: &str = "\
Examples:
  caslock doctor
  caslock --table /run/app/locks.table doctor

One line a check: ok, warn or FAIL, and what to do. Exit code 1 if any check failed.";

/// Named locks for the processes of one machine, kept in a file, safe against crashes.
///
/// A lock whose holder dies goes to the next in line at once, with the news that it died.
/// There is no server: the kernel tells who is dead, a heartbeat tells who hangs.
#[derive(Debug, Parser)]
#[command(name = "caslock", version, after_help = EXAMPLES, max_term_width = 100)]
pub(crate) struct Cli {
    /// The table's file [env: CASLOCK_TABLE]
    #[arg(long, value_name = "PATH", global = true, display_order = 90)]
    pub(crate) table: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    Run(Run),
    Create(Create),
    Ls(Ls),
    Show(Show),
    ForceRelease(ForceRelease),
    Sessions(Sessions),
    Doctor(Doctor),
}

/// Run a command while holding a lock
#[derive(Debug, Args)]
#[command(
    after_help = RUN_HELP,
    override_usage = "caslock run [OPTIONS] <NAME> -- <CMD> [ARGS]..."
)]
pub(crate) struct Run {
    /// Give up at once when somebody else holds the lock
    #[arg(short = 'n', long, conflicts_with = "wait")]
    pub(crate) nonblock: bool,
    /// Give up after so many seconds; fractions are allowed
    #[arg(short = 'w', long, value_name = "SECS", value_parser = seconds)]
    pub(crate) wait: Option<Duration>,
    /// Exit code for giving up, in place of 75 and 124
    #[arg(short = 'E', long, value_name = "CODE")]
    pub(crate) conflict_exit_code: Option<u8>,
    /// A line for others to see in `caslock ls` while the command runs
    #[arg(long, value_name = "TEXT", value_parser = note)]
    pub(crate) note: Option<String>,
    /// What happens to the command when the lock is lost while it runs
    #[arg(long, value_enum, value_name = "WHAT", default_value_t = OnLost::Term)]
    pub(crate) on_lost: OnLost,
    /// With `--on-lost term`, seconds until the command is killed
    #[arg(long, value_name = "SECS", value_parser = seconds, default_value = "10")]
    pub(crate) kill_after: Duration,
    /// What to do when the last holder did not release
    #[arg(long, value_enum, value_name = "WHAT", default_value_t = OnAbandoned::Go)]
    pub(crate) on_abandoned: OnAbandoned,
    /// The lock's name, 1 to 255 bytes of your choice
    pub(crate) name: String,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "CMD")]
    pub(crate) command: Vec<OsString>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnLost {
    /// SIGTERM, then SIGKILL after --kill-after
    Term,
    /// SIGKILL
    Kill,
    /// Let it run on without the lock
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnAbandoned {
    /// Say so and run the command
    Go,
    /// Exit with code 121 and leave the lock marked as abandoned
    Fail,
}

/// Make a table with numbers of your own
#[derive(Debug, Args)]
#[command(after_help = CREATE_HELP)]
pub(crate) struct Create {
    /// Where the table's file is to be
    pub(crate) path: PathBuf,
    /// How many lock names it has room for
    #[arg(long, value_name = "N", default_value_t = 4096)]
    pub(crate) slots: u32,
    /// How many processes can use it at once
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub(crate) sessions: u32,
    /// With `--reclaim on-expiry`, how long a silent holder keeps its locks [default: 10]
    #[arg(long, value_name = "SECS", value_parser = seconds)]
    pub(crate) lease: Option<Duration>,
    /// When a lock is taken from its holder
    #[arg(long, value_enum, value_name = "WHEN", default_value_t = ReclaimPolicy::OnExpiry)]
    pub(crate) reclaim: ReclaimPolicy,
    /// Permission bits of the file
    #[arg(long, value_name = "OCTAL", value_parser = octal, default_value = "0600")]
    pub(crate) mode: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ReclaimPolicy {
    /// When it is dead, or silent for a whole lease
    OnExpiry,
    /// Only when it is certainly dead
    OnDeath,
}

/// List every lock and who holds it
#[derive(Debug, Args)]
#[command(after_help = LS_HELP)]
pub(crate) struct Ls {
    /// Print an array of JSON objects
    #[arg(long)]
    pub(crate) json: bool,
}

/// Show one lock with everything known of it
#[derive(Debug, Args)]
#[command(after_help = SHOW_HELP)]
pub(crate) struct Show {
    /// The lock's name
    pub(crate) name: String,
    /// Print a JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// Take a lock from its holder
#[derive(Debug, Args)]
#[command(after_help = FORCE_HELP)]
pub(crate) struct ForceRelease {
    /// The lock's name
    pub(crate) name: String,
    /// The token of the grant that you saw, so that no later one is hit
    #[arg(long, value_name = "N")]
    pub(crate) token: u64,
    /// Also when the holder is not proven dead, or the slot is damaged
    #[arg(long)]
    pub(crate) even_if_alive: bool,
}

/// List the processes that use the table
#[derive(Debug, Args)]
#[command(after_help = SESSIONS_HELP)]
pub(crate) struct Sessions {
    /// Print an array of JSON objects
    #[arg(long)]
    pub(crate) json: bool,
}

/// Check the table and say what to do
#[derive(Debug, Args)]
#[command(after_help = DOCTOR_HELP)]
pub(crate) struct Doctor {}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text
        .parse()
        .map_err(|_| "not a number of seconds".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

fn octal(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o777 => Ok(mode),
        _ => Err("not an octal mode from 0 to 0777".to_owned()),
    }
}

fn note(text: &str) -> Result<String, String> {
    if text.len() <= caslock::NOTE_MAX {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "a note has at most {} bytes, this one has {}",
            caslock::NOTE_MAX,
            text.len()
        ))
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_declarations_do_not_contradict_themselves() {
        Cli::command().debug_assert();
    }

    #[test]
    fn seconds_take_fractions_and_refuse_what_is_no_time() {
        assert_eq!(seconds("0.25"), Ok(Duration::from_millis(250)));
        assert_eq!(seconds("3"), Ok(Duration::from_secs(3)));
        for wrong in ["-1", "NaN", "inf", "1e300", "soon", ""] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn modes_are_octal_and_have_nine_bits() {
        assert_eq!(octal("0660"), Ok(0o660));
        for wrong in ["0680", "1777", "-1", ""] {
            assert!(octal(wrong).is_err(), "{wrong}");
        }
    }
}
