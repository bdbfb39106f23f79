//! Small files built here, one for each thing that is wrong; fixtures whose ids transformers gave; and, where there are
//! any, whole vocabularies.

use super::*;
use crate::gguf::tests::build::{array, file, key, text};
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
    let made = tokenizer(&header, &bytes, architecture, None).unwrap().unwrap();
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

/// The files of tests/reference/gguf-tokenizers: one for each way to split, and each kind of SentencePiece vocabulary.
#[test]
fn small_vocabularies_give_the_ids_of_the_reference() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/reference/gguf-tokenizers");
    let files = files(&folder);
    assert_eq!(files.len(), 13);
    for file in files {
        assert_eq!(compare(&file), 60, "{}", file.display());
    }
}

/// A vocabulary of a file, as parts that a test can spoil.
struct Vocabulary {
    keys: Vec<(&'static str, Vec<u8>)>,
}

const UNSIGNED: u32 = 4;
const SIGNED: u32 = 5;
const FLOAT: u32 = 6;
const BOOL: u32 = 7;
const TEXT: u32 = 8;
const LIST: u32 = 9;

fn said(s: &str) -> Vec<u8> {
    [&TEXT.to_le_bytes()[..], &text(s)].concat()
}

fn list(kind: u32, values: &[Vec<u8>]) -> Vec<u8> {
    [&LIST.to_le_bytes()[..], &array(kind, values.len() as u64, &values.concat())].concat()
}

fn said_all(values: &[&str]) -> Vec<u8> {
    list(TEXT, &values.iter().map(|s| text(s)).collect::<Vec<_>>())
}

fn number(kind: u32, n: u32) -> Vec<u8> {
    [kind.to_le_bytes(), n.to_le_bytes()].concat()
}

fn numbers(kind: u32, values: &[u32]) -> Vec<u8> {
    list(kind, &values.iter().map(|n| n.to_le_bytes().to_vec()).collect::<Vec<_>>())
}

impl Vocabulary {
    /// a, b, ab and a sign.
    fn bytes() -> Vocabulary {
        Vocabulary {
            keys: vec![
                ("tokenizer.ggml.model", said("gpt2")),
                ("tokenizer.ggml.pre", said("qwen2")),
                ("tokenizer.ggml.tokens", said_all(&["a", "b", "ab", "<|im_end|>"])),
                ("tokenizer.ggml.token_type", numbers(SIGNED, &[1, 1, 1, 3])),
                ("tokenizer.ggml.merges", said_all(&["a b"])),
                ("tokenizer.ggml.eos_token_id", number(UNSIGNED, 3)),
            ],
        }
    }

    /// An unknown token, all bytes, a, b and ab.
    fn pieces() -> Vocabulary {
        let bytes: Vec<String> = (0..=255u8).map(|b| format!("<0x{b:02X}>")).collect();
        let texts: Vec<&str> =
            ["<unk>"].into_iter().chain(bytes.iter().map(String::as_str)).chain(["a", "b", "ab"]).collect();
        let kinds: Vec<u32> = [2].into_iter().chain([6; 256]).chain([1; 3]).collect();
        let scores: Vec<u32> = (0..texts.len()).map(|id| (-(id as f32)).to_bits()).collect();
        Vocabulary {
            keys: vec![
                ("tokenizer.ggml.model", said("llama")),
                ("tokenizer.ggml.tokens", said_all(&texts)),
                ("tokenizer.ggml.token_type", numbers(SIGNED, &kinds)),
                ("tokenizer.ggml.scores", numbers(FLOAT, &scores)),
                ("tokenizer.ggml.unknown_token_id", number(UNSIGNED, 0)),
            ],
        }
    }

    fn with(mut self, key: &'static str, value: Vec<u8>) -> Vocabulary {
        self.keys.retain(|(name, _)| *name != key);
        self.keys.push((key, value));
        self
    }

    fn without(mut self, key: &str) -> Vocabulary {
        self.keys.retain(|(name, _)| *name != key);
        self
    }

    fn read(self) -> Result<Option<Synthesized>, TokenizerProblem> {
        // A key's value begins with its type, which `key` takes as a number.
        let entry = |(name, value): (&str, Vec<u8>)| {
            let (kind, rest) = value.split_first_chunk::<4>().unwrap();
            key(name, u32::from_le_bytes(*kind), rest)
        };
        let keys: Vec<Vec<u8>> = self.keys.into_iter().map(entry).collect();
        let bytes = file(&keys, &[], 0);
        tokenizer(&Header::parse(&bytes).unwrap(), &bytes, "llama", None)
    }

    fn good(self) -> Synthesized {
        self.read().unwrap().unwrap()
    }

    fn ids(self, text: &str) -> Vec<u32> {
        let loaded = vocab::load(self.good().json.as_bytes()).unwrap();
        loaded.encode_fast(text, true).unwrap().get_ids().to_vec()
    }

    #[track_caller]
    fn fails(self, expected: &str) {
        let problem = self.read().unwrap_err().to_string();
        assert!(problem.contains(expected), "{problem}");
    }
}

#[test]
fn both_kinds_are_read() {
    let made = Vocabulary::bytes().good();
    assert_eq!((made.bos, made.eos, made.add_bos, made.turn_ends), (None, Some(3), false, vec![]));
    assert_eq!(made.named, [("eos_token", "<|im_end|>".to_string())]);
    assert_eq!(Vocabulary::bytes().ids("abba<|im_end|>"), [2, 1, 0, 3]);
    assert_eq!(Vocabulary::pieces().ids("ab"), [1 + 0xE2, 1 + 0x96, 1 + 0x81, 259]);
}

#[test]
fn a_file_without_a_tokenizer_has_none() {
    assert!(Vocabulary { keys: Vec::new() }.read().unwrap().is_none());
}

#[test]
fn bos_is_put_in_front_where_the_file_or_the_kind_says() {
    let bos = "tokenizer.ggml.bos_token_id";
    let add = "tokenizer.ggml.add_bos_token";
    let llama = || Vocabulary::bytes().with(bos, number(UNSIGNED, 3)).with("tokenizer.ggml.pre", said("llama-bpe"));
    assert_eq!(llama().ids("a"), [3, 0]);
    let off = || [&BOOL.to_le_bytes()[..], &[0]].concat();
    assert_eq!(llama().with(add, off()).ids("a"), [0]);
    let on = [&BOOL.to_le_bytes()[..], &[1]].concat();
    assert_eq!(Vocabulary::bytes().with(bos, number(UNSIGNED, 3)).ids("a"), [0]);
    assert_eq!(Vocabulary::bytes().with(bos, number(UNSIGNED, 3)).with(add, on).ids("a"), [3, 0]);
    assert_eq!(Vocabulary::pieces().with(bos, number(UNSIGNED, 0)).ids("")[0], 0);
    assert!(!Vocabulary::pieces().good().add_bos, "there is none to add");
}

#[test]
fn turns_end_where_keys_and_texts_say() {
    let texts = said_all(&["a", "b", "<|end|>", "<|im_end|>", "<|call|>", "<|return|>", "x"]);
    let many = |kinds: &[u32]| {
        let all = Vocabulary::bytes()
            .with("tokenizer.ggml.tokens", texts.clone())
            .with("tokenizer.ggml.merges", said_all(&[]));
        all.with("tokenizer.ggml.token_type", numbers(SIGNED, kinds))
    };
    let key = || number(UNSIGNED, 6);
    // <|end|> ends only a part where answers have several.
    assert_eq!(many(&[1, 1, 3, 3, 3, 3, 3]).with("tokenizer.ggml.eot_token_id", key()).good().turn_ends, [6, 5, 4]);
    // A word is no sign; an old file's sign that it takes for a word is.
    assert_eq!(many(&[1, 1, 5, 1, 5, 5, 1]).with("tokenizer.ggml.eos_token_id", key()).good().turn_ends, [3]);
}

#[test]
fn named_templates_are_kept() {
    let made = Vocabulary::bytes()
        .with("tokenizer.chat_template", said("one"))
        .with("tokenizer.chat_template.tool_use", said("two"))
        .with("tokenizer.chat_templates", said_all(&["tool_use"]));
    let templates = made.good().templates;
    assert_eq!(templates.default.as_deref(), Some("one"));
    assert_eq!(templates.named.into_iter().collect::<Vec<_>>(), [("tool_use".to_string(), "two".to_string())]);
}

#[test]
fn a_whole_tokenizer_json_is_taken_as_it_is() {
    let made =
        Vocabulary::bytes().with("tokenizer.huggingface.json", said("{...}")).with("tokenizer.ggml.pre", said("?"));
    assert_eq!(made.good().json, "{...}");
}

#[test]
fn padding_has_no_text() {
    let padded = Vocabulary::bytes()
        .with("tokenizer.ggml.tokens", said_all(&["a", "b", "ab", "[PAD3]", "", ""]))
        .with("tokenizer.ggml.token_type", numbers(SIGNED, &[1, 1, 1, 5, 5, 5]));
    let loaded = vocab::load(padded.good().json.as_bytes()).unwrap();
    assert_eq!(loaded.get_vocab_size(true), 3);
}

#[test]
fn a_merge_is_cut_at_the_first_space_after_its_first_character() {
    let spaced = Vocabulary::bytes()
        .with("tokenizer.ggml.tokens", said_all(&[" ", "b", " b", "x"]))
        .with("tokenizer.ggml.merges", said_all(&["  b"]));
    assert!(spaced.good().json.contains(r#""merges":[[" ","b"]]"#));
}

#[test]
fn what_is_not_known_is_refused_by_name() {
    let bytes = Vocabulary::bytes;
    bytes().with("tokenizer.ggml.model", said("t5")).fails("tokenizer.ggml.model is 't5', expected gpt2 or llama");
    bytes()
        .with("tokenizer.ggml.pre", said("default"))
        .fails("tokenizer.ggml.pre is 'default', expected one of llama-bpe");
    bytes().without("tokenizer.ggml.pre").fails("tokenizer.ggml.pre is missing");
    bytes().without("tokenizer.ggml.tokens").fails("tokenizer.ggml.tokens is missing");
    bytes().without("tokenizer.ggml.merges").fails("tokenizer.ggml.merges is missing");
    bytes().with("tokenizer.ggml.tokens", said_all(&[])).fails("tokenizer.ggml.tokens is missing");
    bytes().without("tokenizer.ggml.model").with("tokenizer.chat_template", said("x")).fails("model is missing");
    Vocabulary::pieces().without("tokenizer.ggml.scores").fails("tokenizer.ggml.scores is missing");
}

#[test]
fn lists_of_other_types_and_lengths_are_refused() {
    let bytes = Vocabulary::bytes;
    bytes()
        .with("tokenizer.ggml.token_type", numbers(SIGNED, &[1, 1]))
        .fails("has 2 entries, expected 4, one for each");
    bytes()
        .with("tokenizer.ggml.token_type", numbers(FLOAT, &[0; 4]))
        .fails("token_type is a list of 4 numbers, expected");
    bytes().with("tokenizer.ggml.token_type", numbers(SIGNED, &[1, 1, 1, 7])).fails("of token 3 is 7, expected 0 to 6");
    bytes()
        .with("tokenizer.ggml.token_type", numbers(SIGNED, &[1, u32::MAX, 1, 1]))
        .fails("of token 1 is -1, expected");
    bytes()
        .with("tokenizer.ggml.tokens", numbers(SIGNED, &[1]))
        .fails("tokens is a list of 1 numbers, expected a list of");
    bytes().with("tokenizer.ggml.merges", said("a b")).fails("merges is a text, expected a list of texts");
    bytes().with("tokenizer.ggml.pre", number(UNSIGNED, 1)).fails("pre is 1, expected a text");
    let pieces = Vocabulary::pieces;
    pieces()
        .with("tokenizer.ggml.scores", numbers(UNSIGNED, &[0; 260]))
        .fails("scores is a list of 260 numbers, expected");
    pieces().with("tokenizer.ggml.scores", numbers(FLOAT, &[0; 259])).fails("scores has 259 entries, expected 260");
    let mut scores = [0; 260];
    scores[7] = f32::NAN.to_bits();
    pieces().with("tokenizer.ggml.scores", numbers(FLOAT, &scores)).fails("scores of token 7 is not a number");
}

#[test]
fn ids_duplicates_and_merges_are_checked() {
    let bytes = Vocabulary::bytes;
    bytes().with("tokenizer.ggml.eos_token_id", number(UNSIGNED, 4)).fails("eos_token_id is 4, expected less than");
    bytes()
        .with("tokenizer.ggml.bos_token_id", number(SIGNED, u32::MAX))
        .fails("bos_token_id is -1, expected less than");
    bytes().with("tokenizer.ggml.eot_token_id", said("x")).fails("eot_token_id is a text, expected a whole number");
    bytes()
        .with("tokenizer.ggml.tokens", said_all(&["a", "b", "ab", "a"]))
        .fails("tokens 0 and 3 have the same text, \"a\"");
    for merge in ["", "a", "a  b", "b a", "x b", " ", "é"] {
        bytes().with("tokenizer.ggml.merges", said_all(&["a b", merge])).fails("the merge 1, ");
    }
    let pieces = Vocabulary::pieces();
    let texts: Vec<String> = (0..260).map(|id| format!("t{id}")).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    pieces
        .with("tokenizer.ggml.tokens", said_all(&texts))
        .fails("the token of byte 0x00 is missing: there is no '<0x00>'");
}

#[test]
fn work_on_long_pieces_is_bounded() {
    let long = "x".repeat(1 << 15);
    let bytes: Vec<String> = (0..=255u8).map(|b| format!("<0x{b:02X}>")).collect();
    let mut texts: Vec<&str> = bytes.iter().map(String::as_str).collect();
    texts.push(&long);
    let all = Vocabulary::pieces()
        .with("tokenizer.ggml.tokens", said_all(&texts))
        .with("tokenizer.ggml.token_type", numbers(SIGNED, &[1; 257]))
        .with("tokenizer.ggml.scores", numbers(FLOAT, &[0; 257]));
    all.fails("the tokens have too many parts");
}
