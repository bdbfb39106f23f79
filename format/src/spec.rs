//! The model as data: numbers and switches. No model family is named here.

mod check;
mod rope;

pub use rope::{Rope, RopeScaling};

use serde::{Deserialize, Serialize};

/// Everything about a model except its weights. A runtime implements the switches; it never asks which family it runs.
///
/// In a file it is one JSON object with these fields, in this order; those from `pre_norm` on are omitted at their
/// default, which is Llama's. A reader refuses unknown fields: a switch it cannot honour would change the model's
/// answers.
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
    /// The gate's activation function.
    pub activation: Activation,
    /// q, k and v have biases.
    pub qkv_bias: bool,
    /// The attention's output projection has a bias.
    pub attn_out_bias: bool,
    /// gate, up and down have biases.
    pub mlp_bias: bool,
    /// The head is the embedding: `lm_head.weight` is an alias of `embed.weight`.
    pub tied_lm_head: bool,
    /// There is a norm before each block.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub pre_norm: bool,
    /// There is a norm after each block, before its output is added to the residual stream.
    #[serde(default, skip_serializing_if = "is_default")]
    pub post_norm: bool,
    /// Norms of queries and keys, before RoPE.
    #[serde(default, skip_serializing_if = "is_default")]
    pub qk_norm: QkNorm,
    /// Layers whose attention sees a window of positions; None if every layer sees all positions.
    #[serde(default, skip_serializing_if = "is_default")]
    pub window: Option<Window>,
    /// Layers without rotary embedding, ascending.
    #[serde(default, skip_serializing_if = "is_default")]
    pub no_rope_layers: Vec<usize>,
    /// Multiplies the dot products of queries and keys; None means `1 / sqrt(head_dim)`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub attn_scale: Option<f64>,
    /// Scaled attention scores become `cap * tanh(score / cap)`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub attn_softcap: Option<f64>,
    /// Logits become `cap * tanh(logit / cap)`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub logit_softcap: Option<f64>,
    /// Multiplies the embedding of a token.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub embed_scale: f64,
    /// Multiplies what a block adds to the residual stream.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub residual_scale: f64,
    /// Divides the logits.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub logit_divisor: f64,
}

fn yes() -> bool {
    true
}

fn is_yes(x: &bool) -> bool {
    *x
}

fn one() -> f64 {
    1.0
}

fn is_one(x: &f64) -> bool {
    *x == 1.0
}

fn is_default<T: Default + PartialEq>(x: &T) -> bool {
    *x == T::default()
}

/// Norms of queries and keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QkNorm {
    /// No norms.
    #[default]
    None,
    /// Each head by itself; the weight is `[head_dim]`, the same for all heads.
    Head,
    /// All heads as one vector; the weights are `[n_heads * head_dim]` and `[n_kv_heads * head_dim]`.
    Projection,
}

/// The kind of a layer: two blocks, each of which adds to the residual stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerKind {
    /// The block by which a token sees other tokens.
    pub mixer: MixerKind,
    /// The block that each token passes by itself.
    pub feed_forward: FeedForwardKind,
}

/// The block by which a token sees other tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MixerKind {
    /// Softmax attention over keys and values.
    Attention,
}

/// The block that each token passes by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeedForwardKind {
    /// `down(activation(gate x) * up x)`.
    Gated {
        /// Rows of gate and up.
        intermediate_size: usize,
    },
}

/// Attention to the last positions only.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// Positions that a token sees, its own included.
    pub size: usize,
    /// The layers that have it, ascending.
    pub layers: Vec<usize>,
    /// Their rotary embedding, if it differs from the other layers'.
    #[serde(default, skip_serializing_if = "is_default")]
    pub rope: Option<Rope>,
}

/// The gate's activation function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `x / (1 + exp(-x))`.
    Silu,
    /// `x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))`.
    GeluTanh,
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
            rope: Rope { theta: 10000.0, rotary_dim: None, scaling: RopeScaling::Default {} },
            activation: Activation::Silu,
            qkv_bias: false,
            attn_out_bias: false,
            mlp_bias: false,
            tied_lm_head: false,
            pre_norm: true,
            post_norm: false,
            qk_norm: QkNorm::None,
            window: None,
            no_rope_layers: Vec::new(),
            attn_scale: None,
            attn_softcap: None,
            logit_softcap: None,
            embed_scale: 1.0,
            residual_scale: 1.0,
            logit_divisor: 1.0,
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

    /// The kind of layer `layer`. Code that goes through the layers asks this, not the fields above.
    pub fn layer(&self, _layer: usize) -> LayerKind {
        let feed_forward = FeedForwardKind::Gated { intermediate_size: self.intermediate_size };
        LayerKind { mixer: MixerKind::Attention, feed_forward }
    }

    /// The largest intermediate size of any layer.
    pub fn widest_feed_forward(&self) -> usize {
        let widths = (0..self.n_layers).map(|layer| match self.layer(layer).feed_forward {
            FeedForwardKind::Gated { intermediate_size } => intermediate_size,
        });
        widths.max().unwrap_or_default()
    }

    /// The window of layer `layer`, if it has one.
    pub fn window_of(&self, layer: usize) -> Option<&Window> {
        self.window.as_ref().filter(|w| w.layers.binary_search(&layer).is_ok())
    }

    /// The rotary embedding of layer `layer`, if it has one.
    pub fn rope_of(&self, layer: usize) -> Option<&Rope> {
        let local = self.window_of(layer).and_then(|w| w.rope.as_ref());
        self.no_rope_layers.binary_search(&layer).is_err().then(|| local.unwrap_or(&self.rope))
    }
}
