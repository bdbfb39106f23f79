"""Makes the checkpoint behind chunks.nsv: one layer, and an embedding of more than 1 MiB whose weights repeat, so that it packs small.

    make_patterned.py FOLDER
"""
import json
import pathlib
import struct
import sys

VOCAB, HIDDEN, FF, HEADS = 17_000, 64, 96, 4
folder = pathlib.Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)
layer = "model.layers.0."
shapes = {"model.embed_tokens.weight": [VOCAB, HIDDEN], "model.norm.weight": [HIDDEN],
          layer + "input_layernorm.weight": [HIDDEN], layer + "post_attention_layernorm.weight": [HIDDEN],
          layer + "mlp.gate_proj.weight": [FF, HIDDEN], layer + "mlp.up_proj.weight": [FF, HIDDEN],
          layer + "mlp.down_proj.weight": [HIDDEN, FF]}
shapes |= {f"{layer}self_attn.{p}_proj.weight": [HIDDEN, HIDDEN] for p in "qkvo"}
header, body = {}, bytearray()
for number, (name, shape) in enumerate(sorted(shapes.items())):
    count = shape[0] * (shape[1] if len(shape) == 2 else 1)
    # A prime period, so that no two rows of a panel are the same.
    period = [((i * (37 + number) + 11) % 101 - 50) / 256 for i in range(101)]
    values = [1.0 + x if len(shape) == 1 else x for x in (period * (count // 101 + 1))[:count]]
    start = len(body)
    body += struct.pack(f"<{count}f", *values)
    header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, len(body)]}
text = json.dumps(header).encode()
text += b" " * (-len(text) % 8)
(folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + body)
config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": FF,
          "num_hidden_layers": 1, "num_attention_heads": HEADS, "num_key_value_heads": HEADS, "vocab_size": VOCAB,
          "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": True,
          "hidden_act": "silu", "eos_token_id": 2}
(folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
