//! The operation that makes each component of the ladder, and its inputs: the forward pass as a table.

use crate::error::{Result, RuntimeError};
use nanoserve_format::schema::{FINAL_NORM, LM_HEAD, Part};
use nanoserve_format::{ModelSpec, QkNorm};

/// The residual stream at the beginning of a layer. It is the only result with two names: `embed` and `out`.
pub const STREAM: &str = "x";

/// The operation that makes a component. Inputs are slots: names without the layer.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// Rows of the embedding.
    Embed,
    /// A norm with this weight.
    Norm { weight: String, input: &'static str },
    /// A matrix with its bias.
    Linear { weight: String, bias: String, input: &'static str },
    /// RoPE, if the layer has it. `weight`, `bias` and `input` are the matrix that made the queries or keys.
    Rope { plain: &'static str, weight: String, bias: String, input: &'static str },
    /// Attention over the KV cache.
    Attention,
    /// The residual sum.
    Add { a: &'static str, b: &'static str },
    /// `activation(gate) * up`, with both matrices.
    Gate { gate: String, up: String, input: &'static str },
    /// The head, scaled and capped.
    Head,
}

/// A component of the ladder.
#[derive(Clone, Debug, PartialEq)]
pub struct Component {
    /// `layers.3.`, or nothing.
    pub prefix: String,
    /// The layer; 0 if it is in none.
    pub layer: usize,
    /// The name under which later operations find its rows.
    pub slot: &'static str,
    /// What makes it.
    pub op: Op,
}

impl Component {
    /// The component with this name in a model's forward pass.
    ///
    /// # Errors
    /// When this table does not know the name, because it was added to the forward pass only.
    pub fn of(spec: &ModelSpec, name: &str) -> Result<Component> {
        let unknown = || RuntimeError::UnknownComponent { name: name.to_string() };
        let rest = name.strip_prefix("layers.").and_then(|rest| rest.split_once('.'));
        let (layer, part) = match rest {
            Some((i, part)) => (i.parse().map_err(|_| unknown())?, part),
            None => (0, name),
        };
        let linear = |p: Part, input| Op::Linear { weight: p.weight(layer), bias: p.bias(layer), input };
        let (block, mlp) = if spec.pre_norm { ("attn_norm", "mlp_norm") } else { (STREAM, "mid") };
        let rope = |p: Part, plain: &'static str, norm: &'static str| {
            let plain = if spec.qk_norm == QkNorm::None { plain } else { norm };
            Op::Rope { plain, weight: p.weight(layer), bias: p.bias(layer), input: block }
        };
        let block_output = |out, norm| if spec.post_norm { norm } else { out };
        let norm = |weight, input| Op::Norm { weight, input };
        let (slot, op) = match part {
            "embed" => (STREAM, Op::Embed),
            "attn_norm" => ("attn_norm", norm(Part::AttnNorm.weight(layer), STREAM)),
            "attn.q_plain" => ("attn.q_plain", linear(Part::Q, block)),
            "attn.k_plain" => ("attn.k_plain", linear(Part::K, block)),
            "attn.q_norm" => ("attn.q_norm", norm(Part::QNorm.weight(layer), "attn.q_plain")),
            "attn.k_norm" => ("attn.k_norm", norm(Part::KNorm.weight(layer), "attn.k_plain")),
            "attn.q" => ("attn.q", rope(Part::Q, "attn.q_plain", "attn.q_norm")),
            "attn.k" => ("attn.k", rope(Part::K, "attn.k_plain", "attn.k_norm")),
            "attn.v" => ("attn.v", linear(Part::V, block)),
            "attn.mix" => ("attn.mix", Op::Attention),
            "attn.out" => ("attn.out", linear(Part::O, "attn.mix")),
            "attn_post_norm" => ("attn_post_norm", norm(Part::AttnPostNorm.weight(layer), "attn.out")),
            "mid" => ("mid", Op::Add { a: STREAM, b: block_output("attn.out", "attn_post_norm") }),
            "mlp_norm" => ("mlp_norm", norm(Part::MlpNorm.weight(layer), "mid")),
            "mlp.gate" => ("mlp.gate", linear(Part::Gate, mlp)),
            "mlp.up" => ("mlp.up", linear(Part::Up, mlp)),
            "mlp.gated" => {
                let (gate, up) = (Part::Gate.weight(layer), Part::Up.weight(layer));
                ("mlp.gated", Op::Gate { gate, up, input: mlp })
            }
            "mlp.out" => ("mlp.out", linear(Part::Down, "mlp.gated")),
            "mlp_post_norm" => ("mlp_post_norm", norm(Part::MlpPostNorm.weight(layer), "mlp.out")),
            "out" => (STREAM, Op::Add { a: "mid", b: block_output("mlp.out", "mlp_post_norm") }),
            "final_norm" => ("final_norm", norm(FINAL_NORM.to_string(), STREAM)),
            "logits" => ("logits", Op::Head),
            _ => return Err(unknown()),
        };
        let prefix = if rest.is_some() { format!("layers.{layer}.") } else { String::new() };
        Ok(Component { prefix, layer, slot, op })
    }

    /// The switch that adds a component to a model; None if every model has the component, or none has.
    pub fn switch(name: &str) -> Option<&'static str> {
        match name.strip_prefix("layers.")?.split_once('.')?.1 {
            "attn_norm" | "mlp_norm" => Some("pre_norm"),
            "attn.q_norm" | "attn.k_norm" => Some("qk_norm"),
            "attn_post_norm" | "mlp_post_norm" => Some("post_norm"),
            _ => None,
        }
    }

    /// The name of the matrix that makes it.
    pub fn weight(&self) -> Option<&str> {
        match &self.op {
            Op::Linear { weight, .. } | Op::Rope { weight, .. } => Some(weight),
            Op::Head => Some(LM_HEAD),
            _ => None,
        }
    }

    /// The slots of its inputs.
    pub fn inputs(&self) -> Vec<&'static str> {
        match &self.op {
            Op::Embed => vec![],
            Op::Norm { input, .. } | Op::Linear { input, .. } => vec![input],
            Op::Rope { plain, .. } => vec![plain],
            Op::Attention => vec!["attn.q", "attn.k", "attn.v"],
            Op::Add { a, b } => vec![a, b],
            Op::Gate { input, .. } => vec![input],
            Op::Head => vec!["final_norm"],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nanoserve_format::ErrorKind;

    #[test]
    fn an_unknown_name_is_an_error() {
        let spec = ModelSpec::default();
        for name in ["", "attn", "layers.0.attn.gate", "layers.x.out", "layers..out", "layers.0", "logits.more"] {
            let error = Component::of(&spec, name).unwrap_err();
            assert!(matches!(&error, RuntimeError::UnknownComponent { name: got } if got == name), "{error}");
            assert_eq!(error.kind(), ErrorKind::Machine);
        }
        assert_eq!(Component::of(&spec, "layers.3.out").unwrap().layer, 3);
    }
}
