//! Who has a lock, who had it before, and what is known of them: the values that
//! grants, errors and inspection all hand to people.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

/// The number that a grant carries: greater than that of every earlier grant of the name.
///
/// Hand it to the resource that the lock protects and let that resource refuse anything
/// lower than the highest it has accepted. A holder that was paused past its lease is
/// then harmless, whatever it still believes (M. Kleppmann, "How to do distributed
/// locking", 2016).
///
/// ```
/// use caslock::FencingToken;
/// assert!(FencingToken::from(41) < FencingToken::from(42));
/// assert_eq!(FencingToken::from(42).to_string(), "42");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FencingToken(pub u64);

impl From<u64> for FencingToken {
    fn from(token: u64) -> Self {
        Self(token)
    }
}

impl From<FencingToken> for u64 {
    fn from(token: FencingToken) -> Self {
        token.0
    }
}

impl fmt::Display for FencingToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What is known of a session; `Dead` only when it is certain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Liveness {
    /// The process exists and its heartbeat is fresh.
    Alive,
    /// The process exists and its heartbeat is older than the lease, or in an
    /// [`OnDeath`](crate::Reclaim::OnDeath) table than 10 s: hung, stopped or starved.
    Late,
    /// The process is gone: nothing of it can run any more.
    Dead,
    /// The kernel could not be asked, so nothing may be concluded.
    Unknown,
}

impl Liveness {
    /// The word that `--json` prints: `alive`, `late`, `dead` or `unknown`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Alive => "alive",
            Self::Late => "late",
            Self::Dead => "dead",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for Liveness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A process's command name as the kernel knows it: at most 15 bytes.
///
/// It comes out of a file that others can write, so `Display` escapes control bytes
/// and anything that is not UTF-8.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct CommandName([u8; 16]);

impl CommandName {
    pub(crate) const fn from_words(words: [u64; 2]) -> Self {
        let (low, high) = (words[0].to_le_bytes(), words[1].to_le_bytes());
        let mut bytes = [0; 16];
        let mut at = 0;
        while at < 8 {
            bytes[at] = low[at];
            bytes[at + 8] = high[at];
            at += 1;
        }
        Self(bytes)
    }

    /// The name as it was written, for a program rather than for a terminal. A name that
    /// is not UTF-8 is given with escapes in place of what is not.
    #[must_use]
    pub fn text(&self) -> String {
        text_of(self.bytes().to_vec())
    }

    fn bytes(&self) -> &[u8] {
        let end = self.0.iter().position(|&b| b == 0).unwrap_or(self.0.len());
        &self.0[..end]
    }
}

impl fmt::Display for CommandName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&escape_bytes(self.bytes()))
    }
}

impl fmt::Debug for CommandName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", escape_bytes(self.bytes()))
    }
}

/// Text that others wrote, made safe for a terminal: control characters, characters that
/// reorder what stands beside them and those that nobody sees come out as escapes.
///
/// For people only: different texts may come out alike. Text without any of them is left
/// alone.
///
/// ```
/// assert_eq!(caslock::printable("a\x1b[31mb"), "a\\u{1b}[31mb");
/// ```
#[must_use]
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(is_unprintable) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if is_unprintable(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

/// The controls, and Unicode's format characters that nobody sees, but for the joiners
/// U+200C and U+200D, without which some scripts and emoji cannot be written.
fn is_unprintable(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}' | '\u{200e}' | '\u{200f}'
        )
        || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
        || matches!(c, '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Bytes from the mapping as the text that they are, or else as [`escape_bytes`] has them:
/// what is not UTF-8 nobody wrote through this library.
pub(crate) fn text_of(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|error| escape_bytes(error.as_bytes()))
}

/// Bytes from the mapping, made safe for a terminal: as [`printable`], and bytes that are
/// not UTF-8 come out as escapes, too.
fn escape_bytes(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        out.push_str(&printable(chunk.valid()));
        for byte in chunk.invalid() {
            out.push_str(&format!("\\x{byte:02x}"));
        }
    }
    out
}

/// The process that holds a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Holder {
    /// Its process id, in its own PID namespace.
    pub pid: u32,
    /// The index of its session in the table.
    pub session: u32,
    /// Its command name.
    pub command: CommandName,
    /// The token of its grant.
    pub token: FencingToken,
    /// For how long it has held the lock. A grant is stamped with the time of its session's
    /// last heartbeat, so this may be a beat too long.
    pub held_for: Duration,
    /// What is known of it.
    pub liveness: Liveness,
    /// How long ago its last heartbeat was, by the monotonic clock; for showing only.
    pub heartbeat_age: Duration,
    /// Whether its PID means the same here as there; `false`, too, where that cannot be told.
    pub same_pid_namespace: bool,
    /// Whether the latter is `false` only because it cannot be told.
    pub(crate) is_namespace_unknown: bool,
}

impl Holder {
    /// The process in words: its PID, in parentheses and with a word on it if it means
    /// another process here, or may do so, and its command name.
    pub fn process(&self) -> impl fmt::Display {
        let Self { pid, command, .. } = self;
        match (self.same_pid_namespace, self.is_namespace_unknown) {
            (true, _) => format!("process {pid} ({command})"),
            (false, true) => {
                format!("process ({pid}) ({command}), perhaps of another PID namespace")
            }
            (false, false) => format!("process ({pid}) ({command}) in another PID namespace"),
        }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}, token {}, held for {}",
            self.process(),
            self.token,
            human(self.held_for)
        )?;
        match self.liveness {
            Liveness::Alive => Ok(()),
            Liveness::Late => write!(f, ", last heartbeat {} ago", human(self.heartbeat_age)),
            Liveness::Dead => f.write_str(", dead"),
            Liveness::Unknown => f.write_str(", liveness unknown"),
        }
    }
}

/// A duration as a person reads it: `0.3s`, `12s`, `4m05s`, `3h20m`, `2d04h`.
#[must_use]
pub fn human(duration: Duration) -> String {
    let secs = duration.as_secs();
    match secs {
        0..10 => format!("{:.1}s", duration.as_secs_f64()),
        10..60 => format!("{secs}s"),
        60..3600 => format!("{}m{:02}s", secs / 60, secs % 60),
        3600..86_400 => format!("{}h{:02}m", secs / 3600, secs % 3600 / 60),
        _ => format!("{}d{:02}h", secs / 86_400, secs % 86_400 / 3600),
    }
}

/// What a new owner is told of its predecessor.
///
/// Anything but `None` and `Released` means that what the lock protects may have been
/// left half done: check it before relying on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Previous {
    /// Nobody held this name before, or the table has forgotten it since.
    None,
    /// The predecessor released it.
    Released,
    /// The predecessor died holding it, or dropped its guard while panicking
    /// ([`Departed::panicked`]).
    ///
    /// No thread of a dead one runs any more. What it has left to the kernel to write later
    /// (`io_submit(2)`, `io_uring(7)`, directly to a device) may still arrive, and so may what
    /// processes do that it has started.
    Died(Departed),
    /// The predecessor sent no heartbeat for a whole lease and was evicted. It may still run.
    Expired(Departed),
    /// An operator took it from the predecessor. It may still run.
    Forced(Departed),
}

impl Previous {
    /// The word that `CASLOCK_PREVIOUS` carries: `none`, `released`, `died`, `expired` or `forced`.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Released => "released",
            Self::Died(_) => "died",
            Self::Expired(_) => "expired",
            Self::Forced(_) => "forced",
        }
    }

    /// Whether the predecessor left without releasing.
    #[must_use]
    pub const fn is_abandoned(&self) -> bool {
        self.departed().is_some()
    }

    /// Who left without releasing, if anybody did.
    #[must_use]
    pub const fn departed(&self) -> Option<Departed> {
        match self {
            Self::None | Self::Released => None,
            Self::Died(who) | Self::Expired(who) | Self::Forced(who) => Some(*who),
        }
    }
}

impl fmt::Display for Previous {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("no earlier holder is known"),
            Self::Released => f.write_str("released by its previous holder"),
            Self::Died(who) if who.panicked => write!(f, "process {} panicked holding it", who.pid),
            Self::Died(who) => write!(f, "process {} died holding it", who.pid),
            Self::Expired(who) => write!(f, "process {} was evicted for its silence", who.pid),
            Self::Forced(who) => write!(f, "force-released from process {}", who.pid),
        }
    }
}

/// A holder that left without releasing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Departed {
    /// Its process id, in its own PID namespace.
    pub pid: u32,
    /// The token of its grant, or a later one below its successor's
    /// ([`Guard::previous`](crate::Guard::previous) says when).
    pub token: FencingToken,
    /// Its guard was dropped by a panic: the process itself may well live on.
    pub panicked: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_could_drive_a_terminal_come_out_escaped() {
        assert_eq!(escape_bytes(b"a\x1b[31m\xff\"b"), "a\\u{1b}[31m\\xff\"b");
        assert_eq!(escape_bytes("gr\u{fc}n".as_bytes()), "gr\u{fc}n");
        assert_eq!(escape_bytes("a\u{202e}b".as_bytes()), "a\\u{202e}b");
    }

    #[test]
    fn what_drives_a_terminal_or_is_not_seen_on_it_is_escaped_and_the_rest_left_alone() {
        assert_eq!(
            printable("a\x1b[31m\u{202e}b\n"),
            "a\\u{1b}[31m\\u{202e}b\\n"
        );
        for unseen in [
            '\u{9b}', '\u{ad}', '\u{61c}', '\u{200b}', '\u{2066}', '\u{feff}',
        ] {
            let escape = unseen.escape_default().to_string();
            assert_eq!(printable(&format!("a{unseen}b")), format!("a{escape}b"));
        }
        for seen in ["plain \u{fc}", "\u{1f469}\u{200d}\u{1f680}", "a\\nb"] {
            assert!(matches!(printable(seen), Cow::Borrowed(_)), "{seen}");
        }
    }

    #[test]
    fn durations_read_as_people_say_them() {
        let cases = [
            (300, "0.3s"),
            (12_000, "12s"),
            (245_000, "4m05s"),
            (12_000_000, "3h20m"),
        ];
        for (ms, text) in cases {
            assert_eq!(human(Duration::from_millis(ms)), text);
        }
        assert_eq!(human(Duration::from_secs(2 * 86_400 + 4 * 3600)), "2d04h");
    }

    fn a_holder() -> Holder {
        Holder {
            pid: 7,
            session: 0,
            command: CommandName::from_words([u64::from_le_bytes(*b"job\0\0\0\0\0"), 0]),
            token: FencingToken(3),
            held_for: Duration::from_secs(12),
            liveness: Liveness::Alive,
            heartbeat_age: Duration::ZERO,
            same_pid_namespace: true,
            is_namespace_unknown: false,
        }
    }

    #[test]
    fn what_is_known_of_a_holder_is_said_unless_it_is_well() {
        for (liveness, said) in [
            (Liveness::Alive, ""),
            (Liveness::Late, ", last heartbeat 7.0s ago"),
            (Liveness::Dead, ", dead"),
            (Liveness::Unknown, ", liveness unknown"),
        ] {
            let holder = Holder {
                liveness,
                heartbeat_age: Duration::from_secs(7),
                ..a_holder()
            };
            let text = format!("process 7 (job), token 3, held for 12s{said}");
            assert_eq!(holder.to_string(), text);
        }
    }

    #[test]
    fn a_pid_of_another_namespace_is_marked_and_the_mark_explained() {
        let mut holder = a_holder();
        assert_eq!(holder.to_string(), "process 7 (job), token 3, held for 12s");
        holder.same_pid_namespace = false;
        assert_eq!(
            holder.to_string(),
            "process (7) (job) in another PID namespace, token 3, held for 12s"
        );
        holder.is_namespace_unknown = true;
        assert_eq!(
            holder.to_string(),
            "process (7) (job), perhaps of another PID namespace, token 3, held for 12s"
        );
    }

    #[test]
    fn command_names_stop_at_the_first_nul() {
        let words = [u64::from_le_bytes(*b"sh\0xxxxx"), 0];
        assert_eq!(CommandName::from_words(words).to_string(), "sh");
    }

    #[test]
    fn text_is_given_as_it_was_written_unless_it_is_none() {
        let words = [u64::from_le_bytes(*b"a\nb\\nc\0x"), 0];
        assert_eq!(CommandName::from_words(words).text(), "a\nb\\nc");
        assert_eq!(text_of(b"a\n\xffb".to_vec()), "a\\n\\xffb");
    }
}
