//! Words of a command line that somebody is to paste into a shell.

use std::borrow::Cow;
use std::path::Path;

use caslock::printable;

/// A lock's name as an argument that can be pasted into a shell, or `NAME` where shells do not
/// agree how.
pub(crate) fn argument(name: &str) -> Cow<'_, str> {
    let plain = |c: char| c.is_alphanumeric() || "-_./:@%+,=".contains(c);
    let is_quotable = matches!(printable(name), Cow::Borrowed(_)) && !name.contains('\\');
    if name.is_empty() || name.starts_with('-') || !is_quotable {
        Cow::Borrowed("NAME")
    } else if name.chars().all(plain) && !name.starts_with('=') {
        Cow::Borrowed(name)
    } else {
        Cow::Owned(format!("'{}'", name.replace('\'', r"'\''")))
    }
}

/// What `caslock` needs before its verb to be about the table at this absolute path:
/// `--table PATH ` with the blank. A path on which shells do not agree is left to whoever
/// pastes.
pub(crate) fn table_option(path: &Path) -> String {
    let quoted = path.to_str().map(argument);
    // An absolute path is never the word that stands for what cannot be quoted.
    let quoted = quoted.filter(|quoted| quoted.contains('/'));
    format!("--table {} ", quoted.as_deref().unwrap_or("PATH"))
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn names_are_shown_as_one_can_paste_them() {
        assert_eq!(argument("db/main-1"), "db/main-1");
        assert_eq!(argument("a b$c"), "'a b$c'");
        assert_eq!(
            argument("=cat"),
            "'=cat'",
            "a command's path, for some shells"
        );
        assert_eq!(argument("it's"), r"'it'\''s'");
        for name in ["", "-n", "a\\u{1b}", "a\x1b"] {
            assert_eq!(argument(name), "NAME", "{name:?}");
        }
    }

    #[test]
    fn a_line_to_be_pasted_spells_out_the_table_as_a_shell_reads_it() {
        for (path, option) in [
            ("/run/app.table", "--table /run/app.table "),
            ("/run/my app.table", "--table '/run/my app.table' "),
            ("/run/o'clock.table", r"--table '/run/o'\''clock.table' "),
            (r"/run/a\b.table", "--table PATH "),
            ("/run/a\x1b.table", "--table PATH "),
        ] {
            assert_eq!(table_option(Path::new(path)), option);
        }
        let unreadable = OsStr::from_bytes(b"/run/\xff.table");
        assert_eq!(table_option(Path::new(unreadable)), "--table PATH ");
    }
}
