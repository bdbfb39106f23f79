//! The metadata of a model, and its tensors of RoPE factors: what model.rs and rope.rs read, written.
//!
//! Nothing here knows which model fits which architecture: mod.rs reads back what this writes, and compares.

use crate::gguf::architectures::Architecture;
use crate::gguf::export::head::{Keys, Meta};
use crate::gguf::rope;
use nanoserve_format::{GenerationDefaults, ModelSpec, Provenance, RopeScaling};

/// The keys of the model's own.
pub(super) fn model(spec: &ModelSpec, architecture: &Architecture) -> Keys {
    let mut keys = vec![("general.architecture".to_string(), Meta::Text(architecture.name.to_string()))];
    let mut put = |name: &str, value: Meta| keys.push((format!("{}.{name}", architecture.name), value));
    let sizes = [
        ("context_length", spec.context_length),
        ("embedding_length", spec.hidden_size),
        ("block_count", spec.n_layers),
        ("feed_forward_length", spec.intermediate_size),
        ("attention.head_count", spec.n_heads),
        ("attention.head_count_kv", spec.n_kv_heads),
        ("attention.key_length", spec.head_dim),
        ("attention.value_length", spec.head_dim),
        ("rope.dimension_count", spec.rope.rotary_dim.unwrap_or(spec.head_dim)),
        ("vocab_size", spec.vocab_size),
    ];
    for (name, size) in sizes {
        put(name, Meta::U32(size as u32));
    }
    put("attention.layer_norm_rms_epsilon", Meta::F32(spec.norm_eps as f32));
    put("rope.freq_base", Meta::F32(spec.rope.theta as f32));
    if let Some(window) = &spec.window {
        put("attention.sliding_window", Meta::U32(window.size as u32));
        if let Some(rope) = &window.rope {
            put("rope.freq_base_swa", Meta::F32(rope.theta as f32));
        }
    }
    if let Some(cap) = spec.attn_softcap {
        put("attn_logit_softcapping", Meta::F32(cap as f32));
    }
    if let Some(cap) = spec.logit_softcap {
        put("final_logit_softcapping", Meta::F32(cap as f32));
    }
    // Elsewhere these follow from the architecture.
    if architecture.name == "granite" {
        put("embedding_scale", Meta::F32(spec.embed_scale as f32));
        put("residual_scale", Meta::F32(spec.residual_scale as f32));
        put("logit_scale", Meta::F32(spec.logit_divisor as f32));
        if let Some(scale) = spec.attn_scale {
            put("attention.scale", Meta::F32(scale as f32));
        }
    }
    let mut scaling = |name: &str, value: Meta| put(&format!("rope.scaling.{name}"), value);
    match spec.rope.scaling {
        RopeScaling::Linear { factor } => {
            scaling("type", Meta::Text("linear".to_string()));
            scaling("factor", Meta::F32(factor as f32));
        }
        RopeScaling::Yarn { factor, original_context, beta_fast, beta_slow, .. } => {
            scaling("type", Meta::Text("yarn".to_string()));
            scaling("factor", Meta::F32(factor as f32));
            scaling("original_context_length", Meta::U32(original_context as u32));
            scaling("yarn_beta_fast", Meta::F32(beta_fast as f32));
            scaling("yarn_beta_slow", Meta::F32(beta_slow as f32));
        }
        RopeScaling::LongRope { original_context, attention_factor, .. } if one_table(spec).is_none() => {
            scaling("original_context_length", Meta::U32(original_context as u32));
            scaling("attn_factor", Meta::F32(attention_factor as f32));
        }
        // The first two are tensors; the last has no form in GGUF.
        RopeScaling::Llama3 { .. } | RopeScaling::LongRope { .. } | RopeScaling::Dynamic { .. } => {}
        RopeScaling::Default {} => {}
    }
    keys
}

/// The tensors of RoPE factors, `[rotated pairs]` each.
pub(super) fn factors(spec: &ModelSpec) -> Vec<(&'static str, Vec<f32>)> {
    let narrow = |all: &[f64]| all.iter().map(|&x| x as f32).collect();
    match &spec.rope.scaling {
        &RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
            let (theta, width) = (spec.rope.theta, spec.head_dim);
            let all = rope::llama3(factor, low_freq_factor, high_freq_factor, original_context, theta, width);
            vec![(rope::FREQS, narrow(&all))]
        }
        RopeScaling::LongRope { short_factor, long_factor, .. } => match one_table(spec) {
            Some(all) => vec![(rope::FREQS, narrow(all))],
            None => vec![(rope::SHORT, narrow(short_factor)), (rope::LONG, narrow(long_factor))],
        },
        _ => Vec::new(),
    }
}

/// The factors of a model that has the same for texts of every length, and no others.
fn one_table(spec: &ModelSpec) -> Option<&[f64]> {
    match &spec.rope.scaling {
        RopeScaling::LongRope { short_factor, long_factor, original_context, attention_factor } => {
            let one = short_factor == long_factor && *attention_factor == 1.0;
            (one && *original_context == spec.context_length).then_some(short_factor)
        }
        _ => None,
    }
}

/// Where the model comes from, and how it likes to be sampled. `name` is what it is called where nothing says so.
pub(super) fn general(origin: &Provenance, generation: &GenerationDefaults, name: &str) -> Keys {
    let mut keys = Keys::new();
    let mut text = |key: &str, value: Option<&str>| {
        keys.extend(value.map(|value| (format!("general.{key}"), Meta::Text(value.to_string()))));
    };
    let repository = origin.repository.as_deref();
    let last = repository.and_then(|full| full.rsplit('/').next());
    let address = repository.map(|full| format!("https://huggingface.co/{full}"));
    text("type", Some("model"));
    text("name", origin.name.as_deref().or(last).or(Some(name)));
    text("quantized_by", origin.quantized_by.as_deref());
    text("license", origin.license.as_deref());
    text("source.url", origin.source_url.as_deref().or(address.as_deref()));
    let mut sampling = |key: &str, value: Option<Meta>| {
        keys.extend(value.map(|value| (format!("general.sampling.{key}"), value)));
    };
    sampling("top_k", generation.top_k.map(Meta::U32));
    sampling("top_p", generation.top_p.map(|p| Meta::F32(p as f32)));
    sampling("min_p", generation.min_p.map(|p| Meta::F32(p as f32)));
    sampling("temp", generation.temperature.map(|t| Meta::F32(t as f32)));
    keys
}
