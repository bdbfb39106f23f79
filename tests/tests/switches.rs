//! Compares every switch of a model's description with the naive twin, bit for bit, on every way through the model, in
//! contexts that wrap around a window's ring more than once.

use nanoserve_format::{Encoding, ModelSpec, QkNorm, RopeScaling};
use nanoserve_runtime::backend::{KvShape, WINDOW_STEP};
use nanoserve_runtime::diagnose::verify::trace;
use nanoserve_runtime::{GenerateOptions, KvType, SamplingOptions};
use nanoserve_tests::specs::{base, rope, specs, window};
use nanoserve_tests::{
    ENCODINGS, SplitMix64, Twin, changed, engine, for_each_isa, random_tensors, thorough, write_tensors,
};
use std::collections::BTreeMap;
use std::path::Path;

/// Number of tokens: a little more than twice around the rings of the smallest windows.
const TOKENS: usize = 660;

fn ids(vocab_size: usize) -> Vec<u32> {
    let mut random = SplitMix64::new(3);
    (0..TOKENS).map(|_| random.below(vocab_size) as u32).collect()
}

fn bits(row: &[f32]) -> Vec<u32> {
    row.iter().map(|x| x.to_bits()).collect()
}

#[track_caller]
fn same(got: &[f32], expected: &[f32], what: &str) {
    let first = got.iter().zip(expected).position(|(a, b)| a.to_bits() != b.to_bits());
    assert_eq!((got.len(), first), (expected.len(), None), "{what}");
}

/// Runs all rows in one step, then in chunks of various sizes, on every instruction set and some numbers of threads. The
/// plain kernels take most of the time. How work is shared out is not theirs, so they run on one thread alone, a token at a
/// time and all at once, unless the run is thorough.
fn every_way(what: &str, path: &Path, ids: &[u32], kv: KvType, expected: &[f32]) {
    let vocab = expected.len() / ids.len();
    let row = |position: usize| &expected[position * vocab..(position + 1) * vocab];
    for_each_isa(|kernels| {
        let brief = kernels.name == "scalar" && !thorough();
        for &threads in if brief { &[1][..] } else { &[1, 3] } {
            let what = format!("{what}, kv {}, {}, {threads} threads", kv.name(), kernels.name);
            let mut engine = engine(path, kernels, threads);
            let all = trace(&mut engine, ids, kv).unwrap().pop().expect("logits come last").1;
            same(&all, expected, &format!("{what}: one step"));
            let mut session = engine.session(ids.len(), kv).unwrap();
            // With chunks of so few tokens, threads have little to do.
            let chunks: &[usize] = match threads {
                1 if brief => &[1],
                1 => &[1, 7, 64, 512],
                _ => &[64],
            };
            for &chunk in chunks {
                assert_eq!(session.truncate(0), 0);
                for (i, part) in ids.chunks(chunk).enumerate() {
                    let last = i * chunk + part.len() - 1;
                    let got = session.feed(part, chunk).unwrap();
                    same(&got, row(last), &format!("{what}: chunks of {chunk}, position {last}"));
                }
            }
        }
    });
}

#[test]
fn every_switch_is_the_plain_twins() {
    let folder = tempfile::tempdir().unwrap();
    for (what, spec) in specs() {
        spec.check().unwrap();
        let tensors = random_tensors(&spec);
        let path = write_tensors(&spec, &tensors, Encoding::F32, folder.path());
        let ids = ids(spec.vocab_size);
        for (_, kv) in KvType::ALL {
            let expected = Twin { spec: &spec, tensors: &tensors }.logits(&ids, ids.len(), kv);
            assert!(expected.iter().all(|x| x.is_finite()), "{what}");
            every_way(what, &path, &ids, kv, &expected);
        }
    }
}

#[test]
fn rounded_weights_give_the_same_bits_on_every_way() {
    let folder = tempfile::tempdir().unwrap();
    for (what, spec) in specs().into_iter().take(4) {
        for encoding in [Encoding::F16, Encoding::Q8] {
            let path = write_tensors(&spec, &random_tensors(&spec), encoding, folder.path());
            let ids = ids(spec.vocab_size);
            let mut plain = engine(&path, nanoserve_runtime::cpu::isa::available()[0], 1);
            let expected = trace(&mut plain, &ids, KvType::F16).unwrap().pop().unwrap().1;
            every_way(&format!("{what}, {encoding}"), &path, &ids, KvType::F16, &expected);
        }
    }
}

/// Heads, RoPE and tied embedding of Llama 3.2, and a prompt longer than every chunk: the logits that tokens were
/// chosen from have the same hash for every instruction set, 1 to 3 threads and every chunk; with the plain kernels, as
/// in [`every_way`].
#[test]
fn llamas_logits_have_one_hash() {
    let folder = tempfile::tempdir().unwrap();
    let llama3 =
        RopeScaling::Llama3 { factor: 32.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_context: 8192 };
    let spec = ModelSpec {
        hidden_size: 48,
        intermediate_size: 80,
        n_layers: 2,
        head_dim: 64,
        rope: rope(500_000.0, None, llama3),
        tied_lm_head: true,
        ..base()
    };
    let ids = &ids(spec.vocab_size)[..520];
    for encoding in ENCODINGS {
        let path = write_tensors(&spec, &random_tensors(&spec), encoding, folder.path());
        let mut hashes = BTreeMap::new();
        for_each_isa(|kernels| {
            let brief = kernels.name == "scalar" && !thorough();
            for &threads in if brief { &[1][..] } else { &[1, 2, 3] } {
                let mut engine = engine(&path, kernels, threads);
                let mut session = engine.session(ids.len() + 3, KvType::F16).unwrap();
                for &chunk in if brief { &[1, 512][..] } else { &[1, 7, 64, 512] } {
                    assert_eq!(session.truncate(0), 0);
                    let sampling = changed!(SamplingOptions { temperature: 0.0, ..SamplingOptions::default() });
                    let options = changed!(GenerateOptions {
                        max_tokens: Some(4),
                        chunk,
                        sampling,
                        ..GenerateOptions::default()
                    });
                    let made = session.generate(ids, &options, None, &mut |_| true).unwrap();
                    assert_eq!(made.ids.len(), 4);
                    hashes.entry(made.logits_hash).or_insert(vec![]).push((kernels.name, threads, chunk));
                }
            }
        });
        assert_eq!(hashes.len(), 1, "{encoding}: {hashes:?}");
    }
}

/// Each switch changes the logits, so none is ignored.
#[test]
fn no_switch_is_without_effect() {
    let ids = &ids(base().vocab_size)[..320];
    let plain = |spec: &ModelSpec| {
        // From one model with both switches, so that weights common to two models agree.
        let mut all = random_tensors(&ModelSpec { post_norm: true, qk_norm: QkNorm::Head, ..spec.clone() });
        all.retain(|name, _| nanoserve_format::schema::tensors(spec).iter().any(|(n, _)| n == name));
        Twin { spec, tensors: &all }.logits(ids, ids.len(), KvType::F32)
    };
    let logits_after = |change: fn(&mut ModelSpec)| {
        let mut spec = base();
        change(&mut spec);
        spec.check().unwrap();
        plain(&spec)
    };
    let dynamic = RopeScaling::Dynamic { factor: 2.0, original_context: 100 };
    assert_ne!(plain(&ModelSpec { rope: rope(1e4, None, dynamic), ..base() }), plain(&base()));
    let changes: [fn(&mut ModelSpec); 13] = [
        |_| {},
        |s| s.window = window(300, &[1], None),
        |s| s.window = window(301, &[1], None),
        |s| s.window = window(301, &[2], None),
        |s| s.window = window(301, &[2], Some(rope(1e3, None, RopeScaling::Default {}))),
        |s| s.no_rope_layers = vec![0],
        |s| s.post_norm = true,
        |s| s.qk_norm = QkNorm::Head,
        |s| s.attn_softcap = Some(5.0),
        |s| s.logit_softcap = Some(5.0),
        |s| s.residual_scale = 0.5,
        |s| s.embed_scale = 2.0,
        |s| s.rope.rotary_dim = Some(6),
    ];
    let all: Vec<Vec<u32>> = changes.into_iter().map(|change| bits(&logits_after(change))).collect();
    for (i, a) in all.iter().enumerate() {
        assert!(all[..i].iter().all(|b| a != b), "change {i}");
    }
}

#[test]
fn a_ring_says_when_it_has_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let (_, spec) = specs().swap_remove(0);
    let (ids, other) = (ids(spec.vocab_size), vec![9u32; TOKENS]);
    let path = write_tensors(&spec, &random_tensors(&spec), Encoding::F32, folder.path());
    let mut engine = engine(&path, nanoserve_runtime::cpu::isa::available()[0], 1);
    let expected = trace(&mut engine, &ids, KvType::F32).unwrap().pop().unwrap().1;
    let last = bits(&expected[expected.len() - spec.vocab_size..]);
    let ring = KvShape::new(&spec, TOKENS, KvType::F32).positions[0];
    assert_eq!(ring, 320);

    let mut session = engine.session(TOKENS, KvType::F32).unwrap();
    session.feed(&ids, 256).unwrap();
    // As far back as the ring allows: the first token after that still sees the other positions of its window.
    let furthest = TOKENS - ring + spec.window.as_ref().unwrap().size - 1;
    assert!(furthest <= TOKENS - WINDOW_STEP);
    for len in [TOKENS, TOKENS - 1, 600, TOKENS - WINDOW_STEP, furthest] {
        // Feed something else there and go back again: no further than before.
        assert_eq!(session.truncate(len), len);
        if len + 3 <= TOKENS {
            session.feed(&other[..3], 1).unwrap();
            assert_eq!(session.truncate(len), len);
        }
        if len < TOKENS {
            assert_eq!(bits(&session.feed(&ids[len..], 64).unwrap()), last, "back to {len}");
        }
    }
    assert_eq!(session.truncate(TOKENS + 5), TOKENS);
    assert_eq!(session.truncate(furthest - 1), 0);
    assert_eq!(session.len(), 0);
    assert_eq!(bits(&session.feed(&ids, 7).unwrap()), last);

    // A ring that never wrapped holds everything.
    assert_eq!(session.truncate(0), 0);
    session.feed(&ids[..ring], 64).unwrap();
    for len in [3, 0] {
        assert_eq!(session.truncate(len), len);
        assert_eq!(
            bits(&session.feed(&ids[len..ring], 5).unwrap()),
            bits(&expected[(ring - 1) * spec.vocab_size..][..spec.vocab_size])
        );
    }
    // Without windows, going back is always possible.
    let path = write_tensors(&base(), &random_tensors(&base()), Encoding::F32, folder.path());
    let mut engine = nanoserve_tests::engine(&path, nanoserve_runtime::cpu::isa::available()[0], 1);
    let mut session = engine.session(TOKENS, KvType::F32).unwrap();
    session.feed(&ids, 256).unwrap();
    assert_eq!((session.truncate(1), session.truncate(9)), (1, 1));
}

/// A layer with a sliding window takes memory for its ring, not for the context.
#[test]
fn a_ring_is_as_long_as_its_window_needs() {
    let spec = ModelSpec { window: window(512, &[0, 2], None), ..base() };
    let shape = KvShape::new(&spec, 32768, KvType::F16);
    assert_eq!(shape.positions, [768, 32768, 768]);
    // Keys of 12 and values of 16 numbers, for two heads.
    assert_eq!(shape.bytes(), (768 + 32768 + 768) * 2 * (12 + 16) * 2);
    assert_eq!(KvShape::new(&spec, 100, KvType::F16).positions, [112, 112, 112]);
    let full = KvShape::new(&base(), 32768, KvType::F16).bytes();
    let said = |spec: &ModelSpec| nanoserve_runtime::engine::admission::sequence_bytes(spec, 32768, KvType::F16, 256);
    assert_eq!(said(&base()) - said(&spec), full - shape.bytes());
}
