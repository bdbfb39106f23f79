//! What the owner of a checkpoint folder can do about its problems.

use crate::error::What;

/// What to do about a problem of a folder; None if there is no advice.
pub(crate) fn hint(what: &What) -> Option<&'static str> {
    let hint = match what {
        What::NotAFolder { .. } => "give the folder that holds config.json and the safetensors files",
        What::FileMissing { .. } => "download the whole checkpoint: config.json, *.safetensors, tokenizer.json",
        What::Foreign { .. } => "most models on the Hub also come as safetensors; or save it so with transformers",
        What::Architecture { .. } => "nanoserve-convert --list shows what is supported, with some models of each class",
        What::Quantized { .. } => "convert the original checkpoint; --dtype q8 quantizes it",
        What::LfsPointer => "run `git lfs pull` in the folder",
        What::ShardLength { got, expected } if got < expected => "the download broke off: fetch the file again",
        What::HeaderLength { .. } | What::ShardMissing => "the download broke off: fetch the file again",
        What::TensorMissing => "a shard may be missing, or config.json is of another model",
        What::HeadMissing { .. } => "if the model's head is its embedding, set tie_word_embeddings to true",
        What::TensorUnknown => "config.json is of another model, or the model has parts that are not supported",
        What::TokenId { .. } => "the file is of another model than config.json",
        _ => return None,
    };
    Some(hint)
}
