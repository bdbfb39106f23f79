//! Tokenizers in whole files: ids, text, and text streamed one token at a time. And the proof that a compiled tokenizer
//! equals the one it was made from: the same ids, and the same text of them, for texts chosen to show a difference.
//!
//! The long proof, with times, on the published vocabularies:
//!
//!     cargo test --release -p nanoserve-tests --test tokenizers -- --ignored --nocapture

use nanoserve_converter::compile_tokenizer;
use nanoserve_format::{Encoding, ModelSpec, NsvFile, Plan, SectionKind, Writer};
use nanoserve_runtime::cpu::isa;
use nanoserve_tests::{SplitMix64, engine, fixtures};
use nanoserve_tokenizer::{TextStream, Tokenizer};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

fn cases(path: &Path) -> Vec<Value> {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// The text of ids that arrive one by one.
fn streamed(tokenizer: &Tokenizer, ids: &[u32]) -> String {
    let mut stream = TextStream::new(tokenizer, true);
    let mut text = String::new();
    for &id in ids {
        text += &stream.push(id).unwrap();
    }
    text + &stream.finish()
}

#[test]
fn the_fixtures_agree_with_the_tokenizers_library() {
    let folder = tempfile::tempdir().unwrap();
    let (mut tokenizers, mut twice) = (0, 0);
    for fixture in fixtures() {
        let path = fixture.path.join("tokenizer_cases.json");
        if !path.exists() {
            continue;
        }
        tokenizers += 1;
        let tokenizer =
            engine(&fixture.convert(Encoding::Q8, folder.path()), isa::available()[0], 1).tokenizer().unwrap();
        assert!(tokenizer.is_compiled(), "{}", fixture.name);
        let (cases, bos) = (cases(&path), tokenizer.encode("", true).unwrap()[0]);
        assert!(cases.len() >= 20, "{}: {} cases", fixture.name, cases.len());
        for case in &cases {
            let (text, mut expected) = (case["text"].as_str().unwrap(), ids(&case["ids"]));
            let what = format!("{} {text:?}", fixture.name);
            // The library adds a BOS even if the text begins with one; a prompt has it only once.
            if expected.len() > 1 && expected[0] == expected[1] {
                assert_eq!(expected.remove(0), bos, "{what}");
                twice += 1;
            }
            assert_eq!(tokenizer.encode(text, true).unwrap(), expected, "{what}");
            assert_eq!(tokenizer.encode(text, false).unwrap(), ids(&case["ids_plain"]), "{what}, plain");
            let decoded = case["decoded"].as_str().unwrap();
            assert_eq!(tokenizer.decode(&expected, true).unwrap(), decoded, "{what}");
            assert_eq!(streamed(&tokenizer, &expected), decoded, "{what}, one by one");
        }
    }
    assert!(tokenizers == 2 && twice > 0, "{tokenizers} tokenizers, {twice} texts that begin with BOS");
}

/// The names of published models' vocabularies (file names without the extension); empty if they are not available.
fn published() -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/tokenizers");
    if !folder.is_dir() {
        println!("skipped: {} is not there", folder.display());
        return Vec::new();
    }
    let files = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    let mut names: Vec<String> =
        files.filter_map(|path| path.to_str()?.strip_suffix(".cases.json").map(str::to_string)).collect();
    names.sort();
    assert!(!names.is_empty(), "{} holds no cases", folder.display());
    names
}

fn read(name: &str) -> Vec<u8> {
    fs::read(format!("{name}.json")).unwrap()
}

#[test]
fn the_published_vocabularies_agree() {
    for name in published() {
        let json = read(&name);
        let parsed = Tokenizer::from_json(&json, None, None).unwrap();
        let section = compile_tokenizer(&json).unwrap().expect("it has a compiled form");
        let compiled = Tokenizer::from_section(section, None, None).unwrap();
        let cases = cases(Path::new(&format!("{name}.cases.json")));
        assert!(!cases.is_empty());
        for case in &cases {
            let (text, expected) = (case["text"].as_str().unwrap(), ids(&case["ids"]));
            for tokenizer in [&parsed, &compiled] {
                assert_eq!(tokenizer.encode(text, false).unwrap(), expected, "{name} {text:?}");
                let decoded = tokenizer.decode(&expected, true).unwrap();
                assert_eq!(streamed(tokenizer, &expected), decoded, "{name} {text:?}");
            }
        }
        println!("{name}: {} cases", cases.len());
        agree(&name, &json, &parsed, &compiled, 3_000, 1);
    }
}

#[test]
fn compiled_fixtures_agree_on_any_text() {
    let files: Vec<PathBuf> = fixtures().into_iter().map(|f| f.path.join("tokenizer.json")).collect();
    let mut layouts = [0; 3];
    for path in files.iter().filter(|path| path.exists()) {
        let json = fs::read(path).unwrap();
        let file: Value = serde_json::from_slice(&json).unwrap();
        let byte_level = file["decoder"]["type"] == "ByteLevel";
        let mut variants = vec![json];
        for ignore in [true, false] {
            let mut file = file.clone();
            file["model"]["ignore_merges"] = ignore.into();
            let changed = if byte_level { byte_level_variants(&file) } else { text_variants(&file) };
            variants.extend(changed.iter().map(|file| serde_json::to_vec(file).unwrap()));
        }
        for (i, json) in variants.iter().enumerate() {
            let name = format!("{} {i}", path.display());
            let parsed = Tokenizer::from_json(json, None, None).unwrap();
            let section = compile_tokenizer(json).unwrap().unwrap_or_else(|| panic!("{name} has no compiled form"));
            if i < 3 {
                assert_eq!(compile_tokenizer(json).unwrap().as_ref(), Some(&section), "{name}: the same bytes");
            }
            layouts[section[0] as usize] += 1;
            let compiled = Tokenizer::from_section(section, None, None).unwrap();
            agree(&name, json, &parsed, &compiled, if i == 0 { 1_000 } else { 100 }, i as u64);
        }
    }
    // What older programs can read is written for them.
    assert!(layouts[1] >= 6 && layouts[2] >= 30, "{layouts:?}");
}

/// A byte-level tokenizer with every step and switch that has a compiled form.
fn byte_level_variants(file: &Value) -> Vec<Value> {
    let split = |pattern: Value| json!({"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": false});
    let bytes = |regex: bool, space: bool| json!({"type": "ByteLevel", "add_prefix_space": space, "trim_offsets": true, "use_regex": regex});
    let digits = |individual: bool| json!({"type": "Digits", "individual_digits": individual});
    let sequence = |steps: &[Value]| json!({"type": "Sequence", "pretokenizers": steps});
    let words = r"\s?[!-/:-~]+|\s?\p{L}+|\s+(?!\S)|\s+";
    let steps = [
        file["pre_tokenizer"].clone(),
        bytes(true, false),
        bytes(false, false),
        bytes(true, true),
        sequence(&[digits(true), bytes(true, false)]),
        sequence(&[digits(false), bytes(true, false)]),
        sequence(&[
            split(json!({"Regex": r"\p{N}{1,3}"})),
            split(json!({"Regex": "[一-龥\u{3040}-ゟ゠-ヿ]+"})),
            split(json!({"Regex": words})),
            bytes(false, false),
        ]),
        sequence(&[split(json!({"String": "-."})), split(json!({"String": " "})), bytes(true, false)]),
    ];
    let mut all = Vec::new();
    for (step, nfc) in steps.iter().zip([false, true].into_iter().cycle()) {
        let mut file = file.clone();
        file["pre_tokenizer"] = step.clone();
        file["normalizer"] = if nfc { json!({"type": "NFC"}) } else { Value::Null };
        all.extend([file.clone(), with_tokens(&file)]);
    }
    all
}

/// A tokenizer of the text family, with every way to put the mark in front, and with every switch.
fn text_variants(file: &Value) -> Vec<Value> {
    let replace = |from: &str, to: &str| json!({"type": "Replace", "pattern": {"String": from}, "content": to});
    let split = json!(
        {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": false});
    let mut steps =
        vec![(file["normalizer"].clone(), Value::Null), (replace(" ", "▁"), split), (replace(" ", "▁"), Value::Null)];
    for prefix in ["always", "first", "never"] {
        for split in [true, false] {
            let step = json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": prefix, "split": split});
            steps.push((Value::Null, step));
        }
    }
    let mut all = Vec::new();
    for (normalizer, pre_tokenizer) in steps {
        for strips in [true, false] {
            let mut file = file.clone();
            (file["normalizer"], file["pre_tokenizer"]) = (normalizer.clone(), pre_tokenizer.clone());
            let mut decoders = vec![replace("▁", " "), json!({"type": "ByteFallback"}), json!({"type": "Fuse"})];
            if strips {
                decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
            }
            file["decoder"] = json!({"type": "Sequence", "decoders": decoders});
            all.push(file.clone());
            // Not compiled: spaces around such tokens become marks at another time.
            if file["pre_tokenizer"]["prepend_scheme"] != "never" {
                all.push(with_tokens(&file));
            }
        }
    }
    all
}

/// A tokenizer with an added token for each set of switches.
fn with_tokens(file: &Value) -> Value {
    let mut file = file.clone();
    let next = Tokenizer::from_json(file.to_string().as_bytes(), None, None).unwrap().max_id().unwrap() + 1;
    let texts = ["the", "<|x|>", "Ünï", "cat", "e\u{301}", "<|x", "日", "_a", "re", "HTTP", "of", "\u{212b}"];
    for (i, text) in (0..).zip(texts) {
        let bit = |n: u32| i >> n & 1 == 1;
        file["added_tokens"]
            .as_array_mut()
            .unwrap()
            .push(json!({"id": next + i, "content": text, "lstrip": i % 3 == 1,
            "rstrip": i % 5 == 1, "single_word": bit(1), "normalized": bit(0), "special": bit(2)}));
    }
    // A text that the vocabulary has is no new entry.
    let (vocab, mut id) = (file["model"]["vocab"].clone(), next);
    for token in file["added_tokens"].as_array_mut().unwrap() {
        if token["id"].as_u64().unwrap() >= u64::from(next) {
            match vocab.get(token["content"].as_str().unwrap()) {
                Some(known) => token["id"] = known.clone(),
                None => (token["id"], id) = (id.into(), id + 1),
            }
        }
    }
    file
}

#[test]
fn other_tokenizers_are_not_compiled() {
    let path = fixtures().into_iter().map(|f| f.path.join("tokenizer.json")).find(|p| p.exists()).unwrap();
    let good: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let changes: [(&str, Value); 7] = [
        ("/normalizer", serde_json::json!({"type": "Lowercase"})),
        ("/pre_tokenizer", serde_json::json!({"type": "Whitespace"})),
        ("/pre_tokenizer/pretokenizers/1/add_prefix_space", true.into()),
        ("/decoder", serde_json::json!({"type": "Fuse"})),
        ("/model/dropout", 0.5.into()),
        ("/pre_tokenizer/pretokenizers/0/behavior", "Removed".into()),
        ("/pre_tokenizer/pretokenizers/0/pattern", serde_json::json!({"Regex": r"\w+"})),
    ];
    for (place, value) in changes {
        let mut file = good.clone();
        match file.pointer_mut(place) {
            Some(old) => *old = value,
            None => panic!("{place} is not there"),
        }
        let compiled = compile_tokenizer(&serde_json::to_vec(&file).unwrap());
        assert_eq!(compiled.unwrap(), None, "{place}");
    }
}

/// Problems with tokenizer.json found by fuzzing and reading: a padding of any length, expressions and steps without
/// end, and a text that is no JSON, at which the library panics.
#[test]
fn hostile_tokenizers_are_refused_or_harmless() {
    let path = fixtures().into_iter().map(|f| f.path.join("tokenizer.json")).find(|p| p.exists()).unwrap();
    let good: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let with = |place: &str, value: Value| {
        let mut file = good.clone();
        file[place] = value;
        serde_json::to_vec(&file).unwrap()
    };
    let padded = with(
        "padding",
        serde_json::json!({"strategy": {"Fixed": 1u64 << 40}, "direction": "Right", "pad_to_multiple_of": null,
            "pad_id": 0, "pad_type_id": 0, "pad_token": "a"}),
    );
    assert!(compile_tokenizer(&padded).unwrap().is_some());
    let ids = Tokenizer::from_json(&padded, None, None).unwrap().encode("one", true).unwrap();
    assert!(ids.len() < 10);

    let split = |expression: &str| {
        let pattern = serde_json::json!({"Regex": expression});
        serde_json::json!({"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": false})
    };
    let step = serde_json::json!({"type": "Replace", "pattern": {"String": "a"}, "content": "aa"});
    for (place, value, words) in [
        ("pre_tokenizer", split("(?=(?:(?=(?:(?=a*).)*).)*)"), "without bounds"),
        // The library runs these over its added tokens while it loads.
        ("normalizer", serde_json::json!({"type": "Sequence", "normalizers": vec![step; 60]}), "4096 times longer"),
    ] {
        let json = with(place, value);
        let errors =
            [compile_tokenizer(&json).unwrap_err(), Tokenizer::from_json(&json, None, None).unwrap_err().to_string()];
        assert!(errors.iter().all(|error| error.contains(words)), "{errors:?}");
    }
    let good = serde_json::to_vec(&good).unwrap();
    for n in (0..good.len()).step_by(97) {
        assert!(compile_tokenizer(&good[..n]).is_err_and(|e| !e.contains("panicked")));
        assert!(Tokenizer::from_json(&good[..n], None, None).is_err());
    }
}

/// The tokenizer.json of any folder, by hand: NANOSERVE_TOKENIZER is its path, NANOSERVE_TEXT that of a long text, of
/// which 10,000 parts are compared beside 10,000 random texts.
#[test]
#[ignore = "needs a tokenizer of yours: see above"]
fn a_tokenizer_of_yours_agrees() {
    let at = |name: &str| PathBuf::from(std::env::var_os(name).unwrap_or_else(|| panic!("{name} is not set")));
    let path = at("NANOSERVE_TOKENIZER");
    let json = fs::read(&path).unwrap();
    let parsed = Tokenizer::from_json(&json, None, None).unwrap();
    let section = compile_tokenizer(&json).unwrap().expect("it has a compiled form");
    println!("layout {}, {} bytes", section[0], section.len());
    let compiled = Tokenizer::from_section(section, None, None).unwrap();
    let text = String::from_utf8_lossy(&fs::read(at("NANOSERVE_TEXT")).unwrap()).into_owned();
    let chars: Vec<char> = text.chars().collect();
    let mut random = SplitMix64::new(3);
    let (mut total, mut tokens) = (0, 0);
    for i in 0..10_000 {
        let (start, length) = (random.below(chars.len()), 1 + random.below(if i % 100 == 0 { 20_000 } else { 400 }));
        let part: String = chars[start..].iter().take(length).collect();
        let ids = compiled.encode(&part, false).unwrap();
        assert_eq!(ids, parsed.encode(&part, false).unwrap(), "{part:?}");
        let skip = i % 2 == 0;
        assert_eq!(compiled.decode(&ids, skip).unwrap(), parsed.decode(&ids, skip).unwrap(), "{part:?}");
        assert_eq!(streamed(&compiled, &ids), streamed(&parsed, &ids), "{part:?}");
        (total, tokens) = (total + part.len(), tokens + ids.len());
    }
    println!("10,000 parts of the text agree, {total} bytes, {tokens} ids");
    agree(&path.display().to_string(), &json, &parsed, &compiled, 10_000, 4);
}

/// Takes minutes. Prints how many texts agree, and how long loading and encoding take.
#[test]
#[ignore = "takes minutes: see the head of this file"]
fn the_long_proof() {
    for name in published() {
        let json = read(&name);
        let start = Instant::now();
        let parsed = Tokenizer::from_json(&json, None, None).unwrap();
        let parse = start.elapsed();
        let start = Instant::now();
        let section = compile_tokenizer(&json).unwrap().expect("it has a compiled form");
        let compile = start.elapsed();
        let bytes = section.len();

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokenizer.nsv");
        write(&path, section);
        let file = Arc::new(NsvFile::open(&path).unwrap());
        let mut loads: Vec<f64> = (0..9)
            .map(|_| {
                let start = Instant::now();
                Tokenizer::from_file(&file, None, None).unwrap().unwrap();
                start.elapsed().as_secs_f64() * 1e3
            })
            .collect();
        let first_load = loads[0];
        loads.sort_by(f64::total_cmp);
        let compiled = Tokenizer::from_file(&file, None, None).unwrap().unwrap();
        let start = Instant::now();
        compiled.encode("a first text, 1", false).unwrap();
        let first_text = start.elapsed();

        let mut random = SplitMix64::new(100);
        let texts = Texts::new(&json, &parsed);
        let sample: String = (0..4000).map(|_| texts.plain(&mut random)).collect::<Vec<_>>().join("\n");
        let rate = |tokenizer: &Tokenizer| {
            let parts: Vec<&str> = sample.as_bytes().chunks(4096).filter_map(|c| std::str::from_utf8(c).ok()).collect();
            let (total, start) = (parts.iter().map(|p| p.len()).sum::<usize>(), Instant::now());
            for part in &parts {
                std::hint::black_box(tokenizer.encode(part, false).unwrap());
            }
            total as f64 / start.elapsed().as_secs_f64() / 1e6
        };
        rate(&parsed); // it remembers words
        println!(
            "{name}: section {bytes} bytes, compiled in {compile:.1?}; load {:.2} ms (first {first_load:.2}), parsed in \
             {parse:.0?}; first text {first_text:.0?}; {:.1} MB/s, parsed {:.1} MB/s",
            loads[4],
            rate(&compiled),
            rate(&parsed),
        );
        let long = "a".repeat(100_000);
        let start = Instant::now();
        let (ids, took) = (compiled.encode(&long, false).unwrap(), start.elapsed());
        assert_eq!(ids, parsed.encode(&long, false).unwrap());
        println!("{name}: 100,000 characters without a space in {took:.1?}");
        std::thread::scope(|scope| {
            for part in 0..2 {
                let (name, json, parsed, compiled) = (&name, &json, &parsed, &compiled);
                scope.spawn(move || agree(name, json, parsed, compiled, 50_000, 1000 + part));
            }
        });
        let mut file: Value = serde_json::from_slice(&json).unwrap();
        if file["normalizer"].is_null() {
            file["normalizer"] = serde_json::json!({"type": "NFC"});
            let json = serde_json::to_vec(&file).unwrap();
            let parsed = Tokenizer::from_json(&json, None, None).unwrap();
            let compiled = compile_tokenizer(&json).unwrap().expect("it has a compiled form");
            let compiled = Tokenizer::from_section(compiled, None, None).unwrap();
            agree(&format!("{name} with NFC"), &json, &parsed, &compiled, 50_000, 2000);
        }
    }
}

/// Writes a file of a tiny model with a compiled tokenizer.
fn write(path: &Path, section: Vec<u8>) {
    let spec = ModelSpec {
        hidden_size: 8,
        intermediate_size: 16,
        n_layers: 1,
        n_heads: 2,
        n_kv_heads: 1,
        head_dim: 4,
        vocab_size: 32,
        tied_lm_head: true,
        ..ModelSpec::default()
    };
    let mut plan = Plan::new(spec, Encoding::F32).unwrap();
    plan.section(SectionKind::Vocabulary, section);
    let mut writer = Writer::create(path, plan).unwrap();
    for index in writer.stored() {
        let zeros = |_: std::ops::Range<usize>, out: &mut [u8]| {
            out.fill(0);
            Ok::<(), nanoserve_format::FormatError>(())
        };
        writer.write(index, zeros).unwrap();
    }
    writer.finish().unwrap();
}

/// Compares a compiled tokenizer with the parsed one: ids of `count` texts, their decoded text, and the text of random
/// ids.
fn agree(name: &str, json: &[u8], parsed: &Tokenizer, compiled: &Tokenizer, count: usize, seed: u64) {
    assert!(compiled.is_compiled() && !parsed.is_compiled());
    assert_eq!((compiled.token_count(), compiled.max_id()), (parsed.token_count(), parsed.max_id()), "{name}");
    let max = parsed.max_id().unwrap();
    for id in (0..=max + 2).step_by(if count > 10_000 { 1 } else { 7 }) {
        assert_eq!(compiled.id_to_piece(id), parsed.id_to_piece(id), "{name}: {id}");
        assert_eq!(compiled.is_special(id), parsed.is_special(id), "{name}: {id}");
    }
    let (texts, mut random) = (Texts::new(json, parsed), SplitMix64::new(seed));
    let (mut bytes, mut tokens) = (0, 0);
    for i in 0..count {
        let text = texts.any(&mut random);
        let ids = compiled.encode(&text, false).unwrap();
        assert_eq!(ids, parsed.encode(&text, false).unwrap(), "{name}: {text:?}");
        assert_eq!(compiled.encode(&text, true).unwrap(), parsed.encode(&text, true).unwrap(), "{name}: {text:?}");
        let skip = i % 2 == 0;
        assert_eq!(compiled.decode(&ids, skip).unwrap(), parsed.decode(&ids, skip).unwrap(), "{name}: {text:?}");
        assert_eq!(streamed(compiled, &ids), streamed(parsed, &ids), "{name}: {text:?}, one by one");
        bytes += text.len();
        tokens += ids.len();
        // Random ids that no text gives: broken characters, arbitrary bytes, gaps.
        let ids: Vec<u32> = (0..random.below(12))
            .map(|_| match random.below(3) {
                0 => random.below(300) as u32,
                1 => random.below(max as usize + 3) as u32,
                _ => max - random.below(300).min(max as usize) as u32,
            })
            .collect();
        assert_eq!(compiled.decode(&ids, skip).unwrap(), parsed.decode(&ids, skip).unwrap(), "{name}: {ids:?}");
        assert_eq!(streamed(compiled, &ids), streamed(parsed, &ids), "{name}: {ids:?}, one by one");
    }
    println!("{name}: {count} texts agree, {bytes} bytes, {tokens} ids");
}

fn pick<'a, T: ?Sized>(random: &mut SplitMix64, all: &[&'a T]) -> &'a T {
    all[random.below(all.len())]
}

/// The material for random texts.
struct Texts<'t> {
    added: Vec<String>,
    tokenizer: &'t Tokenizer,
    ids: usize,
}

impl<'t> Texts<'t> {
    fn new(json: &[u8], tokenizer: &'t Tokenizer) -> Self {
        let file: Value = serde_json::from_slice(json).unwrap();
        let ids = tokenizer.max_id().unwrap() as usize + 1;
        let content = |token: &Value| token["content"].as_str().unwrap().to_string();
        Self { added: file["added_tokens"].as_array().unwrap().iter().map(content).collect(), tokenizer, ids }
    }

    /// Words, numbers and punctuation, as in a book or a program.
    fn plain(&self, random: &mut SplitMix64) -> String {
        const WORDS: [&str; 24] = [
            "the",
            "of",
            "and",
            "something",
            "Tokenizers",
            "don't",
            "it's",
            "I'll",
            "naïve",
            "Straße",
            "1984",
            "3.14159",
            "(x",
            "+=",
            "1);",
            "return",
            "self.next()",
            "日本語",
            "привет",
            "\"quoted\"",
            "--",
            "e.g.",
            "internationalization",
            "HTTP",
        ];
        let mut text = String::new();
        for _ in 0..random.below(40) {
            text += pick(random, &WORDS);
            text += pick(random, &[" ", " ", " ", " ", ", ", ". ", "\n", "\n    "]);
        }
        text
    }

    /// A text of pieces that are difficult for tokenizers.
    fn any(&self, random: &mut SplitMix64) -> String {
        if random.below(50) == 0 {
            return self.plain(random);
        }
        let mut text = String::new();
        // Mostly short, sometimes long.
        let parts = if random.below(20) == 0 { 120 } else { 12 };
        for _ in 0..random.below(parts) {
            self.part(random, &mut text);
        }
        text
    }

    fn part(&self, random: &mut SplitMix64, text: &mut String) {
        const SPACES: [&str; 16] = [
            " ", "  ", "\t", "\n", "\r", "\r\n", "\u{b}", "\u{c}", "\u{85}", "\u{a0}", "\u{1680}", "\u{2003}",
            "\u{2028}", "\u{202f}", "\u{3000}", "\u{200b}",
        ];
        const SHORT: [&str; 20] = [
            "'s", "'S", "'t", "'re", "'VE", "'m", "'ll", "'lL", "'d", "'ſ", "’s", "''", "I'm", "n't", "'", "\"",
            "x's'd", "'ſt", "'re're", "'İ",
        ];
        const MARKS: [&str; 24] = [
            "\u{1F469}\u{200D}\u{1F680}",
            "\u{1F3F3}\u{FE0F}\u{200D}\u{1F308}",
            "\u{1F1E9}\u{1F1EA}",
            "\u{200D}",
            "\u{FE0F}",
            "e\u{301}",
            "\u{301}",
            "a\u{323}\u{307}",
            "\u{1100}\u{1161}\u{11A8}",
            "각",
            "\u{212B}",
            "ﬁ",
            "½",
            "²",
            "Ⅷ",
            "٣",
            "१२",
            "\u{1D7D8}",
            "ß",
            "ſ",
            "İ",
            "ǆ",
            "\u{FFFD}",
            "\u{FEFF}",
        ];
        const FALSE: [&str; 16] = [
            "<0x0A>",
            "<0x",
            "0A>",
            "<0xE6>",
            "<0xGG>",
            "<0x+A>",
            "▁",
            "▁▁▁",
            "Ġ",
            "Ċ",
            "ĠĠ",
            "<|",
            "|>",
            "<s",
            "<unk",
            "##",
        ];
        match random.below(16) {
            0 => text.extend(char::from_u32(random.below(0x11_0000) as u32)),
            1 => text.extend(char::from_u32(random.below(0x800) as u32)),
            2 => text.extend((0..random.below(6)).filter_map(|_| char::from_u32(random.below(0x1_0000) as u32))),
            3 | 4 => (0..1 + random.below(5)).for_each(|_| *text += pick(random, &SPACES)),
            5 => *text += &pick(random, &SPACES).repeat(random.below(60)),
            6 => (0..random.below(9)).for_each(|_| text.push(char::from(b'0' + random.below(10) as u8))),
            7 => *text += pick(random, &SHORT),
            8 => *text += pick(random, &MARKS),
            9 => *text += pick(random, &FALSE),
            // Added tokens: whole, doubled, and cut at either end.
            10 if !self.added.is_empty() => *text += &self.added[random.below(self.added.len())],
            11 if !self.added.is_empty() => {
                let token: Vec<char> = self.added[random.below(self.added.len())].chars().collect();
                let cut = random.below(token.len() + 1);
                text.extend(if random.below(2) == 0 { &token[..cut] } else { &token[cut..] });
            }
            12 => text.push(char::from(random.below(32) as u8)), // control characters, NUL among them
            13 => text.extend((0..random.below(10)).map(|_| char::from(b'!' + random.below(94) as u8))),
            14 => {
                // A piece of the vocabulary, both encoded and decoded.
                let id = random.below(self.ids) as u32;
                if random.below(4) == 0 {
                    text.extend(self.tokenizer.id_to_piece(id));
                } else {
                    *text += &self.tokenizer.decode(&[id], true).unwrap();
                }
            }
            _ if random.below(40) == 0 => {
                let c = pick(random, &["a", "ab", "é", "日", "!", "1", "👍", "aA"]);
                *text += &c.repeat(random.below(400));
            }
            _ => (0..1 + random.below(8)).for_each(|_| text.push(char::from(b'a' + random.below(26) as u8))),
        }
    }
}
