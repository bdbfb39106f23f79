//! Checks the place of the output file before anything is written.

use crate::error::{Problems, What};
use crate::files::kind_name;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

/// What is equal where two names lead to one file; None for a file that is not there.
#[cfg(unix)]
fn identity(path: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(path).map(|m| (m.dev(), m.ino())).ok()
}

/// The same for links; a file with two names of its own is not recognised.
#[cfg(not(unix))]
fn identity(path: &Path) -> Option<PathBuf> {
    fs::canonicalize(path).ok()
}

/// Notes what is wrong with the place of the output; `sources` are the names and paths of the files it is made from. A
/// file there that does not begin with `magic`, as a model of the kind to write does, is replaced only by `force`: it may be
/// all that somebody has.
pub(crate) fn check(
    output: &Path,
    force: bool,
    magic: &[u8],
    sources: impl Iterator<Item = (String, PathBuf)>,
    problems: &Problems,
) {
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
    if let Ok(kind) = fs::metadata(output).map(|m| m.file_type())
        && !kind.is_file()
    {
        return place(format!("it names {}", kind_name(kind)));
    }
    let before = problems.len();
    for (source_file, path) in sources {
        if identity(&path).as_ref() == Some(&existing) {
            problems.file(output.display().to_string(), What::OutputIsSource { source_file });
        }
    }
    if problems.len() == before && !force && !is_ours(output, magic) {
        problems.file(output.display().to_string(), What::OutputForeign);
    }
}

/// Whether a file is such a model, or empty: then nothing of anybody's is lost with it.
fn is_ours(path: &Path, magic: &[u8]) -> bool {
    let mut start = Vec::new();
    let read = File::open(path).and_then(|file| file.take(magic.len() as u64).read_to_end(&mut start));
    read.is_ok() && (start.is_empty() || start == magic)
}
