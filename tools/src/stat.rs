//! What the kernel tells of a process, or of one of its threads, in a line of `/proc`.

use std::fs;
use std::path::Path;
use std::process;

/// Whether `/proc` is there, and shows the PID namespace of this process: in another's, a PID
/// is somebody else's.
pub(crate) fn are_processes_shown() -> bool {
    let own = process::id().to_string();
    fs::read_link("/proc/self").is_ok_and(|shown| shown == Path::new(&own))
}

/// `/proc/PID/stat`, or `/proc/PID/task/TID/stat`, as far as anybody here asks.
pub(crate) struct Stat {
    state: char,
    pub(crate) parent: i32,
    /// The number of the controlling terminal's device; 0: there is none.
    pub(crate) terminal: i32,
    /// Of the process, whichever thread was asked after. One that has ended counts until it is
    /// reaped, so it is at least one.
    threads: u32,
    /// When it was started, in the kernel's count: not the same of the PID's next owner.
    pub(crate) started: u64,
}

impl Stat {
    pub(crate) fn of(pid: i32) -> Option<Self> {
        Self::in_directory(Path::new(&format!("/proc/{pid}")))
    }

    /// Of a process or thread by its directory under `/proc`.
    pub(crate) fn in_directory(directory: &Path) -> Option<Self> {
        // A name is cut at 15 bytes, if need be in the middle of a character.
        let line = fs::read(directory.join("stat")).ok()?;
        Self::parse(&String::from_utf8_lossy(&line))
    }

    fn parse(line: &str) -> Option<Self> {
        // The command name may hold blanks and brackets, so count from its end.
        let fields: Vec<_> = line.rsplit_once(") ")?.1.split(' ').collect();
        Some(Self {
            state: fields.first()?.chars().next()?,
            parent: fields.get(1)?.parse().ok()?,
            terminal: fields.get(4)?.parse().ok()?,
            threads: fields.get(17)?.parse().ok()?,
            started: fields.get(19)?.parse().ok()?,
        })
    }

    /// Whether this thread is a zombie, or less.
    pub(crate) const fn is_of_ended_thread(&self) -> bool {
        matches!(self.state, 'Z' | 'X')
    }

    /// Whether the whole process is. A main thread that has ended is a zombie while others run.
    pub(crate) const fn is_of_ended_process(&self) -> bool {
        self.is_of_ended_thread() && self.threads <= 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_counted_from_the_end_of_a_name_that_may_hold_anything() {
        let line = "7 (a) Z 1 (b) S 3 7 7 34816 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 98765 1\n";
        let stat = Stat::parse(line).expect("a line of the kernel's");
        assert_eq!((stat.parent, stat.started), (3, 98_765));
        assert_eq!(stat.terminal, 34_816);
        assert!(!stat.is_of_ended_process());
        let ended = line.replace(" S 3", " Z 3");
        assert!(Stat::parse(&ended).expect("another").is_of_ended_process());
        let headless = ended.replace(" 20 0 1 0 ", " 20 0 2 0 ");
        let headless = Stat::parse(&headless).expect("a third");
        assert!(headless.is_of_ended_thread() && !headless.is_of_ended_process());
        assert!(Stat::parse("7 (short) S 3").is_none());
    }
}
