//! Writes a tokenizer.json.

use serde::Serialize;
use serde::ser::Serializer;
use serde_json::{Value, json};

/// How text is prepared for the model and put together again.
pub(crate) struct Steps {
    /// What is done to text first.
    pub normalizer: Value,
    /// How it is split.
    pub pre_tokenizer: Value,
    /// How tokens become text.
    pub decoder: Value,
}

/// A token that stands for itself wherever it is written.
#[derive(Debug, Serialize)]
pub(crate) struct Added<'m> {
    id: u32,
    /// Its text.
    pub content: &'m str,
    single_word: bool,
    lstrip: bool,
    /// Whether it takes the spaces after it along.
    pub rstrip: bool,
    normalized: bool,
    /// Whether it is no part of the text.
    pub special: bool,
}

impl<'m> Added<'m> {
    /// A token that takes no spaces along.
    pub fn new(id: u32, content: &'m str, special: bool) -> Added<'m> {
        Added { id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special }
    }
}

/// The tokens and how they are merged.
#[derive(Serialize)]
pub(crate) struct Model<'m> {
    r#type: &'static str,
    dropout: (),
    /// The token for what has none.
    pub unk_token: Option<&'m str>,
    continuing_subword_prefix: (),
    end_of_word_suffix: (),
    /// Whether several of them in a row become one.
    pub fuse_unk: bool,
    /// Whether a character without a token becomes bytes.
    pub byte_fallback: bool,
    /// Whether a piece that is a token is not merged.
    pub ignore_merges: bool,
    #[serde(serialize_with = "as_map")]
    vocab: Vec<(&'m str, u32)>,
    merges: Vec<[&'m str; 2]>,
}

impl<'m> Model<'m> {
    /// BPE with these tokens and these merges, the first first.
    pub fn new(vocab: Vec<(&'m str, u32)>, merges: Vec<[&'m str; 2]>) -> Model<'m> {
        Model {
            r#type: "BPE",
            dropout: (),
            unk_token: None,
            continuing_subword_prefix: (),
            end_of_word_suffix: (),
            fuse_unk: false,
            byte_fallback: false,
            ignore_merges: false,
            vocab,
            merges,
        }
    }
}

fn as_map<S: Serializer>(entries: &[(&str, u32)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(entries.iter().copied())
}

/// A tokenizer.json.
#[derive(Serialize)]
pub(crate) struct File<'m> {
    version: &'static str,
    truncation: (),
    padding: (),
    added_tokens: Vec<Added<'m>>,
    normalizer: Value,
    pre_tokenizer: Value,
    post_processor: Value,
    decoder: Value,
    model: Model<'m>,
}

impl<'m> File<'m> {
    /// A file with these parts. `front` is the token in front of a text, with its id.
    pub fn new(steps: Steps, model: Model<'m>, added: Vec<Added<'m>>, front: Option<(u32, &str)>) -> File<'m> {
        let Steps { normalizer, pre_tokenizer, decoder } = steps;
        let token = |text: &str, part: u32| json!({"SpecialToken": {"id": text, "type_id": part}});
        let sequence = |name: &str, part: u32| json!({"Sequence": {"id": name, "type_id": part}});
        let post_processor = front.map_or(Value::Null, |(id, text)| {
            json!({
                "type": "TemplateProcessing",
                "single": [token(text, 0), sequence("A", 0)],
                "pair": [token(text, 0), sequence("A", 0), token(text, 1), sequence("B", 1)],
                "special_tokens": {text: {"id": text, "ids": [id], "tokens": [text]}},
            })
        });
        File {
            version: "1.0",
            truncation: (),
            padding: (),
            added_tokens: added,
            normalizer,
            pre_tokenizer,
            post_processor,
            decoder,
            model,
        }
    }

    /// Its text.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("texts and numbers can be written")
    }
}
