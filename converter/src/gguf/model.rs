//! The model's numbers and switches, from the metadata of a GGUF file and the tensors that it has.

use crate::error::{Problems, What};
use crate::gguf::architectures::{ARCHITECTURES, Architecture};
use crate::gguf::keys::{Keys, name_of};
use crate::gguf::rope;
use crate::gguf::tensors::{self, Tensors};
use crate::simplify::simplify;
use nanoserve_format::schema::Part;
use nanoserve_format::{FormatError, ModelSpec};

/// More than any model has: a few bytes must not ask for long lists of layers.
const MAX_LAYERS: usize = 1024;

/// The model's own keys that change nothing, or repeat what the tensors say.
const NEUTRAL: [&str; 4] = ["vocab_size", "tensor_data_layout", "rope.scaling.finetuned", "attention.causal"];

/// The model's own keys that must be 0 or absent: they ask for other arithmetic.
const OFF: [&str; 3] = ["expert_count", "expert_used_count", "pooling_type"];

/// A model as its file describes it.
pub(crate) struct Model {
    pub spec: ModelSpec,
    pub architecture: &'static Architecture,
}

/// Reads the model; None if any problem was noted.
pub(crate) fn read(keys: &Keys, tensors: &Tensors, problems: &Problems) -> Option<Model> {
    let before = problems.len();
    let Some(architecture) = ARCHITECTURES.iter().find(|a| a.name == keys.architecture) else {
        let got = match keys.architecture.as_str() {
            "" => "of no architecture: general.architecture is missing".to_string(),
            other => format!("of architecture '{other}'"),
        };
        let expected = ARCHITECTURES.iter().map(|a| a.name).collect();
        problems.file(tensors.listing(), What::Architecture { got, expected });
        return None;
    };
    let spec = spec(keys, architecture, tensors);
    off(keys);
    if problems.len() == before
        && let Err(FormatError::Spec { field, got, expected }) = spec.check()
    {
        let field = key_of(field).map_or(field.to_string(), |key| keys.own(key));
        problems.file(tensors.listing(), What::Field { field, got, expected });
    }
    (problems.len() == before).then_some(Model { spec, architecture })
}

fn spec(keys: &Keys, architecture: &Architecture, tensors: &Tensors) -> ModelSpec {
    let own = |name: &str| keys.own(name);
    let size = |name: &str| keys.required(&own(name), "a whole number above 0", keys.size(&own(name))).unwrap_or(0);
    let hidden_size = size("embedding_length");
    let n_heads = size("attention.head_count");
    let (intermediate_size, n_layers) = (size("feed_forward_length"), size("block_count"));
    let head_dim = keys.size(&own("attention.key_length")).unwrap_or_else(|| hidden_size / n_heads.max(1));
    if let Some(width) = keys.size(&own("attention.value_length")).filter(|&width| width != head_dim) {
        keys.unsupported(&own("attention.value_length"), width, format!("the width of a key, {head_dim}"));
    }
    let eps = own("attention.layer_norm_rms_epsilon");
    let context_length = size("context_length");
    let rope = rope::read(keys, architecture, tensors, head_dim, context_length);
    let has = |part| architecture.tensors.iter().flat_map(|group| group.iter()).any(|(parts, _)| parts.contains(&part));
    // The first layer tells which biases there are; tensors.rs demands the same of all.
    let biased = |part| tensors.has(&tensors::bias(architecture, part, 0));
    let mut spec = ModelSpec {
        hidden_size,
        intermediate_size,
        n_layers,
        n_heads,
        n_kv_heads: keys.size(&own("attention.head_count_kv")).unwrap_or(n_heads),
        head_dim,
        vocab_size: tensors.rows(tensors::EMBED).unwrap_or(0),
        context_length: rope::stretched(&rope, context_length),
        norm_eps: keys.required(&eps, "a number", keys.number(&eps)).unwrap_or(0.0),
        rope,
        qkv_bias: biased(Part::Q),
        attn_out_bias: biased(Part::O),
        mlp_bias: biased(Part::Up),
        tied_lm_head: !tensors.has(tensors::HEAD),
        pre_norm: has(Part::AttnNorm),
        post_norm: has(Part::AttnPostNorm),
        ..ModelSpec::default()
    };
    if n_layers > MAX_LAYERS {
        keys.wrong(&own("block_count"), n_layers, format!("at most {MAX_LAYERS}"));
    } else {
        (architecture.switches)(keys, &mut spec);
    }
    simplify(&mut spec);
    spec
}

/// Refuses every key of the model's own that is not understood: it may change what the model computes.
fn off(keys: &Keys) {
    for name in OFF {
        let key = keys.own(name);
        if let Some(n) = keys.size(&key).filter(|&n| n != 0) {
            keys.unsupported(&key, n, "nothing or 0 in a model of this architecture");
        }
    }
    if keys.flag(&keys.own("attention.causal")) == Some(false) {
        keys.unsupported(&keys.own("attention.causal"), false, "true");
    }
    let prefix = keys.own("");
    let unknown: Vec<_> = keys.unread().collect();
    for (key, value) in unknown {
        if key.strip_prefix(prefix.as_str()).is_some_and(|name| !NEUTRAL.contains(&name)) {
            keys.unsupported(key, name_of(value), "no key that is not known: it may change what the model computes");
        }
    }
}

/// The model's own key that a number of the description comes from.
fn key_of(field: &str) -> Option<&'static str> {
    Some(match field {
        "hidden_size" => "embedding_length",
        "intermediate_size" => "feed_forward_length",
        "n_layers" => "block_count",
        "n_heads" => "attention.head_count",
        "n_kv_heads" => "attention.head_count_kv",
        "head_dim" => "attention.key_length",
        "context_length" => "context_length",
        "norm_eps" => "attention.layer_norm_rms_epsilon",
        "window.size" => "attention.sliding_window",
        "attn_scale" => "attention.scale",
        "attn_softcap" => "attn_logit_softcapping",
        "logit_softcap" => "final_logit_softcapping",
        "embed_scale" => "embedding_scale",
        "residual_scale" => "residual_scale",
        "logit_divisor" => "logit_scale",
        "rope.theta" => "rope.freq_base",
        "rope.rotary_dim" => "rope.dimension_count",
        "rope.scaling.factor" => "rope.scaling.factor",
        "rope.scaling.original_context" => "rope.scaling.original_context_length",
        _ => return None,
    })
}
