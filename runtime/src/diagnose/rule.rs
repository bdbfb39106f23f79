//! The rule of a comparison: how far a value may be from the reference's, and how far a file of rounded weights may be.
//!
//! fp32 rounds relative to the terms of a sum, not to the sum. So a small value beside large ones is off by a part of the
//! large ones, in every implementation, and the largest |reference| value of its row (one token) is the measure:
//!
//! ```text
//! |ours - reference| <= atol + rtol * largest + min(SPREADS * spread, CAP * rtol * largest)
//! ```
//!
//! `spread` is what fp32 itself shows: how far the reference in f32 is from the same program in f64 on the same input, for
//! that row. A reference file may hold it. Ours may be off from the exact value as far as the reference is, on the other
//! side, hence [`SPREADS`]. The cap is there because a spread is a measurement that nobody checks: a file with a wrong or a
//! huge one would let everything pass. With it, a value that is off by more than 5 rtol of its row's largest, 5e-5 by
//! default, fails whatever the file says. A wrong value of 1e-4 fails, therefore; real models need less than 4e-5.
//!
//! Rounded weights, or a cache of f16, move every component far beyond that. Such a file is judged by its answers: see
//! [`Bounds`].

use super::verify::Report;
use crate::backend::KvType;
use nanoserve_format::{Encoding, EncodingSet};
use std::fmt;

/// How many spreads of fp32 a value may be off: one of the reference's and one of ours.
pub const SPREADS: f64 = 2.0;

/// How far a spread may widen the rule at most, as a multiple of `rtol`.
pub const CAP: f64 = 4.0;

/// How far a value may be off because sums have another order.
#[derive(Clone, Copy, Debug)]
pub struct Tolerance {
    /// Absolute.
    pub atol: f64,
    /// Relative to the largest |reference| value of the row.
    pub rtol: f64,
}

impl Tolerance {
    /// How far the values of a row may be off. `largest` is its largest |reference| value, `spread` what fp32 shows; 0 if
    /// it is not known.
    pub fn limit(&self, largest: f64, spread: f64) -> f64 {
        self.atol + self.rtol * largest + (SPREADS * spread).min(CAP * self.rtol * largest)
    }

    /// The limit of each row of `expected`, `[tokens, width]`. `spread` is `[tokens]`.
    pub(crate) fn limits(&self, expected: &[f32], width: usize, spread: Option<&[f64]>) -> Vec<f64> {
        let rows = expected.chunks_exact(width).enumerate();
        rows.map(|(t, row)| self.limit(largest(row), spread.map_or(0.0, |spread| spread[t]))).collect()
    }
}

/// The largest magnitude of a row. Values that are no numbers are left out: they fail by themselves, and would let the
/// others pass.
pub(crate) fn largest(row: &[f32]) -> f64 {
    row.iter().filter(|x| x.is_finite()).fold(0.0, |most, x| most.max(f64::from(x.abs())))
}

/// How far the answers of rounded weights may be from the reference's.
///
/// Measured on 28 small random models and three published ones of 135M to 630M weights (docs/verify.md): in f16 the mean is
/// 6.4e-6 at most, in q8 4.6e-3, and another token is likeliest at 1 position in 14 at most (3 of 44). Codes were measured on
/// the three published models alone (docs/quality.md): the mean is 0.022 at most in q6, 0.081 in q5, 0.26 in q4, and the
/// likeliest token differs at 12, 17 and 28 positions in 100. The bounds leave room for models that lose more.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bounds {
    /// Mean KL over the positions, in nats.
    pub kl_mean: f64,
    /// KL at any position, in nats.
    pub kl_max: f64,
    /// One position in so many, rounded up, may have another likeliest token.
    pub one_in: usize,
}

impl Bounds {
    /// The bounds of one encoding; None if it rounds nothing.
    pub fn of(encoding: Encoding) -> Option<Bounds> {
        match encoding {
            Encoding::F32 => None,
            Encoding::F16 => Some(Bounds { kl_mean: 5e-5, kl_max: 1e-3, one_in: 50 }),
            Encoding::Q8 => Some(Bounds { kl_mean: 0.02, kl_max: 0.2, one_in: 10 }),
            Encoding::Codes(codes) => Some(match codes.form().bits {
                4 => Bounds { kl_mean: 1.0, kl_max: 10.0, one_in: 2 },
                5 => Bounds { kl_mean: 0.3, kl_max: 3.0, one_in: 4 },
                _ => Bounds { kl_mean: 0.1, kl_max: 1.0, one_in: 5 },
            }),
        }
    }

    /// The loosest bounds of a file's encodings and of its cache; None if nothing is rounded.
    pub fn of_all(encodings: &EncodingSet, kv: KvType) -> Option<Bounds> {
        let cache = match kv {
            KvType::F32 => None,
            KvType::F16 => Bounds::of(Encoding::F16),
        };
        encodings.iter().filter_map(Bounds::of).chain(cache).max_by(|a, b| a.kl_mean.total_cmp(&b.kl_mean))
    }

    /// Positions of `positions` that may have another likeliest token.
    pub fn other_top(&self, positions: usize) -> usize {
        positions.div_ceil(self.one_in)
    }

    /// The first bound that a comparison exceeds, in words. Written so that NaN exceeds.
    pub fn exceeded(&self, report: &Report) -> Option<String> {
        let within = |got: f64, most: f64| got <= most;
        if !within(report.kl_mean, self.kl_mean) {
            return Some(format!("the mean KL is {:.1e}, at most {:e} is allowed", report.kl_mean, self.kl_mean));
        }
        if !within(report.kl_max, self.kl_max) {
            return Some(format!("the largest KL is {:.1e}, at most {:e} is allowed", report.kl_max, self.kl_max));
        }
        let (other, most) = (report.other_top, self.other_top(report.positions));
        (other > most).then(|| format!("{other} positions have another likeliest token, at most {most} may"))
    }
}

/// Displays as `mean KL 2e-2, largest 2e-1, another likeliest token at 1 position in 10`.
impl fmt::Display for Bounds {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Bounds { kl_mean, kl_max, one_in } = self;
        write!(f, "mean KL {kl_mean:e}, largest {kl_max:e}, another likeliest token at 1 position in {one_in}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const USUAL: Tolerance = Tolerance { atol: 1e-5, rtol: 1e-5 };

    #[test]
    fn the_measure_is_the_largest_value_of_the_row() {
        let limits = USUAL.limits(&[100.0, 0.5, -2000.0, 0.0], 2, None);
        assert_eq!(limits, [1e-5 + 1e-3, 1e-5 + 2e-2]);
        assert_eq!(USUAL.limits(&[0.0, 0.0], 2, None), [1e-5]);
    }

    #[test]
    fn a_spread_widens_by_twice_itself() {
        let limits = USUAL.limits(&[100.0, 0.5, 100.0, 3.0], 2, Some(&[1e-4, 0.0]));
        assert_eq!(limits, [1e-5 + 1e-3 + 2e-4, 1e-5 + 1e-3]);
    }

    #[test]
    fn no_spread_lets_a_wrong_value_of_1e_4_pass() {
        for largest in [1.0, 50.0, 1e4] {
            for spread in [0.0, 1e-5 * largest, 1e-3 * largest, 1e30, f64::INFINITY] {
                assert!(USUAL.limit(largest, spread) < 1e-5 + 5.001e-5 * largest, "{largest} {spread}");
            }
        }
        assert_eq!(USUAL.limit(0.0, 1e30), 1e-5);
    }

    #[test]
    fn what_is_no_number_does_not_widen() {
        assert_eq!(largest(&[f32::NAN, -3.0, f32::INFINITY]), 3.0);
        assert_eq!(largest(&[]), 0.0);
    }

    fn report(kl_mean: f64, kl_max: f64, other_top: usize) -> Report {
        let (rows, greedy_ids) = (vec![], None);
        let bounds = Bounds::of(Encoding::Q8);
        Report { rows, kl_mean, kl_max, top1: 0.0, positions: 41, other_top, greedy_ids, greedy_pass: true, bounds }
    }

    #[test]
    fn each_bound_is_kept() {
        assert!(report(0.02, 0.2, 5).pass());
        for (bad, word) in [
            (report(0.0201, 0.1, 0), "mean KL"),
            (report(f64::NAN, 0.1, 0), "mean KL"),
            (report(1e-3, 0.21, 0), "largest KL"),
            (report(1e-3, 0.1, 6), "6 positions"),
        ] {
            assert!(!bad.pass() && bad.bounds.unwrap().exceeded(&bad).unwrap().contains(word), "{bad:?}");
        }
        // Greedy text may differ where weights are rounded; in f32 it may not.
        let other = Report { greedy_pass: false, ..report(1e-3, 1e-2, 0) };
        assert!(other.pass() && !Report { bounds: None, ..other }.pass());
    }

    #[test]
    fn the_loosest_encoding_decides() {
        let set = |all: &[Encoding]| all.iter().copied().collect::<EncodingSet>();
        let (f16, q8) = (Bounds::of(Encoding::F16), Bounds::of(Encoding::Q8));
        assert_eq!(Bounds::of_all(&set(&[Encoding::F32]), KvType::F32), None);
        assert_eq!(Bounds::of_all(&set(&[Encoding::F32]), KvType::F16), f16);
        assert_eq!(Bounds::of_all(&set(&[Encoding::F32, Encoding::F16]), KvType::F32), f16);
        assert_eq!(Bounds::of_all(&set(&[Encoding::F16, Encoding::Q8]), KvType::F16), q8);
        assert!(Encoding::ALL.iter().all(|e| Bounds::of(*e).is_none() == e.is_exact()));
    }
}
