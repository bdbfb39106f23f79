//! Old and new forms of config.json, and what is refused in it.

use super::*;
use crate::error::Problems;
use crate::hf::config::Config;
use nanoserve_format::{ModelSpec, Rope, RopeScaling};

fn base() -> Value {
    json!({"architectures": ["LlamaForCausalLM"], "hidden_size": 64, "intermediate_size": 96,
        "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 32})
}

/// The model that a config.json describes, or all its problems.
pub(super) fn resolve(config: Value) -> Result<ModelSpec, Vec<What>> {
    let problems = Problems::default();
    let model = Config::parse(config.to_string().as_bytes(), &problems).unwrap().resolve(&problems);
    match problems.none() {
        Ok(()) => Ok(model.unwrap().spec),
        Err(ConvertError::Problems(all)) => {
            assert!(model.is_none());
            Err(all.into_iter().map(|p| p.what).collect())
        }
        Err(other) => panic!("{other}"),
    }
}

/// The fields that are noted as problems, of any kind.
pub(super) fn fields(config: Value) -> Vec<String> {
    let field = |what: &What| match what {
        What::Field { field, .. } | What::Unsupported { field, .. } => field.clone(),
        other => format!("{other}"),
    };
    resolve(config).unwrap_err().iter().map(field).collect()
}

fn changed(changes: Value) -> Value {
    let mut config = base();
    config.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    config
}

fn with(changes: Value) -> Result<ModelSpec, Vec<What>> {
    resolve(changed(changes))
}

fn wrong(changes: Value) -> Vec<String> {
    fields(changed(changes))
}

#[test]
fn absent_fields_have_their_defaults() {
    let spec = with(json!({})).unwrap();
    let expected = ModelSpec {
        hidden_size: 64,
        intermediate_size: 96,
        n_layers: 2,
        n_heads: 4,
        n_kv_heads: 4,
        head_dim: 16,
        vocab_size: 32,
        norm_eps: 1e-6,
        ..ModelSpec::default()
    };
    assert_eq!(spec, expected);
    let nulls = json!({"head_dim": null, "num_key_value_heads": null, "rope_scaling": null, "rope_parameters": {}});
    assert_eq!(with(nulls).unwrap(), expected);
    assert_eq!(with(json!({"hidden_act": "swish", "pretraining_tp": 2, "sliding_window": 7})).unwrap(), expected);
    assert_eq!(with(json!({"architectures": null, "model_type": "llama"})).unwrap(), expected);
    assert_eq!(with(json!({"architectures": ["LlamaModel"]})).unwrap(), expected);
}

#[test]
fn switches() {
    let spec = with(json!({"attention_bias": true, "mlp_bias": true, "tie_word_embeddings": true})).unwrap();
    assert!(spec.qkv_bias && spec.attn_out_bias && spec.mlp_bias && spec.tied_lm_head);
    let spec = with(json!({"head_dim": 24, "num_key_value_heads": 2, "max_position_embeddings": 99})).unwrap();
    assert_eq!((spec.head_dim, spec.n_kv_heads, spec.context_length), (24, 2, 99));
}

#[test]
fn rope_in_every_form() {
    let rope = |changes| with(changes).unwrap().rope;
    let linear = |theta| Rope { theta, rotary_dim: None, scaling: RopeScaling::Linear { factor: 4.0 } };
    assert_eq!(
        rope(json!({"rope_theta": 5e5})),
        Rope { theta: 5e5, rotary_dim: None, scaling: RopeScaling::Default {} }
    );
    assert_eq!(rope(json!({"rope_scaling": {"type": "linear", "factor": 4}})), linear(1e4));
    assert_eq!(rope(json!({"rope_theta": 7, "rope_scaling": {"rope_type": "linear", "factor": 4.0}})), linear(7.0));
    assert_eq!(rope(json!({"rope_parameters": {"rope_type": "linear", "rope_theta": 7, "factor": 4.0}})), linear(7.0));
    assert_eq!(rope(json!({"rope_parameters": {"rope_type": "default"}})).theta, 1e4);
    let llama3 = json!({"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192});
    let scaling =
        RopeScaling::Llama3 { factor: 32.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_context: 8192 };
    assert_eq!(
        rope(json!({"rope_scaling": llama3, "rope_theta": 5e5})),
        Rope { theta: 5e5, rotary_dim: None, scaling }
    );
}

#[test]
fn everything_wrong_is_in_one_report() {
    let several = json!({"hidden_size": null, "vocab_size": "many", "hidden_act": "gelu",
        "rope_scaling": {"rope_type": "llama3", "factor": 8.0}});
    let expected =
        ["hidden_size", "vocab_size", "rope_scaling.low_freq_factor", "rope_scaling.high_freq_factor", "hidden_act"];
    assert_eq!(wrong(several), expected);
}

#[test]
fn what_is_not_supported_is_named() {
    for kind in ["su", "mrope", "proportional"] {
        for field in ["type", "rope_type"] {
            let all = with(json!({"rope_scaling": {field: kind, "factor": 2.0}})).unwrap_err();
            assert!(matches!(&all[..], [What::Unsupported { got, .. }] if got == kind), "{all:?}");
        }
    }
    assert_eq!(wrong(json!({"rope_scaling": {"factor": 2.0}})), ["rope_scaling.rope_type"]);
    assert_eq!(wrong(json!({"rope_scaling": {"type": "linear"}})), ["rope_scaling.factor"]);
    assert_eq!(wrong(json!({"rope_parameters": {"full_attention": {"rope_theta": 1}}})), ["rope_parameters.rope_type"]);
    assert_eq!(wrong(json!({"partial_rotary_factor": 0.5})), ["partial_rotary_factor"]);
    assert_eq!(wrong(json!({"num_attention_heads": 5})), ["num_attention_heads"]);
    assert_eq!(wrong(json!({"num_key_value_heads": 3})), ["num_key_value_heads"]);
    assert_eq!(wrong(json!({"rms_norm_eps": -1.0})), ["rms_norm_eps"]);
    for (changes, name) in [
        (json!({"architectures": ["MixtralForCausalLM"]}), "MixtralForCausalLM"),
        (json!({"model_type": "qwen2"}), "of model_type 'qwen2'"),
        (json!({"architectures": null, "model_type": "qwen2_moe"}), "of model_type 'qwen2_moe'"),
    ] {
        let all = with(changes).unwrap_err();
        assert!(matches!(&all[..], [What::Architecture { got, .. }] if got == name), "{all:?}");
    }
    let all = with(json!({"quantization_config": {"quant_method": "awq"}})).unwrap_err();
    assert!(matches!(&all[..], [What::Quantized { method }] if method == "awq"), "{all:?}");
}
