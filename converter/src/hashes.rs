//! The record of what was read: every source file's name, length and hashes.

use crate::error::Result;
use crate::input::SourceFile;
use crate::report::Watch;
use nanoserve_format::{Provenance, SourceFile as Hashed};
use sha2::{Digest, Sha256};

/// Bytes hashed between two looks at the cancel flag.
const HASH_CHUNK: usize = 32 << 20;

/// The hashes of the files that were read. Those of the weights take longer than all else that needs no other result, so
/// they fill the time in which one thread reads the tokenizer: [`Hashes::files`] stops when asked, and goes on later.
#[derive(Default)]
pub(crate) struct Hashes {
    sha256: bool,
    done: Vec<Hashed>,
    /// Of the file after those, as far as it is hashed.
    blake3: blake3::Hasher,
    sha: Sha256,
    at: usize,
}

impl Hashes {
    /// Nothing hashed yet; with the SHA-256 of each file or without.
    pub fn new(sha256: bool) -> Hashes {
        Hashes { sha256, ..Hashes::default() }
    }

    /// Bytes of the files that are not hashed yet.
    pub fn left(&self, files: &[SourceFile]) -> usize {
        files[self.done.len()..].iter().map(|file| file.bytes.len()).sum::<usize>() - self.at
    }

    /// Goes on through the files, always the same ones from the first on (more may have come behind them), as long as
    /// `go_on`, told how many bytes were hashed last, says so.
    pub fn files(&mut self, files: &[SourceFile], mut go_on: impl FnMut(usize) -> Result<bool>) -> Result<()> {
        let mut hashed = 0;
        while let Some(file) = files.get(self.done.len()) {
            if !go_on(hashed)? {
                return Ok(());
            }
            let rest = &file.bytes[self.at..];
            hashed = rest.len().min(HASH_CHUNK);
            self.update(&rest[..hashed]);
            if hashed == rest.len() {
                self.end(&file.name);
            }
        }
        go_on(hashed).map(|_| ())
    }

    fn update(&mut self, bytes: &[u8]) {
        let Hashes { sha256, blake3, sha, .. } = self;
        // SHA-256 goes byte after byte: one thread does it, the others what can be split.
        let sha = || {
            if *sha256 {
                sha.update(bytes);
            }
        };
        rayon::join(sha, || _ = blake3.update_rayon(bytes));
        self.at += bytes.len();
    }

    /// What was hashed since the last end is a file.
    fn end(&mut self, name: &str) {
        let blake3 = std::mem::take(&mut self.blake3).finalize().to_hex().to_string();
        let sha256 = std::mem::take(&mut self.sha).finalize();
        let sha256 = self.sha256.then(|| nanoserve_format::hex(&sha256));
        let bytes = std::mem::take(&mut self.at) as u64;
        self.done.push(Hashed { name: name.to_string(), bytes, blake3, sha256 });
    }

    /// What was read, with hashes, in the order of names; and by which program with which options.
    pub fn provenance(
        mut self,
        recipe: String,
        origin: Provenance,
        files: &[SourceFile],
        watch: &Watch,
    ) -> Result<Provenance> {
        self.files(files, |hashed| {
            watch.advance(hashed);
            watch.go_on().map(|()| true)
        })?;
        self.done.sort_by(|a, b| a.name.cmp(&b.name));
        let converter = concat!("nanoserve-convert ", env!("CARGO_PKG_VERSION")).to_string();
        Ok(Provenance { converter, recipe, sources: self.done, ..origin })
    }
}
