//! Tensors of a checkpoint that are not the model's by their names: those that transformers ignores for a known reason,
//! and those that are the model's under names that a training tool changed.

use crate::hf::adapter::is_adapters;
use std::collections::{BTreeMap, BTreeSet};

/// The prefix of most models' keys. transformers takes off one that is there twice.
pub(crate) const BASE: &str = "model.";

/// Beginnings of keys of heads that the classes that are converted do not have.
const HEADS: [&str; 8] =
    ["v_head.", "value_head.", "score.", "classifier.", "reward_head.", "qa_outputs.", "regression_head.", "summary."];
/// Ends of keys with the scales of an 8-bit KV cache, which an engine may use and the model does not.
const SCALES: [&str; 6] = [".k_scale", ".v_scale", ".kv_scale", ".q_scale", ".prob_scale", ".output_scale"];

/// What a tensor is that no model of its class has, where many checkpoints carry such tensors.
pub(crate) fn known(key: &str) -> Option<&'static str> {
    let bare = key.strip_prefix(BASE).unwrap_or(key);
    if HEADS.iter().any(|head| bare.starts_with(head)) {
        return Some("of another head than the class in config.json has");
    }
    (SCALES.iter().any(|scale| key.ends_with(scale)) && key.contains("attn"))
        .then_some("the scales of an 8-bit KV cache, which this one is not")
}

/// What wrappers of a model add to the names of its tensors, and who they are. Longer ones first.
const WRAPPERS: [(&str, &str); 8] = [
    ("_checkpoint_wrapped_module.", "activation checkpointing"),
    ("_fsdp_wrapped_module.", "FSDP"),
    ("_forward_module.", "Lightning"),
    ("base_model.model.", "PEFT"),
    ("base_layer.", "PEFT"),
    ("pretrained_model.", "TRL"),
    ("_orig_mod.", "torch.compile"),
    ("module.", "DataParallel, DDP or DeepSpeed"),
];

/// Tensors under names that a wrapper changed.
#[derive(Debug, PartialEq)]
pub(crate) struct Wrapped<'a> {
    /// What it added.
    pub part: String,
    /// Who it is, where that is known.
    pub by: Option<&'static str>,
    /// The names as they are.
    pub keys: BTreeSet<&'a str>,
    /// The names as they should be.
    pub meant: BTreeSet<String>,
}

/// The wrapper that explains why the keys of `unknown` are not those of `missing`.
pub(crate) fn wrapped<'a>(unknown: &BTreeSet<&'a str>, missing: &BTreeSet<String>) -> Option<Wrapped<'a>> {
    // What is added to most of the keys is named.
    let mut parts: BTreeMap<(String, Option<&'static str>), usize> = BTreeMap::new();
    let (mut keys, mut meant) = (BTreeSet::new(), BTreeSet::new());
    for &key in unknown.iter().filter(|key| !is_adapters(key)) {
        let Some((bare, part, by)) = unwrapped(key, missing).or_else(|| behind_prefix(key, missing)) else { continue };
        *parts.entry((part, by)).or_default() += 1;
        keys.insert(key);
        meant.insert(bare);
    }
    let ((part, by), _) = parts.into_iter().max_by_key(|(_, count)| *count)?;
    Some(Wrapped { part, by, keys, meant })
}

type Bare = (String, String, Option<&'static str>);

/// A missing key that is `key` without the parts of known wrappers, and the first of these.
fn unwrapped(key: &str, missing: &BTreeSet<String>) -> Option<Bare> {
    let (mut bare, mut first) = (key.to_string(), None);
    // Wrappers wrap wrappers, each of which may stand at several places.
    while let Some((at, part, by)) = WRAPPERS.iter().find_map(|(part, by)| {
        let at = bare.match_indices(part).map(|(at, _)| at).find(|&at| at == 0 || bare.as_bytes()[at - 1] == b'.')?;
        Some((at, *part, *by))
    }) {
        first.get_or_insert((part, by));
        bare.replace_range(at..at + part.len(), "");
    }
    let (part, by) = first?;
    let bare = [bare.clone(), format!("{BASE}{bare}")].into_iter().find(|bare| missing.contains(bare))?;
    Some((bare, part.to_string(), Some(by)))
}

/// A missing key that `key` ends with, and what is before it.
fn behind_prefix(key: &str, missing: &BTreeSet<String>) -> Option<Bare> {
    let mut starts = key.match_indices('.').map(|(at, _)| at + 1);
    let start = starts.find(|&at| missing.contains(&key[at..]))?;
    Some((key[start..].to_string(), key[..start].to_string(), None))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(keys: &[&str]) -> BTreeSet<String> {
        keys.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn wrappers_are_found_wherever_they_stand() {
        let missing = set(&["model.embed_tokens.weight", "model.layers.0.q.weight", "lm_head.weight"]);
        for (keys, part, by) in [
            (["_orig_mod.model.layers.0.q.weight", "_orig_mod.lm_head.weight"], "_orig_mod.", Some("torch.compile")),
            (["model._orig_mod.layers.0.q.weight", "x.bias"], "_orig_mod.", Some("torch.compile")),
            (["module._orig_mod.model.layers.0.q.weight", "y"], "_orig_mod.", Some("torch.compile")),
            (["module.model.layers.0._fsdp_wrapped_module.q.weight", "y"], "_fsdp_wrapped_module.", Some("FSDP")),
            (["base_model.model.model.layers.0.q.base_layer.weight", "y"], "base_model.model.", Some("PEFT")),
            (
                ["module.layers.0.q.weight", "module.embed_tokens.weight"],
                "module.",
                Some("DataParallel, DDP or DeepSpeed"),
            ),
            (["llm.model.layers.0.q.weight", "llm.lm_head.weight"], "llm.", None),
        ] {
            let found = wrapped(&keys.into_iter().collect(), &missing).unwrap();
            assert_eq!((found.part.as_str(), found.by), (part, by), "{keys:?}");
            assert!(found.meant.is_subset(&missing), "{found:?}");
        }
        for keys in [["mymodule.model.layers.0.q.weight2", "model.layers.0.q_norm.weight"], ["layers.9.q.weight", "z"]]
        {
            assert_eq!(wrapped(&keys.into_iter().collect(), &missing), None);
        }
        let adapter = "base_model.model.model.layers.0.q.lora_A.weight";
        assert!(is_adapters(adapter) && wrapped(&BTreeSet::from([adapter]), &missing).is_none());
    }

    #[test]
    fn only_what_is_known_is_ignored() {
        for key in ["v_head.summary.weight", "score.weight", "model.score.weight", "model.layers.0.self_attn.k_scale"] {
            assert!(known(key).is_some(), "{key}");
        }
        for key in
            ["model.layers.0.mlp.k_scale", "model.layers.0.self_attn.k_norm.weight", "scores.weight", "lm_head.bias"]
        {
            assert!(known(key).is_none(), "{key}");
        }
    }
}
