//! Packs rows of f32 into panels of codes: one plain loop, compiled again for machines with wider vectors.
//!
//! ```text
//! for each block of 32 columns: the scales and minima of 16 rows that fit best        (fit)
//! for each row, or 256 columns of it: the number that their bytes multiply is the largest over 255, or 127
//! for each block: scales and minima as they are stored, the codes nearest to the weights with these
//! ```
//!
//! The only unsafe code calls functions that are compiled for features which were just detected.

use super::fit::{self, Block, Lanes, Weighted, inverse};
use super::{BLOCK, Form, PanelMut, Scales, Span, Sub, Values};
use crate::encoding::PANEL_ROWS;
use crate::panel::{OutOfRange, Squares};
use half::f16;

/// The largest magnitude: the largest f16, which a minimum must hold.
pub const LARGEST: f64 = 65504.0;

/// What [`Encoding::step`](crate::Encoding::step) returns. It is two steps of the codes over the whole range, because a fit
/// may cut off the largest weight. Where scales are f16, the error of the smallest scale, 2^-24, is added.
pub fn step(form: &Form, largest: f32) -> f64 {
    let steps = match form.values {
        Values::Linear(_) => f64::from(form.largest_code()),
        // The widest gap of the tables' numbers, relative to their largest.
        Values::Table(_) => 6.0,
    };
    let least = match form.scales {
        Scales::Nested(Span::Row, _) => 0.0,
        Scales::Nested(Span::Columns256, _) | Scales::Flat(_) => 128.0 * f64::powi(2.0, -24),
    };
    4.0 * f64::from(largest) / steps + least
}

/// As [`panel::pack`](crate::panel::pack).
pub fn pack(form: &'static Form, cols: usize, rows: &[f32], out: &mut [u8]) -> Result<Squares, OutOfRange> {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512dq") {
        // SAFETY: the features that the function is compiled for were just detected.
        return unsafe { pack_avx512(form, cols, rows, out) };
    } else if is_x86_feature_detected!("avx2") {
        // SAFETY: the feature that the function is compiled for was just detected.
        return unsafe { pack_avx2(form, cols, rows, out) };
    }
    plain(form, cols, rows, out)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512dq")]
fn pack_avx512(form: &'static Form, cols: usize, rows: &[f32], out: &mut [u8]) -> Result<Squares, OutOfRange> {
    plain(form, cols, rows, out)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn pack_avx2(form: &'static Form, cols: usize, rows: &[f32], out: &mut [u8]) -> Result<Squares, OutOfRange> {
    plain(form, cols, rows, out)
}

/// The scales of each half of a block and the minima, of 16 rows.
#[derive(Clone, Copy)]
struct Fit {
    scales: [Lanes; 2],
    min: Lanes,
}

#[inline(always)]
fn plain(form: &'static Form, cols: usize, rows: &[f32], out: &mut [u8]) -> Result<Squares, OutOfRange> {
    for (row, values) in rows.chunks_exact(cols).enumerate() {
        let fits = |x: &f32| x.abs() <= LARGEST as f32;
        if !values.iter().fold(true, |all, x| all & fits(x)) {
            let col = values.iter().position(|x| !fits(x)).expect("one does not fit");
            return Err(OutOfRange { row, col, value: values[col] });
        }
    }
    out.fill(0);
    let mut panel = PanelMut::new(form, out);
    let blocks = cols.div_ceil(BLOCK);
    let fits: Vec<Fit> = (0..blocks).map(|block| fit_block(form, &Weighted::new(load(cols, rows, block)))).collect();
    let span = match form.scales {
        Scales::Flat(_) => 1,
        Scales::Nested(Span::Row, _) => blocks,
        Scales::Nested(Span::Columns256, _) => 256 / BLOCK,
    };
    let (mut signal, mut noise) = ([0f64; PANEL_ROWS], [0f64; PANEL_ROWS]);
    for (i, fits) in fits.chunks(span).enumerate() {
        let shares = Shares::new(form, fits);
        if let Scales::Nested(..) = form.scales {
            panel.set_span(i * span, &shares.scale, &shares.min);
        }
        for (fit, block) in fits.iter().zip(i * span..) {
            let x = load(cols, rows, block);
            let stored = store(form, &x, fit, &shares, block, &mut panel);
            write(form, &x, &stored, block, &mut panel, [&mut signal, &mut noise]);
        }
    }
    Ok(Squares { signal: signal.iter().sum(), noise: noise.iter().sum() })
}

/// A block of `rows`, `[n, cols]`; zeros where there is no column or row.
#[inline(always)]
fn load(cols: usize, rows: &[f32], block: usize) -> Block {
    let mut x = [[0f32; PANEL_ROWS]; BLOCK];
    for (r, row) in rows.chunks_exact(cols).enumerate() {
        let own = &row[block * BLOCK..cols.min((block + 1) * BLOCK)];
        for (x, value) in x.iter_mut().zip(own) {
            x[r] = *value;
        }
    }
    x
}

/// The best scales and minima of a block, whatever they are rounded to.
#[inline(always)]
fn fit_block(form: &'static Form, block: &Weighted) -> Fit {
    if form.has_minima() {
        let [scale, min] = block.with_min(form.largest_code().into());
        return Fit { scales: [scale; 2], min };
    }
    let (low, high) = ends(form);
    let scales = match form.values {
        Values::Table(_) => [block.table(form); 2],
        Values::Linear(_) if form.has_halves() => {
            [block.linear(0..BLOCK / 2, low, high), block.linear(BLOCK / 2..BLOCK, low, high)]
        }
        Values::Linear(_) => [block.linear(0..BLOCK, low, high); 2],
    };
    Fit { scales, min: [0.0; PANEL_ROWS] }
}

/// The smallest and the largest number of a form's codes.
fn ends(form: &Form) -> (f32, f32) {
    let numbers = (0..=form.largest_code()).map(|code| form.value(code));
    numbers.fold((0.0, 0.0), |(low, high), n| ((n as f32).min(low), (n as f32).max(high)))
}

/// The numbers that the bytes of some blocks multiply.
struct Shares {
    scale: Lanes,
    min: Lanes,
    /// The largest of those bytes.
    most: f32,
}

impl Shares {
    #[inline(always)]
    fn new(form: &Form, fits: &[Fit]) -> Shares {
        let most = if let Scales::Nested(_, Sub::Signed(_)) = form.scales { 127.0 } else { 255.0 };
        let (mut scale, mut min) = ([0f32; PANEL_ROWS], [0f32; PANEL_ROWS]);
        for fit in fits {
            for r in 0..PANEL_ROWS {
                let largest = fit.scales[0][r].abs().max(fit.scales[1][r].abs());
                scale[r] = if largest > scale[r] { largest } else { scale[r] };
                min[r] = if -fit.min[r] > min[r] { -fit.min[r] } else { min[r] };
            }
        }
        let stored = |x: f32| match form.scales {
            Scales::Nested(Span::Columns256, _) => at_least(x / most).to_f32(),
            Scales::Nested(Span::Row, _) | Scales::Flat(_) => x / most,
        };
        Shares { scale: scale.map(stored), min: min.map(stored), most }
    }

    /// The bytes nearest to some numbers over their share.
    #[inline(always)]
    fn bytes(&self, x: &Lanes, share: &Lanes, low: f32) -> Lanes {
        let (inverse, mut bytes) = (inverse(share), [0.0; PANEL_ROWS]);
        for r in 0..PANEL_ROWS {
            bytes[r] = fit::nearest(x[r], inverse[r], 0.0, low, self.most);
        }
        bytes
    }
}

/// The smallest f16 that is not below `x`.
fn at_least(x: f32) -> f16 {
    let near = f16::from_f32(x);
    if near.to_f32() < x { f16::from_bits(near.to_bits() + 1) } else { near }
}

/// Writes a block's scales and minima, rounded to what the form stores, and returns them so.
#[inline(always)]
fn store(form: &Form, x: &Block, fit: &Fit, shares: &Shares, index: usize, panel: &mut PanelMut) -> Fit {
    let times = |bytes: &Lanes, share: &Lanes| {
        let mut out = [0.0; PANEL_ROWS];
        for r in 0..PANEL_ROWS {
            out[r] = share[r] * bytes[r];
        }
        out
    };
    match form.scales {
        Scales::Flat(_) => {
            let (scales, minima) = (fit.scales[0].map(f16::from_f32), fit.min.map(f16::from_f32));
            panel.set_flat(index, &scales, &minima);
            Fit { scales: [scales.map(f16::to_f32); 2], min: minima.map(f16::to_f32) }
        }
        Scales::Nested(_, Sub::Unsigned) => {
            let bytes = shares.bytes(&fit.scales[0], &shares.scale, 0.0);
            let scale = times(&bytes, &shares.scale);
            // With another scale another minimum is best.
            let min = Weighted::new(*x).min_for(&scale, &fit.min, form.largest_code().into()).map(|min| -min);
            let minima = shares.bytes(&min, &shares.min, 0.0);
            panel.set_sub(index, [&bytes.map(|b| b as u8), &minima.map(|b| b as u8)]);
            Fit { scales: [scale; 2], min: times(&minima, &shares.min).map(|min| -min) }
        }
        Scales::Nested(_, Sub::Signed(_)) => {
            let bytes = fit.scales.map(|scale| shares.bytes(&scale, &shares.scale, -shares.most));
            let [first, second] = bytes.map(|bytes| bytes.map(|b| b as i8 as u8));
            panel.set_sub(index, [&first, &second]);
            Fit { scales: bytes.map(|bytes| times(&bytes, &shares.scale)), min: fit.min }
        }
    }
}

/// Writes the codes nearest to a block's weights, and adds the squares of the weights and of their errors.
#[inline(always)]
fn write(
    form: &Form,
    x: &Block,
    stored: &Fit,
    index: usize,
    panel: &mut PanelMut,
    [signal, noise]: [&mut [f64; PANEL_ROWS]; 2],
) {
    let inverses = stored.scales.each_ref().map(inverse);
    let offset = if let Values::Linear(offset) = form.values { offset as f32 } else { 0.0 };
    let high = offset + f32::from(form.largest_code());
    let mut codes = [[0u8; PANEL_ROWS]; BLOCK];
    for (column, (x, codes)) in x.iter().zip(&mut codes).enumerate() {
        let (scale, inverse) = (&stored.scales[column / (BLOCK / 2)], &inverses[column / (BLOCK / 2)]);
        let mut numbers = [0.0; PANEL_ROWS];
        match form.values {
            Values::Linear(_) => {
                for r in 0..PANEL_ROWS {
                    numbers[r] = fit::nearest(x[r], inverse[r], stored.min[r], offset, high);
                    codes[r] = (numbers[r] - offset) as i32 as u8;
                }
            }
            Values::Table(table) => {
                for r in 0..PANEL_ROWS {
                    codes[r] = fit::closest(table, x[r] * inverse[r]);
                    numbers[r] = table[usize::from(codes[r])].into();
                }
            }
        }
        for r in 0..PANEL_ROWS {
            let off = f64::from(scale[r] * numbers[r] + stored.min[r] - x[r]);
            signal[r] += f64::from(x[r]) * f64::from(x[r]);
            noise[r] += off * off;
        }
    }
    panel.set_codes(index, &codes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codes::{Codes, view::unpack_row};
    use crate::{Encoding, PANEL_ROWS, SplitMix64};

    /// Roughly normal, as weights are.
    fn weights(random: &mut SplitMix64, n: usize) -> Vec<f32> {
        let uniform = |random: &mut SplitMix64| (random.next_u64() >> 40) as f32 / (1 << 24) as f32 - 0.5;
        (0..n).map(|_| (0..6).map(|_| uniform(random)).sum::<f32>() * 0.03).collect()
    }

    /// The plain loop and the ones compiled for wider vectors write the same bytes.
    #[test]
    fn every_machine_writes_the_same_bytes() {
        let mut random = SplitMix64::new(1);
        for codes in Codes::ALL {
            for cols in [1, 31, 33, 64, 96, 256, 300] {
                let form = codes.form();
                let rows = weights(&mut random, 5 * cols);
                let mut a = vec![0xff; form.panel_bytes(cols).unwrap()];
                let mut b = vec![0; a.len()];
                assert_eq!(pack(form, cols, &rows, &mut a), plain(form, cols, &rows, &mut b), "{codes:?}");
                assert!(a == b, "{codes:?}, {cols} columns");
            }
        }
    }

    /// The share of the signal that is lost, in bits: normal weights lose one step in root 12 of the codes' range.
    #[test]
    fn weights_come_back_as_well_as_their_bits_allow() {
        let mut random = SplitMix64::new(2);
        let cols = 512;
        let rows = weights(&mut random, PANEL_ROWS * cols);
        for (codes, decibel) in [
            (Codes::Q4, 21.5),
            (Codes::Q4K, 21.5),
            (Codes::Q4_0, 19.5),
            (Codes::Q4_1, 21.0),
            (Codes::Iq4Nl, 21.0),
            (Codes::Iq4Xs, 20.5),
            (Codes::Mxfp4, 19.0),
            (Codes::Q5, 27.5),
            (Codes::Q5K, 27.5),
            (Codes::Q5_0, 25.5),
            (Codes::Q5_1, 27.0),
            (Codes::Q6, 33.0),
            (Codes::Q6K, 33.0),
        ] {
            let form = codes.form();
            let mut panel = vec![0; form.panel_bytes(cols).unwrap()];
            let squares = pack(form, cols, &rows, &mut panel).unwrap();
            let (mut back, mut noise) = (vec![0.0; cols], 0f64);
            for (row, x) in rows.chunks(cols).enumerate() {
                unpack_row(form, &panel, row, &mut back);
                noise += x.iter().zip(&back).map(|(x, y)| f64::from(x - y).powi(2)).sum::<f64>();
            }
            assert!((noise / squares.noise - 1.0).abs() < 1e-4, "{codes:?}: {noise} is not {}", squares.noise);
            let got = 10.0 * (squares.signal / squares.noise).log10();
            println!("{codes:?}: {got:.2} dB");
            assert!(got >= decibel, "{codes:?}: {got} dB");
        }
    }

    /// The columns of `rows`, packed and read back.
    fn back(codes: Codes, cols: usize, rows: &[f32]) -> Vec<f32> {
        let form = codes.form();
        let mut panel = vec![0; form.panel_bytes(cols).unwrap()];
        pack(form, cols, rows, &mut panel).unwrap();
        let mut back = vec![0.0; rows.len()];
        back.chunks_mut(cols).enumerate().for_each(|(row, out)| unpack_row(form, &panel, row, out));
        back
    }

    /// Small weights keep as many digits as large ones: where scales are f32, a power of two changes nothing else until
    /// squares are no normal numbers. The error is at most half of what `step` says at every size.
    #[test]
    fn the_size_of_weights_changes_no_code() {
        let mut random = SplitMix64::new(3);
        for codes in Codes::ALL {
            for cols in [1, 2, 15, 17, 32, 33, 72, 256, 300] {
                let rows = weights(&mut random, PANEL_ROWS * cols);
                let expected = back(codes, cols, &rows);
                for exponent in (-60..=15).step_by(5) {
                    let times = 2f32.powi(exponent);
                    let rows: Vec<f32> = rows.iter().map(|x| x * times).collect();
                    let got = back(codes, cols, &rows);
                    if let (Scales::Nested(Span::Row, _), -40..) = (codes.form().scales, exponent) {
                        let expected: Vec<f32> = expected.iter().map(|x| x * times).collect();
                        assert_eq!(got, expected, "{codes:?}, {cols} columns, 2^{exponent}");
                    }
                    for (x, y) in rows.chunks(cols).zip(got.chunks(cols)) {
                        for ((x, y), step) in x.chunks(BLOCK).zip(y.chunks(BLOCK)).zip(Encoding::Codes(codes).steps(x))
                        {
                            let most = x.iter().zip(y).fold(0f32, |most, (x, y)| most.max((x - y).abs()));
                            assert!(f64::from(most) <= 0.5 * step, "{codes:?}, {cols} columns, 2^{exponent}: {most}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn blocks_of_any_kind_are_finite() {
        let kinds: [fn(usize) -> f32; 8] = [
            |_| 0.0,
            |_| 1.0,
            |_| -1.0,
            |_| f32::from_bits(1),
            |i| if i == 7 { 65504.0 } else { 0.0 },
            |i| if i == 40 { -65504.0 } else { 1e-9 },
            |i| [1e-38, -1e-38][i % 2],
            |i| [65504.0, -65504.0][i % 2],
        ];
        for codes in Codes::ALL {
            for (kind, value) in kinds.iter().enumerate() {
                let (form, cols) = (codes.form(), 256);
                let rows: Vec<f32> = (0..cols).map(value).collect();
                let mut panel = vec![0; form.panel_bytes(cols).unwrap()];
                let squares = pack(form, cols, &rows, &mut panel).unwrap();
                let mut back = vec![f32::NAN; cols];
                unpack_row(form, &panel, 0, &mut back);
                let largest = rows.iter().fold(0f32, |m, x| m.max(x.abs()));
                let off = rows.iter().zip(&back).fold(0f32, |m, (x, y)| m.max((x - y).abs()));
                assert!(squares.noise.is_finite() && off <= 0.26 * largest + 1e-6, "{codes:?}, kind {kind}: {off}");
            }
        }
    }
}
