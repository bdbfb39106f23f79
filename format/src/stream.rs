//! Writes the tensors' bytes into the file: several threads fill them, chunks are hashed while they are in a cache,
//! and one more thread writes them in the order of the file.
//!
//! ```text
//! window     pieces of tensors, filled in parallel; complete chunks are hashed in parallel
//!              whole chunks, as far as they fill whole blocks  ->  written in the background
//!              the rest                                        ->  begins the next window
//! ```
//!
//! A large file bypasses the page cache: to find its pages, fill them by copying and give them up again took two thirds
//! of a conversion's time on a machine with two processors.

use crate::at::FileAt;
use crate::header::Hash;
use crate::tree::{self, CHUNK_BYTES};
use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;
use std::fs::File;
use std::io;
use std::mem;
use std::ops::Range;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::{self, JoinHandle};

/// Bytes that are filled before some are written.
const WINDOW: usize = 4 << 20;
/// Filled windows that may wait to be written; beyond that the filling threads wait too.
const QUEUE: usize = 1;
/// Bytes that one thread fills at a time.
const JOB: usize = 256 << 10;
/// Alignment of offsets, lengths and memory for writes that bypass the page cache.
const BLOCK: usize = 4096;
/// Bytes written to the page cache between two syncs, so that the last sync has little to do.
const SYNC_BYTES: usize = 128 << 20;

/// An aligned block of memory.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(4096))]
struct Block([u8; BLOCK]);

/// A buffer of bytes that begins at a block's start.
#[derive(Default)]
struct Window {
    blocks: Vec<Block>,
    len: usize,
}

impl Window {
    fn bytes(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.blocks)[..self.len]
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut(&mut self.blocks)[..self.len]
    }

    /// Adds `more` bytes of unspecified value and returns them.
    fn grow(&mut self, more: usize) -> &mut [u8] {
        let first = self.len;
        self.len += more;
        let more = self.len.div_ceil(BLOCK).saturating_sub(self.blocks.len());
        self.blocks.reserve_exact(more);
        self.blocks.resize(self.blocks.len() + more, Block::zeroed());
        &mut self.bytes_mut()[first..]
    }
}

/// The tensors' bytes on their way into the file. If it is dropped early, queued windows are still written.
pub struct Stream {
    /// Where in the file the window begins.
    start: u64,
    window: Window,
    full: SyncSender<(u64, Window)>,
    empty: Receiver<Window>,
    /// Some until the thread has ended.
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "a stream at {}", self.start + self.window.len as u64)
    }
}

impl Stream {
    /// A stream into `file` from `start` on, a multiple of 4096. With `direct`, the file's path, it bypasses the page
    /// cache if that is possible.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn new(file: File, direct: Option<&Path>, start: u64) -> io::Result<Stream> {
        assert!(start.is_multiple_of(BLOCK as u64), "{start} begins no block");
        let direct = direct.and_then(open_direct);
        let (full, to_write) = sync_channel(QUEUE);
        let (written, empty) = channel();
        let thread = thread::Builder::new().name("nanoserve-write".into());
        let thread = thread.spawn(move || write_windows(&file, direct, &to_write, &written))?;
        Ok(Stream { start, window: Window::default(), full, empty, thread: Some(thread) })
    }

    /// Writes a tensor of `pieces` pieces of `piece_bytes` at `offset`, which lies after all earlier tensors. `fill`
    /// gets a range of pieces and the bytes to fill; it runs in the current rayon pool, pieces in any order. Returns
    /// the tensor's hash and its chunk hashes.
    ///
    /// # Errors
    /// The first error of `fill`, or an error of the file, converted by `failed`.
    pub fn tensor<E: Send>(
        &mut self,
        (offset, pieces, piece_bytes): (u64, usize, usize),
        fill: impl Fn(Range<usize>, &mut [u8]) -> Result<(), E> + Sync,
        failed: impl Fn(io::Error) -> E,
    ) -> Result<(Hash, Vec<Hash>), E> {
        let len = pieces * piece_bytes;
        let pad = (offset - self.start) as usize - self.window.len;
        self.window.grow(pad).fill(0);
        let has_chunks = tree::chunk_count(len) > 0;
        let mut chunks = Vec::with_capacity(tree::chunk_count(len));
        let mut filled = 0;
        while filled < pieces {
            let more = (WINDOW.saturating_sub(self.window.len) / piece_bytes).clamp(1, pieces - filled);
            let per_job = (JOB / piece_bytes).max(1);
            let jobs = self.window.grow(more * piece_bytes).par_chunks_mut(per_job * piece_bytes).enumerate();
            jobs.try_for_each(|(job, bytes)| {
                let first = filled + job * per_job;
                fill(first..first + bytes.len() / piece_bytes, bytes)
            })?;
            filled += more;
            // Filled bytes of the tensor in whole chunks; at its end, all of them.
            let whole = if filled == pieces { len } else { filled * piece_bytes / CHUNK_BYTES * CHUNK_BYTES };
            let start = self.start;
            let at = |byte: usize| (offset + byte as u64 - start) as usize;
            if has_chunks && whole > chunks.len() * CHUNK_BYTES {
                let first = chunks.len();
                let bytes = &self.window.bytes()[at(first * CHUNK_BYTES)..at(whole)];
                let hashes = bytes.par_chunks(CHUNK_BYTES).enumerate();
                chunks.par_extend(hashes.map(|(i, chunk)| tree::chunk_hash(first + i, chunk)));
            }
            if self.window.len >= WINDOW && filled < pieces {
                self.send(at(if has_chunks { whole } else { 0 })).map_err(&failed)?;
            }
        }
        let bytes = if has_chunks { &[] } else { &self.window.bytes()[self.window.len - len..] };
        let hash = tree::root(&chunks, bytes);
        if self.window.len >= WINDOW {
            self.send(self.window.len).map_err(failed)?;
        }
        Ok((hash, chunks))
    }

    /// Sends the window's first `len` bytes, rounded down to whole blocks, to be written; the rest begins the next
    /// window.
    fn send(&mut self, len: usize) -> io::Result<()> {
        let len = len / BLOCK * BLOCK;
        let mut next = self.empty.try_recv().unwrap_or_default();
        next.len = 0;
        next.grow(self.window.len - len).copy_from_slice(&self.window.bytes()[len..]);
        self.window.len = len;
        let window = mem::replace(&mut self.window, next);
        let start = self.start;
        self.start += len as u64;
        // The thread ends early only on an error, which `join` returns.
        if self.full.send((start, window)).is_err() { self.join() } else { Ok(()) }
    }

    fn join(&mut self) -> io::Result<()> {
        self.thread.take().map_or(Ok(()), |thread| thread.join().expect("writing does not panic"))
    }

    /// Waits until all whole blocks are written; returns the offset of the remaining bytes, and these bytes.
    ///
    /// # Errors
    /// When a write or sync failed.
    pub fn finish(mut self) -> io::Result<(u64, Vec<u8>)> {
        self.send(self.window.len)?;
        // Dropping the sender ends the thread.
        self.full = sync_channel(0).0;
        self.join()?;
        Ok((self.start, self.window.bytes().to_vec()))
    }
}

/// Opens the file again for writes that bypass the page cache; None if that is not possible.
#[cfg(target_os = "linux")]
fn open_direct(path: &Path) -> Option<File> {
    use std::os::unix::fs::OpenOptionsExt;
    File::options().write(true).custom_flags(libc::O_DIRECT).open(path).ok()
}

#[cfg(not(target_os = "linux"))]
fn open_direct(_: &Path) -> Option<File> {
    None
}

/// Writes windows, all of whole blocks, as they come.
fn write_windows(
    file: &File,
    mut direct: Option<File>,
    windows: &Receiver<(u64, Window)>,
    written: &Sender<Window>,
) -> io::Result<()> {
    let mut unsynced = 0;
    for (at, window) in windows {
        let past_cache = direct.as_ref().map(|direct| direct.write_all_at(window.bytes(), at));
        // Some systems open a file this way but refuse to write to it: the window is written again through the cache.
        if !matches!(past_cache, Some(Ok(()))) {
            direct = None;
            file.write_all_at(window.bytes(), at)?;
            unsynced += window.len;
            if unsynced >= SYNC_BYTES {
                file.sync_data()?;
                unsynced = 0;
            }
        }
        // The filling side may be gone.
        let _ = written.send(window);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes tensors of `(pieces, piece_bytes)`, with gaps as in a file, through the page cache and past it: the bytes
    /// are there, and the hashes are BLAKE3's.
    #[test]
    fn what_comes_in_pieces_is_written_and_hashed() {
        let sizes =
            [(1, 100), (300, 34_816), (1, 4096), (3, 5 << 20), (1, 1 << 20), (2, (1 << 19) + 8), (77, 200_000), (1, 1)];
        let start = 2 * BLOCK as u64;
        for past_cache in [false, true] {
            let file = tempfile::NamedTempFile::new().unwrap();
            let mut stream = Stream::new(file.reopen().unwrap(), past_cache.then_some(file.path()), start).unwrap();
            let byte = |tensor: usize, i: usize| (i * 31 + i / 1000 + tensor) as u8;
            let (mut at, mut expected) = (start, Vec::new());
            for (tensor, &(pieces, piece_bytes)) in sizes.iter().enumerate() {
                let fill = |range: Range<usize>, bytes: &mut [u8]| {
                    assert_eq!(bytes.len(), range.len() * piece_bytes);
                    bytes.iter_mut().enumerate().for_each(|(i, b)| *b = byte(tensor, range.start * piece_bytes + i));
                    Ok(())
                };
                let (hash, chunks) = stream.tensor((at, pieces, piece_bytes), fill, |e| e).unwrap();
                let bytes: Vec<u8> = (0..pieces * piece_bytes).map(|i| byte(tensor, i)).collect();
                assert_eq!(chunks, tree::chunks(&bytes));
                assert_eq!(hash, *blake3::hash(&bytes).as_bytes());
                expected.resize((at - start) as usize, 0);
                expected.extend(bytes);
                at = (at + (pieces * piece_bytes) as u64).next_multiple_of(64);
            }
            let (last, rest) = stream.finish().unwrap();
            assert!(last.is_multiple_of(BLOCK as u64) && rest.len() < BLOCK);
            file.as_file().write_all_at(&rest, last).unwrap();
            assert!(std::fs::read(file.path()).unwrap()[start as usize..] == expected);
        }
    }

    #[test]
    fn an_error_of_the_file_is_returned() {
        let path = tempfile::NamedTempFile::new().unwrap();
        let file = File::open(path.path()).unwrap();
        let mut stream = Stream::new(file, None, 0).unwrap();
        let fill = |_: Range<usize>, bytes: &mut [u8]| {
            bytes.fill(1);
            Ok(())
        };
        let e = match stream.tensor((0, 40, 1 << 20), fill, |e| e) {
            Ok(_) => stream.finish().unwrap_err(),
            Err(e) => e,
        };
        assert_eq!(e.raw_os_error(), Some(libc::EBADF));
    }
}
