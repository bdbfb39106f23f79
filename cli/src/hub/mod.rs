//! Models from the Hugging Face Hub: `nanoserve pull`, `list`, `rm`, and what `convert ORG/NAME` and `run --hf` need.
//!
//! The cache is the one of Hugging Face's own tools ([`cache`]), so that a model which either brought is there for both.
//! Everything that comes is held against the Hub's hash before it gets its name ([`download`]). The network is used by
//! `pull`, and by the others only after a yes ([`ask`]).

mod ask;
mod cache;
mod download;
mod error;
mod http;
mod list;
mod name;
mod own;
mod pull;
mod remove;
mod settings;
mod wanted;

pub use error::HubError;
pub use list::List;
pub use name::Name;
pub use own::{model, touch};
pub use remove::Remove;
pub use settings::own_folder;

use crate::console::{self, tell};
use crate::programs::Program;
use crate::stop;
use anyhow::Result;
use cache::Repo;
use clap::{Command, Parser};
use pull::{Plan, Source};
use settings::Settings;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Download a model from the Hugging Face Hub into its cache.
#[derive(Debug, Parser)]
#[command(
    name = "nanoserve-pull",
    version,
    after_help = "\
Examples:
  nanoserve pull Qwen/Qwen2.5-0.5B-Instruct
  nanoserve convert Qwen/Qwen2.5-0.5B-Instruct qwen.nsv
  nanoserve pull ORG/NAME:v1.0
  HF_TOKEN=hf_... nanoserve pull meta-llama/Llama-3.2-1B

Only files that a conversion reads are downloaded. A download that was cut continues where it ended. Each file is compared \
with the Hub's hash. Standard output is the folder of the files. The cache is that of Hugging Face's own tools: HF_HOME, HF_HUB_CACHE, \
HF_TOKEN (or the token that 'hf auth login' keeps), HF_ENDPOINT and HF_HUB_OFFLINE mean what they mean there.
Exit codes: 0 done; 1 the network, the disk or a hash failed; 2 there is no such model or revision, or not for you; 130 \
stopped with Ctrl-C."
)]
pub struct Pull {
    /// The model, and after a colon a branch, a tag or a commit [default: main]
    #[arg(value_name = "ORG/NAME[:REVISION]")]
    name: Name,
    /// Print the folder and errors, nothing else
    #[arg(short, long)]
    quiet: bool,
    /// Print one JSON object instead of the folder
    #[arg(long)]
    json: bool,
}

impl Program for Pull {
    fn start(self, _: &mut Command) -> ExitCode {
        console::exit(self.run())
    }
}

impl Pull {
    fn run(&self) -> Result<ExitCode> {
        let (settings, name) = (Settings::read()?, &self.name);
        let (folder, bytes) = if settings.offline {
            let here = Repo::new(&settings.cache, &name.repo).whole(&name.revision, true);
            let missing = || HubError::Offline { name: name.to_string(), cache: settings.cache.clone() };
            (here.ok_or_else(missing)?, 0)
        } else {
            let plan = Plan::new(&settings, name)?;
            if !self.quiet {
                tell(plan.summary());
            }
            let bytes = plan.bytes();
            (plan.run(self.quiet, &stop::listen(|| {})?)?, bytes)
        };
        if !self.quiet {
            tell(format_args!("next: nanoserve convert {name} model.nsv"));
        }
        let text = match self.json {
            true => {
                let commit = folder.file_name().unwrap_or_default().display().to_string();
                console::json(&serde_json::json!({
                    "model": name.repo, "revision": name.revision, "commit": commit, "folder": folder, "downloaded": bytes,
                }))
            }
            false => folder.display().to_string(),
        };
        console::print(format_args!("{text}\n"), true)
    }
}

/// What `convert` reads: a folder, or a model that is to become one.
#[derive(Debug)]
pub struct Checkpoint(Source);

impl Checkpoint {
    /// What a path means: itself where something is there; else, where it may be a model's name, that model. Asks before
    /// anything is downloaded, where `yes` does not say so.
    ///
    /// # Errors
    /// Those of [`HubError`].
    pub fn find(path: &Path, yes: bool, quiet: bool) -> Result<Checkpoint, HubError> {
        // A link that leads nowhere is there too.
        let name = if path.symlink_metadata().is_ok() { None } else { Name::of_path(path) };
        Ok(Checkpoint(match name {
            Some(name) => Source::find(&Settings::read()?, &name, yes, quiet)?,
            None => Source::Here(path.to_path_buf()),
        }))
    }

    /// The folder; brings what is missing.
    ///
    /// # Errors
    /// Those of [`HubError`].
    pub fn folder(self, quiet: bool, cancel: &Arc<AtomicBool>) -> Result<PathBuf, HubError> {
        self.0.folder(quiet, cancel)
    }
}
