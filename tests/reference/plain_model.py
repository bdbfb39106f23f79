"""The model once more, in plain numpy and f64, from config.json and the weights alone. Used by make_reference.py.

It is written from the formulas, not from any library's code, and says two things about a fixture: that the reference
means what it should, and how far the rounding of fp32 moved it.
"""

import math

import numpy as np


def inv_freq(cfg: dict) -> np.ndarray:
    """The rotation per position of every pair of a head, for old and new ways to write it into config.json."""
    rope = cfg.get("rope_parameters") or cfg.get("rope_scaling") or {}
    kind = rope.get("rope_type") or rope.get("type") or "default"
    theta = rope.get("rope_theta") or cfg.get("rope_theta") or 10000.0
    head_dim = cfg.get("head_dim") or cfg["hidden_size"] // cfg["num_attention_heads"]
    freq = theta ** -(np.arange(0, head_dim, 2) / head_dim)
    if kind == "linear":
        return freq / rope["factor"]
    if kind == "llama3":
        low, high = rope["low_freq_factor"], rope["high_freq_factor"]
        turns = rope["original_max_position_embeddings"] * freq / (2 * math.pi)  # in the original context
        smooth = np.clip((turns - low) / (high - low), 0, 1)
        return (1 - smooth) * freq / rope["factor"] + smooth * freq
    assert kind == "default", f"rope type {kind!r} is not known here"
    return freq


def forward(cfg: dict, weights: dict[str, np.ndarray], ids: np.ndarray) -> dict[str, np.ndarray]:
    """Every component of the ladder for `ids`; `weights` by their Hugging Face keys."""
    weights = {key: values.astype(np.float64) for key, values in weights.items()}
    heads = cfg["num_attention_heads"]
    kv_heads = cfg.get("num_key_value_heads") or heads
    head_dim = cfg.get("head_dim") or cfg["hidden_size"] // heads
    tokens = len(ids)
    angles = np.arange(tokens)[:, None, None] * inv_freq(cfg)  # [T, 1, head_dim / 2]
    future = np.triu(np.ones((tokens, tokens), bool), 1)

    def linear(x, name):
        return x @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", 0)

    def rms_norm(x, name):
        return x / np.sqrt(np.mean(x * x, -1, keepdims=True) + cfg["rms_norm_eps"]) * weights[f"{name}.weight"]

    def rope(x):  # entry j turns with entry j + head_dim / 2
        x = x.reshape(tokens, -1, head_dim)
        a, b = x[..., : head_dim // 2], x[..., head_dim // 2 :]
        cos, sin = np.cos(angles), np.sin(angles)
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1).reshape(tokens, -1)

    def head(x, h):
        return x[:, h * head_dim : (h + 1) * head_dim]

    ladder = {}
    x = ladder["embed"] = weights["model.embed_tokens.weight"][ids]
    for i in range(cfg["num_hidden_layers"]):
        name, layer = f"layers.{i}", f"model.layers.{i}"
        normed = ladder[f"{name}.attn_norm"] = rms_norm(x, f"{layer}.input_layernorm")
        q = ladder[f"{name}.attn.q_plain"] = linear(normed, f"{layer}.self_attn.q_proj")
        k = ladder[f"{name}.attn.k_plain"] = linear(normed, f"{layer}.self_attn.k_proj")
        q, k = rope(q), rope(k)
        ladder |= {f"{name}.attn.q": q, f"{name}.attn.k": k}
        v = ladder[f"{name}.attn.v"] = linear(normed, f"{layer}.self_attn.v_proj")
        mixed = []
        for h in range(heads):
            group = h // (heads // kv_heads)
            scores = head(q, h) @ head(k, group).T / math.sqrt(head_dim)
            scores = np.where(future, -np.inf, scores)
            scores = np.exp(scores - scores.max(-1, keepdims=True))
            mixed.append(scores / scores.sum(-1, keepdims=True) @ head(v, group))
        mix = ladder[f"{name}.attn.mix"] = np.concatenate(mixed, -1)
        out = ladder[f"{name}.attn.out"] = linear(mix, f"{layer}.self_attn.o_proj")
        x = ladder[f"{name}.mid"] = x + out
        normed = ladder[f"{name}.mlp_norm"] = rms_norm(x, f"{layer}.post_attention_layernorm")
        gate = ladder[f"{name}.mlp.gate"] = linear(normed, f"{layer}.mlp.gate_proj")
        up = ladder[f"{name}.mlp.up"] = linear(normed, f"{layer}.mlp.up_proj")
        gated = ladder[f"{name}.mlp.gated"] = gate / (1 + np.exp(-gate)) * up
        out = ladder[f"{name}.mlp.out"] = linear(gated, f"{layer}.mlp.down_proj")
        x = ladder[f"{name}.out"] = x + out
    x = ladder["final_norm"] = rms_norm(x, "model.norm")
    head_weight = "model.embed_tokens.weight" if cfg.get("tie_word_embeddings") else "lm_head.weight"
    ladder["logits"] = x @ weights[head_weight].T
    return ladder
