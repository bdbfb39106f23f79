//! Rotary position embedding: the frequencies and the table of cosines and sines.
//!
//! Frequencies and angles are computed in f32, step by step as in the published models' own code: at a position of some
//! thousands, the rounding of an angle shows in the fifth digit of its sine. Powers, logarithms, sines and cosines come
//! from `libm`'s f64 functions, rounded once to f32, so the bits are the same on every platform.
//!
//! Two kinds of scaling (dynamic and LongRoPE) depend on the length of the text. They use the session's capacity as
//! that length, so that a session turns all its tokens alike, however they were fed.

use nanoserve_format::{Rope, RopeScaling};
use std::f32::consts::PI;

/// The angular frequency of each pair of a head, in radians per position: `[rotary_dim / 2]`. `length` is the session's
/// capacity in positions.
///
/// `theta^(-2j/rotary_dim)`, stretched as `rope.scaling` says (for Llama 3: Meta's `apply_scaling`; YaRN: Peng et al.
/// 2023; LongRoPE: Ding et al. 2024).
pub fn frequencies(rope: &Rope, head_dim: usize, length: usize) -> Vec<f32> {
    let dim = rope.rotary_dim(head_dim);
    let theta = match rope.scaling {
        RopeScaling::Dynamic { factor, original_context } if length > original_context => {
            let stretch = factor as f32 * length as f32 / original_context as f32 - (factor - 1.0) as f32;
            let power = (dim as f64 / (dim - 2) as f64) as f32;
            f64::from(rope.theta as f32 * libm::pow(stretch.into(), power.into()) as f32)
        }
        _ => rope.theta,
    };
    // theta^(2j/rotary_dim): positions per radian.
    let slowness = |j: usize| libm::pow(theta, f64::from((2 * j) as f32 / dim as f32)) as f32;
    let frequency = |j: usize| match &rope.scaling {
        RopeScaling::Default {} | RopeScaling::Dynamic { .. } => 1.0 / slowness(j),
        RopeScaling::Linear { factor } => 1.0 / slowness(j) / *factor as f32,
        &RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
            let frequency = 1.0 / slowness(j);
            let (factor, context) = (factor as f32, original_context as f32);
            let wavelength = 2.0 * PI / frequency;
            if wavelength > (original_context as f64 / low_freq_factor) as f32 {
                frequency / factor
            } else if wavelength < (original_context as f64 / high_freq_factor) as f32 {
                frequency
            } else {
                let smooth =
                    (context / wavelength - low_freq_factor as f32) / (high_freq_factor - low_freq_factor) as f32;
                (1.0 - smooth) * frequency / factor + smooth * frequency
            }
        }
        &RopeScaling::Yarn { factor, original_context, beta_fast, beta_slow, truncate, .. } => {
            let slowness = slowness(j);
            let (kept, divided) = (1.0 / slowness, 1.0 / (factor as f32 * slowness));
            let (first, last) = blended(rope.theta, dim, original_context, [beta_fast, beta_slow], truncate);
            let keep = 1.0 - ((j as f32 - first as f32) / (last - first) as f32).clamp(0.0, 1.0);
            divided * (1.0 - keep) + kept * keep
        }
        RopeScaling::LongRope { short_factor, long_factor, original_context, .. } => {
            let factors = if length > *original_context { long_factor } else { short_factor };
            1.0 / (factors[j] as f32 * slowness(j))
        }
    };
    (0..dim / 2).map(frequency).collect()
}

/// The range of pairs in which YaRN blends: the (fractional) pair numbers that turn `turns` times in `context`
/// positions, rounded outwards if `whole`.
fn blended(theta: f64, dim: usize, context: usize, turns: [f64; 2], whole: bool) -> (f64, f64) {
    let pair = |turns: f64| {
        let wavelength = context as f64 / (turns * 2.0 * std::f64::consts::PI);
        (dim as f64 * libm::log(wavelength)) / (2.0 * libm::log(theta))
    };
    let [first, last] = turns.map(pair);
    let (first, last) = if whole { (first.floor(), last.ceil()) } else { (first, last) };
    let (first, last) = (first.max(0.0), last.min((dim - 1) as f64));
    // Avoids a division by zero.
    (first, if first == last { last + 0.001 } else { last })
}

/// The factor that multiplies cosines and sines.
pub(crate) fn attention_factor(rope: &Rope) -> f32 {
    match rope.scaling {
        RopeScaling::Yarn { attention_factor, .. } | RopeScaling::LongRope { attention_factor, .. } => {
            attention_factor as f32
        }
        _ => 1.0,
    }
}

/// The largest capacity up to which a session's frequencies are not stretched; None if they never depend on the
/// capacity.
pub fn unstretched(rope: &Rope) -> Option<usize> {
    match rope.scaling {
        RopeScaling::Dynamic { original_context, .. } | RopeScaling::LongRope { original_context, .. } => {
            Some(original_context)
        }
        _ => None,
    }
}

/// Cosines and sines of every pair at every position computed so far.
#[derive(Clone, Debug)]
pub struct RopeTable {
    frequencies: Vec<f32>,
    factor: f32,
    /// `[positions, rotary_dim / 2]`
    cos: Vec<f32>,
    /// `[positions, rotary_dim / 2]`
    sin: Vec<f32>,
}

impl RopeTable {
    /// An empty table for a session with a capacity of `length` positions; [`RopeTable::extend`] fills it.
    pub fn new(rope: &Rope, head_dim: usize, length: usize) -> Self {
        let frequencies = frequencies(rope, head_dim, length);
        RopeTable { frequencies, factor: attention_factor(rope), cos: Vec::new(), sin: Vec::new() }
    }

    /// Adds the missing ones of the first `positions` positions.
    pub fn extend(&mut self, positions: usize) {
        for position in self.positions()..positions {
            for frequency in &self.frequencies {
                let angle = f64::from(position as f32 * frequency);
                self.cos.push(libm::cos(angle) as f32 * self.factor);
                self.sin.push(libm::sin(angle) as f32 * self.factor);
            }
        }
    }

    /// True if it turns every position as another table does, however far the two are filled.
    pub fn turns_as(&self, other: &RopeTable) -> bool {
        self.factor == other.factor && self.frequencies == other.frequencies
    }

    /// Number of pairs of a head that turn: `rotary_dim / 2`.
    pub fn pairs(&self) -> usize {
        self.frequencies.len()
    }

    /// All cosines: `[positions, rotary_dim / 2]`.
    pub fn cos(&self) -> &[f32] {
        &self.cos
    }

    /// All sines: `[positions, rotary_dim / 2]`.
    pub fn sin(&self) -> &[f32] {
        &self.sin
    }

    /// Number of positions it holds.
    pub fn positions(&self) -> usize {
        self.cos.len() / self.frequencies.len()
    }

    /// Cosines and sines at `position`, each `[rotary_dim / 2]`.
    ///
    /// # Panics
    /// When the table was not extended that far.
    pub fn at(&self, position: usize) -> (&[f32], &[f32]) {
        let n = self.frequencies.len();
        (&self.cos[position * n..(position + 1) * n], &self.sin[position * n..(position + 1) * n])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llama3_keeps_short_waves_and_stretches_long_ones() {
        let scaling =
            RopeScaling::Llama3 { factor: 32.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_context: 8192 };
        let plain =
            frequencies(&Rope { theta: 500000.0, rotary_dim: None, scaling: RopeScaling::Default {} }, 64, 8192);
        let scaled = frequencies(&Rope { theta: 500000.0, rotary_dim: None, scaling }, 64, 8192);
        assert_eq!(plain[0], 1.0);
        assert_eq!(scaled[0], 1.0);
        assert_eq!(scaled[31], plain[31] / 32.0);
        let blended = (0..32).filter(|&j| scaled[j] < plain[j] && scaled[j] > plain[j] / 32.0).count();
        assert!((1..8).contains(&blended), "{blended}");
    }

    #[test]
    fn a_session_turns_by_its_room() {
        let rope = |scaling| Rope { theta: 10000.0, rotary_dim: None, scaling };
        let dynamic = rope(RopeScaling::Dynamic { factor: 2.0, original_context: 100 });
        let long = rope(RopeScaling::LongRope {
            short_factor: vec![1.0; 4],
            long_factor: vec![2.0; 4],
            original_context: 100,
            attention_factor: 1.5,
        });
        for rope in [dynamic, long] {
            assert_eq!(unstretched(&rope), Some(100));
            assert_eq!(frequencies(&rope, 8, 1), frequencies(&rope, 8, 100));
            let longer = frequencies(&rope, 8, 101);
            assert!(longer.iter().zip(frequencies(&rope, 8, 100)).all(|(long, short)| *long <= short));
            assert!(longer[3] < frequencies(&rope, 8, 100)[3]);
        }
        assert_eq!(unstretched(&rope(RopeScaling::Default {})), None);
    }

    #[test]
    fn linear_divides() {
        let plain = frequencies(&Rope { theta: 10000.0, rotary_dim: None, scaling: RopeScaling::Default {} }, 8, 2048);
        let scaled = frequencies(
            &Rope { theta: 10000.0, rotary_dim: None, scaling: RopeScaling::Linear { factor: 4.0 } },
            8,
            2048,
        );
        assert!(plain.iter().zip(&scaled).all(|(a, b)| a / 4.0 == *b));
    }

    #[test]
    fn a_table_grown_in_steps_is_the_same() {
        let rope = Rope { theta: 10000.0, rotary_dim: None, scaling: RopeScaling::Default {} };
        let (mut a, mut b) = (RopeTable::new(&rope, 8, 40), RopeTable::new(&rope, 8, 40));
        a.extend(40);
        for n in [1, 7, 7, 40] {
            b.extend(n);
        }
        assert_eq!(a.positions(), 40);
        assert_eq!((&a.cos, &a.sin), (&b.cos, &b.sin));
        assert_eq!(a.at(0), (&[1.0; 4][..], &[0.0; 4][..]));
    }
}
