//! Writes and reads `.nsv` files without the converter.

use nanoserve_format::{Encoding, FormatError, ModelSpec, NsvFile, PANEL_ROWS, Plan, Recipe, SectionKind, Shape};
use nanoserve_format::{TensorView, Writer, panel};
use std::path::Path;

/// Writes a file whose tensor rows come from `row(name, row, out)`; a vector is one row.
///
/// # Panics
/// When the file cannot be written, or a value does not fit the encoding.
pub fn write_file(
    path: &Path,
    spec: &ModelSpec,
    recipe: impl Into<Recipe>,
    sections: &[(SectionKind, Vec<u8>)],
    row: &(dyn Fn(&str, usize, &mut [f32]) + Sync),
) {
    let mut plan = Plan::new(spec.clone(), recipe).unwrap();
    for (kind, bytes) in sections {
        plan.section(*kind, bytes.clone());
    }
    let tensors = plan.tensors().to_vec();
    let mut writer = Writer::create(path, plan).unwrap();
    for index in writer.stored() {
        let (name, shape, encoding) = &tensors[index];
        let fill = |pieces: std::ops::Range<usize>, out: &mut [u8]| {
            match *shape {
                Shape::Vector(len) => {
                    let mut values = vec![0.0; len];
                    row(name, 0, &mut values);
                    for (value, out) in values.iter().zip(out.as_chunks_mut::<4>().0) {
                        *out = value.to_le_bytes();
                    }
                }
                Shape::Matrix(rows, cols) => {
                    let panel_bytes = encoding.panel_bytes(cols).unwrap();
                    for (piece, out) in pieces.zip(out.chunks_exact_mut(panel_bytes)) {
                        let present = (rows - piece * PANEL_ROWS).min(PANEL_ROWS);
                        let mut values = vec![0.0; present * cols];
                        for (i, values) in values.chunks_exact_mut(cols).enumerate() {
                            row(name, piece * PANEL_ROWS + i, values);
                        }
                        panel::pack(*encoding, cols, &values, out).unwrap();
                    }
                }
            }
            Ok::<(), FormatError>(())
        };
        writer.write(index, fill).unwrap();
    }
    writer.finish().unwrap();
}

/// Every value of a tensor, row after row.
pub fn read_values(view: TensorView) -> Vec<f32> {
    match view.shape {
        Shape::Vector(_) => view.bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        Shape::Matrix(rows, cols) => {
            let mut out = vec![f32::NAN; rows * cols];
            panel::unpack_rows(view.encoding, cols, view.bytes, 0, &mut out);
            out
        }
    }
}

/// Writes an f32 file with the decoded values of `from`. It has the rounding of the weights of `from`, and no other.
///
/// # Panics
/// When a file cannot be read or written.
pub fn decoded_f32(from: &Path, to: &Path) {
    let file = NsvFile::open(from).unwrap();
    write_file(to, file.spec(), Encoding::F32, &[], &|name, row, out| {
        let view = file.tensor(name).unwrap();
        match view.shape {
            Shape::Vector(_) => out.copy_from_slice(&read_values(view)),
            Shape::Matrix(_, cols) => panel::unpack_rows(view.encoding, cols, view.bytes, row, out),
        }
    });
}
