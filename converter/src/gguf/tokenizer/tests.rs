//! Small files built here, one for each thing that is wrong; fixtures whose ids transformers gave; and, where there are
//! any, whole vocabularies.

use super::*;
use crate::vocab::{self, Compilation};
use serde::Deserialize;
use std::path::Path;

/// A text and the ids that the original tokenizer gives it.
#[derive(Deserialize)]
struct Case(String, Vec<u32>);

/// Compares the ids of a file's tokenizer with those in the file beside it, by the library and by the compiled form.
fn compare(file: &Path) -> usize {
    let bytes = std::fs::read(file).unwrap();
    let header = Header::parse(&bytes).unwrap();
    let keys = Metadata::new(&header, &bytes);
    let architecture = keys.text("general.architecture").unwrap().unwrap();
    let made = tokenizer(&header, &bytes, architecture).unwrap().unwrap();
    let loaded = vocab::load(made.json.as_bytes()).unwrap();
    let Compilation::Section(_) = vocab::compile(made.json.as_bytes(), &loaded) else {
        panic!("{}: is not compiled", file.display());
    };
    let cases = std::fs::read(file.with_extension("cases.json")).unwrap();
    let cases: Vec<Case> = serde_json::from_slice(&cases).unwrap();
    let differ = |Case(text, ids): &&Case| loaded.encode_fast(text.as_str(), false).unwrap().get_ids() != ids;
    let wrong: Vec<&Case> = cases.iter().filter(differ).collect();
    if let Some(Case(text, ids)) = wrong.first() {
        let got = loaded.encode_fast(text.as_str(), false).unwrap();
        let (name, n) = (file.display(), wrong.len());
        panic!("{name}: {n} of {} texts, {text:?} is {:?}, expected {ids:?}", cases.len(), got.get_ids());
    }
    cases.len()
}

/// The files of a folder that end in .gguf.
fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries.filter(|path| path.extension().is_some_and(|e| e == "gguf")).collect();
    files.sort();
    files
}

/// tests/reference/make_gguf_tokenizers.py makes such a folder of whole vocabularies.
#[test]
fn whole_vocabularies_give_equal_ids() {
    let Some(folder) = std::env::var_os("NANOSERVE_GGUF_TOKENIZERS") else {
        eprintln!("skipped: NANOSERVE_GGUF_TOKENIZERS names no folder with vocabularies");
        return;
    };
    let mut failed = Vec::new();
    for file in files(Path::new(&folder)) {
        match std::panic::catch_unwind(|| compare(&file)) {
            Ok(texts) => eprintln!("{}: {texts} texts", file.display()),
            Err(_) => failed.push(file),
        }
    }
    assert!(failed.is_empty(), "{failed:?}");
}
