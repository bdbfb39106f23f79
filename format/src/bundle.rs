//! A program and a model in one executable file, a bundle: the system runs its beginning, and the program maps its end.
//!
//! ```text
//! 0         the program's own bytes, then zeros
//! offset    the model, a whole .nsv file; a multiple of 65536, so that its pages are mapped as those of a file
//! end       the trailer, 128 bytes
//!             0  magic                     32  BLAKE3 of all bytes before the model
//!             8  version, 4 bytes          64  BLAKE3 of the trailer's first 64 bytes
//!            12  zeros, 4 bytes            96  zeros
//!            16  offset of the model, 8
//!            24  length of the model, 8
//! ```
//!
//! Numbers are little-endian. A file that begins as a `.nsv` is one, whatever it ends with. The trap: tools that rewrite
//! an executable, such as `strip`, drop what follows the program.

use crate::error::{FileAction, FormatError, Result};
use crate::header::{DATA_ALIGNMENT, HASH_BYTES, Hash, MAGIC};
use crate::hex::hex;
use crate::map::NsvFile;
use crate::replace::Replacing;
use byteorder::{ByteOrder, LittleEndian as LE};
use std::fs::File;
use std::hint::black_box;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// The first eight bytes of a trailer.
const TRAILER_MAGIC: [u8; 8] = *b"\x89NSVEXE\n";

/// Bytes of a trailer.
const TRAILER_BYTES: usize = 128;

/// The version of the trailer that this crate writes and reads.
const TRAILER_VERSION: u32 = 1;

/// Where the trailer's own hash lies; it covers all that is before.
const TRAILER_HASH: Range<usize> = 64..64 + HASH_BYTES;

/// Bytes that every program has which finds a model at its own end.
static MARK: [u8; 32] = *b"nanoserve: a model may follow me";

/// Bytes that are written at a time.
const STEP: usize = 8 << 20;

/// Why a file is no good bundle, or none can be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BundleError {
    /// A model follows the program, and no trailer follows the model.
    #[error("a bundle whose end is missing: it was truncated, or its last {TRAILER_BYTES} bytes are damaged")]
    Cut,
    /// The trailer does not match its hash.
    #[error("the trailer of the bundle is damaged: hash {got}, expected {expected}")]
    Damaged {
        /// Hash of the bytes found, hex.
        got: String,
        /// Hash that the trailer holds, hex.
        expected: String,
    },
    /// The trailer is of a version that this reader does not know.
    #[error("a bundle of version {version}, this program reads {TRAILER_VERSION}: a newer nanoserve is needed")]
    Version {
        /// Its version.
        version: u32,
    },
    /// The trailer does not fit the file.
    #[error("the bundle has {got} bytes, its trailer says {expected}: it was {}", if got < expected { "truncated" } else { "added to" })]
    Length {
        /// Bytes there are.
        got: u64,
        /// Bytes there should be, saturated.
        expected: u64,
    },
    /// The model's place is not one that a model is put at.
    #[error("the model in the bundle starts at byte {offset}, expected a multiple of {DATA_ALIGNMENT}")]
    Alignment {
        /// First byte.
        offset: u64,
    },
    /// A bundle should be made of what is one already.
    #[error("{} is a bundle already: a program and a model. A bundle is made of a .nsv file and nanoserve alone", path.display())]
    Twice {
        /// The file.
        path: PathBuf,
    },
    /// The program would not find the model.
    #[error("{} is not the program nanoserve, or is one that finds no model in itself", path.display())]
    Program {
        /// The file.
        path: PathBuf,
    },
}

/// What a bundle's trailer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bundle {
    /// Where the model begins in the file.
    pub offset: u64,
    /// Bytes of the model.
    pub len: u64,
    /// BLAKE3 of all bytes before the model.
    pub program: Hash,
}

impl Bundle {
    /// What the trailer of this open file says; None where the file is no bundle. Reads a few hundred bytes.
    ///
    /// # Errors
    /// When it cannot be read, or is a bundle that was truncated or damaged.
    pub fn find(path: &Path, file: &File) -> Result<Option<Bundle>> {
        let failed = |source| FormatError::Io { path: path.to_path_buf(), action: FileAction::Read, source };
        let about = file.metadata().map_err(failed)?;
        if !about.is_file() {
            return Ok(None);
        }
        let mut head = [0; 64];
        let read = read_at_most(file, 0, &mut head).map_err(failed)?;
        let head = &head[..read];
        if head.starts_with(&MAGIC) {
            return Ok(None);
        }
        let mut trailer = [0; TRAILER_BYTES];
        let at = about.len().checked_sub(TRAILER_BYTES as u64);
        if let Some(at) = at
            && read_at_most(file, at, &mut trailer).map_err(failed)? == TRAILER_BYTES
            && trailer.starts_with(&TRAILER_MAGIC)
        {
            return Ok(Some(decode(&trailer, about.len())?));
        }
        let mut magic = [0; MAGIC.len()];
        if let Some(end) = elf_end(head)
            && let Some(offset) = end.checked_next_multiple_of(DATA_ALIGNMENT)
            && read_at_most(file, offset, &mut magic).map_err(failed)? == MAGIC.len()
            && magic == MAGIC
        {
            return Err(BundleError::Cut.into());
        }
        Ok(None)
    }

    /// The model's bytes in the file.
    pub(crate) fn range(&self) -> Range<usize> {
        self.offset as usize..(self.offset + self.len) as usize
    }
}

fn decode(trailer: &[u8; TRAILER_BYTES], file_len: u64) -> Result<Bundle> {
    let version = LE::read_u32(&trailer[8..]);
    let (got, expected) = (blake3::hash(&trailer[..TRAILER_HASH.start]), &trailer[TRAILER_HASH]);
    if got.as_bytes() != expected {
        let expected: Hash = expected.try_into().expect("32 bytes");
        return Err(BundleError::Damaged { got: got.to_hex().to_string(), expected: hex(&expected) }.into());
    }
    if version != TRAILER_VERSION {
        return Err(BundleError::Version { version }.into());
    }
    if trailer[12..16].iter().chain(&trailer[TRAILER_HASH.end..]).any(|&byte| byte != 0) {
        return Err(FormatError::Reserved { place: "what is around the numbers of a bundle's trailer" });
    }
    let (offset, len) = (LE::read_u64(&trailer[16..]), LE::read_u64(&trailer[24..]));
    let expected = offset.saturating_add(len).saturating_add(TRAILER_BYTES as u64);
    if expected != file_len {
        return Err(BundleError::Length { got: file_len, expected }.into());
    }
    if offset == 0 || !offset.is_multiple_of(DATA_ALIGNMENT) {
        return Err(BundleError::Alignment { offset }.into());
    }
    Ok(Bundle { offset, len, program: trailer[32..64].try_into().expect("32 bytes") })
}

fn encode(bundle: &Bundle) -> [u8; TRAILER_BYTES] {
    let mut trailer = [0; TRAILER_BYTES];
    trailer[..8].copy_from_slice(&TRAILER_MAGIC);
    LE::write_u32(&mut trailer[8..], TRAILER_VERSION);
    LE::write_u64(&mut trailer[16..], bundle.offset);
    LE::write_u64(&mut trailer[24..], bundle.len);
    trailer[32..64].copy_from_slice(&bundle.program);
    let hash = blake3::hash(&trailer[..TRAILER_HASH.start]);
    trailer[TRAILER_HASH].copy_from_slice(hash.as_bytes());
    trailer
}

/// Where a 64-bit ELF program ends by its own account: behind its section table. None for any other file.
fn elf_end(head: &[u8]) -> Option<u64> {
    if head.len() < 64 || !head.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let table = u64::from(LE::read_u16(&head[58..])) * u64::from(LE::read_u16(&head[60..]));
    LE::read_u64(&head[40..]).checked_add(table)
}

/// Reads from `at` on until `into` is full or the file ends; how many bytes there were.
fn read_at_most(mut file: &File, at: u64, into: &mut [u8]) -> io::Result<usize> {
    file.seek(SeekFrom::Start(at))?;
    let mut read = 0;
    while read < into.len() {
        match file.read(&mut into[read..]) {
            Ok(0) => break,
            Ok(n) => read += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(read)
}

/// The bytes of a program that can be bundled: nanoserve, with no model behind it.
fn program_bytes(path: &Path, mut file: &File) -> Result<Vec<u8>> {
    if Bundle::find(path, file)?.is_some() {
        return Err(BundleError::Twice { path: path.to_path_buf() }.into());
    }
    let failed = |source| FormatError::Io { path: path.to_path_buf(), action: FileAction::Read, source };
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0)).and_then(|_| file.read_to_end(&mut bytes)).map_err(failed)?;
    // Opaque to the compiler, so that the mark is in the program in one piece.
    let mark = black_box(&MARK);
    if !bytes.windows(mark.len()).any(|window| window == mark) {
        return Err(BundleError::Program { path: path.to_path_buf() }.into());
    }
    Ok(bytes)
}

/// Makes the executable `out` of a program, an open file, and a model. Before each step `go_on` is asked; when it says no,
/// nothing is left. A file `out` is replaced in one step.
///
/// The model's bytes are copied as they are: check them first, see [`NsvFile::check`].
///
/// # Errors
/// When the program is no nanoserve, either is a bundle already, `go_on` says no, or the system fails.
pub fn bundle(
    (program, file): (&Path, &File),
    model: &NsvFile,
    out: &Path,
    go_on: &mut dyn FnMut(u64) -> bool,
) -> Result<Bundle> {
    if model.bundle().is_some() {
        return Err(BundleError::Twice { path: model.path().to_path_buf() }.into());
    }
    let mut head = program_bytes(program, file)?;
    head.resize(head.len().next_multiple_of(DATA_ALIGNMENT as usize), 0);
    let bundle =
        Bundle { offset: head.len() as u64, len: model.bytes().len() as u64, program: blake3::hash(&head).into() };
    let mut new = Replacing::begin(out, bundle.offset + bundle.len + TRAILER_BYTES as u64)?;
    for step in [&head, model.bytes(), &encode(&bundle)].into_iter().flat_map(|part| part.chunks(STEP)) {
        if !go_on(step.len() as u64) {
            return Err(FormatError::Cancelled);
        }
        new.write(step)?;
    }
    let failed = |source| FormatError::Io { path: out.to_path_buf(), action: FileAction::Write, source };
    make_executable(new.file()).map_err(failed)?;
    new.finish()?;
    Ok(bundle)
}

/// Lets everybody run it who may read it.
#[cfg(unix)]
fn make_executable(file: &File) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let mode = file.metadata()?.permissions().mode();
    file.set_permissions(std::fs::Permissions::from_mode(mode | (mode & 0o444) >> 2))
}

#[cfg(not(unix))]
fn make_executable(_: &File) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests;
