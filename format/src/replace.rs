//! Replaces small files atomically, as a [`Writer`](crate::Writer) does with a model.

use crate::error::{FileAction, FormatError, Result};
use crate::writer::temporary_sibling;
use std::io::Write;
use std::path::Path;

/// Replaces the file `path` with `bytes`, all of them; on failure the old file stays.
///
/// # Errors
/// When the system fails.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let failed = |action| move |source| FormatError::Io { path: path.to_path_buf(), action, source };
    let (real, mut temp) = temporary_sibling(path)?;
    temp.write_all(bytes).and_then(|()| temp.as_file().sync_all()).map_err(failed(FileAction::Write))?;
    temp.persist(real).map_err(|e| failed(FileAction::RenameTo)(e.error))?;
    Ok(())
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
        assert!(replace(folder.path(), b"no file").is_err());
        assert!(replace(&path.join("below"), b"no folder").is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
