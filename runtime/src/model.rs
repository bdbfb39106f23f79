//! A model bound to a file: every tensor of the schema found once, by its canonical name.

use crate::backend::{Backend, Linear};
use crate::error::Result;
use nanoserve_format::schema::{self, Part};
use nanoserve_format::{ModelSpec, NsvFile, Shape};
use std::sync::Arc;

/// All weights of a model, where the backend's kernels can read them.
#[derive(Debug)]
pub struct Model<B: Backend> {
    /// The model's numbers.
    pub spec: ModelSpec,
    /// `[vocab_size, hidden_size]`
    pub embed: B::Weight,
    /// One for each layer.
    pub layers: Vec<Layer<B>>,
    /// `[hidden_size]`
    pub final_norm: B::Weight,
    /// `[vocab_size, hidden_size]`
    pub lm_head: Linear<B::Weight>,
}

/// The weights of one layer.
#[derive(Debug)]
pub struct Layer<B: Backend> {
    /// `[hidden_size]`
    pub attn_norm: B::Weight,
    /// `[n_heads * head_dim, hidden_size]`
    pub q: Linear<B::Weight>,
    /// `[n_kv_heads * head_dim, hidden_size]`
    pub k: Linear<B::Weight>,
    /// `[n_kv_heads * head_dim, hidden_size]`
    pub v: Linear<B::Weight>,
    /// `[hidden_size, n_heads * head_dim]`
    pub o: Linear<B::Weight>,
    /// `[hidden_size]`
    pub mlp_norm: B::Weight,
    /// `[intermediate_size, hidden_size]`
    pub gate: Linear<B::Weight>,
    /// `[intermediate_size, hidden_size]`
    pub up: Linear<B::Weight>,
    /// `[hidden_size, intermediate_size]`
    pub down: Linear<B::Weight>,
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
        let layers = (0..spec.n_layers).map(|i| {
            let norm = Shape::Vector(spec.hidden_size);
            Ok(Layer {
                attn_norm: backend.weight(file, &Part::AttnNorm.weight(i), norm)?,
                q: linear(backend, i, Part::Q)?,
                k: linear(backend, i, Part::K)?,
                v: linear(backend, i, Part::V)?,
                o: linear(backend, i, Part::O)?,
                mlp_norm: backend.weight(file, &Part::MlpNorm.weight(i), norm)?,
                gate: linear(backend, i, Part::Gate)?,
                up: linear(backend, i, Part::Up)?,
                down: linear(backend, i, Part::Down)?,
            })
        });
        let layers = layers.collect::<Result<Vec<_>>>()?;
        let table = Shape::Matrix(spec.vocab_size, spec.hidden_size);
        Ok(Model {
            embed: backend.weight(file, schema::EMBED, table)?,
            final_norm: backend.weight(file, schema::FINAL_NORM, Shape::Vector(spec.hidden_size))?,
            lm_head: Linear { weight: backend.weight(file, schema::LM_HEAD, table)?, bias: None },
            layers,
            spec,
        })
    }
}
