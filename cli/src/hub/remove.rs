//! `nanoserve rm`: makes room in the cache.
//!
//! Only what lies in the cache itself goes. A link is removed, never what it leads to; a link in the place of a folder is
//! refused.

use super::ask::{Usual, ask, is_somebody_there};
use super::cache::Repo;
use super::error::HubError;
use super::list::{children, last, refs};
use super::name::{Name, is_commit};
use super::own::{self, ENDING};
use super::settings::Settings;
use crate::console::{self, size, tell};
use crate::programs::Program;
use anyhow::Result;
use clap::{Command, Parser, ValueEnum};
use std::collections::{BTreeSet, HashSet};
use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The fewest digits of a commit that may stand for it.
const FEWEST_DIGITS: usize = 7;

/// Remove a model from the cache.
#[derive(Debug, Parser)]
#[command(
    name = "nanoserve-rm",
    version,
    after_help = "\
Examples:
  nanoserve rm Qwen/Qwen2.5-0.5B-Instruct
  nanoserve rm Qwen/Qwen2.5-0.5B-Instruct --only hub --yes      keeps the file that run --hf made
  nanoserve rm ORG/NAME:7ae557604adf                            one revision, as nanoserve list shows it

Without a revision all of the model goes, downloads that were cut too; with one, what no other revision uses. Links are \
removed, never what they lead to outside of the cache.
Exit codes: 0 done; 1 the answer was no, or the disk failed; 2 it is not in the cache, or nobody can be asked."
)]
pub struct Remove {
    /// The model, and after a colon a branch, a tag or a commit [default: all of them]
    #[arg(value_name = "ORG/NAME[:REVISION]")]
    name: Name,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    /// Only the checkpoint as the Hub has it, or only what was converted of it
    #[arg(long, value_name = "hub|converted", hide_possible_values = true)]
    only: Option<Only>,
    /// Print nothing but errors
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Only {
    Hub,
    Converted,
}

impl Program for Remove {
    fn start(self, _: &mut Command) -> ExitCode {
        console::exit(self.run())
    }
}

impl Remove {
    fn run(&self) -> Result<ExitCode> {
        let (settings, name) = (Settings::read()?, &self.name);
        let repo = Repo::new(&settings.cache, &name.repo);
        let own = own::folder(&settings, &name.repo);
        let mut goes = Goes::default();
        if self.only != Some(Only::Converted) {
            of_hub(&repo, name, &mut goes)?;
        }
        if self.only != Some(Only::Hub) {
            of_own(&own, name, &mut goes)?;
        }
        if goes.paths.is_empty() {
            return Err(HubError::NotCached { name: name.to_string() }.into());
        }
        nobody_downloads(&repo)?;
        let what = format!("remove {name} ({}): {}", goes.parts.join(" and "), size(goes.bytes));
        if !self.yes {
            if !is_somebody_there() {
                return Err(HubError::NobodyToAsk { what }.into());
            }
            ask(&format!("{what}?"), Usual::No)?;
        }
        goes.remove()?;
        if !self.quiet {
            tell(format_args!("{} freed", size(goes.bytes)));
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// What is to go: files, links and whole folders.
#[derive(Debug, Default)]
struct Goes {
    paths: Vec<PathBuf>,
    bytes: u64,
    /// What it is, for a person.
    parts: Vec<&'static str>,
}

impl Goes {
    /// A file, a link, or a folder with all that is in it; nothing where nothing is.
    fn add(&mut self, path: PathBuf) {
        if path.symlink_metadata().is_ok() {
            self.bytes += bytes_in(&path);
            self.paths.push(path);
        }
    }

    fn remove(&self) -> Result<(), HubError> {
        for path in &self.paths {
            // The library removes links in a folder, and follows none.
            let removed = if is_folder(path) { fs::remove_dir_all(path) } else { fs::remove_file(path) };
            removed.map_err(HubError::io(path, "remove"))?;
        }
        Ok(())
    }
}

/// Whether a folder is here, and no link to one.
fn is_folder(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|m| m.is_dir())
}

/// Bytes of the files that are here themselves.
fn bytes_in(path: &Path) -> u64 {
    match path.symlink_metadata() {
        Ok(m) if m.is_dir() => children(path).iter().map(|path| bytes_in(path)).sum(),
        Ok(m) if m.is_file() => m.len(),
        _ => 0,
    }
}

/// Refuses a link in the place of a folder, or of one of those in it.
fn no_links(folder: &Path, below: &[&str]) -> Result<(), HubError> {
    let all = below.iter().map(|name| folder.join(name));
    match [folder.to_path_buf()].into_iter().chain(all).find(|path| path.is_symlink()) {
        Some(path) => Err(HubError::LeadsOut { path }),
        None => Ok(()),
    }
}

/// The commit that is meant, among those that are here: by a branch or tag, or by its first digits.
fn meant(name: &Name, folder: &Path, here: &[String]) -> Option<String> {
    let revision = name.revision.as_str();
    let by_name =
        refs(folder).into_iter().find(|(_, names)| names.iter().any(|n| n == revision)).map(|(commit, _)| commit);
    if let Some(commit) = by_name.filter(|commit| is_commit(commit) && here.contains(commit)) {
        return Some(commit);
    }
    let mut fits = here.iter().filter(|commit| revision.len() >= FEWEST_DIGITS && commit.starts_with(revision));
    fits.next().filter(|_| fits.next().is_none()).cloned()
}

/// The model's checkpoints, or the one of a revision with the bytes that no other uses.
fn of_hub(repo: &Repo, name: &Name, goes: &mut Goes) -> Result<(), HubError> {
    no_links(&repo.folder, &["snapshots", "blobs", "refs"])?;
    let all: Vec<PathBuf> =
        children(&repo.folder.join("snapshots")).into_iter().filter(|path| is_folder(path)).collect();
    let commits: Vec<String> = all.iter().map(|path| last(path)).collect();
    let commit = if name.is_pinned { meant(name, &repo.folder, &commits) } else { None };
    if name.is_pinned && commit.is_none() || !is_folder(&repo.folder) {
        return Ok(());
    }
    goes.parts.push("from the hub");
    let Some(commit) = commit.filter(|_| all.len() > 1) else {
        goes.add(repo.folder.clone());
        goes.add(repo.locks.clone());
        return Ok(());
    };
    let snapshot = repo.snapshot(&commit);
    let others: HashSet<OsString> = all.iter().filter(|path| **path != snapshot).flat_map(|path| blobs(path)).collect();
    for blob in blobs(&snapshot).difference(&others.into_iter().collect()) {
        goes.add(repo.folder.join("blobs").join(blob));
    }
    goes.add(snapshot);
    goes.add(repo.folder.join(".no_exist").join(&commit));
    goes.add(repo.folder.join("trees").join(format!("{commit}.json")));
    for revision in refs(&repo.folder).remove(&commit).into_iter().flatten() {
        goes.add(repo.folder.join("refs").join(revision));
    }
    Ok(())
}

/// The names of the bytes that the links of a snapshot lead to.
fn blobs(folder: &Path) -> BTreeSet<OsString> {
    let mut all = BTreeSet::new();
    for path in children(folder) {
        if is_folder(&path) {
            all.extend(blobs(&path));
        } else if let Ok(to) = fs::read_link(&path)
            && to.parent().is_some_and(|parent| parent.ends_with("blobs"))
        {
            all.extend(to.file_name().map(OsString::from));
        }
    }
    all
}

/// The files that were converted of the model, or the one of a revision.
fn of_own(folder: &Path, name: &Name, goes: &mut Goes) -> Result<(), HubError> {
    no_links(folder, &["refs"])?;
    let all: Vec<String> =
        children(folder).iter().filter_map(|path| last(path).strip_suffix(ENDING).map(str::to_string)).collect();
    let commit = if name.is_pinned { meant(name, folder, &all) } else { None };
    if name.is_pinned && commit.is_none() || !is_folder(folder) {
        return Ok(());
    }
    goes.parts.push("converted");
    match commit.filter(|_| all.len() > 1) {
        Some(commit) => {
            goes.add(folder.join(format!("{commit}{ENDING}")));
            for revision in refs(folder).remove(&commit).into_iter().flatten() {
                goes.add(folder.join("refs").join(revision));
            }
        }
        None => goes.add(folder.to_path_buf()),
    }
    Ok(())
}

/// Refuses while another program brings files of the model.
fn nobody_downloads(repo: &Repo) -> Result<(), HubError> {
    for path in children(&repo.locks) {
        let locked = File::open(&path).is_ok_and(|file| matches!(file.try_lock(), Err(TryLockError::WouldBlock)));
        if locked {
            return Err(HubError::Busy { path: repo.folder.clone() });
        }
    }
    Ok(())
}
