//! The self-test: golden vectors are made together with a file, and replayed on every path of the machine that runs it.
//!
//! A path is an instruction set's kernels, a type of keys and values, and a way of feeding tokens, since a prompt goes
//! through other kernels than single tokens. On the CPU all paths give the same logits bit for bit, so the test
//! compares hashes. The golden vectors were computed from the file itself: they show that this machine computes the
//! same as the one that made the file. Whether that is what the model's authors meant is for a reference to show, which
//! a file may also hold.

use crate::backend::{Backend, KvType};
use crate::cpu::isa::{self, Kernels};
use crate::cpu::pool::Pool;
use crate::cpu::{CpuBackend, threads::default_threads};
use crate::engine::Engine;
use crate::error::{Result, RuntimeError};
use nanoserve_format::{Encoding, Golden, GoldenRow, GoldenRun, InputForm, NsvFile, SplitMix64};
use std::fmt;
use std::sync::Arc;

/// Number of tokens of the golden vectors.
const TOKENS: usize = 16;

/// The positions whose logits are stored.
const POSITIONS: [usize; 5] = [0, 1, 3, 8, TOKENS - 1];

/// Number of tokens that the scalar kernels run of a model with more weights than [`LARGE`]: enough to tell positions
/// apart, few enough not to take long.
const PLAIN_TOKENS: usize = 2;

/// Number of weights above which the scalar kernels are slow.
const LARGE: u64 = 50_000_000;

/// How tokens are fed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feed {
    /// All in one step.
    Prompt,
    /// One by one.
    Tokens,
}

impl fmt::Display for Feed {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.pad(match self {
            Feed::Prompt => "prompt",
            Feed::Tokens => "token by token",
        })
    }
}

/// The result of one path on the golden vectors.
#[derive(Clone, Debug)]
pub struct PathResult {
    /// The kernels.
    pub isa: &'static str,
    /// Type of keys and values.
    pub kv: String,
    /// How tokens were fed.
    pub feed: Feed,
    /// Number of positions compared.
    pub positions: usize,
    /// The first position with other bits, and the largest difference of its stored logits.
    pub failed: Option<(usize, f64)>,
}

/// How far a file's logits are from the reference that it holds.
#[derive(Clone, Debug, PartialEq)]
pub struct ReferenceResult {
    /// The program that made the reference.
    pub made_by: String,
    /// Number of positions compared.
    pub positions: usize,
    /// Largest difference from the reference's stored logits.
    pub max_abs: f64,
    /// Number of positions where both have the same likeliest token.
    pub same_first: usize,
}

/// `count` token ids that are in any vocabulary: SplitMix64 with a fixed seed.
fn tokens(vocab_size: usize, count: usize) -> Vec<u32> {
    let mut random = SplitMix64::new(0);
    std::iter::repeat_with(|| (random.next_u64() % vocab_size as u64) as u32).take(count).collect()
}

/// An engine with these kernels.
fn engine(file: &Arc<NsvFile>, kernels: &'static Kernels, pool: &Arc<Pool>) -> Result<Engine<CpuBackend>> {
    Engine::with_backend(file.clone(), CpuBackend::new(kernels, pool.clone()))
}

/// The logits after each of some tokens: `[ids, vocab_size]`.
fn logits<B: Backend>(engine: &mut Engine<B>, ids: &[u32], kv: KvType, feed: Feed) -> Result<Vec<f32>> {
    let mut session = engine.session(ids.len(), kv)?;
    match feed {
        Feed::Prompt => session.feed_all(ids),
        Feed::Tokens => {
            let rows = ids.iter().map(|&id| session.feed(&[id], 1));
            Ok(rows.collect::<Result<Vec<_>>>()?.concat())
        }
    }
}

fn kv_type(name: &str) -> Option<KvType> {
    KvType::ALL.iter().find(|(n, _)| *n == name).map(|(_, kv)| *kv)
}

/// Makes the golden vectors of a file with this machine's fastest kernels, and checks the first positions with the
/// scalar kernels.
///
/// # Errors
/// When the file cannot be run, a logit is not finite, or the two kinds of kernels disagree.
pub fn golden(file: &Arc<NsvFile>, threads: Option<usize>) -> Result<Golden> {
    let (spec, kernels) = (file.spec(), isa::choose(None)?);
    let ids = tokens(spec.vocab_size, TOKENS.min(spec.context_length));
    let pool = Arc::new(Pool::new(threads.unwrap_or_else(default_threads))?);
    let mut fastest = engine(file, kernels, &pool)?;
    let mut runs = Vec::new();
    for (kv, kv_type) in KvType::ALL {
        let all = logits(&mut fastest, &ids, kv_type, Feed::Prompt)?;
        if let Some(at) = all.iter().position(|x| !x.is_finite()) {
            let cause = format!("the logits after token {} are not all numbers", at / spec.vocab_size);
            return Err(RuntimeError::GoldenVectors { cause });
        }
        let rows = POSITIONS.into_iter().zip(POSITIONS.map(|p| all.chunks_exact(spec.vocab_size).nth(p)));
        let rows = rows.filter_map(|(position, row)| row.map(|row| GoldenRow::of(position, row))).collect();
        runs.push(GoldenRun { kv: kv.to_string(), rows });
    }
    // Does not name the kernels, so that every machine makes the same bytes.
    let made_by = concat!("this file, nanoserve ", env!("CARGO_PKG_VERSION")).to_string();
    let golden = Golden { made_by, ids, runs };
    let mut plain = engine(file, isa::available()[0], &pool)?;
    let short = &golden.ids[..PLAIN_TOKENS.min(golden.ids.len())];
    let checked = replay(&mut plain, &golden, &golden.runs[0], short, Feed::Prompt)?;
    match checked.1 {
        None => Ok(golden),
        Some((position, difference)) => Err(RuntimeError::SelfTest { isa: kernels.name, position, difference }),
    }
}

/// Replays the golden vectors on every path that this machine can run, the scalar kernels first, or only on those of
/// one instruction set. Returns nothing if the file holds none.
///
/// # Errors
/// When the file cannot be run, its vectors do not fit it, or there are no such kernels.
pub fn self_test(file: &Arc<NsvFile>, threads: Option<usize>, isa: Option<&str>) -> Result<Vec<PathResult>> {
    let Some(golden) = file.golden()? else { return Ok(Vec::new()) };
    let pool = Arc::new(Pool::new(threads.unwrap_or_else(default_threads))?);
    let mut results = Vec::new();
    let tables = match isa {
        Some(_) => vec![isa::choose(isa)?],
        None => isa::available(),
    };
    for kernels in tables {
        let mut engine = engine(file, kernels, &pool)?;
        let plain = kernels.rates.is_none() && file.layout().weight_count() > LARGE;
        let count = if plain { PLAIN_TOKENS.min(golden.ids.len()) } else { golden.ids.len() };
        for run in &golden.runs {
            for feed in [Feed::Prompt, Feed::Tokens] {
                let (positions, failed) = replay(&mut engine, &golden, run, &golden.ids[..count], feed)?;
                results.push(PathResult { isa: kernels.name, kv: run.kv.clone(), feed, positions, failed });
            }
        }
    }
    Ok(results)
}

/// Runs `ids`, the first golden tokens, and compares their stored positions. Returns the number of positions, and the
/// first one that differs with its largest difference.
fn replay<B: Backend>(
    engine: &mut Engine<B>,
    golden: &Golden,
    run: &GoldenRun,
    ids: &[u32],
    feed: Feed,
) -> Result<(usize, Option<(usize, f64)>)> {
    let unfit = |what: &str| RuntimeError::GoldenVectors { cause: what.to_string() };
    let kv = kv_type(&run.kv).ok_or_else(|| unfit("they were made with a cache that is not known here"))?;
    if golden.ids.is_empty() || run.rows.is_empty() {
        return Err(unfit("they are empty"));
    }
    let all = logits(engine, ids, kv, feed)?;
    let vocab_size = engine.file().spec().vocab_size;
    let (mut compared, mut failed) = (0, None);
    for row in run.rows.iter().filter(|row| row.position < ids.len()) {
        let got = &all[row.position * vocab_size..][..vocab_size];
        compared += 1;
        if GoldenRow::of(row.position, got).hash != row.hash && failed.is_none() {
            failed = Some((row.position, largest_difference(row, got)));
        }
    }
    if compared == 0 { Err(unfit("they keep no position of their tokens")) } else { Ok((compared, failed)) }
}

/// The result on the golden vectors of a device that gives other bits than the CPU.
#[derive(Clone, Debug)]
pub struct DeviceResult {
    /// Type of keys and values.
    pub kv: String,
    /// How tokens were fed.
    pub feed: Feed,
    /// Number of positions compared.
    pub positions: usize,
    /// Largest difference of the stored logits of a position, relative to the largest of them.
    pub difference: f64,
    /// The largest difference that passes: see [`device_tolerance`].
    pub tolerance: f64,
}

impl DeviceResult {
    /// True if the difference is within the tolerance.
    pub fn pass(&self) -> bool {
        // Written so that NaN fails.
        self.difference <= self.tolerance
    }
}

/// How far a GPU's logits may be from the CPU's, relative to the largest stored one; docs/cuda.md has the measurements.
/// With f32 and f16 weights only the order of sums differs. In an f16 KV cache, a key or value that is slightly off may
/// be rounded the other way. With q8 weights the CPU rounds activations to 8 bits; the GPU does so for single tokens
/// but not in a prompt, and that rounding is the difference. If a file has several encodings, the loosest tolerance
/// applies.
pub fn device_tolerance(encoding: Encoding, kv: KvType) -> f64 {
    match (encoding.input(), kv) {
        (InputForm::Float, KvType::F32) => 1e-4,
        (InputForm::Float, KvType::F16) => 1e-3,
        (InputForm::Bytes32, _) => 1e-1,
    }
}

/// Replays the golden vectors on an engine whose logits need only be within a tolerance. Returns nothing if the file
/// holds none.
///
/// # Errors
/// When the file cannot be run, or its vectors do not fit it.
pub fn device_test<B: Backend>(engine: &mut Engine<B>) -> Result<Vec<DeviceResult>> {
    let file = engine.file().clone();
    let Some(golden) = file.golden()? else { return Ok(Vec::new()) };
    let (encodings, vocab_size) = (file.layout().encodings(), file.spec().vocab_size);
    let mut results = Vec::new();
    for run in &golden.runs {
        let unfit = || RuntimeError::GoldenVectors { cause: "a cache or a position that is not known here".into() };
        let kv = kv_type(&run.kv).ok_or_else(unfit)?;
        for feed in [Feed::Prompt, Feed::Tokens] {
            let all = logits(engine, &golden.ids, kv, feed)?;
            let mut difference = 0.0f64;
            for row in &run.rows {
                let got = all.chunks_exact(vocab_size).nth(row.position).ok_or_else(unfit)?;
                let largest = row.top.iter().fold(0.0f64, |most, (_, x)| most.max(f64::from(x.abs())));
                let off = largest_difference(row, got) / largest.max(f64::MIN_POSITIVE);
                // Once NaN, it stays NaN.
                difference = if off > difference || off.is_nan() { off } else { difference };
            }
            let tolerance = encodings.iter().map(|encoding| device_tolerance(encoding, kv)).fold(0.0, f64::max);
            results.push(DeviceResult { kv: run.kv.clone(), feed, positions: run.rows.len(), difference, tolerance });
        }
    }
    Ok(results)
}

/// The largest difference of the stored logits; infinite if one of them does not exist.
fn largest_difference(row: &GoldenRow, got: &[f32]) -> f64 {
    let one = |&(id, logit): &(u32, f32)| match got.get(id as usize) {
        Some(&got) => (f64::from(got) - f64::from(logit)).abs(),
        None => f64::INFINITY,
    };
    row.top.iter().map(one).fold(0.0, |most: f64, x| if x > most || x.is_nan() { x } else { most })
}

/// Runs the tokens of the file's reference and compares the logits with it. None if the file holds no reference.
///
/// # Errors
/// When the file cannot be run, or its reference does not fit it.
pub fn against_reference(file: &Arc<NsvFile>, threads: Option<usize>) -> Result<Option<ReferenceResult>> {
    let Some(reference) = file.reference()? else { return Ok(None) };
    let pool = Arc::new(Pool::new(threads.unwrap_or_else(default_threads))?);
    let mut engine = engine(file, isa::choose(None)?, &pool)?;
    let all = logits(&mut engine, &reference.ids, KvType::F32, Feed::Prompt)?;
    let vocab_size = file.spec().vocab_size;
    let mut result = ReferenceResult { made_by: reference.made_by.clone(), positions: 0, max_abs: 0.0, same_first: 0 };
    for row in reference.runs.iter().flat_map(|run| &run.rows) {
        let unfit = || RuntimeError::GoldenVectors { cause: format!("there is no position {}", row.position) };
        let got = all.chunks_exact(vocab_size).nth(row.position).ok_or_else(unfit)?;
        let first = GoldenRow::of(row.position, got).top.first().map(|t| t.0);
        result.positions += 1;
        result.max_abs = result.max_abs.max(largest_difference(row, got));
        result.same_first += usize::from(first == row.top.first().map(|t| t.0));
    }
    Ok(Some(result))
}

/// Selects what a file stores of a reference's logits `[ids, vocab_size]`: as many positions as of golden vectors,
/// including the last.
pub fn reference(made_by: String, ids: &[u32], logits: &[f32]) -> Golden {
    let (last, vocab_size) = (ids.len().saturating_sub(1), logits.len() / ids.len().max(1));
    let mut positions: Vec<usize> = (0..POSITIONS.len()).map(|i| i * last / (POSITIONS.len() - 1)).collect();
    positions.dedup();
    let rows = positions.into_iter().map(|position| GoldenRow {
        // Other arithmetic gives other bits, so a hash would be useless.
        hash: None,
        ..GoldenRow::of(position, &logits[position * vocab_size..][..vocab_size])
    });
    Golden { made_by, ids: ids.to_vec(), runs: vec![GoldenRun { kv: "f32".into(), rows: rows.collect() }] }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nanoserve_format::KEPT_LOGITS;

    #[test]
    fn tokens_are_in_the_vocabulary_and_always_the_same() {
        assert_eq!(tokens(1, 3), [0, 0, 0]);
        assert_eq!(tokens(1000, 4), tokens(1000, 4));
        assert!(tokens(1000, 16).iter().all(|&id| id < 1000));
        assert_ne!(tokens(1000, 2)[0], tokens(1000, 2)[1]);
    }

    #[test]
    fn a_reference_keeps_its_ends_and_no_hash() {
        let logits: Vec<f32> = (0..9 * 70).map(|i| i as f32).collect();
        let kept = reference("somebody".into(), &[0; 9], &logits);
        let positions: Vec<usize> = kept.runs[0].rows.iter().map(|r| r.position).collect();
        assert_eq!(positions, [0, 2, 4, 6, 8]);
        assert!(kept.runs[0].rows.iter().all(|r| r.hash.is_none() && r.top.len() == KEPT_LOGITS));
        assert_eq!(reference("one".into(), &[0], &logits[..70]).runs[0].rows.len(), 1);
    }
}
