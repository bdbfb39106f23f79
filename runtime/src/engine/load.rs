//! How a file's bytes come into memory, and when.
//!
//! A map's pages come from the disk when they are touched, and what is touched next the system can only guess. Here a
//! thread in the background reads all of them, in the order in which the forward pass will want them:
//!
//! ```text
//! sections            the tokenizer, behind the tensors
//! layers, norm, head
//! embedding           last: one row of it is needed first, the whole of it, where it is the head too, at the end
//! ```
//!
//! It leaves what is in the system's cache already. Filling the page tables ahead of that was measured and does not pay:
//! the threads that compute have the cores, and the system maps 16 pages for each one touched, or 512 where it reads files
//! into huge pages: see [`NsvFile::read_ahead`].

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

/// Bytes that are read at a time; between steps the thread looks whether the file is still wanted.
const STEP: usize = 4 << 20;

/// How a file's bytes come into memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Load {
    /// Mapped: shared with other processes and the system's cache.
    #[default]
    Map,
    /// Copied into huge pages: slower to begin with, and memory of this process alone; a few percent faster to read than a map
    /// of small pages.
    Huge,
}

/// Opens a file; what is not in the system's cache is read in the background. With `lock`, waits until all is in memory,
/// to stay there.
///
/// # Errors
/// When the file is bad, there is no memory for a copy, or the system does not allow to lock so much.
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
        // Without the thread the pages come when they are touched.
        let _ = thread::Builder::new().name("nanoserve-load".into()).spawn(move || read_ahead(&wanted, &path));
    }
    if lock {
        file.lock().map_err(|e| explained(e, file.bytes().len()))?;
    }
    Ok(file)
}

/// The file's bytes in the order in which they are wanted.
fn order(file: &NsvFile) -> [Range<usize>; 4] {
    let tensors = &file.layout().tensors;
    let (embedding, end) = (tensors[0].range.clone(), tensors.iter().map(|t| t.range.end).max().unwrap_or(0));
    [0..embedding.start, end..file.bytes().len(), embedding.end..end, embedding]
}

/// Has the system read what it does not have in its cache, as long as somebody else holds the file.
fn read_ahead(wanted: &Weak<NsvFile>, path: &Path) {
    let Some(ranges) = wanted.upgrade().map(|file| order(&file)) else { return };
    // The map keeps no file to ask: it is opened again. Should another have come to its place, the hint is a poor one.
    let disk = File::open(path).ok();
    for range in ranges.into_iter().flat_map(|r| r.clone().step_by(STEP).map(move |at| at..r.end.min(at + STEP))) {
        let Some(file) = wanted.upgrade() else { return };
        if !disk.as_ref().is_some_and(|disk| cached(disk, &range)) {
            file.read_ahead(range);
        }
    }
}

/// Whether both ends of a range can be read without waiting for the disk.
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

/// Says what the limit is, where that is the likely reason.
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
