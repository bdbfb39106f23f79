//! How the numbers of a tensor are stored, and how many bytes that takes.
//!
//! Everything specific to one encoding is in its [`Description`], which one `match` in [`Encoding::description`] finds;
//! the rest of the program asks for properties and names no encoding. A new encoding needs a variant here, a place in
//! [`Encoding::ALL`], and a module like [`q8`](crate::q8) that describes it.

use crate::codes::{Codes, Scales};
use crate::float;
use crate::header::FEATURE_CODES;
use crate::panel::{OutOfRange, Squares};
use crate::q8;
use std::fmt;

/// Rows of a panel, stored side by side: one SIMD lane each.
pub const PANEL_ROWS: usize = 16;

/// Columns of an input row that share one scale when rounded to bytes: see [`InputForm::Bytes32`].
pub const INPUT_BLOCK: usize = 32;

/// How the numbers of a tensor are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Encoding {
    /// IEEE binary32: the source's values exactly.
    F32,
    /// IEEE binary16, rounded to nearest even.
    F16,
    /// Signed bytes in blocks of 32 columns with one f16 scale: 8.5 bits a weight.
    Q8,
    /// Codes of 4 to 6 bits.
    Codes(Codes),
}

/// What the input row of a matrix product is rounded to first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum InputForm {
    /// Not rounded: f32.
    Float,
    /// Signed bytes in -127..=127 with one f32 scale for each [`INPUT_BLOCK`] columns.
    Bytes32,
}

impl InputForm {
    /// The distance between neighbouring values in a block of the row whose largest magnitude is `largest`; 0 if
    /// nothing is rounded.
    pub fn step(self, largest: f32) -> f64 {
        match self {
            InputForm::Float => 0.0,
            InputForm::Bytes32 => f64::from(largest) / 127.0,
        }
    }
}

/// Packs rows `[n, cols]` into one panel; see [`panel::pack`](crate::panel::pack).
type Pack = fn(usize, &[f32], &mut [u8]) -> Result<Squares, OutOfRange>;

/// The properties of an encoding.
pub(crate) struct Description {
    /// Its byte in the tensor directory.
    pub code: u8,
    /// Its name in reports and on the command line.
    pub name: &'static str,
    /// Whether every f32 is restored exactly.
    pub exact: bool,
    /// The largest magnitude that it can store.
    pub largest: f64,
    /// The largest distance between neighbouring values of a block, given its largest magnitude; see
    /// [`Encoding::step`].
    pub step: fn(f32) -> f64,
    /// What the input row of a matrix product is rounded to.
    pub input: InputForm,
    /// Bytes of one panel, given its number of columns; None if that overflows `usize`.
    pub panel_bytes: fn(usize) -> Option<usize>,
    /// Packs up to 16 rows into one panel.
    pub pack: Pack,
    /// `(panel, row, out)`: decodes one row of a panel into `out`, `[cols]`.
    pub unpack_row: fn(&[u8], usize, &mut [f32]),
}

impl Encoding {
    /// Every encoding of this format version.
    pub const ALL: [Encoding; 16] = {
        let mut all = [Encoding::F32; 16];
        all[1] = Encoding::F16;
        all[2] = Encoding::Q8;
        let mut i = 0;
        while i < Codes::ALL.len() {
            all[3 + i] = Encoding::Codes(Codes::ALL[i]);
            i += 1;
        }
        all
    };

    /// The encodings that a conversion can choose. The others carry blocks of GGUF types unchanged.
    pub const CHOICES: [Encoding; 6] = [
        Encoding::F32,
        Encoding::F16,
        Encoding::Q8,
        Encoding::Codes(Codes::Q6),
        Encoding::Codes(Codes::Q5),
        Encoding::Codes(Codes::Q4),
    ];

    /// The one place that distinguishes encodings.
    pub(crate) const fn description(self) -> &'static Description {
        match self {
            Encoding::F32 => &float::F32,
            Encoding::F16 => &float::F16,
            Encoding::Q8 => &q8::Q8,
            Encoding::Codes(codes) => codes.description(),
        }
    }

    /// Its byte in the tensor directory.
    pub fn code(self) -> u8 {
        self.description().code
    }

    /// The encoding that a directory byte stands for.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|e| e.code() == code)
    }

    /// The name that the command line and reports use: `f32`, `f16`, `q8`.
    pub fn name(self) -> &'static str {
        self.description().name
    }

    /// Whether every f32 is restored exactly: nothing is rounded.
    pub fn is_exact(self) -> bool {
        self.description().exact
    }

    /// The largest magnitude that can be stored; a larger one is [`OutOfRange`].
    pub fn largest(self) -> f64 {
        self.description().largest
    }

    /// The largest distance between neighbouring values in a block of [`INPUT_BLOCK`] columns whose largest magnitude
    /// is `largest`; 0 if nothing is rounded. The error of a weight is at most half of it. Where a block's scale is a part
    /// of a number for more columns, `largest` is that of the whole row: see [`Encoding::steps`].
    pub fn step(self, largest: f32) -> f64 {
        (self.description().step)(largest)
    }

    /// [`Encoding::step`] of each block of a row.
    pub fn steps(self, row: &[f32]) -> impl Iterator<Item = f64> {
        let largest = |values: &[f32]| values.iter().fold(0f32, |most, x| most.max(x.abs()));
        let shared = match self {
            Encoding::Codes(codes) if !matches!(codes.form().scales, Scales::Flat(_)) => Some(largest(row)),
            Encoding::F32 | Encoding::F16 | Encoding::Q8 | Encoding::Codes(_) => None,
        };
        row.chunks(INPUT_BLOCK).map(move |block| self.step(shared.unwrap_or_else(|| largest(block))))
    }

    /// What the input row of a matrix product is rounded to first.
    pub fn input(self) -> InputForm {
        self.description().input
    }

    /// Bytes of one panel (16 rows) of a matrix with `cols` columns, or None if that overflows `usize`.
    pub fn panel_bytes(self, cols: usize) -> Option<usize> {
        (self.description().panel_bytes)(cols)
    }
}

/// The required features of a file whose matrices have these encodings.
pub(crate) fn features(encodings: impl IntoIterator<Item = Encoding>) -> u32 {
    encodings.into_iter().fold(0, |bits, encoding| match encoding {
        Encoding::F32 | Encoding::F16 | Encoding::Q8 => bits,
        Encoding::Codes(_) => bits | FEATURE_CODES,
    })
}

impl fmt::Display for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A set of encodings: each once, in the order of [`Encoding::ALL`].
///
/// Code that needs "the encoding of a file" uses this: [`iter`](EncodingSet::iter) to find the loosest of several
/// bounds, or [`is_exact`](EncodingSet::is_exact). It is displayed as the names: `q8` or `f16+q8`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EncodingSet(Vec<Encoding>);

impl EncodingSet {
    /// Each encoding once.
    pub fn iter(&self) -> impl Iterator<Item = Encoding> {
        self.0.iter().copied()
    }

    /// Whether no matrix was rounded.
    pub fn is_exact(&self) -> bool {
        self.iter().all(Encoding::is_exact)
    }
}

impl FromIterator<Encoding> for EncodingSet {
    fn from_iter<I: IntoIterator<Item = Encoding>>(all: I) -> Self {
        let mut found: Vec<Encoding> = all.into_iter().collect();
        found.sort_unstable();
        found.dedup();
        EncodingSet(found)
    }
}

impl fmt::Display for EncodingSet {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.pad(&self.0.iter().map(|e| e.name()).collect::<Vec<_>>().join("+"))
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
    /// Number of elements, or None if it overflows `usize`.
    pub fn elements(self) -> Option<usize> {
        match self {
            Shape::Vector(len) => Some(len),
            Shape::Matrix(rows, cols) => rows.checked_mul(cols),
        }
    }

    /// Bytes in `encoding`, padding rows and columns included, or None if that overflows `usize`.
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
    use crate::panel;

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
        assert_eq!(Encoding::from_code(16), None);
        // `EncodingSet` sorts by this order.
        assert!(Encoding::ALL.is_sorted());
    }

    #[test]
    fn a_set_has_each_encoding_once() {
        let set: EncodingSet = [Encoding::Q8, Encoding::F32, Encoding::Q8].into_iter().collect();
        assert_eq!((set.to_string().as_str(), set.is_exact()), ("f32+q8", false));
        assert_eq!(set.iter().collect::<Vec<_>>(), [Encoding::F32, Encoding::Q8]);
        let set: EncodingSet = [Encoding::F32; 2].into_iter().collect();
        assert_eq!((set.to_string().as_str(), set.is_exact()), ("f32", true));
    }

    /// Each description agrees with what its own packing does.
    #[test]
    fn descriptions_are_true() {
        for e in Encoding::ALL {
            let (cols, mut back) = (70, vec![0.0; 70]);
            let mut panel = vec![0; e.panel_bytes(cols).unwrap()];
            let rows: Vec<f32> = (0..cols).map(|i| ((i * 37 % 101) as f32 - 50.0) / 37.0).collect();
            panel::pack(e, cols, &rows, &mut panel).unwrap();
            panel::unpack_row(e, &panel, 0, &mut back);
            assert_eq!(e.is_exact(), rows == back, "{e}");
            for ((x, y), step) in rows.chunks(INPUT_BLOCK).zip(back.chunks(INPUT_BLOCK)).zip(e.steps(&rows)) {
                assert_eq!(e.is_exact(), step == 0.0, "{e}");
                // A little more than half a step, because q8's scales are themselves rounded.
                assert!(x.iter().zip(y).all(|(x, y)| f64::from((x - y).abs()) <= 0.501 * step), "{e}");
            }
            let mut fits = |x: f64| panel::pack(e, cols, &vec![x as f32; cols], &mut panel).is_ok();
            assert!(fits(e.largest()) && (e.is_exact() || !fits(1.001 * e.largest())), "{e}");
        }
    }
}
