//! What the owner of a checkpoint folder can do about its problems.

use crate::error::What;
use crate::hf::folder::{CONVERTED, GGUF};
use std::path::Path;

/// How an adapter becomes a part of its model, with peft.
const MERGE: &str = "merge it, in Python: AutoPeftModelForCausalLM.from_pretrained(ADAPTER).merge_and_unload()\
    .save_pretrained(NEW), then convert NEW";

/// What to do about a problem of a folder; None if there is no advice.
pub(crate) fn hint(what: &What) -> Option<String> {
    let hint = match what {
        What::FileOfFolder { folder } => return Some(format!("give {}", shown(folder))),
        What::HubName { name } => {
            let folder = name.rsplit('/').next().unwrap_or(name);
            return Some(format!("download it: hf download {name} --local-dir {folder}, then give {folder}"));
        }
        What::CacheOfModel { snapshot: Some(path) } => return Some(format!("give {}", shown(path))),
        What::CacheOfModel { snapshot: None } => "no revision of it is there: download it again",
        What::CacheOfHub { snapshot: Some(path), .. } => {
            return Some(format!("give one of them, such as {}", shown(path)));
        }
        What::Adapter { .. } => {
            return Some(format!("{MERGE}; to convert the model without it, move the adapter's files elsewhere"));
        }
        What::AdapterTensors { .. } => MERGE,
        What::Wrapped { by, .. } => unwrap(*by),
        What::DanglingLink { .. } | What::Empty => "the download broke off, or was cleaned up: fetch the file again",
        What::LinkOutside { .. } => "copy the file itself into the folder",
        What::TooLong { .. } => "it is not what its name says",
        What::NotAFolder { .. } => "give the folder that holds config.json and the safetensors files",
        What::FileMissing { .. } => "download the whole checkpoint: config.json, *.safetensors, tokenizer.json",
        What::Foreign { got: GGUF, .. } => "it is a model of its own: give the file and not its folder",
        What::Foreign { got: CONVERTED, .. } => "it needs no conversion: run it",
        What::Foreign { .. } => "most models on the Hub also come as safetensors; or save it so with transformers",
        What::Quantized { .. } => "convert the original checkpoint",
        What::LfsPointer => "run `git lfs pull` in the folder",
        What::ShardLength { got, expected } if got < expected => "the download broke off: fetch the file again",
        What::HeaderLength { .. } | What::ShardMissing => "the download broke off: fetch the file again",
        What::TensorMissing => "a shard may be missing, or config.json is of another model",
        What::HeadMissing { .. } => "if the model's head is its embedding, set tie_word_embeddings to true",
        What::TensorUnknown => "config.json is of another model, or the model has parts that are not supported",
        What::TokenId { .. } => "the file is of another model than config.json",
        _ => return None,
    };
    Some(hint.to_string())
}

fn unwrap(by: Option<&str>) -> &'static str {
    match by {
        Some("torch.compile") => "save the model that was compiled: model._orig_mod.save_pretrained(FOLDER)",
        Some("PEFT") => "merge the adapter and save: model.merge_and_unload().save_pretrained(FOLDER)",
        Some("TRL") => "save the model itself: model.pretrained_model.save_pretrained(FOLDER)",
        Some("FSDP" | "activation checkpointing") => {
            "save the whole state as the model names it: \
             accelerator.unwrap_model(model).save_pretrained(FOLDER, state_dict=accelerator.get_state_dict(model))"
        }
        Some(_) => "save the model itself: model.module.save_pretrained(FOLDER)",
        None => {
            "the model is a part of another: load that part with transformers, and save it with save_pretrained(FOLDER)"
        }
    }
}

/// A path as a message shows it.
fn shown(path: &Path) -> String {
    if path == Path::new("") { ".".to_string() } else { path.display().to_string() }
}
