//! Tokens that stand in files beside tokenizer.json: ids, switches and text as transformers has them
//! (tests/reference/make_tokens.py).

use nanoserve_converter::{Options, Warning, convert};
use nanoserve_format::{Encoding, NsvFile, SectionKind};
use nanoserve_runtime::cpu::isa;
use nanoserve_tests::{engine, fixture, nanoserve};
use nanoserve_tokenizer::TextStream;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

fn text<'v>(value: &'v Value, field: &str) -> &'v str {
    value[field].as_str().unwrap()
}

/// Writes a folder with the model of a fixture, its tokenizer.json with more added tokens, and further files.
fn write(folder: &Path, base: &str, more: &[Value], files: &Value) {
    let base = fixture(base).path;
    for name in ["config.json", "model.safetensors"] {
        fs::copy(base.join(name), folder.join(name)).unwrap();
    }
    let mut tokenizer: Value = serde_json::from_slice(&fs::read(base.join("tokenizer.json")).unwrap()).unwrap();
    tokenizer["added_tokens"].as_array_mut().unwrap().extend_from_slice(more);
    fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    for (name, content) in files.as_object().unwrap() {
        fs::write(folder.join(name), content.to_string()).unwrap();
    }
}

#[test]
fn they_become_tokens_as_in_transformers() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("reference/tokens/cases.json");
    let cases: Vec<Value> = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let mut wrong = Vec::new();
    for case in &cases {
        let folder = tempfile::tempdir().unwrap();
        let name = format!("{}, {}", text(case, "base"), text(case, "name"));
        write(folder.path(), text(case, "base"), case["more"].as_array().unwrap(), &case["files"]);
        let out = folder.path().join("model.nsv");
        let report =
            convert(&Options::new(folder.path(), &out, Encoding::Q8), &(), &AtomicBool::new(false)).expect(&name);

        // The tokenizer.json in the file says the same: programs that read no compiled form take it.
        let file = NsvFile::open(&out).unwrap();
        let stored: Value = serde_json::from_slice(file.section(SectionKind::Tokenizer).unwrap().unwrap()).unwrap();
        let mut stored = stored["added_tokens"].as_array().unwrap().clone();
        let mut expected = case["added"].as_array().unwrap().clone();
        stored.sort_by_key(|token| token["id"].as_u64());
        // Whether a token is special shows in the decoded text: the library forgets no token that was special once.
        for token in stored.iter_mut().chain(&mut expected) {
            token.as_object_mut().unwrap().remove("special");
        }
        if stored != expected {
            wrong.push(format!("{name}: {stored:?}"));
        }
        let tokenizer = engine(&out, isa::available()[0], 1).tokenizer().unwrap();
        assert!(tokenizer.is_compiled(), "{name}");
        let rows = file.spec().vocab_size as u64;
        let beyond = case["added"].as_array().unwrap().iter().filter(|token| token["id"].as_u64().unwrap() >= rows);
        let warned = report.warnings.iter().find_map(|warning| match warning {
            Warning::TokensWithoutRow { count, .. } => Some(*count),
            _ => None,
        });
        assert_eq!(warned.unwrap_or(0), beyond.count(), "{name}");
        for row in case["texts"].as_array().unwrap() {
            let (given, expected) = (text(row, "text"), ids(&row["ids"]));
            let got = tokenizer.encode(given, false).unwrap();
            if got != expected {
                wrong.push(format!("{name}: {given:?} is {got:?}, not {expected:?}"));
            }
            for (field, skip) in [("all", false), ("plain", true)] {
                let got = tokenizer.decode(&expected, skip).unwrap();
                let mut stream = TextStream::new(&tokenizer, skip);
                let mut streamed: String = expected.iter().map(|&id| stream.push(id).unwrap()).collect();
                streamed += &stream.finish();
                if [&got, &streamed].iter().any(|got| *got != text(row, field)) {
                    wrong.push(format!("{name}: {expected:?} are {got:?}, one by one {streamed:?}, not {row}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    assert!(cases.len() > 40, "{} cases", cases.len());
}

/// A token behind the model's last row can neither be fed nor chosen.
#[test]
fn a_token_without_a_row_stays_out() {
    let folder = tempfile::tempdir().unwrap();
    let config = json!({"tokenizer_config.json": {"extra_special_tokens": ["<image_soft_token>"]}});
    write(folder.path(), "tied-llama3", &[], &config);
    let out = folder.path().join("model.nsv");
    let (folder, model) = (folder.path().display().to_string(), out.display().to_string());
    let converted = nanoserve("convert", [&folder, &model]).expect(0);
    let warning = "token '<image_soft_token>' (384) is beyond the model's 384 rows";
    assert!(converted.stderr.contains(warning), "{}", converted.stderr);
    nanoserve("run", [&model, "-p", "the harbour", "-n", "3", "--temperature", "0"]).expect(0);
    // Behind a beginning of several steps, so that the whole prompt is looked at before any of it runs.
    let long = "the harbour was quiet ".repeat(5) + "<image_soft_token> and lit";
    for prompt in [["-p", "a <image_soft_token> b"], ["-p", &long], ["--ids", "384"], ["--ids", "1,2,384"]] {
        let run = nanoserve("run", [&[&model, "-n", "3", "--chunk", "4"][..], &prompt].concat()).expect(2);
        assert!(run.stdout.is_empty(), "{prompt:?}: {}", run.stdout);
        assert!(run.stderr.contains("token id 384 is not in the vocabulary of 384"), "{prompt:?}: {}", run.stderr);
    }
}
