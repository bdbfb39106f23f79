//! The tokenizer of a GGUF file, as the tokenizer.json that transformers has for the same model.
//!
//! A GGUF file has the vocabulary, the merges or scores, and the kinds of tokens. How text is normalized and split it only
//! names: pre.rs knows what the names stand for, and a name that it does not know is refused, for with other steps a model
//! gets ids that it was not trained on. The result goes the way of every tokenizer.json: it is loaded, compiled and
//! compared.
//!
//! ```text
//! gpt2     byte-level BPE. Merges are in the file, the steps follow from tokenizer.ggml.pre         pre.rs
//! llama    SentencePiece BPE. Merges follow from the scores, the steps from the architecture        spm.rs
//! ```
//!
//! The trap: what the file has lost and no name stands for. docs/gguf.md lists what of it is supplied.

mod ends;
mod json;
mod metadata;
mod pieces;
mod pre;
mod problem;
mod spm;
#[cfg(test)]
mod tests;

pub(crate) use ends::is_end;
pub(crate) use pre::name_of as pre_name;
pub(crate) use problem::TokenizerProblem;

use crate::gguf::container::Header;
use crate::sidecars::Templates;
use json::{Added, File, Model, Steps};
use metadata::Metadata;
use pieces::Pieces;

/// The tokenizer of a GGUF file.
#[derive(Debug)]
pub(crate) struct Synthesized {
    /// A tokenizer.json.
    pub json: String,
    /// The token in front of a text.
    pub bos: Option<u32>,
    /// The token that ends a text.
    pub eos: Option<u32>,
    /// Tokens that end a turn of a conversation, besides `eos`, each once.
    pub turn_ends: Vec<u32>,
    /// Whether `bos` is put in front of a text.
    pub add_bos: bool,
    /// The texts of `bos`, `eos`, and the tokens for unknown text and for padding, under the names that chat templates have for them.
    pub named: Vec<(&'static str, String)>,
    /// The chat templates.
    pub templates: Templates,
}

/// What a kind of tokenizer comes to.
struct Parts<'m> {
    steps: Steps,
    model: Model<'m>,
    added: Vec<Added<'m>>,
    add_bos: bool,
}

/// The tokenizer that the metadata of a file describes; None if it describes none. `bytes` are the whole file, and
/// `architecture` is what general.architecture says. `given` is a tokenizer.json in place of what the metadata describes.
///
/// # Errors
/// The first thing about it that is wrong or not known.
pub(crate) fn tokenizer(
    header: &Header,
    bytes: &[u8],
    architecture: &str,
    given: Option<&str>,
) -> Result<Option<Synthesized>, TokenizerProblem> {
    let metadata = Metadata::new(header, bytes);
    let Some(model) = metadata.text("tokenizer.ggml.model")? else {
        let (json, templates) = (metadata.text("tokenizer.huggingface.json")?, metadata.templates()?);
        return match json {
            Some(_) => Err(TokenizerProblem::Missing { key: "tokenizer.ggml.tokens" }),
            None if templates == Templates::default() => Ok(None),
            None => Err(TokenizerProblem::Missing { key: "tokenizer.ggml.model" }),
        };
    };
    let whole = given.or(metadata.text("tokenizer.huggingface.json")?);
    if whole.is_none() && !["gpt2", "llama"].contains(&model) {
        return Err(TokenizerProblem::Model { got: model.to_string() });
    }
    let texts = metadata.required_texts("tokenizer.ggml.tokens")?;
    let id = |name: &'static str| metadata.id(name, texts.len());
    let (bos, eos) = (id("tokenizer.ggml.bos_token_id")?, id("tokenizer.ggml.eos_token_id")?);
    let (unknown, pad) = (id("tokenizer.ggml.unknown_token_id")?, id("tokenizer.ggml.padding_token_id")?);
    let (eot, eom) = (id("tokenizer.ggml.eot_token_id")?, id("tokenizer.ggml.eom_token_id")?);
    let named_ids = [bos, eos, unknown, pad, eot, eom];

    let said = metadata.flag("tokenizer.ggml.add_bos_token")?;
    let pieces = Pieces::read(&metadata, texts, &named_ids, model == "llama")?;
    let ends = ends::turn_ends(&pieces, eos, [eot, eom]);
    let (json, add_bos) = if let Some(whole) = whole {
        (whole.to_string(), said.unwrap_or(model == "llama"))
    } else {
        let parts = match model {
            "gpt2" => pre::parts(&metadata, &pieces)?,
            _ => spm::parts(&metadata, &pieces, unknown, architecture)?,
        };
        let add_bos = said.unwrap_or(parts.add_bos) && bos.is_some();
        let front = bos.filter(|_| add_bos).map(|id| (id, pieces.text(id)));
        (File::new(parts.steps, parts.model, parts.added, front).to_json(), add_bos)
    };
    let names = [("bos_token", bos), ("eos_token", eos), ("unk_token", unknown), ("pad_token", pad)];
    Ok(Some(Synthesized {
        json,
        bos,
        eos,
        turn_ends: ends,
        add_bos,
        named: names.into_iter().filter_map(|(name, id)| Some((name, pieces.text(id?).to_string()))).collect(),
        templates: metadata.templates()?,
    }))
}
