//! A prompt's keys and values in a file, so that the next run need not compute them.
//!
//! ```text
//! 0    8   magic: one byte above 0x7f, then NSVKV, CR, LF
//! 8    4   version, 2; or 1, without a mark           all numbers little-endian
//! 12   4   type of keys and values (0 f32, 1 f16) plus 2 times the code of the backend's kind (0 for the CPU)
//! 16   32  root hash of the model's file
//! 48   8   tokens
//! 56   8   bytes of keys and values
//! 64   8   the most tokens the session ever held: determines what a ring has overwritten
//! 72   8   the session's capacity if its RoPE depends on it, else 0
//! 80       tokens, 4 bytes each
//!          keys and values, as the backend stores them: see Backend::cache_bytes
//!      32  mark: BLAKE3 of everything before, marked with the user's key
//!      32  BLAKE3 of everything before
//! ```
//!
//! The root hash covers every byte of the model's file, so the reused keys and values are, bit for bit, what the same
//! weights and tokens gave, if an honest program wrote them: a hash is made by anybody. The mark shows that a program of the
//! same user did ([`UserKey`]). The file appears whole or not at all.

use crate::backend::rope::unstretched;
use crate::backend::{Backend, BackendKind, KvShape, KvType};
use crate::engine::session::Session;
use crate::error::Result;
use nanoserve_format::{Hash, NsvFile, UserKey, hex, replace};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

pub use crate::error::PromptCacheError;

const MAGIC: [u8; 8] = *b"\x8bNSVKV\r\n";
/// The version with a mark, and the one without, which is written where there is no key.
const MARKED: u32 = 2;
const UNMARKED: u32 = 1;
/// What the user's key marks here.
const PURPOSE: &str = "nanoserve prompt cache";
const HEADER: usize = 80;
const HASH: usize = 32;

/// A prompt cache read from a file: undamaged, and made with this model.
#[derive(Debug)]
pub struct PromptCache {
    path: PathBuf,
    ids: Vec<u32>,
    most: usize,
    stretch: u64,
    is_own: bool,
    /// The whole file.
    bytes: Vec<u8>,
    /// Where its keys and values end.
    end: usize,
}

fn kv_code(kv_type: KvType) -> u32 {
    match kv_type {
        KvType::F32 => 0,
        KvType::F16 => 1,
    }
}

impl PromptCache {
    /// Reads a prompt cache that was made with this model, type of keys and values and kind of backend. None if the file
    /// does not exist. `key` is the user's, if there is one: see [`Self::require_own`].
    ///
    /// # Errors
    /// When it is damaged, belongs to another model, type or kind, holds a token that the model does not have, or cannot be
    /// read.
    pub fn read(
        path: &Path,
        model: &NsvFile,
        kv_type: KvType,
        kind: BackendKind,
        key: Option<&UserKey>,
    ) -> Result<Option<PromptCache>, PromptCacheError> {
        let root = &model.layout().root;
        // A device may have no end, and a pipe none yet.
        let regular = |found: std::fs::Metadata| match found.is_file() {
            true => std::fs::read(path),
            false => Err(std::io::Error::other("it is no regular file")),
        };
        let bytes = match std::fs::metadata(path).and_then(regular) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(PromptCacheError::Read { path: path.into(), source }),
        };
        let path = path.to_path_buf();
        if bytes.len() < MAGIC.len() || bytes[..8] != MAGIC {
            return Err(PromptCacheError::Other { path });
        }
        let damaged = |cause: String| PromptCacheError::Damaged { path: path.clone(), cause };
        let size = bytes.len();
        if size < HEADER + HASH {
            return Err(damaged(format!("it ends after {size} bytes")));
        }
        let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap_or_default());
        let words = |at: usize| bytes[at..].chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        let tail = match words(8).next() {
            Some(MARKED) => 2 * HASH,
            Some(UNMARKED) => HASH,
            _ => return Err(PromptCacheError::Other { path }),
        };
        let [count, kv_bytes, most, stretch] = [48, 56, 64, 72].map(number);
        let expected = count.checked_mul(4).and_then(|n| n.checked_add(kv_bytes)?.checked_add((HEADER + tail) as u64));
        if expected != Some(size as u64) {
            return Err(damaged(format!("it has {size} bytes, its header says {count} tokens and {kv_bytes} more")));
        }
        let end = size - tail;
        let mut hasher = blake3::Hasher::new();
        let marked: Hash = hasher.update(&bytes[..end]).finalize().into();
        let mark = &bytes[end..size - HASH];
        if hasher.update(mark).finalize() != bytes[size - HASH..][..HASH] {
            return Err(damaged("its hash is not that of its bytes".into()));
        }
        let is_own = match (key, mark.try_into()) {
            (Some(key), Ok(mark)) => key.made(PURPOSE, &marked, &mark),
            _ => false,
        };
        if bytes[16..48] != root[..] {
            let (what, got, expected) = ("the model with root", hex(&bytes[16..24]), hex(&root[..8]));
            return Err(PromptCacheError::Mismatch { path, what, got, expected });
        }
        let kept = words(12).next().unwrap_or_default();
        if kept >> 1 != kind.code() {
            let (got, expected) = (BackendKind::from_code(kept >> 1).to_string(), kind.to_string());
            return Err(PromptCacheError::Mismatch { path, what: "a run on", got, expected });
        }
        if kept & 1 != kv_code(kv_type) {
            let other = KvType::ALL.into_iter().find(|(_, kv)| *kv != kv_type).map_or("?", |(name, _)| name);
            let (what, got, expected) = ("keys and values in", other.to_owned(), kv_type.name().to_owned());
            return Err(PromptCacheError::Mismatch { path, what, got, expected });
        }
        let ids: Vec<u32> = words(HEADER).take(count as usize).collect();
        let vocab_size = model.spec().vocab_size;
        if let Some(id) = ids.iter().find(|&&id| id as usize >= vocab_size) {
            return Err(damaged(format!("it holds token {id}, the model has {vocab_size}")));
        }
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        Ok(Some(PromptCache { path, ids, most, stretch, is_own, bytes, end }))
    }

    /// The tokens whose keys and values it holds.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Checks that a program of the same user made it: the one whose key it was read with.
    ///
    /// # Errors
    /// When it has no mark, or that of another key.
    pub fn require_own(&self) -> Result<(), PromptCacheError> {
        match self.is_own {
            true => Ok(()),
            false => Err(PromptCacheError::Foreign { path: self.path.clone() }),
        }
    }

    /// Size of the file in bytes.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// Replaces what a session holds by the contents of this cache.
    ///
    /// # Errors
    /// When the session has too few positions, another RoPE, or keys and values of another size.
    pub fn restore<B: Backend>(&self, session: &mut Session<B>) -> Result<(), PromptCacheError> {
        let (got, room, path) = (self.ids.len(), session.capacity(), self.path.clone());
        if got > room {
            return Err(PromptCacheError::TooLong { path, got, room });
        }
        let own = stretch(session);
        if self.stretch != own {
            let (what, got, expected) = ("a session's length of", self.stretch.to_string(), own.to_string());
            return Err(PromptCacheError::Mismatch { path, what, got, expected });
        }
        let kv = &self.bytes[HEADER + 4 * got..self.end];
        if !session.restore(&self.ids, self.most, kv) {
            let cause = format!("{} bytes of keys and values for {got} tokens", kv.len());
            return Err(PromptCacheError::Damaged { path, cause });
        }
        Ok(())
    }
}

/// The session's capacity if the model's RoPE depends on it, else 0.
fn stretch<B: Backend>(session: &Session<B>) -> u64 {
    let (spec, capacity) = (session.engine().file().spec(), session.capacity());
    let ropes = [Some(&spec.rope), spec.window.as_ref().and_then(|w| w.rope.as_ref())];
    let stretched = ropes.into_iter().flatten().filter_map(unstretched).any(|n| capacity > n);
    if stretched { capacity as u64 } else { 0 }
}

/// Bytes of the file of a session that holds so many tokens, at most.
pub fn most_bytes<B: Backend>(session: &Session<B>, tokens: usize, kv_type: KvType) -> u64 {
    let shape = KvShape::new(session.engine().file().spec(), session.capacity(), kv_type);
    let kv_bytes = u64::try_from(shape.bytes_of(tokens)).unwrap_or(u64::MAX);
    kv_bytes.saturating_add((HEADER + 2 * HASH) as u64 + 4 * tokens as u64)
}

/// Writes what a session holds to a file and returns the file's size in bytes. With the user's key the file is marked.
///
/// # Errors
/// When the file cannot be written, or the keys and values cannot be read from the device.
pub fn save<B: Backend>(session: &Session<B>, path: &Path, kv_type: KvType, key: Option<&UserKey>) -> Result<usize> {
    let root = session.engine().file().layout().root;
    let (ids, kv) = (session.ids(), session.cached()?);
    let kept = kv_code(kv_type) + 2 * session.engine().backend().kind().code();
    let kv_bytes: usize = kv.iter().map(|part| part.len()).sum();
    let mut bytes = Vec::with_capacity(HEADER + 4 * ids.len() + kv_bytes + 2 * HASH);
    bytes.extend_from_slice(&MAGIC);
    bytes.extend([if key.is_some() { MARKED } else { UNMARKED }, kept].iter().flat_map(|n| n.to_le_bytes()));
    bytes.extend_from_slice(&root);
    let numbers = [ids.len() as u64, kv_bytes as u64, session.most() as u64, stretch(session)];
    bytes.extend(numbers.iter().flat_map(|n| n.to_le_bytes()));
    bytes.extend(ids.iter().flat_map(|id| id.to_le_bytes()));
    kv.iter().for_each(|part| bytes.extend_from_slice(part));
    let mut hasher = blake3::Hasher::new();
    hasher.update(&bytes);
    if let Some(key) = key {
        let mark = key.mark(PURPOSE, hasher.finalize().as_bytes());
        hasher.update(&mark);
        bytes.extend_from_slice(&mark);
    }
    bytes.extend_from_slice(hasher.finalize().as_bytes());
    replace(path, &bytes)?;
    Ok(bytes.len())
}
