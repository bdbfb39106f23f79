//! The model as data: numbers and switches. No family has a name here.

use crate::error::{FormatError, Result};
use serde::{Deserialize, Serialize};

/// Everything about a model but its weights. A runtime implements the switches; it never asks which family it runs.
///
/// In a file it is one JSON object with exactly these fields, written in this order. A reader refuses a field that it
/// does not know: a switch it cannot honour would change the model's answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSpec {
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width inside the feed-forward block.
    pub intermediate_size: usize,
    /// Number of layers.
    pub n_layers: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads; divides `n_heads`.
    pub n_kv_heads: usize,
    /// Width of one head; even.
    pub head_dim: usize,
    /// Rows of the embedding and of the head.
    pub vocab_size: usize,
    /// Positions the model was made for.
    pub context_length: usize,
    /// Added to the mean square before its root is taken.
    pub norm_eps: f64,
    /// Rotary position embedding.
    pub rope: Rope,
    /// What stands between gate and up.
    pub activation: Activation,
    /// q, k and v have biases.
    pub qkv_bias: bool,
    /// The attention's output projection has a bias.
    pub attn_out_bias: bool,
    /// gate, up and down have biases.
    pub mlp_bias: bool,
    /// The head is the embedding: `lm_head.weight` is an alias of `embed.weight`.
    pub tied_lm_head: bool,
}

/// Rotary position embedding: pair `j` of a head (elements `j` and `j + head_dim/2`) turns by
/// `position * theta^(-2j/head_dim)`, after scaling.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rope {
    /// Base of the frequencies.
    pub theta: f64,
    /// How frequencies are stretched for longer contexts.
    pub scaling: RopeScaling,
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
}

/// The gate's activation function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `x / (1 + exp(-x))`.
    Silu,
}

impl Default for ModelSpec {
    /// Llama's switches with the smallest sizes; a base for struct updates.
    fn default() -> Self {
        ModelSpec {
            hidden_size: 2,
            intermediate_size: 2,
            n_layers: 1,
            n_heads: 1,
            n_kv_heads: 1,
            head_dim: 2,
            vocab_size: 2,
            context_length: 2048,
            norm_eps: 1e-5,
            rope: Rope { theta: 10000.0, scaling: RopeScaling::Default {} },
            activation: Activation::Silu,
            qkv_bias: false,
            attn_out_bias: false,
            mlp_bias: false,
            tied_lm_head: false,
        }
    }
}

impl ModelSpec {
    /// Width of all query heads together.
    pub fn q_size(&self) -> usize {
        self.n_heads * self.head_dim
    }

    /// Width of all key heads together, and of all value heads.
    pub fn kv_size(&self) -> usize {
        self.n_kv_heads * self.head_dim
    }

    /// Checks every number and what they must be to each other.
    ///
    /// # Errors
    /// [`FormatError::Spec`] for the first that is out of range. After Ok no product of two sizes overflows.
    pub fn check(&self) -> Result<()> {
        // Far above any model, and low enough that products of two sizes and eight bytes fit 64 bits.
        const MAX: usize = 1 << 28;
        let bad = |field, got: &dyn ToString, expected: &str| {
            Err(FormatError::Spec { field, got: got.to_string(), expected: expected.to_string() })
        };
        for (field, value, max) in [
            ("hidden_size", self.hidden_size, MAX),
            ("intermediate_size", self.intermediate_size, MAX),
            ("n_layers", self.n_layers, 1 << 16),
            ("n_heads", self.n_heads, 1 << 16),
            ("n_kv_heads", self.n_kv_heads, 1 << 16),
            ("head_dim", self.head_dim, 1 << 12),
            ("vocab_size", self.vocab_size, MAX),
            ("context_length", self.context_length, MAX),
        ] {
            if value == 0 || value > max {
                return bad(field, &value, &format!("1..={max}"));
            }
        }
        if !self.n_heads.is_multiple_of(self.n_kv_heads) {
            return bad("n_kv_heads", &self.n_kv_heads, &format!("a divisor of n_heads, {}", self.n_heads));
        }
        if !self.head_dim.is_multiple_of(2) {
            return bad("head_dim", &self.head_dim, "an even number");
        }
        let positive = |field, x: f64| {
            let fine = x.is_finite() && x > 0.0;
            if fine { Ok(()) } else { bad(field, &x, "a finite number above 0") }
        };
        if !(self.norm_eps.is_finite() && (0.0..1.0).contains(&self.norm_eps)) {
            return bad("norm_eps", &self.norm_eps, "0 or more and below 1");
        }
        positive("rope.theta", self.rope.theta)?;
        match self.rope.scaling {
            RopeScaling::Default {} => {}
            RopeScaling::Linear { factor } => positive("rope.scaling.factor", factor)?,
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
                positive("rope.scaling.factor", factor)?;
                positive("rope.scaling.low_freq_factor", low_freq_factor)?;
                positive("rope.scaling.high_freq_factor", high_freq_factor)?;
                if high_freq_factor <= low_freq_factor {
                    let above = format!("above low_freq_factor, {low_freq_factor}");
                    return bad("rope.scaling.high_freq_factor", &high_freq_factor, &above);
                }
                if original_context == 0 || original_context > MAX {
                    return bad("rope.scaling.original_context", &original_context, &format!("1..={MAX}"));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(spec: ModelSpec) -> &'static str {
        match spec.check() {
            Err(FormatError::Spec { field, .. }) => field,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn each_number_is_checked() {
        let base = ModelSpec::default;
        assert!(base().check().is_ok());
        assert_eq!(field(ModelSpec { hidden_size: 0, ..base() }), "hidden_size");
        assert_eq!(field(ModelSpec { vocab_size: 1 << 40, ..base() }), "vocab_size");
        assert_eq!(field(ModelSpec { n_heads: 3, n_kv_heads: 2, ..base() }), "n_kv_heads");
        assert_eq!(field(ModelSpec { head_dim: 5, ..base() }), "head_dim");
        assert_eq!(field(ModelSpec { norm_eps: -1e-5, ..base() }), "norm_eps");
        let rope = |theta, scaling| ModelSpec { rope: Rope { theta, scaling }, ..base() };
        assert_eq!(field(rope(f64::NAN, RopeScaling::Default {})), "rope.theta");
        assert_eq!(field(rope(1e4, RopeScaling::Linear { factor: 0.0 })), "rope.scaling.factor");
        let llama3 = |low_freq_factor, high_freq_factor, original_context| {
            rope(1e4, RopeScaling::Llama3 { factor: 8.0, low_freq_factor, high_freq_factor, original_context })
        };
        assert_eq!(field(llama3(4.0, 1.0, 8192)), "rope.scaling.high_freq_factor");
        assert_eq!(field(llama3(1.0, 4.0, 0)), "rope.scaling.original_context");
    }

    #[test]
    fn an_unknown_switch_is_refused() {
        let mut json = serde_json::to_value(ModelSpec::default()).unwrap();
        json["window"] = 4096.into();
        assert!(serde_json::from_value::<ModelSpec>(json).unwrap_err().to_string().contains("window"));
    }
}
