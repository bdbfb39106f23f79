"""Makes tests/reference/templates/*.json: the texts that transformers renders from templates, or the errors it raises; and
the ids of the texts.

    python make_templates.py

Needs transformers (VERSIONS has the version it was run with). The templates are ours: each in features.py tries one thing of
the language, those in conversations.py are in the manner of well-known models. ids.json uses the tokenizers of two fixtures,
which both put a BOS in front of a text.
"""

import datetime
import json
import os
import shutil
import sys
import tempfile
import warnings
from pathlib import Path

os.environ["TZ"] = "UTC"
HERE = Path(__file__).parent / "templates"
sys.path.insert(0, str(HERE))

import conversations
import features
from transformers.utils import chat_template_utils

NOW = "2026-01-15T12:34:56"


class Clock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls.fromisoformat(NOW)


chat_template_utils.datetime = Clock


def outcome(render):
    try:
        return {"text": render()}
    except Exception as e:
        return {"error": f"{type(e).__name__}: {e}"}


def feature_cases():
    groups = {"print": features.PRINT, "logic": features.LOGIC, "slices": features.SLICES, "methods": features.METHODS,
              "filters": features.FILTERS, "json": features.JSON, "tests": features.TESTS, "generators": features.GENERATORS}
    templates = []
    for name, text in groups.items():
        # Each expression of a line is a case of its own, because rendering ends at the first error.
        for i, line in enumerate(split(text)):
            templates.append((f"{name} {i}", line))
    templates += [(f"tags {i}", t) for i, t in enumerate(split(features.TAGS))]
    templates += [(f"spaces {i}", t) for i, t in enumerate(features.SPACES)]
    templates += [(f"date {i}", "{{ strftime_now('%s') }}" % d) for i, d in enumerate(features.DATES)]
    templates += [(f"single {i}", t) for i, t in enumerate(features.SINGLE)]
    for name, template in templates:
        def render():
            return chat_template_utils._compile_jinja_template(template).render(**features.VARIABLES)
        yield {"name": name, "template": template, **outcome(render)}


def split(text):
    """The expressions of a line one by one; a line with blocks stays whole."""
    for line in text.strip("\n").replace("\\\njoined", "\\\x00joined").split("\n"):
        line = line.replace("\x00", "\n")
        if "{%" in line or "}}|{{" not in line:
            if line:
                yield line
        else:
            yield from ("{{" + part + "}}" for part in line[2:-2].split("}}|{{"))


TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


def conversation_cases():
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"a": 0}, unk_token="a")), **TOKENS)
    for name, template in conversations.TEMPLATES.items():
        for title, conversation in conversations.CONVERSATIONS.items():
            def render():
                given = {"add_generation_prompt": True, **conversation}
                messages = given.pop("messages")
                return tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False, **given)
            yield {"template": name, "conversation": title, **outcome(render)}


# Checkpoints: a fixture, its tokenizer_config.json, if any, and the tokens that replace the marks of the templates.
CHECKPOINTS = {
    "byte-level": ("tied-llama3", {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
                   ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]),
    # Its marks take adjacent spaces along; its BOS is written as an object.
    "pieces": ("untied-mha", {"bos_token": {"__type": "AddedToken", "content": "<s>", "lstrip": False, "normalized": False,
                                            "rstrip": False, "single_word": False, "special": True}, "eos_token": "</s>"},
               ["<|user|>", "<|assistant|>", "<|end|>"]),
    # It has no tokenizer_config.json, so templates do not know its BOS and no id is a BOS.
    "nameless": ("untied-mha", None, ["<|user|>", "<|assistant|>", "<|end|>"]),
}
MARKS = {"headers": ["<|head|>", "<|head_end|>", "<|turn_end|>"], "markup": ["<|im_start|>", None, "<|im_end|>"],
         "turns": ["<start>", None, "<end>"]}
SAID = ["one", "system", "turns", "no prompt", "tools", "tool turn", "marks"]


def id_cases(checkpoints):
    """Ids by apply_chat_template; there are none if the template refuses the conversation."""
    from transformers import PreTrainedTokenizerFast

    for name, (fixture, config, marks) in CHECKPOINTS.items():
        with tempfile.TemporaryDirectory() as folder:
            shutil.copy(Path(__file__).parent / fixture / "tokenizer.json", folder)
            if config is not None:
                Path(folder, "tokenizer_config.json").write_text(json.dumps(config))
            tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        templates = {}
        for template, theirs in MARKS.items():
            templates[template] = conversations.TEMPLATES[template]
            for old, new in zip(theirs, marks):
                templates[template] = templates[template].replace(old or new, new)
        bos = tokenizer("")["input_ids"]
        assert len(bos) == 1
        checkpoints[name] = {"fixture": fixture, "tokenizer_config": config, "templates": templates, "bos": bos[0]}
        for template, source in templates.items():
            for title in SAID:
                given = {"add_generation_prompt": True, **conversations.CONVERSATIONS[title]}
                messages = given.pop("messages")

                def apply(tokenize):
                    return tokenizer.apply_chat_template(messages, chat_template=source, tokenize=tokenize, **given)
                text = outcome(lambda: apply(False))
                if "text" in text:
                    ids = apply(True)["input_ids"]
                    # Encoded like any other text, it would get another BOS.
                    assert tokenizer(text["text"])["input_ids"] == bos + ids
                    text["ids"] = " ".join(map(str, ids))
                yield {"checkpoint": name, "template": template, "conversation": title, **text}


def write(name, value):
    text = json.dumps(value, ensure_ascii=False, indent=1)
    (HERE / name).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    write("features.json", {"now": NOW, "variables": features.VARIABLES, "cases": list(feature_cases())})
    write("conversations.json", {"now": NOW, "special_tokens": TOKENS, "templates": conversations.TEMPLATES,
                                 "conversations": conversations.CONVERSATIONS, "cases": list(conversation_cases())})
    checkpoints = {}
    cases = list(id_cases(checkpoints))
    said = {title: conversations.CONVERSATIONS[title] for title in SAID}
    write("ids.json", {"now": NOW, "checkpoints": checkpoints, "conversations": said, "cases": cases})
