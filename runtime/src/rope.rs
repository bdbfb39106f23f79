//! Rotary position embedding: the frequencies and the table of cosines and sines.
//!
//! Frequencies and angles are computed in f32, step by step as the published models' own code does, because at a
//! position of some thousands the rounding of an angle is visible in the fifth digit of its sine. Powers, sines and
//! cosines come from `libm`'s f64 functions, rounded once to f32: the same bits on every platform.

use nanoserve_format::{Rope, RopeScaling};
use std::f32::consts::PI;

/// The angular frequency of each pair of a head, radians a position: `[head_dim / 2]`.
///
/// `theta^(-2j/head_dim)`, stretched as `rope.scaling` says (for Llama 3: Meta's `apply_scaling`).
pub fn frequencies(rope: &Rope, head_dim: usize) -> Vec<f32> {
    let base = (0..head_dim / 2).map(|j| {
        let exponent = (2 * j) as f32 / head_dim as f32;
        1.0 / libm::pow(rope.theta, f64::from(exponent)) as f32
    });
    let scale = |frequency: f32| match rope.scaling {
        RopeScaling::Default {} => frequency,
        RopeScaling::Linear { factor } => frequency / factor as f32,
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
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
    };
    base.map(scale).collect()
}

/// Cosines and sines of every pair at every position computed so far.
#[derive(Clone, Debug)]
pub struct RopeTable {
    frequencies: Vec<f32>,
    /// `[positions, head_dim / 2]`
    cos: Vec<f32>,
    /// `[positions, head_dim / 2]`
    sin: Vec<f32>,
}

impl RopeTable {
    /// An empty table; [`RopeTable::extend`] fills it.
    pub fn new(rope: &Rope, head_dim: usize) -> Self {
        RopeTable { frequencies: frequencies(rope, head_dim), cos: Vec::new(), sin: Vec::new() }
    }

    /// Computes what is missing of the first `positions` positions.
    pub fn extend(&mut self, positions: usize) {
        for position in self.positions()..positions {
            for frequency in &self.frequencies {
                let angle = f64::from(position as f32 * frequency);
                self.cos.push(libm::cos(angle) as f32);
                self.sin.push(libm::sin(angle) as f32);
            }
        }
    }

    /// Positions it holds.
    pub fn positions(&self) -> usize {
        self.cos.len() / self.frequencies.len()
    }

    /// Cosines and sines at `position`, each `[head_dim / 2]`.
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
        let plain = frequencies(&Rope { theta: 500000.0, rotary_dim: None, scaling: RopeScaling::Default {} }, 64);
        let scaled = frequencies(&Rope { theta: 500000.0, rotary_dim: None, scaling }, 64);
        assert_eq!(plain[0], 1.0);
        assert_eq!(scaled[0], 1.0);
        assert_eq!(scaled[31], plain[31] / 32.0);
        let blended = (0..32).filter(|&j| scaled[j] < plain[j] && scaled[j] > plain[j] / 32.0).count();
        assert!((1..8).contains(&blended), "{blended}");
    }

    #[test]
    fn linear_divides() {
        let plain = frequencies(&Rope { theta: 10000.0, rotary_dim: None, scaling: RopeScaling::Default {} }, 8);
        let scaled = frequencies(&Rope { theta: 10000.0, rotary_dim: None, scaling: RopeScaling::Linear { factor: 4.0 } }, 8);
        assert!(plain.iter().zip(&scaled).all(|(a, b)| a / 4.0 == *b));
    }

    #[test]
    fn a_table_grown_in_steps_is_the_same() {
        let rope = Rope { theta: 10000.0, rotary_dim: None, scaling: RopeScaling::Default {} };
        let (mut a, mut b) = (RopeTable::new(&rope, 8), RopeTable::new(&rope, 8));
        a.extend(40);
        for n in [1, 7, 7, 40] {
            b.extend(n);
        }
        assert_eq!(a.positions(), 40);
        assert_eq!((&a.cos, &a.sin), (&b.cos, &b.sin));
        assert_eq!(a.at(0), (&[1.0; 4][..], &[0.0; 4][..]));
    }
}
