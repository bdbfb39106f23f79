//! Repairs a damaged file from a copy that is good, or damaged only elsewhere.
//!
//! ```text
//! for each part of the file             a chunk of 1 MiB of a tensor, a section, the zeros between them
//!     keep it                           if its bytes match the expected hash
//!     or take the copy's                if those do
//!     or report that neither has it
//! ```
//!
//! The expected hashes come from the copy's header, which its root covers. The result is written beside the file and
//! renamed over it.

use crate::at::FileAt;
use crate::bundle::Bundle;
use crate::error::{ErrorKind, FileAction, FormatError, Result};
use crate::header::{Hash, SectionKind};
use crate::hex::hex;
use crate::map::{NsvFile, map};
use crate::partial::temporary_sibling;
use crate::reader::{Damage, Layout, parse};
use crate::sign::{SIGNATURE_PLACE, Signature};
use crate::tree::{self, CHUNK_BYTES};
use crate::writer::sync_folder;
use rayon::prelude::*;
use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Why a file was not repaired; it is as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RepairError {
    /// A file cannot be read or written, or the copy is no good file.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The two are sound, and not the same.
    #[error("{} is another file: its root is {got}, the root of {} is {expected}", bad.display(), good.display())]
    Another {
        /// The file to be repaired.
        bad: PathBuf,
        /// The copy.
        good: PathBuf,
        /// Root of the first.
        got: String,
        /// Root of the copy.
        expected: String,
    },
    /// The header is gone, and nothing behind it is what the copy has.
    #[error("{} has nothing in common with {}: it is no copy of it", bad.display(), good.display())]
    Unlike {
        /// The file to be repaired.
        bad: PathBuf,
        /// The copy.
        good: PathBuf,
    },
    /// Both are damaged in the same place.
    #[error("both files are damaged in {}: a third copy is needed", list(.0))]
    Nowhere(Vec<Damage>),
}

impl RepairError {
    /// What is at fault: two files that cannot be one, or what kept both of them.
    pub fn kind(&self) -> ErrorKind {
        match self {
            RepairError::Format(e) => e.kind(),
            RepairError::Nowhere(_) => ErrorKind::Machine,
            RepairError::Another { .. } | RepairError::Unlike { .. } => ErrorKind::Input,
        }
    }
}

fn list(damage: &[Damage]) -> String {
    let parts = damage.iter().map(|d| format!("{} bytes {}..{}", d.what, d.range.start, d.range.end));
    parts.collect::<Vec<_>>().join("; ")
}

/// What a repair did.
#[derive(Clone, Debug)]
pub struct Repaired {
    /// The parts that were taken from the copy.
    pub taken: Vec<Damage>,
    /// Number of parts of the file.
    pub parts: usize,
    /// Root of the file.
    pub root: Hash,
}

/// A part of a file, and what its bytes must be.
struct Region {
    what: String,
    range: Range<usize>,
    expected: Expected,
}

/// What the bytes between two parts are called.
const PADDING: &str = "padding";

enum Expected {
    Whole(Hash),
    Chunk(usize, Hash),
    Zeros,
}

impl Region {
    /// Whether the file has the expected bytes here.
    fn holds(&self, file: &[u8]) -> bool {
        let Some(bytes) = file.get(self.range.clone()) else { return false };
        match self.expected {
            Expected::Whole(hash) => blake3::hash(bytes) == hash,
            Expected::Chunk(index, hash) => tree::chunk_hash(index, bytes) == hash,
            Expected::Zeros => bytes.iter().all(|&b| b == 0),
        }
    }
}

/// All parts after the header, in order; tensors in chunks if their chunk hashes are known.
fn parts(layout: &Layout, chunks: Option<&[Hash]>) -> Vec<Region> {
    let mut parts: Vec<Region> = Vec::new();
    for s in &layout.sections {
        let name = SectionKind::from_code(s.code).map_or(s.code.to_string(), |k| k.to_string());
        parts.push(Region {
            what: format!("section {name}"),
            range: s.range.clone(),
            expected: Expected::Whole(s.hash),
        });
    }
    let mut chunks = chunks.map(|hashes| hashes.iter());
    for t in layout.tensors.iter().filter(|t| t.alias_of.is_none()) {
        let what = format!("tensor {}", t.name);
        match &mut chunks {
            Some(hashes) if tree::chunk_count(t.range.len()) > 0 => {
                let starts = t.range.clone().step_by(CHUNK_BYTES).enumerate();
                parts.extend(starts.zip(hashes).map(|((i, start), &hash)| Region {
                    what: what.clone(),
                    range: start..t.range.end.min(start + CHUNK_BYTES),
                    expected: Expected::Chunk(i, hash),
                }));
            }
            _ => parts.push(Region { what, range: t.range.clone(), expected: Expected::Whole(t.hash) }),
        }
    }
    parts.sort_by_key(|part| part.range.start);
    let ends: Vec<usize> = [layout.header_end()].into_iter().chain(parts.iter().map(|p| p.range.end)).collect();
    let starts = parts.iter().map(|p| p.range.start).chain([layout.file_len as usize]);
    let gaps = ends.into_iter().zip(starts).filter(|(end, start)| end < start);
    let gaps: Vec<Region> = gaps
        .map(|(end, start)| Region { what: PADDING.into(), range: end..start, expected: Expected::Zeros })
        .collect();
    parts.extend(gaps);
    parts.sort_by_key(|part| part.range.start);
    parts
}

/// Restores `bad` with the help of `good`. A valid signature in `bad` is kept. Runs in the current rayon pool.
///
/// # Errors
/// When they are not copies of one file, both are damaged in the same place, or the system fails; `bad` is then
/// unchanged.
pub fn repair(bad: &Path, good: &Path) -> Result<Repaired, RepairError> {
    let failed = |action| move |source| FormatError::Io { path: bad.to_path_buf(), action, source };
    let copy = NsvFile::open(good)?;
    let layout = copy.layout();
    let file = File::open(bad).map_err(failed(FileAction::Open))?;
    // An empty file cannot be mapped.
    let empty = file.metadata().map_err(failed(FileAction::Read))?.len() == 0;
    let mapped = if empty { None } else { Some(map(&file).map_err(failed(FileAction::Map))?) };
    let bundle = Bundle::find(bad, &file)?;
    let model = bundle.map(|bundle| bundle.range());
    // Of a bundle the model alone; nothing, should it have become shorter since.
    let bytes: &[u8] = match (mapped.as_deref(), model) {
        (Some(whole), Some(model)) => whole.get(model).unwrap_or_default(),
        (whole, _) => whole.unwrap_or_default(),
    };
    let sound = parse(bytes).ok();
    if let Some(other) = sound.as_ref().filter(|other| other.root != layout.root) {
        let (bad, good) = (bad.to_path_buf(), good.to_path_buf());
        return Err(RepairError::Another { bad, good, got: hex(&other.root), expected: hex(&layout.root) });
    }
    let copy_chunks = layout.chunk_hashes(copy.bytes());
    let parts = parts(layout, copy_chunks.or_else(|| sound.as_ref().and_then(|_| layout.chunk_hashes(bytes))));
    // For each part: whether `bad` holds it, and if not, whether the copy does.
    let found: Vec<(bool, bool)> = parts
        .par_iter()
        .map(|part| if part.holds(bytes) { (true, false) } else { (false, part.holds(copy.bytes())) })
        .collect();
    let damage = |part: &Region| Damage { what: part.what.clone(), range: part.range.clone() };
    let chosen = |want: (bool, bool)| parts.iter().zip(&found).filter(move |(_, found)| **found == want);
    let nowhere: Vec<Damage> = chosen((false, false))
        .filter(|(p, _)| !matches!(p.expected, Expected::Zeros))
        .map(|(p, _)| damage(p))
        .collect();
    if !nowhere.is_empty() {
        return Err(RepairError::Nowhere(nowhere));
    }
    let is_content = |(part, _): (&Region, &(bool, bool))| !matches!(part.expected, Expected::Zeros);
    // A bundle has room for a model of one length.
    let fits = bundle.is_none_or(|bundle| bundle.len == layout.file_len);
    if !fits || sound.is_none() && !chosen((true, false)).any(is_content) {
        return Err(RepairError::Unlike { bad: bad.to_path_buf(), good: good.to_path_buf() });
    }
    let header = header(bytes, &copy);
    let kept_header = bytes.get(..header.len()) == Some(&header[..]) && bytes.len() as u64 == layout.file_len;
    let mut taken: Vec<Damage> = Vec::new();
    if !kept_header {
        taken.push(Damage { what: "header or length".into(), range: 0..header.len() });
    }
    taken.extend(parts.iter().zip(&found).filter(|(_, found)| !found.0).map(|(part, _)| damage(part)));
    if !taken.is_empty() {
        write((bad, bundle), &header, &taken, &copy)?;
    }
    Ok(Repaired { taken, parts: parts.len() + 1, root: layout.root })
}

/// The copy's header, with the first valid signature of the two files.
fn header(bytes: &[u8], copy: &NsvFile) -> Vec<u8> {
    let mut header = copy.bytes()[..copy.layout().header_end()].to_vec();
    let own_signature = bytes.get(SIGNATURE_PLACE).filter(|place| {
        let signature = Signature::decode(place).ok().flatten();
        signature.is_some_and(|s| s.verify(&copy.layout().root).is_ok())
    });
    if let Some(own_signature) = own_signature {
        header[SIGNATURE_PLACE].copy_from_slice(own_signature);
    }
    header
}

/// Copies `bad` to a new file beside it, puts the copy's parts in, and renames it over `bad`.
fn write((bad, bundle): (&Path, Option<Bundle>), header: &[u8], taken: &[Damage], copy: &NsvFile) -> Result<()> {
    let (path, temp) = temporary_sibling(bad)?;
    let failed = |action| {
        let path = path.clone();
        move |source| FormatError::Io { path, action, source }
    };
    let file = temp.as_file();
    let mode = fs::metadata(&path).map_err(failed(FileAction::Read))?.permissions();
    io::copy(&mut File::open(&path).map_err(failed(FileAction::Open))?, &mut &*file)
        .map_err(failed(FileAction::Copy))?;
    let start = bundle.map_or(0, |bundle| bundle.offset);
    if bundle.is_none() {
        file.set_len(copy.layout().file_len).map_err(failed(FileAction::Write))?;
    }
    file.write_all_at(header, start).map_err(failed(FileAction::Write))?;
    for part in taken.iter().filter(|part| part.range.start >= header.len()) {
        let at = start + part.range.start as u64;
        // Padding is known to be zero even if neither file has it so.
        let written = match part.what == PADDING {
            true => write_zeros(file, at, part.range.len()),
            false => file.write_all_at(&copy.bytes()[part.range.clone()], at),
        };
        written.map_err(failed(FileAction::Write))?;
    }
    file.set_permissions(mode).map_err(failed(FileAction::Write))?;
    file.sync_all().map_err(failed(FileAction::Sync))?;
    temp.persist(&path).map_err(|e| failed(FileAction::RenameTo)(e.error))?;
    sync_folder(&path);
    Ok(())
}

/// Writes zeros, however many, from a block of few.
fn write_zeros(file: &File, mut at: u64, mut len: usize) -> io::Result<()> {
    static BLOCK: [u8; 1 << 16] = [0; 1 << 16];
    while len > 0 {
        let zeros = &BLOCK[..len.min(BLOCK.len())];
        file.write_all_at(zeros, at)?;
        (at, len) = (at + zeros.len() as u64, len - zeros.len());
    }
    Ok(())
}

#[cfg(test)]
mod tests;
