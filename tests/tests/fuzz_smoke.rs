//! Runs the fuzz targets for a while, on any toolchain: first on the committed seeds, then on a fixed number of random
//! changes to them; in a thorough run on five times as many. `scripts/fuzz.sh` continues from the same seeds for as long as
//! you like.
//!
//! After a change of the format, make new seeds with
//!
//!     cargo test -p nanoserve-tests --test fuzz_smoke -- --ignored

use nanoserve_format::{Encoding, ModelSpec, Rope, RopeScaling, SectionKind};
use nanoserve_tests::mutate::mutate;
use nanoserve_tests::targets::{PARTS, TARGETS, Target, WHOLE, input, safetensors_model};
use nanoserve_tests::{SourceType, SplitMix64, Tiny, fixtures, thorough, write_file};
use nanoserve_tokenizer::vocab::{Added, Contents, Family, Piece};
use serde_json::{Value, json};
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

/// Far longer than the slowest input takes in a debug build on a busy machine.
const HANG: Duration = Duration::from_secs(120);

fn folder(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target)
}

/// The committed inputs of a target, by name.
fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let files = fs::read_dir(folder(target)).unwrap().map(|entry| entry.unwrap().path());
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_string();
    let mut seeds: Vec<_> = files.map(|path| (name(&path), fs::read(&path).unwrap())).collect();
    seeds.sort();
    seeds
}

/// Ends the program if one input takes as long as [`HANG`].
fn watched(name: &'static str, done: &'static AtomicUsize) {
    thread::spawn(move || {
        loop {
            let before = done.load(Relaxed);
            thread::sleep(HANG);
            match done.load(Relaxed) {
                usize::MAX => return,
                now if now == before => {
                    eprintln!("{name}: input {now} does not come to an end");
                    std::process::abort();
                }
                _ => {}
            }
        }
    });
}

/// Runs all seeds of a target, then `count` changed ones; in a thorough run the same and four times as many more.
fn smoke(name: &'static str, count: usize) {
    let count = if thorough() { 5 * count } else { count };
    let &(_, target): &Target = TARGETS.iter().find(|(target, _)| *target == name).unwrap();
    let done: &'static AtomicUsize = Box::leak(Box::default());
    watched(name, done);
    let seeds = seeds(name);
    for (seed, bytes) in &seeds {
        // Seeds named "good" must be accepted; otherwise everything made from them is refused at once.
        assert!(target(bytes) || !seed.starts_with("good"), "{name}/{seed} is refused");
        done.fetch_add(1, Relaxed);
    }
    let (mut random, mut taken) = (SplitMix64::new(1), 0);
    for i in 0..count {
        let (a, b) = (random.below(seeds.len()), random.below(seeds.len()));
        let changed = mutate(&mut random, &seeds[a].1, &seeds[b].1);
        match catch_unwind(AssertUnwindSafe(|| target(&changed))) {
            Ok(good) => taken += usize::from(good),
            Err(panic) => {
                let path = std::env::temp_dir().join(format!("nanoserve-{name}-{i}"));
                fs::write(&path, &changed).unwrap();
                eprintln!("{name}: change {i} of {} panics; it is in {}", seeds[a].0, path.display());
                std::panic::resume_unwind(panic);
            }
        }
        done.fetch_add(1, Relaxed);
    }
    done.store(usize::MAX, Relaxed);
    println!("{name}: {} seeds, {count} changes, of which {taken} were taken", seeds.len());
    assert!(taken > count / 100, "{name}: of {count} changes {taken} are taken");
}

#[test]
fn nsv() {
    smoke("nsv", 20_000);
}

#[test]
fn safetensors() {
    smoke("safetensors", 40_000);
}

#[test]
fn gguf() {
    smoke("gguf", 40_000);
}

#[test]
fn config() {
    smoke("config", 100_000);
}

#[test]
fn vocabulary() {
    smoke("vocabulary", 30_000);
}

#[test]
fn tokenizer() {
    // Panics of the library are caught; their messages are of no interest here.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if panic.location().is_none_or(|at| !at.file().contains("tokenizers-") && !at.file().contains("onig-")) {
            hook(panic);
        }
    }));
    smoke("tokenizer", 4_000);
}

#[test]
fn templates() {
    smoke("template", 800);
}

/// A byte-level vocabulary with few merges, and one of the text family.
fn vocabularies() -> [Contents; 2] {
    let mut bytes = Contents::new(Family::ByteLevel);
    bytes.byte_ids = (0..256).collect();
    let piece = |bytes: &[u8]| Some(Piece { bytes: bytes.to_vec(), ..Piece::default() });
    bytes.pieces = (0..=255u8).map(|b| piece(&[b])).collect();
    bytes.pieces.extend([piece(b"he"), piece(b"ll"), piece(b"hell"), None]);
    bytes.pieces.push(Some(Piece { bytes: b"<|eot|>".to_vec(), special: true, literal: true }));
    bytes.merges = vec![[104, 101, 0, 256], [108, 108, 1, 257], [256, 257, 2, 258]];
    bytes.added = vec![Added { text: "<|eot|>".into(), id: 260, left: true, right: true, word: false }];
    bytes.added_normalized = vec![Added { text: "don".into(), id: 3, ..Added::default() }];
    (bytes.nfc, bytes.lead, bytes.token_count) = (true, vec![260], 260);
    bytes.pattern =
        r"(?i:'s|'t)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+".into();
    let mut text = Contents::new(Family::Text);
    text.byte_ids = (0..256).collect();
    text.pieces = (0..=255u8).map(|b| piece(format!("<0x{b:02X}>").as_bytes())).collect();
    text.pieces.extend(["▁", "a", "l", "▁a", "aa", "ll"].map(|t| piece(t.as_bytes())));
    text.keys = vec![256, 257, 258];
    text.merges = vec![[257, 257, 0, 260], [256, 257, 1, 259], [258, 258, 2, 261]];
    text.token_count = 262;
    [bytes, text]
}

/// A tokenizer.json with few entries, with some of its parts replaced.
fn tokenizer_json(parts: &[(&str, Value)]) -> Vec<u8> {
    let mut vocab = json!({"a": 0, "b": 1, "c": 2, "ab": 3, "Ġ": 4, "Ġa": 5, "abc": 6});
    vocab["<unk>"] = 7.into();
    let mut file = json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [{"id": 8, "content": "<|eot|>", "single_word": false, "lstrip": false, "rstrip": true,
            "normalized": false, "special": true}],
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<|eot|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<|eot|>": {"id": "<|eot|>", "ids": [8], "tokens": ["<|eot|>"]}}},
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocab, "merges": [["a", "b"], ["Ġ", "a"], ["ab", "c"]]},
    });
    for (place, value) in parts {
        *file.pointer_mut(place).unwrap() = value.clone();
    }
    file.to_string().into_bytes()
}

type Sections = Vec<(SectionKind, Vec<u8>)>;

/// Files of tiny models, by name: every encoding, with and without the optional sections.
fn files() -> Vec<(&'static str, Vec<u8>)> {
    let small = ModelSpec { hidden_size: 8, intermediate_size: 12, n_heads: 2, head_dim: 4, ..ModelSpec::default() };
    let scaling =
        RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_context: 64 };
    let llama3 = Rope { theta: 500_000.0, rotary_dim: None, scaling };
    let [bytes, text] = vocabularies().map(|contents| contents.to_bytes());
    let generation = br#"{"bos_id":1,"eos_ids":[2],"temperature":0.7,"top_k":5,"top_p":0.9}"#.to_vec();
    let provenance = br#"{"converter":"nanoserve-convert","recipe":"--dtype f32","sources":[]}"#.to_vec();
    let tied = ModelSpec { vocab_size: 17, tied_lm_head: true, ..small.clone() };
    let cases: [(_, _, _, Sections); 4] = [
        (
            "f32",
            ModelSpec { qkv_bias: true, mlp_bias: true, attn_out_bias: true, ..tied.clone() },
            Encoding::F32,
            vec![],
        ),
        (
            "q8",
            ModelSpec { n_kv_heads: 2, rope: llama3, ..tied.clone() },
            Encoding::Q8,
            vec![
                (SectionKind::ChatTemplate, b"{{ bos_token }}".to_vec()),
                (SectionKind::Generation, generation.clone()),
                (SectionKind::Provenance, provenance),
            ],
        ),
        (
            "f16-bytes",
            ModelSpec { vocab_size: 264, ..small.clone() },
            Encoding::F16,
            vec![
                (SectionKind::Tokenizer, b"{}".to_vec()),
                (SectionKind::Generation, generation),
                (SectionKind::Vocabulary, bytes),
            ],
        ),
        (
            "f16-text",
            ModelSpec { vocab_size: 264, n_layers: 2, ..tied },
            Encoding::F16,
            vec![(SectionKind::Tokenizer, tokenizer_json(&[])), (SectionKind::Vocabulary, text)],
        ),
    ];
    let folder = tempfile::tempdir().unwrap();
    let make = |(name, spec, encoding, sections): (_, ModelSpec, _, Sections)| {
        let path = folder.path().join("seed.nsv");
        write_file(&path, &spec, encoding, &sections, &|name, row, out| {
            let mut random = SplitMix64::new((name.len() * 1000 + row) as u64);
            out.fill_with(|| random.bell());
        });
        (name, fs::read(path).unwrap())
    };
    cases.into_iter().map(make).collect()
}

#[test]
#[ignore = "writes the committed seeds: see the head of this file"]
fn write_the_seeds() {
    let put = |target: &str, name: &str, bytes: &[u8]| {
        fs::create_dir_all(folder(target)).unwrap();
        fs::write(folder(target).join(name), bytes).unwrap();
    };
    for (name, file) in files() {
        put("nsv", &format!("good-{name}-whole"), &input(WHOLE, &file));
        put("nsv", &format!("good-{name}-parts"), &input(PARTS, &file));
    }
    let scratch = tempfile::tempdir().unwrap();
    let spec = safetensors_model();
    for (name, dtype) in [("f32", SourceType::F32), ("f16", SourceType::F16), ("bf16", SourceType::Bf16)] {
        let tiny = Tiny {
            hidden: spec.hidden_size,
            intermediate: spec.intermediate_size,
            layers: spec.n_layers,
            heads: spec.n_heads,
            kv_heads: spec.n_kv_heads,
            head_dim: spec.head_dim,
            vocab: spec.vocab_size,
            tied: true,
            attention_bias: true,
            dtype,
            ..Tiny::default()
        };
        tiny.write(scratch.path());
        put("safetensors", &format!("good-{name}"), &fs::read(scratch.path().join("model.safetensors")).unwrap());
        put("config", &format!("good-{name}"), tiny.config().to_string().as_bytes());
    }
    for fixture in fixtures() {
        put("config", &format!("good-{}", fixture.name), &fs::read(fixture.path.join("config.json")).unwrap());
    }
    for (name, contents) in ["bytes", "text"].into_iter().zip(vocabularies()) {
        put("vocabulary", &format!("good-{name}"), &contents.to_bytes());
        let ignoring = Contents { ignore_merges: true, keys: (0..256).collect(), pattern: String::new(), ..contents };
        put("vocabulary", &format!("good-{name}-ignoring-merges"), &ignoring.to_bytes());
    }
    let llama2 = [
        (
            "/normalizer",
            json!({"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]}),
        ),
        ("/pre_tokenizer", Value::Null),
        (
            "/decoder",
            json!({"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}),
        ),
        ("/model/unk_token", "<unk>".into()),
    ];
    put("tokenizer", "good-byte-level", &tokenizer_json(&[]));
    put("tokenizer", "good-text", &tokenizer_json(&llama2));
    let split = json!({"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": r"\p{N}{1,3}| ?\p{L}+|\s+(?!\S)"}, "behavior": "Isolated", "invert": false},
        {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}]});
    put(
        "tokenizer",
        "good-split",
        &tokenizer_json(&[("/pre_tokenizer", split), ("/normalizer", json!({"type": "NFC"}))]),
    );
    let padding = json!({"strategy": {"Fixed": 8}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0,
        "pad_type_id": 0, "pad_token": "a"});
    let truncation = json!({"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0});
    put("tokenizer", "good-padding", &tokenizer_json(&[("/padding", padding), ("/truncation", truncation)]));
    let reference = Path::new(env!("CARGO_MANIFEST_DIR")).join("reference/templates");
    let read = |name: &str| -> Value { serde_json::from_slice(&fs::read(reference.join(name)).unwrap()).unwrap() };
    for (name, template) in read("conversations.json")["templates"].as_object().unwrap() {
        put("template", &format!("good-{name}"), template.as_str().unwrap().as_bytes());
    }
    for group in ["print", "logic", "slices", "methods", "filters", "json", "tests", "generators", "tags"] {
        let features = read("features.json");
        let cases = features["cases"].as_array().unwrap().iter();
        let of_group = cases.filter(|c| c["name"].as_str().unwrap().starts_with(group) && c["text"].is_string());
        let templates: Vec<&str> = of_group.map(|c| c["template"].as_str().unwrap()).collect();
        put("template", &format!("good-{group}"), templates.join("\n").as_bytes());
    }
}
