//! A source file, mapped. The only unsafe of this crate.

use memmap2::Mmap;
use std::fs::File;

/// Maps a whole file read-only.
pub(crate) fn map(file: &File) -> std::io::Result<Mmap> {
    // SAFETY: the map is read-only and lent out as `&[u8]` alone, every bit pattern of which is valid. What remains is
    // another process that writes or truncates the file meanwhile, which no program can rule out for a file it does
    // not own. Nothing here leans on the bytes staying equal: lengths are taken once, at the map, all later indexing
    // is checked against them, and a weight that changes is just another weight. A truncation ends the program by a
    // signal before it reads anything; the unfinished output has no name yet and is cleared by the next run.
    unsafe { Mmap::map(file) }
}
