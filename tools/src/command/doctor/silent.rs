//! A holder that has sent no heartbeat for long: is it still there, and who is to be ended?

use std::borrow::Cow;
use std::fmt;
use std::fs;

use caslock::Holder;

use super::Seen;
use crate::processes::{self, Process};

/// What has become of a holder that is late, and so what can be done about it. A PID is to
/// be killed by only if it still is the holder's, and here.
#[derive(Debug)]
pub(super) enum Silent {
    /// It is there, hung, stopped or starved.
    Here { pid: u32 },
    /// Its PID is one of another PID namespace, or may be; or the table is no longer at
    /// its path, by which its users are told.
    Elsewhere,
    /// It is gone, and these processes keep its session alive: they have inherited its witness, a
    /// descriptor of the table. None if they cannot be seen.
    Gone { keepers: Vec<Process> },
}

impl Silent {
    pub(super) fn of(holder: &Holder, seen: &Seen<'_>) -> Self {
        let session = seen.snapshot.sessions.iter().find(|session| {
            (session.session, session.pid) == (holder.session, holder.pid)
                && session.same_pid_namespace
        });
        let session = session.filter(|_| seen.snapshot.table.in_place);
        match (fs::symlink_metadata(seen.path), session) {
            (Ok(table), Some(session)) if processes::is_gone(holder.pid, &table) => Self::Gone {
                keepers: processes::keepers(
                    &table,
                    &processes::bytes_of(session).collect::<Vec<_>>(),
                ),
            },
            (Ok(_), Some(_)) => Self::Here { pid: holder.pid },
            _ => Self::Elsewhere,
        }
    }

    /// What to do about it, as a half sentence.
    pub(super) fn remedy(&self) -> Cow<'static, str> {
        match self {
            Self::Here { pid } => format!("kill -CONT {pid} if it is stopped, or end it").into(),
            Self::Elsewhere => "kill -CONT it in its own PID namespace (container) \
                                if it is stopped, or end it there"
                .into(),
            Self::Gone { keepers } => match keepers.len() {
                0 => "ask as root, outside of every container, to see which, and end it".into(),
                1 => "end that one".into(),
                _ => "end those".into(),
            },
        }
    }
}

/// What there is to add to the description of such a holder.
impl fmt::Display for Silent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Gone { keepers } = self else {
            return Ok(());
        };
        f.write_str("; that process is gone, but its session is kept alive by ")?;
        match &keepers[..] {
            [] => f.write_str(
                "one that cannot be seen from here and has its byte of the table locked",
            ),
            _ => {
                let have = if keepers.len() == 1 { "has" } else { "have" };
                let who = processes::named(keepers);
                write!(f, "{who}, which {have} its byte of the table locked")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_keeps_a_session_alive_is_named_and_is_to_be_ended() {
        let gone = |pids: std::ops::Range<u32>| {
            let command = "sleep".to_owned();
            let keepers = pids.map(|pid| Process {
                pid,
                command: command.clone(),
            });
            Silent::Gone {
                keepers: keepers.collect(),
            }
        };
        for (silent, who, remedy) in [
            (gone(7..7), " by one that cannot be seen ", "ask as root"),
            (
                gone(7..8),
                " by process 7 (sleep), which has ",
                "end that one",
            ),
            (
                gone(7..9),
                " by processes 7 (sleep) and 8 (sleep), which have ",
                "end those",
            ),
        ] {
            assert!(silent.to_string().contains(who), "{silent}");
            assert!(silent.remedy().contains(remedy), "{}", silent.remedy());
        }
    }
}
