use super::*;
use crate::gguf::tokenizer::tokenizer;
use std::fs;

/// Each vocabulary of the fixtures, read, compiled, written and read again, is the same.
#[test]
fn vocabularies_come_back() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/reference/gguf-tokenizers");
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let files: Vec<PathBuf> = files.filter(|path| path.extension().is_some_and(|e| e == "gguf")).collect();
    assert!(files.len() >= 13, "the files were not found");
    for file in files {
        let name = file.file_stem().unwrap().to_string_lossy().into_owned();
        let bytes = fs::read(&file).unwrap();
        let header = Header::parse(&bytes).unwrap();
        let architecture = if name.starts_with("gemma") {
            "gemma3"
        } else if name.starts_with("phi") {
            "phi3"
        } else {
            "llama"
        };
        let made = tokenizer(&header, &bytes, architecture, None).unwrap().unwrap();
        let Some(section) = crate::vocab::compile_tokenizer(made.json.as_bytes()).unwrap() else {
            panic!("{name}: not compiled");
        };
        let rows = CompiledVocabulary::open(&section).unwrap().max_id().unwrap() as usize + 8;
        let spec = ModelSpec { vocab_size: rows, ..ModelSpec::default() };
        let generation = GenerationDefaults {
            bos_id: made.bos,
            add_bos: Some(made.add_bos),
            eos_ids: made.eos.into_iter().collect(),
            turn_end_ids: made.turn_ends,
            special_tokens: made.named.into_iter().map(|(name, text)| (name.to_string(), text)).collect(),
            ..GenerationDefaults::default()
        };
        let others = vec![("general.architecture".to_string(), Meta::Text(architecture.to_string()))];
        let templates = (Some("{{ messages }}".to_string()), BTreeMap::new());
        let (_, lost) =
            vocabulary(&spec, &section, &generation, templates, &others).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(lost, [""; 0], "{name}");
    }
}

/// Numbers that are the same in 32 bits are the same; all others, and whatever is missing, are not.
#[test]
fn numbers_are_compared_as_the_file_holds_them() {
    let json = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    assert!(alike(&json(r#"{"eps": 1e-5}"#), &json(r#"{"eps": 0.000009999999747378752}"#)));
    for (a, b) in [("1e-5", "2e-5"), ("[1]", "[1, 2]"), (r#"{"a": 1}"#, "{}"), ("1", "2"), ("16777216", "16777217")] {
        assert!(!alike(&json(a), &json(b)) && !alike(&json(b), &json(a)), "{a} {b}");
    }
}
