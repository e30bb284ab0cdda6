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
  caslock bench                                  how fast locks are on this machine

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
that is sent to caslock: twice, if that is sent to all of a process group or service
(under systemd, set KillMode=mixed; for timeout(1), --foreground). If caslock is
killed, even by SIGKILL, the command is killed too (a command that changes its user on
exec, like sudo, is out of reach); what it has started in turn goes on, so that a
script does best to exec the program that it ends in.

What proves that the job lives is a descriptor of the table, which the command inherits. It
is open for reading alone: a command that goes on as another user can read names and notes
by it, and write to the table only if the mode of its file lets that user.

Where all sessions of the table are in use, by holders and waiters, it waits for one as for
the lock; with -n, once -w is over, or inside of a job of another `caslock run`, it exits with
125 (-E does not change that).

The lock is released when the command ends, whichever way. It is lost when its holder is
taken for hung (by a Ctrl-Z that lasts longer than the lease, for one), or when an operator
forces it. Then what the command has started is ended with it, unless --on-lost none.

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

A PID in parentheses is one of another PID namespace (a container), or may be: here it means
somebody else, or nobody.

Each JSON object has name, state (free, held, abandoned, corrupt), token, waiters, held_ms,
holder (null, or pid, session, command, liveness, heartbeat_age_ms, same_pid_namespace) and
note. Names and notes are as they were given; what people see of them is escaped.";

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
On a lock that was abandoned and is free, this acknowledges the news; but with
--even-if-alive it leaves them to the next holder: it may have been asked twice.

Exit code 1 if it was refused; nothing was changed then.";

const SESSIONS_HELP: &str = "\
Examples:
  caslock sessions
  caslock sessions --json | jq -r '.[] | select(.liveness == \"late\") | .pid'

A session is one process's attachment to the table. Late means that its heartbeat is older
than the lease: it hangs, is stopped, or gets no CPU. A PID in parentheses is one of another
PID namespace (a container), or may be: here it means somebody else, or nobody. Where (gone)
stands, the process has ended, and what it has started keeps the session; `caslock doctor` says
who.

Each JSON object has session, pid, command, liveness (alive, late, dead, unknown),
heartbeat_age_ms, attached_ms, same_pid_namespace and held (the number of locks).";

const BENCH_HELP: &str = "\
Examples:
  caslock bench
  caslock bench --processes 1,4,16 --section 10
  caslock bench --table /run/app/locks.table --json | jq '.[].pairs_per_s'

A pair is one acquisition and its release. All processes want the same lock all the time.
Slowest/fastest compares how often the processes got it. Waits are those of one acquisition
in 16, and a little rounded up. Each holder adds one to a number that only the lock guards:
lost updates, of which there must be none, are what is missing in the end.

It makes a table of its own, in memory where it can, and removes it; killed, it leaves
caslock-bench.* behind in /dev/shm. With --table it takes a name of its own in that table,
which is worth it only if the table's other users may be disturbed: CASLOCK_TABLE alone does
not choose one; the name stays there until the table has no room for another.

Exit code 1 if an update was lost, 120 if a lock was.";

const DOCTOR_HELP: &str = "\
Examples:
  caslock doctor
  caslock --table /run/app/locks.table doctor

One line a check: ok, warn or FAIL, and what to do. Exit code 1 if any check failed. Where
somebody seems to be late, it takes a good two seconds to see whether heartbeats come.";

/// Named locks for the processes of one machine, kept in a file, safe against crashes.
///
/// A lock whose holder dies goes to one of those who wait, at once, with the news of its death.
/// There is no server: the kernel tells who is dead, a heartbeat tells who hangs.
#[derive(Debug, Parser)]
#[command(name = "caslock", version, after_help = EXAMPLES, max_term_width = 100)]
pub(crate) struct Cli {
    /// The table's file [env: CASLOCK_TABLE]
    // Verbs that do not read the variable have an option of this name of their own: it stands
    // for this one, and gets its value, too, when that was given before the verb.
    #[arg(long, value_name = "PATH", global = true, display_order = 90)]
    pub(crate) table: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// `run` alone, with what may stand before it. The whole tree takes as long to put up as
/// a table to open.
#[derive(Debug, Parser)]
#[command(name = "caslock")]
struct RunOnly {
    #[arg(long, value_name = "PATH", global = true)]
    table: Option<PathBuf>,
    #[command(subcommand)]
    verb: RunVerb,
}

#[derive(Debug, Subcommand)]
enum RunVerb {
    Run(Run),
}

/// Reads the command line.
///
/// # Errors
///
/// Whatever is to be printed in place of doing anything: help, too.
pub(crate) fn parse(arguments: &[OsString]) -> Result<Cli, clap::Error> {
    let first = arguments.iter().skip(1).take(3);
    if first.into_iter().any(|argument| argument == "run")
        && let Ok(RunOnly { table, verb }) = RunOnly::try_parse_from(arguments)
    {
        let RunVerb::Run(run) = verb;
        let verb = Verb::Run(run);
        return Ok(Cli { table, verb });
    }
    // An error is told by the tree that knows all there is.
    Cli::try_parse_from(arguments)
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
    Bench(Bench),
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
    #[arg(short = 'w', long, value_name = "SECS", value_parser = seconds, allow_negative_numbers = true)]
    pub(crate) wait: Option<Duration>,
    /// Exit code for giving up, in place of 75 and 124
    #[arg(short = 'E', long, value_name = "CODE", allow_negative_numbers = true)]
    pub(crate) conflict_exit_code: Option<u8>,
    /// A line for others to see in `caslock ls` while the command runs; else they see the
    /// program's name
    #[arg(long, value_name = "TEXT", value_parser = note)]
    pub(crate) note: Option<String>,
    /// What happens to the command when the lock is lost while it runs
    #[arg(long, value_enum, value_name = "WHAT", default_value_t = OnLost::Term)]
    pub(crate) on_lost: OnLost,
    /// With `--on-lost term`, seconds until the command is killed
    #[arg(long, value_name = "SECS", value_parser = seconds, allow_negative_numbers = true, default_value = "10")]
    pub(crate) kill_after: Duration,
    /// What to do when the last holder did not release
    #[arg(long, value_enum, value_name = "WHAT", default_value_t = OnAbandoned::Go)]
    pub(crate) on_abandoned: OnAbandoned,
    /// The lock's name, 1 to 255 bytes of UTF-8 of your choice
    #[arg(value_parser = name)]
    pub(crate) name: String,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "CMD")]
    command: Vec<OsString>,
}

impl Run {
    /// The command. Where a name that may begin with a dash stands behind a `--` of its own, the
    /// parser takes the one before the command for its first word.
    pub(crate) fn command(&self) -> &[OsString] {
        match self.command.split_first() {
            Some((first, rest)) if first == "--" && !rest.is_empty() => rest,
            _ => &self.command,
        }
    }
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
    /// Where the table's file is to be (or say it by --table)
    pub(crate) path: Option<PathBuf>,
    /// The same as PATH
    #[arg(long, value_name = "PATH", display_order = 90)]
    pub(crate) table: Option<PathBuf>,
    /// How many lock names it has room for
    #[arg(
        long,
        value_name = "N",
        default_value_t = 4096,
        allow_negative_numbers = true
    )]
    pub(crate) slots: u32,
    /// How many processes can use it at once
    #[arg(
        long,
        value_name = "N",
        default_value_t = 256,
        allow_negative_numbers = true
    )]
    pub(crate) sessions: u32,
    /// With `--reclaim on-expiry`, how long a silent holder keeps its locks [default: 10]
    #[arg(long, value_name = "SECS", value_parser = seconds, allow_negative_numbers = true)]
    pub(crate) lease: Option<Duration>,
    /// When a lock is taken from its holder
    #[arg(long, value_enum, value_name = "WHEN", default_value_t = ReclaimPolicy::OnExpiry)]
    pub(crate) reclaim: ReclaimPolicy,
    /// Permission bits of the file
    #[arg(long, value_name = "OCTAL", value_parser = octal, allow_negative_numbers = true, default_value = "0600")]
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
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
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

/// Measure how fast processes pass a lock on
#[derive(Debug, Args)]
#[command(after_help = BENCH_HELP)]
pub(crate) struct Bench {
    /// A table in use to measure in, in place of one that is made for it
    #[arg(long, value_name = "PATH", display_order = 90)]
    pub(crate) table: Option<PathBuf>,
    /// How many processes contend; several numbers for a measurement each
    #[arg(
        short,
        long,
        value_name = "N,...",
        value_delimiter = ',',
        allow_negative_numbers = true,
        default_value = "1,2,8",
        value_parser = clap::value_parser!(u32).range(1..=1000)
    )]
    pub(crate) processes: Vec<u32>,
    /// For how many microseconds each holds the lock; fractions are allowed
    #[arg(short, long, value_name = "MICROS", value_parser = section, allow_negative_numbers = true, default_value = "0")]
    pub(crate) section: Duration,
    /// How many seconds each measurement takes
    #[arg(long, value_name = "SECS", value_parser = measured, allow_negative_numbers = true, default_value = "2")]
    pub(crate) seconds: Duration,
    /// Show progress on stderr though it is no terminal
    #[arg(long)]
    pub(crate) progress: bool,
    /// Print an array of JSON objects
    #[arg(long)]
    pub(crate) json: bool,
}

fn section(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(micros) if (0.0..=1e6).contains(&micros) => Ok(Duration::from_secs_f64(micros / 1e6)),
        _ => Err("not a number of microseconds from 0 to 1000000".to_owned()),
    }
}

fn measured(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.1..=3600.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("not a number of seconds from 0.1 to 3600".to_owned()),
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok();
    seconds
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| "not a number of seconds from 0 on, such as 2.5 or 600".to_owned())
}

fn octal(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o777 && mode & 0o002 != 0 => {
            Err("it lets every user write, which no table may; 0660 lets a group".to_owned())
        }
        Ok(mode) if mode <= 0o777 => Ok(mode),
        _ => Err("not an octal mode from 0 to 0777".to_owned()),
    }
}

fn name(text: &str) -> Result<String, String> {
    if (1..=caslock::NAME_MAX).contains(&text.len()) {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "a name has 1 to {} bytes, this one has {}",
            caslock::NAME_MAX,
            text.len()
        ))
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
    fn run_means_the_same_to_the_short_tree_and_to_the_whole_one() {
        let lines = [
            "caslock run x true",
            "caslock --table t run -n x -- true --table u",
            "caslock run --table=t -w 0.5 -E 9 --note n x true -n",
            "caslock run --on-lost kill --kill-after 3 --on-abandoned fail x a b c",
        ];
        for line in lines {
            let arguments = line.split(' ').map(OsString::from).collect::<Vec<_>>();
            let short = RunOnly::try_parse_from(&arguments).expect(line);
            let whole = Cli::try_parse_from(&arguments).expect(line);
            let RunVerb::Run(run) = short.verb;
            assert_eq!(
                format!("{:?}", (short.table, Verb::Run(run))),
                format!("{:?}", (whole.table, whole.verb))
            );
        }
        for line in [
            "caslock ls",
            "caslock ls run",
            "caslock run --help",
            "caslock run x",
        ] {
            let arguments = line.split(' ').map(OsString::from).collect::<Vec<_>>();
            assert!(RunOnly::try_parse_from(&arguments).is_err(), "{line}");
        }
    }

    #[test]
    fn seconds_take_fractions_and_refuse_what_is_no_time() {
        assert_eq!(seconds("0.25"), Ok(Duration::from_millis(250)));
        assert_eq!(seconds("3"), Ok(Duration::from_secs(3)));
        for wrong in ["-1", "NaN", "inf", "1e300", "soon", ""] {
            let why = seconds(wrong).expect_err(wrong);
            assert!(why.contains("from 0 on"), "{wrong}: {why}");
        }
    }

    #[test]
    fn measurements_have_bounds() {
        assert_eq!(section("0.5"), Ok(Duration::from_nanos(500)));
        assert_eq!(measured("0.1"), Ok(Duration::from_millis(100)));
        for wrong in ["-1", "NaN", "inf", "1e300", "soon", ""] {
            assert!(
                section(wrong).is_err() && measured(wrong).is_err(),
                "{wrong}"
            );
        }
        assert!(measured("0").is_err());
    }

    #[test]
    fn modes_are_octal_and_have_nine_bits_but_that_for_all_to_write() {
        assert_eq!(octal("0660"), Ok(0o660));
        for wrong in ["0680", "1777", "-1", "", "0666", "0602"] {
            assert!(octal(wrong).is_err(), "{wrong}");
        }
    }
}
