//! Puts blocks into panels without changing a number.

use super::{Blocks, Min, PART, Part};
use half::f16;
use nanoserve_format::codes::{PanelMut, Scales, Sub};
use nanoserve_format::{Encoding, PANEL_ROWS, q8};

/// A block has numbers for which the encoding has no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unfit;

/// Whether every block of these bytes fits the [carrier](Blocks::carrier) of its type. Types that are not named here
/// always fit, unless a scale is not finite.
pub(crate) fn fits(kind: Blocks, bytes: &[u8]) -> bool {
    match kind {
        // Our kernels rely on -127..=127.
        Blocks::Q8_0 => bytes.chunks_exact(kind.bytes()).all(|b| b[2..].iter().fold(true, |all, &x| all & (x != 0x80))),
        Blocks::Mxfp4 => bytes.chunks_exact(kind.bytes()).all(|b| scale(&kind.part(b, 0)).is_some()),
        _ => kind.carrier().is_some(),
    }
}

/// The shared number of a part as f16, if it is one. A part of zeros needs none.
fn scale(part: &Part) -> Option<f16> {
    let d = f16::from_f32(part.d);
    if d.to_f32() == part.d {
        return Some(d);
    }
    part.numbers.iter().all(|&n| n == 0).then_some(f16::ZERO)
}

/// Packs up to 16 rows of `cols` values into one panel of the type's carrier, `encoding`.
///
/// # Errors
/// A block that does not fit, or whose values are not finite.
///
/// # Panics
/// When `encoding` is not the carrier, or `out` has another length.
pub(crate) fn carry<'b>(
    kind: Blocks,
    encoding: Encoding,
    cols: usize,
    rows: impl Iterator<Item = &'b [u8]> + Clone,
    out: &mut [u8],
) -> Result<(), Unfit> {
    assert!(kind.carrier() == Some(encoding) && Some(out.len()) == encoding.panel_bytes(cols));
    out.fill(0);
    let code_of = code_of(encoding);
    let zero = Part { numbers: [0; PART], d: 0.0, scale: [0; 2], min: Min::None };
    for index in 0..cols / PART {
        let mut parts = [zero; PANEL_ROWS];
        let mut scales = [f16::ZERO; PANEL_ROWS];
        for ((part, d), row) in parts.iter_mut().zip(&mut scales).zip(rows.clone()) {
            *part = kind.part(row, index);
            *d = scale(part).filter(|_| part.is_finite()).ok_or(Unfit)?;
        }
        match encoding {
            Encoding::Codes(codes) => {
                let panel = &mut PanelMut::new(codes.form(), out);
                put(panel, index, &parts, &scales, &code_of, codes.form().scales);
            }
            Encoding::Q8 => {
                for (row, (part, &d)) in parts.iter().zip(&scales).enumerate() {
                    if part.numbers.contains(&-128) {
                        return Err(Unfit);
                    }
                    q8::set_block(out, row, index, d, &part.numbers);
                }
            }
            Encoding::F32 | Encoding::F16 => unreachable!("no type of blocks is carried by floats"),
        }
    }
    Ok(())
}

/// The code of each number that an encoding has, by the number's low byte.
fn code_of(encoding: Encoding) -> [u8; 256] {
    let mut code_of = [0; 256];
    if let Encoding::Codes(codes) = encoding {
        // Backwards: of two codes for one number the first stays.
        for code in (0..=codes.form().largest_code()).rev() {
            code_of[usize::from(codes.form().value(code) as u8)] = code;
        }
    }
    code_of
}

/// Writes a part of 16 rows into a panel of codes.
fn put(
    panel: &mut PanelMut,
    index: usize,
    parts: &[Part; PANEL_ROWS],
    scales: &[f16; PANEL_ROWS],
    code_of: &[u8; 256],
    form: Scales,
) {
    let mut codes = [[0u8; PANEL_ROWS]; PART];
    for (row, part) in parts.iter().enumerate() {
        for (codes, &number) in codes.iter_mut().zip(&part.numbers) {
            codes[row] = code_of[usize::from(number as u8)];
        }
    }
    panel.set_codes(index, &codes);
    let minima = parts.map(|part| match part.min {
        Min::None => 0.0,
        Min::Flat(min) | Min::Nested(min, _) => min,
    });
    match form {
        Scales::Flat(_) => panel.set_flat(index, scales, &minima.map(f16::from_f32)),
        Scales::Nested(_, sub) => {
            panel.set_span(index, &scales.map(f16::to_f32), &minima);
            let [first, second] = [0, 1].map(|half| parts.map(|part| part.scale[half] as u8));
            let shares = parts.map(|part| if let Min::Nested(_, share) = part.min { share[0] } else { 0 });
            panel.set_sub(index, [&first, if sub == Sub::Unsigned { &shares } else { &second }]);
        }
    }
}
