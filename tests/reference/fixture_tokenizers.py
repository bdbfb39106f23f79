"""The two small tokenizers of the fixtures and the texts they are tested on. Used by make_reference.py.

`byte_level` is built like the tokenizer of Llama 3: byte-level BPE, the special tokens after the vocabulary.
`sentencepiece` is built like the converted SentencePiece tokenizer of Llama 2: BPE over characters, a space is "▁",
one is put in front of every text, and characters that the vocabulary lacks become their UTF-8 bytes, <0xNN>.
Both are trained on the text below, so no other file is needed.
"""

import json

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

TEXT = """\
The harbour was quiet when the lamps were lit, and the water lay as flat as a sheet of glass.
An old woman sat on the wall with her basket and counted the boats as they came home: one, two, three, four.
"There should be seven," she said to the boy, "and there are only four of them on the water tonight."
The boy looked out over the sea. He could see nothing but the light of the tower, turning and turning.
Then the wind came up from the west, and with the wind came the rain, and with the rain the sound of a bell.
They heard the bell ring three times, then nothing, then three times again, and each time it was nearer.
The men who were in the tavern came out with their lanterns and stood along the harbour wall in the rain.
Nobody said anything. The water was black now, and the waves were breaking white over the stones.
At nine the first of the three came in with her sails torn and her lantern gone, but all of her men were there.
The second came in behind her on a rope, and the third was so low in the water that she hardly seemed to be there.
"Seven," said the old woman. She took up her basket, gave the boy an apple, and went home through the rain.
In the morning the sun was shining, the wind had gone, and the water lay as flat as a sheet of glass.
The year was 1907, the month was March, and there were 12 houses, 31 people and 7 boats in the village.
Nothing had been written down; what we know of that night is what the boy told when he was an old man.
"""

# For the byte-level tokenizer only: runs of spaces, and characters that a token holds in part (emoji) or whole (é).
MORE = "    déjà vu 👍 👎 👌 🎉 😀😂\n\n        café 漢字 漢\n" * 4

BOS = "<|begin_of_text|>"
BYTE_LEVEL_SIZE = 384  # 376 entries, then 8 added tokens: 376 ..= 383
BYTE_LEVEL_ADDED = [
    AddedToken(BOS, special=True, normalized=False),                      # 376
    AddedToken("<|end_of_text|>", special=True, normalized=False),        # 377
    AddedToken("<|start_header_id|>", special=True, normalized=False),    # 378
    AddedToken("<|end_header_id|>", special=True, normalized=False),      # 379
    AddedToken("<|eot_id|>", special=True, normalized=False),             # 380
    AddedToken("<|tool|>", special=False, normalized=False),              # 381: added, but part of the text
    AddedToken("nanoserve", special=False, normalized=True),              # 382: a plain word that is one token
    AddedToken("<mask>", special=True, normalized=False, lstrip=True),    # 383: takes the space before it along
]
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n{{ message['content'] | trim }}<|eot_id|>"
    "{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)


def byte_level() -> Tokenizer:
    """Byte-level BPE as in Llama 3."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(LLAMA3_SPLIT), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=BYTE_LEVEL_SIZE - len(BYTE_LEVEL_ADDED),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*TEXT.splitlines(keepends=True), MORE], trainer)
    tokenizer.add_tokens(BYTE_LEVEL_ADDED)
    tokenizer.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(
            single=f"{BOS} $A", pair=f"{BOS} $A {BOS}:1 $B:1", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
        ),
    ])
    assert tokenizer.get_vocab_size() == BYTE_LEVEL_SIZE
    return tokenizer


CHAT_TEMPLATE_JINJA = (
    "{% for message in messages %}<|{{ message['role'] }}|> {{ message['content'] | trim }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

SPACE = "▁"
SENTENCEPIECE_SIZE = 400  # 396 pieces, then 4 added tokens: 396 ..= 399
SENTENCEPIECE_ADDED = [
    AddedToken("<pad>", special=True, normalized=False),                  # 396
    AddedToken("<|user|>", special=False, normalized=False),              # 397: added, but part of the text
    AddedToken("<|assistant|>", special=False, normalized=False, rstrip=True),  # 398: and takes spaces after it along
    AddedToken("<|end|>", special=True, normalized=False),                # 399
]


def sentencepiece() -> Tokenizer:
    """BPE with byte fallback as in Llama 2: <unk> <s> </s>, 256 bytes, merged pieces, single characters."""
    # The merges come from a trainer that never joins a space to the word before it.
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    trained.pre_tokenizer = pre_tokenizers.Split(SPACE, behavior="merged_with_next")
    characters = sorted(set(TEXT.replace(" ", SPACE)) - {"\n"})
    room = SENTENCEPIECE_SIZE - len(SENTENCEPIECE_ADDED) - 3 - 256 - 2  # 2: the runs of spaces below
    trained.train_from_iterator(TEXT.splitlines(), trainers.BpeTrainer(vocab_size=room, show_progress=False))
    merges = [tuple(pair) for pair in json.loads(trained.to_str())["model"]["merges"]]
    merges = [(SPACE, SPACE), (SPACE * 2, SPACE * 2)] + merges

    pieces = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    pieces += [left + right for left, right in merges] + characters
    assert len(set(pieces)) == len(pieces) == SENTENCEPIECE_SIZE - len(SENTENCEPIECE_ADDED)

    tokenizer = Tokenizer(models.BPE(
        vocab={piece: i for i, piece in enumerate(pieces)},
        merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True,
    ))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    tokenizer.decoder = decoders.Sequence([
        decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0),
    ])
    tokenizer.add_special_tokens([AddedToken(piece, special=True, normalized=False) for piece in pieces[:3]])
    tokenizer.add_tokens(SENTENCEPIECE_ADDED)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)]
    )
    assert tokenizer.get_vocab_size() == SENTENCEPIECE_SIZE
    return tokenizer


# Texts for both tokenizers. One tokenizer's own tokens are plain text to the other.
CASES = [
    "", " ", "  ", "   ", "     ", "\n", "\n\n", "\t", " \n \n", "\r\n",
    "The harbour was quiet when the lamps were lit.",
    " leading space", "  two leading spaces", "trailing spaces  ", "in   between    words     of  text",
    "line one\nline two\n\n  indented\ttabbed\n",
    "don't we'll THEY'VE i'm", "CamelCase snake_case kebab-case x=y+1; f(a[0])->b",
    "0", "7 boats", "1234567890", "3.14159 and 1,000,000", "a1b22c333",
    "é", "café naïve Äpfel", "e\u0301 decomposed", "漢字とかな", "Привет мир", "שלום עולם", "½ of €5",
    "👍", "👩\u200d👩\u200d👧\u200d👦 family", "👍🏽🇳🇱", "a\u00a0b\u200bc\ufeffd",
    "\u0000\u0001 control \u007f", "\ufffd replaced", "<0x41><0x0A>", "▁ and ▁▁word", "Ġ Ċ are bytes in disguise",
    "<|begin_of_text|>already there", "<s>already there", "a <s> b </s> c<unk>",
    "<|start_header_id|>user<|end_header_id|>\n\nHello<|eot_id|>",
    "nanoserve serves, nanoserves too; Nanoserve does not", "call <|tool|> now<|tool|><|tool|>",
    "mask   <mask> here", "<|user|> Hi\n<|assistant|>   Hello <|end|><pad>",
    "<|not_a_token|> <s <|eot_id", "<|begin_of_text|", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
]


def cases(tokenizer: Tokenizer) -> list[dict]:
    """The results of the tokenizers library for every text of CASES."""
    rows = []
    for text in CASES:
        ids = tokenizer.encode(text).ids
        rows.append({
            "text": text,
            "ids": ids,
            "ids_plain": tokenizer.encode(text, add_special_tokens=False).ids,
            "decoded": tokenizer.decode(ids, skip_special_tokens=True),
        })
    return rows
