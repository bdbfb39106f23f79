//! Encodes source rows into panels, in parallel, and measures the error of rounding.
//!
//! Sixteen rows at a time are read as f32 into a small buffer, checked and packed, straight from the map: nothing
//! larger than a panel is ever held. Blocks for which the encoding has a place are moved as they are. A value that cannot be stored does not end the work, so that one run finds them
//! all; [`Encoder::faults`] returns them.

use crate::blocks;
use crate::error::{Result, What};
use crate::input::{RowOrder, SourceFile, Stored, Weight};
use crate::report::Watch;
use nanoserve_format::panel::{self, Squares};
use nanoserve_format::{Encoding, PANEL_ROWS, Shape};
use rayon::prelude::*;
use std::cell::RefCell;
use std::ops::Range;
use std::sync::Mutex;

/// The bits of infinity: no magnitude from here on is finite.
const INFINITE: i32 = 0x7f80_0000;
/// Number of values that stay in the L1 cache.
const CACHED_VALUES: usize = 4096;
/// Pieces that one thread checks at a time when nothing is written.
const CHECK_PIECES: usize = 8;

thread_local! {
    /// Buffer for a piece's values, reused from piece to piece.
    static VALUES: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// The encoder of one tensor.
pub(crate) struct Encoder<'m> {
    weight: &'m Weight,
    /// The weight's bytes in the source.
    bytes: &'m [u8],
    shape: Shape,
    encoding: Encoding,
    found: Mutex<Found>,
}

/// What encoding found. Squares are kept by piece, so that no result depends on the order of threads.
struct Found {
    /// One for each piece.
    squares: Vec<Squares>,
    not_finite: u64,
    first_not_finite: Option<(usize, f32)>,
    first_out_of_range: Option<(usize, usize, f32)>,
}

impl<'m> Encoder<'m> {
    /// An encoder of `weight`, which is in `files` and has `shape`.
    pub fn new(weight: &'m Weight, files: &'m [SourceFile], shape: Shape, encoding: Encoding) -> Self {
        let squares = vec![Squares::default(); shape.pieces()];
        let found = Found { squares, not_finite: 0, first_not_finite: None, first_out_of_range: None };
        Encoder { weight, bytes: weight.bytes(files), shape, encoding, found: Mutex::new(found) }
    }

    /// Rows, columns, and rows in a piece: a vector is one row.
    fn geometry(&self) -> (usize, usize, usize) {
        match self.shape {
            Shape::Vector(len) => (1, len, 1),
            Shape::Matrix(rows, cols) => (rows, cols, PANEL_ROWS),
        }
    }

    /// Encodes pieces into `out`, which has their encoded length.
    pub fn fill(&self, pieces: Range<usize>, out: &mut [u8], watch: &Watch) -> Result<()> {
        let piece_bytes = out.len() / pieces.len();
        VALUES.with_borrow_mut(|values| {
            for (piece, out) in pieces.zip(out.chunks_exact_mut(piece_bytes)) {
                watch.go_on()?;
                watch.advance(self.fill_piece(piece, out, values));
            }
            Ok(())
        })
    }

    /// Encodes a piece, with `values` as its buffer; returns how many bytes of the source it read.
    fn fill_piece(&self, piece: usize, out: &mut [u8], values: &mut Vec<f32>) -> usize {
        let (rows, cols, per_piece) = self.geometry();
        let first_row = piece * per_piece;
        let n = per_piece.min(rows - first_row);
        if !self.carry(first_row, n, out) {
            self.round(first_row, n, out, values);
        }
        self.weight.stored.bytes(n * cols)
    }

    /// The bytes of a row of a matrix.
    fn row(&self, row: usize) -> &'m [u8] {
        let (_, cols, _) = self.geometry();
        let bytes = self.weight.stored.bytes(cols);
        &self.bytes[self.weight.order.source(row) * bytes..][..bytes]
    }

    /// Moves blocks of the source as they are into a panel, if the encoding is the one for them and they fit into it.
    fn carry(&self, first_row: usize, n: usize, out: &mut [u8]) -> bool {
        let Stored::Blocks(kind) = self.weight.stored else { return false };
        let Shape::Matrix(_, cols) = self.shape else { return false };
        if kind.carrier() != Some(self.encoding) || !self.weight.transforms.is_empty() {
            return false;
        }
        let rows = (first_row..first_row + n).map(|row| self.row(row));
        blocks::carry(kind, self.encoding, cols, rows, out).is_ok()
    }

    /// Encodes the values of some rows.
    fn round(&self, first_row: usize, n: usize, out: &mut [u8], values: &mut Vec<f32>) {
        let (_, cols, _) = self.geometry();
        let stored = self.weight.stored;
        values.resize(n * cols, 0.0);
        let (mut largest, matrix) = (0, matches!(self.shape, Shape::Matrix(..)));
        let mut read = |source: &[u8], values: &mut [f32]| {
            for (values, source) in values.chunks_mut(CACHED_VALUES).zip(source.chunks(stored.bytes(CACHED_VALUES))) {
                self.weight.read(source, values);
                // Encodings that round find values that are not finite themselves.
                if !matrix || self.encoding.is_exact() {
                    largest = largest.max(largest_bits(values));
                }
            }
        };
        match self.weight.order {
            RowOrder::Same => read(&self.bytes[stored.bytes(first_row * cols)..][..stored.bytes(n * cols)], values),
            RowOrder::Pairs { .. } if matrix => {
                for (i, values) in values.chunks_exact_mut(cols).enumerate() {
                    read(self.row(first_row + i), values);
                }
            }
            order @ RowOrder::Pairs { .. } => {
                read(self.bytes, values);
                *values = (0..cols).map(|i| values[order.source(i)]).collect();
            }
        }
        if largest >= INFINITE {
            self.note_not_finite(first_row * cols, values);
        } else if matrix {
            let piece = first_row / PANEL_ROWS;
            match panel::pack(self.encoding, cols, values, out) {
                Ok(squares) => self.found().squares[piece] = squares,
                Err(_) if largest_bits(values) >= INFINITE => self.note_not_finite(first_row * cols, values),
                Err(fault) => self.note_out_of_range(first_row + fault.row, fault.col, fault.value),
            }
        } else {
            out.copy_from_slice(bytemuck::cast_slice(values));
        }
    }

    /// As [`Encoder::fill`], but drops the panels.
    pub fn check(&self, watch: &Watch) -> Result<()> {
        self.pieces(watch, |_, _| {})
    }

    /// Encodes everything and passes it to `see`, in any order: the offset within the tensor, and the bytes.
    pub fn pieces(&self, watch: &Watch, see: impl Fn(usize, &[u8]) + Sync) -> Result<()> {
        let (pieces, bytes) = (self.shape.pieces(), self.shape.bytes(self.encoding));
        let piece_bytes = bytes.expect("the tensor's bytes are mapped, so their count fits") / pieces;
        (0..pieces.div_ceil(CHECK_PIECES)).into_par_iter().try_for_each_init(Vec::new, |buffer, job| {
            let range = job * CHECK_PIECES..((job + 1) * CHECK_PIECES).min(pieces);
            buffer.resize(range.len() * piece_bytes, 0);
            self.fill(range.clone(), buffer, watch)?;
            see(range.start * piece_bytes, buffer);
            Ok(())
        })
    }

    /// The values that cannot be stored.
    pub fn faults(&self) -> Vec<What> {
        let (_, cols, _) = self.geometry();
        let (found, first_row, order) = (self.found(), self.weight.first_row, self.weight.order);
        let not_finite = found.first_not_finite.map(|(at, value)| {
            let index = match self.shape {
                Shape::Vector(_) => vec![first_row + order.source(at)],
                Shape::Matrix(..) => vec![first_row + order.source(at / cols), at % cols],
            };
            match self.too_large(at) {
                Some(value) => What::BeyondF32 { index, value, count: found.not_finite },
                None => What::NotFinite { index, value, count: found.not_finite },
            }
        });
        let out_of_range = found.first_out_of_range.map(|(row, col, value)| {
            let (encoding, largest) = (self.encoding, self.encoding.largest());
            What::OutOfRange { row: first_row + order.source(row), col, value, encoding, largest }
        });
        not_finite.into_iter().chain(out_of_range).collect()
    }

    /// The source's value at a place, if it is finite: then it is beyond f32.
    fn too_large(&self, at: usize) -> Option<f64> {
        let (Stored::F64, values) = (self.weight.stored, self.bytes.as_chunks().0) else { return None };
        Some(f64::from_le_bytes(values[at])).filter(|x| x.is_finite())
    }

    /// Signal-to-noise ratio in dB, once all is encoded; None if there is no measured error.
    pub fn snr_db(&self) -> Option<f64> {
        let Squares { signal, noise } = self.found().squares.iter().fold(Squares::default(), |sum, s| sum + *s);
        (noise > 0.0).then(|| 10.0 * (signal / noise).log10())
    }

    fn note_not_finite(&self, first: usize, values: &[f32]) {
        let bad = || values.iter().enumerate().filter(|(_, x)| !x.is_finite());
        let at = bad().next().map(|(i, &x)| (first + i, x));
        let mut found = self.found();
        found.not_finite += bad().count() as u64;
        if found.first_not_finite.is_none_or(|f| at.is_some_and(|at| at.0 < f.0)) {
            found.first_not_finite = at;
        }
    }

    fn note_out_of_range(&self, row: usize, col: usize, value: f32) {
        let mut found = self.found();
        if found.first_out_of_range.is_none_or(|f| (row, col) < (f.0, f.1)) {
            found.first_out_of_range = Some((row, col, value));
        }
    }

    fn found(&self) -> std::sync::MutexGuard<'_, Found> {
        self.found.lock().expect("no thread panics while it holds this")
    }
}

/// The bits of the largest magnitude. As integers they order like the magnitudes, NaNs last. There is no branch, so the
/// compiler can vectorize this.
fn largest_bits(values: &[f32]) -> i32 {
    values.iter().fold(0, |m, x| m.max((x.to_bits() & 0x7fff_ffff) as i32))
}
