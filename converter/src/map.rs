//! A source file, mapped. The only unsafe of this crate.

use memmap2::Mmap;
use std::fs::File;

/// Maps a whole file read-only.
pub(crate) fn map(file: &File) -> std::io::Result<Mmap> {
    // SAFETY: the map is read-only and lent out as `&[u8]` alone, every bit pattern of which is valid. What remains is
    // another process that writes or truncates the file meanwhile, which no program can rule out for a file it does
    // not own. Nothing here leans on the bytes staying equal: lengths are taken once, at the map, all later indexing
    // is checked against them, and a weight that changes is just another weight. A truncation raises a
    // signal before anything is read: the program says so and takes its unfinished output away, see
    // `nanoserve_format::signal`; whoever does not install that is ended by it, and the next run takes it away.
    unsafe { Mmap::map(file) }
}
