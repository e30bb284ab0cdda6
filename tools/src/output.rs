//! How things look: columns, colours, escapes for people, and JSON for machines.

use std::borrow::Cow;
use std::env;
use std::fmt;
use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, StdoutLock, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

pub(crate) use caslock::printable;
use caslock::{Holder, Liveness, SlotInfo, SlotState};
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::{SFlag, fstat};
use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};
use unicode_width::UnicodeWidthStr;

/// One line on stderr, from the wrapper and not from its command; what names and paths in
/// it could do to a terminal is escaped.
pub(crate) fn say(message: fmt::Arguments<'_>) {
    write_line(&printable(&message.to_string()));
}

/// The same where nothing may be waited for: where there is no room, a line is dropped, or cut
/// short.
pub(crate) fn say_unless_full(message: fmt::Arguments<'_>) {
    /// A pipe has room for 4096 bytes or says that it is full, and a character has four at most.
    const MOST_CHARACTERS: usize = 1000;
    let whole = message.to_string();
    let line: String = printable(&whole).chars().take(MOST_CHARACTERS).collect();
    let stderr = io::stderr();
    if let Ok(mut same) = reopen_without_waiting(stderr.as_fd()) {
        let _ = same.write_all(in_full(&line).as_bytes());
        return;
    }
    // Somebody else's, or a socket. A terminal with little room is not full, and waits all the
    // same; so does a pipe that somebody fills right now.
    let mut asked = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
    let has_room = poll(&mut asked, PollTimeout::ZERO).is_ok()
        && (asked[0].revents()).is_some_and(|found| found.contains(PollFlags::POLLOUT));
    if has_room {
        write_line(&line);
    }
}

/// A terminal or a pipe through a description of its own: a standard stream's is shared, and
/// whoever else writes through it would not wait, either.
fn reopen_without_waiting(stream: BorrowedFd<'_>) -> io::Result<File> {
    let kind = SFlag::from_bits_truncate(fstat(stream)?.st_mode) & SFlag::S_IFMT;
    if kind != SFlag::S_IFIFO && !stream.is_terminal() {
        return Err(io::ErrorKind::Unsupported.into());
    }
    let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let mut options = File::options();
    let path = format!("/proc/self/fd/{}", stream.as_raw_fd());
    options.write(true).custom_flags(flags.bits()).open(path)
}

fn write_line(message: &str) {
    // A line is written whole, so that those of several wrappers do not mix; where nobody
    // listens there is nobody to tell.
    let _ = io::stderr().write_all(in_full(message).as_bytes());
}

fn in_full(message: &str) -> String {
    format!("caslock: {message}\n")
}

/// An error and its causes, without those that it has named itself.
pub(crate) fn in_one_line(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// A path for people: as it is, unless a terminal would take part of it for something else.
pub(crate) fn shown(path: &Path) -> String {
    printable(&path.to_string_lossy()).into_owned()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Paint {
    Plain,
    Bold,
    Dim,
    Red,
    Green,
    Yellow,
}

impl Paint {
    const fn code(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Bold => "\x1b[1m",
            Self::Dim => "\x1b[2m",
            Self::Red => "\x1b[31m",
            Self::Green => "\x1b[32m",
            Self::Yellow => "\x1b[33m",
        }
    }

    pub(crate) const fn of_state(state: SlotState) -> Self {
        match state {
            SlotState::Held => Self::Green,
            SlotState::Abandoned => Self::Yellow,
            SlotState::Corrupt => Self::Red,
            _ => Self::Dim,
        }
    }

    pub(crate) const fn of_liveness(liveness: Liveness) -> Self {
        match liveness {
            Liveness::Alive => Self::Plain,
            Liveness::Dead => Self::Red,
            _ => Self::Yellow,
        }
    }
}

/// Whether the terminal is said to act on no escape sequences.
pub(crate) fn is_terminal_dumb() -> bool {
    env::var_os("TERM").is_some_and(|term| term == "dumb")
}

/// stdout, buffered, with colours where a person can see them.
pub(crate) struct Out {
    to: BufWriter<StdoutLock<'static>>,
    colours: bool,
}

impl Out {
    pub(crate) fn stdout() -> Self {
        let stdout = io::stdout();
        let colours = stdout.is_terminal()
            && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
            && !is_terminal_dumb();
        Self {
            to: BufWriter::new(stdout.lock()),
            colours,
        }
    }

    pub(crate) fn painted(&mut self, paint: Paint, text: &str) -> io::Result<()> {
        if self.colours && paint != Paint::Plain {
            write!(self, "{}{text}\x1b[0m", paint.code())
        } else {
            self.write_all(text.as_bytes())
        }
    }

    pub(crate) fn json(&mut self, value: &impl Serialize) -> io::Result<()> {
        let mut serializer = Serializer::with_formatter(&mut *self, Visible);
        value.serialize(&mut serializer)?;
        self.write_all(b"\n")
    }

    /// Writes what is still buffered; an error that is only noticed here counts, too.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.flush()
    }
}

/// Says what the error is about, which the kernel leaves to the caller.
pub(crate) fn of_stdout(error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("standard output: {error}"))
}

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.to.write(bytes).map_err(of_stdout)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush().map_err(of_stdout)
    }
}

/// JSON in one line. The text is what it was, to whoever parses it; on a terminal, JSON's
/// own escapes stand for what is not [`printable`], of which JSON asks that of some only.
struct Visible;

impl Formatter for Visible {
    fn write_string_fragment<W>(&mut self, to: &mut W, fragment: &str) -> io::Result<()>
    where
        W: ?Sized + Write,
    {
        let Cow::Owned(_) = printable(fragment) else {
            return to.write_all(fragment.as_bytes());
        };
        for unit in fragment.encode_utf16() {
            match u8::try_from(unit) {
                Ok(byte @ b' '..=b'~') => to.write_all(&[byte])?,
                _ => write!(to, "\\u{unit:04x}")?,
            }
        }
        Ok(())
    }
}

/// One field of a row. Its text is safe for a terminal.
pub(crate) struct Cell {
    text: String,
    paint: Paint,
}

impl Cell {
    pub(crate) fn new(text: impl fmt::Display) -> Self {
        Self::painted(Paint::Plain, text)
    }

    pub(crate) fn painted(paint: Paint, text: impl fmt::Display) -> Self {
        let text = text.to_string();
        let text = match printable(&text) {
            Cow::Borrowed(_) => text,
            Cow::Owned(escaped) => escaped,
        };
        Self { text, paint }
    }

    /// A PID, in parentheses if it is of another PID namespace, or may be: here it may be
    /// somebody else's.
    pub(crate) fn pid(pid: u32, same_namespace: bool) -> Self {
        match same_namespace {
            true => Self::new(pid),
            false => Self::painted(Paint::Dim, format_args!("({pid})")),
        }
    }

    /// What stands where there is nothing to say.
    pub(crate) fn none() -> Self {
        Self::painted(Paint::Dim, "-")
    }

    /// How many of a terminal's columns it takes.
    fn width(&self) -> usize {
        self.text.width()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
}

/// Rows under headings, each column as wide as its widest cell, numbers to the right.
pub(crate) struct Columns<const N: usize> {
    headings: [(&'static str, Align); N],
    rows: Vec<[Cell; N]>,
}

impl<const N: usize> Columns<N> {
    pub(crate) const fn new(headings: [(&'static str, Align); N]) -> Self {
        Self {
            headings,
            rows: Vec::new(),
        }
    }

    pub(crate) fn push(&mut self, row: [Cell; N]) {
        self.rows.push(row);
    }

    pub(crate) fn write(self, out: &mut Out) -> io::Result<()> {
        let aligns = self.headings.map(|(_, align)| align);
        let headings = self
            .headings
            .map(|(text, _)| Cell::painted(Paint::Bold, text));
        let mut widths = [0; N];
        for row in std::iter::once(&headings).chain(&self.rows) {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = cell.width().max(*width);
            }
        }
        for row in std::iter::once(&headings).chain(&self.rows) {
            write_row(out, row, &widths, &aligns)?;
        }
        Ok(())
    }
}

fn write_row<const N: usize>(
    out: &mut Out,
    row: &[Cell; N],
    widths: &[usize; N],
    aligns: &[Align; N],
) -> io::Result<()> {
    // Blanks are written before the next text only: what trails a line would wrap on a
    // narrow terminal.
    let mut blanks = 0;
    for (column, cell) in row.iter().enumerate() {
        let gap = widths[column] - cell.width();
        let (before, after) = match aligns[column] {
            Align::Left => (0, gap),
            Align::Right => (gap, 0),
        };
        blanks += before;
        if !cell.text.is_empty() {
            write!(out, "{:blanks$}", "")?;
            out.painted(cell.paint, &cell.text)?;
            blanks = 0;
        }
        blanks += after + 2;
    }
    out.write_all(b"\n")
}

/// A slot as `--json` prints it; the fields and their order are part of the interface.
#[derive(Serialize)]
pub(crate) struct SlotJson<'a> {
    name: &'a str,
    state: &'static str,
    token: u64,
    waiters: u32,
    held_ms: Option<u64>,
    holder: Option<HolderJson>,
    note: Option<&'a str>,
}

#[derive(Serialize)]
struct HolderJson {
    pid: u32,
    session: u32,
    command: String,
    liveness: &'static str,
    heartbeat_age_ms: u64,
    same_pid_namespace: bool,
}

impl<'a> From<&'a SlotInfo> for SlotJson<'a> {
    fn from(slot: &'a SlotInfo) -> Self {
        Self {
            name: &slot.name,
            state: slot.state.as_str(),
            token: slot.token.into(),
            waiters: slot.waiters,
            held_ms: slot.holder.map(|holder| millis(holder.held_for)),
            holder: slot.holder.map(HolderJson::from),
            note: slot.note.as_deref(),
        }
    }
}

impl From<Holder> for HolderJson {
    fn from(holder: Holder) -> Self {
        Self {
            pid: holder.pid,
            session: holder.session,
            command: holder.command.text(),
            liveness: holder.liveness.as_str(),
            heartbeat_age_ms: millis(holder.heartbeat_age),
            same_pid_namespace: holder.same_pid_namespace,
        }
    }
}

/// Whole milliseconds; a time that came out of a damaged file may be absurd.
pub(crate) fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_carries_the_text_itself_in_letters_that_a_terminal_can_show() {
        let text = "gr\u{fc}n a\nb\\n \"c\"\x1b \u{fc}\u{9b}31m\u{202e}\u{e0041}\x7f";
        let mut json = Vec::new();
        let mut serializer = Serializer::with_formatter(&mut json, Visible);
        text.serialize(&mut serializer).expect("no error");
        let json = String::from_utf8(json).expect("UTF-8");
        assert_eq!(
            json,
            "\"gr\u{fc}n a\\nb\\\\n \\\"c\\\"\\u001b \
             \\u00fc\\u009b31m\\u202e\\udb40\\udc41\\u007f\""
        );
        assert_eq!(serde_json::from_str::<String>(&json).expect("JSON"), text);
    }

    #[test]
    fn a_cause_that_is_named_already_is_not_named_twice() {
        let error = anyhow::anyhow!("no room").context("cannot do it: no room");
        assert_eq!(
            in_one_line(&error.context("/x")),
            "/x: cannot do it: no room"
        );
    }
}
