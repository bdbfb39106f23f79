//! Where the files of a checkpoint folder may lie, and why one is not opened.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Why a file of a folder is not opened.
#[derive(Debug)]
pub(crate) enum Refused {
    /// There is nothing of that name.
    Absent,
    /// A link to something that is not there.
    Dangling(PathBuf),
    /// A link that leads out of the folder.
    Outside(PathBuf),
    /// Something else than a regular file.
    Kind(&'static str),
    /// The system's answer.
    System(io::Error),
}

/// The folders that a link in the folder at `path` may lead to, by their real paths: this one, and the blobs of the
/// hub's cache that it is a snapshot of.
pub(super) fn inside(path: &Path) -> io::Result<Vec<PathBuf>> {
    let real = fs::canonicalize(path)?;
    // models--org--name/snapshots/REVISION has links to ../../blobs/HASH.
    let snapshots = real.parent().filter(|parent| parent.ends_with("snapshots"));
    let blobs = snapshots.and_then(|s| Some(s.parent()?.join("blobs"))).filter(|blobs| blobs.is_dir());
    Ok(std::iter::once(real).chain(blobs).collect())
}
