//! The families of models that can be converted, as one table: the names of each, how its checkpoint is laid out, and
//! which fields of config.json become which switches. What an entry does not say is the same for all of them.
//! docs/adding-a-model.md shows how one is added.

use crate::hf::config::ACTIVATIONS;
use crate::hf::json::Fields;
use crate::hf::layers;
use crate::hf::rope::{self, Form};
use nanoserve_format::schema::Part;
use nanoserve_format::{ModelSpec, QkNorm};
use serde::Serialize;
use std::fmt;

/// A module of a layer: the parts it holds, one after the other by rows, and its name.
pub(crate) type Module = (&'static [Part], &'static str);

/// A family of models.
pub(crate) struct Family {
    /// Its usual name.
    pub name: &'static str,
    /// Some of its models.
    pub models: &'static str,
    /// Its classes: with a head and without one, though the checkpoint of the latter may still hold it.
    pub classes: &'static [&'static str],
    /// Its `model_type`.
    pub model_type: &'static str,
    /// The object of config.json that holds the text model; None if that is config.json itself.
    pub within: Option<&'static str>,
    /// Prefixes of the keys, each with the key of the head; the first prefix that any key has is used.
    pub prefixes: &'static [(&'static str, &'static str)],
    /// Beginnings of keys that are left out on purpose.
    pub left_out: &'static [&'static str],
    /// The modules of a layer.
    pub modules: &'static [&'static [Module]],
    /// Norms multiply by 1 plus the stored weight.
    pub norm_plus_one: bool,
    /// The form of its rotary embedding.
    pub rope: Form,
    /// The values of absent fields.
    pub defaults: Defaults,
    /// Fields that it reads and that families which do not read them refuse.
    pub reads: &'static [&'static str],
    /// Sets the remaining switches from config.json.
    pub switches: fn(Fields, &mut ModelSpec),
}

/// The values that transformers takes for absent fields. Sizes without a value here must be given.
pub(crate) struct Defaults {
    pub n_heads: Option<usize>,
    /// None: as many as heads.
    pub n_kv_heads: Option<usize>,
    /// None: `hidden_size / n_heads`.
    pub head_dim: Option<usize>,
    pub vocab_size: Option<usize>,
    pub context_length: usize,
    /// Positions of the first training; None: those that the model was made for.
    pub original_context: Option<usize>,
    pub norm_eps: f64,
    pub rope_theta: f64,
    pub tied: bool,
    /// The field of the activation, and its value.
    pub activation: (&'static str, &'static str),
}

const ATTENTION: &[Module] = &[
    (&[Part::Q], "self_attn.q_proj"),
    (&[Part::K], "self_attn.k_proj"),
    (&[Part::V], "self_attn.v_proj"),
    (&[Part::O], "self_attn.o_proj"),
];
const FUSED_ATTENTION: &[Module] =
    &[(&[Part::Q, Part::K, Part::V], "self_attn.qkv_proj"), (&[Part::O], "self_attn.o_proj")];
const QK_NORMS: &[Module] = &[(&[Part::QNorm], "self_attn.q_norm"), (&[Part::KNorm], "self_attn.k_norm")];
const MLP: &[Module] =
    &[(&[Part::Gate], "mlp.gate_proj"), (&[Part::Up], "mlp.up_proj"), (&[Part::Down], "mlp.down_proj")];
const FUSED_MLP: &[Module] = &[(&[Part::Gate, Part::Up], "mlp.gate_up_proj"), (&[Part::Down], "mlp.down_proj")];
const NORMS_BEFORE: &[Module] =
    &[(&[Part::AttnNorm], "input_layernorm"), (&[Part::MlpNorm], "post_attention_layernorm")];
const NORMS_AFTER: &[Module] =
    &[(&[Part::AttnPostNorm], "post_attention_layernorm"), (&[Part::MlpPostNorm], "post_feedforward_layernorm")];
const NORMS_AROUND: &[Module] = &[
    (&[Part::AttnNorm], "input_layernorm"),
    (&[Part::AttnPostNorm], "post_attention_layernorm"),
    (&[Part::MlpNorm], "pre_feedforward_layernorm"),
    (&[Part::MlpPostNorm], "post_feedforward_layernorm"),
];

/// What every family starts from.
const LLAMA: Family = Family {
    name: "Llama",
    models: "Llama 1 to 3.3, TinyLlama, SmolLM2, DeepSeek-R1-Distill-Llama",
    classes: &["LlamaForCausalLM", "LlamaModel"],
    model_type: "llama",
    within: None,
    prefixes: &[("model.", "lm_head.weight"), ("", "lm_head.weight")],
    left_out: &[],
    modules: &[ATTENTION, MLP, NORMS_BEFORE],
    norm_plus_one: false,
    rope: Form::Whole,
    defaults: Defaults {
        n_heads: None,
        n_kv_heads: None,
        head_dim: None,
        vocab_size: None,
        context_length: 2048,
        original_context: None,
        norm_eps: 1e-6,
        rope_theta: 1e4,
        tied: false,
        activation: ("hidden_act", "silu"),
    },
    reads: &[],
    switches: llama,
};

const GEMMA2: Family = Family {
    name: "Gemma 2",
    models: "Gemma 2 2B, 9B, 27B",
    classes: &["Gemma2ForCausalLM", "Gemma2Model"],
    model_type: "gemma2",
    modules: &[ATTENTION, MLP, NORMS_AROUND],
    norm_plus_one: true,
    defaults: Defaults {
        n_kv_heads: Some(4),
        head_dim: Some(256),
        context_length: 8192,
        tied: true,
        activation: ("hidden_activation", "gelu_pytorch_tanh"),
        ..LLAMA.defaults
    },
    reads: &["attn_logit_softcapping", "final_logit_softcapping"],
    switches: gemma2,
    ..LLAMA
};

const GEMMA3: Family = Family {
    name: "Gemma 3",
    models: "Gemma 3 270M and 1B",
    classes: &["Gemma3ForCausalLM", "Gemma3TextModel"],
    model_type: "gemma3_text",
    modules: &[ATTENTION, QK_NORMS, MLP, NORMS_AROUND],
    rope: Form::ByLayer,
    defaults: Defaults { context_length: 131_072, rope_theta: 1e6, ..GEMMA2.defaults },
    reads: &["final_logit_softcapping"],
    switches: gemma3,
    ..GEMMA2
};

/// The table.
pub(crate) const FAMILIES: &[Family] = &[
    LLAMA,
    Family {
        name: "Mistral",
        models: "Mistral 7B v0.1 to v0.3, Mistral Nemo, Mistral Small 24B",
        classes: &["MistralForCausalLM", "MistralModel"],
        model_type: "mistral",
        defaults: Defaults { n_kv_heads: Some(8), context_length: 131_072, ..LLAMA.defaults },
        switches: |fields, spec| layers::all_or_none(fields, spec, layers::size(fields, Some(4096))),
        ..LLAMA
    },
    Family {
        name: "Qwen2",
        models: "Qwen2 and Qwen2.5, 0.5B to 72B, Qwen2.5-Coder, QwQ-32B",
        classes: &["Qwen2ForCausalLM", "Qwen2Model"],
        model_type: "qwen2",
        defaults: Defaults { n_kv_heads: Some(32), context_length: 32_768, ..LLAMA.defaults },
        switches: |fields, spec| {
            spec.qkv_bias = true;
            layers::upper(fields, spec);
        },
        ..LLAMA
    },
    Family {
        name: "Qwen3",
        models: "Qwen3, the dense ones, 0.6B to 32B",
        classes: &["Qwen3ForCausalLM", "Qwen3Model"],
        model_type: "qwen3",
        modules: &[ATTENTION, QK_NORMS, MLP, NORMS_BEFORE],
        defaults: Defaults { n_kv_heads: Some(32), head_dim: Some(128), context_length: 32_768, ..LLAMA.defaults },
        switches: |fields, spec| {
            attention_bias(fields, spec);
            spec.qk_norm = QkNorm::Head;
            layers::upper(fields, spec);
        },
        ..LLAMA
    },
    Family {
        name: "Phi-3",
        models: "Phi-3-mini, Phi-3-medium, Phi-3.5-mini, Phi-4, Phi-4-mini",
        classes: &["Phi3ForCausalLM", "Phi3Model"],
        model_type: "phi3",
        modules: &[FUSED_ATTENTION, FUSED_MLP, NORMS_BEFORE],
        rope: Form::Partial,
        defaults: Defaults { context_length: 4096, original_context: Some(4096), norm_eps: 1e-5, ..LLAMA.defaults },
        switches: |fields, spec| layers::all_or_none(fields, spec, layers::size(fields, None)),
        ..LLAMA
    },
    GEMMA2,
    GEMMA3,
    Family {
        name: "Gemma 3, its text model",
        models: "Gemma 3 4B, 12B, 27B without their vision tower",
        classes: &["Gemma3ForConditionalGeneration"],
        model_type: "gemma3",
        within: Some("text_config"),
        prefixes: &[
            ("language_model.model.", "language_model.lm_head.weight"),
            ("model.language_model.", "lm_head.weight"),
        ],
        left_out: &["vision_tower.", "multi_modal_projector.", "model.vision_tower.", "model.multi_modal_projector."],
        // The published files omit these.
        defaults: Defaults { n_heads: Some(8), vocab_size: Some(262_208), ..GEMMA3.defaults },
        ..GEMMA3
    },
    Family {
        name: "SmolLM3",
        models: "SmolLM3-3B",
        classes: &["SmolLM3ForCausalLM", "SmolLM3Model"],
        model_type: "smollm3",
        defaults: Defaults {
            n_kv_heads: Some(4),
            context_length: 32_768,
            rope_theta: 2e6,
            tied: true,
            ..LLAMA.defaults
        },
        switches: |fields, spec| {
            attention_bias(fields, spec);
            spec.mlp_bias = fields.flag("mlp_bias").unwrap_or(false);
            layers::without_rope(fields, spec);
        },
        ..LLAMA
    },
    Family {
        name: "OLMo 2",
        models: "OLMo 2 1B, 7B, 13B, 32B",
        classes: &["Olmo2ForCausalLM", "Olmo2Model"],
        model_type: "olmo2",
        modules: &[ATTENTION, QK_NORMS, MLP, NORMS_AFTER],
        defaults: Defaults { norm_eps: 1e-5, ..LLAMA.defaults },
        switches: |fields, spec| {
            attention_bias(fields, spec);
            spec.qk_norm = QkNorm::Projection;
            layers::all_or_none(fields, spec, None);
        },
        ..LLAMA
    },
    Family {
        name: "Granite 3",
        models: "Granite 3.0 to 3.3, 2B and 8B",
        classes: &["GraniteForCausalLM", "GraniteModel"],
        model_type: "granite",
        reads: &["embedding_multiplier", "residual_multiplier", "attention_multiplier", "logits_scaling"],
        switches: granite,
        ..LLAMA
    },
];

/// The classes with a head that can be converted, one for each family.
pub(crate) fn classes() -> Vec<&'static str> {
    FAMILIES.iter().map(|family| family.classes[0]).collect()
}

/// What can be converted, for people and programs. It is displayed as a table.
#[derive(Clone, Debug, Serialize)]
pub struct Supported {
    /// The families.
    pub families: Vec<SupportedFamily>,
    /// Rotary embeddings, by the name of their kind.
    pub rope_types: Vec<&'static str>,
    /// Activations.
    pub activations: Vec<&'static str>,
    /// Types of weights.
    pub weights: Vec<&'static str>,
}

/// A family that can be converted.
#[derive(Clone, Debug, Serialize)]
pub struct SupportedFamily {
    /// Its usual name.
    pub name: &'static str,
    /// The classes that `architectures` may name.
    pub classes: Vec<&'static str>,
    /// Its `model_type`.
    pub model_type: &'static str,
    /// Some of its models.
    pub models: &'static str,
}

/// What can be converted.
pub fn supported() -> Supported {
    let family = |f: &Family| SupportedFamily {
        name: f.name,
        classes: f.classes.to_vec(),
        model_type: f.model_type,
        models: f.models,
    };
    Supported {
        families: FAMILIES.iter().map(family).collect(),
        rope_types: rope::KINDS.to_vec(),
        activations: ACTIVATIONS.map(|(name, _)| name).to_vec(),
        weights: vec!["float32", "float16", "bfloat16", "float64 (rounded to float32)"],
    }
}

impl fmt::Display for Supported {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        for SupportedFamily { name, classes, models, .. } in &self.families {
            writeln!(f, "{name:<24} {:<31} {models}", classes[0])?;
        }
        writeln!(f, "\nrope types:  {}", self.rope_types.join(", "))?;
        writeln!(f, "activations: {}", self.activations.join(", "))?;
        write!(f, "weights:     {}", self.weights.join(", "))
    }
}

fn attention_bias(fields: Fields, spec: &mut ModelSpec) {
    spec.qkv_bias = fields.flag("attention_bias").unwrap_or(false);
    spec.attn_out_bias = spec.qkv_bias;
}

fn llama(fields: Fields, spec: &mut ModelSpec) {
    attention_bias(fields, spec);
    spec.mlp_bias = fields.flag("mlp_bias").unwrap_or(false);
    layers::all_or_none(fields, spec, None);
}

/// What Gemma 2 and 3 share.
fn gemma(fields: Fields, spec: &mut ModelSpec) {
    attention_bias(fields, spec);
    spec.embed_scale = (spec.hidden_size as f64).sqrt();
    spec.attn_scale = Some(1.0 / fields.number("query_pre_attn_scalar").unwrap_or(256.0).sqrt());
}

/// A softcap: `default` if the field is absent, None if it is null.
fn cap(fields: Fields, field: &str, default: Option<f64>) -> Option<f64> {
    fields.number(field).or(if fields.is_null(field) { None } else { default })
}

fn gemma2(fields: Fields, spec: &mut ModelSpec) {
    gemma(fields, spec);
    spec.attn_softcap = cap(fields, "attn_logit_softcapping", Some(50.0));
    spec.logit_softcap = cap(fields, "final_logit_softcapping", Some(30.0));
    layers::alternating(fields, spec, 2);
}

fn gemma3(fields: Fields, spec: &mut ModelSpec) {
    gemma(fields, spec);
    spec.qk_norm = QkNorm::Head;
    spec.logit_softcap = cap(fields, "final_logit_softcapping", None);
    let every = fields.size("sliding_window_pattern").unwrap_or(6);
    layers::alternating(fields, spec, every);
}

fn granite(fields: Fields, spec: &mut ModelSpec) {
    llama(fields, spec);
    let number = |field| fields.number(field).unwrap_or(1.0);
    spec.embed_scale = number("embedding_multiplier");
    spec.residual_scale = number("residual_multiplier");
    spec.logit_divisor = number("logits_scaling");
    spec.attn_scale = Some(number("attention_multiplier"));
}
