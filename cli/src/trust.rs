//! What a user may ask of a file before it runs: that its bytes are whole, and that a certain key signed them.

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
    #[arg(long, value_name = "PUB")]
    pub require_signer: Option<PathBuf>,
}

/// A file whose bytes are not the ones that were written.
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
    /// An engine of a file that is all that was asked for. Another signer's is refused before anything is loaded.
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
        // Of the bytes that run: another file may have come to the path's place meanwhile.
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
