//! From the keys of a checkpoint to the model's tensors: the family's modules, layer after layer, every key accounted
//! for. A fused tensor is split by rows.

use crate::checkpoint::{Checkpoint, Tensor};
use crate::config::{CONFIG, Model};
use crate::encode::Values;
use crate::error::{Problems, What};
use crate::families::Family;
use crate::report::Warning;
use nanoserve_format::schema::{self, Part};
use nanoserve_format::{ModelSpec, QkNorm};
use safetensors::Dtype;
use std::collections::{BTreeMap, HashSet};
use std::ops::Range;

const EMBED: &str = "embed_tokens.weight";
const NORM: &str = "norm.weight";

/// Layers whose missing tensors are listed, however few tensors there are.
const MAX_LISTED_LAYERS: usize = 256;

/// Ends of keys that old versions saved and none reads: they follow from config.json.
const LEFTOVERS: [&str; 1] = ["rotary_emb.inv_freq"];

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

/// A tensor of the checkpoint, or some rows of it, found for a tensor of the model.
#[derive(Debug)]
pub(crate) struct Bound {
    /// Its key.
    pub key: String,
    /// Where it is.
    pub tensor: Tensor,
    /// Which of its rows; of a vector, which of its elements.
    pub rows: Range<usize>,
    /// The model's tensor is one more than these values.
    pub plus_one: bool,
}

impl Bound {
    /// The values, in the map.
    pub fn values<'c>(&self, checkpoint: &'c Checkpoint) -> Values<'c> {
        let (bytes, rows) = (checkpoint.bytes(&self.tensor), &self.rows);
        let row = bytes.len() / self.tensor.info.shape[0];
        let bytes = &bytes[rows.start * row..rows.end * row];
        Values { dtype: self.tensor.info.dtype, bytes, first_row: rows.start, plus_one: self.plus_one }
    }
}

/// Finds every tensor of the model, by its canonical name. Unties a model whose head is not its embedding.
pub(crate) fn bind(
    checkpoint: &Checkpoint,
    Model { spec, family }: &mut Model,
    problems: &Problems,
    warnings: &mut Vec<Warning>,
) -> BTreeMap<String, Bound> {
    let starts = |(prefix, _): &&(&str, &str)| checkpoint.tensors.keys().any(|key| key.starts_with(prefix));
    let (prefix, head) = *family.prefixes.iter().find(starts).unwrap_or(&family.prefixes[0]);
    if quantized(checkpoint, problems) {
        return BTreeMap::new();
    }
    // A few bytes can claim a great many layers: what is missing is then not worth a list.
    if spec.n_layers > checkpoint.tensors.len().max(MAX_LISTED_LAYERS) {
        let (field, got) = ("num_hidden_layers".to_string(), spec.n_layers.to_string());
        let expected = format!("at most {}, the number of tensors that there are", checkpoint.tensors.len());
        problems.file(CONFIG, What::Field { field, got, expected });
        return BTreeMap::new();
    }
    let mut left: HashSet<&str> = checkpoint.tensors.keys().map(String::as_str).collect();
    let embed = format!("{prefix}{EMBED}");
    match (spec.tied_lm_head, checkpoint.tensors.get(head), checkpoint.tensors.get(&embed)) {
        (true, Some(own), Some(embed)) if same(checkpoint, own, embed) => _ = left.remove(head),
        (true, Some(_), _) => {
            spec.tied_lm_head = false;
            warnings.push(Warning::HeadKept);
        }
        (false, None, _) if checkpoint.whole => problems.tensor(checkpoint.listing, head, What::HeadMissing),
        _ => {}
    }
    let mut bound = BTreeMap::new();
    for Wanted { key, dims, names } in table(spec, family, prefix, head) {
        let Some(tensor) = checkpoint.tensors.get(&key) else {
            if checkpoint.whole && key != head {
                problems.tensor(checkpoint.listing, key, What::TensorMissing);
            }
            continue;
        };
        left.remove(key.as_str());
        check(checkpoint, &key, tensor, &dims, problems);
        let (plus_one, mut first) = (family.norm_plus_one && key.ends_with(NORM), 0);
        for (name, rows) in names {
            let (key, tensor, rows) = (key.clone(), tensor.clone(), first..first + rows);
            first = rows.end;
            bound.insert(name, Bound { key, tensor, rows, plus_one });
        }
    }
    let on_purpose = |key: &&str| family.left_out.iter().any(|start| key.starts_with(start));
    let (apart, left): (HashSet<&str>, HashSet<&str>) = left.iter().partition(|key| on_purpose(key));
    if let Some(first) = apart.iter().min() {
        warnings.push(Warning::LeftOut { count: apart.len(), first: first.to_string() });
    }
    let (known, unknown): (HashSet<&str>, HashSet<&str>) =
        left.iter().partition(|k| LEFTOVERS.iter().any(|l| k.ends_with(l)));
    if let Some(first) = known.iter().min() {
        warnings.push(Warning::Leftovers { count: known.len(), first: first.to_string() });
    }
    // In the order of the map: that of the set is another one each time.
    for (key, tensor) in checkpoint.tensors.iter().filter(|(key, _)| unknown.contains(key.as_str())) {
        problems.tensor(checkpoint.file(tensor), key, What::TensorUnknown);
    }
    bound
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

/// A dimension of a tensor.
#[derive(Clone)]
struct Dim {
    size: usize,
    /// How it comes about, in the words of config.json.
    words: String,
    /// The fields it follows from.
    fields: &'static [&'static str],
    /// It is a multiple of this.
    unit: usize,
}

/// A tensor of the checkpoint.
struct Wanted {
    key: String,
    dims: Vec<Dim>,
    /// The model's tensors that it is, one after the other, and how many rows each has.
    names: Vec<(String, usize)>,
}

impl Wanted {
    fn whole(name: &str, key: String, dims: Vec<Dim>) -> Wanted {
        Wanted { key, names: vec![(name.to_string(), dims[0].size)], dims }
    }
}

/// Every stored tensor of the model, by its key.
fn table(spec: &ModelSpec, family: &Family, prefix: &str, head: &str) -> Vec<Wanted> {
    let (vocab, hidden) = (named(&["vocab_size"], spec.vocab_size), named(&["hidden_size"], spec.hidden_size));
    let matrix = vec![vocab, hidden.clone()];
    let mut all = vec![Wanted::whole(schema::EMBED, format!("{prefix}{EMBED}"), matrix.clone())];
    for layer in 0..spec.n_layers {
        for (parts, module) in family.modules.iter().copied().flatten() {
            let key = format!("{prefix}layers.{layer}.{module}");
            let dims = fused(parts, spec);
            let named = |name: fn(Part, usize) -> String| {
                parts.iter().map(|&part| (name(part, layer), part.shape(spec, layer).dims()[0])).collect()
            };
            if parts[0].has_bias(spec) {
                let (key, dims) = (format!("{key}.bias"), vec![dims[0].clone()]);
                all.push(Wanted { key, dims, names: named(Part::bias) });
            }
            all.push(Wanted { key: format!("{key}.weight"), dims, names: named(Part::weight) });
        }
    }
    all.push(Wanted::whole(schema::FINAL_NORM, format!("{prefix}{NORM}"), vec![hidden]));
    if !spec.tied_lm_head {
        all.push(Wanted::whole(schema::LM_HEAD, head.to_string(), matrix));
    }
    all
}

fn named(fields: &'static [&'static str], size: usize) -> Dim {
    Dim { size, words: format!("{} {size}", fields[0]), fields, unit: 1 }
}

/// The shape of a module that holds these parts, one after the other.
fn fused(parts: &[Part], spec: &ModelSpec) -> Vec<Dim> {
    let [first, rest @ ..] = parts else { unreachable!("a module holds a part") };
    let mut dims = dims(*first, spec);
    if rest.is_empty() {
        return dims;
    }
    let rows: Vec<(&str, Dim)> =
        parts.iter().map(|&part| (short(part), self::dims(part, spec).swap_remove(0))).collect();
    let size = rows.iter().map(|(_, dim)| dim.size).sum();
    let words: Vec<String> = rows.iter().map(|(part, dim)| format!("{part} ({})", dim.words)).collect();
    let fields = if parts.contains(&Part::Q) { ALL_HEADS } else { rows[0].1.fields };
    dims[0] = Dim { size, words: format!("{} = {size}", words.join(" + ")), fields, unit: 1 };
    dims
}

const HEADS: &[&str] = &["num_attention_heads", "head_dim"];
const KV_HEADS: &[&str] = &["num_key_value_heads", "head_dim"];
const ALL_HEADS: &[&str] = &["num_attention_heads", "num_key_value_heads", "head_dim"];

/// What a part of a fused module is called.
fn short(part: Part) -> &'static str {
    match part {
        Part::Q => "q",
        Part::K => "k",
        Part::V => "v",
        Part::Gate => "gate",
        Part::Up => "up",
        _ => "another part",
    }
}

fn dims(part: Part, spec: &ModelSpec) -> Vec<Dim> {
    let heads = |fields: &'static [&str], n: usize| {
        let size = n * spec.head_dim;
        Dim {
            size,
            words: format!("{} {n} x head_dim {} = {size}", fields[0], spec.head_dim),
            fields,
            unit: spec.head_dim,
        }
    };
    let (hidden, ff) =
        (named(&["hidden_size"], spec.hidden_size), named(&["intermediate_size"], spec.intermediate_size));
    let (q, kv) = (heads(HEADS, spec.n_heads), heads(KV_HEADS, spec.n_kv_heads));
    match part {
        Part::AttnNorm | Part::MlpNorm | Part::AttnPostNorm | Part::MlpPostNorm => vec![hidden],
        Part::QNorm | Part::KNorm if spec.qk_norm == QkNorm::Head => vec![named(&["head_dim"], spec.head_dim)],
        Part::QNorm => vec![q],
        Part::KNorm => vec![kv],
        Part::Q => vec![q, hidden],
        Part::K | Part::V => vec![kv, hidden],
        Part::O => vec![hidden, q],
        Part::Gate | Part::Up => vec![ff, hidden],
        Part::Down => vec![hidden, ff],
    }
}

/// Notes a tensor of the wrong type or shape.
fn check(checkpoint: &Checkpoint, key: &str, tensor: &Tensor, dims: &[Dim], problems: &Problems) {
    let file = checkpoint.file(tensor);
    if !matches!(tensor.info.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16) {
        problems.tensor(file, key, What::Dtype { got: format!("{:?}", tensor.info.dtype) });
    }
    let got = &tensor.info.shape;
    if got.iter().ne(dims.iter().map(|dim| &dim.size)) {
        let words: Vec<&str> = dims.iter().map(|dim| dim.words.as_str()).collect();
        let expected = format!("[{}]", words.join(", "));
        problems.tensor(file, key, What::Shape { got: got.clone(), expected, guess: guess(got, dims) });
    }
}

/// What could be wrong with config.json, when one dimension alone is.
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
    // Of one kind of head it can be said how many there are.
    let [_, "head_dim"] = fields else { return see };
    if got.is_multiple_of(*unit) { format!("the checkpoint has {} heads of {unit}: {see}", *got / unit) } else { see }
}
