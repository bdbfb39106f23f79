"""Writes tokens/cases.json: what transformers' AutoTokenizer makes of files beside tokenizer.json.

    python make_tokens.py

Run with transformers 5.24.0 and tokenizers 0.23.3. Each case is a base, which is the tokenizer.json of a fixture beside
this script, changes to it, the files beside it, and what transformers says: every added token with its id and switches, and
of each text the ids without anything put in front, and the text of these ids with and without special tokens.
"""

import json
import pathlib
import tempfile

from transformers import AutoTokenizer

HERE = pathlib.Path(__file__).parent
BASES = {"bytes": HERE / "tied-llama3", "text": HERE / "untied-mha"}
CLASS = {"tokenizer_class": "PreTrainedTokenizerFast"}
CONFIG, MAP, ADDED = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"
SIZE = {"bytes": 384, "text": len(json.loads((BASES["text"] / "tokenizer.json").read_text())["model"]["vocab"])}


def token(content, typed=False, **switches):
    """A token as an object; `typed` is the form in which transformers saves tokens in tokenizer_config.json."""
    full = dict(content=content, lstrip=False, rstrip=False, normalized=False, single_word=False, special=True)
    return full | switches | ({"__type": "AddedToken"} if typed else {})


def cases(base):
    n = SIZE[base]
    yield "nothing", {}, {}
    yield "added_tokens.json", {}, {ADDED: {"<|open|>": n, "<|close|>": n + 1}, CONFIG: {"eos_token": "<|close|>"}}
    yield "added_tokens.json of plain words", {}, {ADDED: {"harbourage": n, "wor ld": n + 1}, CONFIG: {}}
    yield "added_tokens.json with gaps", {}, {ADDED: {"<|b|>": n + 40, "<|a|>": n + 7}, CONFIG: {}}
    yield "added_tokens.json whose id is taken", {}, {ADDED: {"<|a|>": 2, "<|b|>": n}, CONFIG: {}}
    yield "decoder", {}, {CONFIG: {"added_tokens_decoder": {
        str(n): token("<|open|>"), str(n + 1): token("<|close|>", special=False)}}}
    yield "decoder with switches", {}, {CONFIG: {"added_tokens_decoder": {
        str(n): token("<|left|>", lstrip=True), str(n + 1): token("<|right|>", rstrip=True),
        str(n + 2): token("cat", single_word=True, special=False), str(n + 3): token("<|both|>", lstrip=True, rstrip=True),
        str(n + 4): token("bell ring", normalized=True, special=False),
        str(n + 5): token("été", normalized=True, special=False, single_word=True)}}}
    yield "decoder with gaps", {}, {CONFIG: {"added_tokens_decoder": {
        str(n + 90): token("<|late|>"), str(n + 9): token("<|early|>"), "5": token("<|low|>")}}}
    yield "decoder says less", {}, {CONFIG: {"added_tokens_decoder": {str(n): {"content": "<|bare|>"}}}}
    yield "decoder changes switches", {}, {CONFIG: {"added_tokens_decoder": {
        "381": token("<|tool|>", special=True, lstrip=True), "0": token("<unk>", special=False, rstrip=True)}}}
    yield "decoder names a piece", {}, {CONFIG: {"added_tokens_decoder": {"300": token("the")}, "pad_token": "ing"}}
    yield "an empty decoder hides other files", {}, {
        CONFIG: {"added_tokens_decoder": {}, "pad_token": "<|pad|>"}, ADDED: {"<|open|>": n}, MAP: {"eos_token": "<|eos|>"}}
    yield "extra list", {}, {CONFIG: {"extra_special_tokens": ["<|open|>", token("<|close|>", True, lstrip=True), "the"]}}
    yield "extra names", {}, {CONFIG: {"extra_special_tokens": {"z_token": "<|z|>", "image": "<|image|>", "a_token": "<|a|>"}}}
    yield "additional list", {}, {CONFIG: {"additional_special_tokens": ["<|open|>", "<|close|>", "<|open|>"]}}
    yield "extra before additional", {}, {
        CONFIG: {"additional_special_tokens": ["<|open|>"], "extra_special_tokens": ["<|close|>"]}}
    yield "names", {}, {CONFIG: {
        "pad_token": "<|pad|>", "eos_token": "<|close|>", "mask_token": token("<|mask|>", True, lstrip=True, special=False),
        "unk_token": None, "image_token": "<|image|>", "boi_token": token("<|boi|>", True), "add_bos_token": False}}
    yield "one text of two names", {}, {CONFIG: {"pad_token": "<|end|>", "eos_token": "<|end|>"}}
    yield "map", {}, {CONFIG: {"eos_token": "<|old|>"}, MAP: {
        "eos_token": token("<|new|>", rstrip=True), "pad_token": "<|pad|>", "video_token": "<|video|>"}}
    yield "map with lists", {}, {CONFIG: {"extra_special_tokens": ["<|one|>"]}, MAP: {
        "extra_special_tokens": [{"content": "<|two|>", "lstrip": True}, "<|one|>", "<|three|>"]}}
    yield "map with names", {}, {CONFIG: {}, MAP: {"extra_special_tokens": {"image": "<|image|>"}}}
    yield "map with additional", {}, {CONFIG: {}, MAP: {"additional_special_tokens": ["<|open|>"]}}
    yield "map, list and words", {}, {
        CONFIG: {"eos_token": "<|close|>"}, MAP: {"pad_token": "<|pad|>"},
        ADDED: {"<|close|>": n, "<|pad|>": n + 1, "plain word": n + 2}}
    gaps = [dict(token(t), id=i) for t, i in (("<|g1|>", n + 3), ("<|g2|>", n + 30))]
    yield "tokenizer.json with gaps", {"added_tokens": gaps}, {CONFIG: {}}
    yield "tokenizer.json with gaps and a list", {"added_tokens": gaps}, {
        CONFIG: {"added_tokens_decoder": {str(n + 30): token("<|g2|>"), str(n + 31): token("<|g3|>")}}}
    yield "no tokenizer_config.json", {}, {ADDED: {"<|open|>": n}, MAP: {"eos_token": "<|open|>"}}


WORDS = ["The harbour was quiet", "a cat, scat cats cat", "bell ring  bell  ringing", " ", "été été1 e\u0301te\u0301", "the thing  is 日本 <0x41>"]


def texts(contents):
    """Texts with every token: alone, in words, among spaces, cut, and two in a row."""
    yield from WORDS
    for content in contents:
        yield from (content, f"x{content}y", f"the  {content}  \n {content} the", f" {content}{content} ", content[:-1])
    yield "\n".join(contents)


def main():
    made = []
    for base, folder in BASES.items():
        for name, changes, files in cases(base):
            with tempfile.TemporaryDirectory() as where:
                where = pathlib.Path(where)
                tokenizer = json.loads((folder / "tokenizer.json").read_text())
                tokenizer["added_tokens"] += changes.get("added_tokens", [])
                if CONFIG in files:
                    files[CONFIG] = CLASS | files[CONFIG]
                    (where / "config.json").write_text((folder / "config.json").read_text())
                for file, value in [("tokenizer.json", tokenizer), *files.items()]:
                    (where / file).write_text(json.dumps(value))
                auto = AutoTokenizer.from_pretrained(where)
                added = auto.added_tokens_decoder
                new = sorted({t.content for t in added.values()} - {t["content"] for t in tokenizer["added_tokens"]})
                shown = new + [t["content"] for t in changes.get("added_tokens", [])]
                shown += [t["content"] for t in tokenizer["added_tokens"][:2]]
                rows = []
                for text in dict.fromkeys(texts(shown)):
                    ids = auto(text, add_special_tokens=False)["input_ids"]
                    rows.append({"text": text, "ids": ids, "all": auto.decode(ids), "plain": auto.decode(ids, skip_special_tokens=True)})
                switches = lambda t: {k: getattr(t, k) for k in ("content", "lstrip", "rstrip", "single_word", "normalized", "special")}
                made.append({
                    "name": name, "base": folder.name, "more": changes.get("added_tokens", []), "files": files,
                    "added": [dict(id=i, **switches(t)) for i, t in sorted(added.items())], "texts": rows})
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in made)
    (HERE / "tokens" / "cases.json").write_text(f"[\n{lines}\n]\n")
    print(len(made), "cases,", sum(len(case["texts"]) for case in made), "texts")


if __name__ == "__main__":
    main()
