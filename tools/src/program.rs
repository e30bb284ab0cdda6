//! The command as execve(2) wants it: its arguments and its whole environment.

use std::env;
use std::ffi::{CStr, CString, NulError, OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// A command and its environment.
pub(crate) struct Program {
    argv: Vec<CString>,
    environment: Vec<CString>,
}

impl Program {
    /// The command in `argv`, with this process's environment and `variables` in it.
    ///
    /// # Errors
    ///
    /// [`NulError`] for a string with a NUL byte in it, which no string has that came from
    /// a command line or an environment.
    pub(crate) fn new(argv: &[OsString], variables: &[(&str, &OsStr)]) -> Result<Self, NulError> {
        let inherited = env::vars_os()
            .filter(|(name, _)| variables.iter().all(|(ours, _)| OsStr::new(ours) != name))
            .map(|(name, value)| assignment(name, &value));
        let ours = variables
            .iter()
            .map(|(name, value)| assignment(name.into(), value));
        Ok(Self {
            argv: argv
                .iter()
                .map(|argument| CString::new(argument.as_bytes()))
                .collect::<Result<_, _>>()?,
            environment: inherited.chain(ours).collect::<Result<_, _>>()?,
        })
    }

    /// What was asked for, as it was asked for; empty if nothing was.
    pub(crate) fn name(&self) -> &CStr {
        self.argv.first().map_or(c"", CString::as_c_str)
    }

    pub(crate) fn argv(&self) -> &[CString] {
        &self.argv
    }

    pub(crate) fn environment(&self) -> &[CString] {
        &self.environment
    }
}

fn assignment(name: OsString, value: &OsStr) -> Result<CString, NulError> {
    let mut text = name.into_vec();
    text.push(b'=');
    text.extend_from_slice(value.as_bytes());
    CString::new(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_of_ours_takes_the_place_of_the_inherited_one() {
        let (name, _) = env::vars().next().expect("a test has an environment");
        let count = env::vars_os().count();
        let program = Program::new(
            &["true".into()],
            &[(&name, "a".as_ref()), ("CASLOCK_TEST", "b".as_ref())],
        );
        let environment = program.expect("no NUL bytes").environment;
        assert_eq!(environment.len(), count + 1);
        let ours = CString::new(format!("{name}=a")).expect("no NUL bytes");
        assert!(environment.contains(&ours));
        assert!(environment.contains(&c"CASLOCK_TEST=b".to_owned()));
    }

    #[test]
    fn a_nul_byte_is_refused() {
        assert!(Program::new(&["a\0b".into()], &[]).is_err());
    }
}
