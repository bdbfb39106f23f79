//! Which files of a model a conversion reads. A repository may hold the same weights in many forms: only one of them comes.

use super::error::HubError;
use super::http::Info;
use nanoserve_converter::reads;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

/// All weights in one file.
pub const SINGLE: &str = "model.safetensors";
/// The list of the files that weights are in.
pub const INDEX: &str = "model.safetensors.index.json";
/// What the model is.
pub const CONFIG: &str = "config.json";
/// The vocabulary.
pub const TOKENIZER: &str = "tokenizer.json";

/// Other forms of weights, by the ends of their names, and what they are.
const OTHERS: [(&str, &str); 5] = [
    (".gguf", "GGUF files"),
    ("adapter_model.safetensors", "a LoRA adapter without its model"),
    (".safetensors", "safetensors under other names"),
    (".bin", "pickled PyTorch files"),
    (".pth", "pickled PyTorch files"),
];

/// The files beside the weights, in the order of names, then those of the weights. `index` gets the index's bytes, where
/// the weights are in several files.
///
/// # Errors
/// No weights that can be converted, an index that is none, or one that names a file which is not there.
pub fn wanted(
    repo: &str,
    info: &Info,
    index: impl FnOnce() -> Result<Vec<u8>, HubError>,
) -> Result<Vec<String>, HubError> {
    let all: BTreeSet<&str> = info.siblings.iter().map(|file| file.rfilename.as_str()).collect();
    let mut files: Vec<String> = all.iter().copied().filter(|name| reads(name)).map(str::to_string).collect();
    if all.contains(SINGLE) {
        files.push(SINGLE.into());
    } else if all.contains(INDEX) {
        let shards = shards(&index()?).map_err(|cause| HubError::BadIndex { repo: repo.into(), cause })?;
        if let Some(lost) = shards.iter().find(|shard| !all.contains(shard.as_str())) {
            let cause = format!("names {lost}, which is not there");
            return Err(HubError::BadIndex { repo: repo.into(), cause });
        }
        files.push(INDEX.into());
        files.extend(shards);
    } else {
        let other = OTHERS.iter().find(|(end, _)| all.iter().any(|name| name.ends_with(end)));
        let found = other.map(|(_, what)| format!(", but {what}")).unwrap_or_default();
        return Err(HubError::NoWeights { repo: repo.into(), found });
    }
    Ok(files)
}

/// The files that an index names, each once. A name with a folder in it could lead anywhere, and is refused.
///
/// # Errors
/// What is wrong with it.
pub fn shards(index: &[u8]) -> Result<BTreeSet<String>, String> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let Index { weight_map } = serde_json::from_slice(index).map_err(|e| format!("cannot be read: {e}"))?;
    let shards: BTreeSet<String> = weight_map.into_values().collect();
    match shards.iter().find(|name| name.contains(['/', '\\', '\0']) || name.starts_with('.') || name.is_empty()) {
        Some(name) => Err(format!("names '{name}', expected names of files beside it")),
        None if shards.is_empty() => Err("names no file".into()),
        None => Ok(shards),
    }
}

#[cfg(test)]
mod tests {
    use super::super::http::Sibling;
    use super::*;

    fn info(names: &[&str]) -> Info {
        let siblings = names.iter().map(|name| Sibling { rfilename: (*name).into() }).collect();
        Info { sha: String::new(), siblings }
    }

    fn of(names: &[&str], index: &str) -> Result<Vec<String>, String> {
        wanted("a/b", &info(names), || Ok(index.into())).map_err(|e| e.to_string())
    }

    #[test]
    fn one_form_of_the_weights_comes_and_what_is_read_beside_it() {
        let all = [
            ".gitattributes",
            "LICENSE",
            "README.md",
            "USE_POLICY.md",
            "additional_chat_templates/tool_use.jinja",
            "additional_chat_templates/x/y.jinja",
            "config.json",
            "figures/plot.png",
            "license.py",
            "model.fp16.safetensors",
            "model.gguf",
            "model.safetensors",
            "model.safetensors.index.json",
            "onnx/config.json",
            "original/consolidated.00.pth",
            "pytorch_model.bin",
            "tokenizer.json",
            "tokenizer.model",
        ];
        let beside =
            ["LICENSE", "README.md", "USE_POLICY.md", "additional_chat_templates/tool_use.jinja", "config.json"];
        assert_eq!(of(&all, "").unwrap(), [&beside[..], &["tokenizer.json", "model.safetensors"]].concat());
        let index = r#"{"metadata": {}, "weight_map": {"x": "m-2.safetensors", "y": "m-1.safetensors", "z": "m-2.safetensors"}}"#;
        let sharded = ["config.json", "m-1.safetensors", "m-2.safetensors", "m-3.safetensors", INDEX];
        assert_eq!(of(&sharded, index).unwrap(), ["config.json", INDEX, "m-1.safetensors", "m-2.safetensors"]);
    }

    #[test]
    fn without_weights_it_says_what_is_there() {
        for (name, words) in [
            ("a.Q4_K_M.gguf", "but GGUF files"),
            ("pytorch_model.bin", "but pickled PyTorch files"),
            ("adapter_model.safetensors", "but a LoRA adapter without its model"),
            ("consolidated.safetensors", "but safetensors under other names"),
            ("x.txt", "index.json: nothing to convert"),
        ] {
            let error = of(&["config.json", name], "").unwrap_err();
            assert!(error.starts_with("a/b holds no model.safetensors") && error.contains(words), "{error}");
        }
    }

    #[test]
    fn an_index_names_files_beside_it() {
        for (index, words) in [
            ("[]", "cannot be read"),
            (r#"{"weight_map": {}}"#, "names no file"),
            (r#"{"weight_map": {"x": "../m.safetensors"}}"#, "names '../m.safetensors'"),
            (r#"{"weight_map": {"x": "/m.safetensors"}}"#, "names '/m.safetensors'"),
            (r#"{"weight_map": {"x": ".."}}"#, "names '..'"),
            (r#"{"weight_map": {"x": "lost.safetensors"}}"#, "lost.safetensors, which is not there"),
        ] {
            let error = of(&[INDEX], index).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }
}
