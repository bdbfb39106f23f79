//! Answers constrained by a schema or a grammar are valid, whatever the model and the seed.

use nanoserve_format::Encoding;
use nanoserve_runtime::cpu::CpuBackend;
use nanoserve_runtime::cpu::isa;
use nanoserve_runtime::generate::grammar::{Grammar, GrammarError, GrammarTokens};
use nanoserve_runtime::{Engine, GenerateOptions, KvType, RuntimeError, SamplingOptions, StopReason, Tokenizer};
use nanoserve_tests::schema::validate;
use nanoserve_tests::{changed, engine, fixture};
use serde_json::{Value, json};
use std::path::Path;

fn schemas() -> Vec<Value> {
    vec![
        json!({"type": "object", "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer",
            "minimum": 0, "maximum": 150}}, "required": ["name", "age"], "additionalProperties": false}),
        json!({"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 5}),
        json!({"enum": ["red", "green", 3, null, {"a": [1]}]}),
        json!({"const": "a \"quoted\" text\n"}),
        json!({"type": "string", "pattern": "^[A-Z][a-z]{2,5}-[0-9]{1,3}$"}),
        json!({"type": "string", "minLength": 3, "maxLength": 9}),
        json!({"type": "integer", "exclusiveMinimum": -40, "maximum": 7}),
        json!({"type": "number", "minimum": 0.5, "exclusiveMaximum": 2.25}),
        json!({"type": "integer", "minimum": 0, "maximum": 1000, "multipleOf": 7}),
        json!({"anyOf": [{"type": "null"}, {"type": "object", "properties": {"x": {"type": "integer", "minimum": 0,
            "maximum": 99}}, "required": ["x"], "additionalProperties": false}]}),
        json!({"oneOf": [{"type": "boolean"}, {"type": "array", "items": {"const": 1}, "minItems": 2, "maxItems": 2}]}),
        json!({"allOf": [{"type": "integer", "minimum": 10}, {"maximum": 20}]}),
        json!({"type": "array", "prefixItems": [{"type": "string", "maxLength": 4}, {"type": "boolean"}], "items": false,
            "minItems": 2}),
        json!({"$ref": "#/$defs/tree", "$defs": {"tree": {"type": "object", "properties": {"v": {"enum": [0, 1]}, "next":
            {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/tree"}]}}, "required": ["v", "next"], "additionalProperties":
            false}}}),
        json!({"type": "object", "patternProperties": {"^k[0-9]$": {"type": "boolean"}}, "additionalProperties": false,
            "maxProperties": 3}),
        json!({"type": "object", "properties": {}, "additionalProperties": {"type": "integer", "minimum": 0, "maximum": 9},
            "minProperties": 1, "maxProperties": 2}),
        json!({"type": "string", "format": "date"}),
        json!({"type": "string", "format": "uuid"}),
        json!({"type": "string", "format": "ipv4"}),
        json!({"type": ["integer", "null"], "minimum": 5, "maximum": 6}),
    ]
}

/// A fixture's engine, its tokenizer (byte-level or like SentencePiece), and what grammars need.
fn open(name: &str, folder: &Path) -> (Engine<CpuBackend>, Tokenizer, GrammarTokens, Vec<u32>) {
    let path = fixture(name).convert(Encoding::Q8, folder);
    let engine = engine(&path, isa::available().pop().unwrap(), 1);
    let tokenizer = engine.tokenizer().unwrap();
    let eos_ids = engine.file().generation().unwrap().eos_ids;
    let vocabulary = GrammarTokens::new(&tokenizer, engine.file().spec().vocab_size, &eos_ids).unwrap();
    (engine, tokenizer, vocabulary, eos_ids)
}

fn options(grammar: Grammar, eos_ids: &[u32], seed: u64) -> GenerateOptions {
    let sampling =
        changed!(SamplingOptions { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed, ..Default::default() });
    let (max_tokens, eos_ids) = (Some(80), eos_ids.to_vec());
    changed!(GenerateOptions { max_tokens, sampling, eos_ids, grammar: Some(grammar), ..GenerateOptions::default() })
}

#[test]
fn every_answer_is_of_its_schema() {
    let folder = tempfile::tempdir().unwrap();
    let (mut complete, mut all) = (0, 0);
    for name in ["tied-llama3", "untied-mha"] {
        let (mut engine, tokenizer, vocabulary, eos_ids) = open(name, folder.path());
        let prompt = tokenizer.encode("The harbour", true).unwrap();
        let mut session = engine.session(96, KvType::F16).unwrap();
        for schema in schemas() {
            let grammar = vocabulary.json_schema(&schema.to_string()).unwrap();
            for seed in 0..6 {
                let options = options(grammar.clone(), &eos_ids, seed);
                let g = session.generate(&prompt, &options, Some(&tokenizer), &mut |_| true).unwrap();
                all += 1;
                match g.stop_reason {
                    StopReason::Eos | StopReason::Grammar => {
                        complete += 1;
                        let value: Value = serde_json::from_str(&g.text)
                            .unwrap_or_else(|e| panic!("{name} {schema} seed {seed}: {:?}: {e}", g.text));
                        validate(&schema, &value).unwrap_or_else(|e| panic!("{name} {schema} seed {seed}: {e}"));
                    }
                    StopReason::Length => assert_eq!(g.ids.len(), 80),
                    other => panic!("{name} {schema} seed {seed}: {other}"),
                }
            }
        }
    }
    // A model with random weights rarely closes a quote soon, but most answers still come to an end.
    assert!(complete * 10 >= all * 8, "{complete} of {all} answers are complete");
}

#[test]
fn a_lark_grammar_is_followed() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["tied-llama3", "untied-mha"] {
        let (mut engine, tokenizer, vocabulary, eos_ids) = open(name, folder.path());
        let prompt = tokenizer.encode("The harbour", true).unwrap();
        let mut session = engine.session(96, KvType::F16).unwrap();
        let mut seen = std::collections::BTreeSet::new();
        let grammar = vocabulary.lark("start: (\"yes\" | \"no\" | \"größer\") /[0-9]{2}/ \"!\"").unwrap();
        for seed in 0..12 {
            let options = options(grammar.clone(), &eos_ids, seed);
            let g = session.generate(&prompt, &options, Some(&tokenizer), &mut |_| true).unwrap();
            assert!(matches!(g.stop_reason, StopReason::Grammar | StopReason::Eos), "{name}: {}", g.stop_reason);
            let word = ["yes", "no", "größer"].into_iter().find(|w| g.text.starts_with(w)).expect("a word");
            let rest = &g.text[word.len()..];
            assert!(rest.len() == 3 && rest.ends_with('!') && rest[..2].parse::<u8>().is_ok(), "{name}: {:?}", g.text);
            seen.insert(g.text);
        }
        assert!(seen.len() > 4, "{name}: {seen:?}");
    }
}

#[test]
fn without_an_end_token_a_complete_answer_ends() {
    let folder = tempfile::tempdir().unwrap();
    let (mut engine, tokenizer, _, eos_ids) = open("tied-llama3", folder.path());
    let vocab_size = engine.file().spec().vocab_size;
    let without = GrammarTokens::new(&tokenizer, vocab_size, &[]).unwrap().lark("start: /[ab]+/").unwrap();
    let with = GrammarTokens::new(&tokenizer, vocab_size, &eos_ids).unwrap().lark("start: /[ab]+/").unwrap();
    let prompt = tokenizer.encode("The harbour", true).unwrap();
    let mut session = engine.session(60, KvType::F16).unwrap();
    let g = session.generate(&prompt, &options(without, &[], 1), Some(&tokenizer), &mut |_| true).unwrap();
    assert_eq!((g.stop_reason, g.ids.len()), (StopReason::Grammar, 1));
    // If end tokens must not be chosen, generation continues to the end of the context and says so.
    let going_on = changed!(GenerateOptions { ignore_eos: true, ..options(with, &eos_ids, 1) });
    let g = session.generate(&prompt, &going_on, Some(&tokenizer), &mut |_| true).unwrap();
    assert_eq!(g.stop_reason, StopReason::Context);
    assert!(g.text.len() > 20 && g.text.bytes().all(|b| b"ab".contains(&b)), "{:?}", g.text);
}

#[test]
fn a_guess_changes_no_answer() {
    let folder = tempfile::tempdir().unwrap();
    let (mut engine, tokenizer, vocabulary, eos_ids) = open("tied-llama3", folder.path());
    let prompt = tokenizer.encode("The harbour", true).unwrap();
    let mut session = engine.session(96, KvType::F16).unwrap();
    let grammar = vocabulary.json_schema(r#"{"type": "array", "items": {"const": "abcabc"}, "minItems": 9}"#).unwrap();
    for seed in 0..3 {
        let plain = options(grammar.clone(), &eos_ids, seed);
        let guessing = changed!(GenerateOptions { lookup: 8, ..plain.clone() });
        let a = session.generate(&prompt, &plain, Some(&tokenizer), &mut |_| true).unwrap();
        let b = session.generate(&prompt, &guessing, Some(&tokenizer), &mut |_| true).unwrap();
        assert_eq!((&a.text, &a.logits_hash, a.stop_reason), (&b.text, &b.logits_hash, b.stop_reason), "seed {seed}");
    }
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let (_, _, vocabulary, _) = open("tied-llama3", folder.path());
    let keywords = |schema: Value| match vocabulary.json_schema(&schema.to_string()) {
        Err(RuntimeError::Grammar(GrammarError::Keywords { found, .. })) => found,
        other => panic!("{schema}: {other:?}"),
    };
    for key in ["not", "if", "uniqueItems", "contains", "dependentRequired", "unevaluatedItems", "typo"] {
        assert_eq!(keywords(json!({"type": "string", key: true})), [format!("{key:?} at #/{key}")]);
    }
    let deep =
        json!({"properties": {"uniqueItems": {"items": [{"not": {}}]}}, "$defs": {"a": {"anyOf": [{"then": 1}]}}});
    let mut found = keywords(deep);
    found.sort();
    assert_eq!(found, ["\"not\" at #/properties/uniqueItems/items/0/not", "\"then\" at #/$defs/a/anyOf/0/then"]);
    // Annotations constrain nothing, and names of properties are not keywords.
    let fine =
        json!({"title": "a", "description": "b", "examples": [1], "x-own": 1, "properties": {"not": {"type": "null"}}});
    vocabulary.json_schema(&fine.to_string()).unwrap();
    for (schema, words) in [
        (r#"{"type": "strin"}"#, "strin"),
        (r#"{"type": "string", "format": "no-such"}"#, "no-such"),
        (r#"{"type": "string", "pattern": "("}"#, "JSON schema"),
        (r##"{"$ref": "#/$defs/none"}"##, "none"),
        (r#"{"$ref": "https://example.com/s.json"}"#, "example.com"),
        (r#"{"type": "string", "minLength": 5, "maxLength": 2}"#, "JSON schema"),
        ("{", "JSON"),
        ("3", "JSON schema"),
    ] {
        let error = vocabulary.json_schema(schema).unwrap_err().to_string();
        assert!(error.contains(words), "{schema}: {error}");
    }
    for (grammar, words) in [
        ("root ::= \"a\"", "GBNF"),
        ("start: missing", "missing"),
        ("begin: \"a\"", "start"),
        ("start: /(/", "grammar"),
        ("", "grammar"),
    ] {
        let error = vocabulary.lark(grammar).unwrap_err().to_string();
        assert!(error.contains(words), "{grammar:?}: {error}");
    }
}

/// Concatenated token bytes equal what a stream of the same tokens gives, also for real tokenizers if available.
#[test]
fn the_bytes_of_real_tokens_make_their_text() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/tokenizers");
    for name in ["llama2", "llama3", "qwen2"] {
        let Ok(json) = std::fs::read(folder.join(format!("{name}.json"))) else {
            eprintln!("skipped: no {name}.json in ../shared/tokenizers");
            continue;
        };
        let tokenizer = Tokenizer::from_json(&json, None, None).unwrap();
        let count = tokenizer.max_id().unwrap() as usize + 1;
        let bytes = tokenizer.token_bytes(count).unwrap();
        for text in ["Once upon a time, 12.5 %", "{\"name\": \"größer\", \"x\": [1, 2]}\n", "  two  spaces\t日本語 👍"]
        {
            let ids = tokenizer.encode(text, false).unwrap();
            let joined: Vec<u8> = ids.iter().flat_map(|id| bytes[*id as usize].clone()).collect();
            // A SentencePiece tokenizer adds a space in front of a text.
            assert_eq!(String::from_utf8(joined).unwrap().trim_start(), text.trim_start(), "{name}");
        }
        let vocabulary = GrammarTokens::new(&tokenizer, count, &[2]).unwrap();
        vocabulary.json_schema(r#"{"type": "object"}"#).unwrap();
    }
}
