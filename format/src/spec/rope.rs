//! Rotary position embedding as data.

use serde::{Deserialize, Serialize};

/// Rotary position embedding: pair `j` of a head (elements `j` and `j + rotary_dim/2`) is rotated by
/// `position * theta^(-2j/rotary_dim)`, after scaling; elements from `rotary_dim` on are unchanged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rope {
    /// Base of the frequencies.
    pub theta: f64,
    /// Number of rotated elements of a head, even; None means all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotary_dim: Option<usize>,
    /// How frequencies are stretched for longer contexts.
    pub scaling: RopeScaling,
}

impl Rope {
    /// Number of rotated elements of a head of `head_dim` elements.
    pub fn rotary_dim(&self, head_dim: usize) -> usize {
        self.rotary_dim.unwrap_or(head_dim)
    }
}

/// How rotary frequencies are stretched.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum RopeScaling {
    /// Not at all.
    Default {},
    /// Every frequency divided by `factor`.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// Llama 3.1's: wavelengths above `original_context / low_freq_factor` divided by `factor`, those below
    /// `original_context / high_freq_factor` kept, those between blended.
    Llama3 {
        /// The divisor of long wavelengths.
        factor: f64,
        /// Bounds the long wavelengths.
        low_freq_factor: f64,
        /// Bounds the short wavelengths.
        high_freq_factor: f64,
        /// Positions the model was first trained on.
        original_context: usize,
    },
    /// YaRN (Peng et al. 2023): pairs that turn often in `original_context` positions kept, those that turn seldom
    /// divided by `factor`, those between blended; cosines and sines multiplied by `attention_factor`.
    Yarn {
        /// The divisor of slow pairs.
        factor: f64,
        /// Positions the model was first trained on.
        original_context: usize,
        /// Pairs with this many turns or more are kept.
        beta_fast: f64,
        /// Pairs with this many turns or fewer are divided.
        beta_slow: f64,
        /// The bounds of the blend are rounded to whole pairs.
        truncate: bool,
        /// Multiplies cosines and sines.
        attention_factor: f64,
    },
    /// NTK by length: for a session of `n > original_context` positions theta is multiplied by
    /// `(factor * n / original_context - (factor - 1))^(rotary_dim / (rotary_dim - 2))`.
    Dynamic {
        /// The stretch factor.
        factor: f64,
        /// Positions up to which nothing is stretched.
        original_context: usize,
    },
    /// LongRoPE (Ding et al. 2024): each pair's frequency divided by its own factor, `short_factor` in sessions of up
    /// to `original_context` positions and `long_factor` in longer ones; cosines and sines multiplied by
    /// `attention_factor`.
    #[serde(rename = "longrope")]
    LongRope {
        /// `[rotary_dim / 2]`
        short_factor: Vec<f64>,
        /// `[rotary_dim / 2]`
        long_factor: Vec<f64>,
        /// Positions the model was first trained on.
        original_context: usize,
        /// Multiplies cosines and sines.
        attention_factor: f64,
    },
}
