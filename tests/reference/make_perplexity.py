"""The demo's perplexity by transformers, in f32: tests/reference/perplexity/expected.json.

    python tests/reference/make_perplexity.py

The text is cut as nanoserve-run --perplexity cuts it: into independent windows of CTX tokens. The first token of each is
replaced by the BOS if prompts begin with one, and the second half is scored. A rest that fills no window is left out.
"""

import json
import math
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

HERE = Path(__file__).parent
DEMO = HERE.parent.parent / "weights" / "demo"
WINDOWS = (64, 128, 200)


def main():
    model = AutoModelForCausalLM.from_pretrained(DEMO, dtype=torch.float32)
    model.eval()
    tokenizer = Tokenizer.from_file(str(DEMO / "tokenizer.json"))
    bos = model.config.bos_token_id
    text = (HERE / "perplexity" / "text.txt").read_text()
    ids = tokenizer.encode(text).ids
    # What the post-processor puts in front of every text, if anything.
    begins = tokenizer.encode("").ids
    assert begins in ([], [bos]), begins
    out = {"tokens": len(ids), "bos": bos if begins else None, "values": []}
    for ctx in WINDOWS:
        surprises = []
        for start in range(0, len(ids) - ctx + 1, ctx):
            window = ids[start:start + ctx]
            if begins:
                window[0] = bos
            with torch.no_grad():
                logits = model(torch.tensor([window])).logits[0].double()
            log_p = torch.log_softmax(logits, dim=-1)
            surprises += [-log_p[t, window[t + 1]].item() for t in range(ctx // 2, ctx - 1)]
        n = len(surprises)
        mean = sum(surprises) / n
        variance = sum(s * s for s in surprises) / n - mean * mean
        value = math.exp(mean)
        out["values"].append({"ctx": ctx, "scored": n, "perplexity": value,
                              "standard_error": value * math.sqrt(variance / (n - 1))})
    (HERE / "perplexity" / "expected.json").write_text(json.dumps(out, indent=1) + "\n")
    print(json.dumps(out, indent=1))


if __name__ == "__main__":
    main()
