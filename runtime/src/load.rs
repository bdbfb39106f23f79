//! How a file's bytes come into memory, and when.
//!
//! A map's pages come when they are touched: small ones, one by one, in the middle of the first token. Here a thread in
//! the background goes over them first, in the order in which the forward pass will want them: while it waits for the
//! disk or fills the page tables, the tokenizer is loaded and the first layers run.
//!
//! ```text
//! sections            the tokenizer
//! layers, norm, head
//! embedding           last: one row of it is needed first, the whole of it, where it is the head too, at the end
//! ```

use crate::error::{Result, RuntimeError};
use nanoserve_format::{FormatError, NsvFile};
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::thread;

/// Bytes that are brought in at a time; between steps the thread looks whether the file is still wanted.
const STEP: usize = 8 << 20;

/// Bytes that the disk is asked for ahead of those.
const AHEAD: usize = 64 << 20;

/// How a file's bytes come into memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Load {
    /// Mapped: shared with other processes and the system's cache.
    #[default]
    Map,
    /// Copied into huge pages: a few percent faster to read, slower to begin with, and memory of this process alone.
    Huge,
}

/// Opens a file; its pages come in the background. With `lock`, waits until all are there, to stay.
///
/// # Errors
/// When the file is bad, there is no memory for a copy, or the system does not allow to lock so much.
pub fn open(path: &Path, load: Load, lock: bool) -> Result<Arc<NsvFile>> {
    let file = Arc::new(match load {
        Load::Map => NsvFile::open(path)?,
        Load::Huge => NsvFile::open_copy(path)?,
    });
    if load == Load::Map {
        let ranges = order(&file);
        if lock {
            // Locking reads small pieces one after the other: the disk is asked for all of it first.
            ranges.into_iter().for_each(|range| file.read_ahead(range));
        } else {
            let file = Arc::downgrade(&file);
            // Without the thread pages come when they are touched.
            let _ = thread::Builder::new().name("nanoserve-load".into()).spawn(move || bring(&file, &ranges));
        }
    }
    if lock {
        file.lock().map_err(|e| explained(e, file.bytes().len()))?;
    }
    Ok(file)
}

/// The file's bytes in the order in which they are wanted.
fn order(file: &NsvFile) -> [Range<usize>; 3] {
    let embedding = file.layout().tensors[0].range.clone();
    [0..embedding.start, embedding.end..file.bytes().len(), embedding]
}

/// Brings ranges into memory, one after the other, as long as somebody else holds the file.
fn bring(file: &Weak<NsvFile>, ranges: &[Range<usize>]) {
    let steps = || ranges.iter().flat_map(|r| r.clone().step_by(STEP).map(|at| at..r.end.min(at + STEP)));
    let mut ahead = steps();
    for _ in 0..AHEAD / STEP {
        let (Some(range), Some(file)) = (ahead.next(), file.upgrade()) else { break };
        file.read_ahead(range);
    }
    for range in steps() {
        let Some(file) = file.upgrade() else { return };
        if let Some(range) = ahead.next() {
            file.read_ahead(range);
        }
        if !file.populate(range) {
            // This system cannot: the disk is asked for the rest, the pages come when they are touched.
            ahead.for_each(|range| file.read_ahead(range));
            return;
        }
    }
}

/// Says what the limit is, where that is the likely reason.
fn explained(e: FormatError, bytes: usize) -> RuntimeError {
    let FormatError::Io { path, action, source } = e else { return e.into() };
    let Some(limit) = lock_limit().filter(|&limit| limit < bytes as u64) else {
        return FormatError::Io { path, action, source }.into();
    };
    let cause = format!("{source}; it has {bytes} bytes, and this process may lock {limit}: raise it with ulimit -l");
    FormatError::Io { path, action, source: std::io::Error::other(cause) }.into()
}

/// Bytes that this process may lock; None where there is no limit, or nobody who says so.
fn lock_limit() -> Option<u64> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    limits.lines().find_map(|line| line.strip_prefix("Max locked memory")?.split_whitespace().next()?.parse().ok())
}
