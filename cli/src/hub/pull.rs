//! A model comes: what is missing of it is planned, then brought.

use super::cache::Repo;
use super::download::{self, Item, Way};
use super::error::HubError;
use super::http::Client;
use super::name::Name;
use super::settings::Settings;
use super::wanted::{INDEX, TOKENIZER, wanted};
use crate::console::{size, tell};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use nanoserve_format::Foreign;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

/// How often Ctrl-C is looked for, whatever the network does.
const LOOK: Duration = Duration::from_millis(100);
/// How long the download may take to end by itself.
const GRACE: Duration = Duration::from_millis(500);
/// The most characters of a file's name beside the bar.
const NAME: usize = 32;

/// What is missing of a model.
#[derive(Clone, Debug)]
pub struct Plan {
    client: Client,
    repo: Repo,
    name: Name,
    /// The commit that the revision is now.
    pub commit: String,
    /// Whether the model has a vocabulary.
    has_tokenizer: bool,
    items: Vec<Item>,
}

impl Plan {
    /// Asks the Hub.
    ///
    /// # Errors
    /// Those of [`HubError`].
    pub fn new(settings: &Settings, name: &Name) -> Result<Plan, HubError> {
        let (client, repo) = (Client::new(settings)?, Repo::new(&settings.cache, &name.repo));
        let info = client.info(name)?;
        let commit = info.sha.clone();
        let files = wanted(&name.repo, &info, || client.small(name, &commit, INDEX))?;
        let folder = repo.snapshot(&commit);
        let missing = files.iter().filter(|file| !folder.join(file).exists());
        let item = |file: &String| Ok(Item { file: file.clone(), remote: client.remote(name, &commit, file)? });
        let items = missing.map(item).collect::<Result<_, HubError>>()?;
        Ok(Plan {
            client,
            repo,
            name: name.clone(),
            commit,
            has_tokenizer: files.iter().any(|f| f == TOKENIZER),
            items,
        })
    }

    /// Bytes that are still to come.
    pub fn bytes(&self) -> u64 {
        let length = |path: PathBuf| fs::metadata(path).map_or(0, |m| m.len());
        let missing = |item: &Item| {
            let (etag, size) = (&item.remote.etag, item.remote.size);
            let here = if length(self.repo.blob(etag)) == size { size } else { length(self.repo.partial(etag)) };
            size.saturating_sub(here)
        };
        self.items.iter().map(missing).sum()
    }

    /// What is to come, in words.
    pub fn summary(&self) -> String {
        let s = if self.items.len() == 1 { "" } else { "s" };
        format!(
            "{} at {}: {} file{s}, {} to download",
            self.name,
            &self.commit[..12],
            self.items.len(),
            size(self.bytes())
        )
    }

    /// Brings it. Returns the folder of its files.
    ///
    /// # Errors
    /// Those of [`HubError`]; what came stays for the next try.
    pub fn run(self, quiet: bool, cancel: &Arc<AtomicBool>) -> Result<PathBuf, HubError> {
        self.has_room()?;
        let target = if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let bar = ProgressBar::with_draw_target(Some(self.items.iter().map(|i| i.remote.size).sum()), target);
        let style = "{msg} {wide_bar} {decimal_bytes}/{decimal_total_bytes}, {decimal_bytes_per_sec}, {eta} left";
        bar.set_style(ProgressStyle::with_template(style).expect("the template is a constant"));
        // It is drawn while nothing comes, too.
        bar.enable_steady_tick(LOOK);
        let (shown, flag) = (bar.clone(), cancel.clone());
        let folder = watched(cancel, move || self.bring(&shown, &flag));
        bar.finish_and_clear();
        folder
    }

    fn has_room(&self) -> Result<(), HubError> {
        let (need, folder) = (self.bytes(), &self.repo.cache);
        fs::create_dir_all(folder).map_err(HubError::io(folder, "make the folder"))?;
        match room(folder) {
            Some(room) if room < need => Err(HubError::NoRoom { folder: folder.clone(), need, room }),
            _ => Ok(()),
        }
    }

    fn bring(self, bar: &ProgressBar, cancel: &AtomicBool) -> Result<PathBuf, HubError> {
        let way = Way { client: &self.client, repo: &self.repo, name: &self.name, commit: &self.commit, cancel };
        let mut done = 0;
        for item in &self.items {
            bar.set_message(shown(&item.file));
            // What an earlier try left says nothing of this connection's speed.
            let mut is_first = true;
            download::bring(way, item, &mut |here| {
                bar.set_position(done + here);
                if std::mem::take(&mut is_first) {
                    bar.reset_eta();
                }
            })?;
            done += item.remote.size;
        }
        if !self.has_tokenizer {
            self.repo.note_missing(&self.commit, TOKENIZER);
        }
        // Only now: until all is here, the revision is what it was.
        self.repo.note(&self.name.revision, &self.commit)?;
        Ok(self.repo.snapshot(&self.commit))
    }
}

/// The end of a file's name, padded.
fn shown(file: &str) -> String {
    let file = Foreign(file).to_string();
    let end: Vec<char> = file.chars().rev().take(NAME).collect();
    format!("{:NAME$}", end.into_iter().rev().collect::<String>())
}

/// Bytes that are free on a folder's file system; None where the system does not say.
#[cfg(unix)]
fn room(folder: &std::path::Path) -> Option<u64> {
    let all = rustix::fs::statvfs(folder).ok()?;
    Some(all.f_bavail.saturating_mul(all.f_frsize))
}

#[cfg(not(unix))]
fn room(_: &std::path::Path) -> Option<u64> {
    None
}

/// Does work on another thread, and stops to wait for it soon after Ctrl-C: a connection that hangs listens to nobody. The
/// thread ends with the program; what it left is in order at any time.
fn watched<T: Send + 'static>(
    cancel: &AtomicBool,
    work: impl FnOnce() -> Result<T, HubError> + Send + 'static,
) -> Result<T, HubError> {
    let (send, receive) = channel();
    let worker = std::thread::spawn(move || send.send(work()).is_ok());
    loop {
        match receive.recv_timeout(LOOK) {
            Ok(result) => return result,
            Err(RecvTimeoutError::Timeout) if cancel.load(Ordering::Relaxed) => {
                return receive.recv_timeout(GRACE).unwrap_or(Err(HubError::Cancelled));
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => match worker.join() {
                Err(panic) => std::panic::resume_unwind(panic),
                Ok(_) => unreachable!("it sends before it ends"),
            },
        }
    }
}

/// A model that is here, or has to come.
#[derive(Clone, Debug)]
pub enum Source {
    /// The folder of its files.
    Here(PathBuf),
    /// What is missing.
    Away(Box<Plan>),
}

impl Source {
    /// Looks into the cache and, where it is not there, asks whether it may come: the user, where `yes` does not say so.
    ///
    /// # Errors
    /// Those of [`HubError`].
    pub fn find(settings: &Settings, name: &Name, yes: bool, quiet: bool) -> Result<Source, HubError> {
        let repo = Repo::new(&settings.cache, &name.repo);
        if let Some(folder) = repo.whole(&name.revision, settings.offline) {
            return Ok(Source::Here(folder));
        }
        if settings.offline {
            return Err(HubError::Offline { name: name.to_string(), cache: settings.cache.clone() });
        }
        let host = settings.host();
        if !yes && !super::ask::is_somebody_there() {
            let what =
                format!("{name} is no folder here and no model in the cache; it would be downloaded from {host}");
            return Err(HubError::NobodyToAsk { what });
        }
        if !quiet {
            tell(format_args!("{name} is no folder here and no model in the cache: asking {host}"));
        }
        let plan = Plan::new(settings, name)?;
        if yes {
            if !quiet {
                tell(plan.summary());
            }
        } else {
            let question = format!("{}, from {host} into {}. Go on?", plan.summary(), settings.cache.display());
            super::ask::ask(&question, super::ask::Usual::Yes)?;
        }
        Ok(Source::Away(Box::new(plan)))
    }

    /// The folder of its files; brings what is missing.
    ///
    /// # Errors
    /// Those of [`HubError`].
    pub fn folder(self, quiet: bool, cancel: &Arc<AtomicBool>) -> Result<PathBuf, HubError> {
        match self {
            Source::Here(folder) => Ok(folder),
            Source::Away(plan) => plan.run(quiet, cancel),
        }
    }
}
