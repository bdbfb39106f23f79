//! A wrong switch or number in a file's description is blamed by its name, and nothing else is.
//!
//! The reference is the right model's own trace in f32. That it equals what other programs compute is tested in
//! reference.rs.

use super::pool;
use nanoserve_format::{Activation, Encoding, ModelSpec, NsvFile, QkNorm, Rope, RopeScaling, Window};
use nanoserve_runtime::KvType;
use nanoserve_runtime::cpu::{CpuBackend, isa};
use nanoserve_runtime::diagnose::bisect::{self, Finding, Tolerance};
use nanoserve_runtime::diagnose::verify::{Reference, trace};
use nanoserve_tests::{FINE_ENCODINGS, Tensors, engine, random_tensors, write_tensors};
use std::sync::Arc;

const TOKENS: u32 = 40;

pub fn base() -> ModelSpec {
    ModelSpec {
        hidden_size: 32,
        intermediate_size: 48,
        n_layers: 2,
        n_heads: 4,
        n_kv_heads: 2,
        head_dim: 16,
        vocab_size: 96,
        context_length: 256,
        ..ModelSpec::default()
    }
}

/// Weights that fit any switches: those of a model that has all of them.
fn weights() -> Tensors {
    let all = ModelSpec { post_norm: true, qk_norm: QkNorm::Head, qkv_bias: true, ..base() };
    let mut tensors = random_tensors(&all);
    let projection = random_tensors(&ModelSpec { qk_norm: QkNorm::Projection, ..all });
    // The first values of a projection-wide norm serve as a head's.
    tensors.extend(projection.into_iter().filter(|(name, _)| name.contains("q_norm") || name.contains("k_norm")));
    tensors
}

fn write(spec: &ModelSpec, encoding: Encoding, folder: &std::path::Path) -> std::path::PathBuf {
    spec.check().unwrap();
    write_tensors(spec, &weights(), encoding, folder)
}

/// The findings in a file of `wrong`, compared with a model of `right`. If `coarse`, the reference has nothing between
/// a block's steps.
fn found(right: &ModelSpec, wrong: &ModelSpec, encoding: Encoding, coarse: bool) -> Vec<Finding> {
    let folder = tempfile::tempdir().unwrap();
    let input_ids: Vec<u32> = (0..TOKENS).map(|i| (i * i * 31 + i * 7 + 1) % right.vocab_size as u32).collect();
    let mut engine = engine(&write(right, Encoding::F32, folder.path()), isa::choose(None).unwrap(), 1);
    let mut activations = trace(&mut engine, &input_ids, KvType::F32).unwrap();
    if coarse {
        let fine = ["_plain", ".q_norm", ".k_norm", ".mix", ".mid", ".gate", ".up", ".gated"];
        activations.retain(|(name, _)| !fine.iter().any(|end| name.ends_with(end)));
    }
    let activations = activations.into_iter().collect();
    let reference = Reference { input_ids, activations, ..Reference::default() };
    let file = Arc::new(NsvFile::open(write(wrong, encoding, folder.path())).unwrap());
    let backend = CpuBackend::new(isa::choose(None).unwrap(), pool());
    let judged = bisect::reference(&file, backend, &reference, Tolerance { atol: 1e-5, rtol: 1e-5 }).unwrap();
    judged.findings.iter().for_each(|f| println!("{encoding} {coarse}: {f:?}"));
    judged.findings
}

/// Asserts that all findings blame `blame`, with both kinds of reference, and that the first one begins with `what`.
#[track_caller]
fn blames(right: &ModelSpec, wrong: &ModelSpec, blame: &str, component: &str, what: &str) {
    for encoding in FINE_ENCODINGS {
        let findings = found(right, wrong, encoding, false);
        let first = findings.iter().find(|f| f.at.is_some()).expect("something differs");
        assert!(findings.iter().all(|f| f.blame == blame), "{encoding}: {findings:?}");
        assert_eq!(first.component, component, "{encoding}");
        assert!(first.what.starts_with(what), "{encoding}: {}", first.what);
    }
}

fn changed(change: impl FnOnce(&mut ModelSpec)) -> ModelSpec {
    let mut spec = base();
    change(&mut spec);
    spec
}

fn window(size: usize, layers: &[usize]) -> Option<Window> {
    Some(Window { size, layers: layers.to_vec(), rope: None })
}

fn plain(theta: f64) -> Rope {
    Rope { theta, rotary_dim: None, scaling: RopeScaling::Default {} }
}

#[test]
fn right_switches_are_blamed_for_nothing() {
    let all = ModelSpec {
        window: Some(Window { size: 9, layers: vec![1], rope: Some(plain(1000.0)) }),
        post_norm: true,
        qk_norm: QkNorm::Head,
        attn_softcap: Some(2.0),
        logit_softcap: Some(3.0),
        attn_scale: Some(0.3),
        embed_scale: 5.5,
        residual_scale: 0.5,
        logit_divisor: 2.0,
        activation: Activation::GeluTanh,
        qkv_bias: true,
        rope: Rope { theta: 1e4, rotary_dim: Some(8), scaling: RopeScaling::Linear { factor: 2.0 } },
        ..base()
    };
    let behind =
        ModelSpec { pre_norm: false, post_norm: true, qk_norm: QkNorm::Projection, no_rope_layers: vec![0], ..base() };
    for spec in [all, behind] {
        for encoding in FINE_ENCODINGS {
            for coarse in [false, true] {
                assert_eq!(found(&spec, &spec, encoding, coarse), [], "{encoding} {coarse}");
            }
        }
    }
}

#[test]
fn norms_of_queries_and_keys() {
    for kind in [QkNorm::Head, QkNorm::Projection] {
        let with = changed(|s| s.qk_norm = kind);
        blames(&with, &base(), "qk_norm", "layers.0.attn.q", "it is normed before it is turned there");
        // If the reference lacks the norms' own results, later results show the fault.
        let coarse = found(&with, &base(), Encoding::F32, true);
        assert!(coarse.len() == 4 && coarse.iter().all(|f| f.blame == "qk_norm"), "{coarse:?}");
        let without = found(&base(), &with, Encoding::F32, true);
        assert!(without.len() == 4 && without.iter().all(|f| f.blame == "qk_norm"), "{without:?}");
        assert_eq!(without[0].what, "it is turned without a norm there");
    }
}

#[test]
fn norms_behind_blocks() {
    let with = changed(|s| s.post_norm = true);
    blames(&with, &base(), "post_norm", "layers.0.mid", "a norm stands behind the block there");
    blames(&base(), &with, "post_norm", "layers.0.mid", "no norm stands behind the block there");
    assert_eq!(found(&with, &base(), Encoding::F32, false)[0].component, "layers.0.attn_post_norm");
}

#[test]
fn caps_and_scales() {
    let cap = |cap| changed(|s| s.attn_softcap = cap);
    let mix = "layers.0.attn.mix";
    blames(&cap(Some(2.0)), &cap(Some(3.0)), "attn_softcap", mix, "it is 3 here and about 2.0");
    blames(&cap(Some(2.0)), &cap(None), "attn_softcap", mix, "it is none here and about 2.0");
    blames(&cap(None), &cap(Some(2.0)), "attn_softcap", mix, "there is none there");
    blames(&changed(|s| s.attn_scale = Some(0.4)), &base(), "attn_scale", mix, "it is 0.2500 here and about 0.4000");
    let cap = |cap| changed(|s| s.logit_softcap = cap);
    blames(&cap(Some(4.0)), &cap(Some(5.0)), "logit_softcap", "logits", "it is 5 here and about 4.0");
    blames(&cap(Some(4.0)), &cap(None), "logit_softcap", "logits", "it is none here and about 4.0");
    blames(&cap(None), &cap(Some(4.0)), "logit_softcap", "logits", "there is none there");
    blames(&changed(|s| s.logit_divisor = 8.0), &base(), "logit_divisor", "logits", "it is 1 here and about 8.0");
    blames(&changed(|s| s.embed_scale = 12.0), &base(), "embed_scale", "embed", "it is 1 here and about 12.0");
    let residual = changed(|s| s.residual_scale = 0.22);
    blames(&residual, &base(), "residual_scale", "layers.0.mid", "it is 1 here and about 0.22");
}

#[test]
fn windows() {
    let with_window = |size, layers: &[usize]| changed(|s| s.window = window(size, layers));
    let first = "layers.0.attn.mix";
    let both = &[0, 1];
    blames(
        &with_window(5, both),
        &with_window(6, both),
        "window.size",
        first,
        "a token sees 6 positions here and 5 positions there",
    );
    blames(
        &with_window(6, both),
        &with_window(5, both),
        "window.size",
        first,
        "a token sees 5 positions here and 6 positions there",
    );
    blames(
        &with_window(16, both),
        &with_window(17, both),
        "window.size",
        first,
        "a token sees 17 positions here and 16 positions there",
    );
    blames(
        &with_window(5, both),
        &with_window(5, &[0]),
        "window.layers",
        "layers.1.attn.mix",
        "a token sees all here and 5 positions",
    );
    blames(
        &with_window(5, &[1]),
        &with_window(5, both),
        "window.layers",
        first,
        "a token sees 5 positions here and all there",
    );
    blames(&base(), &with_window(5, both), "window.layers", first, "a token sees 5 positions here and all there");
    blames(&with_window(5, both), &base(), "window.layers", first, "a token sees all here and 5 positions there");
}

#[test]
fn what_turns() {
    let part = |dim| changed(|s| s.rope.rotary_dim = dim);
    let q = "layers.0.attn.q";
    blames(&part(Some(8)), &part(None), "rope.rotary_dim", q, "16 elements of a head turn here, 8 there");
    blames(&part(None), &part(Some(8)), "rope.rotary_dim", q, "8 elements of a head turn here, 16 there");
    blames(&part(Some(8)), &part(Some(4)), "rope.rotary_dim", q, "4 elements of a head turn here, 8 there");
    let still = changed(|s| s.no_rope_layers = vec![1]);
    blames(&still, &base(), "no_rope_layers", "layers.1.attn.q", "it does not turn there");
    blames(&base(), &still, "no_rope_layers", "layers.1.attn.q", "it turns there");
    let local = |rope| changed(|s| s.window = Some(Window { size: 30, layers: vec![1], rope }));
    let (with, without) = (local(Some(plain(500.0))), local(None));
    let says = "it is 10000 here and about 500 there";
    blames(&with, &without, "rope.theta", "layers.1.attn.q", says);
    blames(&without, &with, "window.rope", "layers.1.attn.q", "it turns as in layers without a window there");
    let other = local(Some(plain(2000.0)));
    blames(&other, &with, "window.rope.theta", "layers.1.attn.q", "it is 500 here and about 2000 there");
}

#[test]
fn kinds_of_rope() {
    let with_scaling = |scaling| changed(|s| s.rope.scaling = scaling);
    let yarn = |attention_factor| RopeScaling::Yarn {
        factor: 4.0,
        original_context: 16,
        beta_fast: 32.0,
        beta_slow: 1.0,
        truncate: true,
        attention_factor,
    };
    let q = "layers.0.attn.q";
    blames(&with_scaling(yarn(1.0)), &base(), "rope.scaling", q, "pairs ");
    blames(&base(), &with_scaling(yarn(1.0)), "rope.scaling", q, "it turns as without any scaling there");
    blames(
        &with_scaling(yarn(1.25)),
        &with_scaling(yarn(1.0 + 1e-3)),
        "rope.scaling",
        q,
        "cosines and sines are 1.2488 times as large there",
    );
    let dynamic = |factor| with_scaling(RopeScaling::Dynamic { factor, original_context: 20 });
    blames(&dynamic(2.0), &base(), "rope.theta", q, "it is 10000 here");
    blames(&base(), &dynamic(2.0), "rope.scaling", q, "it turns as without any scaling there");
}
