//! An Ed25519 signature of a file's root, in a place of the preamble that the root does not cover.
//!
//! Signing changes 128 bytes and no hash. A valid signature proves the header and, through the hashes in it, every
//! byte, but only once the bytes are checked against the hashes: to rely on a signer, call
//! [`NsvFile::check`](crate::NsvFile::check) too.

use crate::at::FileAt;
use crate::bundle::Bundle;
use crate::error::{FileAction, FormatError, Result};
use crate::header::{Hash, PREAMBLE_BYTES};
use crate::hex::hex;
use crate::keys::{PublicKey, SecretKey};
use crate::reader::Layout;
use byteorder::{ByteOrder, LittleEndian as LE};
use std::fs::OpenOptions;
use std::io::{Error, ErrorKind};
use std::ops::Range;
use std::path::Path;

/// The only bytes of a file that signing changes.
pub const SIGNATURE_PLACE: Range<usize> = 64..PREAMBLE_BYTES;

/// Scheme of a place that holds no signature.
const NONE: u32 = 0;
/// The words in front of the root in scheme 2, so that a signature of a model is none of anything else that the key signs.
const CONTEXT: &[u8] = b"nanoserve model file signature, scheme 2\0";

/// Where the key and the signature lie in the place; all other bytes, except the scheme's, are zero.
const KEY: Range<usize> = 8..40;
const BYTES: Range<usize> = 40..104;

/// Why a file is not what somebody signed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SignatureError {
    /// There is no signature.
    #[error("the file is not signed, expected a signature of {expected}")]
    Unsigned {
        /// The key that should have signed it.
        expected: PublicKey,
    },
    /// Another key signed it, or says so.
    #[error("the file is signed by {got}, expected {expected}")]
    Signer {
        /// The key in the file.
        got: PublicKey,
        /// The key that should have signed it.
        expected: PublicKey,
    },
    /// The signature is not one of the key over the root.
    #[error("the signature of {key} is wrong: it, or the file with root {root}, was changed after signing")]
    Wrong {
        /// The key in the file.
        key: PublicKey,
        /// The root in the file, hex.
        root: String,
    },
}

/// What a signature signs. Its code stands in front of the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignatureScheme {
    /// The 32 bytes of the root alone, as files of format 1.0 have it.
    Root,
    /// A context string, then the root.
    Context,
}

impl SignatureScheme {
    fn of(code: u32) -> Option<SignatureScheme> {
        [SignatureScheme::Root, SignatureScheme::Context].into_iter().find(|scheme| scheme.code() == code)
    }

    fn code(self) -> u32 {
        match self {
            SignatureScheme::Root => 1,
            SignatureScheme::Context => 2,
        }
    }

    /// What is signed.
    fn message(self, root: &Hash) -> Vec<u8> {
        match self {
            SignatureScheme::Root => root.to_vec(),
            SignatureScheme::Context => [CONTEXT, root].concat(),
        }
    }
}

/// A signature, as it is in a file: not yet verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signature {
    /// What it signs.
    pub scheme: SignatureScheme,
    /// The signer's public key.
    pub key: PublicKey,
    /// The key's signature of the root.
    pub bytes: [u8; 64],
}

impl Signature {
    /// Signs a root, by the newest scheme.
    pub fn new(key: &SecretKey, root: &Hash) -> Signature {
        let scheme = SignatureScheme::Context;
        Signature { scheme, key: key.public(), bytes: key.sign(&scheme.message(root)) }
    }

    /// Verifies that this is the key's signature of `root`.
    ///
    /// # Errors
    /// When it is not.
    pub fn verify(&self, root: &Hash) -> Result<(), SignatureError> {
        let good = self.key.verify(&self.scheme.message(root), &self.bytes);
        if good { Ok(()) } else { Err(SignatureError::Wrong { key: self.key, root: hex(root) }) }
    }

    /// Decodes the place of a signature, without verifying it: see [`Signature::verify`].
    pub(crate) fn decode(place: &[u8]) -> Result<Option<Signature>> {
        let reserved = |place| Err(FormatError::Reserved { place });
        let zero = |range: Range<usize>| place[range].iter().all(|&b| b == 0);
        let code = LE::read_u32(place);
        let scheme = match SignatureScheme::of(code) {
            Some(scheme) => scheme,
            None if code != NONE => return Err(FormatError::SignatureScheme { scheme: code }),
            None if zero(0..place.len()) => return Ok(None),
            None => return reserved("the place of a signature, which has none,"),
        };
        if zero(KEY) {
            return reserved("the scheme of a signature without a key");
        }
        if !zero(4..KEY.start) || !zero(BYTES.end..place.len()) {
            return reserved("what is around a signature");
        }
        let bytes = place[BYTES].try_into().expect("64 bytes");
        Ok(Some(Signature { scheme, key: PublicKey(place[KEY].try_into().expect("32 bytes")), bytes }))
    }

    fn encode(&self) -> [u8; SIGNATURE_PLACE.end - SIGNATURE_PLACE.start] {
        let mut place = [0; SIGNATURE_PLACE.end - SIGNATURE_PLACE.start];
        LE::write_u32(&mut place, self.scheme.code());
        place[KEY].copy_from_slice(&self.key.0);
        place[BYTES].copy_from_slice(&self.bytes);
        place
    }

    /// Writes the signature into the file whose root was signed, over the one it has, and waits until it is on the
    /// disk. It is one write within one sector: the file has the old signature or the new one.
    ///
    /// # Errors
    /// When the file cannot be written, or its root is not `root` any more.
    pub fn write(&self, path: &Path, root: &Hash) -> Result<()> {
        let failed = |action| move |source| FormatError::Io { path: path.to_path_buf(), action, source };
        let opened = OpenOptions::new().read(true).write(true).open(path);
        let tried = |e: &Error| if e.kind() == ErrorKind::NotFound { FileAction::Open } else { FileAction::Write };
        let file = opened.map_err(|e| failed(tried(&e))(e))?;
        let start = Bundle::find(path, &file)?.map_or(0, |bundle| bundle.offset);
        let mut got = [0; 32];
        file.read_exact_at(&mut got, start + 32).map_err(failed(FileAction::Read))?;
        if got != *root {
            return Err(FormatError::HeaderHash { got: hex(&got), expected: hex(root) });
        }
        file.write_all_at(&self.encode(), start + SIGNATURE_PLACE.start as u64).map_err(failed(FileAction::Write))?;
        file.sync_all().map_err(failed(FileAction::Sync))
    }
}

impl Layout {
    /// Verifies that this key signed the root.
    ///
    /// # Errors
    /// When the file is not signed, signed by another key, or the signature is wrong.
    pub fn require_signer(&self, expected: &PublicKey) -> Result<(), SignatureError> {
        let expected = *expected;
        match &self.signature {
            None => Err(SignatureError::Unsigned { expected }),
            Some(s) if s.key != expected => Err(SignatureError::Signer { got: s.key, expected }),
            Some(s) => s.verify(&self.root),
        }
    }
}

#[cfg(test)]
mod tests;
