//! Checks that a user may require before a file runs: that its bytes are intact, and that a certain key signed them.

use crate::console::in_file;
use crate::machine::{Engine, Where};
use anyhow::{Context, Result, bail};
use clap::Args;
use nanoserve_format::{Damage, NsvFile, PublicKey};
use nanoserve_runtime::{EngineOptions, RuntimeError};
use std::path::{Path, PathBuf};

/// What must be true of a file before it runs.
#[derive(Debug, Args)]
pub struct Trust {
    /// Hold every byte of the file against its hashes before the first token
    #[arg(long)]
    pub check: bool,
    /// Run nothing but what this key (a file, or its 64 hex digits) signed; every byte is checked, as with --check
    #[arg(long, value_name = "PUB", env = "NANOSERVE_REQUIRE_SIGNER")]
    pub require_signer: Option<PathBuf>,
}

/// The error about a file with damaged bytes.
#[derive(Debug, thiserror::Error)]
#[error("{}: damaged: {}", path.display(), list(damage))]
pub struct Damaged {
    path: PathBuf,
    damage: Vec<Damage>,
}

impl Damaged {
    /// A file, and what of it is damaged.
    pub fn new(path: &Path, damage: Vec<Damage>) -> Damaged {
        Damaged { path: path.to_path_buf(), damage }
    }
}

fn list(damage: &[Damage]) -> String {
    let parts = damage.iter().map(|d| format!("{} bytes {}..{}", d.what, d.range.start, d.range.end));
    parts.collect::<Vec<_>>().join("; ")
}

impl Trust {
    /// Opens a file that passes the required checks. A file of another signer is refused before anything is loaded.
    pub fn open(&self, path: &Path, place: Where, options: &EngineOptions) -> Result<Engine> {
        let signer = self.require_signer.as_deref().map(PublicKey::read).transpose()?;
        let signed = |file: &NsvFile| match signer {
            Some(key) => file.layout().require_signer(&key).with_context(|| path.display().to_string()),
            None => Ok(()),
        };
        if signer.is_some() {
            signed(&NsvFile::open(path).map_err(RuntimeError::from).map_err(in_file(path))?)?;
        }
        let engine = place.open(path, options)?;
        // Checks the open file again: another file may have replaced the one at this path meanwhile.
        signed(engine.file())?;
        if self.check || signer.is_some() {
            let damage = engine.file().check();
            if !damage.is_empty() {
                bail!(Damaged::new(path, damage));
            }
        }
        Ok(engine)
    }
}
