//! Compares our activations with a reference's, component by component: the ladder.
//!
//! A reference file is a safetensors file with `input_ids` (i64 `[T]`), `logits` (f32 `[T, vocab_size]`) and,
//! optionally, `greedy_ids` (i64) and any of the ladder's activations, under the names that
//! [`step`](crate::engine::step) gives them. It may hold what fp32 alone does to a component, for each token: `spread.NAME`
//! (f64 `[T]`), where all from the ids on was computed in f64, and `own_spread.NAME`, where that component alone was, from the
//! inputs in f32. `tests/reference/make_reference.py` writes both. The [rule](super::rule) says what passes.

use super::rule::{Bounds, Tolerance, largest};
use crate::backend::{Backend, KvType};
use crate::engine::Engine;
use crate::error::{Result, RuntimeError};
use crate::generate::GenerateOptions;
use crate::generate::sampler::SamplingOptions;
use nanoserve_format::{FileAction, FormatError};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::collections::BTreeMap;
use std::path::Path;

/// The contents of a reference file.
#[derive(Clone, Debug, Default)]
pub struct Reference {
    /// The prompt.
    pub input_ids: Vec<u32>,
    /// The reference's greedy continuation.
    pub greedy_ids: Option<Vec<u32>>,
    /// Every f32 tensor by its name: `[T, width]`, row by row.
    pub activations: BTreeMap<String, Vec<f32>>,
    /// How far fp32 moves a component from f64, all before it included: `[T]`. Some components or none.
    pub spread: BTreeMap<String, Vec<f64>>,
    /// How far fp32 moves a component from f64 on the same inputs: `[T]`. Some components or none.
    pub own_spread: BTreeMap<String, Vec<f64>>,
}

impl Reference {
    /// Reads a reference file.
    ///
    /// # Errors
    /// When it cannot be read, `input_ids` or `logits` are missing or of another type, or a spread is none.
    pub fn read(path: &Path) -> Result<Reference> {
        let bad = |cause: String| RuntimeError::Reference { path: path.display().to_string(), cause };
        let opened = |source| FormatError::Io { path: path.into(), action: FileAction::Open, source };
        let bytes = std::fs::read(path).map_err(opened)?;
        let tensors = SafeTensors::deserialize(&bytes).map_err(|e| bad(format!("no safetensors file: {e}")))?;
        let ids = |name: &str| -> Result<Option<Vec<u32>>> {
            let Ok(tensor) = tensors.tensor(name) else { return Ok(None) };
            if tensor.dtype() != Dtype::I64 || tensor.shape().len() != 1 {
                let (dtype, shape) = (tensor.dtype(), tensor.shape());
                return Err(bad(format!("'{name}' is {dtype:?} {shape:?}, expected I64 [T]")));
            }
            let values = tensor.data().as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b));
            let ids = values.map(|v| u32::try_from(v).map_err(|_| bad(format!("'{name}' holds {v}, no token id"))));
            ids.collect::<Result<Vec<u32>>>().map(Some)
        };
        let input_ids = ids("input_ids")?.ok_or_else(|| bad("'input_ids' is missing".into()))?;
        let mut activations = BTreeMap::new();
        for (name, tensor) in tensors.iter().filter(|(_, t)| t.dtype() == Dtype::F32) {
            if tensor.shape().first() != Some(&input_ids.len()) {
                let (got, t) = (tensor.shape(), input_ids.len());
                return Err(bad(format!("'{name}' has shape {got:?}, expected [{t}, ...] as input_ids")));
            }
            let values = tensor.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b));
            activations.insert(name.to_string(), values.collect());
        }
        if !activations.contains_key("logits") {
            return Err(bad("'logits' (F32) is missing".into()));
        }
        let (mut spread, mut own_spread) = (BTreeMap::new(), BTreeMap::new());
        for (full, tensor) in tensors.iter().filter(|(_, t)| t.dtype() == Dtype::F64) {
            let (into, name) = match (full.strip_prefix("spread."), full.strip_prefix("own_spread.")) {
                (Some(name), _) => (&mut spread, name),
                (_, Some(name)) => (&mut own_spread, name),
                _ => continue,
            };
            let values: Vec<f64> = tensor.data().as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b)).collect();
            if tensor.shape() != [input_ids.len()] || !values.iter().all(|x| x.is_finite() && *x >= 0.0) {
                let (got, t) = (tensor.shape(), input_ids.len());
                return Err(bad(format!("'{full}' has shape {got:?}, expected [{t}] distances, none below 0")));
            }
            if !activations.contains_key(name) {
                return Err(bad(format!("'{full}' is there, and no '{name}'")));
            }
            into.insert(name.to_string(), values);
        }
        Ok(Reference { input_ids, greedy_ids: ids("greedy_ids")?, activations, spread, own_spread })
    }

    /// The error that a component has another size than the model's.
    pub(crate) fn other_size(&self, name: &str, got: usize) -> RuntimeError {
        let expected = self.activations[name].len();
        let cause = format!("'{name}' has {expected} values, the model makes {got}: another model's reference?");
        RuntimeError::Reference { path: "reference".into(), cause }
    }

    /// The error that the model has no such component.
    pub(crate) fn unknown(&self, name: &str) -> RuntimeError {
        let cause = format!("'{name}' is no component of this model");
        RuntimeError::Reference { path: "reference".into(), cause }
    }
}

/// How far one component is from the reference.
#[derive(Clone, Debug)]
pub struct Row {
    /// Its name on the ladder.
    pub name: String,
    /// Largest absolute difference.
    pub max_abs: f64,
    /// Largest difference relative to the largest |reference| value of the same token.
    pub max_rel: f64,
    /// True if every value is within [`Tolerance::limit`].
    pub pass: bool,
}

/// The result of a comparison.
#[derive(Clone, Debug)]
pub struct Report {
    /// One for each component of the ladder that the reference has, in the order of the forward pass.
    pub rows: Vec<Row>,
    /// Kullback-Leibler divergence of our next-token distribution from the reference's, in nats: mean over positions.
    pub kl_mean: f64,
    /// The same, the largest of all positions.
    pub kl_max: f64,
    /// Share of positions where both have the same likeliest token.
    pub top1: f64,
    /// Number of positions.
    pub positions: usize,
    /// Number of positions where the likeliest token is another.
    pub other_top: usize,
    /// Our greedy continuation, as long as the reference's.
    pub greedy_ids: Option<Vec<u32>>,
    /// True if it equals the reference's.
    pub greedy_pass: bool,
    /// What decides if weights or the cache are rounded; None if the components do.
    pub bounds: Option<Bounds>,
}

impl Report {
    /// True if the answers are within [`Report::bounds`]; without these, if every component and the greedy continuation
    /// pass.
    pub fn pass(&self) -> bool {
        match &self.bounds {
            Some(bounds) => bounds.exceeded(self).is_none(),
            None => self.greedy_pass && self.rows.iter().all(|r| r.pass),
        }
    }
}

/// Every activation of a step, in the order of the forward pass.
pub type Activations = Vec<(String, Vec<f32>)>;

/// Runs `ids` in one step and keeps every component of the ladder.
///
/// # Errors
/// When they do not fit the model.
pub fn trace<B: Backend>(engine: &mut Engine<B>, ids: &[u32], kv_type: KvType) -> Result<Activations> {
    let mut all = Vec::new();
    let mut session = engine.session(ids.len(), kv_type)?;
    session.trace(ids, &mut |name, rows| {
        all.push((name.to_string(), rows.to_vec()));
        None
    })?;
    Ok(all)
}

/// Runs the reference's prompt and compares everything it has. If the file's weights or the cache are rounded, the report
/// has the bounds that decide then.
///
/// # Errors
/// When the prompt does not fit the model, or a component of the reference is unknown or of another size.
pub fn compare<B: Backend>(
    engine: &mut Engine<B>,
    reference: &Reference,
    kv_type: KvType,
    tolerance: Tolerance,
) -> Result<(Report, Activations)> {
    let ours = trace(engine, &reference.input_ids, kv_type)?;
    let mut rows = Vec::new();
    for (name, got) in &ours {
        let Some(expected) = reference.activations.get(name) else { continue };
        if got.len() != expected.len() {
            return Err(reference.other_size(name, got.len()));
        }
        rows.push(row(name, got, expected, reference, tolerance));
    }
    if let Some(name) = reference.activations.keys().find(|name| !ours.iter().any(|(n, _)| n == *name)) {
        return Err(reference.unknown(name));
    }
    let vocab_size = engine.file().spec().vocab_size;
    let logits = &ours.last().expect("logits are the last component").1;
    let (kl, top1) = divergence(&reference.activations["logits"], logits, vocab_size);
    let positions = kl.len();
    let greedy_ids = match &reference.greedy_ids {
        Some(expected) => Some(greedy(engine, &reference.input_ids, expected.len(), kv_type)?),
        None => None,
    };
    let report = Report {
        rows,
        kl_mean: kl.iter().sum::<f64>() / kl.len() as f64,
        kl_max: kl.iter().fold(0.0, |a, &b| a.max(b)),
        top1,
        positions,
        other_top: ((1.0 - top1) * positions as f64).round() as usize,
        bounds: Bounds::of_all(&engine.file().layout().encodings(), kv_type),
        greedy_pass: greedy_ids == reference.greedy_ids,
        greedy_ids,
    };
    Ok((report, ours))
}

/// Compares one component, token by token.
fn row(name: &str, got: &[f32], expected: &[f32], reference: &Reference, tolerance: Tolerance) -> Row {
    let width = got.len() / reference.input_ids.len();
    let limits = tolerance.limits(expected, width, reference.spread.get(name).map(Vec::as_slice));
    let mut row = Row { name: name.to_string(), max_abs: 0.0, max_rel: 0.0, pass: true };
    for ((got, expected), limit) in got.chunks_exact(width).zip(expected.chunks_exact(width)).zip(limits) {
        let largest = largest(expected);
        for (&got, &expected) in got.iter().zip(expected) {
            let difference = (f64::from(got) - f64::from(expected)).abs();
            row.max_abs = row.max_abs.max(difference);
            if largest != 0.0 {
                row.max_rel = row.max_rel.max(difference / largest);
            }
            // Written so that NaN fails.
            row.pass &= difference <= limit;
        }
    }
    row
}

/// `n` greedy tokens after `ids`; fewer if the context ends.
fn greedy<B: Backend>(engine: &mut Engine<B>, ids: &[u32], n: usize, kv_type: KvType) -> Result<Vec<u32>> {
    let capacity = (ids.len() + n).min(engine.file().spec().context_length);
    let sampling = SamplingOptions { temperature: 0.0, repeat_penalty: 1.0, ..SamplingOptions::default() };
    let options = GenerateOptions { max_tokens: Some(n), sampling, ..GenerateOptions::default() };
    Ok(engine.session(capacity, kv_type)?.generate(ids, &options, None, &mut |_| true)?.ids)
}

/// KL(reference || ours) in nats for each row of logits, and the share of rows in which both have the same largest
/// logit.
pub fn divergence(reference: &[f32], ours: &[f32], vocab_size: usize) -> (Vec<f64>, f64) {
    let log_softmax = |row: &[f32]| -> Vec<f64> {
        let max = row.iter().fold(f64::NEG_INFINITY, |m, &x| m.max(x.into()));
        let sum: f64 = row.iter().map(|&x| (f64::from(x) - max).exp()).sum();
        row.iter().map(|&x| f64::from(x) - max - sum.ln()).collect()
    };
    let argmax = |row: &[f64]| row.iter().enumerate().fold(0, |best, (i, x)| if *x > row[best] { i } else { best });
    let mut same = 0;
    let kl: Vec<f64> = reference
        .chunks_exact(vocab_size)
        .zip(ours.chunks_exact(vocab_size))
        .map(|(p, q)| {
            let (p, q) = (log_softmax(p), log_softmax(q));
            same += usize::from(argmax(&p) == argmax(&q));
            p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum()
        })
        .collect();
    let top1 = same as f64 / kl.len() as f64;
    (kl, top1)
}

/// Writes activations to a reference file. The file appears whole or not at all.
///
/// # Errors
/// When the file cannot be written.
pub fn dump(path: &Path, ids: &[u32], greedy_ids: Option<&[u32]>, activations: &Activations) -> Result<()> {
    let bad = |cause: String| RuntimeError::Reference { path: path.display().to_string(), cause };
    let wide = |ids: &[u32]| ids.iter().flat_map(|&id| i64::from(id).to_le_bytes()).collect::<Vec<u8>>();
    let mut bytes: BTreeMap<&str, (Dtype, Vec<usize>, Vec<u8>)> = BTreeMap::new();
    bytes.insert("input_ids", (Dtype::I64, vec![ids.len()], wide(ids)));
    if let Some(greedy_ids) = greedy_ids {
        bytes.insert("greedy_ids", (Dtype::I64, vec![greedy_ids.len()], wide(greedy_ids)));
    }
    for (name, values) in activations {
        let shape = vec![ids.len(), values.len() / ids.len()];
        bytes.insert(name, (Dtype::F32, shape, bytemuck::cast_slice(values).to_vec()));
    }
    let views = bytes.iter().map(|(name, (dtype, shape, data))| {
        TensorView::new(*dtype, shape.clone(), data).map(|view| (*name, view)).map_err(|e| bad(e.to_string()))
    });
    let views = views.collect::<Result<Vec<_>>>()?;
    let bytes = safetensors::serialize(views, None).map_err(|e| bad(e.to_string()))?;
    Ok(nanoserve_format::replace(path, &bytes)?)
}
