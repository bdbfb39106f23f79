//! Compares each instruction set's kernels with the scalar ones, operation by operation, bit for bit.
//!
//! All run the same tokens. The scalar kernels run once; the others run on the scalar kernels' inputs, once with the
//! whole prompt in a step and once token by token, since those use different kernels. If a component differs, each
//! kernel involved in it is tested alone among scalar kernels: if the component still differs, that kernel is at fault.
//! It is then replaced by its scalar twin and the search goes on, so that every broken kernel is found once.

use super::component::{Component, Op};
use super::{At, Finding, Listed};
use crate::backend::KvType;
use crate::cpu::CpuBackend;
use crate::cpu::isa::Kernels;
use crate::cpu::pool::Pool;
use crate::cpu::scalar;
use crate::diagnose::verify::trace;
use crate::engine::Engine;
use crate::error::Result;
use nanoserve_format::schema::LM_HEAD;
use nanoserve_format::{Activation, Encoding, InputForm, NsvFile, PANEL_ROWS};
use std::collections::HashMap;
use std::sync::Arc;

/// One kernel of a table: its name, and a function that replaces it by another table's.
type Kernel = (&'static str, fn(&mut Kernels, &Kernels));

const MATRIX_F32: Kernel = ("matrix_f32", |k, by| k.matrix_f32 = by.matrix_f32);
const MATRIX_F16: Kernel = ("matrix_f16", |k, by| k.matrix_f16 = by.matrix_f16);
const MATRIX_Q8: Kernel = ("matrix_q8", |k, by| k.matrix_q8 = by.matrix_q8);
const MATRIX_CODES: Kernel = ("matrix_codes", |k, by| k.matrix_codes = by.matrix_codes);
const QUANTIZE: Kernel = ("quantize", |k, by| k.quantize = by.quantize);
const RMS_NORM: Kernel = ("rms_norm", |k, by| k.rms_norm = by.rms_norm);
const ROPE: Kernel = ("rope", |k, by| k.rope = by.rope);
const SILU_MUL: Kernel = ("silu_mul", |k, by| k.silu_mul = by.silu_mul);
const GELU_MUL: Kernel = ("gelu_mul", |k, by| k.gelu_mul = by.gelu_mul);
const SCALE: Kernel = ("scale", |k, by| k.scale = by.scale);
const SOFTCAP: Kernel = ("softcap", |k, by| k.softcap = by.softcap);
const ADD: Kernel = ("add", |k, by| k.add = by.add);
const ATTEND_F32: Kernel = ("attend_f32", |k, by| k.attend_f32 = by.attend_f32);
const ATTEND_F16: Kernel = ("attend_f16", |k, by| k.attend_f16 = by.attend_f16);

/// The matrix kernel of an encoding.
fn multiplies(encoding: Encoding) -> Kernel {
    match encoding {
        Encoding::F32 => MATRIX_F32,
        Encoding::F16 => MATRIX_F16,
        Encoding::Q8 => MATRIX_Q8,
        Encoding::Codes(_) => MATRIX_CODES,
    }
}

/// The kernels involved in the product of a matrix and its bias.
fn product(file: &NsvFile, weight: &str) -> Vec<Kernel> {
    let encoding = file.tensor(weight).expect("a matrix of the schema").encoding;
    match encoding.input() {
        InputForm::Float => vec![multiplies(encoding), ADD],
        InputForm::Bytes32 => vec![QUANTIZE, multiplies(encoding), ADD],
    }
}

/// The kernels involved in a component. One that is listed twice is tested twice but found once.
fn involved(file: &NsvFile, component: &Component, kv: KvType) -> Vec<Kernel> {
    let matrix = |weight: &str| product(file, weight);
    match (&component.op, kv) {
        (Op::Embed, _) => vec![SCALE],
        (Op::Head, _) => [matrix(LM_HEAD), vec![SCALE, SOFTCAP]].concat(),
        (Op::Norm { .. }, _) => vec![RMS_NORM],
        (Op::Linear { weight, .. }, _) => matrix(weight),
        (Op::Gate { gate, up, .. }, _) => {
            let activation = match file.spec().activation {
                Activation::Silu => SILU_MUL,
                Activation::GeluTanh => GELU_MUL,
            };
            [matrix(gate), matrix(up), vec![activation]].concat()
        }
        (Op::Rope { .. }, _) => vec![ROPE],
        (Op::Attention, KvType::F32) => vec![ATTEND_F32],
        (Op::Attention, KvType::F16) => vec![ATTEND_F16],
        (Op::Add { .. }, _) => vec![ADD, SCALE],
    }
}

/// A result that differs from the scalar kernels'.
struct Difference {
    component: String,
    at: At,
    got: f32,
    expected: f32,
    /// Number of tokens in one step.
    chunk: usize,
    /// Rows that differ, at any position.
    rows: Vec<usize>,
}

/// A file, some tokens, and the scalar kernels' results for them.
struct Twin<'a> {
    file: &'a Arc<NsvFile>,
    pool: &'a Arc<Pool>,
    kv: KvType,
    ids: &'a [u32],
    rows: HashMap<String, Vec<f32>>,
}

impl Twin<'_> {
    fn engine(&self, kernels: Kernels) -> Result<Engine<CpuBackend>> {
        // A backend's table is `'static`, so it is leaked. Tables are small, and more than a few are made only if one
        // is broken.
        let kernels = Box::leak(Box::new(kernels));
        Engine::with_backend(self.file.clone(), CpuBackend::new(kernels, self.pool.clone()))
    }

    /// The first component that differs, in steps of `chunk` tokens; if `only` is given, of that name.
    fn first(&self, kernels: Kernels, chunk: usize, only: Option<&str>) -> Result<Option<Difference>> {
        let mut engine = self.engine(kernels)?;
        let mut session = engine.session(self.ids.len(), self.kv)?;
        let mut found: Option<Difference> = None;
        for (i, ids) in self.ids.chunks(chunk).enumerate() {
            let first = i * chunk;
            session.trace(ids, &mut |name, got| {
                let width = got.len() / ids.len();
                let expected = &self.rows[name][first * width..][..got.len()];
                let other =
                    found.as_ref().is_some_and(|f| f.component != name) || only.is_some_and(|only| only != name);
                if other {
                    return Some(expected);
                }
                for i in (0..got.len()).filter(|&i| got[i].to_bits() != expected[i].to_bits()) {
                    let at = At { position: first + i / width, row: i % width };
                    let (component, got, expected) = (name.to_string(), got[i], expected[i]);
                    let new = || Difference { component, at, got, expected, chunk, rows: Vec::new() };
                    found.get_or_insert_with(new).rows.push(at.row);
                }
                Some(expected)
            })?;
        }
        if let Some(found) = &mut found {
            found.rows.sort_unstable();
            found.rows.dedup();
        }
        Ok(found)
    }

    /// Finds every broken kernel of a table.
    fn search(&self, kernels: &Kernels) -> Result<Vec<Finding>> {
        let (mut healed, mut findings) = (*kernels, Vec::new());
        for chunk in [self.ids.len(), 1] {
            while let Some(found) = self.first(healed, chunk, None)? {
                let before = findings.len();
                let component = Component::of(self.file.spec(), &found.component)?;
                for (name, replace) in involved(self.file, &component, self.kv) {
                    let mut alone = scalar::KERNELS;
                    replace(&mut alone, &healed);
                    if self.first(alone, chunk, Some(&found.component))?.is_some() {
                        replace(&mut healed, &scalar::KERNELS);
                        findings.push(self.finding(kernels.name, &found, name));
                    }
                }
                if findings.len() == before {
                    findings.push(self.finding(kernels.name, &found, "the code around the kernels"));
                    return Ok(findings);
                }
            }
        }
        Ok(findings)
    }

    fn finding(&self, name: &str, found: &Difference, blame: &str) -> Finding {
        let Difference { at, got, expected, rows, .. } = found;
        let mut lanes: Vec<usize> = rows.iter().map(|r| r % PANEL_ROWS).collect();
        lanes.sort_unstable();
        lanes.dedup();
        let lanes = if lanes.len() < PANEL_ROWS { format!(", lane {}", Listed(&lanes)) } else { String::new() };
        let steps = if found.chunk == 1 { "token by token" } else { "the prompt whole" };
        Finding {
            component: found.component.clone(),
            blame: blame.into(),
            at: Some(*at),
            path: Some(format!("{name}, {steps}, cache {}", self.kv.name())),
            what: format!("{got:e} where the plain kernels give {expected:e}; rows {} differ{lanes}", Listed(rows)),
        }
    }
}

/// Runs `ids` with each of `paths` on the scalar kernels' inputs, and returns every kernel that does not equal its
/// scalar twin.
///
/// # Errors
/// When the tokens do not fit the model.
pub fn kernels(
    file: &Arc<NsvFile>,
    pool: &Arc<Pool>,
    paths: &[&Kernels],
    kv: KvType,
    ids: &[u32],
) -> Result<Vec<Finding>> {
    if paths.is_empty() {
        return Ok(Vec::new());
    }
    let mut twin = Twin { file, pool, kv, ids, rows: HashMap::new() };
    twin.rows = trace(&mut twin.engine(scalar::KERNELS)?, ids, kv)?.into_iter().collect();
    let found = paths.iter().map(|kernels| twin.search(kernels)).collect::<Result<Vec<_>>>()?;
    Ok(found.concat())
}
