//! From the keys of a checkpoint to the model's tensors: one explicit table, every key accounted for.

use crate::checkpoint::{Checkpoint, Tensor};
use crate::config::CONFIG;
use crate::error::{Problems, What};
use crate::report::Warning;
use nanoserve_format::ModelSpec;
use nanoserve_format::schema::{self, Part};
use safetensors::Dtype;
use std::collections::{BTreeMap, HashSet};

/// What most checkpoints put before every key but the head's.
const PREFIX: &str = "model.";
const EMBED: &str = "embed_tokens.weight";
const NORM: &str = "norm.weight";
const LM_HEAD: &str = "lm_head.weight";

/// The modules of a layer, each with a `.weight` and, some, a `.bias`.
const LAYER: [(Part, &str); 9] = [
    (Part::AttnNorm, "input_layernorm"),
    (Part::Q, "self_attn.q_proj"),
    (Part::K, "self_attn.k_proj"),
    (Part::V, "self_attn.v_proj"),
    (Part::O, "self_attn.o_proj"),
    (Part::MlpNorm, "post_attention_layernorm"),
    (Part::Gate, "mlp.gate_proj"),
    (Part::Up, "mlp.up_proj"),
    (Part::Down, "mlp.down_proj"),
];

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

/// A tensor of the checkpoint, found for a tensor of the model.
#[derive(Debug)]
pub(crate) struct Bound {
    /// Its key.
    pub key: String,
    /// Where it is.
    pub tensor: Tensor,
}

/// Finds every tensor of the model, by its canonical name. Unties a model whose head is not its embedding.
pub(crate) fn bind(
    checkpoint: &Checkpoint,
    spec: &mut ModelSpec,
    problems: &Problems,
    warnings: &mut Vec<Warning>,
) -> BTreeMap<String, Bound> {
    let prefix = if checkpoint.tensors.keys().any(|key| key.starts_with(PREFIX)) { PREFIX } else { "" };
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
    match (spec.tied_lm_head, checkpoint.tensors.get(LM_HEAD), checkpoint.tensors.get(&embed)) {
        (true, Some(head), Some(embed)) if same(checkpoint, head, embed) => _ = left.remove(LM_HEAD),
        (true, Some(_), _) => {
            spec.tied_lm_head = false;
            warnings.push(Warning::HeadKept);
        }
        (false, None, _) if checkpoint.whole => problems.tensor(checkpoint.listing, LM_HEAD, What::HeadMissing),
        _ => {}
    }
    let mut bound = BTreeMap::new();
    for Wanted { name, key, dims } in table(spec, prefix) {
        let Some(tensor) = checkpoint.tensors.get(&key) else {
            if checkpoint.whole && key != LM_HEAD {
                problems.tensor(checkpoint.listing, key, What::TensorMissing);
            }
            continue;
        };
        left.remove(key.as_str());
        check(checkpoint, &key, tensor, &dims, problems);
        bound.insert(name, Bound { key, tensor: tensor.clone() });
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

/// A dimension, and the words of config.json that it follows from.
type Dim = (usize, String);

struct Wanted {
    name: String,
    key: String,
    dims: Vec<Dim>,
}

/// Every stored tensor of the model: its canonical name, its key and its shape.
fn table(spec: &ModelSpec, prefix: &str) -> Vec<Wanted> {
    let hidden = named("hidden_size", spec.hidden_size);
    let vocab = named("vocab_size", spec.vocab_size);
    let mut all = vec![Wanted {
        name: schema::EMBED.to_string(),
        key: format!("{prefix}{EMBED}"),
        dims: vec![vocab.clone(), hidden.clone()],
    }];
    for layer in 0..spec.n_layers {
        for (part, module) in LAYER {
            let (key, dims) = (format!("{prefix}layers.{layer}.{module}"), dims(part, spec));
            let bias = part.has_bias(spec).then(|| Wanted {
                name: part.bias(layer),
                key: format!("{key}.bias"),
                dims: vec![dims[0].clone()],
            });
            all.push(Wanted { name: part.weight(layer), key: format!("{key}.weight"), dims });
            all.extend(bias);
        }
    }
    all.push(Wanted {
        name: schema::FINAL_NORM.to_string(),
        key: format!("{prefix}{NORM}"),
        dims: vec![hidden.clone()],
    });
    if !spec.tied_lm_head {
        all.push(Wanted { name: schema::LM_HEAD.to_string(), key: LM_HEAD.to_string(), dims: vec![vocab, hidden] });
    }
    all
}

fn named(field: &str, size: usize) -> Dim {
    (size, format!("{field} {size}"))
}

fn dims(part: Part, spec: &ModelSpec) -> Vec<Dim> {
    let heads = |field: &str, n: usize| {
        let size = n * spec.head_dim;
        (size, format!("{field} {n} x head_dim {} = {size}", spec.head_dim))
    };
    let (hidden, ff) = (named("hidden_size", spec.hidden_size), named("intermediate_size", spec.intermediate_size));
    let (q, kv) = (heads("num_attention_heads", spec.n_heads), heads("num_key_value_heads", spec.n_kv_heads));
    match part {
        Part::AttnNorm | Part::MlpNorm => vec![hidden],
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
    if got.iter().ne(dims.iter().map(|(size, _)| size)) {
        let words: Vec<&str> = dims.iter().map(|(_, words)| words.as_str()).collect();
        let expected = format!("[{}]", words.join(", "));
        problems.tensor(file, key, What::Shape { got: got.clone(), expected, guess: guess(got, dims) });
    }
}

/// What could be wrong with config.json, when one dimension alone is.
fn guess(got: &[usize], dims: &[Dim]) -> String {
    let transposed = got.len() == 2 && dims.len() == 2 && (got[0], got[1]) == (dims[1].0, dims[0].0);
    let off: Vec<_> = got.iter().zip(dims).filter(|(got, (size, _))| *got != size).collect();
    match off.as_slice() {
        _ if got.len() != dims.len() => String::new(),
        _ if transposed => "the matrix looks transposed: rows are outputs".to_string(),
        [(got, (size, words))] => match words.split_once(" x head_dim ") {
            Some((heads, rest)) => {
                let field = heads.split(' ').next().unwrap_or(heads);
                let head_dim: usize = rest.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(*size);
                if got.is_multiple_of(head_dim) {
                    let n = **got / head_dim;
                    format!("the checkpoint has {n} heads of {head_dim}: see {field} and head_dim in config.json")
                } else {
                    format!("see {field} and head_dim in config.json")
                }
            }
            None => format!("see {} in config.json", words.split(' ').next().unwrap_or(words)),
        },
        _ => String::new(),
    }
}
