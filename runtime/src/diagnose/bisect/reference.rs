//! The model against a reference, component by component, each on the reference's inputs.
//!
//! What the reference does not have goes on as we made it, and with it what it is off; a finding then names all that
//! could be meant.

use super::component::{Component, Op};
use super::explain::explain;
use super::noise::{self, Noise};
use super::{At, Finding};
use crate::backend::rope::attention_factor;
use crate::backend::{Backend, KvType};
use crate::diagnose::verify::Reference;
use crate::engine::session::Engine;
use crate::error::{Result, RuntimeError};
use nanoserve_format::schema::LM_HEAD;
use nanoserve_format::{ModelSpec, NsvFile};
use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// What a value may be off for other orders of sums: `atol + rtol * |reference|`, beside what rounding the weights does.
#[derive(Clone, Copy, Debug)]
pub struct Tolerance {
    /// Absolute.
    pub atol: f64,
    /// Relative to the reference's value.
    pub rtol: f64,
}

/// What came of a reference.
#[derive(Clone, Debug, Default)]
pub struct Judged {
    /// Components that differ, in the order of the forward pass.
    pub findings: Vec<Finding>,
    /// Components that were compared.
    pub compared: usize,
    /// Components that could not be: rounded inputs that the reference does not have.
    pub skipped: Vec<String>,
}

/// Rows that the next operations read.
pub(super) struct Slot<'r> {
    /// `[tokens, width]`
    pub rows: Cow<'r, [f32]>,
    /// What they are off from the reference's.
    pub noise: Noise,
    /// Components that they came through and the reference does not have: empty where they are its own.
    pub unseen: Vec<String>,
}

/// One component beside the reference's.
pub(super) struct Case<'c, 'r> {
    pub file: &'c NsvFile,
    pub reference: &'r Reference,
    pub component: &'c Component,
    /// What was there before it.
    pub slots: &'c HashMap<&'static str, Slot<'r>>,
    pub got: &'c [f32],
    pub expected: &'r [f32],
    pub noise: &'c Noise,
    pub tolerance: Tolerance,
    /// Values of a row.
    pub width: usize,
}

impl Case<'_, '_> {
    /// The model's numbers.
    pub fn spec(&self) -> &ModelSpec {
        self.file.spec()
    }

    /// Values that were normed together; of all but norms a row.
    pub fn unit(&self) -> usize {
        match &self.component.op {
            Op::Norm { weight, .. } => noise::vector(self.file, weight).len(),
            _ => self.width,
        }
    }

    /// Positions.
    pub fn tokens(&self) -> usize {
        self.got.len() / self.width
    }

    /// What value `i` may be off.
    pub fn limit(&self, i: usize) -> f64 {
        let Tolerance { atol, rtol } = self.tolerance;
        atol + rtol * f64::from(self.expected[i]).abs() + self.noise.limit(i)
    }

    /// Whether value `i` may be `got` where the reference has `expected`. Written so that NaN may not.
    pub fn close(&self, i: usize, got: f64, expected: f64) -> bool {
        (got - expected).abs() <= self.limit(i)
    }

    /// Whether value `i` is off.
    pub fn off(&self, i: usize) -> bool {
        !self.close(i, self.got[i].into(), self.expected[i].into())
    }

    /// Rows of the output that are off, at any position.
    pub fn rows(&self) -> Vec<usize> {
        let off = (0..self.got.len()).filter(|&i| self.off(i)).map(|i| i % self.width);
        off.collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// By which factor values `first..first + unit` are the reference's, as near as one factor can be.
    pub fn factor(&self, first: usize, unit: usize) -> f64 {
        let part = first..first + unit;
        let (got, expected) = (&self.got[part.clone()], &self.expected[part]);
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
        dot(got, expected) / dot(expected, expected)
    }

    /// The first place that is off. A norm's rows have one more thing in common, their factor, and it shows what is too
    /// small for any single value, such as an eps of 1e-6 for 1e-5 on rows of size 1, which is 4.5e-6. Half of that is
    /// where it counts: a fifth of the tolerance. Sums in f32 make 2e-7 of it, in transformers, at widths up to 2048.
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

/// Looks at every component in turn.
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
    /// What rounding makes of a component's values, given what it reads.
    fn noise(&self, component: &Component, got: &[f32], width: usize) -> Noise {
        let (slot, spec) = (|name: &str| &self.slots[name], self.file.spec());
        match &component.op {
            Op::Embed => {
                // Steps are those of the table's values.
                let plain: Vec<f32> = got.iter().map(|x| x / spec.embed_scale as f32).collect();
                noise::embed(self.file, &plain, width).scaled(spec.embed_scale)
            }
            // A cap makes differences smaller.
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
        let (reference, component) = (self.reference, Component::of(self.file.spec(), name));
        if self.failed.is_some() {
            return None;
        }
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
        let case = Case { file, reference, component, slots, got, expected, noise, tolerance, width };
        let Some(at) = case.first() else { return };
        // Gate and up are computed once more inside: what was wrong there is no news here.
        let halves = ["mlp.gate", "mlp.up"].map(|half| format!("{}{half}", component.prefix));
        let told = self.judged.findings.iter().any(|f| halves.contains(&f.component));
        if !(matches!(component.op, Op::Gate { .. }) && told) {
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
    // The cache holds keys and values as they are: rounding them is no fault.
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
