#!/usr/bin/env python3
"""GGUF files that hold a tokenizer only, each with texts and the ids that the original tokenizer gives them.

    make_gguf_tokenizers.py                               the small files in tests/reference/gguf-tokenizers
    make_gguf_tokenizers.py OUT [--texts FILE ...] NAME=PRE:tokenizer.json NAME=FILE.gguf:tokenizer.json NAME=FILE.gguf ...

The first form trains small vocabularies. The second compares whole ones; the test that reads its output is
`NANOSERVE_GGUF_TOKENIZERS=OUT cargo test -p nanoserve-converter whole_vocabularies`. Of each NAME it makes NAME.gguf and
NAME.cases.json:

    PRE:tokenizer.json        a file as llama.cpp's converter writes it: texts, kinds, merges and the name PRE; 10,000 texts
    FILE.gguf:tokenizer.json  the file that is there; 10,000 texts, whose ids the tokenizer.json gives
    FILE.gguf                 the file that is there; the texts in FILE.gguf.inp and their ids in FILE.gguf.out

Texts are pieces of the FILEs, random characters, and tokens of the vocabulary's own in between. Needs gguf and tokenizers;
VERSIONS says which.
"""

import argparse, json, os, random, sys
from pathlib import Path

import gguf
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

HERE = Path(__file__).resolve().parent
T = gguf.TokenType

# How the published tokenizer.json of each name splits.
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
O200K = "|".join([
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"\p{N}{1,3}", r" ?[^\s\p{L}\p{N}]+[\r\n/]*", r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+",
])
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
EXPRESSIONS = {
    "llama-bpe": [LLAMA3],
    "dbrx": [LLAMA3],
    "qwen2": [QWEN2],
    "qwen35": [QWEN2.replace(r"\p{L}+|", r"[\p{L}\p{M}]+|").replace(r" ?[^\s\p{L}\p{N}]", r" ?[^\s\p{L}\p{M}\p{N}]")],
    "gpt-4o": [O200K],
    "tekken": [O200K.replace("(?i:'s|'t|'re|'ve|'m|'ll|'d)?", "").replace(r"\p{N}{1,3}", r"\p{N}")],
    "deepseek-v3": [
        r"\p{N}{1,3}",
        "[一-龥\u3040-ゟ゠-ヿ]+",
        "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
        "| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
    ],
}
GPT2, DIGITS = ["gpt-2"], ["smollm", "command-r"]
COMPOSED = ["qwen2", "qwen35", "command-r"]
UNMERGED = ["llama-bpe", "tekken"]


def steps(pre: str):
    """The pre-tokenizer of a name."""
    if pre in GPT2:
        return pre_tokenizers.ByteLevel(add_prefix_space=False)
    if pre in DIGITS:
        digits = pre_tokenizers.Digits(individual_digits=True)
        return pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    splits = [pre_tokenizers.Split(Regex(e), behavior="isolated") for e in EXPRESSIONS[pre]]
    return pre_tokenizers.Sequence([*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def looks_special(text: str) -> bool:
    """Whether llama.cpp's converter takes a token for a sign, whatever the tokenizer says."""
    pairs = [("<|", "|>"), ("<｜", "｜>"), ("<unused", ">")]
    return text in ("<pad>", "<mask>", "<2mass>", "[@BOS@]") or any(text.startswith(a) and text.endswith(b) for a, b in pairs)


def write(path: Path, tokens, kinds, *, model="gpt2", pre=None, merges=None, scores=None, architecture="llama", keys=()):
    """A GGUF file without tensors."""
    w = gguf.GGUFWriter(path, architecture)
    w.add_tokenizer_model(model)
    if pre:
        w.add_tokenizer_pre(pre)
    w.add_token_list(tokens)
    w.add_token_types(kinds)
    if scores is not None:
        w.add_token_scores(scores)
    if merges is not None:
        w.add_token_merges(merges)
    for add, value in keys:
        getattr(w, add)(value)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.close()


def as_gguf(path: Path, pre: str, tokenizer: Tokenizer, architecture="llama"):
    """What llama.cpp's converter makes of a byte-level tokenizer."""
    of = {id: text for text, id in tokenizer.get_vocab(with_added_tokens=True).items()}
    added = tokenizer.get_added_tokens_decoder()
    tokens, kinds = [], []
    for id in range(max(of) + 3):  # with padding
        text = of.get(id, f"[PAD{id}]")
        if id not in of:
            kind = T.UNUSED
        elif id not in added:
            kind = T.NORMAL
        else:
            if not added[id].normalized:
                text = tokenizer.decode(tokenizer.encode(text, add_special_tokens=False).ids, skip_special_tokens=False)
            kind = T.CONTROL if added[id].special or looks_special(text) else T.USER_DEFINED
            text = text.replace("▁", " ") if kind == T.USER_DEFINED else text
        tokens.append(text)
        kinds.append(kind)
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    write(path, tokens, kinds, pre=pre, merges=[" ".join(m) for m in merges], architecture=architecture)


def texts(tokenizer: Tokenizer, sources: list[str], count: int) -> list[str]:
    """Texts of every kind, always the same ones."""
    r = random.Random(1)
    added = sorted(t.content for t in tokenizer.get_added_tokens_decoder().values())
    odd = ["'s", "'RE", "I'Ll", " ", "  ", "\n", "\r\n", "\t", "\u00a0", "\u3000", "1", "12345", "½", "٣", "Ⅷ", "...", "</", "->", "▁",
           "Ġ", "é", "e\u0301", "ſ", "ß", "İ", "ǅ", "я", "日本", "カタカナ", "가", "\u1100\u1161", "नमस्ते", "ไทย", "👩\u200d🚀", "🇩🇪",
           "\0", "\u200b", "\u0344", "\u212b", "\U0010ffff", "_", "/", "www.x.org/a?b=1", "camelCase", "SHOUTing", "x = y[3];"]
    def piece():
        source = r.choice(sources)
        at = r.randrange(len(source))
        return source[at:at + r.randrange(1, 2 + min(400, len(source) // 4))]
    def character():
        while 0xd800 <= (c := r.randrange(r.choice([0x80, 0x3000, 0x30000, 0x110000]))) < 0xe000:
            pass
        return chr(c)
    made = []
    for i in range(count):
        kind = i % 5
        if kind < 2:
            made.append(piece())
        elif kind == 2:
            made.append("".join(r.choice(odd) for _ in range(r.randrange(1, 20))))
        elif kind == 3:
            made.append("".join(character() for _ in range(r.randrange(1, 40))))
        else:
            parts = [r.choice([piece, lambda: r.choice(odd), character])() for _ in range(r.randrange(1, 6))]
            for _ in range(r.randrange(1, 4) if added else 0):
                text = r.choice(added)
                parts.insert(r.randrange(len(parts) + 1), text if r.random() < 0.8 else text[:r.randrange(1, len(text) + 1)])
            made.append("".join(parts))
    return made


def cases(path: Path, tokenizer: Tokenizer, all_texts: list[str]):
    encoded = tokenizer.encode_batch(all_texts, add_special_tokens=False)
    rows = [json.dumps([text, e.ids], ensure_ascii=False, separators=(",", ":")) for text, e in zip(all_texts, encoded)]
    path.write_text("[\n" + ",\n".join(rows) + "\n]\n")


def whole(out: Path, sets: list[str], sources: list[str], count: int):
    out.mkdir(parents=True, exist_ok=True)
    for one in sets:
        name, _, rest = one.partition("=")
        first, _, original = rest.partition(":")
        file = out / f"{name}.gguf"
        file.unlink(missing_ok=True)
        if first.endswith(".gguf"):
            os.symlink(os.path.abspath(first), file)
        if not original:
            inputs = Path(first + ".inp").read_text().split("\n__ggml_vocab_test__\n")
            ids = [[int(i) for i in line.split()] for line in Path(first + ".out").read_text().split("\n")]
            rows = [[text, i] for text, i in zip(inputs, ids)]
            (out / f"{name}.cases.json").write_text(json.dumps(rows, ensure_ascii=False))
            print(name, len(rows))
            continue
        tokenizer = Tokenizer.from_file(original)
        if not first.endswith(".gguf"):
            as_gguf(file, first, tokenizer)
        cases(out / f"{name}.cases.json", tokenizer, texts(tokenizer, sources, count))
        print(name, count)


def small():
    """Vocabularies of some hundred tokens, trained on the text of the other fixtures."""
    import fixture_tokenizers as base
    out = HERE / "gguf-tokenizers"
    out.mkdir(exist_ok=True)
    added = ["<|endoftext|>", "<|im_end|>"]
    for pre in [*EXPRESSIONS, *GPT2, *DIGITS]:
        t = Tokenizer(models.BPE(ignore_merges=pre in UNMERGED))
        t.normalizer = normalizers.NFC() if pre in COMPOSED else None
        t.pre_tokenizer, t.decoder = steps(pre), decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=340, initial_alphabet=alphabet, show_progress=False)
        t.train_from_iterator([*base.TEXT.splitlines(keepends=True), base.MORE, "don't I'LL THEY'Ve 1234 ٣٤٥ नमस्ते日本"] * 2, trainer)
        t.add_tokens([AddedToken(a, special=True, normalized=False) for a in added] + [AddedToken("<tool>", normalized=False)])
        as_gguf(out / f"{pre}.gguf", pre, t)
        cases(out / f"{pre}.cases.json", t, base.CASES + texts(t, [base.TEXT[:300]], 10))

    base_tokenizer = base.sentencepiece()
    for name in ["llama", "gemma3", "phi3"]:
        t = Tokenizer.from_str(base_tokenizer.to_str())
        vocab = {text: id for text, id in t.get_vocab(with_added_tokens=True).items()}
        of = [text for text, _ in sorted(vocab.items(), key=lambda e: e[1])]
        gemma = name == "gemma3"
        # Scores as a trainer gives them: that of a merged piece is less with each merge; Gemma's are all the same.
        scores = [-1000.0 if gemma else -float(id) if id > 258 else 0.0 for id in range(len(of))]
        pairs = [(l, r, id) for id, text in enumerate(of) for i in range(1, len(text))
                 for l, r in [(text[:i], text[i:])] if l in vocab and r in vocab]
        kinds = [T.UNKNOWN, T.CONTROL, T.CONTROL] + [T.BYTE] * 256 + [T.NORMAL] * (len(of) - 263) + [T.CONTROL, T.USER_DEFINED, T.USER_DEFINED, T.CONTROL]
        # A Gemma model's vocabulary has 0 for what the user defined and then counts down, whatever the file says.
        first = min(id for id, kind in enumerate(kinds) if kind == T.NORMAL)
        runs = [vocab["▁▁"], vocab["▁▁▁▁"]]
        rank = lambda id: (0 if id in runs or kinds[id] != T.NORMAL else first - id) if gemma else scores[id]
        # Python's sort keeps equal entries in their order, so this is transformers' order.
        pairs.sort(key=lambda p: (rank(p[2]), len(p[0]), len(p[1])), reverse=True)
        names = ["<pad>", "<|user|>", "<|assistant|>", "<|end|>"]
        t = Tokenizer(models.BPE(vocab=vocab, merges=[(l, r) for l, r, _ in pairs], unk_token="<unk>", fuse_unk=True, byte_fallback=True))
        replace, decode = normalizers.Replace(" ", "▁"), [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        t.normalizer = replace if gemma else normalizers.Sequence([normalizers.Prepend("▁"), replace])
        t.decoder = decoders.Sequence(decode if gemma else [*decode, decoders.Strip(" ", 1, 0)])
        tokens = list(of)
        if gemma:
            for run in runs:
                kinds[run], tokens[run] = T.USER_DEFINED, " " * len(of[run])
        spaces = name == "phi3"
        for text, kind in zip(of, kinds):
            if kind in (T.UNKNOWN, T.CONTROL, T.USER_DEFINED):
                special, strip = kind != T.USER_DEFINED, spaces and text not in ("<unk>", "<s>", "<|endoftext|>")
                t.add_tokens([AddedToken(text, special=special, normalized=False, rstrip=strip)])
        keys = [("add_unk_token_id", 0), ("add_bos_token_id", 1), ("add_eos_token_id", 2)] + [("add_add_space_prefix", False)] * gemma
        write(out / f"{name}.gguf", tokens, kinds, model="llama", pre="default", scores=scores, architecture=name, keys=keys)
        cases(out / f"{name}.cases.json", t, base.CASES + texts(t, [base.TEXT[:300]], 10))
        assert names == of[-4:]


if __name__ == "__main__":
    if len(sys.argv) == 1:
        small()
    else:
        a = argparse.ArgumentParser()
        a.add_argument("out", type=Path); a.add_argument("sets", nargs="+")
        a.add_argument("--texts", nargs="+", default=[__file__]); a.add_argument("--count", type=int, default=10_000)
        a = a.parse_args()
        whole(a.out, a.sets, [Path(f).read_text() for f in a.texts], a.count)
