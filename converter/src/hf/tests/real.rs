//! The config.json of published models, by their published values, and the model that each must be.
//!
//! The 48 factors of Phi's longrope are made up: their number and place are what is tested.

use super::config::resolve;
use super::*;
use nanoserve_format::{Activation, ModelSpec, QkNorm, Rope, RopeScaling, Window};

fn theta(theta: f64) -> Rope {
    Rope { theta, rotary_dim: None, scaling: RopeScaling::Default {} }
}

fn is(config: Value, expected: ModelSpec) {
    assert_eq!(resolve(config).unwrap(), expected);
}

/// hidden, intermediate, layers, heads, kv heads, head_dim, vocabulary, context.
fn sizes(n: [usize; 8]) -> ModelSpec {
    ModelSpec {
        hidden_size: n[0],
        intermediate_size: n[1],
        n_layers: n[2],
        n_heads: n[3],
        n_kv_heads: n[4],
        head_dim: n[5],
        vocab_size: n[6],
        context_length: n[7],
        ..ModelSpec::default()
    }
}

#[test]
fn mistral_7b() {
    let mut config = json!({"architectures": ["MistralForCausalLM"], "bos_token_id": 1, "eos_token_id": 2,
        "hidden_act": "silu", "hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 14336,
        "max_position_embeddings": 32768, "model_type": "mistral", "num_attention_heads": 32, "num_hidden_layers": 32,
        "num_key_value_heads": 8, "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "sliding_window": 4096,
        "tie_word_embeddings": false, "torch_dtype": "bfloat16", "transformers_version": "4.34.0.dev0",
        "use_cache": true, "vocab_size": 32000});
    let v1 = sizes([4096, 14336, 32, 32, 8, 128, 32000, 32768]);
    let window = Some(Window { size: 4096, layers: (0..32).collect(), rope: None });
    is(config.clone(), ModelSpec { window, ..v1.clone() });
    // Version 0.3.
    for (field, value) in [("rope_theta", json!(1e6)), ("sliding_window", Value::Null), ("vocab_size", json!(32768))] {
        config[field] = value;
    }
    is(config, ModelSpec { rope: theta(1e6), vocab_size: 32768, ..v1 });
}

#[test]
fn qwen2_5_0_5b() {
    let config = json!({"architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 151643,
        "eos_token_id": 151643, "hidden_act": "silu", "hidden_size": 896, "initializer_range": 0.02,
        "intermediate_size": 4864, "max_position_embeddings": 32768, "max_window_layers": 24, "model_type": "qwen2",
        "num_attention_heads": 14, "num_hidden_layers": 24, "num_key_value_heads": 2, "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0, "sliding_window": 32768, "tie_word_embeddings": true, "torch_dtype": "bfloat16",
        "transformers_version": "4.40.1", "use_cache": true, "use_mrope": false, "use_sliding_window": false,
        "vocab_size": 151936});
    let expected = sizes([896, 4864, 24, 14, 2, 64, 151936, 32768]);
    is(config, ModelSpec { norm_eps: 1e-6, rope: theta(1e6), qkv_bias: true, tied_lm_head: true, ..expected });
}

#[test]
fn qwen3_0_6b() {
    let config = json!({"architectures": ["Qwen3ForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
        "bos_token_id": 151643, "eos_token_id": 151645, "head_dim": 128, "hidden_act": "silu", "hidden_size": 1024,
        "initializer_range": 0.02, "intermediate_size": 3072, "max_position_embeddings": 40960, "max_window_layers": 28,
        "model_type": "qwen3", "num_attention_heads": 16, "num_hidden_layers": 28, "num_key_value_heads": 8,
        "rms_norm_eps": 1e-06, "rope_scaling": null, "rope_theta": 1000000, "sliding_window": null,
        "tie_word_embeddings": true, "torch_dtype": "bfloat16", "use_cache": true, "use_sliding_window": false,
        "vocab_size": 151936});
    let expected = sizes([1024, 3072, 28, 16, 8, 128, 151936, 40960]);
    let (rope, qk_norm) = (theta(1e6), QkNorm::Head);
    is(config, ModelSpec { norm_eps: 1e-6, rope, qk_norm, tied_lm_head: true, ..expected });
}

#[test]
fn phi_3_5_mini_and_phi_4_mini() {
    let factors = |step: f64| (0..48).map(|i| 1.0 + step * f64::from(i)).collect::<Vec<_>>();
    let mut config = json!({"architectures": ["Phi3ForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
        "auto_map": {"AutoConfig": "configuration_phi3.Phi3Config", "AutoModelForCausalLM": "modeling_phi3.Phi3ForCausalLM"},
        "bos_token_id": 1, "embd_pdrop": 0.0, "eos_token_id": 32000, "hidden_act": "silu", "hidden_size": 3072,
        "initializer_range": 0.02, "intermediate_size": 8192, "max_position_embeddings": 131072, "model_type": "phi3",
        "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 32,
        "original_max_position_embeddings": 4096, "pad_token_id": 32000, "resid_pdrop": 0.0, "rms_norm_eps": 1e-05,
        "rope_scaling": {"long_factor": factors(1.3), "short_factor": factors(0.05), "type": "longrope"},
        "rope_theta": 10000.0, "sliding_window": 262144, "tie_word_embeddings": false, "torch_dtype": "bfloat16",
        "use_cache": true, "vocab_size": 32064});
    let attention_factor = libm::sqrt(1.0 + libm::log(32.0) / libm::log(4096.0));
    assert!((attention_factor - 1.190_238_071_423_808).abs() < 1e-15);
    let scaling = RopeScaling::LongRope {
        short_factor: factors(0.05),
        long_factor: factors(1.3),
        original_context: 4096,
        attention_factor,
    };
    let rope = Rope { theta: 1e4, rotary_dim: None, scaling };
    let expected = sizes([3072, 8192, 32, 32, 32, 96, 32064, 131072]);
    is(config.clone(), ModelSpec { rope: rope.clone(), ..expected.clone() });
    for (field, value) in [
        ("num_attention_heads", json!(24)),
        ("num_key_value_heads", json!(8)),
        ("partial_rotary_factor", json!(0.75)),
        ("tie_word_embeddings", json!(true)),
        ("vocab_size", json!(200064)),
        ("full_attn_mod", json!(1)),
        ("interpolate_factor", json!(1)),
        ("lm_head_bias", json!(false)),
        ("mlp_bias", json!(false)),
        ("bos_token_id", json!(199999)),
        ("eos_token_id", json!(199999)),
    ] {
        config[field] = value;
    }
    let rope = Rope { rotary_dim: Some(96), ..rope };
    let (n_heads, n_kv_heads, head_dim, vocab_size) = (24, 8, 128, 200064);
    is(config, ModelSpec { rope, n_heads, n_kv_heads, head_dim, vocab_size, tied_lm_head: true, ..expected });
}

#[test]
fn gemma_2_2b() {
    let config = json!({"architectures": ["Gemma2ForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
        "attn_logit_softcapping": 50.0, "bos_token_id": 2, "cache_implementation": "hybrid", "eos_token_id": 1,
        "final_logit_softcapping": 30.0, "head_dim": 256, "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 2304, "initializer_range": 0.02,
        "intermediate_size": 9216, "max_position_embeddings": 8192, "model_type": "gemma2", "num_attention_heads": 8,
        "num_hidden_layers": 26, "num_key_value_heads": 4, "pad_token_id": 0, "query_pre_attn_scalar": 256,
        "rms_norm_eps": 1e-06, "rope_theta": 10000.0, "sliding_window": 4096, "torch_dtype": "float32",
        "use_cache": true, "vocab_size": 256000});
    let expected = ModelSpec {
        norm_eps: 1e-6,
        activation: Activation::GeluTanh,
        tied_lm_head: true,
        post_norm: true,
        window: Some(Window { size: 4096, layers: (0..26).step_by(2).collect(), rope: None }),
        attn_softcap: Some(50.0),
        logit_softcap: Some(30.0),
        embed_scale: 48.0,
        ..sizes([2304, 9216, 26, 8, 4, 256, 256000, 8192])
    };
    is(config, expected);
}

/// A Gemma 3 with a window of `size` in all layers but each sixth.
fn gemma3(size: usize, global: Rope, n: [usize; 8]) -> ModelSpec {
    let layers = (0..n[2]).filter(|i| i % 6 != 5).collect();
    ModelSpec {
        norm_eps: 1e-6,
        rope: global,
        activation: Activation::GeluTanh,
        tied_lm_head: true,
        post_norm: true,
        qk_norm: QkNorm::Head,
        window: Some(Window { size, layers, rope: Some(theta(1e4)) }),
        embed_scale: (n[0] as f64).sqrt(),
        ..sizes(n)
    }
}

#[test]
fn gemma_3_1b_and_4b() {
    let config = json!({"architectures": ["Gemma3ForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
        "attn_logit_softcapping": null, "bos_token_id": 2, "cache_implementation": "hybrid", "eos_token_id": 1,
        "final_logit_softcapping": null, "head_dim": 256, "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 1152,
        "initializer_range": 0.02, "intermediate_size": 6912, "max_position_embeddings": 32768,
        "model_type": "gemma3_text", "num_attention_heads": 4, "num_hidden_layers": 26, "num_key_value_heads": 1,
        "pad_token_id": 0, "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-06, "rope_local_base_freq": 10000,
        "rope_scaling": null, "rope_theta": 1000000, "sliding_window": 512, "sliding_window_pattern": 6,
        "torch_dtype": "bfloat16", "use_cache": true, "vocab_size": 262144});
    is(config, gemma3(512, theta(1e6), [1152, 6912, 26, 4, 1, 256, 262144, 32768]));
    // The text model of 4B omits every field that equals its class's default.
    let config = json!({"architectures": ["Gemma3ForConditionalGeneration"], "boi_token_index": 255999,
        "eoi_token_index": 256000, "eos_token_id": [1, 106], "image_token_index": 262144, "initializer_range": 0.02,
        "mm_tokens_per_image": 256, "model_type": "gemma3",
        "text_config": {"hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text",
            "num_hidden_layers": 34, "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024},
        "torch_dtype": "bfloat16",
        "vision_config": {"hidden_size": 1152, "image_size": 896, "intermediate_size": 4304,
            "model_type": "siglip_vision_model", "num_attention_heads": 16, "num_hidden_layers": 27, "patch_size": 14,
            "vision_use_head": false}});
    let global = Rope { theta: 1e6, rotary_dim: None, scaling: RopeScaling::Linear { factor: 8.0 } };
    is(config, gemma3(1024, global, [2560, 10240, 34, 8, 4, 256, 262208, 131072]));
}

#[test]
fn smollm3_3b() {
    let rotates: Vec<u8> = (1..=36).map(|i| u8::from(i % 4 != 0)).collect();
    let config = json!({"architectures": ["SmolLM3ForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
        "bos_token_id": null, "eos_token_id": 128012, "hidden_act": "silu", "hidden_size": 2048,
        "initializer_range": 0.02, "intermediate_size": 11008, "layer_types": vec!["full_attention"; 36],
        "max_position_embeddings": 65536, "max_window_layers": 28, "mlp_bias": false, "model_type": "smollm3",
        "no_rope_layer_interval": 4, "no_rope_layers": rotates, "num_attention_heads": 16, "num_hidden_layers": 36,
        "num_key_value_heads": 4, "pad_token_id": 128004, "pretraining_tp": 2, "rms_norm_eps": 1e-06,
        "rope_scaling": null, "rope_theta": 5000000.0, "sliding_window": null, "torch_dtype": "bfloat16",
        "use_cache": false, "use_sliding_window": false, "vocab_size": 128256});
    let expected = ModelSpec {
        norm_eps: 1e-6,
        rope: theta(5e6),
        tied_lm_head: true,
        no_rope_layers: (3..36).step_by(4).collect(),
        ..sizes([2048, 11008, 36, 16, 4, 128, 128256, 65536])
    };
    is(config, expected);
}

#[test]
fn olmo_2_1b() {
    let config = json!({"architectures": ["Olmo2ForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
        "eos_token_id": 100257, "hidden_act": "silu", "hidden_size": 2048, "initializer_range": 0.02,
        "intermediate_size": 8192, "max_position_embeddings": 4096, "model_type": "olmo2", "num_attention_heads": 16,
        "num_hidden_layers": 16, "num_key_value_heads": 16, "pad_token_id": 100277, "rms_norm_eps": 1e-06,
        "rope_scaling": null, "rope_theta": 500000, "tie_word_embeddings": false, "torch_dtype": "float32",
        "use_cache": true, "vocab_size": 100352});
    let expected = ModelSpec {
        norm_eps: 1e-6,
        rope: theta(5e5),
        pre_norm: false,
        post_norm: true,
        qk_norm: QkNorm::Projection,
        ..sizes([2048, 8192, 16, 16, 16, 128, 100352, 4096])
    };
    is(config, expected);
}

#[test]
fn granite_3_3_2b() {
    let config = json!({"architectures": ["GraniteForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
        "attention_multiplier": 0.015625, "bos_token_id": 0, "embedding_multiplier": 12.0, "eos_token_id": 0,
        "hidden_act": "silu", "hidden_size": 2048, "initializer_range": 0.02, "intermediate_size": 8192,
        "logits_scaling": 8.0, "max_position_embeddings": 131072, "mlp_bias": false, "model_type": "granite",
        "num_attention_heads": 32, "num_hidden_layers": 40, "num_key_value_heads": 8, "pad_token_id": 0,
        "residual_multiplier": 0.22, "rms_norm_eps": 1e-05, "rope_scaling": null, "rope_theta": 10000000.0,
        "tie_word_embeddings": true, "torch_dtype": "bfloat16", "use_cache": true, "vocab_size": 49159});
    let expected = ModelSpec {
        rope: theta(1e7),
        tied_lm_head: true,
        attn_scale: Some(0.015625),
        embed_scale: 12.0,
        residual_scale: 0.22,
        logit_divisor: 8.0,
        ..sizes([2048, 8192, 40, 32, 8, 64, 49159, 131072])
    };
    is(config, expected);
}
