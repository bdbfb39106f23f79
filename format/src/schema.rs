//! The name and shape of each tensor of a model, derived from its numbers. Only this module spells tensor names.
//!
//! The order is the order in a file: embedding, layers, final norm, head.

use crate::encoding::Shape;
use crate::spec::{FeedForwardKind, LayerKind, MixerKind, ModelSpec, QkNorm};

/// Name of the embedding matrix `[vocab_size, hidden_size]`.
pub const EMBED: &str = "embed.weight";
/// Name of the last norm's weight `[hidden_size]`.
pub const FINAL_NORM: &str = "final_norm.weight";
/// Name of the head `[vocab_size, hidden_size]`.
pub const LM_HEAD: &str = "lm_head.weight";

/// What a tensor of a layer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// Norm before attention, `[hidden_size]`.
    AttnNorm,
    /// Query projection, `[n_heads * head_dim, hidden_size]`.
    Q,
    /// Key projection, `[n_kv_heads * head_dim, hidden_size]`.
    K,
    /// Value projection, `[n_kv_heads * head_dim, hidden_size]`.
    V,
    /// Attention's output projection, `[hidden_size, n_heads * head_dim]`.
    O,
    /// Norm before the feed-forward block, `[hidden_size]`.
    MlpNorm,
    /// Gate projection, `[intermediate_size, hidden_size]`.
    Gate,
    /// Up projection, `[intermediate_size, hidden_size]`.
    Up,
    /// Down projection, `[hidden_size, intermediate_size]`.
    Down,
    /// Norm of the queries before RoPE: `[head_dim]` or `[n_heads * head_dim]`.
    QNorm,
    /// Norm of the keys before RoPE: `[head_dim]` or `[n_kv_heads * head_dim]`.
    KNorm,
    /// Norm after attention, `[hidden_size]`.
    AttnPostNorm,
    /// Norm after the feed-forward block, `[hidden_size]`.
    MlpPostNorm,
}

impl Part {
    /// The parts of an attention block, in the file's order.
    const ATTENTION: [Part; 8] =
        [Part::AttnNorm, Part::Q, Part::K, Part::V, Part::QNorm, Part::KNorm, Part::O, Part::AttnPostNorm];

    /// The parts of a gated feed-forward block, in the file's order.
    const GATED: [Part; 5] = [Part::MlpNorm, Part::Gate, Part::Up, Part::Down, Part::MlpPostNorm];

    /// The parts that a layer of a model has, in the file's order.
    pub fn in_layer(spec: &ModelSpec, layer: usize) -> impl Iterator<Item = Part> {
        let LayerKind { mixer, feed_forward } = spec.layer(layer);
        let mixer: &[Part] = match mixer {
            MixerKind::Attention => &Part::ATTENTION,
        };
        let feed_forward: &[Part] = match feed_forward {
            FeedForwardKind::Gated { .. } => &Part::GATED,
        };
        mixer.iter().chain(feed_forward).copied().filter(|part| part.is_there(spec))
    }

    /// Whether the model has this part, in the layers that can have it.
    fn is_there(self, spec: &ModelSpec) -> bool {
        match self {
            Part::AttnNorm | Part::MlpNorm => spec.pre_norm,
            Part::AttnPostNorm | Part::MlpPostNorm => spec.post_norm,
            Part::QNorm | Part::KNorm => spec.qk_norm != QkNorm::None,
            Part::Q | Part::K | Part::V | Part::O | Part::Gate | Part::Up | Part::Down => true,
        }
    }

    fn stem(self) -> &'static str {
        match self {
            Part::AttnNorm => "attn_norm",
            Part::Q => "attn.q",
            Part::K => "attn.k",
            Part::V => "attn.v",
            Part::O => "attn.o",
            Part::MlpNorm => "mlp_norm",
            Part::Gate => "mlp.gate",
            Part::Up => "mlp.up",
            Part::Down => "mlp.down",
            Part::QNorm => "attn.q_norm",
            Part::KNorm => "attn.k_norm",
            Part::AttnPostNorm => "attn_post_norm",
            Part::MlpPostNorm => "mlp_post_norm",
        }
    }

    /// Name of this part's weight in layer `layer`.
    pub fn weight(self, layer: usize) -> String {
        format!("layers.{layer}.{}.weight", self.stem())
    }

    /// Name of this part's bias in layer `layer`.
    pub fn bias(self, layer: usize) -> String {
        format!("layers.{layer}.{}.bias", self.stem())
    }

    /// Shape of this part's weight in layer `layer`.
    pub fn shape(self, spec: &ModelSpec, layer: usize) -> Shape {
        let FeedForwardKind::Gated { intermediate_size: ff } = spec.layer(layer).feed_forward;
        let hidden = spec.hidden_size;
        match self {
            Part::AttnNorm | Part::MlpNorm | Part::AttnPostNorm | Part::MlpPostNorm => Shape::Vector(hidden),
            Part::QNorm | Part::KNorm if spec.qk_norm == QkNorm::Head => Shape::Vector(spec.head_dim),
            Part::QNorm => Shape::Vector(spec.q_size()),
            Part::KNorm => Shape::Vector(spec.kv_size()),
            Part::Q => Shape::Matrix(spec.q_size(), hidden),
            Part::K | Part::V => Shape::Matrix(spec.kv_size(), hidden),
            Part::O => Shape::Matrix(hidden, spec.q_size()),
            Part::Gate | Part::Up => Shape::Matrix(ff, hidden),
            Part::Down => Shape::Matrix(hidden, ff),
        }
    }

    /// The role of this part's weight; None for norms.
    pub fn role(self) -> Option<Role> {
        match self {
            Part::Q => Some(Role::Q),
            Part::K => Some(Role::K),
            Part::V => Some(Role::V),
            Part::O => Some(Role::O),
            Part::Gate => Some(Role::Gate),
            Part::Up => Some(Role::Up),
            Part::Down => Some(Role::Down),
            Part::AttnNorm | Part::MlpNorm | Part::AttnPostNorm | Part::MlpPostNorm | Part::QNorm | Part::KNorm => None,
        }
    }

    /// Whether the model has a bias for this part.
    pub fn has_bias(self, spec: &ModelSpec) -> bool {
        match self {
            Part::AttnNorm | Part::MlpNorm | Part::AttnPostNorm | Part::MlpPostNorm => false,
            Part::QNorm | Part::KNorm => false,
            Part::Q | Part::K | Part::V => spec.qkv_bias,
            Part::O => spec.attn_out_bias,
            Part::Gate | Part::Up | Part::Down => spec.mlp_bias,
        }
    }
}

/// What a matrix is for, which decides its encoding when a file is made. Norms and biases have no role and are f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// The embedding; in a tied model, also the head.
    Embedding,
    /// Query projections.
    Q,
    /// Key projections.
    K,
    /// Value projections.
    V,
    /// Attention's output projections.
    O,
    /// Gate projections.
    Gate,
    /// Up projections.
    Up,
    /// Down projections.
    Down,
    /// The head of an untied model.
    Head,
}

impl Role {
    /// Every role, in the file's order.
    pub const ALL: [Role; 9] =
        [Role::Embedding, Role::Q, Role::K, Role::V, Role::O, Role::Gate, Role::Up, Role::Down, Role::Head];

    /// The role of the tensor named `tensor`; None for norms, biases, and names of no tensor.
    pub fn of(tensor: &str) -> Option<Role> {
        match tensor {
            EMBED => return Some(Role::Embedding),
            LM_HEAD => return Some(Role::Head),
            _ => {}
        }
        let (_, stem) = tensor.strip_prefix("layers.")?.strip_suffix(".weight")?.split_once('.')?;
        Part::ATTENTION.into_iter().chain(Part::GATED).find(|part| part.stem() == stem)?.role()
    }

    /// Its name in recipes.
    pub fn name(self) -> &'static str {
        match self {
            Role::Embedding => "embedding",
            Role::Q => "q",
            Role::K => "k",
            Role::V => "v",
            Role::O => "o",
            Role::Gate => "gate",
            Role::Up => "up",
            Role::Down => "down",
            Role::Head => "head",
        }
    }
}

/// How many tensors a model has, aliases included.
pub fn count(spec: &ModelSpec) -> usize {
    let layer = |layer| Part::in_layer(spec, layer).map(|p| 1 + usize::from(p.has_bias(spec))).sum::<usize>();
    3 + (0..spec.n_layers).map(layer).sum::<usize>()
}

/// Name and shape of every tensor of a model, in the file's order.
pub fn tensors(spec: &ModelSpec) -> Vec<(String, Shape)> {
    let mut all = Vec::with_capacity(count(spec));
    all.push((EMBED.to_string(), Shape::Matrix(spec.vocab_size, spec.hidden_size)));
    for layer in 0..spec.n_layers {
        for part in Part::in_layer(spec, layer) {
            let shape = part.shape(spec, layer);
            all.push((part.weight(layer), shape));
            if part.has_bias(spec) {
                all.push((part.bias(layer), Shape::Vector(shape.dims()[0])));
            }
        }
    }
    all.push((FINAL_NORM.to_string(), Shape::Vector(spec.hidden_size)));
    all.push((LM_HEAD.to_string(), Shape::Matrix(spec.vocab_size, spec.hidden_size)));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llama_3_2_1b_has_147() {
        let spec = ModelSpec { n_layers: 16, tied_lm_head: true, ..ModelSpec::default() };
        assert_eq!((count(&spec), tensors(&spec).len()), (147, 147));
        let spec = ModelSpec { qkv_bias: true, mlp_bias: true, attn_out_bias: true, ..spec };
        assert_eq!((count(&spec), tensors(&spec).len()), (259, 259));
    }

    #[test]
    fn matrices_have_a_role_and_vectors_none() {
        let switches = ModelSpec { qkv_bias: true, mlp_bias: true, attn_out_bias: true, ..ModelSpec::default() };
        let spec = ModelSpec { n_layers: 2, qk_norm: QkNorm::Head, post_norm: true, ..switches };
        let mut roles = Vec::new();
        for (name, shape) in tensors(&spec) {
            let role = Role::of(&name);
            assert_eq!(role.is_some(), matches!(shape, Shape::Matrix(..)), "{name}");
            roles.extend(role.filter(|role| !roles.contains(role)));
        }
        assert_eq!(roles, Role::ALL);
        for name in ["", "layers.0", "layers.0.attn.q", "attn.q.weight", "layers.0.attn.x.weight"] {
            assert_eq!(Role::of(name), None, "{name}");
        }
    }
}
