//! A secret of the user's own: 32 random bytes in a file that nobody else can read. What carries a mark made with it was
//! made by this user's programs.
//!
//! The trap: a mark proves that somebody with the key made it, not that its bytes are as they were meant to be; and whoever
//! can read the file can make marks.

use crate::header::Hash;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;

/// Bytes of the key, which are all that its file has.
const BYTES: usize = 32;

/// A user's key.
#[derive(Clone)]
pub struct UserKey([u8; BYTES]);

impl std::fmt::Debug for UserKey {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str("UserKey(..)")
    }
}

impl UserKey {
    /// The key in the file `name` of a folder. Folder and key are made if they are not there; of two programs that make one at
    /// once, both get the one that was there first.
    ///
    /// # Errors
    /// When it can neither be read nor made, or is no key that this user alone can read.
    pub fn of_folder(folder: &Path, name: &str) -> io::Result<UserKey> {
        let path = folder.join(name);
        match read(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            found => return found.map(UserKey),
        }
        fs::create_dir_all(folder)?;
        let mut key = [0; BYTES];
        getrandom::fill(&mut key).map_err(|e| io::Error::other(e.to_string()))?;
        // Readable by its owner alone from the start.
        let mut temp = tempfile::Builder::new().prefix(".key.").tempfile_in(folder)?;
        temp.write_all(&key)?;
        temp.as_file().sync_all()?;
        match temp.persist_noclobber(&path) {
            Ok(_) => Ok(UserKey(key)),
            Err(e) if e.error.kind() == io::ErrorKind::AlreadyExists => read(&path).map(UserKey),
            Err(e) => Err(e.error),
        }
    }

    /// The mark of a hash, for one purpose: BLAKE3 with this key.
    pub fn mark(&self, purpose: &str, hash: &Hash) -> Hash {
        blake3::Hasher::new_keyed(&self.0).update(purpose.as_bytes()).update(&[0]).update(hash).finalize().into()
    }

    /// Whether `mark` is the mark of this hash; how long that takes does not depend on where they differ.
    pub fn made(&self, purpose: &str, hash: &Hash, mark: &Hash) -> bool {
        blake3::Hash::from(self.mark(purpose, hash)) == blake3::Hash::from(*mark)
    }
}

/// Reads a key, without waiting and without following a link.
fn read(path: &Path) -> io::Result<[u8; BYTES]> {
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let file = options.open(path)?;
    let about = file.metadata()?;
    let refused = |what: &str| Err(io::Error::other(format!("{} {what}", path.display())));
    if !about.is_file() {
        return refused("is no regular file");
    }
    if !is_private(&about) {
        return refused("is not this user's alone: it should belong to them, with mode 600");
    }
    match whole(file)? {
        Some(key) => Ok(key),
        None => refused("does not have the 32 bytes of a key"),
    }
}

/// The bytes of a file, if there are as many as a key has.
fn whole(file: File) -> io::Result<Option<[u8; BYTES]>> {
    let mut bytes = Vec::with_capacity(BYTES + 1);
    file.take(BYTES as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes.try_into().ok())
}

#[cfg(unix)]
fn is_private(about: &fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    about.uid() == rustix::process::geteuid().as_raw() && about.mode() & 0o077 == 0
}

/// Elsewhere the folder decides who reads it.
#[cfg(not(unix))]
fn is_private(_: &fs::Metadata) -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "key";

    #[test]
    fn all_programs_of_a_user_have_one_key() {
        let folder = tempfile::tempdir().unwrap();
        let below = folder.path().join("new/folder");
        let hash = [7; 32];
        let marks: Vec<Hash> = std::thread::scope(|s| {
            let all: Vec<_> =
                (0..8).map(|_| s.spawn(|| UserKey::of_folder(&below, NAME).unwrap().mark("a", &hash))).collect();
            all.into_iter().map(|one| one.join().unwrap()).collect()
        });
        assert!(marks.iter().all(|mark| *mark == marks[0]));
        assert_eq!(fs::read_dir(&below).unwrap().count(), 1, "nothing is left beside it");
        let key = UserKey::of_folder(&below, NAME).unwrap();
        assert!(key.made("a", &hash, &marks[0]));
        assert!(!key.made("b", &hash, &marks[0]) && !key.made("a", &[8; 32], &marks[0]));
        let other = UserKey::of_folder(folder.path(), NAME).unwrap();
        assert!(!other.made("a", &hash, &marks[0]));
        assert!(!format!("{key:?}").contains("["));
    }

    #[cfg(unix)]
    #[test]
    fn what_others_can_read_or_replace_is_no_key() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(NAME);
        UserKey::of_folder(folder.path(), NAME).unwrap();
        let about = fs::metadata(&path).unwrap();
        assert_eq!((about.len(), about.permissions().mode() & 0o777), (32, 0o600));
        let refused = |words: &str| {
            let error = UserKey::of_folder(folder.path(), NAME).unwrap_err().to_string();
            assert!(error.contains(words), "{words}: {error}");
        };
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        refused("with mode 600");
        for len in [0, 31, 33] {
            fs::write(&path, vec![1; len]).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            refused("32 bytes");
        }
        fs::rename(&path, folder.path().join("elsewhere")).unwrap();
        symlink("elsewhere", &path).unwrap();
        refused("");
        fs::remove_file(&path).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        refused("is no regular file");
    }
}
