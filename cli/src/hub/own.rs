//! Files that were converted for `run --hf`, kept in the user's cache: the next start finds them by the model's name.
//!
//! They are laid out as the Hub's cache is, in a folder for each model: `COMMIT-q8.nsv`, and in `refs` the commit that a
//! revision was.

use super::cache::{Repo, commit_in, folder_name, note_in};
use super::error::HubError;
use super::name::Name;
use super::pull::Source;
use super::settings::Settings;
use crate::console::tell;
use crate::{convert, stop};
use anyhow::Result;
use std::fs::{self, File, FileTimes};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// How the names of the files end, after the commit.
pub const ENDING: &str = "-q8.nsv";

/// A model's folder of converted files.
pub fn folder(settings: &Settings, repo: &str) -> PathBuf {
    settings.own.join(folder_name(repo))
}

/// The file of a model at its revision. Where it is not there, the model is brought, which the user is asked for, and
/// converted. `cache` is the folder that the user names for converted files. Ctrl-C is listened for after the question, and
/// `restore` is [`stop::listen`]'s.
///
/// # Errors
/// Those of [`HubError`] and of a conversion.
pub fn model(name: &Name, cache: Option<&Path>, yes: bool, quiet: bool, restore: fn()) -> Result<PathBuf> {
    let mut settings = Settings::read()?;
    if let Some(folder) = cache {
        settings.own = folder.to_path_buf();
    }
    let (repo, own) = (Repo::new(&settings.cache, &name.repo), folder(&settings, &name.repo));
    let converted = |commit: &str| own.join(format!("{commit}{ENDING}"));
    // What was pulled last is what is meant, and what was converted counts where the sources are gone.
    let pulled = repo.whole(&name.revision, settings.offline).and_then(|_| repo.commit_of(&name.revision));
    let known = pulled.or_else(|| commit_in(&own, &name.revision));
    if let Some(commit) = known
        && converted(&commit).is_file()
    {
        let file = converted(&commit);
        // A folder that cannot be written, or a file of somebody else: it runs all the same.
        let _ = note_in(&own, &name.revision, &commit);
        touch(&file);
        return Ok(file);
    }
    let source = Source::find(&settings, name, yes, quiet)?;
    let cancel = stop::listen(restore)?;
    let checkpoint = source.folder(quiet, &cancel)?;
    let commit = checkpoint.file_name().unwrap_or_default().display().to_string();
    fs::create_dir_all(&own).map_err(HubError::io(&own, "make the folder"))?;
    let file = converted(&commit);
    if !quiet {
        tell(format_args!("converting {name} into {}", file.display()));
    }
    convert::into_cache(&checkpoint, &file, true, quiet, &cancel)?;
    note_in(&own, &name.revision, &commit)?;
    Ok(file)
}

/// Notes that a file is used now: file systems may keep that for a day, or not at all.
pub fn touch(file: &Path) {
    let _ = File::open(file).and_then(|file| file.set_times(FileTimes::new().set_accessed(SystemTime::now())));
}
