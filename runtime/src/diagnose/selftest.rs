//! A file proves itself where it runs: golden vectors are made when a file is, and replayed by every path of a machine.
//!
//! A path is an instruction set's kernels, a way of keeping keys and values, and a way of feeding tokens: a prompt goes
//! through other kernels than single tokens do. On the CPU all paths give the same bits of logits, so a hash is the test.
//! The answers were made by the file itself: they show that this machine computes what the one that made the file did.
//! Whether that is what the model's authors meant is for a reference to say, which a file may hold beside them.

use crate::backend::{Backend, KvType};
use crate::cpu::isa::{self, Kernels};
use crate::cpu::pool::Pool;
use crate::cpu::{CpuBackend, threads::default_threads};
use crate::engine::session::Engine;
use crate::error::{Result, RuntimeError};
use crate::tokenizer::Tokenizer;
use nanoserve_format::{Encoding, Golden, GoldenRow, GoldenRun, NsvFile, TokenizerVector, TokenizerVectors};
use std::fmt;
use std::sync::Arc;

/// Tokens of the golden vectors.
const TOKENS: usize = 16;

/// The positions whose logits are kept.
const POSITIONS: [usize; 5] = [0, 1, 3, 8, TOKENS - 1];

/// Tokens that the plain kernels run of a model with more weights than [`LARGE`]: enough to see positions differ, few enough
/// not to wait for.
const PLAIN_TOKENS: usize = 2;

/// Weights from which on the plain kernels are slow.
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

/// What one path made of the golden vectors.
#[derive(Clone, Debug)]
pub struct PathResult {
    /// The kernels.
    pub isa: &'static str,
    /// How keys and values were kept.
    pub kv: String,
    /// How tokens were fed.
    pub feed: Feed,
    /// Positions compared.
    pub positions: usize,
    /// The first position with other bits, and the largest difference of its kept logits.
    pub failed: Option<(usize, f64)>,
}

/// How far a file is from the reference it holds.
#[derive(Clone, Debug, PartialEq)]
pub struct ReferenceResult {
    /// Whose answers they are.
    pub made_by: String,
    /// Positions compared.
    pub positions: usize,
    /// Largest difference of the reference's kept logits.
    pub max_abs: f64,
    /// Positions where both put the same token first.
    pub same_first: usize,
}

/// Tokens that any vocabulary has: SplitMix64, from a fixed start.
fn tokens(vocab_size: usize, count: usize) -> Vec<u32> {
    let mut state = 0u64;
    let next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((x ^ (x >> 31)) % vocab_size as u64) as u32
    };
    std::iter::repeat_with(next).take(count).collect()
}

/// An engine of some kernels.
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

/// The golden vectors of a file: run by this machine's fastest kernels, the first positions again by the plain ones.
///
/// # Errors
/// When the file cannot be run, or the two disagree.
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
    // No kernel's name: whichever machine made the file, its bytes are the same.
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

/// Replays the golden vectors on every path this machine can run, the plain kernels first, or those of one instruction
/// set; nothing where the file holds none.
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

/// Runs the first of the golden tokens and compares what was kept of them: how many positions, and the first that differs.
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

/// What a device whose bits are its own made of the golden vectors.
#[derive(Clone, Debug)]
pub struct DeviceResult {
    /// How keys and values were kept.
    pub kv: String,
    /// How tokens were fed.
    pub feed: Feed,
    /// Positions compared.
    pub positions: usize,
    /// Largest difference of the kept logits, over the largest of them.
    pub difference: f64,
    /// How much that may be: see [`device_tolerance`].
    pub tolerance: f64,
}

impl DeviceResult {
    /// Whether it is near enough.
    pub fn pass(&self) -> bool {
        // Written so that what is not a number fails.
        self.difference <= self.tolerance
    }
}

/// How far a GPU's logits may be from the CPU's, over the largest kept one; docs/cuda.md has what was measured. f32 and f16 weights
/// differ in the order of sums alone. Into an f16 cache a key or value that was a little off may be rounded the other way.
/// With q8 the CPU rounds activations to 8 bits, the GPU does so for a token and not in a prompt: what differs is that rounding.
pub fn device_tolerance(encoding: Encoding, kv: KvType) -> f64 {
    match (encoding, kv) {
        (Encoding::F32 | Encoding::F16, KvType::F32) => 1e-4,
        (Encoding::F32 | Encoding::F16, KvType::F16) => 1e-3,
        (Encoding::Q8, _) => 1e-1,
    }
}

/// Replays the golden vectors on an engine that is held to a tolerance; nothing where the file holds none.
///
/// # Errors
/// When the file cannot be run, or its vectors do not fit it.
pub fn device_test<B: Backend>(engine: &mut Engine<B>) -> Result<Vec<DeviceResult>> {
    let file = engine.file().clone();
    let Some(golden) = file.golden()? else { return Ok(Vec::new()) };
    let (encoding, vocab_size) = (file.layout().tensors[0].encoding, file.spec().vocab_size);
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
                // What is not a number stays.
                difference = if off > difference || off.is_nan() { off } else { difference };
            }
            let tolerance = device_tolerance(encoding, kv);
            results.push(DeviceResult { kv: run.kv.clone(), feed, positions: run.rows.len(), difference, tolerance });
        }
    }
    Ok(results)
}

/// Over the logits that were kept; infinite for one that does not exist.
fn largest_difference(row: &GoldenRow, got: &[f32]) -> f64 {
    let one = |&(id, logit): &(u32, f32)| match got.get(id as usize) {
        Some(&got) => (f64::from(got) - f64::from(logit)).abs(),
        None => f64::INFINITY,
    };
    row.top.iter().map(one).fold(0.0, |most: f64, x| if x > most || x.is_nan() { x } else { most })
}

/// Runs the tokens of the file's reference and says how far its own answers are; None when it holds none.
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

/// Holds a tokenizer against what the one it was made from did.
///
/// # Errors
/// The first difference.
pub fn tokenizer(tokenizer: &Tokenizer, vectors: &TokenizerVectors, add_bos: Option<bool>) -> Result<()> {
    for TokenizerVector { text, ids, back } in &vectors.texts {
        let differs = |got: String, expected: String| {
            if got == expected {
                Ok(())
            } else {
                Err(RuntimeError::TokenizerVectors { text: text.clone(), got, expected })
            }
        };
        let got = tokenizer.encode(text, false)?;
        if got != *ids {
            differs(format!("{got:?}"), format!("{ids:?}"))?;
        }
        differs(tokenizer.decode(ids, false)?, back.clone())?;
        // The makers may have said something else about BOS than the tokenizer does.
        if add_bos.is_none() && !ids.is_empty() && !vectors.front.contains(&ids[0]) {
            let (got, expected) = (tokenizer.encode(text, true)?, [&vectors.front[..], ids].concat());
            differs(format!("{got:?}"), format!("{expected:?}"))?;
        }
    }
    Ok(())
}

/// What is kept of a reference's logits `[ids, vocab_size]`: as many positions as of golden vectors, the last among them.
pub fn reference(made_by: String, ids: &[u32], logits: &[f32]) -> Golden {
    let (last, vocab_size) = (ids.len().saturating_sub(1), logits.len() / ids.len().max(1));
    let mut positions: Vec<usize> = (0..POSITIONS.len()).map(|i| i * last / (POSITIONS.len() - 1)).collect();
    positions.dedup();
    let rows = positions.into_iter().map(|position| GoldenRow {
        // Another arithmetic gives other bits: there is nothing to compare a hash with.
        hash: None,
        ..GoldenRow::of(position, &logits[position * vocab_size..][..vocab_size])
    });
    Golden { made_by, ids: ids.to_vec(), runs: vec![GoldenRun { kv: "f32".into(), rows: rows.collect() }] }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nanoserve_format::TOP;

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
        assert!(kept.runs[0].rows.iter().all(|r| r.hash.is_none() && r.top.len() == TOP));
        assert_eq!(reference("one".into(), &[0], &logits[..70]).runs[0].rows.len(), 1);
    }
}
