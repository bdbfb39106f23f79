//! Replaces small files atomically, as a [`Writer`](crate::Writer) does with a model.

use crate::error::{FileAction, FormatError, Result};
use crate::partial::temporary_sibling;
use crate::writer::sync_folder;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// Replaces the file `path` with `bytes`, all of them; on failure the old file stays.
///
/// # Errors
/// When the system fails.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut new = Replacing::create(path)?;
    new.write(bytes)?;
    new.finish()
}

/// A file that is written in parts, and takes its place at the end; dropped before, it leaves nothing.
#[derive(Debug)]
pub struct Replacing {
    path: PathBuf,
    real: PathBuf,
    temp: NamedTempFile,
}

impl Replacing {
    fn create(path: &Path) -> Result<Replacing> {
        let (real, temp) = temporary_sibling(path)?;
        Ok(Replacing { path: path.to_path_buf(), real, temp })
    }

    /// Begins a file that will have so many bytes, for which it takes the room on the disk.
    ///
    /// # Errors
    /// When the system fails.
    pub fn begin(path: &Path, bytes: u64) -> Result<Replacing> {
        let new = Replacing::create(path)?;
        reserve(new.temp.as_file(), bytes).map_err(new.failed(FileAction::Reserve))?;
        Ok(new)
    }

    /// Adds bytes.
    ///
    /// # Errors
    /// When the system fails.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let written = self.temp.write_all(bytes);
        written.map_err(self.failed(FileAction::Write))
    }

    /// Takes the place of the file.
    ///
    /// # Errors
    /// When the system fails; the old file stays.
    pub fn finish(self) -> Result<()> {
        self.temp.as_file().sync_all().map_err(self.failed(FileAction::Sync))?;
        let failed = self.failed(FileAction::RenameTo);
        self.temp.persist(&self.real).map_err(|e| failed(e.error))?;
        sync_folder(&self.real);
        Ok(())
    }

    /// The file under its temporary name.
    pub(crate) fn file(&self) -> &File {
        self.temp.as_file()
    }

    fn failed(&self, action: FileAction) -> impl Fn(std::io::Error) -> FormatError + use<> {
        let path = self.path.clone();
        move |source| FormatError::Io { path: path.clone(), action, source }
    }
}

/// Ok if [`replace`] could write so many bytes now: the folder takes a file, and the disk has room.
///
/// # Errors
/// What it would fail with.
pub fn can_replace(path: &Path, bytes: u64) -> Result<()> {
    Replacing::begin(path, bytes).map(|_| ())
}

/// Reserves the space that a file will need, so that a full disk is found before the work is done.
pub(crate) fn reserve(file: &File, bytes: u64) -> std::io::Result<()> {
    #[cfg(target_os = "linux")]
    match rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, bytes) {
        Ok(()) => return Ok(()),
        // Not every file system can reserve space: there a full disk shows at the write.
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {}
        Err(e) => return Err(e.into()),
    }
    file.set_len(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn it_replaces_or_leaves_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        replace(&path, b"old").unwrap();
        replace(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        can_replace(&path, 9).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new", "only asked");
        assert!(can_replace(&path.join("below"), 1).is_err() && can_replace(folder.path(), 1).is_err());
        assert!(can_replace(&path, 1 << 62).is_err(), "no disk has that much");
        assert!(replace(folder.path(), b"no file").is_err());
        assert!(replace(&path.join("below"), b"no folder").is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
