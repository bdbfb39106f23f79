//! Checks a spec's numbers, each alone and against the others.

use super::{ModelSpec, Rope, RopeScaling};
use crate::error::{FormatError, Result};

/// Far above any model, and low enough that the product of two sizes and 8 fits in 64 bits.
const MAX: usize = 1 << 28;

fn bad(field: &'static str, got: &dyn ToString, expected: &str) -> Result<()> {
    Err(FormatError::Spec { field, got: got.to_string(), expected: expected.to_string() })
}

fn positive(field: &'static str, x: f64) -> Result<()> {
    if x.is_finite() && x > 0.0 { Ok(()) } else { bad(field, &x, "a finite number above 0") }
}

fn size(field: &'static str, value: usize, max: usize) -> Result<()> {
    if value == 0 || value > max { bad(field, &value, &format!("1..={max}")) } else { Ok(()) }
}

impl ModelSpec {
    /// Checks every number and the relations between them.
    ///
    /// # Errors
    /// [`FormatError::Spec`] for the first that is out of range. After Ok no product of two sizes overflows.
    pub fn check(&self) -> Result<()> {
        size("hidden_size", self.hidden_size, MAX)?;
        size("intermediate_size", self.intermediate_size, MAX)?;
        size("n_layers", self.n_layers, 1 << 16)?;
        size("n_heads", self.n_heads, 1 << 16)?;
        size("n_kv_heads", self.n_kv_heads, 1 << 16)?;
        size("head_dim", self.head_dim, 1 << 12)?;
        size("vocab_size", self.vocab_size, MAX)?;
        size("context_length", self.context_length, MAX)?;
        if !self.n_heads.is_multiple_of(self.n_kv_heads) {
            return bad("n_kv_heads", &self.n_kv_heads, &format!("a divisor of n_heads, {}", self.n_heads));
        }
        if !self.head_dim.is_multiple_of(2) {
            return bad("head_dim", &self.head_dim, "an even number");
        }
        if !(self.norm_eps.is_finite() && (0.0..1.0).contains(&self.norm_eps)) {
            return bad("norm_eps", &self.norm_eps, "0 or more and below 1");
        }
        self.rope.check(self.head_dim)?;
        if !self.pre_norm && !self.post_norm {
            return bad("pre_norm", &false, "true where post_norm is false: a block needs a norm");
        }
        if let Some(window) = &self.window {
            size("window.size", window.size, MAX)?;
            layers("window.layers", &window.layers, self.n_layers)?;
            if window.layers.is_empty() {
                return bad("window.layers", &"none", "one layer at least");
            }
            window.rope.as_ref().map_or(Ok(()), |rope| rope.check(self.head_dim))?;
        }
        layers("no_rope_layers", &self.no_rope_layers, self.n_layers)?;
        for (field, value) in [
            ("attn_scale", self.attn_scale),
            ("attn_softcap", self.attn_softcap),
            ("logit_softcap", self.logit_softcap),
            ("embed_scale", Some(self.embed_scale)),
            ("residual_scale", Some(self.residual_scale)),
            ("logit_divisor", Some(self.logit_divisor)),
        ] {
            value.map_or(Ok(()), |x| positive(field, x))?;
            if value.is_some_and(|x| !f32_normal(x)) {
                return bad(field, &value.unwrap_or_default(), "a number that f32 holds");
            }
        }
        Ok(())
    }
}

/// Whether `x` is a normal number as f32, which is how kernels take it.
fn f32_normal(x: f64) -> bool {
    (x as f32).is_normal()
}

/// Checks a list of layers: ascending, each once, each below `n_layers`.
fn layers(field: &'static str, list: &[usize], n_layers: usize) -> Result<()> {
    if let Some(pair) = list.windows(2).find(|pair| pair[0] >= pair[1]) {
        return bad(field, &format!("{} before {}", pair[0], pair[1]), "ascending layers");
    }
    match list.last() {
        Some(&last) if last >= n_layers => bad(field, &last, &format!("below n_layers, {n_layers}")),
        _ => Ok(()),
    }
}

impl Rope {
    fn check(&self, head_dim: usize) -> Result<()> {
        positive("rope.theta", self.theta)?;
        if let Some(dim) = self.rotary_dim
            && (dim == 0 || dim > head_dim || !dim.is_multiple_of(2))
        {
            return bad("rope.rotary_dim", &dim, &format!("an even number, 2 to head_dim, {head_dim}"));
        }
        let dim = self.rotary_dim(head_dim);
        let original = |n| size("rope.scaling.original_context", n, MAX);
        match &self.scaling {
            RopeScaling::Default {} => Ok(()),
            RopeScaling::Linear { factor } => positive("rope.scaling.factor", *factor),
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
                positive("rope.scaling.factor", *factor)?;
                positive("rope.scaling.low_freq_factor", *low_freq_factor)?;
                positive("rope.scaling.high_freq_factor", *high_freq_factor)?;
                if high_freq_factor <= low_freq_factor {
                    let above = format!("above low_freq_factor, {low_freq_factor}");
                    return bad("rope.scaling.high_freq_factor", high_freq_factor, &above);
                }
                original(*original_context)
            }
            RopeScaling::Yarn { factor, original_context, beta_fast, beta_slow, attention_factor, .. } => {
                positive("rope.scaling.factor", *factor)?;
                positive("rope.scaling.beta_fast", *beta_fast)?;
                positive("rope.scaling.beta_slow", *beta_slow)?;
                positive("rope.scaling.attention_factor", *attention_factor)?;
                // The bounds of the blend are logarithms to this base.
                if self.theta == 1.0 {
                    return bad("rope.theta", &self.theta, "another number than 1 where scaling is yarn");
                }
                original(*original_context)
            }
            RopeScaling::Dynamic { factor, original_context } => {
                positive("rope.scaling.factor", *factor)?;
                if *factor < 1.0 {
                    return bad("rope.scaling.factor", factor, "1 or more");
                }
                if dim == 2 {
                    return bad("rope.rotary_dim", &dim, "4 or more where scaling is dynamic");
                }
                original(*original_context)
            }
            RopeScaling::LongRope { short_factor, long_factor, original_context, attention_factor } => {
                for (field, factors) in
                    [("rope.scaling.short_factor", short_factor), ("rope.scaling.long_factor", long_factor)]
                {
                    if factors.len() != dim / 2 {
                        return bad(field, &format!("{} numbers", factors.len()), &format!("{}", dim / 2));
                    }
                    factors.iter().try_for_each(|&x| positive(field, x))?;
                }
                positive("rope.scaling.attention_factor", *attention_factor)?;
                original(*original_context)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{QkNorm, Window};
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
        let rope = |theta, scaling| ModelSpec { rope: Rope { theta, rotary_dim: None, scaling }, ..base() };
        assert_eq!(field(rope(f64::NAN, RopeScaling::Default {})), "rope.theta");
        assert_eq!(field(rope(1e4, RopeScaling::Linear { factor: 0.0 })), "rope.scaling.factor");
        let llama3 = |low_freq_factor, high_freq_factor, original_context| {
            rope(1e4, RopeScaling::Llama3 { factor: 8.0, low_freq_factor, high_freq_factor, original_context })
        };
        assert_eq!(field(llama3(4.0, 1.0, 8192)), "rope.scaling.high_freq_factor");
        assert_eq!(field(llama3(1.0, 4.0, 0)), "rope.scaling.original_context");
    }

    #[test]
    fn switches_are_checked() {
        let base = || ModelSpec { n_layers: 4, head_dim: 8, ..ModelSpec::default() };
        let window = |size, layers: &[usize]| ModelSpec {
            window: Some(Window { size, layers: layers.to_vec(), rope: None }),
            ..base()
        };
        assert!(window(1, &[0, 3]).check().is_ok());
        assert_eq!(field(window(0, &[0])), "window.size");
        for layers in [&[][..], &[4], &[1, 1], &[2, 0]] {
            assert_eq!(field(window(5, layers)), "window.layers");
        }
        assert_eq!(field(ModelSpec { no_rope_layers: vec![4], ..base() }), "no_rope_layers");
        assert_eq!(field(ModelSpec { pre_norm: false, ..base() }), "pre_norm");
        assert!(ModelSpec { pre_norm: false, post_norm: true, qk_norm: QkNorm::Head, ..base() }.check().is_ok());
        for x in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e-50, 1e50] {
            assert_eq!(field(ModelSpec { attn_scale: Some(x), ..base() }), "attn_scale");
            assert_eq!(field(ModelSpec { attn_softcap: Some(x), ..base() }), "attn_softcap");
            assert_eq!(field(ModelSpec { logit_softcap: Some(x), ..base() }), "logit_softcap");
            assert_eq!(field(ModelSpec { embed_scale: x, ..base() }), "embed_scale");
            assert_eq!(field(ModelSpec { residual_scale: x, ..base() }), "residual_scale");
            assert_eq!(field(ModelSpec { logit_divisor: x, ..base() }), "logit_divisor");
        }
        let rope = |rotary_dim, scaling| ModelSpec { rope: Rope { theta: 1e4, rotary_dim, scaling }, ..base() };
        for dim in [0, 3, 10] {
            assert_eq!(field(rope(Some(dim), RopeScaling::Default {})), "rope.rotary_dim");
        }
        let dynamic = |factor| RopeScaling::Dynamic { factor, original_context: 9 };
        assert!(rope(Some(4), dynamic(1.0)).check().is_ok());
        assert_eq!(field(rope(Some(2), dynamic(1.0))), "rope.rotary_dim");
        assert_eq!(field(rope(None, dynamic(0.5))), "rope.scaling.factor");
        let long = |short: &[f64], long: &[f64]| RopeScaling::LongRope {
            short_factor: short.to_vec(),
            long_factor: long.to_vec(),
            original_context: 9,
            attention_factor: 1.0,
        };
        assert!(rope(Some(4), long(&[1.0, 2.0], &[1.0, 3.0])).check().is_ok());
        assert_eq!(field(rope(Some(4), long(&[1.0], &[1.0, 3.0]))), "rope.scaling.short_factor");
        assert_eq!(field(rope(Some(4), long(&[1.0, 2.0], &[1.0, 0.0]))), "rope.scaling.long_factor");
    }

    /// A spec from before the switches is read and written unchanged.
    #[test]
    fn defaults_are_left_out() {
        let json = serde_json::to_string(&ModelSpec::default()).unwrap();
        assert!(json.ends_with(r#""mlp_bias":false,"tied_lm_head":false}"#) && !json.contains("rotary_dim"), "{json}");
        assert_eq!(serde_json::from_str::<ModelSpec>(&json).unwrap(), ModelSpec::default());
    }

    #[test]
    fn an_unknown_switch_is_refused() {
        let mut json = serde_json::to_value(ModelSpec::default()).unwrap();
        json["windows"] = 4096.into();
        assert!(serde_json::from_value::<ModelSpec>(json).unwrap_err().to_string().contains("windows"));
    }
}
