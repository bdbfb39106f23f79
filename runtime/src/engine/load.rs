//! How and when a file's bytes get into memory.
//!
//! The pages of a mapped file are read from disk when they are touched, and the system can only guess which come next.
//! So a background thread reads all of them, in the order in which the forward pass will need them:
//!
//! ```text
//! sections            the tokenizer, after the tensors
//! layers, norm, head
//! embedding           last: a step starts with a few of its rows; it is read in full only as a tied head, at the end
//! ```
//!
//! The thread skips what is already in the system's page cache. Filling the page tables in advance was measured and
//! does not pay: the computing threads need the cores, and the system maps 16 pages for each one touched, or 512 if it
//! reads files into huge pages: see [`NsvFile::read_ahead`].

use super::admission;
use crate::backend::room;
use crate::error::{Result, RuntimeError};
use nanoserve_format::{FormatError, NsvFile};
use std::fs::File;
#[cfg(target_os = "linux")]
use std::io::IoSliceMut;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::thread;

/// Bytes read at a time; after each step the thread checks whether the file is still in use.
const STEP: usize = 4 << 20;

/// How a file's bytes get into memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Load {
    /// Mapped: shared with the system's page cache and with other processes.
    #[default]
    Map,
    /// Copied into huge pages: slower to open and private to this process, but a few percent faster to read than a map
    /// of small pages.
    Huge,
}

/// Opens a file. What is not in the system's page cache is read in the background. With `lock`, waits until the whole
/// file is in memory and locks it there.
///
/// # Errors
/// When the file is bad, there is no memory for a copy, or the system does not allow locking that much memory.
pub fn open(path: &Path, load: Load, lock: bool) -> Result<Arc<NsvFile>> {
    let file = Arc::new(match load {
        Load::Map => NsvFile::open(path)?,
        Load::Huge => {
            admission::admit_copy(path)?;
            NsvFile::open_copy(path)?
        }
    });
    if load == Load::Map {
        let (wanted, path) = (Arc::downgrade(&file), path.to_path_buf());
        // If the thread cannot start, pages are simply read when they are touched.
        let _ = thread::Builder::new().name("nanoserve-load".into()).spawn(move || read_ahead(&wanted, &path));
    }
    if lock {
        file.lock().map_err(|e| explained(e, file.bytes().len()))?;
    }
    Ok(file)
}

/// The file's bytes in the order in which they are needed.
fn order(file: &NsvFile) -> [Range<usize>; 4] {
    let tensors = &file.layout().tensors;
    let (embedding, end) = (tensors[0].range.clone(), tensors.iter().map(|t| t.range.end).max().unwrap_or(0));
    [0..embedding.start, end..file.bytes().len(), embedding.end..end, embedding]
}

/// Asks the system to read what is not in its page cache, as long as anyone else holds the file.
fn read_ahead(wanted: &Weak<NsvFile>, path: &Path) {
    let Some(ranges) = wanted.upgrade().map(|file| order(&file)) else { return };
    // The map keeps no file handle to query, so the file is opened again. If another file has taken its place since,
    // the hint is only a poor one.
    let disk = File::open(path).ok();
    for range in ranges.into_iter().flat_map(|r| r.clone().step_by(STEP).map(move |at| at..r.end.min(at + STEP))) {
        let Some(file) = wanted.upgrade() else { return };
        let there = range.start + file.offset()..range.end + file.offset();
        if !disk.as_ref().is_some_and(|disk| cached(disk, &there)) {
            file.read_ahead(range);
        }
    }
}

/// True if both ends of a range can be read without waiting for the disk.
#[cfg(target_os = "linux")]
fn cached(disk: &File, range: &Range<usize>) -> bool {
    [range.start, range.end - 1].iter().all(|&at| {
        let mut byte = [0];
        let into = &mut [IoSliceMut::new(&mut byte)];
        rustix::io::preadv2(disk, into, at as u64, rustix::io::ReadWriteFlags::NOWAIT) == Ok(1)
    })
}

#[cfg(not(target_os = "linux"))]
fn cached(_: &File, _: &Range<usize>) -> bool {
    false
}

/// Adds the limit on locked memory to the error if that is the likely reason.
fn explained(e: FormatError, bytes: usize) -> RuntimeError {
    let FormatError::Io { path, action, source } = e else { return e.into() };
    let Some(limit) = room::ulimit("Max locked memory").filter(|&limit| limit < bytes as u64) else {
        return FormatError::Io { path, action, source }.into();
    };
    let cause = format!("{source}; it has {bytes} bytes, and this process may lock {limit}: raise it with ulimit -l");
    FormatError::Io { path, action, source: std::io::Error::other(cause) }.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn what_was_just_written_is_cached() {
        let mut file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut file, &[1; 10_000]).unwrap();
        assert!(cached(&file, &(0..10_000)));
        assert!(!cached(&file, &(0..10_001)), "past the end nothing can be read");
    }

    #[test]
    fn the_limit_on_locking_is_told() {
        let io = || FormatError::Io {
            path: "m".into(),
            action: nanoserve_format::FileAction::Lock,
            source: std::io::ErrorKind::OutOfMemory.into(),
        };
        assert!(explained(io(), 0).to_string().starts_with("m: cannot lock in memory: "));
        if let Some(limit) = room::ulimit("Max locked memory") {
            let text = explained(io(), limit as usize + 1).to_string();
            assert!(text.contains(&format!("may lock {limit}")), "{text}");
        }
    }
}
