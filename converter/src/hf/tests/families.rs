//! What each family has of its own: defaults, forms of its fields, what it refuses, how its tensors are laid out.

use super::config::{fields, resolve};
use super::*;
use crate::hf::families::FAMILIES;
use nanoserve_format::schema::Part;
use nanoserve_format::{Activation, ModelSpec, NsvFile, QkNorm, Rope, RopeScaling, Window};

/// A config.json of `class` with four layers and these fields.
fn config(class: &str, changes: Value) -> Value {
    let mut config = json!({"architectures": [class], "hidden_size": 64, "intermediate_size": 96,
        "num_hidden_layers": 4, "num_attention_heads": 4, "vocab_size": 32});
    config.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    config
}

fn spec(class: &str, changes: Value) -> ModelSpec {
    resolve(config(class, changes)).unwrap()
}

fn wrong(class: &str, changes: Value) -> Vec<String> {
    fields(config(class, changes))
}

fn window(size: usize, layers: &[usize]) -> Option<Window> {
    Some(Window { size, layers: layers.to_vec(), rope: None })
}

/// What Llama has with the sizes of [`config`].
fn base() -> ModelSpec {
    ModelSpec {
        hidden_size: 64,
        intermediate_size: 96,
        n_layers: 4,
        n_heads: 4,
        n_kv_heads: 4,
        head_dim: 16,
        vocab_size: 32,
        norm_eps: 1e-6,
        ..ModelSpec::default()
    }
}

#[test]
fn absent_fields_have_the_familys_defaults() {
    let mistral = ModelSpec { context_length: 131_072, window: window(4096, &[0, 1, 2, 3]), ..base() };
    assert_eq!(spec("MistralForCausalLM", json!({"num_key_value_heads": null})), mistral);
    assert_eq!(wrong("MistralForCausalLM", json!({})), ["num_key_value_heads"], "8, as of the 7B");
    let qwen2 = ModelSpec { context_length: 32_768, qkv_bias: true, ..base() };
    assert_eq!(spec("Qwen2ForCausalLM", json!({"num_key_value_heads": 4})), qwen2);
    let qwen3 = ModelSpec { context_length: 32_768, head_dim: 128, qk_norm: QkNorm::Head, ..base() };
    assert_eq!(spec("Qwen3ForCausalLM", json!({"num_key_value_heads": 4})), qwen3);
    let phi3 = ModelSpec { context_length: 4096, norm_eps: 1e-5, ..base() };
    assert_eq!(spec("Phi3ForCausalLM", json!({})), phi3);
    let theta = |theta| Rope { theta, ..base().rope };
    let gemma2 = ModelSpec {
        context_length: 8192,
        head_dim: 256,
        activation: Activation::GeluTanh,
        tied_lm_head: true,
        post_norm: true,
        window: window(4096, &[0, 2]),
        attn_softcap: Some(50.0),
        logit_softcap: Some(30.0),
        embed_scale: 8.0,
        ..base()
    };
    assert_eq!(spec("Gemma2ForCausalLM", json!({})), gemma2);
    let gemma3 = ModelSpec {
        context_length: 131_072,
        rope: theta(1e6),
        qk_norm: QkNorm::Head,
        window: Some(Window { size: 4096, layers: vec![0, 1, 2, 3], rope: Some(theta(1e4)) }),
        attn_softcap: None,
        logit_softcap: None,
        ..gemma2
    };
    assert_eq!(spec("Gemma3ForCausalLM", json!({})), gemma3);
    let smollm3 =
        ModelSpec { context_length: 32_768, rope: theta(2e6), tied_lm_head: true, no_rope_layers: vec![3], ..base() };
    assert_eq!(spec("SmolLM3ForCausalLM", json!({})), smollm3);
    let olmo2 = ModelSpec { norm_eps: 1e-5, pre_norm: false, post_norm: true, qk_norm: QkNorm::Projection, ..base() };
    assert_eq!(spec("Olmo2ForCausalLM", json!({})), olmo2);
    assert_eq!(spec("GraniteForCausalLM", json!({})), ModelSpec { attn_scale: Some(1.0), ..base() });
}

#[test]
fn every_entry_of_the_table_holds_together() {
    for family in FAMILIES {
        let mut config = config(family.classes[0], json!({"num_key_value_heads": 4, "model_type": family.model_type}));
        if let Some(object) = family.within {
            config[object] = config.clone();
            config[object]["model_type"] = json!("gemma3_text");
        }
        let spec = resolve(config).unwrap();
        let mut parts: Vec<Part> =
            family.modules.iter().flat_map(|group| group.iter()).flat_map(|module| module.0.to_vec()).collect();
        let expected: Vec<Part> = Part::in_layer(&spec, 0).collect();
        assert_eq!(parts.len(), expected.len(), "{}: a part has two modules, or none", family.name);
        parts.retain(|part| !expected.contains(part));
        assert!(parts.is_empty(), "{}: {parts:?}", family.name);
        let others = FAMILIES.iter().filter(|other| other.model_type == family.model_type);
        assert_eq!(others.count(), 1, "{}", family.model_type);
        let text = crate::supported().to_string();
        assert!(text.contains(family.name) && text.contains(family.classes[0]) && text.contains(family.models));
    }
}

#[test]
fn windows_in_every_form() {
    let window_of = |class, changes| spec(class, changes).window;
    assert_eq!(window_of("MistralForCausalLM", json!({"num_key_value_heads": 4, "sliding_window": null})), None);
    // No session is longer than its context.
    assert_eq!(window_of("Phi3ForCausalLM", json!({"sliding_window": 4096})), None);
    assert_eq!(window_of("Phi3ForCausalLM", json!({"sliding_window": 2047})), window(2047, &[0, 1, 2, 3]));
    for class in ["Qwen2ForCausalLM", "Qwen3ForCausalLM"] {
        let with = |mut changes: Value| {
            changes["num_key_value_heads"] = json!(4);
            window_of(class, changes)
        };
        assert_eq!(with(json!({"sliding_window": 64, "max_window_layers": 1})), None);
        let on = json!({"use_sliding_window": true, "sliding_window": 64, "max_window_layers": 1});
        assert_eq!(with(on), window(64, &[1, 2, 3]));
        let types = ["full_attention", "sliding_attention", "full_attention", "sliding_attention"];
        let listed = json!({"use_sliding_window": true, "sliding_window": 64, "layer_types": types});
        assert_eq!(with(listed), window(64, &[1, 3]));
    }
    let types = ["sliding_attention", "full_attention", "full_attention", "full_attention"];
    assert_eq!(window_of("Gemma2ForCausalLM", json!({"sliding_window": 64, "layer_types": types})), window(64, &[0]));
    let three = spec("Gemma3ForCausalLM", json!({"sliding_window": 64, "sliding_window_pattern": 3}));
    assert_eq!(three.window.unwrap().layers, [0, 1, 3]);
    let smollm3 = |changes| spec("SmolLM3ForCausalLM", changes);
    let listed = smollm3(json!({"no_rope_layers": [0, 1, 1, 0, 1], "use_sliding_window": true, "sliding_window": 9}));
    assert_eq!((listed.no_rope_layers, listed.window), (vec![0, 3], window(9, &[0, 3])));
    assert_eq!(smollm3(json!({"no_rope_layer_interval": 2})).no_rope_layers, [1, 3]);
}

#[test]
fn windows_that_cannot_be() {
    let qwen = |mut changes: Value| {
        changes["num_key_value_heads"] = json!(4);
        wrong("Qwen2ForCausalLM", changes)
    };
    assert_eq!(qwen(json!({"layer_types": vec!["sliding_attention"; 4]})), ["sliding_window"], "switched off");
    assert_eq!(qwen(json!({"layer_types": vec!["full_attention"; 3]})), ["layer_types"]);
    assert_eq!(qwen(json!({"layer_types": vec!["chunked_attention"; 4]})), ["layer_types"]);
    assert_eq!(wrong("Gemma2ForCausalLM", json!({"sliding_window": null})), ["sliding_window"]);
    assert_eq!(wrong("Gemma3ForCausalLM", json!({"sliding_window_pattern": 0})), ["sliding_window_pattern"]);
    // These families do not read layer_types, which must not contradict them.
    let types = ["sliding_attention", "full_attention", "full_attention", "full_attention"];
    let mistral = json!({"num_key_value_heads": 4, "layer_types": types});
    assert_eq!(wrong("MistralForCausalLM", mistral), ["layer_types"]);
    for class in ["LlamaForCausalLM", "Phi3ForCausalLM", "Olmo2ForCausalLM", "GraniteForCausalLM"] {
        assert_eq!(wrong(class, json!({"layer_types": types})), ["layer_types"]);
        spec(class, json!({"layer_types": vec!["full_attention"; 4]}));
    }
    assert_eq!(wrong("SmolLM3ForCausalLM", json!({"no_rope_layers": [1, 0]})), ["no_rope_layers"]);
    assert_eq!(wrong("SmolLM3ForCausalLM", json!({"no_rope_layer_interval": 0})), ["no_rope_layer_interval"]);
}

#[test]
fn two_ropes_in_old_and_new_form() {
    let old =
        json!({"rope_theta": 5.0, "rope_local_base_freq": 7.0, "rope_scaling": {"rope_type": "linear", "factor": 8}});
    let full = json!({"rope_type": "linear", "rope_theta": 5.0, "factor": 8.0});
    let new = json!({"rope_parameters": {"full_attention": full, "sliding_attention": {"rope_theta": 7.0}}});
    let mixed = json!({"rope_theta": 5.0, "rope_local_base_freq": 7.0,
        "rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 8.0}}});
    for changes in [old, new, mixed] {
        let spec = spec("Gemma3ForCausalLM", changes);
        assert_eq!(spec.rope, Rope { theta: 5.0, rotary_dim: None, scaling: RopeScaling::Linear { factor: 8.0 } });
        let local = Rope { theta: 7.0, rotary_dim: None, scaling: RopeScaling::Default {} };
        assert_eq!(spec.window.unwrap().rope, Some(local));
    }
    let same = spec("Gemma3ForCausalLM", json!({"rope_theta": 7.0, "rope_local_base_freq": 7.0}));
    assert_eq!(same.window.unwrap().rope, None);
    let flat = json!({"rope_parameters": {"rope_type": "default", "rope_theta": 5.0}});
    assert_eq!(wrong("Gemma3ForCausalLM", flat), ["rope_parameters.full_attention"]);
    let bad =
        json!({"rope_parameters": {"full_attention": {"rope_theta": 5.0}, "sliding_attention": {"rope_type": "x"}}});
    assert_eq!(wrong("Gemma3ForCausalLM", bad), ["rope_parameters.sliding_attention.rope_type"]);
}

#[test]
fn ropes_by_length() {
    let llama =
        |scaling: Value| spec("LlamaForCausalLM", json!({"max_position_embeddings": 1024, "rope_scaling": scaling}));
    let dynamic = llama(json!({"type": "dynamic", "factor": 4.0}));
    assert_eq!(dynamic.rope.scaling, RopeScaling::Dynamic { factor: 4.0, original_context: 1024 });
    assert_eq!(dynamic.context_length, 4096, "what stretching is for");
    let yarn = llama(json!({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}));
    let scaling = RopeScaling::Yarn {
        factor: 4.0,
        original_context: 512,
        beta_fast: 32.0,
        beta_slow: 1.0,
        truncate: true,
        attention_factor: 0.1 * libm::log(4.0) + 1.0,
    };
    assert_eq!((yarn.rope.scaling, yarn.context_length), (scaling, 2048));
    let yarn = llama(json!({"rope_type": "yarn", "factor": 4.0, "mscale": 1.0, "mscale_all_dim": 1.0, "beta_fast": 8,
        "truncate": false}));
    assert!(matches!(
        yarn.rope.scaling,
        RopeScaling::Yarn { original_context: 1024, truncate: false, beta_fast: 8.0, attention_factor: 1.0, .. }
    ));
    let yarn = llama(json!({"rope_type": "yarn", "factor": null, "original_max_position_embeddings": 256,
        "attention_factor": 0.5}));
    assert!(matches!(yarn.rope.scaling, RopeScaling::Yarn { factor: 4.0, attention_factor: 0.5, .. }));
    let list = vec![1.5; 8];
    let long = llama(json!({"rope_type": "longrope", "short_factor": list, "long_factor": list, "factor": 4.0,
        "original_max_position_embeddings": 256}));
    let RopeScaling::LongRope { original_context: 256, attention_factor, .. } = long.rope.scaling else { panic!() };
    assert_eq!(attention_factor, libm::sqrt(1.0 + libm::log(4.0) / libm::log(256.0)));
    let short = json!({"rope_type": "longrope", "short_factor": vec![1.5; 7], "long_factor": list});
    assert_eq!(wrong("LlamaForCausalLM", json!({"rope_scaling": short})), ["short_factor"]);
    let none = json!({"rope_scaling": {"rope_type": "longrope"}});
    assert_eq!(wrong("LlamaForCausalLM", none), ["rope_scaling.short_factor", "rope_scaling.long_factor"]);
    assert_eq!(wrong("LlamaForCausalLM", json!({"rope_scaling": {"type": "yarn"}})), ["rope_scaling.factor"]);
}

#[test]
fn phis_names_for_longrope() {
    let phi = |kind: &str| {
        let scaling = json!({"type": kind, "short_factor": vec![1.0; 8], "long_factor": vec![2.0; 8]});
        json!({"rope_scaling": scaling, "max_position_embeddings": 8192})
    };
    for kind in ["su", "yarn", "longrope"] {
        let scaling = spec("Phi3ForCausalLM", phi(kind)).rope.scaling;
        assert!(matches!(scaling, RopeScaling::LongRope { original_context: 4096, .. }), "{kind}: {scaling:?}");
    }
    assert_eq!(wrong("Phi3ForCausalLM", phi("dynamic")), ["rope_scaling.type"]);
    assert_eq!(wrong("LlamaForCausalLM", phi("su")), ["rope_scaling.type"]);
    let part = |part: f64| json!({"partial_rotary_factor": part});
    assert_eq!(spec("Phi3ForCausalLM", part(0.5)).rope.rotary_dim, Some(8));
    assert_eq!(spec("Phi3ForCausalLM", part(1.0)).rope.rotary_dim, None);
    for factor in [0.2, 0.0, 1.5, -1.0] {
        assert_eq!(wrong("Phi3ForCausalLM", part(factor)), ["partial_rotary_factor"], "{factor}");
    }
    assert_eq!(
        wrong("Qwen2ForCausalLM", json!({"num_key_value_heads": 4, "partial_rotary_factor": 0.5})),
        ["partial_rotary_factor"]
    );
}

#[test]
fn arithmetic_of_another_family_is_refused() {
    for (field, value) in [
        ("num_local_experts", json!(8)),
        ("num_experts", json!(64)),
        ("alibi", json!(true)),
        ("clip_qkv", json!(8.0)),
        ("attention_sinks", json!(true)),
        ("position_embedding_type", json!("alibi")),
        ("use_bidirectional_attention", json!(true)),
        ("is_causal", json!(false)),
        ("final_logit_softcapping", json!(30.0)),
        ("residual_multiplier", json!(0.2)),
        ("hidden_act", json!("relu2")),
    ] {
        assert_eq!(wrong("LlamaForCausalLM", json!({field: value})), [field]);
    }
    let off = json!({"num_local_experts": 0, "alibi": false, "clip_qkv": null, "residual_multiplier": 1.0,
        "attn_logit_softcapping": null, "position_embedding_type": "rope"});
    assert_eq!(spec("LlamaForCausalLM", off), base());
    // transformers does not apply it there.
    assert_eq!(wrong("Gemma3ForCausalLM", json!({"attn_logit_softcapping": 50.0})), ["attn_logit_softcapping"]);
    assert_eq!(wrong("Gemma2ForCausalLM", json!({"hidden_activation": "gelu"})), ["hidden_activation"]);
    assert_eq!(
        wrong("Gemma2ForCausalLM", json!({"query_pre_attn_scalar": 0}))[0].split(' ').next_back(),
        Some("attention_multiplier)")
    );
    let caps = spec("Gemma2ForCausalLM", json!({"attn_logit_softcapping": null, "final_logit_softcapping": 9}));
    assert_eq!((caps.attn_softcap, caps.logit_softcap), (None, Some(9.0)));
}

#[test]
fn a_text_model_in_another() {
    let all = |text: Value, kind: &str| json!({"architectures": ["Gemma3ForConditionalGeneration"], "model_type": kind, "text_config": text});
    assert_eq!(fields(all(Value::Null, "gemma3")), ["text_config"]);
    let sizes = json!({"hidden_size": 64, "intermediate_size": 96});
    assert_eq!(fields(all(sizes, "gemma3")), ["text_config.num_hidden_layers"]);
    let other =
        json!({"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "model_type": "llama4_text"});
    assert!(fields(all(other, "gemma3"))[0].contains("llama4_text"));
}

#[test]
fn a_great_many_layers_take_no_room() {
    assert_eq!(wrong("Gemma3ForCausalLM", json!({"num_hidden_layers": 1u64 << 60})), ["num_hidden_layers"]);
}

/// A Phi-3 of two layers: hidden 72, 3 heads of 10 over 1, fused.
fn phi() -> Fixture {
    let mut fixture = Fixture::new("F32", false);
    let fused = |fixture: &mut Fixture, name: &str, parts: &[&str]| {
        for layer in 0..2 {
            let key = |module: &str| format!("model.layers.{layer}.{module}.weight");
            let sources: Vec<Raw> = parts.iter().map(|part| fixture.tensor(&key(part)).clone()).collect();
            fixture.tensors.retain(|t| !parts.iter().any(|part| t.key == key(part)));
            let shape = vec![sources.iter().map(|t| t.shape[0]).sum(), 72];
            let bytes = sources.into_iter().flat_map(|t| t.bytes).collect();
            fixture.tensors.push(Raw { key: key(name), dtype: "F32", shape, bytes });
        }
    };
    fused(&mut fixture, "self_attn.qkv_proj", &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]);
    fused(&mut fixture, "mlp.gate_up_proj", &["mlp.gate_proj", "mlp.up_proj"]);
    fixture.config["architectures"] = json!(["Phi3ForCausalLM"]);
    fixture.config["model_type"] = json!("phi3");
    // Like the Llama it is compared with.
    fixture.config["rms_norm_eps"] = json!(1e-6);
    fixture.config["max_position_embeddings"] = json!(2048);
    fixture
}

#[test]
fn a_fused_checkpoint_gives_the_bytes_of_a_split_one() {
    for encoding in Encoding::CHOICES {
        let (fused, split) = (phi(), Fixture::new("F32", false));
        fused.write().convert(encoding).unwrap();
        split.write().convert(encoding).unwrap();
        let (fused_file, split_file) = (NsvFile::open(fused.output()).unwrap(), NsvFile::open(split.output()).unwrap());
        assert_eq!(fused_file.spec(), split_file.spec());
        let (ours, theirs) = (&fused_file.layout().tensors, &split_file.layout().tensors);
        assert_eq!(ours.len(), theirs.len());
        for (a, b) in ours.iter().zip(theirs) {
            assert_eq!(a.name, b.name);
            assert_eq!(fused_file.bytes()[a.range.clone()], split_file.bytes()[b.range.clone()], "{}", a.name);
        }
        let comparison = crate::compare(&fused.options(encoding), &(), &AtomicBool::new(false)).unwrap();
        assert!(comparison.differences.is_empty(), "{comparison:?}");
    }
}

#[test]
fn a_fused_tensor_of_another_size_says_what_it_holds() {
    let key = "model.layers.1.self_attn.qkv_proj.weight";
    let mut fixture = phi();
    *fixture.tensor(key) = raw(key, "F32", &[60, 72]);
    let (place, what) = fixture.write().problem();
    assert_eq!(place, format!("model.safetensors/{key}"));
    let heads = "q (num_attention_heads 3 x head_dim 10 = 30) + k (num_key_value_heads 1 x head_dim 10 = 10) + \
                 v (num_key_value_heads 1 x head_dim 10 = 10) = 50";
    assert_eq!(what.to_string(), format!("has shape [60, 72], expected [{heads}, hidden_size 72]"));
    let hint = "see num_attention_heads and num_key_value_heads and head_dim in config.json";
    assert_eq!(what.hint().unwrap(), hint);

    let key = "model.layers.0.mlp.gate_up_proj.weight";
    let mut fixture = phi();
    *fixture.tensor(key) = raw(key, "F32", &[44, 72]);
    let text = fixture.write().problem().1.to_string();
    assert!(text.contains("gate (intermediate_size 44) + up (intermediate_size 44) = 88"), "{text}");

    let mut fixture = phi();
    fixture.tensors.retain(|t| t.key != key);
    fixture.tensors.push(raw("model.layers.0.mlp.gate_proj.weight", "F32", &[44, 72]));
    let places: Vec<_> = fixture.write().problems(Encoding::F32).into_iter().map(|(place, _)| place).collect();
    let at = |key: &str| format!("model.safetensors/{key}");
    assert_eq!(places, [at(key), at("model.layers.0.mlp.gate_proj.weight")]);
}

#[test]
fn a_bad_value_of_a_fused_tensor_has_its_place_there() {
    let mut fixture = phi();
    let tensor = fixture.tensor("model.layers.0.self_attn.qkv_proj.weight");
    let at = 4 * (42 * 72 + 5);
    tensor.bytes[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    let (_, what) = fixture.write().problem();
    assert!(matches!(&what, What::NotFinite { index, .. } if index == &[42, 5]), "{what}");
}

/// A Gemma 2 of two layers, in bf16.
fn gemma() -> Fixture {
    let mut fixture = Fixture::plain();
    for layer in 0..2 {
        for module in ["pre_feedforward_layernorm", "post_feedforward_layernorm"] {
            fixture.tensors.push(raw(&format!("model.layers.{layer}.{module}.weight"), "BF16", &[72]));
        }
    }
    fixture.tensors.retain(|t| t.key != "lm_head.weight");
    fixture.config["architectures"] = json!(["Gemma2ForCausalLM"]);
    fixture.config["model_type"] = json!("gemma2");
    fixture
}

#[test]
fn norms_are_stored_as_what_multiplies() {
    let fixture = gemma();
    fixture.write().convert(Encoding::Q8).unwrap();
    let file = NsvFile::open(fixture.output()).unwrap();
    let mut norms = 0;
    for (name, module) in [
        ("attn_norm", "input_layernorm"),
        ("attn_post_norm", "post_attention_layernorm"),
        ("mlp_norm", "pre_feedforward_layernorm"),
        ("mlp_post_norm", "post_feedforward_layernorm"),
    ] {
        let entry = file.layout().tensors.iter().find(|t| t.name == format!("layers.1.{name}.weight")).unwrap();
        let stored: Vec<f32> =
            file.bytes()[entry.range.clone()].as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        let source = values(&format!("model.layers.1.{module}.weight"), 72);
        assert_eq!(stored[..72], source.iter().map(|x| 1.0 + x).collect::<Vec<f32>>(), "{name}");
        norms += 1;
    }
    assert_eq!(norms, 4);
    let comparison = crate::compare(&fixture.options(Encoding::Q8), &(), &AtomicBool::new(false)).unwrap();
    assert!(comparison.differences.is_empty(), "{comparison:?}");
}

#[test]
fn a_vision_tower_is_left_out_and_said_so() {
    for (prefix, tower) in
        [("language_model.model.", "vision_tower."), ("model.language_model.", "model.vision_tower.")]
    {
        let mut fixture = gemma();
        for tensor in &mut fixture.tensors {
            tensor.key = tensor.key.replacen("model.", prefix, 1);
        }
        for layer in 0..2 {
            for norm in ["q_norm", "k_norm"] {
                fixture.tensors.push(raw(&format!("{prefix}layers.{layer}.self_attn.{norm}.weight"), "BF16", &[10]));
            }
        }
        fixture.tensors.push(raw(&format!("{tower}embeddings.weight"), "BF16", &[3, 4]));
        fixture.tensors.push(raw(&format!("{tower}encoder.weight"), "BF16", &[5]));
        let mut text = fixture.config.clone();
        text["model_type"] = json!("gemma3_text");
        fixture.config = json!({"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3",
            "text_config": text});
        let report = fixture.write().convert(Encoding::F16).unwrap();
        let said: Vec<String> = report.warnings.iter().map(ToString::to_string).collect();
        let said = said.join("\n");
        assert!(said.contains("2 tensors of the parts for images left out") && said.contains(tower), "{said}");
        // No other tensor is left out.
        fixture.tensors.push(raw("audio_tower.weight", "BF16", &[5]));
        assert!(matches!(fixture.write().problem().1, What::TensorUnknown));
    }
}
