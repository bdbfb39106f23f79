//! What makes each component of the ladder, and from what. The forward pass in the form of a table.

use nanoserve_format::schema::{FINAL_NORM, LM_HEAD, Part};

/// The residual stream at a layer's begin; the only result that has two names, `embed` and `out`.
pub const STREAM: &str = "x";

/// The operation that makes a component. Inputs are slots: names without their layer.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// Rows of the embedding.
    Embed,
    /// A norm with this weight.
    Norm { weight: String, input: &'static str },
    /// A matrix with its bias.
    Linear { weight: String, bias: String, input: &'static str },
    /// Rotary positions; the matrix and its input are those that made `plain`.
    Rope { plain: &'static str, weight: String, bias: String, input: &'static str },
    /// Attention over the cache.
    Attention,
    /// The residual sum.
    Add { a: &'static str, b: &'static str },
    /// `silu(gate) * up`, with both matrices.
    Gate { gate: String, up: String },
}

/// A component of the ladder.
#[derive(Clone, Debug, PartialEq)]
pub struct Component {
    /// `layers.3.`, or nothing.
    pub prefix: String,
    /// Where its rows are looked for by what follows.
    pub slot: &'static str,
    /// What makes it.
    pub op: Op,
}

impl Component {
    /// The component of that name.
    ///
    /// # Panics
    /// When the forward pass has none: a name was added there and not here.
    pub fn of(name: &str) -> Component {
        let rest = name.strip_prefix("layers.").and_then(|rest| rest.split_once('.'));
        let (layer, part) = rest.map_or((0, name), |(i, part)| (i.parse().expect("a layer's number"), part));
        let linear = |p: Part, input| Op::Linear { weight: p.weight(layer), bias: p.bias(layer), input };
        let rope =
            |p: Part, plain| Op::Rope { plain, weight: p.weight(layer), bias: p.bias(layer), input: "attn_norm" };
        let norm = |weight, input| Op::Norm { weight, input };
        let (slot, op) = match part {
            "embed" => (STREAM, Op::Embed),
            "attn_norm" => ("attn_norm", norm(Part::AttnNorm.weight(layer), STREAM)),
            "attn.q_plain" => ("attn.q_plain", linear(Part::Q, "attn_norm")),
            "attn.k_plain" => ("attn.k_plain", linear(Part::K, "attn_norm")),
            "attn.q" => ("attn.q", rope(Part::Q, "attn.q_plain")),
            "attn.k" => ("attn.k", rope(Part::K, "attn.k_plain")),
            "attn.v" => ("attn.v", linear(Part::V, "attn_norm")),
            "attn.mix" => ("attn.mix", Op::Attention),
            "attn.out" => ("attn.out", linear(Part::O, "attn.mix")),
            "mid" => ("mid", Op::Add { a: STREAM, b: "attn.out" }),
            "mlp_norm" => ("mlp_norm", norm(Part::MlpNorm.weight(layer), "mid")),
            "mlp.gate" => ("mlp.gate", linear(Part::Gate, "mlp_norm")),
            "mlp.up" => ("mlp.up", linear(Part::Up, "mlp_norm")),
            "mlp.gated" => ("mlp.gated", Op::Gate { gate: Part::Gate.weight(layer), up: Part::Up.weight(layer) }),
            "mlp.out" => ("mlp.out", linear(Part::Down, "mlp.gated")),
            "out" => (STREAM, Op::Add { a: "mid", b: "mlp.out" }),
            "final_norm" => ("final_norm", norm(FINAL_NORM.to_string(), STREAM)),
            "logits" => ("logits", Op::Linear { weight: LM_HEAD.into(), bias: String::new(), input: "final_norm" }),
            other => unreachable!("'{other}' is no component of the ladder"),
        };
        let prefix = if rest.is_some() { format!("layers.{layer}.") } else { String::new() };
        Component { prefix, slot, op }
    }

    /// The slots that it is made from.
    pub fn inputs(&self) -> Vec<&'static str> {
        match &self.op {
            Op::Embed => vec![],
            Op::Norm { input, .. } | Op::Linear { input, .. } => vec![input],
            Op::Rope { plain, .. } => vec![plain],
            Op::Attention => vec!["attn.q", "attn.k", "attn.v"],
            Op::Add { a, b } => vec![a, b],
            Op::Gate { .. } => vec!["mlp_norm"],
        }
    }
}
