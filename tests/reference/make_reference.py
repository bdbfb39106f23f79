#!/usr/bin/env python3
"""Make the reference fixtures of nanoserve, or the reference file of a real checkpoint, with transformers.

    python make_reference.py                    all fixtures, into the folders beside this script
    python make_reference.py NAME...            only these
    python make_reference.py --checkpoint DIR OUT.safetensors [--tokens N | --ids 1,2,3]
                                                the reference file of a checkpoint, such as Llama-3.2-1B

A fixture is a small Hugging Face checkpoint of random weights and `reference.safetensors`: the output of every component
of the model in fp32 on the CPU, taken by forward hooks from the class that its config.json names:

    input_ids                  i64 [T]
    embed                      [T, hidden]                after its scale
    layers.{i}.attn_norm       [T, hidden]                where there is a norm before attention
    layers.{i}.attn.q_norm     [T, heads * head_dim]      where queries have a norm, head by head
    layers.{i}.attn.k_norm     [T, kv_heads * head_dim]   where keys have one
    layers.{i}.attn.q          [T, heads * head_dim]      after RoPE (where the layer has it), head by head
    layers.{i}.attn.k          [T, kv_heads * head_dim]   after RoPE, head by head
    layers.{i}.attn.v          [T, kv_heads * head_dim]
    layers.{i}.attn.out        [T, hidden]                after the output projection
    layers.{i}.attn_post_norm  [T, hidden]                where there is a norm behind attention
    layers.{i}.mlp_norm        [T, hidden]                where there is a norm before the feed-forward block
    layers.{i}.mlp.out         [T, hidden]
    layers.{i}.mlp_post_norm   [T, hidden]                where there is a norm behind it
    layers.{i}.out             [T, hidden]                after the residual
    final_norm                 [T, hidden]
    logits                     [T, vocab]                 after scale and cap
    greedy_ids                 i64 [20]                   what greedy decoding appends to input_ids; eos does not stop it

A rotary embedding of the kind dynamic or longrope depends on the length of the text. Here, as in the runtime, that is the
capacity of the session: T for the activations, T + 20 for all steps of the greedy continuation.

and, for a real checkpoint and for the fixtures marked `fine`, every other operation of a layer:

    layers.{i}.attn.q_plain    [T, heads * head_dim]      before RoPE
    layers.{i}.attn.k_plain    [T, kv_heads * head_dim]   before RoPE
    layers.{i}.attn.mix        [T, heads * head_dim]      before the output projection
    layers.{i}.mid             [T, hidden]                after the residual of attention
    layers.{i}.mlp.gate        [T, intermediate]          before its activation
    layers.{i}.mlp.up          [T, intermediate]
    layers.{i}.mlp.gated       [T, intermediate]          activation(gate) * up

and, for a real checkpoint, what fp32 itself does to each of these components, as a distance from the same model in f64:

    spread.NAME                f64 [T]                    all computed in f64 from the ids on
    own_spread.NAME            f64 [T]                    that component alone, from the inputs it had in fp32

The weights are rounded to the checkpoint's dtype and written first; the reference is computed from what the file
holds, widened to fp32. Everything is seeded: the same versions on the same kind of CPU give the same bytes. Another
CPU may give other last bits, far below the tolerance of the comparison. plain_model.py is a second, independent
implementation in f64: every component of every fixture is checked against it when it is made.

The committed fixtures were made with Python 3.11.7, torch 2.15.0, transformers 5.23.0, tokenizers 0.23.3,
safetensors 0.8.0 and numpy 2.4.6; the file VERSIONS beside this script is written by it and says the same.
"""

import argparse
import copy
import json
import math
import os
import platform
import re
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # nothing here comes from a network
sys.dont_write_bytecode = True  # no __pycache__ among the fixtures

import numpy as np
import safetensors
import tokenizers
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch.overrides import TorchFunctionMode
from transformers import AutoConfig, PreTrainedModel

import fixture_tokenizers
import plain_model
from fixtures import FIXTURES, Fixture

transformers.utils.logging.disable_progress_bar()

HERE = Path(__file__).resolve().parent
GREEDY = 20  # tokens of greedy continuation
MARGIN = 1e-3  # smallest allowed distance of the best to the second logit at a greedy step of a fixture
TOLERANCE = 1e-5  # absolute and relative, for the fixtures: |ours - reference| <= 1e-5 + 1e-5 * |reference|
HEADROOM = 0.4  # the part of it that the rounding of the fp32 reference may use up itself
BY_LENGTH = {"dynamic", "longrope"}  # rotary embeddings that depend on the length of a text
# Keys of a published checkpoint with a vision tower, and transformers' own keys inside the model.
PUBLISHED = [("model.language_model.", "language_model.model."), ("model.vision_tower.", "vision_tower."),
             ("model.multi_modal_projector.", "multi_modal_projector.")]


# ----------------------------------------------------------------------------------------------------------- weights


def model_class(cfg: dict) -> type[PreTrainedModel]:
    return getattr(transformers, cfg["architectures"][0])


def published(key: str) -> str:
    """The key that published checkpoints have for a key of the model inside."""
    return next((old + key.removeprefix(new) for new, old in PUBLISHED if key.startswith(new)), key)


def tensor_shapes(cfg: dict) -> dict[str, list[int]]:
    """Every tensor the config asks for, by its Hugging Face key. A tied model has no lm_head.weight."""
    if cfg["model_type"] != "llama":
        with torch.device("meta"):
            model = model_class(cfg)(AutoConfig.for_model(**cfg))
        tied = model.lm_head.weight is model.get_input_embeddings().weight
        state = {published(key): list(tensor.shape) for key, tensor in model.state_dict().items()}
        return {key: shape for key, shape in state.items() if not (tied and key == "lm_head.weight")}
    hidden, inner, heads = cfg["hidden_size"], cfg["intermediate_size"], cfg["num_attention_heads"]
    head_dim = cfg.get("head_dim") or hidden // heads
    q, kv = heads * head_dim, (cfg.get("num_key_value_heads") or heads) * head_dim
    shapes = {"model.embed_tokens.weight": [cfg["vocab_size"], hidden]}
    for i in range(cfg["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        shapes[f"{layer}.input_layernorm.weight"] = [hidden]
        for name, out, inp, bias in [
            ("self_attn.q_proj", q, hidden, "attention_bias"),
            ("self_attn.k_proj", kv, hidden, "attention_bias"),
            ("self_attn.v_proj", kv, hidden, "attention_bias"),
            ("self_attn.o_proj", hidden, q, "attention_bias"),
            ("mlp.gate_proj", inner, hidden, "mlp_bias"),
            ("mlp.up_proj", inner, hidden, "mlp_bias"),
            ("mlp.down_proj", hidden, inner, "mlp_bias"),
        ]:
            shapes[f"{layer}.{name}.weight"] = [out, inp]
            if cfg.get(bias):
                shapes[f"{layer}.{name}.bias"] = [out]
        shapes[f"{layer}.post_attention_layernorm.weight"] = [hidden]
    shapes["model.norm.weight"] = [hidden]
    if not cfg.get("tie_word_embeddings", False):
        shapes["lm_head.weight"] = [cfg["vocab_size"], hidden]
    return shapes


def random_weights(fixture: Fixture) -> dict[str, torch.Tensor]:
    """Seeded weights in the checkpoint's dtype, spread so that a wrong component cannot hide.

    Norm weights differ from one, attention scores have a std of about 1, the logits of about 1.2. With much more than that,
    fp32's own rounding, in the reference and in the program compared with it, would grow past the tolerance.
    """
    cfg, rng = plain_model.text_config(fixture.config), np.random.default_rng(fixture.seed)
    plus_one = cfg["model_type"].startswith("gemma")
    shapes = tensor_shapes(fixture.config)
    weights = {}
    for key, shape in shapes.items():
        values = rng.standard_normal(shape)
        if "norm" in key:
            values = (0 if plus_one else 1) + 0.2 * values
            # With a scaled and tied embedding, each row of logits would favour its own input token, and greedy decoding would
            # repeat one token for ever. A last norm of both signs prevents that.
            if plus_one and key.endswith("model.norm.weight"):
                values = 5 * values - 1
        elif key.endswith(".bias"):
            values *= 0.2
        elif key == "lm_head.weight" or ("embed_tokens" in key and "lm_head.weight" not in shapes):
            values *= fixture.logits / math.sqrt(cfg["hidden_size"])
        elif "embed_tokens" not in key:
            values /= math.sqrt(shape[-1])
        weights[key] = torch.from_numpy(values).to(fixture.dtype)
    return weights


def random_ids(fixture: Fixture) -> torch.Tensor:
    """T seeded token ids: BOS, the last row of the vocabulary, the first, then any."""
    rng = np.random.default_rng([fixture.seed, 1])
    vocab = plain_model.text_config(fixture.config)["vocab_size"]
    ids = rng.integers(0, vocab, fixture.tokens)
    ids[:3] = [fixture.config["bos_token_id"], vocab - 1, 0]
    return torch.from_numpy(ids)


# --------------------------------------------------------------------------------------------------------- checkpoint


def write_json(path: Path, value, indent: int | None = 2) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=indent) + "\n", encoding="utf-8")


def save(tensors: dict[str, torch.Tensor], path: Path, made_by: str | None = None) -> None:
    # One key of metadata at most: the library writes several in an arbitrary order.
    metadata = {"made_by": made_by} if made_by else {"format": "pt"}
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path, metadata=metadata)
    path.chmod(0o644)


def write_weights(folder: Path, weights: dict[str, torch.Tensor], shards: int) -> None:
    """model.safetensors, or that many shards of about equal size with their index."""
    if shards == 1:
        return save(weights, folder / "model.safetensors")
    total = sum(tensor.nbytes for tensor in weights.values())
    parts, before = [{} for _ in range(shards)], 0
    for key, tensor in weights.items():
        parts[before * shards // total][key] = tensor
        before += tensor.nbytes
    weight_map = {}
    for i, part in enumerate(parts):
        name = f"model-{i + 1:05}-of-{shards:05}.safetensors"
        save(part, folder / name)
        weight_map |= {key: name for key in part}
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    write_json(folder / "model.safetensors.index.json", index)


def write_tokenizer(folder: Path, fixture: Fixture) -> None:
    """tokenizer.json, the cases made with it, and the small files that go with a tokenizer."""
    tokenizer = getattr(fixture_tokenizers, fixture.tokenizer)()
    assert tokenizer.get_vocab_size() == fixture.config["vocab_size"]
    (folder / "tokenizer.json").write_text(tokenizer.to_str(pretty=True) + "\n", encoding="utf-8")
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))  # the cases are those of the file
    rows = ",\n".join(json.dumps(row, ensure_ascii=False) for row in fixture_tokenizers.cases(tokenizer))
    (folder / "tokenizer_cases.json").write_text(f"[\n{rows}\n]\n", encoding="utf-8")

    if fixture.tokenizer == "byte_level":
        write_json(folder / "tokenizer_config.json", {
            "bos_token": fixture_tokenizers.BOS,
            "chat_template": fixture_tokenizers.CHAT_TEMPLATE,
            "clean_up_tokenization_spaces": False,
            "eos_token": "<|eot_id|>",
            "model_max_length": fixture.config["max_position_embeddings"],
            "tokenizer_class": "PreTrainedTokenizerFast",
        })
        end, turn = tokenizer.token_to_id("<|end_of_text|>"), tokenizer.token_to_id("<|eot_id|>")
        write_json(folder / "generation_config.json", {
            "bos_token_id": fixture.config["bos_token_id"],
            "do_sample": True,
            "eos_token_id": [end, turn],
            "repetition_penalty": 1.1,
            "temperature": 0.6,
            "top_k": 50,
            "top_p": 0.9,
        })
    else:
        (folder / "chat_template.jinja").write_text(fixture_tokenizers.CHAT_TEMPLATE_JINJA, encoding="utf-8")


def load(folder: Path) -> PreTrainedModel:
    """The checkpoint in fp32, built from its own config.json; every tensor found, none left over."""
    cfg = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    model, info = model_class(cfg).from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", local_files_only=True, output_loading_info=True
    )
    unexpected = [key for key in info["unexpected_keys"] if not key.endswith("rotary_emb.inv_freq")]
    assert not info["missing_keys"], info["missing_keys"]
    assert not unexpected, unexpected
    assert not info["mismatched_keys"], info["mismatched_keys"]
    assert all(p.dtype == torch.float32 for p in model.parameters())
    return model.eval()


def text_model(model: PreTrainedModel) -> torch.nn.Module:
    """Embedding, layers and last norm."""
    return getattr(model.model, "language_model", model.model)


def rope_kinds(model: PreTrainedModel) -> set[str]:
    kinds = text_model(model).rotary_emb.rope_type
    return set(kinds.values()) if isinstance(kinds, dict) else {kinds}


# ---------------------------------------------------------------------------------------------------------- reference


@dataclass
class Pass:
    """What one pass over the ids gave."""

    seen: dict[str, torch.Tensor]  # every component of the ladder, [T, width]
    raw: dict[str, torch.Tensor]  # the same as the modules made them, by the first component that is taken from each
    rotary: torch.nn.Module  # the rotary embedding as it was before: the kind dynamic remembers the longest text


@torch.inference_mode()
def activations(model: PreTrainedModel, ids: torch.Tensor, fine: bool, forced: Pass | None = None) -> Pass:
    """One pass over `ids` without a cache; every component of the ladder, through hooks.

    With `forced`, each component is kept as this model makes it, and then that pass's values go on in its place. So
    each is computed from the inputs that it had in that pass.
    """
    seen, raw, handles, text = {}, {}, [], text_model(model)
    rotary = copy.deepcopy(text.rotary_emb)
    config, dtype = text.config, model.lm_head.weight.dtype
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads

    def keep(name: str, tensor: torch.Tensor) -> None:
        assert name not in seen and tensor.shape[0] == 1 and tensor.dtype == dtype, name
        seen[name] = tensor[0].clone()

    def passed_on(name: str, tensor: torch.Tensor) -> torch.Tensor:
        raw[name] = tensor.clone()
        return tensor if forced is None else forced.raw[name].to(dtype)

    def hook_parts(module: torch.nn.Module, takes: dict) -> None:
        def after(_module, _inputs, output):
            for name, take in takes.items():
                keep(name, take(output))
            return passed_on(next(iter(takes)), output)
        handles.append(module.register_forward_hook(after))

    def hook(module: torch.nn.Module | None, name: str, take=lambda output: output) -> None:
        if module is not None:
            hook_parts(module, {name: take})

    def hook_input(module: torch.nn.Module, name: str) -> None:
        def before(_module, inputs):
            keep(name, inputs[0])
            return (passed_on(name, inputs[0]), *inputs[1:])
        handles.append(module.register_forward_pre_hook(before))

    def by_head(heads: int):
        """Flattens [1, T, heads, head_dim] or [1, heads, T, head_dim]; [1, T, heads * head_dim] stays as it is."""
        def flat(tensor: torch.Tensor) -> torch.Tensor:
            if tensor.dim() == 3:
                return tensor
            return (tensor if tensor.shape[1:3] == (len(ids), heads) else tensor.transpose(1, 2)).flatten(2)
        return flat

    def part(sizes: list[int], which: int):
        return lambda output: output.split(sizes, -1)[which]

    hook_input(text.layers[0], "embed")
    for i, layer in enumerate(text.layers):
        name, attention, mlp = f"layers.{i}", layer.self_attn, layer.mlp
        # post_attention_layernorm stands before the feed-forward block in some families, behind attention in others.
        behind = hasattr(layer, "post_feedforward_layernorm")
        before_mlp = getattr(layer, "pre_feedforward_layernorm", None if behind else layer.post_attention_layernorm)
        hook(getattr(layer, "input_layernorm", None), f"{name}.attn_norm")
        hook(getattr(attention, "q_norm", None), f"{name}.attn.q_norm", by_head(heads))
        hook(getattr(attention, "k_norm", None), f"{name}.attn.k_norm", by_head(kv_heads))
        hook(attention.o_proj, f"{name}.attn.out")
        if behind:
            hook(layer.post_attention_layernorm, f"{name}.attn_post_norm")
            hook(layer.post_feedforward_layernorm, f"{name}.mlp_post_norm")
        hook(before_mlp, f"{name}.mlp_norm")
        hook(mlp, f"{name}.mlp.out")
        hook(layer, f"{name}.out")
        if hasattr(attention, "qkv_proj"):
            sizes = [n * attention.head_dim for n in (heads, kv_heads, kv_heads)]
            rungs = enumerate(["q_plain", "k_plain", "v"])
            hook_parts(attention.qkv_proj, {f"{name}.attn.{rung}": part(sizes, which) for which, rung in rungs})
        else:
            hook(attention.q_proj, f"{name}.attn.q_plain")
            hook(attention.k_proj, f"{name}.attn.k_plain")
            hook(attention.v_proj, f"{name}.attn.v")
        if fine:
            hook_input(attention.o_proj, f"{name}.attn.mix")
            hook_input(before_mlp or mlp, f"{name}.mid")
            if hasattr(mlp, "gate_up_proj"):
                sizes = [config.intermediate_size] * 2
                halves = enumerate(["gate", "up"])
                hook_parts(mlp.gate_up_proj, {f"{name}.mlp.{half}": part(sizes, which) for which, half in halves})
            else:
                hook(mlp.gate_proj, f"{name}.mlp.gate")
                hook(mlp.up_proj, f"{name}.mlp.up")
            hook_input(mlp.down_proj, f"{name}.mlp.gated")
    hook(text.norm, "final_norm")

    # q and k after RoPE are not the output of a module: wrap the function that every layer with RoPE calls once, in order.
    modeling = sys.modules[type(text).__module__]
    rotating = [i for i, layer in enumerate(text.layers) if getattr(layer.self_attn, "use_rope", True)]
    original, calls = modeling.apply_rotary_pos_emb, iter(rotating)

    def apply_rotary_pos_emb(q, k, *args, **kwargs):
        q, k = original(q, k, *args, **kwargs)  # [1, heads, T, head_dim]
        i = next(calls)
        q_name, k_name = f"layers.{i}.attn.q", f"layers.{i}.attn.k"
        keep(q_name, q.transpose(1, 2).flatten(2))
        keep(k_name, k.transpose(1, 2).flatten(2))
        return passed_on(q_name, q), passed_on(k_name, k)

    modeling.apply_rotary_pos_emb = apply_rotary_pos_emb
    try:
        # The logits after scale and cap are not the output of a module either.
        keep("logits", model(input_ids=ids[None], use_cache=False).logits)
    finally:
        modeling.apply_rotary_pos_emb = original
        for handle in handles:
            handle.remove()
    assert next(calls, None) is None
    for i in range(len(text.layers)):
        for rung in ["attn.q", "attn.k"]:
            plain = seen[f"layers.{i}.{rung}_plain"] if fine else seen.pop(f"layers.{i}.{rung}_plain")
            normed = seen.get(f"layers.{i}.{rung}_norm", plain)
            seen.setdefault(f"layers.{i}.{rung}", normed)
    return Pass(seen, raw, rotary)


class InDouble(TorchFunctionMode):
    """Lets a model of f64 weights compute in f64 where transformers asks for f32: in norms and softmax.

    Angles stay in f32, as in every implementation of these models; their cosines and sines are f64.
    """

    def __torch_function__(self, func, _types, args=(), kwargs=None):
        kwargs, first = kwargs or {}, args[0] if args else None
        if func in (torch.Tensor.cos, torch.Tensor.sin):
            return func(first.double())
        if isinstance(first, torch.Tensor) and first.dtype == torch.float64:
            if func is torch.Tensor.float:
                return first
            args = tuple(torch.float64 if arg is torch.float32 else arg for arg in args)
            kwargs = {key: torch.float64 if arg is torch.float32 else arg for key, arg in kwargs.items()}
        return func(*args, **kwargs)


def spreads(model: PreTrainedModel, ids: torch.Tensor, fine: bool, single: Pass) -> dict[str, torch.Tensor]:
    """What fp32 itself does to each component: how far the pass `single` is from the same pass in f64, for each token.

    `spread.NAME` compares two passes from the ids on. `own_spread.NAME` is the part of that component alone, computed
    in f64 from the inputs it had in `single`. The model's weights become f64.
    """
    model.double()
    text_model(model).rotary_emb = single.rotary  # in f32
    found = {}
    for prefix, forced in [("spread", None), ("own_spread", single)]:
        with InDouble():
            exact = activations(model, ids, fine, forced).seen
        for name, values in single.seen.items():
            found[f"{prefix}.{name}"] = (values.double() - exact[name]).abs().amax(-1)
    return found


def rounding(cfg: dict, weights: dict[str, torch.Tensor], tensors: dict[str, torch.Tensor]) -> float:
    """The largest distance of the fp32 reference from the plain model in f64, as a fraction of the tolerance."""
    weights = {key: tensor.float().numpy() for key, tensor in weights.items()}
    worst = 0.0
    ids = tensors["input_ids"].numpy()
    ladder = plain_model.forward(cfg, weights, ids, length=len(ids))
    assert set(tensors) <= set(ladder) | {"input_ids", "greedy_ids"}
    for name, exact in ladder.items():
        if name not in tensors:
            continue
        got = tensors[name].numpy()
        assert got.shape == exact.shape, name
        worst = max(worst, (np.abs(got - exact) / (TOLERANCE + TOLERANCE * np.abs(exact))).max())
    return worst


@torch.inference_mode()
def greedy(model: PreTrainedModel, ids: torch.Tensor) -> tuple[torch.Tensor, float]:
    """GREEDY token ids that follow `ids`, and the smallest distance between the best and the second logit.

    They are computed token by token with a cache, then once more without one: a single causal pass over all ids
    must choose the same token at every step. Where the rotary embedding depends on the length of the text there is no
    cache, and every step is a pass over a text of the whole length, whose end has no effect on what is before it.
    """
    step, cache, chosen, margin = ids[None], None, [], math.inf
    by_length = bool(rope_kinds(model) & BY_LENGTH)
    for i in range(GREEDY):
        if by_length:
            filler = torch.zeros(GREEDY - i, dtype=torch.long)
            text = torch.cat([ids, torch.tensor(chosen, dtype=torch.long), filler])
            best = model(input_ids=text[None], use_cache=False).logits[0, len(ids) + i - 1].topk(2)
        else:
            out = model(input_ids=step, past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            best = out.logits[0, -1].topk(2)
        chosen.append(best.indices[0].item())
        margin = min(margin, (best.values[0] - best.values[1]).item())
        step = best.indices[None, :1]
    chosen = torch.tensor(chosen)
    whole = model(input_ids=torch.cat([ids, chosen])[None], use_cache=False).logits[0, len(ids) - 1 : -1]
    best = whole.topk(2).values
    assert torch.equal(whole.argmax(-1), chosen), "greedy ids with and without a cache differ"
    return chosen, min(margin, (best[:, 0] - best[:, 1]).min().item())


def reference(model: PreTrainedModel, ids: torch.Tensor, fine: bool) -> tuple[dict[str, torch.Tensor], float, Pass]:
    """The tensors of a reference file, the smallest margin of the greedy continuation, and the pass over `ids`."""
    single = activations(model, ids, fine)
    chosen, margin = greedy(model, ids)
    return {"input_ids": ids, **single.seen, "greedy_ids": chosen}, margin, single


# ----------------------------------------------------------------------------------------------------------- programs


def versions() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "torch": torch.__version__.split("+")[0],
        "transformers": transformers.__version__,
        "tokenizers": tokenizers.__version__,
        "safetensors": safetensors.__version__,
        "numpy": np.__version__,
    }


def made_by() -> str:
    return ", ".join(f"{name} {version}" for name, version in versions().items())


def check_context(name: str, fixture: Fixture, tensors: dict[str, torch.Tensor]) -> None:
    """The fixture is long enough for what it tests: past its window, or past its original context."""
    cfg = plain_model.text_config(fixture.config)
    rope, length = plain_model.rope_fields(cfg, local=False), fixture.tokens + GREEDY
    most = cfg["max_position_embeddings"]
    if rope["kind"] in ("dynamic", "yarn"):  # the context may be that of the first training
        most = max(most, rope["original"] * rope["factor"])
    assert length <= most, name
    if rope["kind"] in BY_LENGTH:  # the text is on one side of it from the first greedy token to the last
        assert (fixture.tokens > rope["original"]) == (length > rope["original"]), name
    elif rope["kind"] in ("llama3", "yarn"):
        assert fixture.tokens > rope["original"], name
    for window in {window for window in plain_model.windows(cfg) if window and window < most}:
        assert fixture.tokens > 2 * window, name
        # A ring holds 256 positions beside those that a token sees, in blocks of 64 (docs/arithmetic.md).
        assert fixture.tokens > -(-(window + 255) // 64) * 64 or not name.endswith("-ring"), name
    for cap, scale in [("attn_logit_softcapping", None), ("final_logit_softcapping", tensors["logits"])]:
        if cfg.get(cap) and scale is not None:  # the cap changes many logits by a tenth or more
            assert (scale.abs() > 0.5 * cfg[cap]).float().mean() > 0.1, name


def make_fixture(name: str, fixture: Fixture, folder: Path) -> None:
    """Write the checkpoint, read it back, write its reference."""
    cfg = fixture.config
    weights, ids = random_weights(fixture), random_ids(fixture)
    if fixture.extra_head:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    write_json(folder / "config.json", cfg)
    write_weights(folder, weights, fixture.shards)
    model = load(folder)

    # The model runs on exactly the values of the file.
    state = {published(key): tensor for key, tensor in model.state_dict().items()}
    for path in folder.glob("*.safetensors"):
        for key, tensor in load_file(path).items():
            assert torch.equal(state[key], tensor.float()), key
    tied = model.lm_head.weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()
    assert tied == ("lm_head.weight" not in weights or fixture.extra_head)

    tensors, margin, _ = reference(model, ids, fixture.fine)
    if fixture.no_prefix:
        renamed = {key.removeprefix("model."): tensor for key, tensor in weights.items()}
        for i in range(cfg["num_hidden_layers"]):
            renamed[f"layers.{i}.self_attn.rotary_emb.inv_freq"] = model.model.rotary_emb.inv_freq.clone()
        write_weights(folder, renamed, fixture.shards)
        assert torch.equal(activations(load(folder), ids, fine=False).seen["logits"], tensors["logits"])

    if name == "tied-llama3":  # all three bands of the llama3 rule hold a frequency
        rope = cfg["rope_parameters"]
        wavelength = 2 * math.pi * rope["rope_theta"] ** (np.arange(0, cfg["head_dim"], 2) / cfg["head_dim"])
        short = rope["original_max_position_embeddings"] / rope["high_freq_factor"]
        long = rope["original_max_position_embeddings"] / rope["low_freq_factor"]
        bands = [wavelength < short, (wavelength >= short) & (wavelength <= long), wavelength > long]
        assert all(band.any() for band in bands) and fixture.tokens > rope["original_max_position_embeddings"]

    std, chosen = tensors["logits"].std().item(), tensors["greedy_ids"].tolist()
    eos = cfg["eos_token_id"] if isinstance(cfg["eos_token_id"], list) else [cfg["eos_token_id"]]
    check_context(name, fixture, tensors)
    error = rounding(cfg, weights, tensors)
    assert error < HEADROOM, f"{name}: fp32 alone is {error:.2f} of the tolerance off; choose another seed"
    assert std > 1, f"{name}: std of the logits is {std:.3f}"
    assert margin > MARGIN, f"{name}: a greedy step is a near tie ({margin:.2e}); choose another seed"
    assert not set(chosen) & set(eos), f"{name}: the greedy ids hold an eos; choose another seed"
    assert len(set(chosen)) >= 10, f"{name}: the greedy ids repeat themselves; choose another seed"
    save(tensors, folder / "reference.safetensors", made_by())
    if fixture.tokenizer:
        write_tokenizer(folder, fixture)
    size = sum(path.stat().st_size for path in folder.iterdir())
    assert size < 1_000_000, f"{name}: {size} bytes"
    print(f"{name:16} {size / 1000:4.0f} kB   logits std {std:.2f}   smallest greedy margin {margin:.4f}   "
          f"rounding of fp32 {error:.2f} of the tolerance")


def make_fixtures(names: list[str]) -> None:
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    for name in names:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / name
            folder.mkdir()
            make_fixture(name, FIXTURES[name], folder)
            shutil.rmtree(HERE / name, ignore_errors=True)
            shutil.copytree(folder, HERE / name)
    path, text = HERE / "VERSIONS", "".join(f"{name} {version}\n" for name, version in versions().items())
    if set(names) == set(FIXTURES):
        path.write_text(text)
    elif not path.exists() or path.read_text() != text:
        print("warning: these versions are not those of VERSIONS, which made the other fixtures", file=sys.stderr)


def checkpoint_ids(folder: Path, vocab: int, tokens: int) -> torch.Tensor:
    """The first ids of a built-in text with the checkpoint's own tokenizer, or seeded ids where it has none."""
    path = folder / "tokenizer.json"
    if not path.exists():
        return torch.from_numpy(np.random.default_rng(0).integers(0, vocab, tokens))
    ids = tokenizers.Tokenizer.from_file(str(path)).encode(fixture_tokenizers.TEXT).ids
    if len(ids) < tokens:
        raise SystemExit(f"the built-in text has {len(ids)} tokens only; give --ids")
    return torch.tensor(ids[:tokens])


def make_checkpoint(folder: Path, out: Path, tokens: int, ids: list[int] | None) -> None:
    model = load(folder)
    config = text_model(model).config
    vocab, context = config.vocab_size, config.max_position_embeddings
    ids = torch.tensor(ids) if ids else checkpoint_ids(folder, vocab, tokens)
    if not ((0 <= ids) & (ids < vocab)).all():
        raise SystemExit(f"ids must be from 0 to {vocab - 1}")
    if len(ids) + GREEDY > context:
        raise SystemExit(f"{len(ids)} ids and {GREEDY} more do not fit the context of {context}")
    tensors, margin, single = reference(model, ids, fine=True)
    widest = spreads(model, ids, True, single)
    save(tensors | widest, out, made_by())
    print(f"{out}: {len(ids)} ids, smallest greedy margin {margin:.4f}")
    for prefix in ["spread", "own_spread"]:
        parts = {name: (widest[f"{prefix}.{name}"] / values.abs().amax(-1)).max().item()
                 for name, values in single.seen.items()}
        name = max(parts, key=parts.get)
        print(f"{prefix}: fp32 moves a value by {parts[name]:.1e} of its row's largest at most, in {name}")
    if margin <= MARGIN:
        print("warning: a greedy step is a near tie; other arithmetic may choose the other token", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Make the reference fixtures, or the reference file of a real checkpoint.",
        epilog="fixtures: " + ", ".join(FIXTURES),
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="fixtures to make; all if none is given")
    parser.add_argument("--checkpoint", nargs=2, type=Path, metavar=("DIR", "OUT.safetensors"))
    parser.add_argument("--tokens", type=int, metavar="N", help="with --checkpoint: number of input ids (default 32)")
    parser.add_argument("--ids", help="with --checkpoint: these input ids, such as 1,15,9")
    args = parser.parse_args()
    if args.ids is not None and not re.fullmatch(r"\d+(,\d+)*", args.ids):
        parser.error("--ids takes numbers with commas between them")
    if args.tokens is not None and (args.tokens < 1 or args.ids is not None):
        parser.error("--tokens takes a positive number, and does not go with --ids")
    if args.checkpoint:
        if args.names:
            parser.error("--checkpoint does not go with names of fixtures")
        ids = [int(i) for i in args.ids.split(",")] if args.ids else None
        return make_checkpoint(*args.checkpoint, args.tokens or 32, ids)
    if args.ids is not None or args.tokens is not None:
        parser.error("--ids and --tokens go with --checkpoint")
    unknown = [name for name in args.names if name not in FIXTURES]
    if unknown:
        parser.error(f"no such fixture: {', '.join(unknown)}; there are: {', '.join(FIXTURES)}")
    make_fixtures(args.names or list(FIXTURES))


if __name__ == "__main__":
    main()
