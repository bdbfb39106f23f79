//! How a file of a checkpoint folder is opened where files are not opened as on Unix: by its real path, which must lie
//! inside. `root.rs` says why; here somebody who changes the folder meanwhile could still lead a name elsewhere.

use super::refused::Refused;
use crate::files::kind_name;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// A folder whose files are opened.
#[derive(Debug)]
pub(crate) struct Root {
    path: PathBuf,
    /// The folders that a link may lead to, by their real paths: this one and the blobs of its cache.
    inside: Vec<PathBuf>,
}

impl Root {
    /// The folder at `path`, which may be a link itself: the user gave it.
    pub fn open(path: &Path) -> io::Result<Root> {
        Ok(Root { path: path.to_path_buf(), inside: super::refused::inside(path)? })
    }

    /// A regular file of the folder, open for reading.
    pub fn file(&self, name: impl AsRef<Path>) -> Result<File, Refused> {
        let real = self.real(name.as_ref())?;
        let kind = fs::metadata(&real).map_err(Refused::System)?.file_type();
        if kind.is_file() { File::open(real).map_err(Refused::System) } else { Err(Refused::Kind(kind_name(kind))) }
    }

    /// The names in a folder of the folder, in order; none where there is no folder of that name.
    pub fn names(&self, folder: impl AsRef<Path>) -> Result<Vec<String>, Refused> {
        let real = match self.real(folder.as_ref()) {
            Err(Refused::Absent) => return Ok(Vec::new()),
            found => found?,
        };
        if !real.is_dir() {
            return Ok(Vec::new());
        }
        let entries = fs::read_dir(real).map_err(Refused::System)?.flatten();
        let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        Ok(names)
    }

    /// Where a name leads.
    fn real(&self, name: &Path) -> Result<PathBuf, Refused> {
        let path = self.path.join(name);
        let real = fs::canonicalize(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => fs::read_link(&path).map_or(Refused::Absent, Refused::Dangling),
            io::ErrorKind::NotADirectory => Refused::Absent,
            _ => Refused::System(error),
        })?;
        match self.inside.iter().any(|folder| real.starts_with(folder)) {
            true => Ok(real),
            false => Err(Refused::Outside(fs::read_link(&path).unwrap_or(real))),
        }
    }
}
