//! A model bound to a file: every tensor of the schema found once, by its canonical name.

use crate::backend::{Attention, Backend, Linear};
use crate::error::Result;
use nanoserve_format::schema::{self, Part};
use nanoserve_format::{ModelSpec, NsvFile, QkNorm, Rope, Shape};
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

/// The weights of one layer, and how it attends.
#[derive(Debug)]
pub struct Layer<B: Backend> {
    /// Scale, cap and window.
    pub attention: Attention,
    /// Place of its rotary embedding among the model's; None where it has none.
    pub rope: Option<usize>,
    /// `[hidden_size]`; None where blocks read the residual stream as it is.
    pub attn_norm: Option<B::Weight>,
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
    /// `[hidden_size]`: behind attention.
    pub attn_post_norm: Option<B::Weight>,
    /// `[hidden_size]`; as `attn_norm`.
    pub mlp_norm: Option<B::Weight>,
    /// `[intermediate_size, hidden_size]`
    pub gate: Linear<B::Weight>,
    /// `[intermediate_size, hidden_size]`
    pub up: Linear<B::Weight>,
    /// `[hidden_size, intermediate_size]`
    pub down: Linear<B::Weight>,
    /// `[hidden_size]`: behind the feed-forward block.
    pub mlp_post_norm: Option<B::Weight>,
}

impl<B: Backend> Model<B> {
    /// Finds every tensor and checks its shape.
    ///
    /// # Errors
    /// The first that is missing or of another shape.
    pub fn bind(backend: &mut B, file: &Arc<NsvFile>) -> Result<Model<B>> {
        let spec = file.spec().clone();
        let linear = |backend: &mut B, layer: usize, part: Part| -> Result<Linear<B::Weight>> {
            let shape = part.shape(&spec);
            let bias = part.has_bias(&spec).then(|| {
                let rows = Shape::Vector(shape.dims()[0]);
                backend.weight(file, &part.bias(layer), rows)
            });
            let bias = bias.transpose()?;
            Ok(Linear { weight: backend.weight(file, &part.weight(layer), shape)?, bias })
        };
        let local = spec.window.as_ref().and_then(|window| window.rope.clone());
        let scale = spec.attn_scale.map_or(1.0 / (spec.head_dim as f32).sqrt(), |scale| scale as f32);
        let layers = (0..spec.n_layers).map(|i| {
            let vector = |backend: &mut B, part: Part| backend.weight(file, &part.weight(i), part.shape(&spec));
            let norm = |backend: &mut B, part: Part, there: bool| there.then(|| vector(backend, part)).transpose();
            let window = spec.window_of(i);
            let qk_norm = match spec.qk_norm {
                QkNorm::None => None,
                _ => Some([vector(backend, Part::QNorm)?, vector(backend, Part::KNorm)?]),
            };
            let softcap = spec.attn_softcap.map(|cap| cap as f32);
            Ok(Layer {
                attention: Attention { scale, softcap, window: window.map(|w| w.size) },
                rope: spec.rope_of(i).map(|_| usize::from(window.is_some_and(|w| w.rope.is_some()))),
                attn_norm: norm(backend, Part::AttnNorm, spec.pre_norm)?,
                q: linear(backend, i, Part::Q)?,
                k: linear(backend, i, Part::K)?,
                v: linear(backend, i, Part::V)?,
                qk_norm,
                o: linear(backend, i, Part::O)?,
                attn_post_norm: norm(backend, Part::AttnPostNorm, spec.post_norm)?,
                mlp_norm: norm(backend, Part::MlpNorm, spec.pre_norm)?,
                gate: linear(backend, i, Part::Gate)?,
                up: linear(backend, i, Part::Up)?,
                down: linear(backend, i, Part::Down)?,
                mlp_post_norm: norm(backend, Part::MlpPostNorm, spec.post_norm)?,
            })
        });
        let layers = layers.collect::<Result<Vec<_>>>()?;
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
