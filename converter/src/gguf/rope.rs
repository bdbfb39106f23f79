//! The rotary embedding, from metadata and from tensors of factors.
//!
//! Llama 3's stretching is not in the metadata: `rope_freqs.weight` holds a factor for each frequency. Where these are the
//! factors of some parameters, the parameters are taken, so that the model has the same description as from its
//! original checkpoint; else the factors themselves.

use crate::gguf::architectures::Architecture;
use crate::gguf::keys::Keys;
use crate::gguf::tensors::Tensors;
use nanoserve_format::{Rope, RopeScaling};

/// Llama 3's factor for each frequency.
pub(crate) const FREQS: &str = "rope_freqs.weight";
/// Phi's factors for texts up to the first training's length, and beyond.
pub(crate) const SHORT: &str = "rope_factors_short.weight";
pub(crate) const LONG: &str = "rope_factors_long.weight";

/// Positions that Llama 3 was first trained with.
const LLAMA3_ORIGINAL: usize = 8192;
/// The difference that rounding makes in a factor, relative to it.
const ROUNDING: f64 = 1e-5;

/// Reads it. What is wrong is noted.
pub(crate) fn read(
    keys: &Keys,
    architecture: &Architecture,
    tensors: &Tensors,
    head_dim: usize,
    context_length: usize,
) -> Rope {
    let theta = keys.number(&keys.own("rope.freq_base")).unwrap_or(1e4);
    let count = keys.own("rope.dimension_count");
    let rotary_dim = keys.size(&count).filter(|&n| n != head_dim);
    if let Some(n) = rotary_dim.filter(|_| !architecture.partial_rope) {
        keys.unsupported(&count, n, format!("the width of a head, {head_dim}"));
    }
    let rope = Rope { theta, rotary_dim, scaling: RopeScaling::Default {} };
    let scaling = scaling(keys, tensors, &rope, head_dim, context_length);
    Rope { scaling, ..rope }
}

fn scaling(keys: &Keys, tensors: &Tensors, rope: &Rope, head_dim: usize, context_length: usize) -> RopeScaling {
    let own = |name: &str| keys.own(&format!("rope.scaling.{name}"));
    let number = |name: &str| keys.number(&own(name));
    let original = keys.size(&own("original_context_length"));
    let attn_factor = number("attn_factor");
    let kind = keys.text(&own("type")).unwrap_or("none");
    // The oldest files have this key alone.
    let old = keys.number(&keys.own("rope.scale_linear")).filter(|&factor| factor != 1.0);
    let factor = number("factor").or(old);
    let required = |factor: Option<f64>| keys.required(&own("factor"), "a number", factor).unwrap_or(1.0);
    if let (Some(short), Some(long)) = (tensors.vector(SHORT), tensors.vector(LONG)) {
        let original_context = original.unwrap_or(context_length);
        let scale = context_length as f64 / original_context as f64;
        let usual =
            if scale <= 1.0 { 1.0 } else { libm::sqrt(1.0 + libm::log(scale) / libm::log(original_context as f64)) };
        // The file has it in 32 bits, with which the usual one is written too.
        let attention_factor = attn_factor.filter(|&x| x as f32 != usual as f32).unwrap_or(usual);
        let numbers = |all: Vec<f32>| all.into_iter().filter_map(crate::gguf::keys::shortest).collect();
        let (short_factor, long_factor) = (numbers(short), numbers(long));
        return RopeScaling::LongRope { short_factor, long_factor, original_context, attention_factor };
    }
    if let Some(factors) = tensors.vector(FREQS) {
        return frequencies(&factors, rope, head_dim, original, context_length);
    }
    if let Some(x) = attn_factor.filter(|&x| x != 1.0) {
        keys.unsupported(&own("attn_factor"), x, "1 where there are no factors");
    }
    match kind {
        "none" if old.is_none() => RopeScaling::Default {},
        "none" | "linear" => RopeScaling::Linear { factor: required(factor) },
        "yarn" => {
            let factor = required(factor);
            for (name, usual) in [("yarn_ext_factor", 1.0), ("yarn_attn_factor", 1.0)] {
                if let Some(x) = number(name).filter(|&x| x != usual) {
                    keys.unsupported(&own(name), x, format!("nothing or {usual}"));
                }
            }
            RopeScaling::Yarn {
                factor,
                original_context: original.unwrap_or(context_length),
                beta_fast: number("yarn_beta_fast").unwrap_or(32.0),
                beta_slow: number("yarn_beta_slow").unwrap_or(1.0),
                truncate: true,
                attention_factor: if factor <= 1.0 { 1.0 } else { 0.1 * libm::log(factor) + 1.0 },
            }
        }
        other => {
            keys.unsupported(&own("type"), other, "none, linear, yarn, or tensors of factors");
            RopeScaling::Default {}
        }
    }
}

/// The stretching that a factor for each frequency comes from.
fn frequencies(
    factors: &[f32],
    rope: &Rope,
    head_dim: usize,
    original: Option<usize>,
    context_length: usize,
) -> RopeScaling {
    if factors.iter().all(|&x| x == 1.0) {
        return RopeScaling::Default {};
    }
    let factor = f64::from(factors.iter().fold(0f32, |most, &x| most.max(x)));
    let (low, high) = (1.0, 4.0);
    // All models so far were first trained with a power of two.
    let powers = (4..24).map(|bits| 1 << bits);
    for original in original.into_iter().chain([LLAMA3_ORIGINAL]).chain(powers) {
        let expected = llama3(factor, low, high, original, rope.theta, head_dim);
        let near = |(a, b): (&f32, f64)| (f64::from(*a) - b).abs() <= ROUNDING * b;
        if expected.len() == factors.len() && factors.iter().zip(expected).all(near) {
            let (low_freq_factor, high_freq_factor, original_context) = (low, high, original);
            return RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context };
        }
    }
    let all: Vec<f64> = factors.iter().map(|&x| x.into()).collect();
    RopeScaling::LongRope {
        short_factor: all.clone(),
        long_factor: all,
        original_context: context_length,
        attention_factor: 1.0,
    }
}

/// Llama 3's factors: 1 for short waves, `factor` for long ones, blended between.
pub(super) fn llama3(factor: f64, low: f64, high: f64, original: usize, theta: f64, head_dim: usize) -> Vec<f64> {
    let original = original as f64;
    let waves =
        (0..head_dim / 2).map(|i| 2.0 * std::f64::consts::PI * libm::pow(theta, 2.0 * i as f64 / head_dim as f64));
    let one = |wave: f64| {
        if wave < original / high {
            1.0
        } else if wave > original / low {
            factor
        } else {
            let smooth = (original / wave - low) / (high - low);
            1.0 / ((1.0 - smooth) / factor + smooth)
        }
    };
    waves.map(one).collect()
}

/// Positions that a model can run: yarn stretches those of the first training by its factor.
pub(crate) fn stretched(rope: &Rope, context_length: usize) -> usize {
    match rope.scaling {
        // A factor out of range is noted elsewhere; this saturates.
        RopeScaling::Yarn { factor, original_context, .. } => {
            context_length.max((factor * original_context as f64) as usize)
        }
        _ => context_length,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rope(theta: f64) -> Rope {
        Rope { theta, rotary_dim: None, scaling: RopeScaling::Default {} }
    }

    #[test]
    fn factors_become_parameters_again() {
        for (factor, theta) in [(8.0, 5e5), (32.0, 5e5), (16.0, 1e6)] {
            let factors: Vec<f32> = llama3(factor, 1.0, 4.0, 8192, theta, 64).iter().map(|&x| x as f32).collect();
            let got = frequencies(&factors, &rope(theta), 64, None, 131_072);
            let (low_freq_factor, high_freq_factor, original_context) = (1.0, 4.0, 8192);
            assert_eq!(got, RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context });
        }
    }

    #[test]
    fn other_factors_stay_a_table() {
        let mut factors: Vec<f32> = llama3(8.0, 1.0, 4.0, 8192, 5e5, 64).iter().map(|&x| x as f32).collect();
        factors[3] = 1.5;
        let RopeScaling::LongRope { short_factor, long_factor, attention_factor, .. } =
            frequencies(&factors, &rope(5e5), 64, None, 131_072)
        else {
            panic!("no table")
        };
        assert!(short_factor == long_factor && short_factor[3] == 1.5 && attention_factor == 1.0);
        assert_eq!(frequencies(&[1.0; 32], &rope(5e5), 64, None, 8192), RopeScaling::Default {});
    }
}
