//! Several sequences in one step: each gets the same bits as alone, whatever else is in the step and in whatever order.
//! On a GPU, spans run one after the other: the results are within the GPU's tolerance and have the same bits as alone.

use nanoserve_format::{Encoding, NsvFile};
use nanoserve_runtime::backend::{Backend, WINDOW_STEP};
use nanoserve_runtime::cpu::CpuBackend;
use nanoserve_runtime::cpu::pool::Pool;
use nanoserve_runtime::cuda::{Driver, split::Split};
use nanoserve_runtime::{Engine, KvType, Logits, RuntimeError, Sequence, Span, Wants};
use nanoserve_tests::emulator::Emulator;
use nanoserve_tests::specs::{base, specs};
use nanoserve_tests::{SplitMix64, engine, for_each_isa, random_tensors, write_tensors};
use std::path::Path;
use std::sync::Arc;

/// Capacity of a sequence: rings of small windows wrap in it.
const CAPACITY: usize = 400;

/// Texts of 1 to `most` tokens. Every second one begins like the one before it.
fn texts(random: &mut SplitMix64, count: usize, most: usize, vocab_size: usize) -> Vec<Vec<u32>> {
    let mut all: Vec<Vec<u32>> = Vec::new();
    for i in 0..count {
        let len = 1 + random.below(most);
        let shared = if i % 2 == 1 { &all[i - 1][..all[i - 1].len().min(len) / 2] } else { &[] };
        let rest = (shared.len()..len).map(|_| random.below(vocab_size) as u32).collect::<Vec<_>>();
        all.push([shared, &rest].concat());
    }
    all
}

/// Logits of every token of each text, each run by itself: `[tokens, vocab_size]`.
fn alone<B: Backend>(engine: &mut Engine<B>, texts: &[Vec<u32>], kv: KvType) -> Vec<Vec<f32>> {
    texts.iter().map(|ids| engine.session(CAPACITY, kv).unwrap().feed_all(ids).unwrap()).collect()
}

/// A sequence with its text and its expected logits.
struct Talk<'t, B: Backend> {
    sequence: Sequence<B>,
    ids: &'t [u32],
    expected: &'t [f32],
}

/// A span of the next step: which talk, how many tokens, what it asks for.
type Plan = (usize, usize, Wants);

/// Picks some unfinished talks, in random order, with some of their next tokens.
fn plan<B: Backend>(random: &mut SplitMix64, talks: &[Talk<B>]) -> Vec<Plan> {
    let mut open: Vec<usize> = (0..talks.len()).filter(|&i| talks[i].sequence.len() < talks[i].ids.len()).collect();
    let count = 1 + random.below(open.len());
    let spans = (0..count).map(|_| {
        let talk = open.swap_remove(random.below(open.len()));
        let left = talks[talk].ids.len() - talks[talk].sequence.len();
        let tokens = if random.below(2) == 0 { 1 } else { 1 + random.below(left) };
        let wants = [Wants::Nothing, Wants::Last, Wants::Top(3), Wants::All][random.below(4)];
        (talk, tokens, wants)
    });
    spans.collect()
}

/// Runs a plan in one step.
fn run<'t, B: Backend>(engine: &mut Engine<B>, talks: &mut [Talk<'t, B>], plan: &[Plan]) -> Vec<Logits<'static>> {
    let mut sequences: Vec<Option<(&mut Sequence<B>, &'t [u32])>> =
        talks.iter_mut().map(|talk| Some((&mut talk.sequence, talk.ids))).collect();
    let spans = plan.iter().map(|&(talk, tokens, wants)| {
        let (sequence, ids) = sequences[talk].take().unwrap();
        let ids = &ids[sequence.len()..][..tokens];
        Span::new(sequence, ids, wants)
    });
    let logits = engine.step(&mut spans.collect::<Vec<_>>()).unwrap();
    logits.into_iter().map(Logits::into_owned).collect()
}

/// Compares logits with what they must be; the text says where they are from.
type Hold<'h> = &'h dyn Fn(&[f32], &[f32], &str);

/// Feeds all texts in random company, and `hold` compares every returned row of logits with `expected`. Now and then a
/// sequence is truncated, or replaced by a copy.
fn mix<B: Backend>(
    engine: &mut Engine<B>,
    texts: &[Vec<u32>],
    expected: &[Vec<f32>],
    (kv, random): (KvType, &mut SplitMix64),
    hold: Hold,
) {
    let vocab_size = engine.file().spec().vocab_size;
    let talk = |(ids, expected): (&'_ Vec<u32>, &'_ Vec<f32>)| (ids.clone(), expected.clone());
    let texts: Vec<(Vec<u32>, Vec<f32>)> = texts.iter().zip(expected).map(talk).collect();
    let mut talks: Vec<Talk<B>> = Vec::new();
    for (ids, expected) in &texts {
        talks.push(Talk { sequence: engine.sequence(CAPACITY, kv).unwrap(), ids, expected });
    }
    let (mut steps, mut together) = (0, 0);
    while talks.iter().any(|talk| talk.sequence.len() < talk.ids.len()) {
        let plan = plan(random, &talks);
        let starts: Vec<usize> = plan.iter().map(|(talk, ..)| talks[*talk].sequence.len()).collect();
        let logits = run(engine, &mut talks, &plan);
        assert_eq!(logits.len(), plan.len());
        steps += 1;
        together += usize::from(plan.len() > 1);
        for ((&(talk, tokens, wants), start), logits) in plan.iter().zip(starts).zip(logits) {
            let end = start + tokens;
            let Talk { sequence, ids, expected } = &talks[talk];
            assert_eq!(sequence.ids(), &ids[..end]);
            let rows = match wants {
                Wants::Nothing => end..end,
                Wants::Last | Wants::Top(_) => end - 1..end,
                Wants::All => start..end,
            };
            let expected = &expected[rows.start * vocab_size..rows.end * vocab_size];
            match logits {
                Logits::Rows(got) => hold(&got, expected, &format!("step {steps}: {plan:?}")),
                Logits::Top(top) => {
                    let own: Vec<f32> = top.iter().map(|(id, _)| expected[*id as usize]).collect();
                    let got: Vec<f32> = top.iter().map(|(_, logit)| *logit).collect();
                    hold(&got, &own, &format!("step {steps}: {plan:?}"));
                }
            }
        }
        let some = random.below(talks.len());
        let len = talks[some].sequence.len();
        match random.below(8) {
            0 => _ = talks[some].sequence.truncate(len - random.below(len.min(WINDOW_STEP) + 1)),
            1 => talks[some].sequence = engine.fork(&talks[some].sequence).unwrap(),
            _ => {}
        }
    }
    assert!(together > 0 || texts.len() == 1, "no step had company");
}

fn same_bits(got: &[f32], expected: &[f32], what: &str) {
    let first = got.iter().zip(expected).position(|(a, b)| a.to_bits() != b.to_bits());
    assert_eq!((got.len(), first), (expected.len(), None), "{what}");
}

#[test]
fn a_sequence_gets_the_bits_that_it_gets_alone() {
    let folder = tempfile::tempdir().unwrap();
    for (seed, (name, spec)) in specs().into_iter().enumerate() {
        let mut random = SplitMix64::new(seed as u64);
        for (encoding, kv) in [(Encoding::Q8, KvType::F16), (Encoding::F16, KvType::F32)] {
            let path = write_tensors(&spec, &random_tensors(&spec), encoding, folder.path());
            let texts = texts(&mut random, 6, 300, spec.vocab_size);
            for_each_isa(|kernels| {
                let threads = 1 + random.below(4);
                let mut engine = engine(&path, kernels, threads);
                let expected = alone(&mut engine, &texts, kv);
                let hold = |got: &[f32], expected: &[f32], what: &str| {
                    same_bits(
                        got,
                        expected,
                        &format!("{name}, {encoding}, {}, {threads} threads, {what}", kernels.name),
                    );
                };
                mix(&mut engine, &texts, &expected, (kv, &mut random), &hold);
            });
        }
    }
}

fn emulated(path: &Path, first_layer: usize) -> Option<Engine<Split<Emulator>>> {
    let cpu = CpuBackend::new(nanoserve_runtime::cpu::isa::choose(None).unwrap(), Arc::new(Pool::new(1).unwrap()));
    let file = Arc::new(NsvFile::open(path).unwrap());
    Some(Engine::with_backend(file, Split::new(cpu, Emulator::new()?, first_layer)).unwrap())
}

/// On a GPU each span of a step runs by itself, so company changes no bit of it. But alone it may be fed in other
/// chunks, and single tokens use other arithmetic than several.
#[test]
fn a_gpu_takes_the_same_steps() {
    let folder = tempfile::tempdir().unwrap();
    let mut random = SplitMix64::new(7);
    let spec = specs().swap_remove(1).1;
    for (encoding, kv, tolerance) in [(Encoding::F16, KvType::F16, 2e-2), (Encoding::Q8, KvType::F16, 2e-1)] {
        let path = write_tensors(&spec, &random_tensors(&spec), encoding, folder.path());
        let texts = texts(&mut random, 3, 20, spec.vocab_size);
        let mut cpu = engine(&path, nanoserve_runtime::cpu::isa::choose(None).unwrap(), 1);
        let expected = alone(&mut cpu, &texts, kv);
        for first_layer in [0, 1] {
            let Some(mut engine) = emulated(&path, first_layer) else { return };
            let hold = |got: &[f32], expected: &[f32], what: &str| {
                let worst = got.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(got.len() == expected.len() && worst <= tolerance, "{encoding}: off by {worst}: {what}");
            };
            mix(&mut engine, &texts, &expected, (kv, &mut random), &hold);
        }
    }
}

/// With the same chunks alone and in company, no bit differs on a GPU either.
#[test]
fn company_changes_no_bit_on_a_gpu() {
    let folder = tempfile::tempdir().unwrap();
    let spec = base();
    let path = write_tensors(&spec, &random_tensors(&spec), Encoding::Q8, folder.path());
    let chunks: [&[&[u32]]; 3] =
        [&[&[3, 1, 4, 1], &[5], &[9]], &[&[2], &[7], &[1, 8]], &[&[3, 1, 4, 1], &[5], &[2, 6]]];
    let Some(mut engine) = emulated(&path, 0) else { return };
    let alone: Vec<Vec<Logits>> = chunks
        .iter()
        .map(|chunks| {
            let mut sequence = engine.sequence(CAPACITY, KvType::F16).unwrap();
            chunks
                .iter()
                .map(|ids| {
                    engine.step(&mut [Span::new(&mut sequence, ids, Wants::Last)]).unwrap().remove(0).into_owned()
                })
                .collect()
        })
        .collect();
    let mut sequences: Vec<_> = chunks.iter().map(|_| engine.sequence(CAPACITY, KvType::F16).unwrap()).collect();
    for step in 0..3 {
        let spans =
            sequences.iter_mut().zip(chunks).map(|(sequence, chunks)| Span::new(sequence, chunks[step], Wants::Last));
        let logits = engine.step(&mut spans.collect::<Vec<_>>()).unwrap();
        for (talk, logits) in logits.iter().enumerate() {
            assert_eq!(logits, &alone[talk][step], "talk {talk}, step {step}");
        }
    }
}

#[test]
fn a_step_that_is_refused_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let spec = base();
    let path = write_tensors(&spec, &random_tensors(&spec), Encoding::Q8, folder.path());
    for_each_isa(|kernels| {
        let mut engine = engine(&path, kernels, 1);
        let mut a = engine.sequence(8, KvType::F16).unwrap();
        let mut b = engine.sequence(8, KvType::F16).unwrap();
        engine.step(&mut [Span::new(&mut a, &[1, 2], Wants::Last), Span::new(&mut b, &[3], Wants::Last)]).unwrap();
        for (bad, what) in [(&[50][..], "vocabulary"), (&[], "empty"), (&[1; 8], "tokens")] {
            let error = engine.step(&mut [Span::new(&mut a, &[4], Wants::Last), Span::new(&mut b, bad, Wants::Last)]);
            let error = error.unwrap_err();
            assert!(error.to_string().contains(what), "{error}");
            assert_eq!((a.ids(), b.ids()), (&[1, 2][..], &[3][..]));
        }
        assert!(engine.step(&mut []).unwrap().is_empty());
    });
}

/// Memory that sequences were promised and have not touched is not available to others until they are dropped.
#[test]
fn one_ledger_counts_all_sequences() {
    let folder = tempfile::tempdir().unwrap();
    let spec =
        nanoserve_format::ModelSpec { n_kv_heads: 64, n_heads: 64, head_dim: 128, context_length: 1 << 24, ..base() };
    let path = write_tensors(&spec, &random_tensors(&spec), Encoding::Q8, folder.path());
    let mut engine = engine(&path, nanoserve_runtime::cpu::isa::choose(None).unwrap(), 1);
    let Some(room) = engine.room() else { return };
    // Each takes three fifths of the available memory: one fits, two do not.
    let position = 3 * 2 * 64 * 128 * 2u64;
    let capacity = (room.bytes / position / 5 * 3) as usize;
    let first = engine.sequence(capacity, KvType::F16).unwrap();
    let error = engine.sequence(capacity, KvType::F16).unwrap_err();
    assert!(matches!(error, RuntimeError::Memory { .. }), "{error}");
    drop(first);
    engine.sequence(capacity, KvType::F16).unwrap();
}

fn sendable<T: Send>(value: T) -> T {
    value
}

/// An engine and its sequences can move to another thread and back.
#[test]
fn an_engine_moves_to_another_thread() {
    let folder = tempfile::tempdir().unwrap();
    let spec = base();
    let path = write_tensors(&spec, &random_tensors(&spec), Encoding::Q8, folder.path());
    let mut engine = sendable(engine(&path, nanoserve_runtime::cpu::isa::choose(None).unwrap(), 2));
    let mut sequence = engine.sequence(CAPACITY, KvType::F16).unwrap();
    engine.feed(&mut sequence, &[1, 2, 3], 2).unwrap();
    let expected = engine.session(CAPACITY, KvType::F16).unwrap().feed(&[1, 2, 3, 4], 9).unwrap();
    let moved = std::thread::spawn(move || {
        let row = engine.feed(&mut sequence, &[4], 1).unwrap();
        (engine, sequence, row)
    });
    let (engine, sequence, row) = moved.join().unwrap();
    same_bits(&row, &expected, "on another thread");
    assert_eq!((sequence.ids(), engine.file().spec().vocab_size), (&[1, 2, 3, 4][..], 50));
    fn is_send<T: Send>() {}
    is_send::<Engine<Split<Driver>>>();
    is_send::<Sequence<Split<Driver>>>();
}
