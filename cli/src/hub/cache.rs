//! The Hub's cache as Hugging Face's own tools lay it out, so that they and nanoserve share what either brings:
//!
//! ```text
//! models--ORG--NAME/refs/REVISION              the commit that a branch or tag was when it was last looked for
//! models--ORG--NAME/snapshots/COMMIT/FILE      a link to ../../blobs/HASH
//! models--ORG--NAME/.no_exist/COMMIT/FILE      the commit does not have this file
//! models--ORG--NAME/blobs/HASH                 the bytes; HASH.incomplete as long as some are missing
//! .locks/models--ORG--NAME/HASH.lock           locked while somebody brings these bytes
//! ```

use super::error::HubError;
use super::name::is_commit;
use super::wanted::{CONFIG, INDEX, SINGLE, TOKENIZER, shards};
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

/// How the name of a folder of a model begins.
pub const MODELS: &str = "models--";
/// How the name of bytes ends as long as some are missing.
pub const INCOMPLETE: &str = ".incomplete";
/// The standard's mark, so that backups leave the cache out (bford.info/cachedir).
const TAG: &str = "Signature: 8a477f597d28d172789f06886806bc55\n# This file is a cache directory tag.\n";

/// A model's part of the cache.
#[derive(Clone, Debug)]
pub struct Repo {
    /// The cache.
    pub cache: PathBuf,
    /// The model's folder in it.
    pub folder: PathBuf,
    /// The folder of the model's locks.
    pub locks: PathBuf,
}

impl Repo {
    /// Of a model, whether it is there or not.
    pub fn new(cache: &Path, repo: &str) -> Repo {
        let name = folder_name(repo);
        Repo { cache: cache.into(), folder: cache.join(&name), locks: cache.join(".locks").join(name) }
    }

    /// The folder of a commit's files.
    pub fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    /// The bytes with this hash.
    pub fn blob(&self, etag: &str) -> PathBuf {
        self.folder.join("blobs").join(etag)
    }

    /// The file of the bytes downloaded so far, while some are missing.
    pub fn partial(&self, etag: &str) -> PathBuf {
        self.folder.join("blobs").join(format!("{etag}{INCOMPLETE}"))
    }

    /// The commit that a revision is, by what the cache knows.
    pub fn commit_of(&self, revision: &str) -> Option<String> {
        commit_in(&self.folder, revision)
    }

    /// Notes which commit a revision is.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn note(&self, revision: &str, commit: &str) -> Result<(), HubError> {
        note_in(&self.folder, revision, commit)
    }

    /// The folder of a revision that is here and whole: all its weights, its description, and its vocabulary, if the model has
    /// one; where `any` will do, without.
    pub fn whole(&self, revision: &str, any: bool) -> Option<PathBuf> {
        let commit = &self.commit_of(revision)?;
        let folder = self.snapshot(commit);
        let has = |name: &str| folder.join(name).is_file();
        let weights = has(SINGLE)
            || fs::read(folder.join(INDEX))
                .is_ok_and(|index| shards(&index).is_ok_and(|all| all.iter().all(|s| has(s))));
        (has(CONFIG) && weights && (any || has(TOKENIZER) || self.missing(commit, TOKENIZER).exists()))
            .then_some(folder)
    }

    /// The mark that a commit does not have a file.
    fn missing(&self, commit: &str, file: &str) -> PathBuf {
        self.folder.join(".no_exist").join(commit).join(file)
    }

    /// Notes that a commit does not have a file. Without the mark the Hub is asked again, no more.
    pub fn note_missing(&self, commit: &str, file: &str) {
        let path = self.missing(commit, file);
        let _ = fs::create_dir_all(path.parent().expect("a mark is in a folder")).and_then(|()| fs::write(path, ""));
    }

    /// Makes the folders for a hash's bytes, and takes its lock. Does not wait: another program that downloads them holds it.
    ///
    /// # Errors
    /// [`HubError::Busy`], or those of the file system.
    pub fn lock(&self, etag: &str) -> Result<File, HubError> {
        for folder in [&self.folder.join("blobs"), &self.locks] {
            fs::create_dir_all(folder).map_err(HubError::io(folder, "make the folder"))?;
        }
        let tag = self.cache.join("CACHEDIR.TAG");
        if !tag.exists() && fs::write(&tag, TAG).is_err() {
            // Of use to backups alone: a cache without it is as good, a part of it is not.
            let _ = fs::remove_file(tag);
        }
        let path = self.locks.join(format!("{etag}.lock"));
        let open = File::options().write(true).create(true).truncate(false).open(&path);
        let file = open.map_err(HubError::io(&path, "open"))?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => Err(HubError::Busy { path: self.folder.clone() }),
            // A file system without locks: the hash tells what two writers made of it.
            Err(TryLockError::Error(_)) => Ok(file),
        }
    }

    /// Makes complete bytes a file of a commit.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn link(&self, etag: &str, commit: &str, file: &str) -> Result<(), HubError> {
        let at = self.snapshot(commit).join(file);
        if at.exists() {
            return Ok(());
        }
        let folder = at.parent().expect("a file of a snapshot is in a folder");
        fs::create_dir_all(folder).map_err(HubError::io(folder, "make the folder"))?;
        // A link that leads nowhere any more.
        let _ = fs::remove_file(&at);
        let up = "../".repeat(2 + file.matches('/').count());
        if symlink(&format!("{up}blobs/{etag}"), &at).is_ok() {
            return Ok(());
        }
        // A file system without links: the bytes themselves are the file, as the Hub's own tools have it there.
        fs::rename(self.blob(etag), &at).map_err(HubError::io(&at, "make"))
    }
}

#[cfg(unix)]
fn symlink(to: &str, at: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(to, at)
}

#[cfg(not(unix))]
fn symlink(_: &str, _: &Path) -> std::io::Result<()> {
    Err(std::io::ErrorKind::Unsupported.into())
}

/// The name of a model's folder.
pub fn folder_name(repo: &str) -> String {
    format!("{MODELS}{}", repo.replace('/', "--"))
}

/// The commit that a revision is, by the folder `refs` of a model's folder.
pub fn commit_in(folder: &Path, revision: &str) -> Option<String> {
    if is_commit(revision) {
        return Some(revision.to_string());
    }
    let commit = fs::read_to_string(folder.join("refs").join(revision)).ok()?.trim().to_string();
    is_commit(&commit).then_some(commit)
}

/// Notes there which commit a revision is, in one step.
///
/// # Errors
/// Those of the file system.
pub fn note_in(folder: &Path, revision: &str, commit: &str) -> Result<(), HubError> {
    if is_commit(revision) || commit_in(folder, revision).as_deref() == Some(commit) {
        return Ok(());
    }
    let path = folder.join("refs").join(revision);
    let parent = path.parent().expect("it is below refs");
    fs::create_dir_all(parent).map_err(HubError::io(parent, "make the folder"))?;
    let temporary = path.with_file_name(format!(".{}.tmp", std::process::id()));
    let written = fs::write(&temporary, commit).and_then(|()| fs::rename(&temporary, &path));
    written.map_err(|error| {
        let _ = fs::remove_file(temporary);
        HubError::io(&path, "write")(error)
    })
}
