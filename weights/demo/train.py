"""Trains the demo checkpoint: a small Llama that writes plays.

    python train.py tinyshakespeare.txt OUT_FOLDER [--steps 1200]

Writes a complete Hugging Face folder (config.json, model.safetensors, tokenizer.json, tokenizer_config.json,
generation_config.json) to OUT_FOLDER each time the held-out loss improves, so that a stopped run leaves a whole
checkpoint behind. The last tenth of the text is held out: neither the tokenizer nor the model learns from it.

Made with Python 3.11, torch 2.15.0, transformers 5.23.0, tokenizers 0.23.3, safetensors 0.8.0. The seed is fixed;
another version or another processor still gives a slightly different checkpoint.
"""

import argparse
import json
import math
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM

SEED = 1623  # the year of the First Folio
BOS, EOS = "<|begin_of_text|>", "<|end_of_text|>"
BOS_ID, EOS_ID = 0, 1

# The field names are those of the Llama 3 checkpoints on the Hub. RoPE waves longer than 256 tokens are stretched four
# times, as Llama 3.1 does with 8192 and 8.
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": BOS_ID,
    "eos_token_id": EOS_ID,
    "head_dim": 32,
    "hidden_act": "silu",
    "hidden_size": 256,
    "initializer_range": 0.02,
    "intermediate_size": 704,
    "max_position_embeddings": 1024,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 8,
    "num_hidden_layers": 4,
    "num_key_value_heads": 4,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "factor": 4.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 256,
        "rope_type": "llama3",
    },
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "vocab_size": 1536,
}

GENERATION_CONFIG = {
    "bos_token_id": BOS_ID,
    "do_sample": True,
    "eos_token_id": EOS_ID,
    "temperature": 0.8,
    "top_p": 0.95,
}

TOKENIZER_CONFIG = {
    "bos_token": BOS,
    "clean_up_tokenization_spaces": False,
    "eos_token": EOS,
    "model_input_names": ["input_ids", "attention_mask"],
    "model_max_length": CONFIG["max_position_embeddings"],
    "tokenizer_class": "PreTrainedTokenizerFast",
}

# Llama 3's split without the English contractions (so that "'tis" and "think'st" stay whole words and endings) and
# with line ends always apart from punctuation: "ROMEO:" is then cut alike as a prompt and in front of a new line.
SPLIT = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s*[\r\n]+|\s+(?!\S)|\s+"


def train_tokenizer(text):
    """A byte-level BPE tokenizer that puts BOS in front once."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=CONFIG["vocab_size"],
        special_tokens=[BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([text], trainer)
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single=f"{BOS} $A",
                pair=f"{BOS} $A {BOS}:1 $B:1",
                special_tokens=[(BOS, BOS_ID)],
            ),
        ]
    )
    return tokenizer


def encode(tokenizer, text):
    """Ids of `text` without BOS: i64 [tokens]."""
    return torch.tensor(tokenizer.encode(text, add_special_tokens=False).ids)


def add_dropout(model, p):
    """Dropout after the embedding and after each sub-layer: Llama has none, and this corpus is tiny."""
    outputs = [model.model.embed_tokens]
    for layer in model.model.layers:
        outputs += [layer.self_attn.o_proj, layer.mlp]
    for module in outputs:
        module.register_forward_hook(lambda m, _, out: torch.nn.functional.dropout(out, p, m.training))


def sample_batch(ids, starts, batch, length):
    """i64 [batch, length + 1]: half the windows lie anywhere, half are BOS and what follows the start of a speech."""
    rows = []
    for row in range(batch):
        if row % 2:
            at = int(torch.randint(len(ids) - length, ()))
            rows.append(ids[at : at + length + 1])
        else:
            at = int(starts[torch.randint(len(starts), ())])
            rows.append(torch.cat([torch.tensor([BOS_ID]), ids[at : at + length]]))
    return torch.stack(rows)


def loss_of(model, windows, reduction="mean"):
    """Cross entropy of each token of i64 [batch, length + 1] after the first, in nats."""
    logits = model(windows[:, :-1], use_cache=False).logits
    return torch.nn.functional.cross_entropy(
        logits.flatten(0, 1).float(), windows[:, 1:].flatten(), reduction=reduction
    )


@torch.no_grad()
def held_out_loss(model, ids, length):
    """Mean loss per token over the whole of `ids`, in windows of `length` that know nothing of each other."""
    model.eval()
    total = 0.0
    for at in range(0, len(ids) - 1, length):
        total += loss_of(model, ids[None, at : at + length + 1], "sum").item()
    model.train()
    return total / (len(ids) - 1)


def rounded(model):
    """The model's tensors in bf16, as stored: the tied lm_head is left out."""
    state = {k: v.detach() for k, v in model.state_dict().items() if k != "lm_head.weight"}
    return {k: v.to(torch.bfloat16).contiguous() for k, v in state.items()}


def save(folder, tensors, tokenizer):
    """Writes the checkpoint folder."""
    folder.mkdir(parents=True, exist_ok=True)
    jsons = {
        "config.json": CONFIG,
        "generation_config.json": GENERATION_CONFIG,
        "tokenizer_config.json": TOKENIZER_CONFIG,
    }
    for name, value in jsons.items():
        (folder / name).write_text(json.dumps(value, indent=2) + "\n")
    tokenizer.save(str(folder / "tokenizer.json"))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)  # safetensors leaves 0600


def optimizer_of(model, lr):
    """AdamW; weight decay on matrices alone."""
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98))


def rate(step, steps, warmup=100):
    """Share of the peak learning rate: linear warm-up, then a cosine down to a hundredth."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("text", type=Path, help="the tinyshakespeare text, 1115394 bytes")
    args.add_argument("out", type=Path, help="folder for the checkpoint")
    args.add_argument("--steps", type=int, default=1200)
    args.add_argument("--batch", type=int, default=4, help="windows a step")
    args.add_argument("--length", type=int, default=1024, help="tokens a window")
    args.add_argument("--lr", type=float, default=2e-3)
    args.add_argument("--dropout", type=float, default=0.2)
    args.add_argument("--eval-every", type=int, default=150)
    args.add_argument("--threads", type=int, default=1)
    args = args.parse_args()
    torch.manual_seed(SEED)
    torch.set_num_threads(args.threads)

    text = args.text.read_text(encoding="utf-8")
    cut = text.index("\n\n", len(text) * 9 // 10) + 2
    tokenizer = train_tokenizer(text[:cut])
    ids, held_out = encode(tokenizer, text[:cut]), encode(tokenizer, text[cut:])
    bytes_per_token = len(text[cut:].encode()) / len(held_out)
    blank_line = tokenizer.encode("\n\n", add_special_tokens=False).ids[0]
    starts = (ids[:-args.length] == blank_line).nonzero().flatten() + 1

    model = LlamaForCausalLM(LlamaConfig(**CONFIG)).float()
    model.train()
    add_dropout(model, args.dropout)
    print(f"{sum(p.numel() for p in model.parameters())} parameters, {len(ids)} tokens to learn from,", flush=True)
    print(f"{len(held_out)} held out, {bytes_per_token:.3f} bytes each", flush=True)

    optimizer = optimizer_of(model, args.lr)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, args.steps))
    best, mean, began = math.inf, None, time.time()
    for step in range(1, args.steps + 1):
        windows = sample_batch(ids, starts, args.batch, args.length)
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(model, windows)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        mean = loss.item() if mean is None else 0.98 * mean + 0.02 * loss.item()

        if step % args.eval_every == 0 or step == args.steps:
            held = held_out_loss(model, held_out, args.length)
            kept = held < best
            if kept:
                best = held
                save(args.out, rounded(model), tokenizer)
            print(
                f"step {step:5}  {time.time() - began:5.0f} s  train {mean:.4f}  held out {held:.4f}"
                f" a token, {held / bytes_per_token:.4f} a byte{'  kept' if kept else ''}",
                flush=True,
            )

    kept = LlamaForCausalLM.from_pretrained(args.out).float()
    held = held_out_loss(kept, held_out, args.length)
    print(f"the kept checkpoint, as stored in bf16: {held:.4f} a token, {held / bytes_per_token:.4f} a byte")


if __name__ == "__main__":
    main()
