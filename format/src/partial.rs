//! The file that is written beside another one and takes its name at the end: `.NAME.XXXXXX.partial`.
//!
//! ```text
//! the writer      creates it under a name that is free, locks it, and looks whether the name is still that of the locked
//!                 file; else it begins again
//! another writer  opens what has such a name, locks it if nobody has, looks in the same way, and removes it
//! ```
//!
//! So each holds the lock of what its name names before it trusts or removes it, and no writer loses its file to another.
//! The trap: anybody may have put anything under such a name. It is opened without waiting and without following links, and
//! what is no regular file stays where it is.

use crate::error::{FileAction, FormatError, Result};
use crate::signal;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

const ENDING: &str = ".partial";

/// How often a writer begins again because another one took its file for a leftover: that takes an unlikely moment each time.
const ATTEMPTS: usize = 100;

/// A new file beside `path`, with the mode that a new file gets, removed when dropped; and `path` with links resolved.
///
/// Removes files that killed programs left behind; files still being written are locked.
pub(crate) fn temporary_sibling(path: &Path) -> Result<(PathBuf, NamedTempFile)> {
    let failed = |action| move |source| FormatError::Io { path: path.to_path_buf(), action, source };
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    if fs::metadata(&path).is_ok_and(|m| !m.is_file()) {
        let source = io::Error::other("it exists and is not a regular file");
        return Err(FormatError::Io { path, action: FileAction::Write, source });
    }
    let Some(name) = path.file_name().and_then(|n| n.to_str()) else {
        return Err(failed(FileAction::Create)(io::Error::other("it needs a file name in UTF-8")));
    };
    let folder = match path.parent() {
        Some(p) if p != Path::new("") => p,
        _ => Path::new("."),
    };
    let prefix = format!(".{name}.");
    for entry in fs::read_dir(folder).map_err(failed(FileAction::Create))?.flatten() {
        if entry.file_name().to_str().is_some_and(|n| n.starts_with(&prefix) && n.ends_with(ENDING)) {
            remove_leftover(&entry.path());
        }
    }
    // The error's own text repeats the temporary name, which means nothing to the user.
    let temp =
        signal::unfinished(|| create(folder, &prefix)).map_err(|e| failed(FileAction::Create)(e.kind().into()))?;
    Ok((path, temp))
}

fn create(folder: &Path, prefix: &str) -> io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(prefix).suffix(ENDING);
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    for _ in 0..ATTEMPTS {
        let temp = builder.tempfile_in(folder)?;
        match temp.as_file().try_lock() {
            // Where files cannot be locked, nobody takes them for leftovers.
            Err(fs::TryLockError::Error(_)) => return Ok(temp),
            Ok(()) if names(temp.path(), temp.as_file()) => return Ok(temp),
            // Another writer came between, and has removed it or is about to.
            Ok(()) | Err(fs::TryLockError::WouldBlock) => {}
        }
    }
    Err(io::ErrorKind::ResourceBusy.into())
}

/// Removes a file that no program is writing.
fn remove_leftover(path: &Path) {
    let Ok(file) = open(path) else { return };
    if file.metadata().is_ok_and(|found| found.is_file()) && file.try_lock().is_ok() && names(path, &file) {
        let _ = fs::remove_file(path);
    }
}

/// Opens what is there, without waiting for the other end of a pipe, and no link's target.
fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, libc::O_NONBLOCK | libc::O_NOFOLLOW | libc::O_NOCTTY);
    options.open(path)
}

/// Whether a name is that of an open file.
#[cfg(unix)]
fn names(path: &Path, file: &File) -> bool {
    use std::os::unix::fs::MetadataExt;
    let place = |found: &fs::Metadata| (found.dev(), found.ino());
    matches!((&fs::symlink_metadata(path), &file.metadata()), (Ok(a), Ok(b)) if place(a) == place(b))
}

/// Elsewhere an open file keeps its name.
#[cfg(not(unix))]
fn names(path: &Path, _: &File) -> bool {
    path.exists()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replace;

    /// Many writers in one place: each takes its turn, none loses its file to another that cleans up, and nothing is left.
    #[test]
    fn writers_in_one_place_do_not_take_each_others_files() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        std::thread::scope(|s| {
            for writer in 0..8u8 {
                let path = &path;
                s.spawn(move || (0..60).for_each(|_| replace(path, &[writer; 5000]).unwrap()));
            }
        });
        let whole = fs::read(&path).unwrap();
        assert!(whole.len() == 5000 && whole.iter().all(|&b| b == whole[0]));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn what_is_no_leftover_stays_and_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let (pipe, link, inside, plain) =
            (at(".out.a.partial"), at(".out.b.partial"), at(".out.c.partial"), at(".out.d.partial"));
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        fs::write(at("mine"), "mine").unwrap();
        std::os::unix::fs::symlink(at("mine"), &link).unwrap();
        fs::create_dir(&inside).unwrap();
        fs::write(&plain, "half").unwrap();
        replace(&at("out"), b"new").unwrap();
        assert_eq!(fs::read(at("out")).unwrap(), b"new");
        assert_eq!(fs::read(at("mine")).unwrap(), b"mine");
        let there = [&pipe, &link, &inside, &plain].map(|path| fs::symlink_metadata(path).is_ok());
        assert_eq!(there, [true, true, true, false]);
    }

    /// A name that another file has got since it was opened.
    #[test]
    fn a_name_is_compared_with_the_file_that_is_locked() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("a"), folder.path().join("b"));
        fs::write(&path, "first").unwrap();
        let file = open(&path).unwrap();
        assert!(names(&path, &file));
        fs::write(&other, "second").unwrap();
        fs::rename(&other, &path).unwrap();
        assert!(!names(&path, &file));
        fs::remove_file(&path).unwrap();
        assert!(!names(&path, &file));
    }
}
