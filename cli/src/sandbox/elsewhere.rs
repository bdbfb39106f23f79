//! Systems without Landlock and seccomp: nothing is given up.

use std::path::{Path, PathBuf};

/// As on Linux, and always nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held;

impl Held {
    /// What reports say of it.
    pub fn name(&self) -> &'static str {
        "off"
    }

    /// Whether the sandbox is what keeps a file from being written: never.
    pub fn keeps(&self, _path: &Path) -> bool {
        false
    }
}

/// What this process gave up.
pub fn held() -> Held {
    Held
}

/// Gives up nothing.
pub fn enter(_folders: &[PathBuf]) -> Held {
    Held
}

/// The folder that a file is in, or will be; None where there is no such folder.
pub fn folder_of(file: &Path) -> Option<PathBuf> {
    file.parent().map(Path::to_path_buf)
}
