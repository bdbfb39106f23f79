//! `--prompt-cache`: keys and values that a run keeps in a file for the next run.

use crate::console::{self, FAILED};
use crate::{hub, sandbox};
use anyhow::Result;
use clap::Args;
use nanoserve_format::{NsvFile, UserKey, can_replace};
use nanoserve_runtime::backend::{Backend, BackendKind};
use nanoserve_runtime::engine::prompt_cache::{PromptCache, most_bytes, save};
use nanoserve_runtime::{KvType, RuntimeError, Session};
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The file of the key that marks prompt caches, in the folder of what nanoserve keeps for the user.
const KEY: &str = "prompt-cache.key";

/// Where a prompt's keys and values are kept.
#[derive(Debug, Args)]
#[command(next_help_heading = "The prompt's cache")]
pub struct Cache {
    /// Keep the prompt's keys and values in FILE; the next run computes only what its prompt does not share with this one. A
    /// conversation that goes on is kept as it ends
    #[arg(long, value_name = "FILE")]
    prompt_cache: Option<PathBuf>,
    /// Keep the answer's as well
    #[arg(long, requires = "prompt_cache", conflicts_with = "n_samples")]
    prompt_cache_all: bool,
    /// Use the file and do not write it
    #[arg(long, requires = "prompt_cache", conflicts_with = "prompt_cache_all")]
    prompt_cache_ro: bool,
}

/// The moments at which a session may be saved.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum When {
    /// After the prompt has run.
    Prompt,
    /// After the answer.
    Answer,
    /// The conversation is at its end.
    End,
}

/// The cache that a run found, and where it saves its own. If the file cannot be written, the program warns and still answers.
#[derive(Debug)]
pub struct Kept<'c> {
    /// Where to write, and when.
    to: Option<(&'c Path, When)>,
    kv_type: KvType,
    /// The user's key, if they can have one.
    key: Option<UserKey>,
    found: Option<PromptCache>,
    /// The tokens that the file holds.
    held: Vec<u32>,
    /// Bytes and tokens written.
    saved: Option<(usize, usize)>,
    failed: bool,
}

impl Cache {
    /// The folder that the file will be written in, if it is written. The user's key, which is in another, is made.
    pub fn prepare(&self) -> Option<PathBuf> {
        let path = self.prompt_cache.as_ref()?;
        // What fails here fails again where it is told.
        let _ = hub::own_folder().map(|folder| UserKey::of_folder(&folder, KEY));
        if self.prompt_cache_ro { None } else { sandbox::folder_of(path) }
    }

    /// The file's contents, if there are any, for this model. Where a model's signer is `required`, what runs must be theirs
    /// or this user's: the file must carry the mark of the user's key.
    pub fn open(&self, model: &NsvFile, kv_type: KvType, kind: BackendKind, required: bool) -> Result<Kept<'_>> {
        let mut kept = Kept { kv_type, ..Kept::nothing() };
        if let Some(path) = &self.prompt_cache {
            let key = hub::own_folder()
                .map_err(anyhow::Error::from)
                .and_then(|folder| UserKey::of_folder(&folder, KEY).map_err(anyhow::Error::from));
            kept.key = match key {
                Err(e) if required => return Err(e.context("no key marks this user's prompt caches")),
                key => key.ok(),
            };
            let found = PromptCache::read(path, model, kv_type, kind, kept.key.as_ref());
            kept.found = found.map_err(RuntimeError::from)?;
            if let Some(found) = kept.found.as_ref().filter(|_| required) {
                found.require_own().map_err(RuntimeError::from)?;
            }
            let when = if self.prompt_cache_all { When::Answer } else { When::Prompt };
            kept.to = (!self.prompt_cache_ro).then_some((path.as_path(), when));
        }
        Ok(kept)
    }
}

impl Kept<'_> {
    /// Where no cache was asked for.
    pub fn nothing() -> Self {
        Kept { to: None, kv_type: KvType::F16, key: None, found: None, held: Vec::new(), saved: None, failed: false }
    }

    /// Positions that a session needs for what was found.
    pub fn tokens(&self) -> usize {
        self.found.as_ref().map_or(0, |found| found.ids().len())
    }

    /// Says that the conversation goes on: nothing is written before its end.
    pub fn at_end(&mut self) {
        self.to = self.to.map(|(path, _)| (path, When::End));
    }

    /// Puts what was found into an empty session.
    pub fn restore<B: Backend>(&mut self, session: &mut Session<B>) -> Result<()> {
        if let Some(found) = self.found.take() {
            found.restore(session).map_err(RuntimeError::from)?;
            self.held = found.ids().to_vec();
        }
        Ok(())
    }

    /// Warns before the prompt runs if its keys and values cannot be written.
    pub fn begin<B: Backend>(&mut self, session: &Session<B>, prompt: &[u32], answer: Option<usize>) {
        let Some((path, when)) = self.to.filter(|(_, when)| *when != When::Prompt || prompt != self.held) else {
            return;
        };
        let answer = if when == When::Prompt { 0 } else { answer.unwrap_or(0) };
        let tokens = prompt.len().saturating_add(answer).min(session.capacity());
        if let Err(e) = can_replace(path, most_bytes(session, tokens, self.kv_type)) {
            self.give_up(e);
        }
    }

    /// Writes what the session holds, if it is time, and not there already.
    pub fn save<B: Backend>(&mut self, now: When, session: &Session<B>) {
        let Some((path, _)) = self.to.filter(|(_, when)| *when == now && session.ids() != self.held) else { return };
        match save(session, path, self.kv_type, self.key.as_ref()) {
            Ok(bytes) => self.saved = Some((bytes, session.ids().len())),
            Err(e) => self.give_up(e),
        }
    }

    fn give_up(&mut self, why: impl Display) {
        console::tell(format_args!("warning: the prompt cache is not kept: {why}"));
        (self.to, self.failed) = (None, true);
    }

    /// Says what was written.
    pub fn tell(&self) {
        if let Some((bytes, tokens)) = self.saved {
            console::tell(format_args!("prompt cache: {tokens} tokens, {:.2} MB", bytes as f64 / 1e6));
        }
    }

    /// The exit code of a run that did all else.
    pub fn code(&self) -> ExitCode {
        if self.failed { ExitCode::from(FAILED) } else { ExitCode::SUCCESS }
    }
}
