//! What a file holds besides the model: how to generate from it, and where it came from.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The sampling settings that the model's makers recommend, and the tokens that begin and end a text. The runtime
/// chooses absent values.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GenerationDefaults {
    /// Token that begins a text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bos_id: Option<u32>,
    /// Whether `bos_id` is put before a prompt, if the tokenizer leaves that open.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub add_bos: Option<bool>,
    /// Tokens that end a text; any of them stops generation.
    pub eos_ids: Vec<u32>,
    /// Tokens that end an answer in a conversation, beside `eos_ids`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub turn_end_ids: Vec<u32>,
    /// Divides the logits; 0 is greedy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// How many of the likeliest tokens are kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_k: Option<u32>,
    /// Probability mass kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f64>,
    /// Tokens kept whose probability is at least this share of the largest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_p: Option<f64>,
    /// Divides positive and multiplies negative logits of tokens seen before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repeat_penalty: Option<f64>,
    /// Texts of special tokens, by their names in chat templates: `bos_token` and so on.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub special_tokens: BTreeMap<String, String>,
}

/// Where a file came from. Holds no time, no path and no host: the same sources give the same bytes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Provenance {
    /// Name and version of the program that wrote the file.
    pub converter: String,
    /// The options that shaped the file, as they are given on the command line.
    pub recipe: String,
    /// Where the sources say they are published, `org/name`; a fine-tuned model may name its base model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,
    /// The model's name, where its source has one besides the repository's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The address that the source gives.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_url: Option<String>,
    /// Who made the source from other weights, by its own words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quantized_by: Option<String>,
    /// The revision that was downloaded; None unless it is known for every source.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// The licence's name, as the model's card gives it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub license: Option<String>,
    /// Licence files and similar ones, whole.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub license_files: Vec<LicenseFile>,
    /// Every file that was read, by name.
    pub sources: Vec<SourceFile>,
}

/// A file that was read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceFile {
    /// Its name without a folder.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// BLAKE3 of its bytes, hex, as `b3sum` prints it.
    pub blake3: String,
    /// SHA-256 of them, hex, as `sha256sum` prints it and model hubs list it; None unless it was requested.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
}

/// The text of a licence that was found beside the weights.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LicenseFile {
    /// Its file's name.
    pub name: String,
    /// All of it.
    pub text: String,
}
