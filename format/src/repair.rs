//! A damaged file made whole from a good copy of it, or from one that is damaged elsewhere.
//!
//! ```text
//! for each part of the file             a chunk of 1 MiB of a tensor, a section, the zeros between them
//!     keep it                           where its hash is the one it should have
//!     or take the copy's                where the copy's is
//!     or say that nobody has it
//! ```
//!
//! What the hashes should be, the copy's header says, which its root covers. The result goes beside the file and takes its
//! name in one step.

use crate::error::{ErrorKind, FileAction, FormatError, Result};
use crate::header::{Hash, SectionKind, hex};
use crate::map::{NsvFile, map};
use crate::reader::{Damage, Layout, parse};
use crate::sign::{SIGNATURE_PLACE, Signature};
use crate::tree::{self, CHUNK_BYTES};
use crate::writer::temporary_sibling;
use rayon::prelude::*;
use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
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
    /// What was taken from the copy.
    pub taken: Vec<Damage>,
    /// Parts that the file is made of.
    pub parts: usize,
    /// Root of the file.
    pub root: Hash,
}

/// A part of a file, and what its bytes should be.
struct Part {
    what: String,
    range: Range<usize>,
    expected: Expected,
}

enum Expected {
    Whole(Hash),
    Chunk(usize, Hash),
    Zeros,
}

impl Part {
    /// Whether a file has it as it should be.
    fn holds(&self, file: &[u8]) -> bool {
        let Some(bytes) = file.get(self.range.clone()) else { return false };
        match self.expected {
            Expected::Whole(hash) => blake3::hash(bytes) == hash,
            Expected::Chunk(index, hash) => tree::chunk_hash(index, bytes) == hash,
            Expected::Zeros => bytes.iter().all(|&b| b == 0),
        }
    }
}

/// Everything behind the header, in order; tensors in chunks where their hashes are known.
fn parts(layout: &Layout, chunks: Option<&[Hash]>) -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::new();
    for s in &layout.sections {
        let name = SectionKind::from_code(s.code).map_or(s.code.to_string(), |k| k.to_string());
        parts.push(Part { what: format!("section {name}"), range: s.range.clone(), expected: Expected::Whole(s.hash) });
    }
    let mut chunks = chunks.map(|hashes| hashes.iter());
    for t in layout.tensors.iter().filter(|t| t.alias_of.is_none()) {
        let what = format!("tensor {}", t.name);
        match &mut chunks {
            Some(hashes) if tree::chunk_count(t.range.len()) > 0 => {
                let starts = t.range.clone().step_by(CHUNK_BYTES).enumerate();
                parts.extend(starts.zip(hashes).map(|((i, start), &hash)| Part {
                    what: what.clone(),
                    range: start..t.range.end.min(start + CHUNK_BYTES),
                    expected: Expected::Chunk(i, hash),
                }));
            }
            _ => parts.push(Part { what, range: t.range.clone(), expected: Expected::Whole(t.hash) }),
        }
    }
    parts.sort_by_key(|part| part.range.start);
    let ends: Vec<usize> = [layout.header_end()].into_iter().chain(parts.iter().map(|p| p.range.end)).collect();
    let starts = parts.iter().map(|p| p.range.start).chain([layout.file_len as usize]);
    let gaps = ends.into_iter().zip(starts).filter(|(end, start)| end < start);
    let gaps: Vec<Part> = gaps
        .map(|(end, start)| Part { what: "padding".into(), range: end..start, expected: Expected::Zeros })
        .collect();
    parts.extend(gaps);
    parts.sort_by_key(|part| part.range.start);
    parts
}

/// Makes `bad` what it was, with what `good` has. A signature that `bad` has and that is right is kept. Runs in the
/// current rayon pool.
///
/// # Errors
/// When they are not copies of one file, both are damaged in the same place, or the system fails; `bad` is then as it was.
pub fn repair(bad: &Path, good: &Path) -> Result<Repaired, RepairError> {
    let failed = |action| move |source| FormatError::Io { path: bad.to_path_buf(), action, source };
    let copy = NsvFile::open(good)?;
    let layout = copy.layout();
    let file = File::open(bad).map_err(failed(FileAction::Open))?;
    // No file of no bytes can be mapped.
    let empty = file.metadata().map_err(failed(FileAction::Read))?.len() == 0;
    let mapped = if empty { None } else { Some(map(&file).map_err(failed(FileAction::Map))?) };
    let bytes: &[u8] = mapped.as_deref().unwrap_or_default();
    let sound = parse(bytes).ok();
    if let Some(other) = sound.as_ref().filter(|other| other.root != layout.root) {
        let (bad, good) = (bad.to_path_buf(), good.to_path_buf());
        return Err(RepairError::Another { bad, good, got: hex(&other.root), expected: hex(&layout.root) });
    }
    let theirs = layout.chunk_hashes(copy.bytes());
    let parts = parts(layout, theirs.or_else(|| sound.as_ref().and_then(|_| layout.chunk_hashes(bytes))));
    // Of each part: is it kept, and does the copy have it?
    let found: Vec<(bool, bool)> = parts
        .par_iter()
        .map(|part| if part.holds(bytes) { (true, false) } else { (false, part.holds(copy.bytes())) })
        .collect();
    let damage = |part: &Part| Damage { what: part.what.clone(), range: part.range.clone() };
    let chosen = |want: (bool, bool)| parts.iter().zip(&found).filter(move |(_, found)| **found == want);
    let nowhere: Vec<Damage> = chosen((false, false))
        .filter(|(p, _)| !matches!(p.expected, Expected::Zeros))
        .map(|(p, _)| damage(p))
        .collect();
    if !nowhere.is_empty() {
        return Err(RepairError::Nowhere(nowhere));
    }
    let alike = |(part, _): (&Part, &(bool, bool))| !matches!(part.expected, Expected::Zeros);
    if sound.is_none() && !chosen((true, false)).any(alike) {
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
        write(bad, &header, &taken, &copy)?;
    }
    Ok(Repaired { taken, parts: parts.len() + 1, root: layout.root })
}

/// The copy's header, with the first good signature of the two.
fn header(bytes: &[u8], copy: &NsvFile) -> Vec<u8> {
    let mut header = copy.bytes()[..copy.layout().header_end()].to_vec();
    let kept = bytes.get(SIGNATURE_PLACE).filter(|place| {
        let signature = Signature::decode(place).ok().flatten();
        signature.is_some_and(|s| s.verify(&copy.layout().root).is_ok())
    });
    if let Some(kept) = kept {
        header[SIGNATURE_PLACE].copy_from_slice(kept);
    }
    header
}

/// Copies `bad` beside itself, puts the copy's parts in, and gives it its name.
fn write(bad: &Path, header: &[u8], taken: &[Damage], copy: &NsvFile) -> Result<()> {
    let (path, temp) = temporary_sibling(bad)?;
    let failed = |action| {
        let path = path.clone();
        move |source| FormatError::Io { path, action, source }
    };
    let file = temp.as_file();
    let mode = fs::metadata(&path).map_err(failed(FileAction::Read))?.permissions();
    io::copy(&mut File::open(&path).map_err(failed(FileAction::Open))?, &mut &*file)
        .map_err(failed(FileAction::Copy))?;
    file.set_len(copy.layout().file_len).map_err(failed(FileAction::Write))?;
    file.write_all_at(header, 0).map_err(failed(FileAction::Write))?;
    for part in taken.iter().filter(|part| part.range.start >= header.len()) {
        // Zeros that neither has are known all the same.
        let zeros = vec![0; if part.what == "padding" { part.range.len() } else { 0 }];
        let bytes = if zeros.is_empty() { &copy.bytes()[part.range.clone()] } else { &zeros };
        file.write_all_at(bytes, part.range.start as u64).map_err(failed(FileAction::Write))?;
    }
    file.set_permissions(mode).map_err(failed(FileAction::Write))?;
    file.sync_all().map_err(failed(FileAction::Sync))?;
    temp.persist(&path).map_err(|e| failed(FileAction::RenameTo)(e.error))?;
    Ok(())
}

#[cfg(test)]
mod tests;
