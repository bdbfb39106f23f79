"""The fixtures: the config.json of each, and how its weights are made."""

from dataclasses import dataclass

import torch

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass
class Fixture:
    """One small checkpoint. `config` is config.json as it is written, in the old or the new style."""

    config: dict
    tokens: int  # T, the length of input_ids
    seed: int  # chosen so that the checks of make_fixture hold
    shards: int = 1
    tokenizer: str | None = None  # "byte_level" or "sentencepiece"
    extra_head: bool = False  # tied, but the checkpoint has lm_head.weight too
    no_prefix: bool = False  # keys as a bare LlamaModel saves them, and leftover inv_freq tensors
    fine: bool = False  # its reference holds the result of every operation
    logits: float = 1.2  # std of the logits before they are scaled or capped

    @property
    def dtype(self) -> torch.dtype:
        return DTYPES[self.config.get("dtype") or self.config["torch_dtype"]]


def config(**fields) -> dict:
    """config.json: what all fixtures share, then `fields`. A field that is None is written as null."""
    shared = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_dropout": 0.0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "use_cache": True,
    }
    return shared | fields


def family(cls: str, model_type: str, **fields) -> dict:
    """config.json of another family: what these families share, then `fields`."""
    shared = {
        "architectures": [cls],
        "model_type": model_type,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "rms_norm_eps": 1e-6,
        "use_cache": True,
    }
    return shared | fields


def factors(n: int, first: float, last: float) -> list[float]:
    """One factor for each of `n` pairs."""
    return [round(first + (last - first) * i / (n - 1), 3) for i in range(n)]


SIGLIP = {
    "model_type": "siglip_vision_model", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1,
    "num_attention_heads": 2, "image_size": 28, "patch_size": 14, "vision_use_head": False,
}

FIXTURES = {
    "tied-llama3": Fixture(
        # Original context 32 puts frequencies into all three bands of the llama3 rule; 48 tokens go past it.
        config(
            dtype="float32", vocab_size=384, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, head_dim=16, max_position_embeddings=128,
            rms_norm_eps=1e-5, attention_bias=False, mlp_bias=False, tie_word_embeddings=True,
            bos_token_id=376, eos_token_id=377,
            rope_parameters={
                "rope_type": "llama3", "rope_theta": 8000.0, "factor": 8.0, "low_freq_factor": 1.0,
                "high_freq_factor": 4.0, "original_max_position_embeddings": 32,
            },
        ),
        tokens=48, seed=19, tokenizer="byte_level", fine=True,
    ),
    "untied-mha": Fixture(
        # As Llama 2 was published: no num_key_value_heads, no head_dim, rope_scaling null.
        config(
            torch_dtype="float32", vocab_size=400, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
            num_attention_heads=4, max_position_embeddings=96, rms_norm_eps=1e-6, tie_word_embeddings=False,
            rope_theta=10000.0, rope_scaling=None, pretraining_tp=1,
        ),
        tokens=40, seed=15, tokenizer="sentencepiece", fine=True,
    ),
    "head-dim": Fixture(
        config(
            dtype="bfloat16", vocab_size=320, hidden_size=64, intermediate_size=96, num_hidden_layers=3,
            num_attention_heads=4, num_key_value_heads=1, head_dim=24, max_position_embeddings=64,
            rms_norm_eps=1e-5, tie_word_embeddings=True, eos_token_id=[2, 3],
            rope_parameters={"rope_type": "default", "rope_theta": 50000.0},
        ),
        tokens=32, seed=31,
    ),
    "odd-sizes": Fixture(
        config(
            dtype="float32", vocab_size=331, hidden_size=72, intermediate_size=172, num_hidden_layers=2,
            num_attention_heads=6, num_key_value_heads=3, max_position_embeddings=55, rms_norm_eps=1e-5,
            tie_word_embeddings=True, rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        ),
        tokens=33, seed=47,
    ),
    "biases": Fixture(
        config(
            dtype="float32", vocab_size=259, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64, rms_norm_eps=1e-6,
            attention_bias=True, mlp_bias=True, tie_word_embeddings=False,
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        ),
        tokens=32, seed=59, fine=True,
    ),
    "linear-rope": Fixture(
        # Neither rope_theta (10000 then) nor tie_word_embeddings (false then) is in the file.
        config(
            torch_dtype="float16", vocab_size=320, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128, rms_norm_eps=1e-5,
            rope_scaling={"type": "linear", "factor": 4.0},
        ),
        tokens=40, seed=55,
    ),
    "sharded": Fixture(
        config(
            torch_dtype="bfloat16", vocab_size=288, hidden_size=128, intermediate_size=128, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128, rms_norm_eps=1e-5,
            tie_word_embeddings=True, rope_theta=500000.0,
            rope_scaling={
                "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": 16,
            },
        ),
        tokens=32, seed=7, shards=3,
    ),
    "tied-extra-head": Fixture(
        config(
            dtype="float32", vocab_size=259, hidden_size=64, intermediate_size=64, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64, rms_norm_eps=1e-5,
            tie_word_embeddings=True, rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        ),
        tokens=32, seed=33, extra_head=True,
    ),
    "no-prefix": Fixture(
        config(
            torch_dtype="float16", vocab_size=288, hidden_size=64, intermediate_size=96, num_hidden_layers=3,
            num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=64, rms_norm_eps=1e-6,
            tie_word_embeddings=True, rope_theta=10000.0, rope_scaling=None,
        ),
        tokens=32, seed=33, no_prefix=True,
    ),
    "mistral-window": Fixture(
        # As Mistral 7B v0.1: an old file, no tie_word_embeddings. The window is a seventh of the text, and no divisor of it.
        family(
            "MistralForCausalLM", "mistral", torch_dtype="float32", vocab_size=101, hidden_size=32, intermediate_size=56,
            num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=12, hidden_act="silu",
            max_position_embeddings=256, rope_theta=10000.0, sliding_window=21,
        ),
        tokens=110, seed=1,
    ),
    "mistral-ring": Fixture(
        # Longer than the ring of a window of 33, which is 320 positions: the first ones are overwritten. Narrow, to stay small.
        family(
            "MistralForCausalLM", "mistral", torch_dtype="float32", vocab_size=48, hidden_size=16, intermediate_size=40,
            num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, head_dim=8, hidden_act="silu",
            max_position_embeddings=512, rope_theta=10000.0, sliding_window=33,
        ),
        tokens=350, seed=11,
    ),
    "mistral-full": Fixture(
        # As Mistral Nemo: the window is null, the heads are narrower than hidden / heads.
        family(
            "MistralForCausalLM", "mistral", dtype="bfloat16", vocab_size=128, hidden_size=64, intermediate_size=80,
            num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=1, head_dim=10, hidden_act="silu",
            max_position_embeddings=128, sliding_window=None, tie_word_embeddings=False,
            rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
        ),
        tokens=40, seed=1,
    ),
    "qwen2": Fixture(
        # As Qwen2.5 0.5B: biases of q, k and v alone; a window that is switched off.
        family(
            "Qwen2ForCausalLM", "qwen2", torch_dtype="bfloat16", vocab_size=150, hidden_size=56, intermediate_size=72,
            num_hidden_layers=2, num_attention_heads=7, num_key_value_heads=1, hidden_act="silu",
            max_position_embeddings=128, max_window_layers=1, rope_theta=1000000.0, sliding_window=8,
            use_sliding_window=False, tie_word_embeddings=True,
        ),
        tokens=36, seed=7,
    ),
    "qwen2-window": Fixture(
        # The window is switched on: the upper two of three layers have it.
        family(
            "Qwen2ForCausalLM", "qwen2", torch_dtype="float16", vocab_size=90, hidden_size=32, intermediate_size=40,
            num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, hidden_act="silu",
            max_position_embeddings=128, max_window_layers=1, rope_theta=10000.0, sliding_window=16,
            use_sliding_window=True, tie_word_embeddings=False,
        ),
        tokens=90, seed=1,
    ),
    "qwen3": Fixture(
        # As Qwen3 0.6B: a norm of each head of q and k, heads wider than hidden / heads.
        family(
            "Qwen3ForCausalLM", "qwen3", torch_dtype="bfloat16", vocab_size=120, hidden_size=48, intermediate_size=72,
            num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=18, hidden_act="silu",
            attention_bias=False, max_position_embeddings=128, max_window_layers=2, rope_theta=1000000,
            rope_scaling=None, sliding_window=None, use_sliding_window=False, tie_word_embeddings=True,
        ),
        tokens=40, seed=5, fine=True,
    ),
    "qwen3-yarn": Fixture(
        # Past its original context; biases; bounds that are no whole pairs; the newest form, with layer_types.
        family(
            "Qwen3ForCausalLM", "qwen3", dtype="float32", vocab_size=96, hidden_size=32, intermediate_size=48,
            num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=16, hidden_act="silu",
            attention_bias=True, max_position_embeddings=24, use_sliding_window=False, tie_word_embeddings=False,
            layer_types=["full_attention", "full_attention"],
            rope_parameters={
                "rope_type": "yarn", "rope_theta": 500.0, "factor": 4.0, "original_max_position_embeddings": 24,
                "beta_fast": 3.0, "beta_slow": 0.4, "truncate": False,
            },
        ),
        tokens=60, seed=3,
    ),
    "yarn": Fixture(
        config(
            torch_dtype="float16", vocab_size=96, hidden_size=48, intermediate_size=64, num_hidden_layers=2,
            num_attention_heads=3, num_key_value_heads=3, max_position_embeddings=128, rms_norm_eps=1e-5,
            tie_word_embeddings=True, rope_theta=1000.0,
            rope_scaling={
                "type": "yarn", "factor": 8.0, "original_max_position_embeddings": 32, "mscale": 0.8,
                "mscale_all_dim": 1.1,
            },
        ),
        tokens=50, seed=3,
    ),
    "dynamic": Fixture(
        # Longer than the context it was made for: theta depends on how much longer.
        config(
            torch_dtype="float16", vocab_size=96, hidden_size=48, intermediate_size=64, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=32, rms_norm_eps=1e-5,
            tie_word_embeddings=False, rope_theta=10000.0, rope_scaling={"type": "dynamic", "factor": 3.0},
        ),
        tokens=60, seed=2,
    ),
    "phi3-short": Fixture(
        # As Phi-3-mini-128k was first published: fused tensors, kv heads as many as heads, longrope under its old name, in a
        # text below its original context; a window, odd, too.
        family(
            "Phi3ForCausalLM", "phi3", torch_dtype="bfloat16", vocab_size=110, hidden_size=48, intermediate_size=44,
            num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=4, hidden_act="silu",
            max_position_embeddings=512, original_max_position_embeddings=64, rms_norm_eps=1e-5, rope_theta=10000.0,
            sliding_window=17, tie_word_embeddings=False, attention_bias=False, embd_pdrop=0.0, resid_pdrop=0.0,
            rope_scaling={
                "type": "su", "short_factor": factors(6, 1.05, 3.2), "long_factor": factors(6, 1.1, 40.0),
                "original_max_position_embeddings": 64,
            },
        ),
        tokens=40, seed=1,
    ),
    "phi3-long": Fixture(
        # As Phi-3.5-mini: past its original context, so the other factors.
        family(
            "Phi3ForCausalLM", "phi3", torch_dtype="bfloat16", vocab_size=110, hidden_size=48, intermediate_size=44,
            num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=4, hidden_act="silu",
            max_position_embeddings=512, original_max_position_embeddings=32, rms_norm_eps=1e-5, rope_theta=10000.0,
            sliding_window=262144, tie_word_embeddings=False,
            rope_scaling={
                "type": "longrope", "short_factor": factors(6, 1.05, 3.2), "long_factor": factors(6, 1.1, 40.0),
            },
        ),
        tokens=60, seed=1,
    ),
    "phi4-mini": Fixture(
        # Three quarters of a head turn, 2 kv heads for 3 heads do not go: 6 over 2; tied; the new form.
        family(
            "Phi3ForCausalLM", "phi3", dtype="float32", vocab_size=101, hidden_size=48, intermediate_size=52,
            num_hidden_layers=2, num_attention_heads=6, num_key_value_heads=2, hidden_act="silu",
            max_position_embeddings=256, original_max_position_embeddings=24, rms_norm_eps=1e-5, sliding_window=262144,
            tie_word_embeddings=True, partial_rotary_factor=0.75,
            rope_parameters={
                "rope_type": "longrope", "rope_theta": 10000.0, "partial_rotary_factor": 0.75,
                "short_factor": [1.0, 1.0, 1.0], "long_factor": factors(3, 1.0, 21.0),
                "original_max_position_embeddings": 24,
            },
        ),
        tokens=44, seed=3, fine=True,
    ),
    "gemma2": Fixture(
        # As Gemma 2 2B, old form: caps that bend, a window in each other layer, a query scale that is not the head's width.
        family(
            "Gemma2ForCausalLM", "gemma2", torch_dtype="float32", vocab_size=99, hidden_size=32, intermediate_size=56,
            num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=14, hidden_act="gelu_pytorch_tanh",
            hidden_activation="gelu_pytorch_tanh", attn_logit_softcapping=2.0, final_logit_softcapping=2.5,
            max_position_embeddings=128, query_pre_attn_scalar=9, rope_theta=10000.0, sliding_window=18,
            attention_bias=False,
        ),
        tokens=80, seed=16, logits=1.4,
    ),
    "gemma3": Fixture(
        # As Gemma 3 1B, old form: local and global rotation, the global one stretched; every other layer has a window.
        family(
            "Gemma3ForCausalLM", "gemma3_text", torch_dtype="bfloat16", vocab_size=101, hidden_size=32,
            intermediate_size=56, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=1, head_dim=16,
            hidden_activation="gelu_pytorch_tanh", max_position_embeddings=128, query_pre_attn_scalar=16,
            rope_theta=1000000.0, rope_local_base_freq=10000.0, rope_scaling={"rope_type": "linear", "factor": 8.0},
            sliding_window=20, sliding_window_pattern=2, attn_logit_softcapping=None, final_logit_softcapping=None,
            attention_bias=False,
        ),
        tokens=70, seed=3,
    ),
    "gemma3-ring": Fixture(
        # Local layers whose ring is overwritten beside a global one that keeps all.
        family(
            "Gemma3ForCausalLM", "gemma3_text", torch_dtype="bfloat16", vocab_size=48, hidden_size=16,
            intermediate_size=40, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, head_dim=8,
            hidden_activation="gelu_pytorch_tanh", max_position_embeddings=512, query_pre_attn_scalar=8,
            rope_theta=1000000.0, rope_local_base_freq=10000.0, sliding_window=40, sliding_window_pattern=2,
            attn_logit_softcapping=None, final_logit_softcapping=None, attention_bias=False,
        ),
        tokens=350, seed=46,
    ),
    "gemma3-vision": Fixture(
        # As Gemma 3 4B, new form: a vision tower beside the text model.
        family(
            "Gemma3ForConditionalGeneration", "gemma3", dtype="bfloat16", image_token_index=90, boi_token_index=91,
            eoi_token_index=92, mm_tokens_per_image=4, vision_config=SIGLIP,
            text_config={
                "model_type": "gemma3_text", "vocab_size": 101, "hidden_size": 32, "intermediate_size": 48,
                "num_hidden_layers": 3, "num_key_value_heads": 2, "num_attention_heads": 4, "head_dim": 12,
                "query_pre_attn_scalar": 20, "sliding_window": 16, "max_position_embeddings": 128, "rms_norm_eps": 1e-6,
                "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
                "hidden_activation": "gelu_pytorch_tanh",
                "rope_parameters": {
                    "full_attention": {"rope_type": "linear", "rope_theta": 1000000.0, "factor": 8.0},
                    "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
                },
            },
        ),
        tokens=44, seed=1,
    ),
    "smollm3": Fixture(
        # Every second of four layers does not turn.
        family(
            "SmolLM3ForCausalLM", "smollm3", torch_dtype="bfloat16", vocab_size=100, hidden_size=40, intermediate_size=56,
            num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2, hidden_act="silu",
            max_position_embeddings=128, rope_theta=50000.0, rope_scaling=None, no_rope_layer_interval=2,
            no_rope_layers=[1, 0, 1, 0], attention_bias=False, mlp_bias=False, sliding_window=None,
            use_sliding_window=False, tie_word_embeddings=True,
        ),
        tokens=40, seed=21,
    ),
    "olmo2": Fixture(
        # Norms behind the blocks alone; q and k have a norm over all their heads.
        family(
            "Olmo2ForCausalLM", "olmo2", torch_dtype="float32", vocab_size=100, hidden_size=48, intermediate_size=60,
            num_hidden_layers=2, num_attention_heads=6, num_key_value_heads=2, hidden_act="silu",
            max_position_embeddings=128, rope_theta=500000, rope_scaling=None, attention_bias=False,
            tie_word_embeddings=False,
        ),
        tokens=40, seed=6, fine=True,
    ),
    "granite": Fixture(
        # Four multipliers, none of them 1.
        family(
            "GraniteForCausalLM", "granite", torch_dtype="bfloat16", vocab_size=100, hidden_size=48, intermediate_size=64,
            num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, hidden_act="silu", attention_bias=False,
            mlp_bias=False, max_position_embeddings=128, rope_theta=10000000.0, rope_scaling=None,
            attention_multiplier=0.35, embedding_multiplier=1.5, residual_multiplier=0.6, logits_scaling=3.0,
            rms_norm_eps=1e-5, tie_word_embeddings=False,
        ),
        tokens=40, seed=4, logits=3.6,
    ),
}
