//! Resolves `config.json`, in which much may be absent, to a [`ModelSpec`], in which nothing may.
//!
//! Absent fields get the defaults that transformers has for the family, except for the sizes: a model without them is
//! refused. What all families share is here, what differs is in families.rs.

use crate::error::{Problems, What};
use crate::hf::families::{self, FAMILIES, Family};
use crate::hf::json::{self, Fields};
use crate::hf::layers::{self, SLIDING};
use crate::hf::rope::{self, Form};
use crate::simplify::simplify;
use nanoserve_format::schema::Part;
use nanoserve_format::{Activation, FormatError, ModelSpec};
use serde_json::{Map, Value};

pub(crate) const CONFIG: &str = "config.json";
const ABOVE_0: &str = "a whole number above 0";
/// More than any model has: a few bytes must not ask for long lists of layers.
const MAX_LAYERS: usize = 1024;

/// Names of activations, as `hidden_act` has them. Some functions have two names.
pub(crate) const ACTIVATIONS: [(&str, Activation); 4] = [
    ("silu", Activation::Silu),
    ("swish", Activation::Silu),
    ("gelu_pytorch_tanh", Activation::GeluTanh),
    ("gelu_new", Activation::GeluTanh),
];

/// Fields that change what a model computes, and that no family supports, or only the families that read them:
/// elsewhere they must be off.
const OFF: [&str; 15] = [
    "num_local_experts",
    "num_experts",
    "n_routed_experts",
    "moe_intermediate_size",
    "alibi",
    "clip_qkv",
    "attention_sinks",
    "use_attention_sinks",
    "attention_chunk_size",
    "attn_temperature_tuning",
    "use_bidirectional_attention",
    "use_parallel_residual",
    "lm_head_bias",
    "attn_logit_softcapping",
    "final_logit_softcapping",
];
/// As [`OFF`], for fields that are off at 1.
const ONE: [&str; 6] = [
    "embedding_multiplier",
    "residual_multiplier",
    "attention_multiplier",
    "logits_scaling",
    "logit_scale",
    "scale_emb",
];

/// A parsed config.json.
pub(crate) struct Config {
    map: Map<String, Value>,
}

/// A model as config.json describes it.
pub(crate) struct Model {
    /// Its numbers and switches.
    pub spec: ModelSpec,
    /// Its entry in the table.
    pub family: &'static Family,
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

    /// The model as numbers and switches; None if any problem was noted.
    pub fn resolve(&self, problems: &Problems) -> Option<Model> {
        let before = problems.len();
        let outer = self.fields(problems);
        let family = family(outer)?;
        quantization(outer);
        let fields = match family.within {
            Some(object) => outer.required(object, "the object of the text model", outer.object(object))?,
            None => outer,
        };
        if let Some(kind) = fields.text("model_type").filter(|_| family.within.is_some())
            && FAMILIES.iter().all(|f| f.model_type != kind)
        {
            let got = format!("of text model_type '{kind}'");
            fields.problem(What::Architecture { got, expected: families::classes() });
        }
        off(fields, family);
        let spec = spec(outer, fields, family);
        if problems.len() == before
            && let Err(FormatError::Spec { field, got, expected }) = spec.check()
        {
            problems.file(CONFIG, What::Field { field: config_field(field).to_string(), got, expected });
        }
        (problems.len() == before).then_some(Model { spec, family })
    }
}

/// The family of the model; None if it is unknown, and then nothing else is checked.
fn family(fields: Fields) -> Option<&'static Family> {
    let kind = fields.text("model_type");
    let unknown = |got: String| -> Option<&'static Family> {
        fields.problem(What::Architecture { got, expected: families::classes() });
        None
    };
    let found = match fields.get("architectures") {
        Some(value) => {
            let Some(classes) = fields.texts("architectures") else {
                // The wrong type is noted already.
                return None;
            };
            let family_of = |class: &&str| FAMILIES.iter().find(|family| family.classes.contains(class));
            match classes.iter().find_map(family_of) {
                Some(family) => family,
                None if classes.is_empty() => return unknown(format!("of no class: architectures is {value}")),
                None => return unknown(classes.join(", ")),
            }
        }
        None => match kind {
            Some(kind) => match FAMILIES.iter().find(|family| family.model_type == kind) {
                Some(family) => family,
                None => return unknown(format!("of model_type '{kind}'")),
            },
            None => return unknown("of no class: architectures and model_type are missing".into()),
        },
    };
    match kind {
        Some(kind) if kind != found.model_type => unknown(format!("of model_type '{kind}'")),
        _ => Some(found),
    }
}

fn quantization(fields: Fields) {
    for field in ["quantization_config", "compression_config"] {
        if let Some(inner) = fields.object(field) {
            let method = inner.text("quant_method").unwrap_or("quant_method is not given");
            fields.problem(What::Quantized { method: method.to_string() });
        }
    }
}

/// Notes every field that asks for arithmetic which this family does not support.
fn off(fields: Fields, family: &Family) {
    let neutral = |value: &Value, one: bool| match value {
        Value::Bool(on) => !on,
        Value::Number(n) => n.as_f64().is_some_and(|x| if one { x == 1.0 } else { x == 0.0 }),
        Value::Array(all) => all.is_empty(),
        _ => false,
    };
    for (list, one, expected) in [(&OFF[..], false, "nothing, false or 0"), (&ONE[..], true, "nothing or 1")] {
        for &field in list.iter().filter(|field| !family.reads.contains(field)) {
            if let Some(value) = fields.get(field).filter(|value| !neutral(value, one)) {
                fields.unsupported(field, value, format!("{expected} in a model of this family"));
            }
        }
    }
    if let Some(kind) = fields.text("position_embedding_type").filter(|kind| !["rope", "rotary"].contains(kind)) {
        fields.unsupported("position_embedding_type", kind, "rope");
    }
    if fields.flag("is_causal") == Some(false) {
        fields.unsupported("is_causal", false, "true");
    }
}

/// The model. Missing sizes are noted and become 0, so that every field is checked, whatever is wrong with others.
fn spec(outer: Fields, fields: Fields, family: &Family) -> ModelSpec {
    let defaults = &family.defaults;
    let size = |field, default: Option<usize>| {
        let found = fields.size(field).or(default);
        if found == Some(0) {
            fields.wrong(field, 0, ABOVE_0);
        }
        fields.required(field, ABOVE_0, found).unwrap_or(0)
    };
    let hidden_size = size("hidden_size", None);
    let n_heads = size("num_attention_heads", defaults.n_heads);
    let (intermediate_size, n_layers) = (size("intermediate_size", None), size("num_hidden_layers", None));
    let vocab_size = size("vocab_size", defaults.vocab_size);
    // An explicit null means: derive it from the other sizes.
    let given = |field, default: Option<usize>| fields.size(field).or(default.filter(|_| !fields.is_null(field)));
    let head_dim =
        given("head_dim", defaults.head_dim).unwrap_or_else(|| derived_head_dim(fields, hidden_size, n_heads));
    let n_kv_heads = given("num_key_value_heads", defaults.n_kv_heads).unwrap_or(n_heads);
    let context_length = fields.size("max_position_embeddings").unwrap_or(defaults.context_length);
    let source = rope::Source {
        outer: fields,
        inner: if family.rope == Form::ByLayer { rope::of_layers(fields, layers::FULL) } else { rope::flat(fields) },
        theta: "rope_theta",
        default_theta: defaults.rope_theta,
        default_original: defaults.original_context,
        form: family.rope,
        context_length,
        head_dim,
    };
    let rope = source.read().unwrap_or(ModelSpec::default().rope);
    let has = |part| family.modules.iter().flat_map(|group| group.iter()).any(|(parts, _)| parts.contains(&part));
    let mut spec = ModelSpec {
        hidden_size,
        intermediate_size,
        n_layers,
        n_heads,
        n_kv_heads,
        head_dim,
        vocab_size,
        context_length: rope::stretched(&rope, context_length),
        norm_eps: fields.number("rms_norm_eps").unwrap_or(defaults.norm_eps),
        rope,
        activation: activation(fields, defaults.activation),
        tied_lm_head: outer.flag("tie_word_embeddings").unwrap_or(defaults.tied),
        pre_norm: has(Part::AttnNorm),
        post_norm: has(Part::AttnPostNorm),
        ..ModelSpec::default()
    };
    if n_layers > MAX_LAYERS {
        fields.wrong("num_hidden_layers", n_layers, format!("at most {MAX_LAYERS}"));
    } else {
        (family.switches)(fields, &mut spec);
    }
    if let (Form::ByLayer, Some(window)) = (family.rope, &mut spec.window) {
        let inner = rope::of_layers(fields, SLIDING);
        window.rope = rope::Source { inner, theta: "rope_local_base_freq", default_theta: 1e4, ..source }.read();
    }
    simplify(&mut spec);
    spec
}

/// `hidden_size / n_heads`; 0 if either is missing.
fn derived_head_dim(fields: Fields, hidden_size: usize, n_heads: usize) -> usize {
    if n_heads == 0 {
        return 0;
    }
    if !hidden_size.is_multiple_of(n_heads) {
        let expected = format!("a divisor of hidden_size, {hidden_size}, where head_dim is not given");
        fields.wrong("num_attention_heads", n_heads, expected);
    }
    hidden_size / n_heads
}

fn activation(fields: Fields, (field, default): (&str, &str)) -> Activation {
    let name = fields.text(field).unwrap_or(default);
    let entry = ACTIVATIONS.iter().find(|(known, _)| *known == name);
    entry.map(|(_, activation)| *activation).unwrap_or_else(|| {
        fields.unsupported(field, name, ACTIVATIONS.map(|(name, _)| name).join(", "));
        Activation::Silu
    })
}

/// The field of config.json that a number of the spec comes from.
fn config_field(field: &str) -> &str {
    match field {
        "n_layers" => "num_hidden_layers",
        "n_heads" => "num_attention_heads",
        "n_kv_heads" => "num_key_value_heads",
        "context_length" => "max_position_embeddings",
        "norm_eps" => "rms_norm_eps",
        "window.size" => "sliding_window",
        "attn_scale" => "the attention scale (query_pre_attn_scalar or attention_multiplier)",
        "attn_softcap" => "attn_logit_softcapping",
        "logit_softcap" => "final_logit_softcapping",
        "embed_scale" => "embedding_multiplier",
        "residual_scale" => "residual_multiplier",
        "logit_divisor" => "logits_scaling",
        "rope.theta" => "rope_theta",
        "rope.rotary_dim" => "partial_rotary_factor",
        "rope.scaling.factor" => "rope factor",
        "rope.scaling.original_context" => "original_max_position_embeddings",
        same => same.strip_prefix("rope.scaling.").unwrap_or(same),
    }
}
