//! What a program gives up before it reads a model that somebody else made: a fault in what reads it could not then be used
//! to change files, to start programs or to reach the network.
//!
//! ```text
//! files    Landlock: files are made and written in the folders that were asked for alone; no program is started
//! calls    seccomp: the system calls of `calls.rs` alone, in every thread; no sockets, no new processes, no code made at run time
//! ```
//!
//! What is not given up: reading files, and what is open already. A system that has no Landlock or no seccomp is no reason to
//! refuse an answer: the program goes on with the other, and [`Held`] says which of them holds.

mod calls;
mod files;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Which parts of the sandbox hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Landlock.
    pub files: bool,
    /// Seccomp.
    pub calls: bool,
    /// Where files may still be made.
    folders: Vec<PathBuf>,
}

impl Held {
    /// What reports say of it.
    pub fn name(&self) -> &'static str {
        match (self.files, self.calls) {
            (true, true) => "on",
            (true, false) => "files",
            (false, true) => "calls",
            (false, false) => "off",
        }
    }

    /// Whether the sandbox is what keeps a file from being written.
    pub fn keeps(&self, path: &Path) -> bool {
        let is_inside = || {
            let real = real(path).unwrap_or_else(|_| path.to_path_buf());
            self.folders.iter().any(|folder| real.starts_with(folder))
        };
        (self.files || self.calls && self.folders.is_empty()) && !is_inside()
    }
}

/// What a process gave up: it does so once.
static HELD: OnceLock<Held> = OnceLock::new();

/// What this process gave up; nothing before [`enter`].
pub fn held() -> Held {
    HELD.get().cloned().unwrap_or_default()
}

/// Gives up what is not needed to run a model, for good. Files may still be made, written and replaced in `folders`, and in
/// what is below them. To be called before threads are started: on most systems, Landlock holds in the calling thread and
/// those that it starts.
pub fn enter(folders: &[PathBuf]) -> Held {
    let folders: Vec<PathBuf> = folders.iter().filter_map(|folder| fs::canonicalize(folder).ok()).collect();
    let held = HELD.get_or_init(|| {
        let files = files::give_up(&folders);
        Held { files, calls: calls::give_up(!folders.is_empty()), folders }
    });
    held.clone()
}

/// The folder that a file is in, or will be, links followed; None where there is no such folder.
pub fn folder_of(file: &Path) -> Option<PathBuf> {
    real(file).ok()?.parent().map(Path::to_path_buf)
}

fn real(file: &Path) -> io::Result<PathBuf> {
    if let Ok(real) = fs::canonicalize(file) {
        return Ok(real);
    }
    let folder = file.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
    Ok(fs::canonicalize(folder)?.join(file.file_name().unwrap_or_default()))
}

#[cfg(test)]
mod tests;
