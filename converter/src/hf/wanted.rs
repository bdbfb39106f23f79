//! The tensors that a checkpoint must have: the family's modules, layer after layer, each with its shape in the words of
//! config.json. A fused tensor holds several of the model's.

use crate::hf::families::Family;
use nanoserve_format::schema::{self, Part};
use nanoserve_format::{ModelSpec, QkNorm};

/// The end of the embedding's key.
pub(crate) const EMBED: &str = "embed_tokens.weight";
/// The end of the last norm's key, and of all norms'.
pub(crate) const NORM: &str = "norm.weight";

/// A dimension of a tensor.
#[derive(Clone)]
pub(crate) struct Dim {
    /// How many values there must be along it.
    pub size: usize,
    /// How the size follows from config.json, in its words.
    pub words: String,
    /// The fields it follows from.
    pub fields: &'static [&'static str],
    /// The size is a multiple of this.
    pub unit: usize,
}

/// A tensor that the checkpoint must have.
pub(crate) struct Wanted {
    /// Its key, as the family writes it.
    pub key: String,
    /// Its shape, outermost first.
    pub dims: Vec<Dim>,
    /// The model's tensors in it, one after the other, each with its number of rows.
    pub names: Vec<(String, usize)>,
}

impl Wanted {
    fn whole(name: &str, key: String, dims: Vec<Dim>) -> Wanted {
        Wanted { key, names: vec![(name.to_string(), dims[0].size)], dims }
    }
}

/// Every stored tensor of the model, by its key.
pub(crate) fn table(spec: &ModelSpec, family: &Family, prefix: &str, head: &str) -> Vec<Wanted> {
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

/// The name of a part of a fused module, for messages.
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
