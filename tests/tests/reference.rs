//! Compares every fixture with what transformers computes: the ladder in f32, the same bits on every way through the
//! model, and the cost of rounding the weights.

use nanoserve_format::{Encoding, NsvFile};
use nanoserve_runtime::KvType;
use nanoserve_runtime::cpu::pool::Pool;
use nanoserve_runtime::cpu::{CpuBackend, isa};
use nanoserve_runtime::diagnose::bisect;
use nanoserve_runtime::diagnose::rule::Tolerance;
use nanoserve_runtime::diagnose::verify::{Reference, compare, trace};
use nanoserve_tests::{
    Divergence, Fixture, decoded_f32, divergence, engine, fixtures, for_each_isa, max_abs_diff, thorough,
};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::fs;
use std::path::Path;
use std::sync::Arc;

/// What the program allows by default.
const USUAL: Tolerance = Tolerance { atol: 1e-5, rtol: 1e-5 };

/// Every fixture, whether its reference holds every operation, and its parts beyond those of all models.
const FIXTURES: [(&str, bool, Extra); 28] = [
    ("biases", true, LLAMA),
    ("dynamic", false, LLAMA),
    ("gemma2", false, Extra { attn_norm: true, mlp_norm: true, post_norms: true, qk_norms: false }),
    ("gemma3", false, GEMMA3),
    ("gemma3-ring", false, GEMMA3),
    ("gemma3-vision", false, GEMMA3),
    ("granite", false, LLAMA),
    ("head-dim", false, LLAMA),
    ("linear-rope", false, LLAMA),
    ("mistral-full", false, LLAMA),
    ("mistral-ring", false, LLAMA),
    ("mistral-window", false, LLAMA),
    ("no-prefix", false, LLAMA),
    ("odd-sizes", false, LLAMA),
    ("olmo2", true, Extra { attn_norm: false, mlp_norm: false, post_norms: true, qk_norms: true }),
    ("phi3-long", false, LLAMA),
    ("phi3-short", false, LLAMA),
    ("phi4-mini", true, LLAMA),
    ("qwen2", false, LLAMA),
    ("qwen2-window", false, LLAMA),
    ("qwen3", true, QWEN3),
    ("qwen3-yarn", false, QWEN3),
    ("sharded", false, LLAMA),
    ("smollm3", false, LLAMA),
    ("tied-extra-head", false, LLAMA),
    ("tied-llama3", true, LLAMA),
    ("untied-mha", true, LLAMA),
    ("yarn", false, LLAMA),
];

/// Models with Llama's switches and RoPE, which lose less to rounding than some others.
const LLAMAS: [&str; 9] = [
    "biases",
    "head-dim",
    "linear-rope",
    "no-prefix",
    "odd-sizes",
    "sharded",
    "tied-extra-head",
    "tied-llama3",
    "untied-mha",
];

/// Parts that some models have.
#[derive(Clone, Copy)]
struct Extra {
    attn_norm: bool,
    mlp_norm: bool,
    post_norms: bool,
    qk_norms: bool,
}

const LLAMA: Extra = Extra { attn_norm: true, mlp_norm: true, post_norms: false, qk_norms: false };
const QWEN3: Extra = Extra { qk_norms: true, ..LLAMA };
const GEMMA3: Extra = Extra { post_norms: true, ..QWEN3 };

#[test]
fn all_fixtures_are_there() {
    let names: Vec<String> = fixtures().into_iter().map(|f| f.name).collect();
    assert_eq!(names, FIXTURES.map(|(name, ..)| name));
}

/// Every operation of a layer in order, and whether a fixture's reference has it; a `fine` reference has more.
fn parts(fine: bool, has: Extra) -> [(&'static str, bool); 19] {
    [
        ("attn_norm", has.attn_norm),
        ("attn.q_plain", fine),
        ("attn.k_plain", fine),
        ("attn.q_norm", has.qk_norms),
        ("attn.k_norm", has.qk_norms),
        ("attn.q", true),
        ("attn.k", true),
        ("attn.v", true),
        ("attn.mix", fine),
        ("attn.out", true),
        ("attn_post_norm", has.post_norms),
        ("mid", fine),
        ("mlp_norm", has.mlp_norm),
        ("mlp.gate", fine),
        ("mlp.up", fine),
        ("mlp.gated", fine),
        ("mlp.out", true),
        ("mlp_post_norm", has.post_norms),
        ("out", true),
    ]
}

/// Every name in the reference of a fixture with this many layers, in the order of the forward pass.
fn ladder(fixture: &str, layers: usize) -> Vec<String> {
    let (_, fine, has) = FIXTURES.into_iter().find(|(name, ..)| *name == fixture).unwrap();
    let parts: Vec<&str> = parts(fine, has).into_iter().filter(|(_, there)| *there).map(|(part, _)| part).collect();
    let layer = |i| parts.iter().map(move |part| format!("layers.{i}.{part}"));
    let mut names = vec!["embed".to_string()];
    names.extend((0..layers).flat_map(layer));
    names.extend(["final_norm".to_string(), "logits".to_string()]);
    names
}

#[test]
fn every_component_agrees_in_f32() {
    let folder = tempfile::tempdir().unwrap();
    for fixture in fixtures() {
        let path = fixture.convert(Encoding::F32, folder.path());
        let reference = fixture.reference();
        for_each_isa(|kernels| {
            let mut engine = engine(&path, kernels, 2);
            let layers = engine.file().spec().n_layers;
            let (report, _) = compare(&mut engine, &reference, KvType::F32, USUAL).unwrap();
            let names: Vec<&str> = report.rows.iter().map(|r| r.name.as_str()).collect();
            assert_eq!(names, ladder(&fixture.name, layers), "{}: a component was not compared", fixture.name);
            for row in &report.rows {
                assert!(row.pass, "{} {}: {row:?}", fixture.name, kernels.name);
            }
            let expected = reference.greedy_ids.as_ref().expect("fixtures have greedy tokens");
            assert_eq!(expected.len(), 20);
            assert_eq!(report.greedy_ids.as_ref(), Some(expected), "{} {}", fixture.name, kernels.name);
            assert_eq!(report.bounds, None, "nothing is rounded");
            assert!(report.pass() && report.greedy_pass && report.top1 == 1.0 && report.kl_max < 1e-8);
            let worst = report.rows.iter().fold(0.0, |m: f64, r| m.max(r.max_abs));
            println!("{:<16} {:<7} largest difference {worst:.2e}", fixture.name, kernels.name);
        });
    }
}

/// Changes one value of each of these components: that of the token with the largest value, by 1e-4 of that value.
fn spoil(reference: &mut Reference, names: &[String]) {
    let tokens = reference.input_ids.len();
    for name in names {
        let values = reference.activations.get_mut(name).unwrap();
        let most = (0..values.len()).max_by(|&a, &b| values[a].abs().total_cmp(&values[b].abs())).unwrap();
        let (largest, width) = (values[most].abs(), values.len() / tokens);
        // Not the largest itself: the measure is the row, not the value.
        let other = if most % width == 0 { most + 1 } else { most - 1 };
        values[other] += 1e-4 * largest;
        assert!(largest > 0.25, "{name}: {largest} is too small beside the absolute tolerance");
    }
}

/// Spreads beyond any measure, for every component.
fn huge_spreads(reference: &mut Reference) {
    let spreads = reference.activations.keys().map(|name| (name.clone(), vec![1e30; reference.input_ids.len()]));
    reference.spread = spreads.collect();
    reference.own_spread = reference.spread.clone();
}

#[test]
fn a_value_that_is_wrong_by_1e_4_fails_whatever_the_spread() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["untied-mha", "gemma3", "olmo2"] {
        let fixture = nanoserve_tests::fixture(name);
        let path = fixture.convert(Encoding::F32, folder.path());
        let mut engine = engine(&path, isa::choose(None).unwrap(), 1);
        let (mut reference, ids) = (fixture.reference(), fixture.reference().input_ids.len());
        huge_spreads(&mut reference);
        assert_eq!(reference.spread["logits"].len(), ids);
        let (report, _) = compare(&mut engine, &reference, KvType::F32, USUAL).unwrap();
        assert!(report.pass(), "{name}");
        let all: Vec<String> = reference.activations.keys().cloned().collect();
        spoil(&mut reference, &all);
        let (report, _) = compare(&mut engine, &reference, KvType::F32, USUAL).unwrap();
        let passed: Vec<&str> = report.rows.iter().filter(|r| r.pass).map(|r| r.name.as_str()).collect();
        assert_eq!((passed, report.pass()), (vec![], false), "{name}");
        // Each operation by itself: the spoilt one is found first.
        for component in ["embed", "layers.0.attn.v", "layers.1.attn.out", "layers.1.mlp.out", "layers.1.out", "logits"]
        {
            let mut reference = fixture.reference();
            huge_spreads(&mut reference);
            spoil(&mut reference, &[component.to_string()]);
            let backend = CpuBackend::new(isa::choose(None).unwrap(), Arc::new(Pool::new(1).unwrap()));
            let file = Arc::new(NsvFile::open(&path).unwrap());
            let found = bisect::reference(&file, backend, &reference, USUAL).unwrap().findings;
            assert_eq!(found.first().map(|f| f.component.as_str()), Some(component), "{name}: {found:?}");
        }
    }
}

/// A difference beyond the plain rule passes with the spread that explains it, and only for that token.
#[test]
fn a_spread_widens_the_rule_for_its_token() {
    let (folder, fixture) = (tempfile::tempdir().unwrap(), nanoserve_tests::fixture("untied-mha"));
    let mut engine = engine(&fixture.convert(Encoding::F32, folder.path()), isa::choose(None).unwrap(), 1);
    let mut reference = fixture.reference();
    let (name, tokens) = ("layers.1.out", reference.input_ids.len());
    let values = reference.activations.get_mut(name).unwrap();
    let width = values.len() / tokens;
    let largest = values[3 * width..4 * width].iter().fold(0f32, |most, x| most.max(x.abs()));
    values[3 * width + 5] += 1e-5 + 3e-5 * largest;
    let mut passes = |reference: &Reference| {
        let (report, _) = compare(&mut engine, reference, KvType::F32, USUAL).unwrap();
        report.rows.iter().find(|r| r.name == name).unwrap().pass
    };
    assert!(!passes(&reference));
    let mut spread = vec![0.0; tokens];
    spread[3] = 1.2e-5 * f64::from(largest);
    reference.spread.insert(name.into(), spread.clone());
    assert!(passes(&reference));
    spread.rotate_right(1);
    reference.spread.insert(name.into(), spread);
    assert!(!passes(&reference));
}

/// Spreads are read where a file has them, and refused where they cannot be any.
#[test]
fn spreads_in_a_file() {
    let fixture = nanoserve_tests::fixture("untied-mha");
    let (bytes, folder) = (fs::read(fixture.reference_path()).unwrap(), tempfile::tempdir().unwrap());
    let old = SafeTensors::deserialize(&bytes).unwrap();
    let tokens = fixture.reference().input_ids.len();
    let read = |name: &str, values: Vec<f64>| {
        let data: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        let mut views: Vec<(String, TensorView)> = old.tensors();
        views.push((name.to_string(), TensorView::new(Dtype::F64, vec![values.len()], &data).unwrap()));
        let path = folder.path().join("reference.safetensors");
        safetensors::serialize_to_file(views, None, &path).unwrap();
        Reference::read(&path)
    };
    let some: Vec<f64> = (0..tokens).map(|t| t as f64 * 1e-7).collect();
    let got = read("spread.layers.0.out", some.clone()).unwrap();
    assert_eq!((got.spread["layers.0.out"].as_slice(), got.own_spread.len()), (some.as_slice(), 0));
    let got = read("own_spread.logits", some.clone()).unwrap();
    assert_eq!((got.own_spread["logits"].as_slice(), got.spread.len()), (some.as_slice(), 0));
    // Nothing else that a file may hold is taken for one.
    assert!(read("of_my_own", vec![-1.0]).unwrap().spread.is_empty());
    for (name, values, word) in [
        ("spread.logits", vec![1e-7; tokens - 1], "expected ["),
        ("spread.logits", vec![-1e-7; tokens], "below 0"),
        ("own_spread.logits", vec![f64::NAN; tokens], "below 0"),
        ("spread.logits", vec![f64::INFINITY; tokens], "below 0"),
        ("spread.layers.9.out", some.clone(), "no 'layers.9.out'"),
    ] {
        let error = read(name, values).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains(word), "{error}");
    }
}

/// All logits of a file, computed in one step by one thread with the scalar kernels.
fn one_shot(path: &Path, ids: &[u32], kv: KvType) -> Vec<f32> {
    let mut engine = engine(path, isa::available()[0], 1);
    trace(&mut engine, ids, kv).unwrap().pop().expect("logits come last").1
}

fn bits(row: &[f32]) -> Vec<u32> {
    row.iter().map(|x| x.to_bits()).collect()
}

/// The whole prompt at once, in chunks, token by token, and with a reused cache give the same logits bit for bit, on 1,
/// 2 and 3 threads and every instruction set. The plain kernels take most of the time. How work is shared out is not theirs,
/// so they run on 2 threads alone, unless the run is thorough.
fn same_bits(fixture: &Fixture, encoding: Encoding, folder: &Path) {
    let path = fixture.convert(encoding, folder);
    let ids = fixture.reference().input_ids;
    for (kv_name, kv) in KvType::ALL {
        let expected = one_shot(&path, &ids, kv);
        let vocab = expected.len() / ids.len();
        let row = |position: usize| bits(&expected[position * vocab..(position + 1) * vocab]);
        for_each_isa(|kernels| {
            let brief = kernels.name == "scalar" && !thorough();
            for &threads in if brief { &[2][..] } else { &[1, 2, 3] } {
                let what = format!("{} {encoding} kv {kv_name} {} {threads} threads", fixture.name, kernels.name);
                let mut engine = engine(&path, kernels, threads);
                let all = trace(&mut engine, &ids, kv).unwrap().pop().expect("logits come last").1;
                assert_eq!(bits(&all), bits(&expected), "{what}: one step, all rows");
                let mut session = engine.session(ids.len(), kv).unwrap();
                for chunk in [1, 7, 16, ids.len()] {
                    assert_eq!(session.truncate(0), 0);
                    for (i, part) in ids.chunks(chunk).enumerate() {
                        let last = i * chunk + part.len() - 1;
                        let got = session.feed(part, chunk).unwrap();
                        assert_eq!(bits(&got), row(last), "{what}: chunks of {chunk}, position {last}");
                    }
                }
                // Chunks that the session cuts itself, after a kept prefix. A ring cannot keep what it has overwritten.
                let kept = session.truncate(5);
                assert_eq!(kept, if fixture.name.ends_with("-ring") { 0 } else { 5 }, "{what}");
                let got = session.feed(&ids[kept..], 7).unwrap();
                assert_eq!(bits(&got), row(ids.len() - 1), "{what}: a reused prefix");
                // A step back for which every ring still holds the window.
                let kept = session.truncate(ids.len() - 30);
                assert_eq!(kept, ids.len() - 30, "{what}");
                let got = session.feed(&ids[kept..], 7).unwrap();
                assert_eq!(bits(&got), row(ids.len() - 1), "{what}: a reused prefix");
            }
        });
    }
}

#[test]
fn every_way_gives_the_same_bits_in_f32() {
    let folder = tempfile::tempdir().unwrap();
    fixtures().iter().for_each(|f| same_bits(f, Encoding::F32, folder.path()));
}

#[test]
fn every_way_gives_the_same_bits_in_f16() {
    let folder = tempfile::tempdir().unwrap();
    fixtures().iter().for_each(|f| same_bits(f, Encoding::F16, folder.path()));
}

#[test]
fn every_way_gives_the_same_bits_in_q8() {
    let folder = tempfile::tempdir().unwrap();
    fixtures().iter().for_each(|f| same_bits(f, Encoding::Q8, folder.path()));
}

/// Checks how much worse a file is than the rounding of its weights alone explains, with keys and values of type `kv`.
/// KL grows with the square of an error. Measured over the 28 fixtures, as mean and maximum over positions:
///
/// - f16 weights with an f32 cache give the bits of the rounded weights in f32; nothing is added.
/// - An f16 cache adds up to 4.1e-7 (mean) and 4.6e-6 (maximum) with f16 weights; if these are rounded too, 1.06 to 1.38
///   times (mean) and up to 1.94 times (maximum).
/// - q8 rounds activations as finely as weights, so twice the divergence is expected. It is 1.45 to 2.34 times (mean) and
///   up to 4.01 times (maximum, at one of the positions); with an f16 cache 1.38 to 2.05 times and up to 3.1 times.
/// - Of 32 to 110 positions, at most two more than with the rounded weights have another first token; of 350, four.
fn check(what: &str, encoding: Encoding, kv: KvType, got: Divergence, explained: Divergence, positions: usize) {
    let cache = if kv == KvType::F16 { 1e-6 } else { 1e-9 };
    let llama = LLAMAS.iter().any(|name| what.split(' ').next() == Some(name));
    let (mean, max, caches) = match (encoding, llama) {
        (Encoding::Q8, true) => (2.5, 4.0, 2.0),
        (Encoding::Q8, false) => (2.5, 6.0, 6.0),
        (_, true) => (1.5, 1.5, 2.0),
        (_, false) => (2.0, 3.0, 6.0),
    };
    assert!(got.mean <= mean * explained.mean + cache, "{what}: {got:?} of {explained:?}");
    assert!(got.max <= max * explained.max + caches * cache, "{what}: {got:?} of {explained:?}");
    let more = 2 * (positions / 110).max(1);
    assert!(got.other_top <= explained.other_top + more, "{what}: {got:?} of {explained:?}");
}

#[test]
fn rounding_the_weights_explains_the_divergence() {
    let folder = tempfile::tempdir().unwrap();
    println!("fixture          file  kv   KL mean    largest    other top | weights alone, in f32  | logits off");
    for fixture in fixtures() {
        let reference = fixture.reference();
        let (ids, expected) = (&reference.input_ids, &reference.activations["logits"]);
        let vocab = expected.len() / ids.len();
        for encoding in [Encoding::F16, Encoding::Q8] {
            let path = fixture.convert(encoding, folder.path());
            let rounded = folder.path().join("rounded.nsv");
            decoded_f32(&path, &rounded);
            assert_eq!(NsvFile::open(&rounded).unwrap().layout().tensors[0].encoding, Encoding::F32);
            let weights = one_shot(&rounded, ids, KvType::F32);
            let explained = divergence(expected, &weights, vocab);
            for (kv_name, kv) in KvType::ALL {
                let ours = one_shot(&path, ids, kv);
                let got = divergence(expected, &ours, vocab);
                let what = format!("{:<16} {:<4}  {kv_name:<3}", fixture.name, encoding.name());
                println!(
                    "{what}  {:.2e}  {:>8.2e}  {:>2} of {:<2}   | {:>8.2e}  {:>8.2e}  {:>2} | {:.2e}",
                    got.mean,
                    got.max,
                    got.other_top,
                    ids.len(),
                    explained.mean,
                    explained.max,
                    explained.other_top,
                    max_abs_diff(&weights, &ours),
                );
                check(&what, encoding, kv, got, explained, ids.len());
                // f16 weights widen to f32 exactly, so the arithmetic is that of the rounded weights.
                if encoding == Encoding::F16 && kv == KvType::F32 {
                    assert_eq!(bits(&ours), bits(&weights), "{what}");
                }
                // nanoserve-verify reports the same measure.
                let mut engine = engine(&path, isa::available()[0], 1);
                let (report, _) = compare(&mut engine, &reference, kv, USUAL).unwrap();
                let top1 = 1.0 - got.other_top as f64 / ids.len() as f64;
                let close = |a: f64, b: f64| (a - b).abs() <= 1e-12 + 1e-9 * b;
                assert!(close(report.kl_mean, got.mean) && close(report.kl_max, got.max), "{what}: {got:?}");
                assert!(close(report.top1, top1), "{what}: {} and {top1}", report.top1);
                // Its bounds hold, whatever the components say, and leave room.
                let bounds = report.bounds.expect("weights are rounded");
                assert!(
                    report.pass() && 10.0 * report.kl_mean < bounds.kl_mean,
                    "{what}: {:?}",
                    bounds.exceeded(&report)
                );
                assert_eq!(report.other_top, got.other_top, "{what}");
            }
        }
    }
}
