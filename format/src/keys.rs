//! Ed25519 keys (RFC 8032) that sign and verify files, and the files that hold the keys.
//!
//! A key file is PEM as `openssl genpkey -algorithm ed25519` and `openssl pkey -pubout` write it (a fixed prefix and 32
//! bytes, RFC 8410), or the 32 bytes as 64 hex digits.

use crate::error::ErrorKind;
use ed25519_dalek::{Signer, SigningKey, VerifyingKey};
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// The bytes before the seed in a private key file: PKCS #8 of an Ed25519 key.
const SECRET_PREFIX: [u8; 16] = *b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20";
const SECRET_LABEL: &str = "PRIVATE KEY";
/// The bytes before the key in a public key file: SubjectPublicKeyInfo of an Ed25519 key.
const PUBLIC_PREFIX: [u8; 12] = *b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00";
const PUBLIC_LABEL: &str = "PUBLIC KEY";
/// Bytes that are read of a key file at most; no key file is longer.
const MAX_FILE_BYTES: u64 = 1 << 16;

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// A key file cannot be read.
    #[error("cannot read the key {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A new key cannot be written.
    #[error("cannot write the key {path}: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A file, or what was given in its place, is no key of the kind asked for.
    #[error("the key {name} is {got}, expected {expected}")]
    Form {
        /// The file, or the digits.
        name: String,
        /// What it is instead.
        got: String,
        /// What it should be.
        expected: &'static str,
    },
    /// The system has no random numbers to make a key of.
    #[error("cannot make a key: {0}")]
    Random(getrandom::Error),
}

impl KeyError {
    /// Whether the key, or the machine, is at fault.
    pub fn kind(&self) -> ErrorKind {
        match self {
            // A file that is there already is never overwritten; where the folder is not there, the name is wrong.
            KeyError::Write { source, .. } => match source.kind() {
                io::ErrorKind::AlreadyExists | io::ErrorKind::NotFound => ErrorKind::Input,
                _ => ErrorKind::Machine,
            },
            KeyError::Random(_) => ErrorKind::Machine,
            KeyError::Read { source, .. } => ErrorKind::of_io(source),
            KeyError::Form { .. } => ErrorKind::Input,
        }
    }
}

/// A public key, as it is in a file's preamble: any 32 bytes. [`PublicKey::read`] returns only valid ones.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicKey(pub [u8; 32]);

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(blake3::Hash::from_bytes(self.0).to_hex().as_str())
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

impl PublicKey {
    /// Reads the key in the file `path`, or the key that `path` itself spells in 64 hex digits.
    ///
    /// # Errors
    /// When it cannot be read, is not an Ed25519 public key, or is of small order, so that anybody could sign for it.
    pub fn read(path: &Path) -> Result<PublicKey, KeyError> {
        const EXPECTED: &str = "an Ed25519 public key: PEM as openssl pkey -pubout writes it, or 64 hex digits";
        let form = |got| KeyError::Form { name: path.display().to_string(), got, expected: EXPECTED };
        let digits = path.to_str().and_then(unhex).map(Ok);
        let bytes = digits.unwrap_or_else(|| parse(&text(path)?, PUBLIC_LABEL, &PUBLIC_PREFIX).map_err(form))?;
        match VerifyingKey::from_bytes(&bytes) {
            Ok(key) if !key.is_weak() => Ok(PublicKey(bytes)),
            Ok(_) => Err(form("of small order, which anybody could sign for".into())),
            Err(_) => Err(form("no point of the curve".into())),
        }
    }

    /// The key as the text of a PEM file.
    pub fn to_pem(&self) -> String {
        pem(PUBLIC_LABEL, &[&PUBLIC_PREFIX[..], &self.0].concat())
    }

    /// Whether `signature` is this key's signature of `message`, by the strict rules: nobody can change a signature
    /// into another valid one, and no key has a signature that is valid for two messages.
    pub(crate) fn verify(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        let signature = ed25519_dalek::Signature::from_bytes(signature);
        VerifyingKey::from_bytes(&self.0).is_ok_and(|key| key.verify_strict(message, &signature).is_ok())
    }
}

/// A private key.
pub struct SecretKey(SigningKey);

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "SecretKey(of {})", self.public())
    }
}

impl SecretKey {
    /// The key derived from a seed.
    pub fn from_seed(seed: &[u8; 32]) -> SecretKey {
        SecretKey(SigningKey::from_bytes(seed))
    }

    /// Generates a new key.
    ///
    /// # Errors
    /// When the system has no random numbers.
    pub fn generate() -> Result<SecretKey, KeyError> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(KeyError::Random)?;
        Ok(Self::from_seed(&seed))
    }

    /// Reads the key in a file.
    ///
    /// # Errors
    /// When it cannot be read or is not an Ed25519 private key.
    pub fn read(path: &Path) -> Result<SecretKey, KeyError> {
        let expected = "an Ed25519 private key: PEM as openssl genpkey writes it, or a file of 64 hex digits";
        let seed = parse(&text(path)?, SECRET_LABEL, &SECRET_PREFIX);
        let form = |got| KeyError::Form { name: path.display().to_string(), got, expected };
        Ok(Self::from_seed(&seed.map_err(form)?))
    }

    /// The public key that belongs to it.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key().to_bytes())
    }

    /// Writes the key, readable by its owner alone, and beside it the public key as `NAME.pub.pem`, whose path it
    /// returns.
    ///
    /// # Errors
    /// When either file exists already or cannot be written; then neither is created.
    pub fn write_new(&self, path: &Path) -> Result<PathBuf, KeyError> {
        let public = path.with_extension("pub.pem");
        let secret = pem(SECRET_LABEL, &[&SECRET_PREFIX[..], self.0.as_bytes()].concat());
        write_new(path, 0o600, &secret)?;
        if let Err(e) = write_new(&public, 0o666, &self.public().to_pem()) {
            let _ = fs::remove_file(path);
            return Err(e);
        }
        Ok(public)
    }

    /// The signature of a message.
    pub(crate) fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }
}

fn text(path: &Path) -> Result<String, KeyError> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|f| f.take(MAX_FILE_BYTES).read_to_end(&mut bytes));
    read.map_err(|source| KeyError::Read { path: path.to_path_buf(), source })?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    blake3::Hash::from_hex(text).ok().map(Into::into)
}

/// The 32 bytes of a key; Err says what the text is instead.
fn parse(text: &str, label: &str, prefix: &[u8]) -> Result<[u8; 32], String> {
    if let Some(key) = unhex(text.trim()) {
        return Ok(key);
    }
    let block = || {
        let (found, rest) = text.split_once("-----BEGIN ")?.1.split_once("-----")?;
        Some((found, rest.split_once(&format!("-----END {found}-----"))?.0))
    };
    let Some((found, body)) = block() else { return Err("neither PEM nor 64 hex digits".into()) };
    if found != label {
        let hint = if found.starts_with("ENCRYPTED") { ", to be decrypted with openssl pkey" } else { "" };
        return Err(format!("PEM of a {found}{hint}"));
    }
    let body: String = body.split_whitespace().collect();
    let der = base64::decode(body).map_err(|e| format!("PEM whose base64 is wrong: {e}"))?;
    let key = der.strip_prefix(prefix).and_then(|key| key.try_into().ok());
    key.ok_or_else(|| "a key of another algorithm, or of an unusual form".into())
}

fn pem(label: &str, der: &[u8]) -> String {
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", base64::encode(der))
}

fn write_new(path: &Path, mode: u32, text: &str) -> Result<(), KeyError> {
    let failed = |source| KeyError::Write { path: path.to_path_buf(), source };
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode);
    // Elsewhere a new file is whose the folder is.
    #[cfg(not(unix))]
    let _ = mode;
    let mut file = options.open(path).map_err(failed)?;
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    written.inspect_err(|_| _ = fs::remove_file(path)).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 8410, section 10.
    const SECRET: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n-----END PRIVATE KEY-----\n";
    const PUBLIC: &str = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n";
    const PUBLIC_HEX: &str = "19bf44096984cdfe8541bac167dc3b96c85086aa30b6b6cb0c5c38ad703166e1";

    #[test]
    fn the_keys_of_rfc_8410_are_read_and_written() {
        let folder = tempfile::tempdir().unwrap();
        let put = |text: &str| {
            let path = folder.path().join("key");
            fs::write(&path, text).unwrap();
            path
        };
        let secret = SecretKey::read(&put(SECRET)).unwrap();
        assert_eq!(secret.public().to_string(), PUBLIC_HEX);
        for text in [PUBLIC, PUBLIC_HEX, &format!("  {}\r\n", PUBLIC_HEX.to_uppercase()), &format!("mine:\n{PUBLIC}")] {
            assert_eq!(PublicKey::read(&put(text)).unwrap(), secret.public(), "{text}");
        }
        assert_eq!(PublicKey::read(Path::new(PUBLIC_HEX)).unwrap(), secret.public());
        let new = folder.path().join("new.pem");
        let public = secret.write_new(&new).unwrap();
        assert_eq!(fs::read_to_string(&new).unwrap(), SECRET);
        assert_eq!(fs::read_to_string(public).unwrap(), PUBLIC);
        let seed = "d4ee72dbf913584ad5b6d8f1f769f8ad3afe7c28cbf1d4fbe097a88f44755842";
        assert_eq!(SecretKey::read(&put(seed)).unwrap().public(), secret.public());
        assert!(!format!("{secret:?}").contains("d4ee"));
    }

    #[test]
    fn a_new_key_is_its_owners_and_replaces_none() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.pem");
        let (first, second) = (SecretKey::generate().unwrap(), SecretKey::generate().unwrap());
        assert_ne!(first.public(), second.public());
        let public = first.write_new(&path).unwrap();
        assert_eq!(public.file_name().unwrap(), "key.pub.pem");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(matches!(second.write_new(&path), Err(KeyError::Write { .. })));
        assert_eq!(SecretKey::read(&path).unwrap().public(), first.public());
        // It does not replace a public key either, and then leaves no private key.
        fs::remove_file(&path).unwrap();
        assert!(matches!(second.write_new(&path), Err(KeyError::Write { .. })));
        assert!(!path.exists() && PublicKey::read(&public).unwrap() == first.public());
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let other = SECRET.replace("K2Vw", "K2Vu");
        for (text, word) in [
            ("", "neither"),
            ("ab", "neither"),
            (&PUBLIC_HEX[1..], "neither"),
            (SECRET.split_once("-----END").unwrap().0, "neither"),
            (&SECRET.replace("MC4C", "MC4*"), "base64"),
            (&SECRET.replace("VhC", ""), "base64"),
            (&other, "another algorithm"),
            (PUBLIC, "PEM of a PUBLIC KEY"),
            (&SECRET.replace("PRIVATE", "ENCRYPTED PRIVATE"), "decrypted"),
        ] {
            fs::write(&path, text).unwrap();
            let error = SecretKey::read(&path).expect_err(text).to_string();
            assert!(error.contains(word) && error.contains("expected"), "no {word} in {error}");
        }
        // Points of small order are valid for no signature; other bytes are no point at all.
        for (digits, word) in [
            (format!("01{}", "00".repeat(31)), "small order"),
            ("00".repeat(32), "small order"),
            ("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a".into(), "small order"),
            (format!("02{}", "00".repeat(31)), "no point"),
        ] {
            let error = PublicKey::read(Path::new(&digits)).expect_err(&digits).to_string();
            assert!(error.contains(word), "{error}");
        }
        assert!(matches!(PublicKey::read(&folder.path().join("none")), Err(KeyError::Read { .. })));
    }
}
