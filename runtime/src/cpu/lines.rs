//! Memory aligned to cache lines, for reads of whole lanes and for parts that threads write side by side.

use bytemuck::{Pod, Zeroable};
use std::ops::{Deref, DerefMut, Range};

/// A cache line.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// f32 values. The 16 rows of a panel are one cache line: threads that write neighbouring panels share none.
#[derive(Clone, Debug, Default)]
pub struct Values {
    lines: Vec<Line>,
    len: usize,
}

impl Values {
    /// Makes room for `len` values. Their contents are unspecified.
    pub fn resize(&mut self, len: usize) -> &mut [f32] {
        self.lines.resize((len * size_of::<f32>()).div_ceil(size_of::<Line>()), Line::zeroed());
        self.len = len;
        self
    }

    /// Keeps only these values, given in ascending order.
    pub fn keep(&mut self, ranges: impl Iterator<Item = Range<usize>>) {
        let mut len = 0;
        for range in ranges {
            let end = len + range.len();
            self.copy_within(range, len);
            len = end;
        }
        self.resize(len);
    }
}

impl Deref for Values {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &bytemuck::cast_slice(&self.lines)[..self.len]
    }
}

impl DerefMut for Values {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut bytemuck::cast_slice_mut(&mut self.lines)[..self.len]
    }
}

/// Bytes, initially zero. The system provides them when they are first touched. A vector of lines would be written in
/// full at once instead, because no `calloc` gives that alignment.
#[derive(Debug)]
pub struct Zeroed {
    bytes: Vec<u8>,
    /// The part of `bytes` that begins at a cache line.
    range: Range<usize>,
}

impl Zeroed {
    /// `len` zero bytes; None if there is no memory for them.
    pub fn new(len: usize) -> Option<Self> {
        let bytes: Vec<u8> = bytemuck::try_zeroed_vec(len.checked_add(size_of::<Line>() - 1)?).ok()?;
        let start = bytes.as_ptr().align_offset(align_of::<Line>());
        Some(Zeroed { bytes, range: start..start + len })
    }
}

impl Deref for Zeroed {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.range.clone()]
    }
}

impl DerefMut for Zeroed {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.range.clone()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_begin_a_line_and_take_no_memory_before_they_are_touched() {
        let len = if cfg!(miri) { 100 } else { 1 << 30 };
        let mut zeros = Zeroed::new(len).unwrap();
        assert_eq!((zeros.len(), zeros.as_ptr().addr() % 64), (len, 0));
        zeros[len - 1] = 7;
        assert_eq!((zeros[0], zeros[len - 2], zeros[len - 1]), (0, 0, 7));
        assert!(Zeroed::new(usize::MAX).is_none());
        if cfg!(all(target_os = "linux", not(miri))) {
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let own = status.lines().find_map(|l| l.strip_prefix("RssAnon:")?.trim().split(' ').next()?.parse().ok());
            // Counts the whole process, including tests that run beside this one.
            let kilobytes: u64 = own.unwrap();
            assert!(kilobytes < 1 << 19, "{kilobytes} kB of memory, where a byte of 1 GB was touched");
        }
    }

    #[test]
    fn values_begin_a_line_and_keep_what_they_are_told_to() {
        let mut values = Values::default();
        for len in [1, 33, 16, 40] {
            values.resize(len).iter_mut().enumerate().for_each(|(i, x)| *x = i as f32);
            assert_eq!((values.len(), values.as_ptr().addr() % 64), (len, 0));
        }
        values.keep([2..4, 22..38].into_iter());
        assert!(values[..2] == [2.0, 3.0] && values.len() == 18);
        assert!(values[2..].iter().enumerate().all(|(i, x)| *x == (22 + i) as f32));
        values.keep(std::iter::empty());
        assert!(values.is_empty());
    }
}
