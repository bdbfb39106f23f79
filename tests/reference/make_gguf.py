#!/usr/bin/env python3
"""Write tests/reference/gguf/NAME.gguf: fixtures as llama.cpp's own converter makes GGUF files of them, in
the type that their weights have.

    tests/reference/make_gguf.py LLAMA_CPP [NAME...]        (torch, transformers, numpy, gguf; llama.cpp's sources)

LLAMA_CPP is a folder with the sources of llama.cpp, whose conversion/ is used; without names, every fixture below. The
files hold no vocabulary: the fixtures' models run on token ids.
"""
import json
import logging
import pathlib
import shutil
import sys
import tempfile

FIXTURES = [
    "tied-llama3", "linear-rope", "biases", "head-dim", "mistral-full", "qwen2", "qwen3", "qwen3-yarn", "phi3-short",
    "phi3-long", "phi4-mini", "gemma2", "gemma3", "smollm3", "olmo2", "granite",
]
HERE = pathlib.Path(__file__).resolve().parent


def main():
    llama_cpp, names = pathlib.Path(sys.argv[1]), sys.argv[2:] or FIXTURES
    sys.path[:0] = [str(llama_cpp), str(llama_cpp / "gguf-py")]
    import gguf
    import torch
    from safetensors import safe_open
    from conversion import ModelBase, ModelType, get_model_architecture, get_model_class

    logging.disable(logging.INFO)
    (HERE / "gguf").mkdir(exist_ok=True)
    for name in names:
        with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
            folder = pathlib.Path(folder)
            for file in (HERE / name).iterdir():
                if file.name != "reference.safetensors":
                    shutil.copy(file, folder)
            hparams = ModelBase.load_hparams(folder, False)
            if not (folder / "tokenizer.json").exists():
                # Gemma's converter counts the tokens, to drop rows that have none.
                vocab = {str(i): i for i in range(hparams.get("text_config", hparams)["vocab_size"])}
                (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocab}, "added_tokens": []}))
            model_class = get_model_class(get_model_architecture(hparams, ModelType.TEXT))
            with safe_open(next(folder.glob("*.safetensors")), "pt") as weights:
                dtype = weights.get_slice(next(iter(weights.keys()))).get_dtype()
            kind = {"F32": "ALL_F32", "F16": "MOSTLY_F16", "BF16": "MOSTLY_BF16"}[dtype]
            out = HERE / "gguf" / f"{name}.gguf"
            model_class.set_vocab = lambda self: self.gguf_writer.add_tokenizer_model("no_vocab")
            model_class(folder, gguf.LlamaFileType[kind], out, eager=True).write()
            print(f"{out.name}: {out.stat().st_size} bytes")


main()
