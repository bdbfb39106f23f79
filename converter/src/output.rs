//! Checks the place of the output file before anything is written.

use crate::error::{Problems, What};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

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
    let identity = |path: &Path| fs::metadata(path).map(|m| (m.dev(), m.ino())).ok();
    let Some(existing) = identity(output) else { return };
    for (source_file, path) in sources {
        if identity(&path) == Some(existing) {
            problems.file(output.display().to_string(), What::OutputIsSource { source_file });
        }
    }
}
