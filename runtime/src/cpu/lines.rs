//! Memory that begins with a cache line, for reads of whole lanes and for parts that threads write side by side.

use bytemuck::{Pod, Zeroable};
use std::ops::{Deref, DerefMut};

/// A cache line.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C, align(64))]
pub struct Line([u8; 64]);

/// f32 values. Sixteen of them, a panel's rows, are one line: threads that write neighbouring panels share none.
#[derive(Clone, Debug, Default)]
pub struct Values {
    lines: Vec<Line>,
    len: usize,
}

impl Values {
    /// Makes room for `len` values, whatever they then are.
    pub fn resize(&mut self, len: usize) -> &mut [f32] {
        self.lines.resize((len * size_of::<f32>()).div_ceil(size_of::<Line>()), Line::zeroed());
        self.len = len;
        self
    }

    /// Forgets all but the last `len` values.
    pub fn keep_last(&mut self, len: usize) {
        let first = self.len - len;
        self.copy_within(first.., 0);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_begin_a_line_and_keep_what_they_are_told_to() {
        let mut values = Values::default();
        for len in [1, 33, 16, 40] {
            values.resize(len).iter_mut().enumerate().for_each(|(i, x)| *x = i as f32);
            assert_eq!((values.len(), values.as_ptr().addr() % 64), (len, 0));
        }
        values.keep_last(18);
        assert!(values.iter().enumerate().all(|(i, x)| *x == (22 + i) as f32) && values.len() == 18);
    }
}
