#!/usr/bin/env python3
"""Write converter/src/blocks/reference.bin: random blocks of each GGUF type, and their values by gguf-py.

    tests/reference/make_gguf_blocks.py          (numpy, gguf 0.17 or later from PyPI)

For each type: the length of its name as a byte, the name, a u32 with the length of the blocks, the blocks, a u32 with
the number of values, the values as f32. Numbers are little-endian. Scales are finite f16; all else is random bytes.
"""
import pathlib
import struct

import gguf
import numpy as np

# Type, places of the f16 in a block, number of blocks.
TYPES = {
    "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q2_K": [80, 82], "Q3_K": [108],
    "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "IQ4_NL": [0], "IQ4_XS": [0], "TQ1_0": [52], "TQ2_0": [64], "MXFP4": [],
}


def main():
    random = np.random.default_rng(1)
    out = bytearray()
    for name, halves in TYPES.items():
        kind = gguf.GGMLQuantizationType[name]
        values, size = gguf.GGML_QUANT_SIZES[kind]
        count = 512 // values
        blocks = random.integers(0, 256, (count, size), dtype=np.uint8)
        for at in halves:
            scales = (random.standard_normal(count) * 0.01).astype(np.float16)
            blocks[:, at:at + 2] = scales.view(np.uint8).reshape(count, 2)
        if name == "MXFP4":
            blocks[:, 0] = random.integers(104, 144, count)
        if name == "TQ1_0":
            # As llama.cpp writes them: a byte is a whole number of fractions to base 3, rounded up.
            digits = random.integers(0, 3, (count, 52, 5))
            digits[:, 48:, 4] = 0
            number = (digits * np.array([81, 27, 9, 3, 1])).sum(axis=2)
            blocks[:, :52] = (number * 256 + 242) // 243
        x = gguf.quants.dequantize(blocks, kind).astype("<f4").ravel()
        assert np.isfinite(x).all(), name
        out += bytes([len(name)]) + name.encode()
        out += struct.pack("<I", blocks.size) + blocks.tobytes() + struct.pack("<I", x.size) + x.tobytes()
    path = pathlib.Path(__file__).resolve().parents[2] / "converter/src/blocks/reference.bin"
    path.write_bytes(out)


main()
