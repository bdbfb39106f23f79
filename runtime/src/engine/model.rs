//! A model bound to a file: every tensor of the schema found once, by its canonical name.

use crate::backend::{Attention, Backend, Linear};
use crate::error::Result;
use nanoserve_format::schema::{self, Part};
use nanoserve_format::{FeedForwardKind, MixerKind, ModelSpec, NsvFile, QkNorm, Rope, Shape};
use std::sync::Arc;

/// All weights of a model, where the backend's kernels can read them.
#[derive(Debug)]
pub struct Model<B: Backend> {
    /// The model's numbers.
    pub spec: ModelSpec,
    /// Its rotary embeddings: that of most layers, and where windows have their own, that.
    pub ropes: Vec<Rope>,
    /// `[vocab_size, hidden_size]`
    pub embed: B::Weight,
    /// One for each layer.
    pub layers: Vec<Layer<B>>,
    /// `[hidden_size]`
    pub final_norm: B::Weight,
    /// `[vocab_size, hidden_size]`
    pub lm_head: Linear<B::Weight>,
}

/// A layer: its two blocks, each of which adds to the residual stream.
#[derive(Debug)]
pub struct Layer<B: Backend> {
    /// What lets a token see others.
    pub mixer: Mixer<B>,
    /// What each token goes through by itself.
    pub feed_forward: FeedForward<B>,
}

/// What lets a token see others.
#[derive(Debug)]
pub enum Mixer<B: Backend> {
    /// Softmax attention over keys and values.
    Attention(AttentionBlock<B>),
}

/// What each token goes through by itself.
#[derive(Debug)]
pub enum FeedForward<B: Backend> {
    /// `down(activation(gate x) * up x)`.
    Gated(GatedBlock<B>),
}

/// The weights of an attention block, and how it attends.
#[derive(Debug)]
pub struct AttentionBlock<B: Backend> {
    /// Scale, cap and window.
    pub how: Attention,
    /// Place of its rotary embedding among the model's; None where it has none.
    pub rope: Option<usize>,
    /// `[hidden_size]`; None where the block reads the residual stream as it is.
    pub pre_norm: Option<B::Weight>,
    /// `[n_heads * head_dim, hidden_size]`
    pub q: Linear<B::Weight>,
    /// `[n_kv_heads * head_dim, hidden_size]`
    pub k: Linear<B::Weight>,
    /// `[n_kv_heads * head_dim, hidden_size]`
    pub v: Linear<B::Weight>,
    /// Norms of queries and keys, of a head or of a row's width.
    pub qk_norm: Option<[B::Weight; 2]>,
    /// `[hidden_size, n_heads * head_dim]`
    pub o: Linear<B::Weight>,
    /// `[hidden_size]`: behind the block.
    pub post_norm: Option<B::Weight>,
}

/// The weights of a gated feed-forward block.
#[derive(Debug)]
pub struct GatedBlock<B: Backend> {
    /// Rows of gate and up.
    pub intermediate_size: usize,
    /// `[hidden_size]`; None where the block reads the residual stream as it is.
    pub pre_norm: Option<B::Weight>,
    /// `[intermediate_size, hidden_size]`
    pub gate: Linear<B::Weight>,
    /// `[intermediate_size, hidden_size]`
    pub up: Linear<B::Weight>,
    /// `[hidden_size, intermediate_size]`
    pub down: Linear<B::Weight>,
    /// `[hidden_size]`: behind the block.
    pub post_norm: Option<B::Weight>,
}

impl<B: Backend> Model<B> {
    /// Finds every tensor and checks its shape.
    ///
    /// # Errors
    /// The first that is missing or of another shape.
    pub fn bind(backend: &mut B, file: &Arc<NsvFile>) -> Result<Model<B>> {
        let spec = file.spec().clone();
        let layer = |layer| Binder { backend: &mut *backend, file, spec: &spec, layer }.layer();
        let layers = (0..spec.n_layers).map(layer).collect::<Result<Vec<_>>>()?;
        let local = spec.window.as_ref().and_then(|window| window.rope.clone());
        let table = Shape::Matrix(spec.vocab_size, spec.hidden_size);
        Ok(Model {
            ropes: std::iter::once(spec.rope.clone()).chain(local).collect(),
            embed: backend.weight(file, schema::EMBED, table)?,
            final_norm: backend.weight(file, schema::FINAL_NORM, Shape::Vector(spec.hidden_size))?,
            lm_head: Linear { weight: backend.weight(file, schema::LM_HEAD, table)?, bias: None },
            layers,
            spec,
        })
    }
}

/// Finds the tensors of one layer.
struct Binder<'a, B> {
    backend: &'a mut B,
    file: &'a Arc<NsvFile>,
    spec: &'a ModelSpec,
    layer: usize,
}

impl<B: Backend> Binder<'_, B> {
    fn weight(&mut self, part: Part) -> Result<B::Weight> {
        self.backend.weight(self.file, &part.weight(self.layer), part.shape(self.spec, self.layer))
    }

    fn norm(&mut self, part: Part, there: bool) -> Result<Option<B::Weight>> {
        there.then(|| self.weight(part)).transpose()
    }

    fn linear(&mut self, part: Part) -> Result<Linear<B::Weight>> {
        let bias = part.has_bias(self.spec).then(|| {
            let rows = Shape::Vector(part.shape(self.spec, self.layer).dims()[0]);
            self.backend.weight(self.file, &part.bias(self.layer), rows)
        });
        let bias = bias.transpose()?;
        Ok(Linear { weight: self.weight(part)?, bias })
    }

    fn layer(&mut self) -> Result<Layer<B>> {
        let kind = self.spec.layer(self.layer);
        Ok(Layer {
            mixer: match kind.mixer {
                MixerKind::Attention => Mixer::Attention(self.attention()?),
            },
            feed_forward: match kind.feed_forward {
                FeedForwardKind::Gated { intermediate_size } => FeedForward::Gated(self.gated(intermediate_size)?),
            },
        })
    }

    fn attention(&mut self) -> Result<AttentionBlock<B>> {
        let (spec, layer) = (self.spec, self.layer);
        let window = spec.window_of(layer);
        let scale = spec.attn_scale.map_or(1.0 / (spec.head_dim as f32).sqrt(), |scale| scale as f32);
        let softcap = spec.attn_softcap.map(|cap| cap as f32);
        Ok(AttentionBlock {
            how: Attention { scale, softcap, window: window.map(|w| w.size) },
            rope: spec.rope_of(layer).map(|_| usize::from(window.is_some_and(|w| w.rope.is_some()))),
            pre_norm: self.norm(Part::AttnNorm, spec.pre_norm)?,
            q: self.linear(Part::Q)?,
            k: self.linear(Part::K)?,
            v: self.linear(Part::V)?,
            qk_norm: match spec.qk_norm {
                QkNorm::None => None,
                QkNorm::Head | QkNorm::Projection => Some([self.weight(Part::QNorm)?, self.weight(Part::KNorm)?]),
            },
            o: self.linear(Part::O)?,
            post_norm: self.norm(Part::AttnPostNorm, spec.post_norm)?,
        })
    }

    fn gated(&mut self, intermediate_size: usize) -> Result<GatedBlock<B>> {
        Ok(GatedBlock {
            intermediate_size,
            pre_norm: self.norm(Part::MlpNorm, self.spec.pre_norm)?,
            gate: self.linear(Part::Gate)?,
            up: self.linear(Part::Up)?,
            down: self.linear(Part::Down)?,
            post_norm: self.norm(Part::MlpPostNorm, self.spec.post_norm)?,
        })
    }
}
