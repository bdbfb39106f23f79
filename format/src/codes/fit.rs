//! The scale and minimum of a block whose codes come closest to its weights, for 16 rows at a time, one in each lane.
//!
//! An error counts by its weight's importance. Without better knowledge, that is the weight's square plus the mean square
//! of its block: large weights matter more, and none is free. (Of five such measures this one had the least KL on a
//! published model: docs/quality.md.)
//!
//! ```text
//! for some trial scales around the range divided by the largest code
//!   codes = the nearest
//!   scale, min = the weighted least squares solution for these codes; the trial with the least error wins
//! again with the winner's scale and min in place of a trial
//! ```
//!
//! The error of a solution is a constant minus its gain, so the trial with the largest gain wins. No operation is fused and no sum
//! crosses lanes, so that every machine finds the same.

use super::{BLOCK, Form, Values};
use crate::encoding::PANEL_ROWS;
use std::ops::Range;

/// A number of each row.
pub type Lanes = [f32; PANEL_ROWS];

/// A block of 16 rows, column after column.
pub type Block = [Lanes; BLOCK];

/// Adding and subtracting it rounds to the nearest whole number, ties to even, in a form that compilers vectorize.
const ROUND: f32 = 12_582_912.0;

/// Blocks with a range, or a scale, below this become constant: inverses would overflow.
const LEAST: f32 = 1e-30;

/// Trials before the winner is tried again.
const AGAIN: usize = 2;

/// A block with what its errors count, and weighted sums that every trial needs.
pub struct Weighted {
    /// The weights.
    x: Block,
    /// How much their errors count.
    w: Block,
    /// `sum of w`
    sw: Lanes,
    /// `sum of w x`
    sx: Lanes,
}

/// A function of each row.
#[inline(always)]
fn lanes(of: impl Fn(usize) -> f32) -> Lanes {
    let mut out = [0.0; PANEL_ROWS];
    for (r, out) in out.iter_mut().enumerate() {
        *out = of(r);
    }
    out
}

/// `1 / x`, or 0 for a number so small that its inverse could overflow.
#[inline(always)]
pub fn inverse(x: &Lanes) -> Lanes {
    lanes(|r| if x[r].abs() < LEAST { 0.0 } else { 1.0 / x[r] })
}

/// The power of two that moves `x`, at least 0 and below 2^125, into 1 to 2, or as close as a power below 2^128 can.
#[inline(always)]
fn near_inverse(x: f32) -> f32 {
    f32::from_bits((254 - (x.to_bits() >> 23)) << 23)
}

impl Weighted {
    /// A block whose errors count as said above, times a power of two. It changes no solution, and keeps the products of
    /// small weights' squares from becoming so small that they lose their digits.
    #[inline(always)]
    pub fn new(x: Block) -> Weighted {
        let mut squares = [0.0; PANEL_ROWS];
        for x in &x {
            for r in 0..PANEL_ROWS {
                squares[r] += x[r] * x[r];
            }
        }
        let mean = lanes(|r| squares[r] / BLOCK as f32);
        let lift = lanes(|r| near_inverse(mean[r]));
        let (mut w, mut sw, mut sx) = ([[0.0; PANEL_ROWS]; BLOCK], [0.0; PANEL_ROWS], [0.0; PANEL_ROWS]);
        for (x, w) in x.iter().zip(&mut w) {
            for r in 0..PANEL_ROWS {
                w[r] = (mean[r] + x[r] * x[r]) * lift[r];
                sw[r] += w[r];
                sx[r] += w[r] * x[r];
            }
        }
        Weighted { x, w, sw, sx }
    }

    /// `sum of w c`, `w c^2`, `w c x` over some columns, for the codes nearest to `(x - min) * inverse`.
    #[inline(always)]
    fn sums(&self, columns: Range<usize>, inverse: &Lanes, min: &Lanes, low: f32, high: f32) -> [Lanes; 3] {
        let [mut sc, mut scc, mut scx] = [[0.0; PANEL_ROWS]; 3];
        for (x, w) in self.x[columns.clone()].iter().zip(&self.w[columns]) {
            for r in 0..PANEL_ROWS {
                let c = nearest(x[r], inverse[r], min[r], low, high);
                let wc = w[r] * c;
                sc[r] += wc;
                scc[r] += wc * c;
                scx[r] += wc * x[r];
            }
        }
        [sc, scc, scx]
    }

    /// The scales and the minima, at most 0, of rows whose codes are 0 to `high`.
    #[inline(always)]
    pub fn with_min(&self, high: f32) -> [Lanes; 2] {
        let [mut least, mut most] = [[0.0; PANEL_ROWS], self.x[0]];
        for x in &self.x {
            for r in 0..PANEL_ROWS {
                least[r] = if x[r] < least[r] { x[r] } else { least[r] };
                most[r] = if x[r] > most[r] { x[r] } else { most[r] };
            }
        }
        let range = lanes(|r| most[r] - least[r]);
        let one = inverse(&range);
        let (mut scale, mut min, mut gain) = (lanes(|r| range[r] / high), least, [f32::NEG_INFINITY; PANEL_ROWS]);
        for trial in 0..TRIALS + AGAIN {
            let (inverse, low) = match OFFSETS.get(trial) {
                Some(offset) => (lanes(|r| (high + offset) * one[r]), least),
                None => (inverse(&scale), min),
            };
            let [sc, scc, scx] = self.sums(0..BLOCK, &inverse, &low, 0.0, high);
            let (sw, sx) = (&self.sw, &self.sx);
            for r in 0..PANEL_ROWS {
                let determinant = sw[r] * scc[r] - sc[r] * sc[r];
                let both = (sw[r] * scx[r] - sx[r] * sc[r], scc[r] * sx[r] - sc[r] * scx[r]);
                let (s, m) = (both.0 / determinant, both.1 / determinant);
                let (s, m) = if m > 0.0 { (scx[r] / scc[r], 0.0) } else { (s, m) };
                let g = s * scx[r] + m * sx[r];
                // What is no number is never greater.
                let better = s > 0.0 && g > gain[r];
                scale[r] = if better { s } else { scale[r] };
                min[r] = if better { m } else { min[r] };
                gain[r] = if better { g } else { gain[r] };
            }
        }
        // A row with one value has no scale.
        scale = lanes(|r| if one[r] == 0.0 { 0.0 } else { scale[r] });
        [scale, min]
    }

    /// The minima that fit codes of these scales best, in place of `min`.
    #[inline(always)]
    pub fn min_for(&self, scale: &Lanes, min: &Lanes, high: f32) -> Lanes {
        let [sc, ..] = self.sums(0..BLOCK, &inverse(scale), min, 0.0, high);
        lanes(|r| {
            let best = (self.sx[r] - scale[r] * sc[r]) / self.sw[r];
            if best < 0.0 { best } else { 0.0 }
        })
    }

    /// The scales, of either sign, of some columns whose codes stand for whole numbers `low` to `high`.
    #[inline(always)]
    pub fn linear(&self, columns: Range<usize>, low: f32, high: f32) -> Lanes {
        let largest = self.largest(columns.clone());
        let (one, none) = (inverse(&largest), [0.0; PANEL_ROWS]);
        let (mut scale, mut gain) = (lanes(|r| largest[r] / low), [f32::NEG_INFINITY; PANEL_ROWS]);
        for trial in 0..TRIALS + AGAIN {
            let inverse = match OFFSETS.get(trial) {
                // The largest weight becomes `low`: that side has one number more.
                Some(offset) => lanes(|r| (low - offset) * one[r]),
                None => inverse(&scale),
            };
            let [_, scc, scx] = self.sums(columns.clone(), &inverse, &none, low, high);
            for r in 0..PANEL_ROWS {
                let s = scx[r] / scc[r];
                let g = s * scx[r];
                scale[r] = if g > gain[r] { s } else { scale[r] };
                gain[r] = if g > gain[r] { g } else { gain[r] };
            }
        }
        lanes(|r| if one[r] == 0.0 { 0.0 } else { scale[r] })
    }

    /// The scales of rows whose codes stand for the numbers of a table.
    pub fn table(&self, form: &Form) -> Lanes {
        let Values::Table(table) = form.values else { unreachable!("a form with a table") };
        let low = f32::from(*table.iter().min().expect("sixteen numbers"));
        let largest = self.largest(0..BLOCK);
        let one = inverse(&largest);
        let (mut scale, mut gain) = (lanes(|r| largest[r] / low), [f32::NEG_INFINITY; PANEL_ROWS]);
        for offset in OFFSETS {
            for r in 0..PANEL_ROWS {
                // The largest has either sign.
                for inverse in [1.0, -1.0].map(|sign| sign * (low + low / 8.0 * offset) * one[r]) {
                    let (mut scc, mut scx) = (0.0, 0.0);
                    for (x, w) in self.x.iter().zip(&self.w) {
                        let c = f32::from(table[usize::from(closest(table, x[r] * inverse))]);
                        let wc = w[r] * c;
                        scc += wc * c;
                        scx += wc * x[r];
                    }
                    let s = scx / scc;
                    if s * scx > gain[r] {
                        (scale[r], gain[r]) = (s, s * scx);
                    }
                }
            }
        }
        lanes(|r| if one[r] == 0.0 { 0.0 } else { scale[r] })
    }

    /// The weight of each row whose magnitude is largest in some columns.
    #[inline(always)]
    fn largest(&self, columns: Range<usize>) -> Lanes {
        let mut largest = [0f32; PANEL_ROWS];
        for x in &self.x[columns] {
            for r in 0..PANEL_ROWS {
                largest[r] = if x[r].abs() > largest[r].abs() { x[r] } else { largest[r] };
            }
        }
        largest
    }
}

/// Number of trial scales.
const TRIALS: usize = OFFSETS.len();

/// What trial scales add to the number of codes that the range has.
const OFFSETS: [f32; 5] = [-0.8, -0.4, 0.0, 0.4, 0.8];

/// The whole number in `low..=high` that is nearest to `(x - min) * inverse`.
#[inline(always)]
pub fn nearest(x: f32, inverse: f32, min: f32, low: f32, high: f32) -> f32 {
    let near = ((x - min) * inverse + ROUND) - ROUND;
    let near = if near < low { low } else { near };
    if near > high { high } else { near }
}

/// The place of a table's number that is closest to `x`; of two, the first.
pub fn closest(table: &[i8; 16], x: f32) -> u8 {
    let off = |place: u8| (f32::from(table[usize::from(place)]) - x).abs();
    (1..16).fold(0, |best, place| if off(place) < off(best) { place } else { best })
}
