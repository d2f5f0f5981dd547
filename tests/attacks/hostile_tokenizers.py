"""Tokenizers of strangers: other ids for the same text, code, and files that are none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.attacks.changes import (
    Change,
    all_of,
    code,
    cut,
    edited,
    fifo,
    holding,
    in_json,
    linked,
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


def shifted(one: Any) -> None:
    """Every id one more than it was."""
    one["model"]["vocab"] = {piece: at + 1 for piece, at in one["model"]["vocab"].items()}


def in_part(part: str, value: object) -> Change:
    """A stage of the tokenizer replaced."""
    return raw(lambda one: one.update({part: value}))


def replacing(pattern: dict[str, str], content: str) -> dict[str, object]:
    """A stage that replaces text."""
    return {"type": "Replace", "pattern": pattern, "content": content}


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
OF_FILE: list[tuple[str, Change, Outcome]] = [
    ("as it is", lambda folder: None, "measured"),
    ("nothing", holding(RAW, b""), "refused"),
    ("garbage", holding(RAW, "garbage"), "refused"),
    ("an empty object", holding(RAW, "{}"), "refused"),
    ("a list", holding(RAW, "[]"), "refused"),
    ("deep", holding(RAW, "[" * 100_000), "refused"),
    ("cut", cut(RAW, 2000), "refused"),
    ("a pipe", fifo(RAW), "refused"),
    ("/dev/zero", linked(RAW, "/dev/zero"), "refused"),
    ("1 GB of nothing", sparse(RAW, 1 << 30), "refused"),
    ("a pickle", pickled(RAW), "refused"),
    ("pickles beside", all_of(pickled("tokenizer.model"), pickled("vocab.txt")), "either"),
    ("config: a pipe", fifo(CONFIG), "refused"),
    ("config: garbage", holding(CONFIG, "garbage"), "refused"),
    ("config: a list", holding(CONFIG, "[]"), "refused"),
    ("config: gone", without(CONFIG), "either"),
    ("both gone", without(RAW, CONFIG, "special_tokens_map.json"), "either"),
    ("special tokens: a pipe", fifo("special_tokens_map.json"), "either"),
    ("added tokens: a pipe", fifo("added_tokens.json"), "either"),
    ("added tokens: garbage", holding("added_tokens.json", "garbage"), "either"),
]
OF_VOCABULARY: list[tuple[str, Change, Outcome]] = [
    ("two letters swapped", raw(swapped), "refused"),
    ("every id shifted", raw(shifted), "refused"),
    ("no merges", raw(lambda one: one["model"].update(merges=[])), "refused"),
    ("a merge of nobody", raw(lambda one: one["model"]["merges"].append(["zz", "zz"])), "refused"),
    ("merges in another order", raw(lambda one: one["model"]["merges"].reverse()), "either"),
    ("an id of 2**40", raw(lambda one: one["model"]["vocab"].update(zzz=2**40)), "refused"),
    ("an id of 2**31", raw(lambda one: one["model"]["vocab"].update(zzz=2**31)), "either"),
    ("an id below 0", raw(lambda one: one["model"]["vocab"].update(zzz=-1)), "refused"),
    ("one id twice", raw(lambda one: one["model"]["vocab"].update(zzz=5)), "either"),
    ("without a letter", raw(lambda one: one["model"]["vocab"].pop("e")), "refused"),
    ("dropout", raw(lambda one: one["model"].update(dropout=0.9)), "refused"),
    ("byte fallback", raw(lambda one: one["model"].update(byte_fallback=True)), "either"),
    ("another kind", raw(lambda one: one["model"].update(type="Nobody")), "refused"),
    ("added tokens", with_added("<|new|>", special=True), "either"),
    ("a blank added", with_added(" "), "refused"),
    ("nothing added", with_added(""), "either"),
    ("a word added", with_added("knot"), "refused"),
    ("200,000 tokens added", with_added(*(f"<|{n}|>" for n in range(200_000))), "either"),
    ("an escape added", with_added("\x1b[2J\n::error::x", special=True), "either"),
]
OF_STAGE: list[tuple[str, Change, Outcome]] = [
    ("capitals", in_part("normalizer", {"type": "Lowercase"}), "refused"),
    ("text replaced", in_part("normalizer", replacing({"String": "knot"}, "rope")), "refused"),
    ("text dropped", in_part("normalizer", replacing({"Regex": "."}, "")), "refused"),
    ("a regex bomb, replacing", in_part("normalizer", replacing({"Regex": BOMB}, "x")), "either"),
    ("a regex bomb, splitting", in_part("pre_tokenizer", SPLIT), "refused"),
    ("words by blanks", in_part("pre_tokenizer", {"type": "Whitespace"}), "refused"),
    ("no stage", in_part("pre_tokenizer", None), "either"),
    ("no decoder", in_part("decoder", None), "either"),
    (
        "cut to one token",
        in_part(
            "truncation",
            {"direction": "Right", "max_length": 1, "strategy": "LongestFirst", "stride": 0},
        ),
        "either",
    ),
    (
        "filled up",
        in_part(
            "padding",
            {
                "strategy": {"Fixed": 4096},
                "direction": "Left",
                "pad_to_multiple_of": None,
                "pad_id": 0,
                "pad_type_id": 0,
                "pad_token": "<|endoftext|>",
            },
        ),
        "either",
    ),
    (
        "tokens before each text",
        in_part(
            "post_processor",
            {
                "type": "TemplateProcessing",
                "single": [
                    {"SpecialToken": {"id": "<|im_end|>", "type_id": 0}},
                    {"Sequence": {"id": "A", "type_id": 0}},
                ],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}],
                "special_tokens": {
                    "<|im_end|>": {"id": "<|im_end|>", "ids": [2], "tokens": ["<|im_end|>"]}
                },
            },
        ),
        "either",
    ),
]
CONFIG_KEYS: list[tuple[dict[str, object], Outcome]] = [
    ({"auto_map": {"AutoTokenizer": ["evil.Tokenizer", None]}}, "either"),
    ({"auto_map": {"AutoTokenizer": ["org/repo--evil.Tokenizer", None]}}, "either"),
    ({"trust_remote_code": True, "auto_map": {"AutoTokenizer": ["evil.T", None]}}, "either"),
    ({"tokenizer_class": "Nobody"}, "either"),
    ({"tokenizer_class": "LlamaTokenizer"}, "either"),
    ({"tokenizer_class": "BertTokenizer"}, "either"),
    ({"tokenizer_class": 7}, "either"),
    ({"tokenizer_file": "/etc/passwd"}, "either"),
    ({"name_or_path": "https://example.org/x"}, "either"),
    ({"model_max_length": 1}, "either"),
    ({"model_max_length": -5}, "either"),
    ({"model_max_length": 10**400}, "either"),
    ({"model_max_length": "many"}, "either"),
    ({"padding_side": "up"}, "either"),
    ({"add_bos_token": True}, "either"),
    ({"add_prefix_space": True}, "either"),
    ({"bos_token": "a"}, "measured"),
    ({"eos_token": "<|im_start|>"}, "measured"),
    ({"eos_token": None}, "measured"),
    ({"eos_token": 7}, "either"),
    ({"eos_token": "<|never seen|>"}, "either"),
    ({"eos_token": {"__type": "AddedToken", "content": "x" * 100_000}}, "either"),
    ({"pad_token": "zz"}, "either"),
    ({"unk_token": "\x1b[2J"}, "either"),
    ({"split_special_tokens": True}, "either"),
    ({"clean_up_tokenization_spaces": True}, "measured"),
    ({"extra_special_tokens": {"image_token": "<|image|>"}}, "either"),
    ({"extra_special_tokens": ["How"]}, "either"),
    ({"added_tokens_decoder": {"5": {"content": "How", "special": True}}}, "either"),
    ({"added_tokens_decoder": {"x": 1}}, "either"),
    ({"backend": "../evil"}, "either"),
    ({"response_schema": {"x": "(" * 9999}}, "either"),
]
TOKENIZERS = [
    *(
        Stranger(f"tokenizer: {name}", change, outcome, "ft")
        for name, change, outcome in (*OF_FILE, *OF_VOCABULARY, *OF_STAGE)
    ),
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
