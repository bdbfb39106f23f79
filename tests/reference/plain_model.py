"""The model again, in plain numpy and f64, from only config.json and the weights. Used by make_reference.py.

It is written from the formulas, not from any library's code. It shows two things about a fixture: that the reference is
right, and how far the rounding of fp32 moved it. Only angles are rounded to fp32 here, as in every implementation of these
models: at position 100 that moves a sine by more than all other rounding.
"""

import math

import numpy as np

# Where a family differs from Llama. Keys of norms: before attention, behind it, before the feed-forward block, behind it.
AROUND = ("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm")
NORMS = {
    "gemma2": AROUND,
    "gemma3_text": AROUND,
    "olmo2": (None, "post_attention_layernorm", None, "post_feedforward_layernorm"),
}
LLAMA_NORMS = ("input_layernorm", None, "post_attention_layernorm", None)
QK_NORM = {"qwen3": "head", "gemma3_text": "head", "olmo2": "projection"}
THETA = {"smollm3": 2e6, "gemma3_text": 1e6}
HEAD_DIM = {"qwen3": 128, "gemma2": 256, "gemma3_text": 256}


def single(x: np.ndarray) -> np.ndarray:
    """Rounded to fp32."""
    return np.float32(x).astype(np.float64)


def text_config(cfg: dict) -> dict:
    """The part of config.json that describes the text model."""
    return cfg | cfg["text_config"] if "text_config" in cfg else cfg


def text_weights(weights: dict) -> dict:
    """The weights of the text model, by the keys of a model without a vision tower."""
    renamed = {}
    for key, values in weights.items():
        key = key.removeprefix("language_model.").replace("model.language_model.", "model.")
        if not key.startswith(("vision_tower", "multi_modal_projector", "model.vision_tower", "model.multi_modal")):
            renamed[key] = values
    return renamed


def head_dim(cfg: dict) -> int:
    derived = cfg["hidden_size"] // cfg["num_attention_heads"]
    return cfg.get("head_dim") or HEAD_DIM.get(cfg["model_type"], derived)


def rope_fields(cfg: dict, local: bool) -> dict:
    """Kind, theta and settings of a rotary embedding, from the old or the new form of config.json."""
    new, old = cfg.get("rope_parameters") or {}, cfg.get("rope_scaling") or {}
    if cfg["model_type"] == "gemma3_text":
        rope = (new.get("sliding_attention" if local else "full_attention") or {}) | ({} if local else old)
        beside = cfg.get("rope_local_base_freq", 1e4) if local else cfg.get("rope_theta")
    else:
        rope, beside = old or new, cfg.get("rope_theta")
    kind = rope.get("rope_type") or rope.get("type") or "default"
    theta = rope.get("rope_theta") or beside or THETA.get(cfg["model_type"], 1e4)
    original = cfg.get("original_max_position_embeddings") or rope.get("original_max_position_embeddings")
    part = rope.get("partial_rotary_factor") or cfg.get("partial_rotary_factor") or 1.0
    return rope | {
        "kind": "longrope" if kind == "su" else kind,
        "theta": theta,
        "original": original or cfg["max_position_embeddings"],
        "dim": int(head_dim(cfg) * part),
    }


def rotation(cfg: dict, length: int, local: bool = False) -> tuple[np.ndarray, float]:
    """The rotation per position of every pair of a head in a text of `length`, and the factor of cosines and sines."""
    rope = rope_fields(cfg, local)
    kind, theta, dim, original = rope["kind"], rope["theta"], rope["dim"], rope["original"]
    most = cfg["max_position_embeddings"]
    if kind == "dynamic":
        stretch = rope["factor"] * max(length, most) / most - (rope["factor"] - 1)
        theta *= stretch ** (dim / (dim - 2))
    period = single(theta ** single(np.arange(0, dim, 2) / dim))
    freq = single(1 / period)
    turns = original * freq / (2 * math.pi)  # in the original context
    if kind == "linear":
        return freq / rope["factor"], 1.0
    if kind == "llama3":
        low, high = rope["low_freq_factor"], rope["high_freq_factor"]
        smooth = np.clip((turns - low) / (high - low), 0, 1)
        return (1 - smooth) * freq / rope["factor"] + smooth * freq, 1.0
    if kind == "yarn":
        factor = rope["factor"]

        def pair(rotations):  # the pair, as a fraction, that turns so often in the original context
            return dim * math.log(original / (rotations * 2 * math.pi)) / (2 * math.log(theta))

        low, high = pair(rope.get("beta_fast", 32)), pair(rope.get("beta_slow", 1))
        if rope.get("truncate", True):
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, dim - 1)
        slow = np.clip((np.arange(dim // 2) - low) / ((high - low) or 0.001), 0, 1)
        scale = rope.get("attention_factor")
        if scale is None:
            m, all_dim = rope.get("mscale"), rope.get("mscale_all_dim")
            grow = lambda m: 0.1 * m * math.log(factor) + 1  # noqa: E731
            scale = grow(m) / grow(all_dim) if m and all_dim else grow(1)
        return slow * freq / factor + (1 - slow) * freq, scale
    if kind == "longrope":
        factors = rope["long_factor"] if length > original else rope["short_factor"]
        factor = rope.get("factor") or most / original
        scale = rope.get("attention_factor") or math.sqrt(1 + math.log(factor) / math.log(original))
        return 1 / single(single(factors) * period), scale
    assert kind in ("default", "dynamic"), f"rope type {kind!r} is not known here"
    return freq, 1.0


def windows(cfg: dict) -> list[int | None]:
    """The window of each layer; None sees everything."""
    layers, family = range(cfg["num_hidden_layers"]), cfg["model_type"]
    window, types = cfg.get("sliding_window"), cfg.get("layer_types")
    if family in ("llama", "olmo2", "granite"):
        return [None for _ in layers]
    if family in ("mistral", "phi3"):
        return [window for _ in layers]
    if types:
        return [window if kind == "sliding_attention" else None for kind in types]
    if family in ("gemma2", "gemma3_text"):
        every = 2 if family == "gemma2" else cfg.get("sliding_window_pattern", 6)
        return [window if (i + 1) % every else None for i in layers]
    on = cfg.get("use_sliding_window", False)
    if family == "smollm3":
        return [window if on and not rotates else None for rotates in rotating(cfg)]
    return [window if on and i >= cfg.get("max_window_layers", 28) else None for i in layers]


def rotating(cfg: dict) -> list[bool]:
    """Whether each layer has a rotary embedding."""
    layers = range(cfg["num_hidden_layers"])
    if cfg["model_type"] != "smollm3":
        return [True for _ in layers]
    every = cfg.get("no_rope_layer_interval", 4)
    return [bool(x) for x in cfg.get("no_rope_layers") or [(i + 1) % every for i in layers]]


def forward(cfg: dict, weights: dict[str, np.ndarray], ids: np.ndarray, length: int) -> dict[str, np.ndarray]:
    """Every component of the ladder for `ids` in a text of `length`; `weights` by their Hugging Face keys."""
    cfg = text_config(cfg)
    family = cfg["model_type"]
    gemma = family.startswith("gemma")
    weights = {key: values.astype(np.float64) for key, values in text_weights(weights).items()}
    heads = cfg["num_attention_heads"]
    kv_heads = cfg.get("num_key_value_heads") or heads
    width = head_dim(cfg)
    tokens = len(ids)
    back = np.arange(tokens)[:, None] - np.arange(tokens)  # how far a position lies behind another
    scale = 1 / math.sqrt(cfg["query_pre_attn_scalar"] if gemma else width)
    scale = cfg.get("attention_multiplier", scale)

    def linear(x, name):
        return x @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", 0)

    def rms_norm(x, name):
        weight = weights[f"{name}.weight"] + (1 if gemma else 0)
        return x / np.sqrt(np.mean(x * x, -1, keepdims=True) + cfg["rms_norm_eps"]) * weight

    def head_norm(x, name):
        return rms_norm(x.reshape(tokens, -1, width), name).reshape(tokens, -1)

    def rope(x, local):  # entry j turns with entry j + half; entries behind both halves do not turn
        freq, times = rotation(cfg, length, local)
        angles, half = single(np.arange(tokens)[:, None, None] * single(freq)), len(freq)
        cos, sin = np.cos(angles) * times, np.sin(angles) * times
        x = x.reshape(tokens, -1, width)
        a, b, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
        return np.concatenate([a * cos - b * sin, b * cos + a * sin, rest], -1).reshape(tokens, -1)

    def cap(x, most):
        return x if most is None else most * np.tanh(x / most)

    def act(x):
        if (cfg.get("hidden_activation") or cfg.get("hidden_act")) == "gelu_pytorch_tanh":
            return x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
        return x / (1 + np.exp(-x))

    def head(x, h):
        return x[:, h * width : (h + 1) * width]

    ladder = {}
    embed_scale = math.sqrt(cfg["hidden_size"]) if gemma else cfg.get("embedding_multiplier", 1)
    x = ladder["embed"] = weights["model.embed_tokens.weight"][ids] * embed_scale
    attn_norm, attn_post_norm, mlp_norm, mlp_post_norm = NORMS.get(family, LLAMA_NORMS)
    for i, (window, rotates) in enumerate(zip(windows(cfg), rotating(cfg))):
        name, layer = f"layers.{i}", f"model.layers.{i}"

        def norm(x, key, rung):
            if key is None:
                return x
            ladder[f"{name}.{rung}"] = rms_norm(x, f"{layer}.{key}")
            return ladder[f"{name}.{rung}"]

        normed = norm(x, attn_norm, "attn_norm")
        if family == "phi3":
            split = [heads * width, (heads + kv_heads) * width]
            q, k, v = np.split(linear(normed, f"{layer}.self_attn.qkv_proj"), split, -1)
        else:
            q, k, v = (linear(normed, f"{layer}.self_attn.{part}_proj") for part in "qkv")
        ladder |= {f"{name}.attn.q_plain": q, f"{name}.attn.k_plain": k, f"{name}.attn.v": v}
        if family in QK_NORM:
            each = head_norm if QK_NORM[family] == "head" else rms_norm
            q = ladder[f"{name}.attn.q_norm"] = each(q, f"{layer}.self_attn.q_norm")
            k = ladder[f"{name}.attn.k_norm"] = each(k, f"{layer}.self_attn.k_norm")
        if rotates:
            q, k = rope(q, window is not None), rope(k, window is not None)
        ladder |= {f"{name}.attn.q": q, f"{name}.attn.k": k}
        unseen = (back < 0) | (back >= (window or tokens))
        mixed = []
        for h in range(heads):
            group = h // (heads // kv_heads)
            scores = cap(head(q, h) @ head(k, group).T * scale, cfg.get("attn_logit_softcapping"))
            scores = np.where(unseen, -np.inf, scores)
            scores = np.exp(scores - scores.max(-1, keepdims=True))
            mixed.append(scores / scores.sum(-1, keepdims=True) @ head(v, group))
        mix = ladder[f"{name}.attn.mix"] = np.concatenate(mixed, -1)
        out = ladder[f"{name}.attn.out"] = linear(mix, f"{layer}.self_attn.o_proj")
        out = norm(out, attn_post_norm, "attn_post_norm")
        x = ladder[f"{name}.mid"] = x + out * cfg.get("residual_multiplier", 1)
        normed = norm(x, mlp_norm, "mlp_norm")
        if family == "phi3":
            gate, up = np.split(linear(normed, f"{layer}.mlp.gate_up_proj"), 2, -1)
        else:
            gate, up = linear(normed, f"{layer}.mlp.gate_proj"), linear(normed, f"{layer}.mlp.up_proj")
        ladder |= {f"{name}.mlp.gate": gate, f"{name}.mlp.up": up}
        gated = ladder[f"{name}.mlp.gated"] = act(gate) * up
        out = ladder[f"{name}.mlp.out"] = linear(gated, f"{layer}.mlp.down_proj")
        out = norm(out, mlp_post_norm, "mlp_post_norm")
        x = ladder[f"{name}.out"] = x + out * cfg.get("residual_multiplier", 1)
    x = ladder["final_norm"] = rms_norm(x, "model.norm")
    # A tied model may still have a head; here it has the embedding's bytes.
    head_weight = weights.get("lm_head.weight", weights["model.embed_tokens.weight"])
    logits = x @ head_weight.T / cfg.get("logits_scaling", 1)
    ladder["logits"] = cap(logits, cfg.get("final_logit_softcapping"))
    return ladder
