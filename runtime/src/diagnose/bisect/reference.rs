//! Compares the model with a reference, component by component, each on the reference's inputs.
//!
//! What passes follows the same [rule](crate::diagnose::rule) as the ladder. What fp32 itself shows is here the component's
//! own spread, because errors do not add up; what rounding the weights explains is added.
//!
//! If the reference lacks a component, ours is passed on, together with its possible error. A later finding then names
//! everything that could be at fault.

use super::component::{Component, Op};
use super::explain::explain;
use super::noise::{self, Noise};
use super::{At, Finding};
use crate::backend::rope::attention_factor;
use crate::backend::{Backend, KvType};
use crate::diagnose::rule::Tolerance;
use crate::diagnose::verify::Reference;
use crate::engine::Engine;
use crate::error::{Result, RuntimeError};
use nanoserve_format::schema::LM_HEAD;
use nanoserve_format::{ModelSpec, NsvFile};
use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// The result of a comparison with a reference.
#[derive(Clone, Debug, Default)]
pub struct Judged {
    /// Components that differ, in the order of the forward pass.
    pub findings: Vec<Finding>,
    /// Number of components compared.
    pub compared: usize,
    /// Components that could not be compared, because their inputs are rounded and the reference does not have them.
    pub skipped: Vec<String>,
}

/// Rows that later operations read.
pub(super) struct Slot<'r> {
    /// `[tokens, width]`
    pub rows: Cow<'r, [f32]>,
    /// How far they may be off from the reference's.
    pub noise: Noise,
    /// The components on the way to them that the reference does not have; empty if the rows are the reference's own.
    pub unseen: Vec<String>,
}

/// One component next to the reference's.
pub(super) struct Case<'c, 'r> {
    pub file: &'c NsvFile,
    pub reference: &'r Reference,
    pub component: &'c Component,
    /// The slots before this component.
    pub slots: &'c HashMap<&'static str, Slot<'r>>,
    pub got: &'c [f32],
    pub expected: &'r [f32],
    pub noise: &'c Noise,
    pub tolerance: Tolerance,
    /// How far the values of each token may be off, apart from `noise`: `[tokens]`.
    pub limits: &'c [f64],
    /// Values of a row.
    pub width: usize,
}

impl Case<'_, '_> {
    /// The model's description.
    pub fn spec(&self) -> &ModelSpec {
        self.file.spec()
    }

    /// Number of values that are normed together; for anything but a norm, a whole row.
    pub fn unit(&self) -> usize {
        match &self.component.op {
            Op::Norm { weight, .. } => noise::vector(self.file, weight).len(),
            _ => self.width,
        }
    }

    /// Number of positions.
    pub fn tokens(&self) -> usize {
        self.got.len() / self.width
    }

    /// How far value `i` may be off.
    pub fn limit(&self, i: usize) -> f64 {
        self.limits[i / self.width] + self.noise.limit(i)
    }

    /// True if `got` is close enough to `expected` for value `i`. Written so that NaN is not.
    pub fn close(&self, i: usize, got: f64, expected: f64) -> bool {
        (got - expected).abs() <= self.limit(i)
    }

    /// True if value `i` is off.
    pub fn off(&self, i: usize) -> bool {
        !self.close(i, self.got[i].into(), self.expected[i].into())
    }

    /// Rows of the output that are off, at any position.
    pub fn rows(&self) -> Vec<usize> {
        let off = (0..self.got.len()).filter(|&i| self.off(i)).map(|i| i % self.width);
        off.collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// The factor that best maps the reference's values `first..first + unit` to ours (least squares).
    pub fn factor(&self, first: usize, unit: usize) -> f64 {
        let part = first..first + unit;
        let (got, expected) = (&self.got[part.clone()], &self.expected[part]);
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
        dot(got, expected) / dot(expected, expected)
    }

    /// The first place that is off. The values of a norm's row also share a factor, which reveals differences too small
    /// for any single value. An example is an eps of 1e-6 instead of 1e-5 on rows of size 1: a difference of 4.5e-6.
    /// The threshold is half of that, a fifth of the tolerance. Summing in f32 causes 2e-7, in transformers, at widths
    /// up to 2048.
    fn first(&self) -> Option<At> {
        let place = |i: usize| At { position: i / self.width, row: i % self.width };
        let value = (0..self.got.len()).find(|&i| self.off(i)).map(place);
        let unit = self.unit();
        let scaled = |first: &usize| (self.factor(*first, unit) - 1.0).abs() > self.tolerance.rtol / 5.0;
        let is_norm = matches!(self.component.op, Op::Norm { .. }) && *self.noise == Noise::None;
        let part = || (0..self.got.len()).step_by(unit).filter(|_| is_norm).find(scaled).map(place);
        value.or_else(part)
    }
}

/// Judges every component in turn.
struct Judge<'c, 'r> {
    file: &'c NsvFile,
    reference: &'r Reference,
    tolerance: Tolerance,
    slots: HashMap<&'static str, Slot<'r>>,
    seen: BTreeSet<String>,
    judged: Judged,
    failed: Option<RuntimeError>,
}

impl<'r> Judge<'_, 'r> {
    /// What rounding may do to a component's values, given its inputs.
    fn noise(&self, component: &Component, got: &[f32], width: usize) -> Noise {
        let (slot, spec) = (|name: &str| &self.slots[name], self.file.spec());
        match &component.op {
            Op::Embed => {
                // Rounding steps are those of the embedding's values, before they are scaled.
                let plain: Vec<f32> = got.iter().map(|x| x / spec.embed_scale as f32).collect();
                noise::embed(self.file, &plain, width).scaled(spec.embed_scale)
            }
            // A softcap only makes differences smaller, so it is ignored.
            Op::Head => {
                let x = slot("final_norm");
                noise::linear(self.file, LM_HEAD, &x.rows, &x.noise).scaled(1.0 / spec.logit_divisor)
            }
            Op::Linear { weight, input, .. } => noise::linear(self.file, weight, &slot(input).rows, &slot(input).noise),
            Op::Rope { plain, .. } => match spec.rope_of(component.layer) {
                Some(rope) => {
                    let (turning, factor) = (rope.rotary_dim(spec.head_dim), attention_factor(rope));
                    slot(plain).noise.turned(spec.head_dim, turning, factor.into())
                }
                None => slot(plain).noise.clone(),
            },
            Op::Add { a, b } => slot(a).noise.both(&slot(b).noise.scaled(spec.residual_scale)),
            Op::Gate { gate, up, input } => {
                let x = slot(input);
                let noise = |weight: &str| noise::linear(self.file, weight, &x.rows, &x.noise);
                let (g, u) = (slot("mlp.gate"), slot("mlp.up"));
                Noise::gated(spec.activation, (&g.rows, &noise(gate)), (&u.rows, &noise(up)))
            }
            Op::Norm { weight, input } => {
                let weight = noise::vector(self.file, weight);
                slot(input).noise.normed(&slot(input).rows, weight, spec.norm_eps)
            }
            Op::Attention if ["attn.q", "attn.k", "attn.v"].iter().all(|s| slot(s).noise == Noise::None) => Noise::None,
            Op::Attention => Noise::Unknown,
        }
    }

    fn see(&mut self, name: &str, got: &[f32]) -> Option<&'r [f32]> {
        if self.failed.is_some() {
            return None;
        }
        let (reference, component) = match Component::of(self.file.spec(), name) {
            Ok(component) => (self.reference, component),
            Err(e) => {
                self.failed = Some(e);
                return None;
            }
        };
        let noise = self.noise(&component, got, got.len() / reference.input_ids.len());
        let Some(expected) = reference.activations.get(name) else {
            let inputs = component.inputs().into_iter().flat_map(|input| self.slots[input].unseen.clone());
            let unseen = inputs.chain([name.to_string()]).collect();
            self.slots.insert(component.slot, Slot { rows: Cow::Owned(got.to_vec()), noise, unseen });
            return None;
        };
        self.seen.insert(name.to_string());
        if expected.len() != got.len() {
            self.failed = Some(reference.other_size(name, got.len()));
            return None;
        }
        if noise == Noise::Unknown {
            self.judged.skipped.push(name.to_string());
        } else {
            self.judged.compared += 1;
            self.judge(name, &component, got, expected, &noise);
        }
        self.slots.insert(component.slot, Slot { rows: Cow::Borrowed(expected), noise: Noise::None, unseen: vec![] });
        Some(expected)
    }

    fn judge(&mut self, name: &str, component: &Component, got: &[f32], expected: &'r [f32], noise: &Noise) {
        let Judge { file, reference, tolerance, ref slots, .. } = *self;
        let width = got.len() / reference.input_ids.len();
        let spread = reference.own_spread.get(name).map(Vec::as_slice);
        let limits = &tolerance.limits(expected, width, spread);
        let case = Case { file, reference, component, slots, got, expected, noise, tolerance, limits, width };
        let Some(at) = case.first() else { return };
        // This component computes gate and up once more: a fault already found there is not reported again.
        let halves = ["mlp.gate", "mlp.up"].map(|half| format!("{}{half}", component.prefix));
        let already_found = self.judged.findings.iter().any(|f| halves.contains(&f.component));
        if !(matches!(component.op, Op::Gate { .. }) && already_found) {
            let (blame, what) = explain(&case);
            let component = name.to_string();
            self.judged.findings.push(Finding { component, blame, at: Some(at), path: None, what });
        }
    }
}

/// Runs the reference's prompt and judges every component that it has.
///
/// # Errors
/// When the prompt does not fit the model, or a component of the reference is unknown or of another size.
pub fn reference<B: Backend>(
    file: &Arc<NsvFile>,
    backend: B,
    reference: &Reference,
    tolerance: Tolerance,
) -> Result<Judged> {
    let mut engine = Engine::with_backend(file.clone(), backend)?;
    let mut judge = Judge {
        file,
        reference,
        tolerance,
        slots: HashMap::new(),
        seen: BTreeSet::new(),
        judged: Judged::default(),
        failed: None,
    };
    // An f32 KV cache, because rounding of keys and values would not be a fault.
    let mut session = engine.session(reference.input_ids.len(), KvType::F32)?;
    session.trace(&reference.input_ids, &mut |name, rows| judge.see(name, rows))?;
    if let Some(e) = judge.failed {
        return Err(e);
    }
    let mut missing: Vec<Finding> = Vec::new();
    for name in reference.activations.keys().filter(|name| !judge.seen.contains(*name)) {
        let blame = Component::switch(name).ok_or_else(|| reference.unknown(name))?;
        if missing.iter().all(|f| f.blame != blame) {
            let what = "the reference has this, the model makes nothing of the kind".to_string();
            missing.push(Finding { component: name.clone(), blame: blame.into(), at: None, path: None, what });
        }
    }
    judge.judged.findings.splice(..0, missing);
    Ok(judge.judged)
}
