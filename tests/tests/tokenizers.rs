//! Tokenizers through whole files: ids, text, and text that comes one token at a time.

use nanoserve_format::Encoding;
use nanoserve_runtime::Tokenizer;
use nanoserve_runtime::cpu::isa;
use nanoserve_runtime::tokenizer::TextStream;
use nanoserve_tests::{engine, fixtures};
use serde_json::Value;
use std::fs;
use std::path::Path;

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
        let (cases, bos) = (cases(&path), tokenizer.encode("", true).unwrap()[0]);
        assert!(cases.len() >= 20, "{}: {} cases", fixture.name, cases.len());
        for case in &cases {
            let (text, mut expected) = (case["text"].as_str().unwrap(), ids(&case["ids"]));
            let what = format!("{} {text:?}", fixture.name);
            // The library puts BOS before a text that begins with BOS, written out; a prompt has it once.
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

#[test]
fn the_published_vocabularies_agree() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/tokenizers");
    if !folder.is_dir() {
        println!("skipped: {} is not there", folder.display());
        return;
    }
    let mut files = 0;
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let Some(name) = path.to_str().unwrap().strip_suffix(".cases.json") else { continue };
        files += 1;
        let json = fs::read(format!("{name}.json")).unwrap();
        let tokenizer = Tokenizer::from_json(&json, None, None).unwrap();
        let cases = cases(&path);
        assert!(!cases.is_empty());
        for case in &cases {
            let (text, expected) = (case["text"].as_str().unwrap(), ids(&case["ids"]));
            assert_eq!(tokenizer.encode(text, false).unwrap(), expected, "{name} {text:?}");
            assert_eq!(streamed(&tokenizer, &expected), tokenizer.decode(&expected, true).unwrap(), "{name} {text:?}");
        }
        println!("{name}: {} cases", cases.len());
    }
    assert!(files > 0, "{} holds no cases", folder.display());
}
