//! Checks the place of the output file before anything is written.

use crate::error::{Problems, What};
use std::fs;
use std::path::{Path, PathBuf};

/// What is equal where two names lead to one file; None for a file that is not there.
#[cfg(unix)]
fn identity(path: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(path).map(|m| (m.dev(), m.ino())).ok()
}

/// What is equal where two names lead to one file, hard links aside; None for a file that is not there.
#[cfg(not(unix))]
fn identity(path: &Path) -> Option<PathBuf> {
    fs::canonicalize(path).ok()
}

/// Notes what is wrong with the place of the output; `sources` are the names and paths of the files it is made from.
pub(crate) fn check(output: &Path, sources: impl Iterator<Item = (String, PathBuf)>, problems: &Problems) {
    let place = |got: String| problems.file(output.display().to_string(), What::OutputPlace { got });
    if output.file_name().is_none() || fs::metadata(output).is_ok_and(|m| m.is_dir()) {
        return place("it names a folder".to_string());
    }
    let folder = output.parent().filter(|p| *p != Path::new("")).unwrap_or(Path::new("."));
    match fs::metadata(folder) {
        Ok(m) if m.is_dir() => {}
        Ok(_) => return place(format!("{} is not a folder", folder.display())),
        Err(e) => return place(format!("the folder {}: {e}", folder.display())),
    }
    // Compared by identity, not by name: two links may lead to one file.
    let Some(existing) = identity(output) else { return };
    for (source_file, path) in sources {
        if identity(&path) == Some(existing) {
            problems.file(output.display().to_string(), What::OutputIsSource { source_file });
        }
    }
}
