//! A naive twin of the forward pass, written after docs/arithmetic.md: one token after the other and one loop for each
//! sum. It keeps the keys and values of every position and skips those that a token does not see. It is slow, and has
//! no kernels, panels, threads, ring buffers or chunks.
//!
//! It shares with the runtime only the scalar math functions and the RoPE tables.

use crate::{SplitMix64, write_file};
use half::f16;
use nanoserve_format::schema::{EMBED, FINAL_NORM, LM_HEAD, Part};
use nanoserve_format::{Activation, ModelSpec, QkNorm, Recipe};
use nanoserve_runtime::KvType;
use nanoserve_runtime::backend::rope::RopeTable;
use nanoserve_runtime::cpu::math::{exp, gelu, sum_lanes, tanh};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Tensors by name, in f32, row by row.
pub type Tensors = BTreeMap<String, Vec<f32>>;

/// Random weights: matrices scaled to keep activations near 1, norms around 1, small biases.
pub fn random_tensors(spec: &ModelSpec) -> Tensors {
    let mut random = SplitMix64::new(7);
    let all = nanoserve_format::schema::tensors(spec).into_iter().map(|(name, shape)| {
        let dims = shape.dims();
        let (mean, spread) = match (dims.as_slice(), name.ends_with(".bias")) {
            ([_, cols], _) => (0.0, 1.5 / (*cols as f32).sqrt()),
            (_, true) => (0.0, 0.1),
            _ => (1.0, 0.2),
        };
        let values = (0..dims.iter().product()).map(|_| mean + spread * random.bell()).collect();
        (name, values)
    });
    all.collect()
}

/// Writes a model with these weights into `folder`. `tensors` may hold more than the model has.
pub fn write_tensors(spec: &ModelSpec, tensors: &Tensors, recipe: impl Into<Recipe>, folder: &Path) -> PathBuf {
    let recipe = recipe.into();
    let path = folder.join(format!("{recipe}.nsv"));
    write_file(&path, spec, recipe, &[], &|name, row, out| {
        out.copy_from_slice(&tensors[name][row * out.len()..][..out.len()]);
    });
    path
}

/// A model and its weights.
#[derive(Debug)]
pub struct Twin<'a> {
    /// Its description.
    pub spec: &'a ModelSpec,
    /// Its weights.
    pub tensors: &'a Tensors,
}

fn norm(x: &[f32], weight: &[f32], eps: f32) -> Vec<f32> {
    let mut lanes = [0f32; 16];
    for (i, x) in x.iter().enumerate() {
        lanes[i % 16] = x.mul_add(*x, lanes[i % 16]);
    }
    let r = 1.0 / (sum_lanes(lanes) / x.len() as f32 + eps).sqrt();
    x.iter().zip(weight).map(|(x, w)| x * r * w).collect()
}

fn add(x: &mut [f32], y: &[f32], scale: f32) {
    for (x, y) in x.iter_mut().zip(y) {
        *x += y * scale;
    }
}

impl Twin<'_> {
    fn tensor(&self, name: &str) -> &[f32] {
        &self.tensors[name]
    }

    fn linear(&self, weight: &str, bias: Option<String>, x: &[f32]) -> Vec<f32> {
        let rows = self.tensor(weight).chunks_exact(x.len());
        let dot = |row: &[f32]| {
            row.chunks(256)
                .zip(x.chunks(256))
                .fold(0f32, |total, (w, x)| total + w.iter().zip(x).fold(0f32, |sum, (w, x)| w.mul_add(*x, sum)))
        };
        let mut out: Vec<f32> = rows.map(dot).collect();
        if let Some(bias) = bias {
            add(&mut out, self.tensor(&bias), 1.0);
        }
        out
    }

    fn part(&self, layer: usize, part: Part, x: &[f32]) -> Vec<f32> {
        self.linear(&part.weight(layer), part.has_bias(self.spec).then(|| part.bias(layer)), x)
    }

    fn norm(&self, layer: usize, part: Part, there: bool, x: &[f32]) -> Vec<f32> {
        if !there {
            return x.to_vec();
        }
        let weight = self.tensor(&part.weight(layer));
        let parts = x.chunks_exact(weight.len());
        parts.flat_map(|x| norm(x, weight, self.spec.norm_eps as f32)).collect()
    }

    /// Attention of one head of one token, whose position is the last of `keys` and `values`.
    fn attend(&self, layer: usize, q: &[f32], keys: &[&[f32]], values: &[&[f32]]) -> Vec<f32> {
        let (spec, end) = (self.spec, keys.len());
        let begin = spec.window_of(layer).map_or(0, |window| end.saturating_sub(window.size));
        let scale = spec.attn_scale.map_or(1.0 / (spec.head_dim as f32).sqrt(), |scale| scale as f32);
        let score = |key: &[f32]| {
            let score = q.iter().zip(key).fold(0f32, |sum, (q, k)| (q * scale).mul_add(*k, sum));
            spec.attn_softcap.map_or(score, |cap| cap as f32 * tanh(score / cap as f32))
        };
        let (mut max, mut total, mut out) = (f32::NEG_INFINITY, 0f32, vec![0f32; q.len()]);
        for first in (0..end).step_by(64) {
            let seen: Vec<usize> = (first..end.min(first + 64)).filter(|&p| p >= begin).collect();
            if seen.is_empty() {
                continue;
            }
            let scores: Vec<f32> = seen.iter().map(|&p| score(keys[p])).collect();
            let new_max = scores.iter().fold(max, |m, s| m.max(*s));
            let keep = exp(max - new_max);
            let weights: Vec<f32> = scores.iter().map(|s| exp(s - new_max)).collect();
            let mut lanes = [0f32; 16];
            for (p, weight) in seen.iter().zip(&weights) {
                lanes[p % 16] += weight;
            }
            total = total.mul_add(keep, sum_lanes(lanes));
            for (d, out) in out.iter_mut().enumerate() {
                let sum = seen.iter().zip(&weights).fold(0f32, |sum, (&p, w)| w.mul_add(values[p][d], sum));
                *out = out.mul_add(keep, sum);
            }
            max = new_max;
        }
        out.iter().map(|x| x / total).collect()
    }

    /// The logits of every token, `[ids, vocab_size]`, as in a session with a capacity of `length` positions.
    pub fn logits(&self, ids: &[u32], length: usize, kv: KvType) -> Vec<f32> {
        let spec = self.spec;
        let (dim, hidden) = (spec.head_dim, spec.hidden_size);
        let mut ropes: Vec<Option<RopeTable>> =
            (0..spec.n_layers).map(|i| spec.rope_of(i).map(|rope| RopeTable::new(rope, dim, length))).collect();
        ropes.iter_mut().flatten().for_each(|rope| rope.extend(ids.len()));
        let rounded = |x: Vec<f32>| match kv {
            KvType::F32 => x,
            KvType::F16 => x.iter().map(|x| f16::from_f32(*x).to_f32()).collect(),
        };
        // [layer][keys, values][position]
        let mut cache: Vec<[Vec<Vec<f32>>; 2]> = vec![[vec![], vec![]]; spec.n_layers];
        let mut logits = Vec::new();
        for (position, &id) in ids.iter().enumerate() {
            let mut x = self.tensor(EMBED)[id as usize * hidden..][..hidden].to_vec();
            x.iter_mut().for_each(|x| *x *= spec.embed_scale as f32);
            for (i, cache) in cache.iter_mut().enumerate() {
                let input = self.norm(i, Part::AttnNorm, spec.pre_norm, &x);
                let turned = |part: Part, norm: Part| {
                    let mut rows = self.norm(i, norm, spec.qk_norm != QkNorm::None, &self.part(i, part, &input));
                    if let Some(rope) = &ropes[i] {
                        let (cos, sin) = rope.at(position);
                        for head in rows.chunks_exact_mut(dim) {
                            for j in 0..cos.len() {
                                let (x, y) = (head[j], head[j + cos.len()]);
                                head[j] = (-y).mul_add(sin[j], x * cos[j]);
                                head[j + cos.len()] = x.mul_add(sin[j], y * cos[j]);
                            }
                        }
                    }
                    rows
                };
                let q = turned(Part::Q, Part::QNorm);
                cache[0].push(rounded(turned(Part::K, Part::KNorm)));
                cache[1].push(rounded(self.part(i, Part::V, &input)));
                let heads = q.chunks_exact(dim).enumerate().flat_map(|(h, q)| {
                    let own = h / (spec.n_heads / spec.n_kv_heads) * dim;
                    let [keys, values] = cache.each_ref().map(|rows| {
                        let rows = rows.iter().map(|row| &row[own..own + dim]);
                        rows.collect::<Vec<_>>()
                    });
                    self.attend(i, q, &keys, &values)
                });
                let mix: Vec<f32> = heads.collect();
                let block = self.norm(i, Part::AttnPostNorm, spec.post_norm, &self.part(i, Part::O, &mix));
                add(&mut x, &block, spec.residual_scale as f32);

                let input = self.norm(i, Part::MlpNorm, spec.pre_norm, &x);
                let up = self.part(i, Part::Up, &input);
                let gated = self.part(i, Part::Gate, &input).into_iter().zip(up).map(|(g, u)| match spec.activation {
                    Activation::Silu => g / (1.0 + exp(-g)) * u,
                    Activation::GeluTanh => gelu(g) * u,
                });
                let down = self.part(i, Part::Down, &gated.collect::<Vec<f32>>());
                let block = self.norm(i, Part::MlpPostNorm, spec.post_norm, &down);
                add(&mut x, &block, spec.residual_scale as f32);
            }
            let x = norm(&x, self.tensor(FINAL_NORM), spec.norm_eps as f32);
            let row = self.linear(if spec.tied_lm_head { EMBED } else { LM_HEAD }, None, &x);
            logits.extend(row.into_iter().map(|x| {
                let x = x * (1.0 / spec.logit_divisor) as f32;
                spec.logit_softcap.map_or(x, |cap| cap as f32 * tanh(x / cap as f32))
            }));
        }
        logits
    }
}
