//! GGUF files that `run` and `bench` are given: each is converted once into the user's cache, and mapped from there.
//!
//! ```text
//! CACHE/gguf/HASH-VERSION.nsv     what came out of a file with this BLAKE3; VERSION is the converter's
//! CACHE/gguf/HASH.lock            held while HASH is converted: a second process waits
//! CACHE/gguf/known/IDENTITY       the hash of a file, which is found by its path, size and times without reading it
//! ```
//!
//! All of it may be deleted at any time.

use crate::console::tell;
use crate::hub::{own_folder, touch};
use crate::{convert, stop};
use anyhow::{Context, Result, bail};
use nanoserve_converter::{gguf_shards, is_gguf};
use std::fs::{self, File, Metadata};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

/// The most bytes of converted files that are kept. The one that was used longest ago goes first.
const MOST_BYTES: u64 = 64 << 30;
/// Bytes that are hashed at a time.
const PIECE: usize = 4 << 20;
/// Hexadecimal digits of a file's name: 128 bits.
const DIGITS: usize = 32;

/// The file to run for `model`: itself, unless it is a GGUF file. `cache` is the folder that the user names. Ctrl-C is
/// listened for while a file is converted, and `restore` is [`stop::listen`]'s.
///
/// # Errors
/// Those of a conversion, and of the cache's folder.
pub fn model(model: &Path, cache: Option<&Path>, quiet: bool, restore: fn()) -> Result<PathBuf> {
    if !is_gguf(model) {
        return Ok(model.to_path_buf());
    }
    let folder = match cache {
        Some(folder) => folder.to_path_buf(),
        None => own_folder()?,
    };
    let folder = folder.join("gguf");
    let known = folder.join("known");
    fs::create_dir_all(&known).with_context(|| format!("cannot make the folder {}", known.display()))?;
    let shards = gguf_shards(model);
    let now = identity(&shards)?;
    let note = known.join(&now);
    let file = |hash: &str| folder.join(format!("{hash}-{}.nsv", env!("CARGO_PKG_VERSION")));
    if let Some(found) = read_hash(&note).map(|hash| file(&hash)).filter(|file| file.is_file()) {
        touch(&found);
        return Ok(found);
    }
    let cancel = stop::listen(restore)?;
    let hash = hash(&shards, &cancel)?;
    let file = file(&hash);
    let lock = folder.join(format!("{hash}.lock"));
    let locked = File::options().create(true).truncate(false).write(true).open(&lock);
    let locked = locked.with_context(|| format!("cannot make {}", lock.display()))?;
    if locked.try_lock().is_err() {
        if !quiet {
            tell(format_args!("waiting for another process, which converts {}", model.display()));
        }
        locked.lock().with_context(|| format!("cannot lock {}", lock.display()))?;
    }
    let made = if file.is_file() {
        Ok(())
    } else {
        if !quiet {
            tell(format_args!("converting {} once, into {}", model.display(), file.display()));
        }
        // Making golden vectors takes longer than all else, and this file stays on this machine.
        convert::into_cache(model, &file, false, quiet, &cancel)
    };
    // Who waits for it holds it open.
    let _ = fs::remove_file(&lock);
    made?;
    if identity(&shards)? != now {
        // What was converted may not be what was hashed.
        let _ = fs::remove_file(&file);
        bail!("{} changed while it was converted: run it again", model.display());
    }
    shrink(&folder, &file, MOST_BYTES);
    write_hash(&note, &hash);
    touch(&file);
    Ok(file)
}

/// A name for some files as they are now: another path, size or time gives another name.
fn identity(files: &[PathBuf]) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    for path in files {
        let path = fs::canonicalize(path).with_context(|| format!("{}", path.display()))?;
        let m = fs::metadata(&path).with_context(|| format!("{}", path.display()))?;
        hasher.update(path.as_os_str().as_encoded_bytes()).update(&[0]);
        for number in numbers(&m) {
            hasher.update(&number.to_le_bytes());
        }
    }
    Ok(hasher.finalize().to_hex()[..DIGITS].to_string())
}

/// What changes when a file is written or replaced.
#[cfg(unix)]
fn numbers(m: &Metadata) -> [u64; 7] {
    use std::os::unix::fs::MetadataExt;
    let times = [m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec()].map(|time| time as u64);
    let [mtime, mtime_nsec, ctime, ctime_nsec] = times;
    [m.dev(), m.ino(), m.size(), mtime, mtime_nsec, ctime, ctime_nsec]
}

#[cfg(not(unix))]
fn numbers(m: &Metadata) -> [u64; 3] {
    let modified = m.modified().ok().and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
    let modified = modified.unwrap_or_default();
    [m.len(), modified.as_secs(), modified.subsec_nanos().into()]
}

/// The hash of the files' bytes, one after the other.
fn hash(files: &[PathBuf], cancel: &AtomicBool) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    let mut piece = vec![0; PIECE];
    for path in files {
        let failed = || format!("{}: cannot be read", path.display());
        let mut file = File::open(path).with_context(failed)?;
        loop {
            let n = file.read(&mut piece).with_context(failed)?;
            if n == 0 {
                break;
            }
            if cancel.load(Ordering::Relaxed) {
                return Err(nanoserve_converter::ConvertError::Cancelled.into());
            }
            hasher.update_rayon(&piece[..n]);
        }
    }
    Ok(hasher.finalize().to_hex()[..DIGITS].to_string())
}

/// The hash that a file of the cache notes.
fn read_hash(path: &Path) -> Option<String> {
    let hash = fs::read_to_string(path).ok()?;
    (hash.len() == DIGITS && hash.bytes().all(|b| b.is_ascii_hexdigit())).then_some(hash)
}

/// Notes a hash. Without it the next start hashes the file again, which is no error.
fn write_hash(path: &Path, hash: &str) {
    let written = tempfile::NamedTempFile::new_in(path.parent().unwrap_or(Path::new("."))).and_then(|mut temp| {
        temp.write_all(hash.as_bytes())?;
        temp.persist(path).map_err(|e| e.error)
    });
    drop(written);
}

/// Removes converted files, the one that was used longest ago first, until at most `most` bytes are left. `keep` stays. A
/// process that runs one of them keeps its map.
fn shrink(folder: &Path, keep: &Path, most: u64) {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let converted = entries.filter(|path| path.extension().is_some_and(|e| e == "nsv"));
    let mut all: Vec<(PathBuf, Metadata)> =
        converted.filter_map(|path| fs::metadata(&path).ok().map(|m| (path, m))).collect();
    all.sort_by_key(|(_, m)| m.accessed().unwrap_or(SystemTime::UNIX_EPOCH));
    let mut sum: u64 = all.iter().map(|(_, m)| m.len()).sum();
    for (path, m) in all.iter().filter(|(path, _)| path != keep) {
        if sum <= most {
            return;
        }
        if fs::remove_file(path).is_ok() {
            sum -= m.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::FileTimes;

    #[test]
    fn a_file_that_changes_has_another_identity() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.gguf");
        fs::write(&path, "one").unwrap();
        let first = identity(std::slice::from_ref(&path)).unwrap();
        assert_eq!(identity(std::slice::from_ref(&path)).unwrap(), first);
        fs::write(&path, "three").unwrap();
        assert_ne!(identity(std::slice::from_ref(&path)).unwrap(), first);
        let copy = folder.path().join("b.gguf");
        fs::copy(&path, &copy).unwrap();
        let hashed = |path: &PathBuf| hash(std::slice::from_ref(path), &AtomicBool::new(false)).unwrap();
        assert_eq!(hashed(&path), hashed(&copy));
    }

    #[test]
    fn what_was_not_used_goes_first() {
        let folder = tempfile::tempdir().unwrap();
        let make = |name: &str, used: u64| {
            let path = folder.path().join(name);
            fs::write(&path, [0; 100]).unwrap();
            let time = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(used);
            File::open(&path).unwrap().set_times(FileTimes::new().set_accessed(time)).unwrap();
            path
        };
        let (old, new, keep) = (make("old.nsv", 1000), make("new.nsv", 3000), make("keep.nsv", 10));
        let other = make("other.txt", 1);
        shrink(folder.path(), &keep, 300);
        assert!(old.exists());
        shrink(folder.path(), &keep, 200);
        assert!(!old.exists() && new.exists() && keep.exists() && other.exists());
        shrink(folder.path(), &keep, 0);
        assert!(!new.exists() && keep.exists());
    }

    #[test]
    fn a_damaged_note_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("note");
        write_hash(&path, &"a".repeat(DIGITS));
        assert_eq!(read_hash(&path), Some("a".repeat(DIGITS)));
        for text in ["", "../../etc/passwd", "zz"] {
            fs::write(&path, text).unwrap();
            assert_eq!(read_hash(&path), None);
        }
    }
}
