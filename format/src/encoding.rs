//! How the numbers of a tensor are stored, and how many bytes that takes.

use std::fmt;

/// Rows that stand side by side in a panel: one SIMD lane each.
pub const PANEL_ROWS: usize = 16;

/// Columns that share one q8 scale.
pub const Q8_BLOCK: usize = 32;

/// Columns of one q8 superblock: two blocks, whose scales come first.
pub const Q8_SUPERBLOCK: usize = 64;

/// Bytes of one q8 superblock of a panel: 2 x 16 f16 scales, then 64 x 16 signed bytes. 17 cache lines.
pub const Q8_SUPERBLOCK_BYTES: usize = 2 * PANEL_ROWS * 2 + Q8_SUPERBLOCK * PANEL_ROWS;

/// How the numbers of a tensor are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// IEEE binary32: the source's values exactly.
    F32,
    /// IEEE binary16, rounded to nearest even.
    F16,
    /// Signed bytes in blocks of 32 columns with one f16 scale: 8.5 bits a weight.
    Q8,
}

impl Encoding {
    /// Every encoding of this format version.
    pub const ALL: [Encoding; 3] = [Encoding::F32, Encoding::F16, Encoding::Q8];

    /// The byte that stands for it in the tensor directory.
    pub fn code(self) -> u8 {
        match self {
            Encoding::F32 => 0,
            Encoding::F16 => 1,
            Encoding::Q8 => 2,
        }
    }

    /// The encoding that a directory byte stands for.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|e| e.code() == code)
    }

    /// The name that the command line and reports use: `f32`, `f16`, `q8`.
    pub fn name(self) -> &'static str {
        match self {
            Encoding::F32 => "f32",
            Encoding::F16 => "f16",
            Encoding::Q8 => "q8",
        }
    }

    /// Bytes of one panel (16 rows) of a matrix with `cols` columns, or None past `usize`.
    pub fn panel_bytes(self, cols: usize) -> Option<usize> {
        match self {
            Encoding::F32 => cols.checked_mul(4 * PANEL_ROWS),
            Encoding::F16 => cols.checked_mul(2 * PANEL_ROWS),
            Encoding::Q8 => cols.div_ceil(Q8_SUPERBLOCK).checked_mul(Q8_SUPERBLOCK_BYTES),
        }
    }
}

impl fmt::Display for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.pad(self.name())
    }
}

/// `rows` rounded up to whole panels.
pub fn padded_rows(rows: usize) -> usize {
    rows.div_ceil(PANEL_ROWS) * PANEL_ROWS
}

/// The shape of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shape {
    /// A norm weight or a bias: `len` f32 values in a row.
    Vector(usize),
    /// A weight matrix `[rows, cols]`: `rows` outputs of `cols` inputs, stored in panels.
    Matrix(usize, usize),
}

impl Shape {
    /// How many numbers it has, or None past `usize`.
    pub fn elements(self) -> Option<usize> {
        match self {
            Shape::Vector(len) => Some(len),
            Shape::Matrix(rows, cols) => rows.checked_mul(cols),
        }
    }

    /// Bytes that it takes in `encoding`, padding rows and columns included, or None past `usize`.
    pub fn bytes(self, encoding: Encoding) -> Option<usize> {
        match self {
            Shape::Vector(len) => len.checked_mul(4),
            Shape::Matrix(rows, cols) => rows.div_ceil(PANEL_ROWS).checked_mul(encoding.panel_bytes(cols)?),
        }
    }

    /// Pieces that can be encoded one by one: the panels of a matrix, the whole of a vector.
    pub fn pieces(self) -> usize {
        match self {
            Shape::Vector(_) => 1,
            Shape::Matrix(rows, _) => rows.div_ceil(PANEL_ROWS),
        }
    }

    /// The dimensions, outermost first.
    pub fn dims(self) -> Vec<usize> {
        match self {
            Shape::Vector(len) => vec![len],
            Shape::Matrix(rows, cols) => vec![rows, cols],
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Shape::Vector(len) => f.pad(&format!("[{len}]")),
            Shape::Matrix(rows, cols) => f.pad(&format!("[{rows}, {cols}]")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_count_padding() {
        assert_eq!(Shape::Matrix(17, 3).bytes(Encoding::F32), Some(2 * 16 * 3 * 4));
        assert_eq!(Shape::Matrix(17, 3).bytes(Encoding::F16), Some(2 * 16 * 3 * 2));
        assert_eq!(Shape::Matrix(17, 65).bytes(Encoding::Q8), Some(2 * 2 * 1088));
        assert_eq!(Shape::Vector(5).bytes(Encoding::F32), Some(20));
        assert_eq!(Shape::Matrix(usize::MAX, usize::MAX).bytes(Encoding::Q8), None);
    }

    #[test]
    fn q8_takes_eight_and_a_half_bits() {
        let (rows, cols) = (128, 2048);
        let bytes = Shape::Matrix(rows, cols).bytes(Encoding::Q8).unwrap();
        assert_eq!(bytes * 8 * 2, rows * cols * 17);
    }

    #[test]
    fn codes_are_told_apart() {
        for e in Encoding::ALL {
            assert_eq!(Encoding::from_code(e.code()), Some(e));
        }
        assert_eq!(Encoding::from_code(3), None);
    }
}
