//! Maps a source file. The only unsafe code of this crate.

use memmap2::Mmap;
use std::fs::File;

/// Maps a whole file read-only.
pub(crate) fn map(file: &File) -> std::io::Result<Mmap> {
    // SAFETY: the map is read-only and lent out only as `&[u8]`, for which every bit pattern is valid. The remaining
    // risk is another process that writes or truncates the file meanwhile, which no program can rule out for a file it
    // does not own. Nothing here relies on the bytes staying equal: lengths are taken once, at the map, all later
    // indexing is checked against them, and a weight that changes is just another weight. A truncation raises a signal
    // before anything is read: a program that installs `nanoserve_format::signal` reports it and removes its unfinished
    // output; any other program is ended by it, and the next run removes the output.
    unsafe { Mmap::map(file) }
}
