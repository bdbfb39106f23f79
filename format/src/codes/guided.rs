//! Packs rows of f32 into panels of codes with a [`Guide`]: errors count as much as their columns matter, and what is lost in
//! a column is made up for in those after it.
//!
//! ```text
//! for each row, or 256 columns of it: the numbers that the blocks' bytes multiply, from the weights moved so far
//! for each block of 32 columns: move its weights by the errors of all columns before it; fit scales and minima;
//!   for each column: move by the errors of the columns before it in the block; the nearest code; its error
//! ```
//!
//! A column's own error is that from the weight as it was given, not as it was moved: see [`guide`](crate::guide).
//!
//! The only unsafe code calls functions that are compiled for features which were just detected.

use super::fit::{self, Block, Lanes, Weighted, inverse};
use super::pack::{Fit, LARGEST, Shares, check, ends, fit_block, load, span, store};
use super::{BLOCK, Form, PanelMut, Scales, Values};
use crate::encoding::PANEL_ROWS;
use crate::guide::{GROUP, Guide};
use crate::panel::{OutOfRange, Squares};

/// As [`panel::pack_guided`](crate::panel::pack_guided).
pub fn pack(
    form: &'static Form,
    cols: usize,
    rows: &[f32],
    guide: &Guide,
    out: &mut [u8],
) -> Result<Squares, OutOfRange> {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512dq") {
        // SAFETY: the features that the function is compiled for were just detected.
        return unsafe { pack_avx512(form, cols, rows, guide, out) };
    } else if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        // SAFETY: the features that the function is compiled for were just detected.
        return unsafe { pack_avx2(form, cols, rows, guide, out) };
    }
    plain(form, cols, rows, guide, out)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512dq,fma")]
fn pack_avx512(
    form: &'static Form,
    cols: usize,
    rows: &[f32],
    guide: &Guide,
    out: &mut [u8],
) -> Result<Squares, OutOfRange> {
    plain(form, cols, rows, guide, out)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn pack_avx2(
    form: &'static Form,
    cols: usize,
    rows: &[f32],
    guide: &Guide,
    out: &mut [u8],
) -> Result<Squares, OutOfRange> {
    plain(form, cols, rows, guide, out)
}

#[inline(always)]
fn plain(form: &'static Form, cols: usize, rows: &[f32], guide: &Guide, out: &mut [u8]) -> Result<Squares, OutOfRange> {
    check(cols, rows)?;
    out.fill(0);
    let mut panel = PanelMut::new(form, out);
    let blocks = cols.div_ceil(BLOCK);
    let span = span(form, blocks);
    let mut errors = vec![[0f32; PANEL_ROWS]; blocks * BLOCK];
    let mut squares = Squares::default();
    for first in (0..blocks).step_by(span) {
        let own = first..(first + span).min(blocks);
        let fits = own.clone().map(|block| {
            let mut x = load(cols, rows, block);
            move_by(&mut x, guide, block, &errors[..first * BLOCK]);
            fit_block(form, &Weighted::guided(x, &guide.importance(block)))
        });
        let shares = Shares::new(form, &fits.collect::<Vec<_>>());
        if let Scales::Nested(..) = form.scales {
            panel.set_span(first, &shares.scale, &shares.min);
        }
        for block in own {
            let x = load(cols, rows, block);
            let mut moved = x;
            let (before, rest) = errors.split_at_mut(block * BLOCK);
            move_by(&mut moved, guide, block, before);
            let weighted = Weighted::guided(moved, &guide.importance(block));
            let stored = store(form, &weighted, &fit_block(form, &weighted), &shares, block, &mut panel);
            let errors = rest.first_chunk_mut().expect("a block of errors");
            let codes = round(form, &x, moved, &stored, guide.coefficients(block).map(|(_, own)| own), errors);
            panel.set_codes(block, &codes);
            for (x, errors) in x.iter().zip(&*errors) {
                for (x, error) in x.iter().zip(errors) {
                    squares.signal += f64::from(*x) * f64::from(*x);
                    squares.noise += f64::from(*error) * f64::from(*error);
                }
            }
        }
    }
    Ok(squares)
}

/// Moves a block's weights by the errors of the columns before it, or of the first of them.
#[inline(always)]
fn move_by(x: &mut Block, guide: &Guide, block: usize, errors: &[Lanes]) {
    let Some((before, _)) = guide.coefficients(block) else { return };
    if errors.is_empty() {
        return;
    }
    for (x, before) in x.as_chunks_mut::<GROUP>().0.iter_mut().zip(before.chunks_exact(block * BLOCK * GROUP)) {
        let mut sums = [[0f32; PANEL_ROWS]; GROUP];
        for (error, coefficients) in errors.iter().zip(before.as_chunks::<GROUP>().0) {
            for (sums, coefficient) in sums.iter_mut().zip(coefficients) {
                for r in 0..PANEL_ROWS {
                    sums[r] = error[r].mul_add(*coefficient, sums[r]);
                }
            }
        }
        for (x, sums) in x.iter_mut().zip(&sums) {
            for r in 0..PANEL_ROWS {
                // Whatever was moved must still have a scale and a minimum that can be stored.
                x[r] = (x[r] + sums[r]).clamp(-LARGEST as f32, LARGEST as f32);
            }
        }
    }
}

/// The codes of a block, column after column, and the errors of `x` with them. `moved` is `x` moved by the errors before.
#[inline(always)]
fn round(
    form: &Form,
    x: &Block,
    mut moved: Block,
    stored: &Fit,
    own: Option<&[[f32; BLOCK]]>,
    errors: &mut [Lanes; BLOCK],
) -> [[u8; PANEL_ROWS]; BLOCK] {
    let inverses = stored.scales.each_ref().map(inverse);
    let (low, high) = ends(form);
    let offset = if let Values::Linear(offset) = form.values { offset as f32 } else { 0.0 };
    let mut codes = [[0u8; PANEL_ROWS]; BLOCK];
    for column in 0..BLOCK {
        let (scale, inverse) = (&stored.scales[column / (BLOCK / 2)], &inverses[column / (BLOCK / 2)]);
        let (moved_to, error) = (moved[column], &mut errors[column]);
        for r in 0..PANEL_ROWS {
            let number = match form.values {
                Values::Linear(_) => {
                    let number = fit::nearest(moved_to[r], inverse[r], stored.min[r], low, high);
                    codes[column][r] = (number - offset) as i32 as u8;
                    number
                }
                Values::Table(table) => {
                    codes[column][r] = fit::closest(table, moved_to[r] * inverse[r]);
                    table[usize::from(codes[column][r])].into()
                }
            };
            error[r] = x[column][r] - (scale[r] * number + stored.min[r]);
        }
        let Some(own) = own else { continue };
        for (moved, coefficient) in moved[column + 1..].iter_mut().zip(&own[column][column + 1..]) {
            for r in 0..PANEL_ROWS {
                moved[r] = error[r].mul_add(*coefficient, moved[r]);
            }
        }
    }
    codes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codes::{Codes, view::unpack_row};
    use crate::guide::{Moments, Trust};
    use crate::{Encoding, SplitMix64, panel};

    /// Roughly normal numbers.
    fn normal(random: &mut SplitMix64) -> f32 {
        (0..6).map(|_| (random.next_u64() >> 40) as f32 / (1 << 24) as f32 - 0.5).sum()
    }

    /// Inputs of which neighbours are alike and a few are large.
    fn inputs(tokens: usize, cols: usize) -> Vec<f32> {
        let mut random = SplitMix64::new(5);
        let mut rows = Vec::new();
        for _ in 0..tokens {
            let mut last = 0.0;
            for col in 0..cols {
                last = 0.8 * last + normal(&mut random);
                rows.push(if col % 50 == 3 { 8.0 * last } else { last });
            }
        }
        rows
    }

    fn guide(rows: &[f32], cols: usize) -> Guide {
        let mut moments = Moments::new(cols);
        moments.add(rows);
        Guide::from_moments(moments, Trust::default())
    }

    #[test]
    fn every_machine_writes_the_same_bytes() {
        let mut random = SplitMix64::new(1);
        for codes in Codes::ALL {
            for cols in [1, 33, 96, 300] {
                let form = codes.form();
                let rows: Vec<f32> = (0..5 * cols).map(|_| 0.03 * normal(&mut random)).collect();
                let guide = guide(&inputs(2 * cols, cols), cols);
                let mut a = vec![0xff; form.panel_bytes(cols).unwrap()];
                let mut b = vec![0; a.len()];
                assert_eq!(pack(form, cols, &rows, &guide, &mut a), plain(form, cols, &rows, &guide, &mut b));
                assert!(a == b, "{codes:?}, {cols} columns");
            }
        }
    }

    /// Errors of the products, on inputs that the guide was made of and on others: less with importance, far less with
    /// feedback.
    #[test]
    fn products_come_out_closer() {
        let cols = 256;
        let mut random = SplitMix64::new(2);
        let weights: Vec<f32> = (0..PANEL_ROWS * cols).map(|_| 0.03 * normal(&mut random)).collect();
        let (seen, unseen) = {
            let all = inputs(6 * cols, cols);
            (all[..5 * cols * cols].to_vec(), all[5 * cols * cols..].to_vec())
        };
        let guide = guide(&seen, cols);
        let only_importance = Guide::from_importance(&{
            let mut moments = Moments::new(cols);
            moments.add(&seen);
            moments.mean_squares()
        });
        for codes in [Codes::Q4, Codes::Q5, Codes::Q6] {
            let (encoding, form) = (Encoding::Codes(codes), codes.form());
            let cost = |panel: &[u8]| {
                let mut back = vec![0.0; cols];
                let mut cost = 0f64;
                for (r, weights) in weights.chunks_exact(cols).enumerate() {
                    unpack_row(form, panel, r, &mut back);
                    for x in unseen.chunks_exact(cols) {
                        let off = x.iter().zip(weights.iter().zip(&back)).map(|(x, (w, b))| f64::from(x * (w - b)));
                        cost += off.sum::<f64>().powi(2);
                    }
                }
                cost
            };
            let mut out = vec![0; form.panel_bytes(cols).unwrap()];
            panel::pack(encoding, cols, &weights, &mut out).unwrap();
            let unguided = cost(&out);
            let squares = panel::pack_guided(encoding, cols, &weights, &only_importance, &mut out).unwrap();
            let important = cost(&out);
            assert!(squares.noise > 0.0 && squares.noise < 0.1 * squares.signal);
            panel::pack_guided(encoding, cols, &weights, &guide, &mut out).unwrap();
            let fed_back = cost(&out);
            println!("{codes:?}: importance {:.3}, feedback {:.3}", important / unguided, fed_back / unguided);
            assert!(important < unguided, "{codes:?}");
            assert!(fed_back < 0.5 * unguided, "{codes:?}");
        }
    }

    #[test]
    fn weights_of_any_kind_are_finite() {
        let kinds: [fn(usize) -> f32; 5] = [
            |_| 0.0,
            |_| f32::from_bits(1),
            |i| if i == 7 { 65504.0 } else { 0.0 },
            |i| if i == 40 { -65504.0 } else { 1e-9 },
            |i| [65504.0, -65504.0][i % 2],
        ];
        let cols = 256;
        let guide = guide(&inputs(20, cols), cols);
        for codes in Codes::ALL {
            for value in kinds {
                let form = codes.form();
                let rows: Vec<f32> = (0..cols).map(value).collect();
                let mut panel = vec![0; form.panel_bytes(cols).unwrap()];
                let squares = pack(form, cols, &rows, &guide, &mut panel).unwrap();
                let mut back = vec![f32::NAN; cols];
                unpack_row(form, &panel, 0, &mut back);
                assert!(squares.noise.is_finite() && back.iter().all(|x| x.is_finite()), "{codes:?}");
            }
        }
    }

    #[test]
    fn a_value_that_does_not_fit_is_named() {
        let guide = Guide::from_importance(&[1.0; 3]);
        let mut out = vec![0; Encoding::Codes(Codes::Q4).panel_bytes(3).unwrap()];
        let rows = [1.0, 2.0, 3.0, 4.0, 70000.0, 1.0];
        let fault = panel::pack_guided(Encoding::Codes(Codes::Q4), 3, &rows, &guide, &mut out).unwrap_err();
        assert_eq!(fault, OutOfRange { row: 1, col: 1, value: 70000.0 });
    }
}
