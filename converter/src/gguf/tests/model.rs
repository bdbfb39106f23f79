//! What metadata and tensors say about a model, and what is refused.

use crate::error::{ConvertError, Problems};
use crate::gguf::container::{ARRAY, TEXT};
use crate::gguf::tests::build::*;
use crate::gguf::{hints, input, open};
use crate::input::{Bytes, Input, SourceFile};
use std::collections::BTreeMap;

/// A file in parts that a test can change.
struct Parts {
    keys: BTreeMap<String, Vec<u8>>,
    /// Dimensions fastest first; all in F32.
    tensors: BTreeMap<String, Vec<u64>>,
}

fn number(value: u32) -> Vec<u8> {
    [4u32.to_le_bytes(), value.to_le_bytes()].concat()
}

fn float(value: f32) -> Vec<u8> {
    [6u32.to_le_bytes(), value.to_le_bytes()].concat()
}

fn word(value: &str) -> Vec<u8> {
    [&TEXT.to_le_bytes()[..], &text(value)].concat()
}

fn flag(value: bool) -> Vec<u8> {
    [&7u32.to_le_bytes()[..], &[value.into()]].concat()
}

fn numbers(values: &[u32]) -> Vec<u8> {
    let bytes: Vec<u8> = values.iter().flat_map(|n| n.to_le_bytes()).collect();
    [&ARRAY.to_le_bytes()[..], &array(4, values.len() as u64, &bytes)].concat()
}

impl Parts {
    /// A model of two layers, as llama.cpp's converter writes it.
    fn of(architecture: &str) -> Parts {
        let mut parts = Parts { keys: BTreeMap::new(), tensors: BTreeMap::new() };
        parts.keys.insert("general.architecture".into(), word(architecture));
        for (name, value) in [
            ("context_length", number(64)),
            ("embedding_length", number(8)),
            ("block_count", number(2)),
            ("feed_forward_length", number(12)),
            ("attention.head_count", number(2)),
            ("attention.head_count_kv", number(1)),
            ("attention.layer_norm_rms_epsilon", float(1e-5)),
            ("rope.freq_base", float(5e5)),
        ] {
            parts.set(name, value);
        }
        for layer in 0..2 {
            for (name, dims) in [
                ("attn_q", [8, 8]),
                ("attn_k", [8, 4]),
                ("attn_v", [8, 4]),
                ("attn_output", [8, 8]),
                ("ffn_gate", [8, 12]),
                ("ffn_up", [8, 12]),
                ("ffn_down", [12, 8]),
            ] {
                parts.tensors.insert(format!("blk.{layer}.{name}.weight"), dims.to_vec());
            }
            for name in ["attn_norm", "ffn_norm"] {
                parts.tensors.insert(format!("blk.{layer}.{name}.weight"), vec![8]);
            }
        }
        parts.tensors.insert("token_embd.weight".into(), vec![8, 20]);
        parts.tensors.insert("output_norm.weight".into(), vec![8]);
        parts
    }

    /// Sets a key of the model's own.
    fn set(&mut self, name: &str, value: Vec<u8>) {
        let architecture = self.keys["general.architecture"][12..].to_vec();
        self.keys.insert(format!("{}.{name}", String::from_utf8(architecture).unwrap()), value);
    }

    fn read(&self) -> Result<Input, String> {
        self.read_with(None)
    }

    /// As a conversion that is given a tokenizer.json.
    fn read_with(&self, given: Option<&str>) -> Result<Input, String> {
        let keys: Vec<Vec<u8>> = self.keys.iter().map(|(name, value)| [&text(name)[..], value].concat()).collect();
        let (mut tensors, mut at) = (Vec::new(), 0);
        for (name, dims) in &self.tensors {
            tensors.push(tensor(name, dims, 0, at));
            at += (4 * dims.iter().product::<u64>()).next_multiple_of(32);
        }
        let problems = Problems::new(hints::hint);
        let opened = open::of_bytes(&file(&keys, &tensors, at as usize), &problems).expect("a right header");
        let json = |text: &str| Bytes::Held(text.as_bytes().to_vec());
        let given = given.map(|text| SourceFile { name: "tokenizer.json".into(), bytes: json(text) });
        input(opened, given, &[], problems).map_err(|e| match e {
            ConvertError::Problems(all) => all.iter().map(|p| format!("{p}\n")).collect(),
            other => panic!("{other}"),
        })
    }

    /// Asserts that the file is refused with these words in one line.
    #[track_caller]
    fn refused(&self, words: &[&str]) {
        let message = self.read().expect_err("it is accepted");
        let line = message.lines().find(|line| words.iter().all(|word| line.contains(word)));
        assert!(line.is_some(), "no {words:?} in {message}");
    }
}

#[test]
fn a_model_is_described() {
    let spec = Parts::of("llama").read().unwrap().spec;
    assert_eq!((spec.hidden_size, spec.n_layers, spec.head_dim, spec.vocab_size), (8, 2, 4, 20));
    assert_eq!((spec.norm_eps, spec.rope.theta, spec.tied_lm_head, spec.qkv_bias), (1e-5, 5e5, true, false));
    let mut parts = Parts::of("qwen2");
    parts.tensors.insert("output.weight".into(), vec![8, 20]);
    for (name, len) in [("attn_q", 8), ("attn_k", 4), ("attn_v", 4)] {
        parts.tensors.extend((0..2).map(|layer| (format!("blk.{layer}.{name}.bias"), vec![len])));
    }
    // A list for the layers, all alike, is a number.
    parts.set("attention.head_count_kv", numbers(&[1, 1]));
    let spec = parts.read().unwrap().spec;
    assert_eq!((spec.tied_lm_head, spec.qkv_bias, spec.n_kv_heads), (false, true, 1));
}

#[test]
fn what_is_not_known_is_refused() {
    let refused = |name: &str, value: Vec<u8>, words: &[&str]| {
        let mut parts = Parts::of("llama");
        parts.set(name, value);
        parts.refused(words);
    };
    refused("expert_count", number(8), &["llama.expert_count", "8"]);
    refused("attention.causal", flag(false), &["llama.attention.causal"]);
    refused("attention.sliding_window", number(4), &["llama.attention.sliding_window", "not known"]);
    refused("attention.value_length", number(6), &["llama.attention.value_length", "6"]);
    refused("rope.dimension_count", number(2), &["llama.rope.dimension_count", "2"]);
    refused("rope.scaling.type", word("ntk"), &["llama.rope.scaling.type", "ntk"]);
    refused("rope.scaling.attn_factor", float(1.5), &["llama.rope.scaling.attn_factor", "1.5"]);
    refused("attention.head_count", word("two"), &["llama.attention.head_count", "a text"]);
    refused("attention.head_count_kv", numbers(&[1, 2]), &["llama.attention.head_count_kv", "the same for all layers"]);
    refused("block_count", number(5000), &["llama.block_count", "at most 1024"]);
    refused("block_count", number(0), &["llama.block_count"]);
    refused("attention.head_count_kv", number(3), &["llama.attention.head_count_kv"]);
    Parts::of("mamba").refused(&["architecture 'mamba'", "llama, qwen2"]);
    let mut parts = Parts::of("llama");
    parts.keys.remove("llama.embedding_length");
    parts.refused(&["llama.embedding_length is missing"]);
    parts.keys.remove("general.architecture");
    parts.refused(&["general.architecture is missing"]);
    // What changes nothing, and what is nobody's, is no reason.
    let mut parts = Parts::of("llama");
    parts.set("vocab_size", number(20));
    parts.keys.insert("mine.own".into(), number(1));
    let warnings = format!("{:?}", parts.read().unwrap().warnings);
    assert!(warnings.contains("mine.own") && !warnings.contains("vocab_size"), "{warnings}");
}

#[test]
fn every_tensor_is_accounted_for() {
    let mut parts = Parts::of("llama");
    parts.tensors.remove("blk.1.ffn_up.weight");
    parts.refused(&["blk.1.ffn_up.weight", "is missing"]);
    let mut parts = Parts::of("llama");
    parts.tensors.insert("blk.0.extra.weight".into(), vec![8]);
    parts.refused(&["blk.0.extra.weight", "is no tensor"]);
    let mut parts = Parts::of("llama");
    parts.tensors.insert("blk.1.attn_k.weight".into(), vec![8, 8]);
    parts.refused(&["blk.1.attn_k.weight", "[8, 8]", "[4, 8]"]);
    // A bias in the first layer means one in all.
    let mut parts = Parts::of("llama");
    for name in ["attn_q", "attn_k", "attn_v"] {
        parts.tensors.insert(format!("blk.0.{name}.bias"), vec![if name == "attn_q" { 8 } else { 4 }]);
    }
    parts.refused(&["blk.1.attn_q.bias", "is missing"]);
}

#[test]
fn windows_are_listed_or_follow_a_pattern() {
    let gemma = |pattern: Option<Vec<u8>>| {
        let mut parts = Parts::of("gemma2");
        for layer in 0..2 {
            for name in ["post_attention_norm", "post_ffw_norm"] {
                parts.tensors.insert(format!("blk.{layer}.{name}.weight"), vec![8]);
            }
        }
        parts.set("attention.sliding_window", number(16));
        if let Some(pattern) = pattern {
            parts.set("attention.sliding_window_pattern", pattern);
        }
        parts
    };
    let layers = |pattern| gemma(pattern).read().unwrap().spec.window.map(|window| window.layers);
    assert_eq!(layers(None), Some(vec![0]));
    assert_eq!(layers(Some(number(1))), None);
    assert_eq!(layers(Some(numbers(&[1, 1]))), Some(vec![0, 1]));
    gemma(Some(numbers(&[1]))).refused(&["gemma2.attention.sliding_window_pattern", "1 values"]);
}

/// A tokenizer whose steps nobody knows is refused by name, unless a tokenizer.json is given in its place.
#[test]
fn a_tokenizer_may_be_given() {
    let mut parts = Parts::of("llama");
    let tokens: Vec<u8> = (0..20).flat_map(|i| text(&format!("t{i}"))).collect();
    let mut add = |name: &str, value: Vec<u8>| parts.keys.insert(format!("tokenizer.ggml.{name}"), value);
    add("model", word("gpt2"));
    add("pre", word("unheard-of"));
    add("tokens", [&ARRAY.to_le_bytes()[..], &array(TEXT, 20, &tokens)].concat());
    add("merges", [&ARRAY.to_le_bytes()[..], &array(TEXT, 0, &[])].concat());
    add("eos_token_id", number(7));
    parts.refused(&["tokenizer.ggml.pre", "unheard-of"]);
    let vocab: Vec<String> = (0..20).map(|i| format!("\"t{i}\": {i}")).collect();
    let json = format!(
        r#"{{"version": "1.0", "model": {{"type": "WordLevel", "unk_token": "t0", "vocab": {{{}}}}}}}"#,
        vocab.join(", ")
    );
    let read = parts.read_with(Some(&json)).unwrap();
    assert_eq!(read.sidecars.generation.eos_ids, [7]);
    let tokenizer = read.sidecars.tokenizer.unwrap();
    assert!(tokenizer.json == json.as_bytes() && !tokenizer.made);
    assert_eq!(read.files.last().unwrap().name, "tokenizer.json");
}
