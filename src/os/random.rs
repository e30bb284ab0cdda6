//! Random bytes from the kernel, for what must differ between tables.

use std::io;

/// Fills the buffer from the kernel's generator.
///
/// # Errors
///
/// When the system call is filtered.
pub(crate) fn fill(mut buffer: &mut [u8]) -> io::Result<()> {
    while !buffer.is_empty() {
        // SAFETY:
        // - the pointer and the length are those of one live, exclusively borrowed slice.
        let got = unsafe { libc::getrandom(buffer.as_mut_ptr().cast(), buffer.len(), 0) };
        match usize::try_from(got) {
            Ok(got) => buffer = &mut buffer[got..],
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_draws_differ_to_the_last_byte() {
        let (mut one, mut two) = ([0; 300], [0; 300]);
        fill(&mut one).unwrap();
        fill(&mut two).unwrap();
        assert_ne!(one, two);
        assert_ne!(one[268..], [0; 32]);
    }
}
