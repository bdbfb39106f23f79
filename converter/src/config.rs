//! `config.json`, with everything that may be absent, to a [`ModelSpec`], with nothing that may.
//!
//! Absent fields have the defaults of transformers' `LlamaConfig`, but for the sizes: a model without them is refused.

use crate::error::{Problems, What};
use crate::json::{self, Fields};
use nanoserve_format::{Activation, FormatError, ModelSpec, Rope, RopeScaling};
use serde_json::{Map, Value};

pub(crate) const CONFIG: &str = "config.json";

/// Classes that this program converts. The second is the first without its head, which its checkpoint may still hold.
const CLASSES: [&str; 2] = ["LlamaForCausalLM", "LlamaModel"];
const MODEL_TYPE: &str = "llama";
const ROPE_KINDS: &str = "default, linear or llama3";
const DEFAULT_THETA: f64 = 10000.0;

/// What config.json says.
pub(crate) struct Config {
    map: Map<String, Value>,
}

impl Config {
    /// Parses config.json.
    pub fn parse(bytes: &[u8], problems: &Problems) -> Option<Config> {
        Some(Config { map: json::object(CONFIG, bytes, problems)? })
    }

    /// Its fields.
    pub fn fields<'a>(&'a self, problems: &'a Problems) -> Fields<'a> {
        Fields::new(CONFIG, &self.map, problems)
    }

    /// The model as numbers and switches; None when anything about it was noted as a problem.
    pub fn resolve(&self, problems: &Problems) -> Option<ModelSpec> {
        let before = problems.len();
        let fields = self.fields(problems);
        class(fields)?;
        quantization(fields);
        let spec = spec(fields)?;
        if problems.len() == before
            && let Err(FormatError::Spec { field, got, expected }) = spec.check()
        {
            problems.file(CONFIG, What::Field { field: theirs(field).to_string(), got, expected });
        }
        (problems.len() == before).then_some(spec)
    }
}

/// Whether the model is of a class that this program knows; what else is wrong with another says little.
fn class(fields: Fields) -> Option<()> {
    let names = |v: &Value| v.as_array()?.iter().map(|n| n.as_str().map(str::to_string)).collect::<Option<Vec<_>>>();
    let kind = fields.text("model_type");
    match fields.get("architectures") {
        Some(value) => {
            let Some(classes) = names(value) else {
                fields.wrong("architectures", value, "a list of class names");
                return None;
            };
            if !classes.iter().any(|c| CLASSES.contains(&c.as_str())) {
                fields.problem(What::Architecture { got: classes.join(", ") });
                return None;
            }
        }
        None if kind.is_none() => {
            fields.problem(What::Architecture { got: "of no class: architectures and model_type are missing".into() });
            return None;
        }
        None => {}
    }
    if let Some(kind) = kind.filter(|k| *k != MODEL_TYPE) {
        fields.problem(What::Architecture { got: format!("of model_type '{kind}'") });
        return None;
    }
    Some(())
}

fn quantization(fields: Fields) {
    for field in ["quantization_config", "compression_config"] {
        if let Some(inner) = fields.object(field) {
            let method = inner.text("quant_method").unwrap_or("quant_method is not given");
            fields.problem(What::Quantized { method: method.to_string() });
        }
    }
}

fn spec(fields: Fields) -> Option<ModelSpec> {
    let size = |field| fields.required(field, "a whole number above 0", fields.size(field));
    let hidden_size = size("hidden_size");
    let n_heads = size("num_attention_heads");
    let (intermediate_size, n_layers, vocab_size) =
        (size("intermediate_size"), size("num_hidden_layers"), size("vocab_size"));
    let head_dim = fields.size("head_dim").or_else(|| derived_head_dim(fields, hidden_size?, n_heads?));
    let n_kv_heads = fields.size("num_key_value_heads").or(n_heads);
    let rope = rope(fields);
    let attention_bias = fields.flag("attention_bias").unwrap_or(false);
    let context_length = fields.size("max_position_embeddings").unwrap_or(2048);
    let norm_eps = fields.number("rms_norm_eps").unwrap_or(1e-6);
    let activation = activation(fields);
    let mlp_bias = fields.flag("mlp_bias").unwrap_or(false);
    let tied_lm_head = fields.flag("tie_word_embeddings").unwrap_or(false);
    // Only here may one missing number end it: every other field has been looked at.
    Some(ModelSpec {
        hidden_size: hidden_size?,
        intermediate_size: intermediate_size?,
        n_layers: n_layers?,
        n_heads: n_heads?,
        n_kv_heads: n_kv_heads?,
        head_dim: head_dim?,
        vocab_size: vocab_size?,
        context_length,
        norm_eps,
        rope: rope?,
        activation: activation?,
        qkv_bias: attention_bias,
        attn_out_bias: attention_bias,
        mlp_bias,
        tied_lm_head,
    })
}

fn derived_head_dim(fields: Fields, hidden_size: usize, n_heads: usize) -> Option<usize> {
    if n_heads == 0 || !hidden_size.is_multiple_of(n_heads) {
        let expected = format!("a divisor of hidden_size, {hidden_size}, where head_dim is not given");
        fields.wrong("num_attention_heads", n_heads, expected);
        return None;
    }
    Some(hidden_size / n_heads)
}

fn activation(fields: Fields) -> Option<Activation> {
    match fields.text("hidden_act").unwrap_or("silu") {
        // Two names of one function.
        "silu" | "swish" => Some(Activation::Silu),
        other => {
            fields.unsupported("hidden_act", other, "silu");
            None
        }
    }
}

/// The rotary embedding. Old: `rope_theta` and, beside it, `rope_scaling`; new: both in `rope_parameters`. Where a file
/// has both forms, transformers takes `rope_scaling`.
fn rope(fields: Fields) -> Option<Rope> {
    let object = |field| fields.object(field).filter(|inner| !inner.is_empty());
    let inner = object("rope_scaling").or_else(|| object("rope_parameters"));
    for fields in [Some(fields), inner].into_iter().flatten() {
        if let Some(part) = fields.number("partial_rotary_factor").filter(|&part| part != 1.0) {
            fields.unsupported("partial_rotary_factor", part, "1.0");
        }
    }
    let theta = inner.and_then(|f| f.number("rope_theta")).or_else(|| fields.number("rope_theta"));
    let scaling = inner.map_or(Some(RopeScaling::Default {}), |inner| scaling(fields, inner));
    Some(Rope { theta: theta.unwrap_or(DEFAULT_THETA), rotary_dim: None, scaling: scaling? })
}

fn scaling(fields: Fields, inner: Fields) -> Option<RopeScaling> {
    let named = if inner.get("rope_type").is_some() { "rope_type" } else { "type" };
    let number = |field| inner.required(field, "a number above 0", inner.number(field));
    match inner.text(named) {
        None if inner.get(named).is_some() => None,
        // transformers reads a missing type as "default", but then nothing but theta has a meaning.
        None if inner.get("factor").is_some() || inner.has_objects() => {
            inner.wrong("rope_type", "missing", ROPE_KINDS);
            None
        }
        None | Some("default") => Some(RopeScaling::Default {}),
        Some("linear") => Some(RopeScaling::Linear { factor: number("factor")? }),
        Some("llama3") => {
            const ORIGINAL: &str = "original_max_position_embeddings";
            let (factor, low, high) = (number("factor"), number("low_freq_factor"), number("high_freq_factor"));
            // Beside the object it wins, as in transformers.
            let original = fields.size(ORIGINAL).or_else(|| inner.size(ORIGINAL));
            let original = inner.required(ORIGINAL, "a whole number above 0", original);
            Some(RopeScaling::Llama3 {
                factor: factor?,
                low_freq_factor: low?,
                high_freq_factor: high?,
                original_context: original?,
            })
        }
        Some(other) => {
            inner.unsupported(named, other, ROPE_KINDS);
            None
        }
    }
}

/// The field of config.json behind a number of the spec.
fn theirs(field: &str) -> &str {
    match field {
        "n_layers" => "num_hidden_layers",
        "n_heads" => "num_attention_heads",
        "n_kv_heads" => "num_key_value_heads",
        "context_length" => "max_position_embeddings",
        "norm_eps" => "rms_norm_eps",
        "rope.theta" => "rope_theta",
        "rope.scaling.factor" => "rope factor",
        "rope.scaling.low_freq_factor" => "low_freq_factor",
        "rope.scaling.high_freq_factor" => "high_freq_factor",
        "rope.scaling.original_context" => "original_max_position_embeddings",
        same => same,
    }
}
