#!/usr/bin/env python3
"""Write tests/fuzz/seeds/gguf/good-*: small GGUF files with every type of tensor and both kinds of tokenizer.

    tests/reference/make_gguf_seeds.py          (numpy, gguf from PyPI)
"""
import pathlib

import gguf
import numpy as np

OUT = pathlib.Path(__file__).resolve().parents[1] / "fuzz/seeds/gguf"
VOCAB = 260


def tokens(writer, kind):
    """A vocabulary of bytes and a few longer tokens."""
    if kind == "gpt2":
        # The characters that stand for bytes, as in every byte-level vocabulary.
        fine = [*range(33, 127), *range(161, 173), *range(174, 256)]
        signs = {b: chr(b) for b in fine}
        signs |= {b: chr(256 + i) for i, b in enumerate(b for b in range(256) if b not in fine)}
        texts = [signs[b] for b in range(256)] + ["he", "ll", "hell", "<|end|>"]
        writer.add_tokenizer_pre("smollm")
        writer.add_token_list(texts)
        writer.add_token_types([1] * 259 + [3])
        writer.add_token_merges(["h e", "l l", "he ll"])
        writer.add_eos_token_id(259)
    else:
        texts = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)] + ["\u2581"]
        writer.add_tokenizer_pre("default")
        writer.add_token_list(texts)
        writer.add_token_scores([0.0] * 259 + [-1.0])
        writer.add_token_types([2, 3, 3] + [6] * 256 + [1])
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        writer.add_unk_token_id(0)
    writer.add_tokenizer_model(kind)
    writer.add_chat_template("{% for m in messages %}{{ m.content }}{% endfor %}")


def write(name, arch, kind, types, width):
    random = np.random.default_rng(1)
    writer = gguf.GGUFWriter(OUT / name, arch)
    writer.add_context_length(64)
    writer.add_embedding_length(width)
    writer.add_block_count(1)
    writer.add_feed_forward_length(width)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    tokens(writer, kind)
    half = width // 2
    matrices = {"token_embd": (VOCAB, width), "blk.0.attn_q": (width, width), "blk.0.attn_k": (half, width),
                "blk.0.attn_v": (half, width), "blk.0.attn_output": (width, width), "blk.0.ffn_gate": (width, width),
                "blk.0.ffn_up": (width, width), "blk.0.ffn_down": (width, width)}
    for i, (tensor, (rows, cols)) in enumerate(matrices.items()):
        kind = gguf.GGMLQuantizationType[types[i % len(types)]]
        values, size = gguf.GGML_QUANT_SIZES[kind]
        if kind in (gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.F16):
            data = random.standard_normal((rows, cols)).astype("<f4" if kind.name == "F32" else "<f2")
            writer.add_tensor(f"{tensor}.weight", data)
            continue
        # Small bytes: no scale is infinite.
        data = random.integers(0, 60, (rows, cols // values * size), dtype=np.uint8)
        writer.add_tensor(f"{tensor}.weight", data, raw_dtype=kind)
    for norm in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
        writer.add_tensor(f"{norm}.weight", np.ones(width, "<f4"))
    if arch == "qwen2":
        for part, rows in (("q", width), ("k", half), ("v", half)):
            writer.add_tensor(f"blk.0.attn_{part}.bias", np.zeros(rows, "<f4"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    write("good-flat", "llama", "gpt2", ["Q4_0", "Q8_0", "Q4_1", "Q5_0", "Q5_1", "IQ4_NL", "F16", "BF16"], 32)
    write("good-floats", "qwen2", "llama", ["F16"], 32)
    for path in sorted(OUT.iterdir()):
        print(path.name, path.stat().st_size)


main()
