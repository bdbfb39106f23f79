//! `--prompt-cache`: keys and values that a run keeps in a file for the next run.

use anyhow::Result;
use clap::Args;
use nanoserve_format::NsvFile;
use nanoserve_runtime::backend::{Backend, BackendKind};
use nanoserve_runtime::engine::prompt_cache::{PromptCache, save};
use nanoserve_runtime::{KvType, RuntimeError, Session};
use std::path::PathBuf;

/// Where a prompt's keys and values are kept.
#[derive(Debug, Args)]
#[command(next_help_heading = "The prompt's cache")]
pub struct Cache {
    /// Keep the prompt's keys and values in FILE; the next run computes only what its prompt does not share with this one
    #[arg(long, value_name = "FILE")]
    prompt_cache: Option<PathBuf>,
    /// Keep the answer's as well
    #[arg(long, requires = "prompt_cache")]
    prompt_cache_all: bool,
    /// Use the file and do not write it
    #[arg(long, requires = "prompt_cache", conflicts_with = "prompt_cache_all")]
    prompt_cache_ro: bool,
}

/// The moments at which a session may be saved.
#[derive(Clone, Copy, PartialEq)]
pub enum When {
    /// After the prompt has run.
    Prompt,
    /// After the answer.
    Answer,
}

impl Cache {
    /// The file's contents; None if there is no file or none was asked for.
    pub fn read(&self, model: &NsvFile, kv_type: KvType, kind: BackendKind) -> Result<Option<PromptCache>> {
        let Some(path) = &self.prompt_cache else { return Ok(None) };
        Ok(PromptCache::read(path, &model.layout().root, kv_type, kind).map_err(RuntimeError::from)?)
    }

    /// Writes the session's keys and values, unless the options ask for the other moment or the file holds the same
    /// tokens already. Returns the bytes and tokens written.
    pub fn save<B: Backend>(
        &self,
        when: When,
        session: &Session<B>,
        before: Option<&PromptCache>,
        kv_type: KvType,
    ) -> Result<Option<(usize, usize)>> {
        let Some(path) = self.prompt_cache.as_ref().filter(|_| !self.prompt_cache_ro) else { return Ok(None) };
        let due = (when == When::Answer) == self.prompt_cache_all;
        if !due || before.is_some_and(|before| before.ids() == session.ids()) {
            return Ok(None);
        }
        Ok(Some((save(session, path, kv_type)?, session.ids().len())))
    }
}
