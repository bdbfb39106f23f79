//! Brings one file: goes on where an earlier try ended, asks again where the connection is cut, and keeps nothing whose
//! hash is not the Hub's.

use super::cache::Repo;
use super::error::HubError;
use super::http::{Client, Remote, network, wait};
use super::name::Name;
use nanoserve_format::hex;
use sha1::Sha1;
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use ureq::http::{Response, StatusCode, header};

/// Bytes between two looks at Ctrl-C.
const PIECE: usize = 256 << 10;
/// How often the server is asked again without a single byte from it.
const TRIES: u32 = 6;

/// A file that is to come.
#[derive(Clone, Debug)]
pub struct Item {
    /// Its path in the repository.
    pub file: String,
    /// What the Hub says of its bytes.
    pub remote: Remote,
}

/// How far it is: gets the number of bytes of the file that are here.
pub type Progress<'a> = &'a mut dyn FnMut(u64);

/// From where, to where.
#[derive(Clone, Copy)]
pub struct Way<'a> {
    /// What speaks with the Hub.
    pub client: &'a Client,
    /// The model's part of the cache.
    pub repo: &'a Repo,
    /// The model.
    pub name: &'a Name,
    /// The commit.
    pub commit: &'a str,
    /// Set by Ctrl-C.
    pub cancel: &'a AtomicBool,
}

/// Brings a file into the cache, and shows it in the commit's folder.
///
/// # Errors
/// Those of [`HubError`]; what came stays, except where its hash is wrong.
pub fn bring(way: Way, item: &Item, progress: Progress) -> Result<(), HubError> {
    let (repo, Remote { etag, size }) = (way.repo, &item.remote);
    let blob = repo.blob(etag);
    let _lock = repo.lock(etag)?;
    // Bytes of another size are not those of the hash: somebody cut them.
    if !fs::metadata(&blob).is_ok_and(|m| m.len() == *size) {
        let partial = repo.partial(etag);
        let open = File::options().read(true).write(true).create(true).truncate(false).open(&partial);
        let mut target = Target {
            file: open.map_err(HubError::io(&partial, "open"))?,
            path: &partial,
            at: 0,
            hash: Hash::of(&item.remote),
        };
        target.resume(*size, way.cancel)?;
        progress(target.at);
        fill(way, item, &mut target, progress)?;
        let got = target.hash.finish();
        if got != *etag {
            let _ = fs::remove_file(&partial);
            return Err(HubError::WrongHash { file: item.file.clone(), expected: etag.clone(), got });
        }
        target.file.sync_all().map_err(HubError::io(&partial, "write"))?;
        fs::rename(&partial, &blob).map_err(HubError::io(&blob, "make"))?;
    }
    progress(*size);
    repo.link(etag, way.commit, &item.file)
}

/// Asks for what is missing until nothing is.
fn fill(way: Way, item: &Item, target: &mut Target, progress: Progress) -> Result<(), HubError> {
    let mut tries = 0;
    while target.at < item.remote.size {
        let before = target.at;
        let cut = match once(way, item, target, progress) {
            Ok(()) => continue,
            Err(e @ HubError::Network { .. }) => e,
            Err(e) => return Err(e),
        };
        tries = if target.at > before { 1 } else { tries + 1 };
        if tries >= TRIES {
            return Err(cut);
        }
        std::thread::sleep(wait(tries));
    }
    Ok(())
}

/// Asks for what is missing, once.
fn once(way: Way, item: &Item, target: &mut Target, progress: Progress) -> Result<(), HubError> {
    let Way { client, name, commit, cancel, .. } = way;
    let url = client.url(name, commit, &item.file);
    let answer = client.bytes(name, commit, &item.file, target.at)?;
    if target.at > 0 && !goes_on(&answer, target.at) {
        // A server that does not know ranges sends it all.
        target.restart()?;
        progress(0);
        if answer.status() == StatusCode::PARTIAL_CONTENT {
            return Ok(());
        }
    }
    let mut body = answer.into_body().into_with_config().limit(u64::MAX).reader();
    let mut piece = vec![0; PIECE];
    loop {
        if cancel.load(Ordering::Relaxed) {
            return Err(HubError::Cancelled);
        }
        let n = match body.read(&mut piece) {
            Ok(0) => break,
            Ok(n) => n,
            Err(e) if e.kind() == ErrorKind::Interrupted => continue,
            Err(e) => return Err(network(&url, e)),
        };
        if target.at + n as u64 > item.remote.size {
            let _ = fs::remove_file(target.path);
            return Err(HubError::TooLong { file: item.file.clone(), expected: item.remote.size });
        }
        target.append(&piece[..n])?;
        progress(target.at);
    }
    match target.at == item.remote.size {
        true => Ok(()),
        false => Err(network(&url, std::io::Error::from(ErrorKind::UnexpectedEof))),
    }
}

/// Whether an answer begins with this byte.
fn goes_on(answer: &Response<ureq::Body>, at: u64) -> bool {
    let range = answer.headers().get(header::CONTENT_RANGE).and_then(|v| v.to_str().ok());
    answer.status() == StatusCode::PARTIAL_CONTENT && range.is_some_and(|r| r.starts_with(&format!("bytes {at}-")))
}

/// A file that grows, and the hash of what is in it.
struct Target<'a> {
    file: File,
    path: &'a Path,
    at: u64,
    hash: Hash,
}

impl Target<'_> {
    /// Takes what an earlier try left.
    fn resume(&mut self, size: u64, cancel: &AtomicBool) -> Result<(), HubError> {
        let length = self.file.metadata().map_err(HubError::io(self.path, "read"))?.len();
        if length > size {
            return self.restart();
        }
        let mut piece = vec![0; PIECE];
        loop {
            if cancel.load(Ordering::Relaxed) {
                return Err(HubError::Cancelled);
            }
            let n = self.file.read(&mut piece).map_err(HubError::io(self.path, "read"))?;
            if n == 0 {
                return Ok(());
            }
            self.hash.update(&piece[..n]);
            self.at += n as u64;
        }
    }

    fn restart(&mut self) -> Result<(), HubError> {
        self.file
            .set_len(0)
            .and_then(|()| self.file.seek(SeekFrom::Start(0)))
            .map_err(HubError::io(self.path, "write"))?;
        (self.at, self.hash) = (0, self.hash.anew());
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), HubError> {
        // What did get into the file counts for the next try, though not for the hash of this one.
        self.file.write_all(bytes).map_err(HubError::io(self.path, "write"))?;
        self.hash.update(bytes);
        self.at += bytes.len() as u64;
        Ok(())
    }
}

/// The hash that the Hub has of a file: SHA-256 of a large one, of a small one git's, which begins with its size.
enum Hash {
    Sha256(Sha256),
    Git(Sha1, u64),
}

impl Hash {
    fn of(remote: &Remote) -> Hash {
        if remote.etag.len() == 64 { Hash::Sha256(Sha256::new()) } else { Hash::git(remote.size) }
    }

    fn git(size: u64) -> Hash {
        Hash::Git(Sha1::new_with_prefix(format!("blob {size}\0")), size)
    }

    fn anew(&self) -> Hash {
        match self {
            Hash::Sha256(_) => Hash::Sha256(Sha256::new()),
            Hash::Git(_, size) => Hash::git(*size),
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Hash::Sha256(hash) => hash.update(bytes),
            Hash::Git(hash, _) => hash.update(bytes),
        }
    }

    fn finish(self) -> String {
        match self {
            Hash::Sha256(hash) => hex(&hash.finalize()),
            Hash::Git(hash, _) => hex(&hash.finalize()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_hashes_are_those_of_their_tools() {
        let of = |etag: usize| {
            let mut hash = Hash::of(&Remote { etag: "0".repeat(etag), size: 6 });
            hash.update(b"hel");
            hash.update(b"lo\n");
            hash.finish()
        };
        // `printf 'hello\n' | git hash-object --stdin`, and `sha256sum`.
        assert_eq!(of(40), "ce013625030ba8dba906f756967f9e9ca394464a");
        assert_eq!(of(64), "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03");
    }
}
