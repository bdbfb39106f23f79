//! f32 and f16: for each column, the 16 rows' values side by side.

use crate::encoding::{Description, InputForm, PANEL_ROWS};
use crate::panel::{OutOfRange, Squares};
use half::f16;

/// IEEE binary32.
pub(crate) static F32: Description = Description {
    code: 0,
    name: "f32",
    exact: true,
    largest: f32::MAX as f64,
    step: |_| 0.0,
    input: InputForm::Float,
    panel_bytes: |cols| cols.checked_mul(4 * PANEL_ROWS),
    pack: |cols, rows, out| pack(cols, rows, out, |x| Some(x.to_le_bytes())),
    unpack_row: |panel, row, out| unpack_row(panel, row, out, f32::from_le_bytes),
};

/// IEEE binary16.
pub(crate) static F16: Description = Description {
    code: 1,
    name: "f16",
    exact: false,
    largest: 65504.0,
    step: |largest| match largest {
        0.0 => 2f64.powi(-24),
        // One unit in the last of 11 significant bits; for subnormals, the smallest subnormal.
        _ => 2f64.powf((f64::from(largest).log2().floor() - 10.0).max(-24.0)),
    },
    input: InputForm::Float,
    panel_bytes: |cols| cols.checked_mul(2 * PANEL_ROWS),
    pack: |cols, rows, out| {
        pack(cols, rows, out, |x| {
            let h = f16::from_f32(x);
            h.is_finite().then(|| h.to_le_bytes())
        })
    },
    unpack_row: |panel, row, out| unpack_row(panel, row, out, |bytes| f16::from_le_bytes(bytes).to_f32()),
};

/// Packs rows `[n, cols]` into a panel of values of `SIZE` bytes.
fn pack<const SIZE: usize>(
    cols: usize,
    rows: &[f32],
    out: &mut [u8],
    encode: impl Fn(f32) -> Option<[u8; SIZE]>,
) -> Result<Squares, OutOfRange> {
    out.fill(0);
    for (row, values) in rows.chunks_exact(cols).enumerate() {
        for (col, (&value, column)) in values.iter().zip(out.chunks_exact_mut(SIZE * PANEL_ROWS)).enumerate() {
            let bytes = encode(value).ok_or(OutOfRange { row, col, value })?;
            column[row * SIZE..(row + 1) * SIZE].copy_from_slice(&bytes);
        }
    }
    Ok(Squares::default())
}

/// Decodes one row of such a panel, `[cols]`.
fn unpack_row<const SIZE: usize>(panel: &[u8], row: usize, out: &mut [f32], decode: impl Fn([u8; SIZE]) -> f32) {
    for (x, column) in out.iter_mut().zip(panel.chunks_exact(SIZE * PANEL_ROWS)) {
        *x = decode(column.as_chunks().0[row]);
    }
}
