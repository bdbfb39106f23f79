//! Rows of panels as the blocks of a GGUF file: blocks/ the other way round. No value changes.

use crate::gguf::kinds::TensorKind;
use half::f16;
use nanoserve_format::codes::PanelRef;
use nanoserve_format::{Codes, Encoding, INPUT_BLOCK, PANEL_ROWS, TensorView, panel, q8};

/// How a GGUF file stores a matrix of this encoding and so many columns; None for numbers that it has no place for.
pub(super) fn kind(encoding: Encoding, cols: usize) -> Option<TensorKind> {
    let name = match encoding {
        Encoding::F32 => "F32",
        Encoding::F16 => "F16",
        Encoding::Q8 => "Q8_0",
        Encoding::Codes(Codes::Q4_0) => "Q4_0",
        Encoding::Codes(Codes::Q4_1) => "Q4_1",
        Encoding::Codes(Codes::Q5_0) => "Q5_0",
        Encoding::Codes(Codes::Q5_1) => "Q5_1",
        Encoding::Codes(Codes::Iq4Nl) => "IQ4_NL",
        Encoding::Codes(_) => return None,
    };
    let kind = TensorKind::named(name);
    // Blocks end with their row. A row that does not keeps its values in f32.
    Some(if cols.is_multiple_of(kind.values) { kind } else { TensorKind::named("F32") })
}

/// Reads the rows of a matrix.
pub(super) struct Rows<'f> {
    matrix: TensorView<'f>,
    cols: usize,
    kind: TensorKind,
    /// The values of a row, `[cols]`.
    values: Vec<f32>,
}

impl<'f> Rows<'f> {
    /// The rows of a matrix of `cols` columns, as this kind stores them.
    pub fn new(matrix: TensorView<'f>, cols: usize, kind: TensorKind) -> Rows<'f> {
        Rows { matrix, cols, kind, values: vec![0.0; cols] }
    }

    /// Adds the bytes of a row.
    pub fn put(&mut self, row: usize, out: &mut Vec<u8>) {
        let encoding = self.matrix.encoding;
        let bytes = encoding.panel_bytes(self.cols).expect("a file's matrices have lengths");
        let (panel, row) = (&self.matrix.bytes[row / PANEL_ROWS * bytes..][..bytes], row % PANEL_ROWS);
        match (self.kind.name, encoding) {
            ("F32", _) => {
                panel::unpack_row(encoding, panel, row, &mut self.values);
                out.extend(self.values.iter().flat_map(|x| x.to_le_bytes()));
            }
            ("F16", _) => {
                panel::unpack_row(encoding, panel, row, &mut self.values);
                out.extend(self.values.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()));
            }
            (_, Encoding::Codes(codes)) => {
                let panel = PanelRef::new(codes.form(), panel);
                for block in 0..self.cols / INPUT_BLOCK {
                    put_codes(&panel, row, block, codes.form().bits, out);
                }
            }
            _ => {
                for block in 0..self.cols / INPUT_BLOCK {
                    let (scale, bytes) = q8::block(panel, row, block);
                    out.extend(scale.to_le_bytes());
                    out.extend(bytes.map(|byte| byte as u8));
                }
            }
        }
    }
}

/// Adds a block of 32 codes: scale, minimum if there is one, fifth bits if there are any, then the low four bits, those of
/// the second half above those of the first.
fn put_codes(panel: &PanelRef, row: usize, block: usize, bits: u32, out: &mut Vec<u8>) {
    let (numbers, codes) = (panel.scales(row, block), panel.codes(row, block));
    // Both are f16 in the panel.
    for x in std::iter::once(numbers.scales[0]).chain(numbers.min) {
        out.extend(f16::from_f32(x).to_le_bytes());
    }
    if bits == 5 {
        let high = codes.iter().rev().fold(0u32, |bits, code| bits << 1 | u32::from(code >> 4));
        out.extend(high.to_le_bytes());
    }
    let (first, second) = codes.split_at(INPUT_BLOCK / 2);
    out.extend(first.iter().zip(second).map(|(a, b)| a & 15 | (b & 15) << 4));
}
