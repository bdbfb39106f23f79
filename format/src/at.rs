//! Reads and writes at a place of a file, with the names that Unix has for it on every system.

#[cfg(unix)]
pub(crate) use std::os::unix::fs::FileExt as FileAt;

/// What Windows has of it; moves the file's cursor, which nothing here relies on.
#[cfg(windows)]
pub(crate) trait FileAt {
    /// Fills `bytes` from `at` on.
    fn read_exact_at(&self, bytes: &mut [u8], at: u64) -> std::io::Result<()>;
    /// Writes all of `bytes` from `at` on.
    fn write_all_at(&self, bytes: &[u8], at: u64) -> std::io::Result<()>;
}

#[cfg(windows)]
impl FileAt for std::fs::File {
    fn read_exact_at(&self, mut bytes: &mut [u8], mut at: u64) -> std::io::Result<()> {
        while !bytes.is_empty() {
            match std::os::windows::fs::FileExt::seek_read(self, bytes, at)? {
                0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                n => (bytes, at) = (&mut bytes[n..], at + n as u64),
            }
        }
        Ok(())
    }

    fn write_all_at(&self, mut bytes: &[u8], mut at: u64) -> std::io::Result<()> {
        while !bytes.is_empty() {
            match std::os::windows::fs::FileExt::seek_write(self, bytes, at)? {
                0 => return Err(std::io::ErrorKind::WriteZero.into()),
                n => (bytes, at) = (&bytes[n..], at + n as u64),
            }
        }
        Ok(())
    }
}
