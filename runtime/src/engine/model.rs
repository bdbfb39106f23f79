//! A model bound to a file: every tensor of the schema is looked up once, by its canonical name.

use crate::backend::{Attention, Backend, Linear};
use crate::error::Result;
use nanoserve_format::schema::{self, Part};
use nanoserve_format::{FeedForwardKind, MixerKind, ModelSpec, NsvFile, QkNorm, Rope, Shape};
use std::sync::Arc;

/// All weights of a model, in the form that the backend's kernels read.
#[derive(Debug)]
pub struct Model<B: Backend> {
    /// Its sizes and switches.
    pub spec: ModelSpec,
    /// Its rotary embeddings: the main one, then that of the layers with a window if they have their own.
    pub ropes: Vec<Rope>,
    /// `[vocab_size, hidden_size]`
    pub embed: B::Weight,
    /// `[n_layers]`
    pub layers: Vec<Layer<B>>,
    /// `[hidden_size]`
    pub final_norm: B::Weight,
    /// `[vocab_size, hidden_size]`
    pub lm_head: Linear<B::Weight>,
}

/// A layer: its two blocks, each of which adds to the residual stream.
#[derive(Debug)]
pub struct Layer<B: Backend> {
    /// The block in which tokens see each other.
    pub mixer: Mixer<B>,
    /// The block that treats each token by itself.
    pub feed_forward: FeedForward<B>,
}

/// A block in which tokens see each other.
#[derive(Debug)]
pub enum Mixer<B: Backend> {
    /// Softmax attention over keys and values.
    Attention(AttentionBlock<B>),
}

/// A block that treats each token by itself.
#[derive(Debug)]
pub enum FeedForward<B: Backend> {
    /// `down(activation(gate x) * up x)`.
    Gated(GatedBlock<B>),
}

/// The weights and settings of an attention block.
#[derive(Debug)]
pub struct AttentionBlock<B: Backend> {
    /// Scale, cap and window.
    pub how: Attention,
    /// Index of its rotary embedding in [`Model::ropes`]; None if it has none.
    pub rope: Option<usize>,
    /// `[hidden_size]`; None if the block reads the residual stream unnormalized.
    pub pre_norm: Option<B::Weight>,
    /// `[n_heads * head_dim, hidden_size]`
    pub q: Linear<B::Weight>,
    /// `[n_kv_heads * head_dim, hidden_size]`
    pub k: Linear<B::Weight>,
    /// `[n_kv_heads * head_dim, hidden_size]`
    pub v: Linear<B::Weight>,
    /// Norms of queries and keys, each as wide as a head or as the whole row.
    pub qk_norm: Option<[B::Weight; 2]>,
    /// `[hidden_size, n_heads * head_dim]`
    pub o: Linear<B::Weight>,
    /// `[hidden_size]`: normalizes the block's output.
    pub post_norm: Option<B::Weight>,
}

/// The weights of a gated feed-forward block.
#[derive(Debug)]
pub struct GatedBlock<B: Backend> {
    /// Rows of gate and up.
    pub intermediate_size: usize,
    /// `[hidden_size]`; None if the block reads the residual stream unnormalized.
    pub pre_norm: Option<B::Weight>,
    /// `[intermediate_size, hidden_size]`
    pub gate: Linear<B::Weight>,
    /// `[intermediate_size, hidden_size]`
    pub up: Linear<B::Weight>,
    /// `[hidden_size, intermediate_size]`
    pub down: Linear<B::Weight>,
    /// `[hidden_size]`: normalizes the block's output.
    pub post_norm: Option<B::Weight>,
}

impl<B: Backend> Model<B> {
    /// Finds every tensor and checks its shape.
    ///
    /// # Errors
    /// The first tensor that is missing or has another shape.
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

    fn norm(&mut self, part: Part, present: bool) -> Result<Option<B::Weight>> {
        present.then(|| self.weight(part)).transpose()
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
