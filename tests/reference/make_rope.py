#!/usr/bin/env python3
"""Make rope.json: transformers' frequencies, cosines and sines for every kind of rotary embedding.

    python make_rope.py

Each case is a rotary embedding in the terms of a .nsv description, a head's width and a length. The numbers are those of a
forward pass over so many positions: `inv_freq`, and at some positions the cosines and sines, already multiplied by their
factor. The same versions made the fixtures: see VERSIONS.
"""

import json
import math
import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from transformers import LlamaConfig, Phi3Config
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
from transformers.models.phi3.modeling_phi3 import Phi3RotaryEmbedding

HEAD_DIM = 32


def factors(pairs: int, slope: float) -> list[float]:
    return [round(1 + slope * i * i / pairs, 4) for i in range(pairs)]


def yarn(**fields) -> dict:
    own = {"factor": 4.0, "original_context": 64, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": True}
    own |= fields
    return {"kind": "yarn", **own, "attention_factor": fields.get("attention_factor", 0.1 * math.log(own["factor"]) + 1)}


def longrope(pairs: int = HEAD_DIM // 2) -> dict:
    return {
        "kind": "longrope", "short_factor": factors(pairs, 0.1), "long_factor": factors(pairs, 2.5),
        "original_context": 64, "attention_factor": math.sqrt(1 + math.log(8) / math.log(64)),
    }


# Name, theta, rotary_dim, scaling, length.
CASES = [
    ("default", 10000.0, None, {"kind": "default"}, 300),
    ("half of a head", 10000.0, 16, {"kind": "default"}, 300),
    ("linear", 1e6, None, {"kind": "linear", "factor": 8.0}, 300),
    ("llama3", 500000.0, None, {
        "kind": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_context": 64,
    }, 300),
    ("yarn", 10000.0, None, yarn(), 300),
    ("yarn, bounds between pairs", 1e6, None, yarn(truncate=False, beta_fast=16.0, beta_slow=2.0), 300),
    ("yarn, a factor of its own, part of a head", 150000.0, 24, yarn(factor=32.0, attention_factor=1.25), 300),
    ("yarn, one bound", 10000.0, None, yarn(beta_fast=1.0, beta_slow=1.0, truncate=False), 300),
    ("dynamic, short", 10000.0, None, {"kind": "dynamic", "factor": 2.0, "original_context": 128}, 128),
    ("dynamic, one more", 10000.0, None, {"kind": "dynamic", "factor": 2.0, "original_context": 128}, 129),
    ("dynamic, long", 10000.0, None, {"kind": "dynamic", "factor": 3.5, "original_context": 128}, 300),
    ("longrope, short", 10000.0, None, longrope(), 64),
    ("longrope, long", 10000.0, None, longrope(), 65),
    ("longrope, part of a head", 10000.0, 24, longrope(12), 300),
]


def parameters(theta: float, rotary_dim: int | None, scaling: dict) -> dict:
    """The same rotary embedding in transformers' terms."""
    words = {"kind": "rope_type", "original_context": "original_max_position_embeddings"}
    own = {words.get(key, key): value for key, value in scaling.items()}
    if scaling["kind"] == "dynamic":
        del own["original_max_position_embeddings"]  # it is the config's max_position_embeddings
    partial = {"partial_rotary_factor": rotary_dim / HEAD_DIM} if rotary_dim else {}
    return {"rope_theta": theta, **partial, **own}


def case(what: str, theta: float, rotary_dim: int | None, scaling: dict, length: int) -> dict:
    config = dict(
        hidden_size=4 * HEAD_DIM, num_attention_heads=4, rope_parameters=parameters(theta, rotary_dim, scaling),
        max_position_embeddings=scaling["original_context"] if scaling["kind"] == "dynamic" else 512,
    )
    if scaling["kind"] == "default" and rotary_dim:
        rotary = Phi3RotaryEmbedding(Phi3Config(**config, pad_token_id=0))
    else:
        rotary = LlamaRotaryEmbedding(LlamaConfig(**config, head_dim=HEAD_DIM))
    cos, sin = rotary(torch.zeros(1, 1), torch.arange(length)[None])
    pairs = (rotary_dim or HEAD_DIM) // 2
    assert rotary.inv_freq.shape == (pairs,) and cos.shape == (1, length, 2 * pairs)
    positions = [0, 1, 7, length // 2, length - 1]
    rope = {"theta": theta} | ({"rotary_dim": rotary_dim} if rotary_dim else {}) | {"scaling": scaling}
    return {
        "what": what, "rope": rope, "head_dim": HEAD_DIM, "length": length, "inv_freq": rotary.inv_freq.tolist(),
        "positions": positions,
        "cos": [cos[0, p, :pairs].tolist() for p in positions],
        "sin": [sin[0, p, :pairs].tolist() for p in positions],
    }


def main() -> None:
    rows = ",\n".join(json.dumps(case(*c)) for c in CASES)
    (Path(__file__).resolve().parent / "rope.json").write_text(f"[\n{rows}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
