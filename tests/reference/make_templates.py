"""Makes tests/reference/templates/*.json: what transformers renders of templates, or the error it raises.

    python make_templates.py

Needs transformers (VERSIONS has the one it was run with). The templates are ours: features.py tries one thing of the
language each, conversations.py has templates in the manner of well-known models.
"""

import datetime
import json
import os
import sys
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
        # A line of many expressions, and each of them alone: a line ends with its first error.
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
    """Expressions of one line apart; what has blocks stays together."""
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


def write(name, value):
    text = json.dumps(value, ensure_ascii=False, indent=1)
    (HERE / name).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    write("features.json", {"now": NOW, "variables": features.VARIABLES, "cases": list(feature_cases())})
    write("conversations.json", {"now": NOW, "special_tokens": TOKENS, "templates": conversations.TEMPLATES,
                                 "conversations": conversations.CONVERSATIONS, "cases": list(conversation_cases())})
