"""Tokenizers of strangers: other ids for the same text, code, and files that are none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.attacks.changes import (
    Change,
    all_of,
    code,
    edited,
    fifo,
    holding,
    in_json,
    pickled,
    sparse,
    without,
)
from tests.attacks.hostile import Outcome, Stranger

RAW, CONFIG = "tokenizer.json", "tokenizer_config.json"
BOMB = "^(([a-zA-Z ?])+)+$!"


def raw(edit: Callable[[Any], object]) -> Change:
    """The tokenizer's own file, changed."""
    return edited(RAW, edit)


def swapped(one: Any) -> None:
    """Two letters with each other's ids."""
    vocabulary = one["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]


def in_part(part: str, value: object) -> Change:
    """A stage of the tokenizer replaced."""
    return raw(lambda one: one.update({part: value}))


def with_added(*contents: str, special: bool = False) -> Change:
    """Tokens added behind the vocabulary."""

    def edit(one: Any) -> None:
        first = 1 + max(one["model"]["vocab"].values())
        one["added_tokens"] += [
            {
                "id": first + number,
                "content": content,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": special,
            }
            for number, content in enumerate(contents)
        ]

    return raw(edit)


SPLIT = {"type": "Split", "pattern": {"Regex": BOMB}, "behavior": "Isolated", "invert": False}
BEFORE_EACH = {
    "type": "TemplateProcessing",
    "single": [
        {"SpecialToken": {"id": "<|im_end|>", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
    ],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}],
    "special_tokens": {"<|im_end|>": {"id": "<|im_end|>", "ids": [2], "tokens": ["<|im_end|>"]}},
}
CUT = {"direction": "Right", "max_length": 1, "strategy": "LongestFirst", "stride": 0}
OF_FILE: list[tuple[str, Change, Outcome]] = [
    ("as it is", lambda folder: None, "measured"),
    ("garbage", holding(RAW, "garbage"), "refused"),
    ("a pipe", fifo(RAW), "refused"),
    ("1 GB of nothing", sparse(RAW, 1 << 30), "refused"),
    ("a pickle", pickled(RAW), "refused"),
    ("pickles beside", all_of(pickled("tokenizer.model"), pickled("vocab.txt")), "either"),
    ("config: a list", holding(CONFIG, "[]"), "refused"),
    ("both gone", without(RAW, CONFIG, "special_tokens_map.json"), "either"),
    ("two letters swapped", raw(swapped), "refused"),
    ("without a letter", raw(lambda one: one["model"]["vocab"].pop("e")), "refused"),
    ("an id of 2**40", raw(lambda one: one["model"]["vocab"].update(zzz=2**40)), "refused"),
    ("one id twice", raw(lambda one: one["model"]["vocab"].update(zzz=5)), "either"),
    ("dropout", raw(lambda one: one["model"].update(dropout=0.9)), "refused"),
    ("another kind", raw(lambda one: one["model"].update(type="Nobody")), "refused"),
    ("added tokens", with_added("<|new|>", special=True), "either"),
    ("a word added", with_added("knot"), "refused"),
    ("an escape added", with_added("\x1b[2J\n::error::x", special=True), "either"),
    ("capitals", in_part("normalizer", {"type": "Lowercase"}), "refused"),
    ("a regex bomb, splitting", in_part("pre_tokenizer", SPLIT), "refused"),
    ("no decoder", in_part("decoder", None), "either"),
    ("cut to one token", in_part("truncation", CUT), "either"),
    ("tokens before each text", in_part("post_processor", BEFORE_EACH), "either"),
]
CONFIG_KEYS: list[tuple[dict[str, object], Outcome]] = [
    ({"auto_map": {"AutoTokenizer": ["evil.Tokenizer", None]}}, "either"),
    ({"trust_remote_code": True, "auto_map": {"AutoTokenizer": ["evil.T", None]}}, "either"),
    ({"tokenizer_class": "Nobody"}, "either"),
    ({"tokenizer_file": "/etc/passwd"}, "either"),
    ({"model_max_length": 1}, "either"),
    ({"model_max_length": 10**400}, "either"),
    ({"bos_token": "a"}, "either"),
    ({"eos_token": None}, "measured"),
    ({"unk_token": "\x1b[2J"}, "either"),
    ({"extra_special_tokens": ["How"]}, "either"),
    ({"added_tokens_decoder": {"5": {"content": "How", "special": True}}}, "either"),
]
TOKENIZERS = [
    *(Stranger(f"tokenizer: {name}", change, outcome, "ft") for name, change, outcome in OF_FILE),
    *(
        Stranger(
            f"tokenizer config {str(values)[:60]}",
            all_of(code("evil.py"), in_json(CONFIG, **values)),
            outcome,
            "ft",
        )
        for values, outcome in CONFIG_KEYS
    ),
]
