//! Whole models through the CUDA backend on emulated kernels, compared with references: the ladder of nanoserve-verify,
//! and every way of feeding tokens. Without g++, the tests say so and skip.
//!
//! In a thorough run (`nanoserve_tests::thorough`) every fixture is taken, otherwise some.

use nanoserve_converter::{LastStep, Options, convert_with};
use nanoserve_format::{Codes, Encoding, ModelSpec, NsvFile, QkNorm, Rope, RopeScaling, SectionKind, Window};
use nanoserve_runtime::backend::Backend;
use nanoserve_runtime::cpu::CpuBackend;
use nanoserve_runtime::cpu::isa;
use nanoserve_runtime::cpu::pool::Pool;
use nanoserve_runtime::cuda::CudaBackend;
use nanoserve_runtime::cuda::split::Split;
use nanoserve_runtime::diagnose::rule::Tolerance;
use nanoserve_runtime::diagnose::selftest::{device_test, golden};
use nanoserve_runtime::diagnose::verify::{Reference, compare};
use nanoserve_runtime::{
    DeviceError, Engine, GenerateOptions, KvType, RuntimeError, SamplingOptions, Session, StopReason,
};
use nanoserve_tests::emulator::Emulator;
use nanoserve_tests::{
    FINE_ENCODINGS, Fixture, changed, divergence, fixtures, random_tensors, thorough, write_tensors,
};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Fixtures that together have every switch, for a short run.
const SOME: [&str; 5] = ["biases", "gemma3", "granite", "olmo2", "tied-llama3"];

/// The fixtures of this run.
fn chosen() -> Vec<Fixture> {
    fixtures().into_iter().filter(|fixture| thorough() || SOME.contains(&fixture.name.as_str())).collect()
}

fn file(path: &Path) -> Arc<NsvFile> {
    Arc::new(NsvFile::open(path).unwrap())
}

type Emulated = Engine<CudaBackend<Emulator>>;

/// The two backends to test: with fusing and graphs, and one operation at a time. None without an emulator.
fn engines(path: &Path) -> Option<[(&'static str, Emulated); 2]> {
    let fused = CudaBackend::new(Emulator::new()?, 0);
    let plain = CudaBackend::new(Emulator::new()?, 0).unfused();
    let bind = |backend| Engine::with_backend(file(path), backend).unwrap();
    Some([("fused", bind(fused)), ("unfused", bind(plain))])
}

/// Logits of all tokens: in one step, in two, and one by one. The last way is that of decode: graphs are captured and
/// replayed.
fn every_way<B: Backend>(engine: &mut Engine<B>, ids: &[u32], kv: KvType) -> Vec<(&'static str, Vec<f32>)> {
    let mut session = engine.session(ids.len(), kv).unwrap();
    let one = session.feed_all(ids).unwrap();
    assert_eq!(session.truncate(0), 0);
    let mut two = session.feed_all(&ids[..ids.len() / 2]).unwrap();
    two.extend(session.feed_all(&ids[ids.len() / 2..]).unwrap());
    assert_eq!(session.truncate(0), 0);
    let single = ids.iter().flat_map(|&id| session.feed(&[id], 1).unwrap()).collect();
    vec![("one step", one), ("two steps", two), ("one by one", single)]
}

#[track_caller]
fn near(what: &str, got: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(got.len(), expected.len(), "{what}");
    let off = |(a, b): (&f32, &f32)| {
        let off = (a - b).abs() / (1.0 + b.abs());
        if off.is_nan() { f32::INFINITY } else { off }
    };
    let worst = got.iter().zip(expected).map(off).fold(0.0, f32::max);
    println!("{what}: off by {worst:.2e}");
    assert!(worst <= tolerance, "{what}: off by {worst:e}, allowed {tolerance:e}");
}

fn bits(rows: &[f32]) -> Vec<u32> {
    rows.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn every_component_agrees_in_f32() {
    let folder = tempfile::tempdir().unwrap();
    for fixture in chosen() {
        let path = fixture.convert(Encoding::F32, folder.path());
        let reference = fixture.reference();
        let Some(engines) = engines(&path) else { return };
        for (how, mut engine) in engines {
            let what = format!("{} {how}", fixture.name);
            let (report, _) =
                compare(&mut engine, &reference, KvType::F32, Tolerance { atol: 1e-4, rtol: 1e-4 }).unwrap();
            for row in &report.rows {
                assert!(row.pass, "{what}: {row:?}");
            }
            assert_eq!(report.greedy_ids, reference.greedy_ids, "{what}");
            for (fed, got) in every_way(&mut engine, &reference.input_ids, KvType::F32) {
                near(&format!("{what}, {fed}"), &got, &reference.activations["logits"], 1e-4);
            }
        }
    }
}

/// The CPU's divergence from the reference.
fn on_cpu(path: &Path, reference: &Reference, kv: KvType) -> f64 {
    let backend = CpuBackend::new(isa::choose(None).unwrap(), Arc::new(Pool::new(1).unwrap()));
    let mut engine = Engine::with_backend(file(path), backend).unwrap();
    let mut session = engine.session(reference.input_ids.len(), kv).unwrap();
    let got = session.feed_all(&reference.input_ids).unwrap();
    kl(reference, &got)
}

fn kl(reference: &Reference, got: &[f32]) -> f64 {
    let expected = &reference.activations["logits"];
    divergence(expected, got, expected.len() / reference.input_ids.len()).mean
}

#[test]
fn rounded_weights_diverge_no_more_than_on_the_cpu() {
    let folder = tempfile::tempdir().unwrap();
    for fixture in chosen() {
        let reference = fixture.reference();
        for encoding in [Encoding::F16, Encoding::Q8] {
            let path = fixture.convert(encoding, folder.path());
            for (kv_name, kv) in KvType::ALL {
                let cpu = on_cpu(&path, &reference, kv);
                let Some(engines) = engines(&path) else { return };
                // For the unfused backend, f32 is enough.
                for (how, mut engine) in engines.into_iter().take(if thorough() { 2 } else { 1 }) {
                    for (fed, got) in every_way(&mut engine, &reference.input_ids, kv) {
                        let gpu = kl(&reference, &got);
                        let what = format!("{} {encoding} kv {kv_name} {how}, {fed}", fixture.name);
                        println!("{what}: KL {gpu:.3e}, the CPU's {cpu:.3e}");
                        // Below 1e-9 both are only noise of f32 sums.
                        assert!(gpu <= 1.1 * cpu + 1e-9, "{what}: KL {gpu:e}, the CPU's {cpu:e}");
                    }
                }
            }
        }
    }
}

#[test]
fn two_runs_and_any_order_of_blocks_give_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let fixture = nanoserve_tests::fixture("gemma3");
    let ids = &fixture.reference().input_ids[..20];
    for encoding in [Encoding::F16, Encoding::Q8] {
        let path = fixture.convert(encoding, folder.path());
        let Some([(_, mut engine), _]) = engines(&path) else { return };
        let first = every_way(&mut engine, ids, KvType::F16);
        for order in [0, 1, 2] {
            engine.backend().device().set_order(order);
            for ((fed, a), (_, b)) in first.iter().zip(every_way(&mut engine, ids, KvType::F16)) {
                assert_eq!(bits(a), bits(&b), "{encoding}, {fed}, order {order}");
            }
        }
    }
}

#[test]
fn layers_split_between_cpu_and_gpu() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["tied-llama3", "olmo2", "gemma3"] {
        let fixture = nanoserve_tests::fixture(name);
        let path = fixture.convert(Encoding::F32, folder.path());
        let reference = fixture.reference();
        let layers = file(&path).spec().n_layers;
        for first in 0..=layers {
            let Some(device) = Emulator::new() else { return };
            let cpu = CpuBackend::new(isa::choose(None).unwrap(), Arc::new(Pool::new(1).unwrap()));
            let mut engine = Engine::with_backend(file(&path), Split::new(cpu, device, first)).unwrap();
            for (fed, got) in every_way(&mut engine, &reference.input_ids, KvType::F32) {
                let what = format!("{name}, the GPU from layer {first} of {layers} on, {fed}");
                near(&what, &got, &reference.activations["logits"], 1e-4);
            }
        }
    }
}

#[test]
fn text_is_chosen_from_the_likeliest_as_from_all() {
    let folder = tempfile::tempdir().unwrap();
    let fixture = nanoserve_tests::fixture("tied-llama3");
    let path = fixture.convert(Encoding::F32, folder.path());
    let reference = fixture.reference();
    let Some([(_, mut engine), _]) = engines(&path) else { return };
    let mut session = engine.session(128, KvType::F32).unwrap();
    for temperature in [0.0, 0.9] {
        let sampling = changed!(SamplingOptions { temperature, top_k: 20, seed: 4, ..SamplingOptions::default() });
        let mut ids = [true, false].map(|hash| {
            let options = changed!(GenerateOptions {
                max_tokens: Some(20),
                sampling: sampling.clone(),
                hash,
                ..Default::default()
            });
            let done = session.generate(&reference.input_ids, &options, None, &mut |_| true).unwrap();
            assert_eq!(done.logits_hash.is_empty(), !hash);
            done.ids
        });
        assert_eq!(ids[0], ids[1]);
        if temperature == 0.0 {
            ids[0].truncate(reference.greedy_ids.as_ref().unwrap().len());
            assert_eq!(Some(&ids[0]), reference.greedy_ids.as_ref());
        }
    }
}

/// Greedy text, where the next step starts before the host has seen the token, equals that from whole rows of logits.
#[test]
fn running_ahead_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    // In the first one the ring wraps.
    for (name, encoding) in [("gemma3-ring", Encoding::Q8), ("olmo2", Encoding::F16)] {
        let fixture = nanoserve_tests::fixture(name);
        let path = fixture.convert(encoding, folder.path());
        let prompt = &fixture.reference().input_ids[..9];
        let Some(engines) = engines(&path) else { return };
        for (how, mut engine) in engines {
            let run = |session: &mut Session<'_, _>, options: &GenerateOptions, most: usize| {
                let mut said = 0;
                session.generate(prompt, options, None, &mut |_| {
                    said += 1;
                    said <= most
                })
            };
            let sampling = changed!(SamplingOptions { temperature: 0.0, ..SamplingOptions::default() });
            let options = |hash| {
                changed!(GenerateOptions {
                    max_tokens: Some(30),
                    sampling: sampling.clone(),
                    hash,
                    ..Default::default()
                })
            };
            let mut session = engine.session(64, KvType::F16).unwrap();
            let whole = run(&mut session, &options(true), usize::MAX).unwrap();
            let what = format!("{name} {how}");
            for most in [1, 2, 3, 30] {
                // As many tokens as asked for, then the same session again.
                let options = changed!(GenerateOptions { max_tokens: Some(most), ..options(false) });
                let ahead = run(&mut session, &options, usize::MAX).unwrap();
                assert_eq!((&ahead.ids[..], ahead.stop_reason), (&whole.ids[..most], StopReason::Length), "{what}");
                assert_eq!(session.ids().len(), session.len(), "{what}");
            }
            // Ended by the caller, by a token, by the context: the step started early has no effect.
            let cancelled = run(&mut session, &options(false), 5).unwrap();
            assert_eq!(cancelled.ids, whole.ids[..cancelled.ids.len()], "{what}");
            assert!(cancelled.stop_reason == StopReason::Cancelled && cancelled.ids.len() < 6, "{what}: {cancelled:?}");
            let eos = whole.ids[12];
            let first = whole.ids.iter().position(|id| *id == eos).unwrap();
            let stopping = changed!(GenerateOptions { eos_ids: vec![eos], ..options(false) });
            let stopped = run(&mut session, &stopping, usize::MAX).unwrap();
            assert_eq!((&stopped.ids[..], stopped.stop_reason), (&whole.ids[..=first], StopReason::Eos), "{what}");
            let again = run(&mut session, &options(false), usize::MAX).unwrap();
            assert_eq!(again.ids, whole.ids, "{what}");
            drop(session);
            let mut session = engine.session(20, KvType::F16).unwrap();
            let full = run(&mut session, &options(false), usize::MAX).unwrap();
            assert_eq!((&full.ids[..], full.stop_reason), (&whole.ids[..12], StopReason::Context), "{what}");
        }
    }
}

/// A file with golden vectors, as nanoserve-convert makes it.
fn with_golden(fixture: &Fixture, encoding: Encoding, folder: &Path) -> PathBuf {
    let output = folder.join(format!("{}-{encoding}-golden.nsv", fixture.name));
    let options = Options::new(&fixture.path, &output, encoding);
    let last: LastStep = &|path| Ok(vec![(SectionKind::Golden, golden(&Arc::new(NsvFile::open(path)?), None)?)]);
    convert_with(&options, &(), &AtomicBool::new(false), Some(last)).unwrap();
    output
}

/// Codes of 4 to 6 bits have no kernels for GPUs: the first tensor of that kind that the GPU would hold is named, and nothing
/// was sent before.
#[test]
fn codes_are_refused_by_name() {
    let (folder, fixture) = (tempfile::tempdir().unwrap(), fixtures().swap_remove(0));
    let path = fixture.convert(Encoding::Codes(Codes::Q4), folder.path());
    let layers = file(&path).spec().n_layers;
    for first_layer in [0, layers - 1] {
        let Some(emulator) = Emulator::new() else { return };
        let cpu = CpuBackend::new(isa::available()[0], Arc::new(Pool::new(1).unwrap()));
        let error = Engine::with_backend(file(&path), Split::new(cpu, emulator, first_layer)).map(|_| ()).unwrap_err();
        let RuntimeError::Device(DeviceError::Encoding { tensor, encoding }) = error else { panic!("{error}") };
        let expected =
            if first_layer == 0 { "embed.weight".into() } else { format!("layers.{first_layer}.attn.q.weight") };
        assert_eq!((tensor, encoding), (expected, Encoding::Codes(Codes::Q4)));
    }
}

/// The golden vectors of a file pass with half the tolerance of a GPU's self-test.
#[test]
fn golden_vectors_are_near() {
    let folder = tempfile::tempdir().unwrap();
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../weights/demo");
    let demo = Fixture { name: "demo".into(), path: demo };
    for fixture in chosen().into_iter().chain([demo]) {
        for encoding in FINE_ENCODINGS {
            let path = with_golden(&fixture, encoding, folder.path());
            let Some(engines) = engines(&path) else { return };
            for (how, mut engine) in engines.into_iter().take(if thorough() { 2 } else { 1 }) {
                let results = device_test(&mut engine).unwrap();
                assert_eq!(results.len(), 4);
                for r in results {
                    let what = format!("{} {encoding} kv {} {how}, {}", fixture.name, r.kv, r.feed);
                    println!("{what}: {:.2e} of the largest logit", r.difference);
                    assert!(r.difference <= r.tolerance / 2.0, "{what}: {:e}, allowed {:e}", r.difference, r.tolerance);
                }
            }
        }
    }
}

/// Rings that wrap, a step longer than a ring takes at a time, and heads that the kernel for one token does not
/// support.
#[test]
fn rings_wind_as_on_the_cpu() {
    let base = ModelSpec {
        hidden_size: 24,
        intermediate_size: 40,
        n_layers: 2,
        n_heads: 4,
        n_kv_heads: 2,
        head_dim: 12,
        vocab_size: 50,
        context_length: 4096,
        ..ModelSpec::default()
    };
    let window = |size, rope| Some(Window { size, layers: vec![0], rope });
    let own = Rope { theta: 1e4, rotary_dim: None, scaling: RopeScaling::Default {} };
    let specs = [
        ModelSpec { window: window(5, None), no_rope_layers: vec![1], ..base.clone() },
        ModelSpec {
            window: window(33, Some(own)),
            qk_norm: QkNorm::Head,
            head_dim: 16,
            logit_softcap: Some(3.0),
            ..base
        },
    ];
    let folder = tempfile::tempdir().unwrap();
    let ids: Vec<u32> = (0..400).map(|i| i * 7 % 50).collect();
    for spec in specs {
        spec.check().unwrap();
        let path = write_tensors(&spec, &random_tensors(&spec), Encoding::F32, folder.path());
        let cpu = CpuBackend::new(isa::choose(None).unwrap(), Arc::new(Pool::new(1).unwrap()));
        let mut cpu = Engine::with_backend(file(&path), cpu).unwrap();
        let Some([(_, mut gpu), _]) = engines(&path) else { return };
        for (kv, tolerance) in [(KvType::F32, 1e-4), (KvType::F16, 5e-3)] {
            let expected = cpu.session(1000, kv).unwrap().feed_all(&ids).unwrap();
            let mut session = gpu.session(1000, kv).unwrap();
            let mut got = session.feed_all(&ids[..390]).unwrap();
            got.extend(ids[390..].iter().flat_map(|&id| session.feed(&[id], 1).unwrap()));
            near(&format!("{spec:?}"), &got, &expected, tolerance);
        }
    }
}
