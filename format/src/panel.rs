//! Packs the rows of a matrix into panels, and unpacks them.
//!
//! A matrix `[rows, cols]` is stored as panels of 16 rows, the last one padded with zero rows. Inside a panel the
//! columns follow in order, each with its 16 rows side by side. A SIMD lane is a row: no kernel sums across lanes.
//!
//! - f32, f16: for each column, 16 values.
//! - q8: for each 64 columns (padded with zeros), the 16 rows' f16 scales for the first 32 columns, then those for
//!   the second 32; then, for each 4 columns, 16 rows x 4 bytes.

use crate::encoding::{Encoding, PANEL_ROWS};

/// Why a value cannot be stored; `row` and `col` within the panel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OutOfRange {
    /// The row, 0..16.
    pub row: usize,
    /// The column; for q8 the first column of its block.
    pub col: usize,
    /// The value that does not fit; for q8 the largest magnitude of its block.
    pub value: f32,
}

/// Signal and noise of values that were rounded to blocks with a scale.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Squares {
    /// Sum of the squared values.
    pub signal: f64,
    /// Sum of the squared errors.
    pub noise: f64,
}

impl std::ops::Add for Squares {
    type Output = Squares;

    fn add(self, other: Squares) -> Squares {
        Squares { signal: self.signal + other.signal, noise: self.noise + other.noise }
    }
}

/// Encodes `rows` (`[n, cols]` row after row, `n` in 1..=16; missing rows are zero) into one panel.
///
/// `out` is [`Encoding::panel_bytes`] long, and all of it is written. All values must be finite. Returns the squares of
/// values and errors, the same on every machine, for q8; zeros for f32 and f16.
///
/// # Errors
/// A value beyond [`Encoding::largest`].
///
/// # Panics
/// When `rows` or `out` have another length.
pub fn pack(encoding: Encoding, cols: usize, rows: &[f32], out: &mut [u8]) -> Result<Squares, OutOfRange> {
    assert!(rows.len().is_multiple_of(cols) && rows.len() / cols <= PANEL_ROWS);
    assert_eq!(Some(out.len()), encoding.panel_bytes(cols));
    (encoding.description().pack)(cols, rows, out)
}

/// Decodes row `row` (0..16) of a panel into `out` (`[cols]`).
///
/// # Panics
/// When `panel` is shorter than [`Encoding::panel_bytes`] or `row` is not below 16.
pub fn unpack_row(encoding: Encoding, panel: &[u8], row: usize, out: &mut [f32]) {
    assert!(row < PANEL_ROWS && Some(panel.len()) >= encoding.panel_bytes(out.len()));
    (encoding.description().unpack_row)(panel, row, out);
}

/// Decodes rows `first..first + n` of a matrix `[_, cols]` into `out` (`[n, cols]`).
///
/// # Panics
/// When `matrix` has no such rows.
pub fn unpack_rows(encoding: Encoding, cols: usize, matrix: &[u8], first: usize, out: &mut [f32]) {
    let panel_bytes = encoding.panel_bytes(cols).expect("a matrix in memory has a size");
    for (i, out) in out.chunks_exact_mut(cols).enumerate() {
        let (panel, row) = ((first + i) / PANEL_ROWS, (first + i) % PANEL_ROWS);
        unpack_row(encoding, &matrix[panel * panel_bytes..][..panel_bytes], row, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::q8;
    use half::f16;

    fn ramp(n: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 37 % 101) as f32 - 50.0) / 64.0).collect()
    }

    #[test]
    fn the_layout_is_the_documented_one() {
        let (cols, rows) = (70, ramp(3 * 70));
        let mut out = vec![1; Encoding::F32.panel_bytes(cols).unwrap()];
        pack(Encoding::F32, cols, &rows, &mut out).unwrap();
        let word = |at: usize| f32::from_le_bytes(out[4 * at..4 * at + 4].try_into().unwrap());
        assert_eq!((word(5 * 16 + 2), word(5 * 16 + 3)), (rows[2 * cols + 5], 0.0));

        let mut out = vec![1; Encoding::Q8.panel_bytes(cols).unwrap()];
        assert_eq!(out.len(), 2 * 1088);
        pack(Encoding::Q8, cols, &rows, &mut out).unwrap();
        // Row 2, column 37: second block of the first superblock, group 9, byte 1.
        let scale = f16::from_le_bytes([out[2 * (16 + 2)], out[2 * (16 + 2) + 1]]);
        let byte = out[64 + 9 * 64 + 2 * 4 + 1] as i8;
        assert_eq!(byte, q8::quantize(rows[2 * cols + 37], scale.to_f32()));
        // Columns 70..128 and rows 3..16 are zero, scales included.
        assert!(out[1088 + 32..1088 + 64].iter().all(|&b| b == 0));
        assert!(out[1088 + 64 + 2 * 64..].iter().all(|&b| b == 0));
    }

    #[test]
    fn rows_come_back() {
        for cols in [1, 3, 31, 32, 33, 63, 64, 65, 130] {
            for n in [1, 2, 15, 16] {
                let rows = ramp(n * cols);
                for encoding in Encoding::ALL {
                    let mut out = vec![0xff; encoding.panel_bytes(cols).unwrap()];
                    pack(encoding, cols, &rows, &mut out).unwrap();
                    let mut back = vec![f32::NAN; n * cols];
                    unpack_rows(encoding, cols, &out, 0, &mut back);
                    let limit = 0.501 * encoding.step(0.8) as f32;
                    for (a, b) in rows.iter().zip(&back) {
                        assert!((a - b).abs() <= limit, "{encoding} {a} {b}");
                    }
                    let mut pad = vec![f32::NAN; cols];
                    if n < 16 {
                        unpack_row(encoding, &out, 15, &mut pad);
                        assert!(pad.iter().all(|&x| x == 0.0));
                    }
                }
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let mut rows = vec![1.0; 2 * 40];
        rows[40 + 33] = 1e5;
        let mut out = vec![0; Encoding::F16.panel_bytes(40).unwrap()];
        let error = pack(Encoding::F16, 40, &rows, &mut out).unwrap_err();
        assert_eq!(error, OutOfRange { row: 1, col: 33, value: 1e5 });
        rows[40 + 33] = 1e9;
        let mut out = vec![0; Encoding::Q8.panel_bytes(40).unwrap()];
        let error = pack(Encoding::Q8, 40, &rows, &mut out).unwrap_err();
        assert_eq!(error, OutOfRange { row: 1, col: 32, value: 1e9 });
    }
}
