//! Binds the keys of a checkpoint to the model's tensors: the family's modules, layer after layer. Every key is
//! accounted for. A fused tensor is split by rows.

use crate::error::{Problems, What};
use crate::hf::adapter::is_adapters;
use crate::hf::checkpoint::{Checkpoint, Tensor};
use crate::hf::config::{CONFIG, Model};
use crate::hf::families::Family;
use crate::hf::strays::{self, BASE, Wrapped};
use crate::hf::wanted::{Dim, EMBED, NORM, Wanted, table};
use crate::input::{RowOrder, Stored, Transform, Weight};
use crate::report::Warning;
use safetensors::Dtype;
use std::collections::{BTreeMap, BTreeSet};

/// The head of all models but those that hold a text model among others.
const HEAD: &str = "lm_head.weight";
/// Where a checkpoint without a head claims to have one.
const NOT_TIED: &str = "tie_word_embeddings of config.json is false";

/// Number of layers up to which missing tensors are listed, however few tensors there are.
const MAX_LISTED_LAYERS: usize = 256;

/// Ends of keys that old versions saved and no version reads: their values follow from config.json.
const LEFTOVERS: [&str; 4] = ["rotary_emb.inv_freq", "rotary_emb.cos_cached", "rotary_emb.sin_cached", "position_ids"];

/// Ends of keys that quantized checkpoints have, and who writes them.
const QUANTIZED: [(&str, &str); 9] = [
    (".qweight", "GPTQ or AWQ"),
    (".qzeros", "GPTQ or AWQ"),
    (".g_idx", "GPTQ"),
    (".scales", "GPTQ or AWQ"),
    (".absmax", "bitsandbytes"),
    (".quant_map", "bitsandbytes"),
    (".SCB", "bitsandbytes"),
    (".weight_scale", "fp8 or compressed-tensors"),
    (".weight_scale_inv", "fp8"),
];

/// Finds every tensor of the model, by its canonical name. Unties a model whose head is not its embedding.
pub(crate) fn bind(
    checkpoint: &Checkpoint,
    Model { spec, family }: &mut Model,
    problems: &Problems,
    warnings: &mut Vec<Warning>,
) -> BTreeMap<String, Weight> {
    let starts = |start: &str| {
        let modules = ["layers.", EMBED, NORM].map(|module| format!("{start}{module}"));
        checkpoint.tensors.keys().any(|key| modules.iter().any(|module| key.starts_with(module)))
    };
    let prefixes = family.prefixes;
    let once = prefixes.iter().find(|(prefix, _)| starts(prefix));
    let (prefix, head) = *once.or(prefixes.iter().find(|(prefix, _)| starts(&twice(prefix)))).unwrap_or(&prefixes[0]);
    if quantized(checkpoint, problems) {
        return BTreeMap::new();
    }
    // A few bytes can claim a great many layers: their missing tensors are then not listed.
    if spec.n_layers > checkpoint.tensors.len().max(MAX_LISTED_LAYERS) {
        let (field, got) = ("num_hidden_layers".to_string(), spec.n_layers.to_string());
        let expected = format!("at most {}, the number of tensors that there are", checkpoint.tensors.len());
        problems.file(CONFIG, What::Field { field, got, expected });
        return BTreeMap::new();
    }
    let mut left: BTreeSet<&str> = checkpoint.tensors.keys().map(String::as_str).collect();
    let find = |key: &str| found(checkpoint, key);
    let embed = format!("{prefix}{EMBED}");
    match (spec.tied_lm_head, find(head), find(&embed)) {
        (true, Some((key, own)), Some((_, embed))) if same(checkpoint, own, embed) => _ = left.remove(key),
        (true, Some(_), _) => {
            spec.tied_lm_head = false;
            warnings.push(Warning::HeadKept { said: "tie_word_embeddings is true", head: head.to_string() });
        }
        _ => {}
    }
    let (mut bound, mut missing) = (BTreeMap::new(), BTreeSet::new());
    let (mut prefixed, mut rounded) = (BTreeSet::new(), BTreeSet::new());
    for Wanted { key: wanted, dims, names } in table(spec, family, prefix, head) {
        let Some((key, tensor)) = find(&wanted) else {
            missing.insert(wanted);
            continue;
        };
        left.remove(key);
        if key.len() > wanted.len() {
            prefixed.insert(key);
        }
        let Some(stored) = check(checkpoint, key, tensor, &dims, problems) else { continue };
        if stored == Stored::F64 {
            rounded.insert(key);
        }
        let plus_one = family.norm_plus_one && key.ends_with(NORM);
        let transforms = if plus_one { vec![Transform::PlusOne] } else { Vec::new() };
        let row_bytes = tensor.info.range.len() / dims[0].size;
        let mut first_row = 0;
        for (name, rows) in names {
            let start = tensor.info.range.start + first_row * row_bytes;
            let (range, transforms) = (start..start + rows * row_bytes, transforms.clone());
            let (key, file, order) = (key.to_string(), tensor.file, RowOrder::Same);
            let weight = Weight { name: key, file, range, first_row, stored, order, transforms };
            bound.insert(name, weight);
            first_row += rows;
        }
    }
    if let (count, Some(first)) = counted(&prefixed) {
        warnings.push(Warning::PrefixTwice { prefix: BASE, count, first });
    }
    if let (count, Some(first)) = counted(&rounded) {
        warnings.push(Warning::Rounded { count, first });
    }
    without_use(&mut left, family, warnings);
    refuse(checkpoint, left, missing, head, problems);
    bound
}

/// A key's tensor and the key itself, which may lack the [`BASE`] or have it twice, as transformers allows.
fn found<'c>(checkpoint: &'c Checkpoint, wanted: &str) -> Option<(&'c str, &'c Tensor)> {
    let get = |key: &str| checkpoint.tensors.get_key_value(key).map(|(key, tensor)| (key.as_str(), tensor));
    // The head stands outside of the base.
    let has_base = wanted.starts_with(BASE) || wanted == HEAD;
    let bare = wanted.strip_prefix(BASE).filter(|_| has_base);
    get(wanted).or_else(|| get(&twice(wanted)).filter(|_| has_base)).or_else(|| get(bare?))
}

fn twice(key: &str) -> String {
    format!("{BASE}{key}")
}

/// How many keys there are, and the first.
fn counted(keys: &BTreeSet<&str>) -> (usize, Option<String>) {
    (keys.len(), keys.first().map(ToString::to_string))
}

/// Takes out the keys that a model of this family has no use for, with a warning of each kind.
fn without_use(left: &mut BTreeSet<&str>, family: &Family, warnings: &mut Vec<Warning>) {
    let mut take = |is: &dyn Fn(&str) -> bool| {
        let taken: BTreeSet<&str> = left.iter().copied().filter(|key| is(key)).collect();
        left.retain(|key| !taken.contains(key));
        counted(&taken)
    };
    if let (count, Some(first)) = take(&|key| family.left_out.iter().any(|start| key.starts_with(start))) {
        warnings.push(Warning::LeftOut { count, first });
    }
    if let (count, Some(first)) = take(&|key| LEFTOVERS.iter().any(|end| key.ends_with(end))) {
        warnings.push(Warning::Leftovers { from: CONFIG, count, first });
    }
    let kinds: BTreeSet<&str> = left.iter().filter_map(|key| strays::known(key)).collect();
    for what in kinds {
        let taken: BTreeSet<&str> = left.iter().copied().filter(|key| strays::known(key) == Some(what)).collect();
        left.retain(|key| !taken.contains(key));
        if let (count, Some(first)) = counted(&taken) {
            warnings.push(Warning::Strays { what, count, first });
        }
    }
}

/// Notes the keys that are `left` and the tensors that are `missing`. Those that a wrapper or an adapter explains are one
/// problem.
fn refuse(
    checkpoint: &Checkpoint,
    mut left: BTreeSet<&str>,
    mut missing: BTreeSet<String>,
    head: &str,
    problems: &Problems,
) {
    let adapters: BTreeSet<&str> = left.iter().copied().filter(|key| is_adapters(key)).collect();
    if let Some(first) = adapters.first() {
        let what = What::AdapterTensors { count: adapters.len(), first: first.to_string() };
        problems.file(checkpoint.listing, what);
    }
    left.retain(|key| !adapters.contains(key));
    if let Some(Wrapped { part, by, keys, meant }) = strays::wrapped(&left, &missing) {
        problems.file(checkpoint.listing, What::Wrapped { part, count: keys.len(), by });
        left.retain(|key| !keys.contains(key));
        missing.retain(|key| !meant.contains(key));
    }
    for key in missing {
        if checkpoint.left_out.contains(&key) {
            problems.tensor(checkpoint.listing, key, What::TensorLeftOut);
        } else if checkpoint.whole {
            let what = if key == head { What::HeadMissing { said: NOT_TIED } } else { What::TensorMissing };
            problems.tensor(checkpoint.listing, key, what);
        }
    }
    for key in left {
        problems.tensor(checkpoint.file(&checkpoint.tensors[key]), key, What::TensorUnknown);
    }
}

/// Notes, once, that a checkpoint is quantized.
fn quantized(checkpoint: &Checkpoint, problems: &Problems) -> bool {
    let by_key = checkpoint.tensors.iter().find_map(|(key, tensor)| {
        let (_, who) = QUANTIZED.iter().find(|(end, _)| key.ends_with(end))?;
        Some((tensor, format!("{who}, by its tensor '{key}'")))
    });
    let fp8 = |t: &&Tensor| matches!(t.info.dtype, Dtype::F8_E4M3 | Dtype::F8_E5M2);
    let by_type = || checkpoint.tensors.values().find(fp8).map(|t| (t, "fp8".to_string()));
    let Some((tensor, method)) = by_key.or_else(by_type) else { return false };
    problems.file(checkpoint.file(tensor), What::Quantized { method });
    true
}

fn same(checkpoint: &Checkpoint, a: &Tensor, b: &Tensor) -> bool {
    a.info.dtype == b.info.dtype && a.info.shape == b.info.shape && checkpoint.bytes(a) == checkpoint.bytes(b)
}

/// Notes a tensor of the wrong type or shape; otherwise returns how it is stored.
fn check(checkpoint: &Checkpoint, key: &str, tensor: &Tensor, dims: &[Dim], problems: &Problems) -> Option<Stored> {
    let file = checkpoint.file(tensor);
    let stored = stored(tensor.info.dtype);
    if stored.is_none() {
        problems.tensor(file, key, What::Dtype { got: format!("{:?}", tensor.info.dtype) });
    }
    let got = &tensor.info.shape;
    if got.iter().ne(dims.iter().map(|dim| &dim.size)) {
        let words: Vec<&str> = dims.iter().map(|dim| dim.words.as_str()).collect();
        let expected = format!("[{}]", words.join(", "));
        problems.tensor(file, key, What::Shape { got: got.clone(), expected, guess: guess(got, dims) });
        return None;
    }
    stored
}

/// The stored type of a checkpoint's type; None if it is not supported.
fn stored(dtype: Dtype) -> Option<Stored> {
    match dtype {
        Dtype::F64 => Some(Stored::F64),
        Dtype::F32 => Some(Stored::F32),
        Dtype::F16 => Some(Stored::F16),
        Dtype::BF16 => Some(Stored::BF16),
        _ => None,
    }
}

/// A guess at what is wrong with config.json, if a single dimension is wrong.
fn guess(got: &[usize], dims: &[Dim]) -> String {
    if got.len() != dims.len() {
        return String::new();
    }
    if got.len() == 2 && (got[0], got[1]) == (dims[1].size, dims[0].size) {
        return "the matrix looks transposed: rows are outputs".to_string();
    }
    let off: Vec<_> = got.iter().zip(dims).filter(|(got, dim)| **got != dim.size).collect();
    let [(got, Dim { fields, unit, .. })] = off.as_slice() else { return String::new() };
    let see = format!("see {} in config.json", fields.join(" and "));
    // If the dimension has one kind of heads, their number is known.
    let [_, "head_dim"] = fields else { return see };
    if got.is_multiple_of(*unit) { format!("the checkpoint has {} heads of {unit}: {see}", *got / unit) } else { see }
}
