//! The record of what was read: every source file's name, length and hashes.

use crate::error::Result;
use crate::input::SourceFile;
use crate::report::Watch;
use nanoserve_format::{Provenance, SourceFile as Hashed};
use sha2::{Digest, Sha256};

/// Bytes hashed between two checks of the cancel flag.
const HASH_CHUNK: usize = 32 << 20;

/// The hashes of the files that were read. Hashing the weights takes longer than all other work that can begin at once,
/// so it fills the time in which one thread reads the tokenizer: [`Hashes::files`] stops on request, and continues
/// later.
#[derive(Default)]
pub(crate) struct Hashes {
    sha256: bool,
    finished: Vec<Hashed>,
    /// The state of the next file, as far as it is hashed.
    blake3: blake3::Hasher,
    sha: Sha256,
    at: usize,
}

impl Hashes {
    /// Nothing hashed yet. With `sha256`, each file gets its SHA-256 too.
    pub fn new(sha256: bool) -> Hashes {
        Hashes { sha256, ..Hashes::default() }
    }

    /// Bytes of the files that are not hashed yet.
    pub fn left(&self, files: &[SourceFile]) -> usize {
        files[self.finished.len()..].iter().map(|file| file.bytes.len()).sum::<usize>() - self.at
    }

    /// Continues to hash `files`, which begin with those of earlier calls (more may follow), as long as `go_on` returns
    /// true. `go_on` gets the number of bytes that were hashed last.
    pub fn files(&mut self, files: &[SourceFile], mut go_on: impl FnMut(usize) -> Result<bool>) -> Result<()> {
        let mut hashed = 0;
        while let Some(file) = files.get(self.finished.len()) {
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
        // SHA-256 cannot be split: one thread computes it, the others BLAKE3.
        let sha = || {
            if *sha256 {
                sha.update(bytes);
            }
        };
        rayon::join(sha, || _ = blake3.update_rayon(bytes));
        self.at += bytes.len();
    }

    /// Ends a file: it consists of the bytes hashed since the last end.
    fn end(&mut self, name: &str) {
        let blake3 = std::mem::take(&mut self.blake3).finalize().to_hex().to_string();
        let sha256 = std::mem::take(&mut self.sha).finalize();
        let sha256 = self.sha256.then(|| nanoserve_format::hex(&sha256));
        let bytes = std::mem::take(&mut self.at) as u64;
        self.finished.push(Hashed { name: name.to_string(), bytes, blake3, sha256 });
    }

    /// The record of the files that were read, with hashes, in the order of names, and of the program and its options.
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
        self.finished.sort_by(|a, b| a.name.cmp(&b.name));
        let converter = concat!("nanoserve-convert ", env!("CARGO_PKG_VERSION")).to_string();
        Ok(Provenance { converter, recipe, sources: self.finished, ..origin })
    }
}
