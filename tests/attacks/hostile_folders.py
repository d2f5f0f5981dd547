"""Model folders of strangers: keys of a config, weights, and small files that are none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.attacks.changes import (
    MODEL,
    Change,
    cut,
    fifo,
    folder_at,
    holding,
    in_json,
    linked,
    pickled,
    sparse,
    without,
)
from tests.attacks.hostile import Outcome, Stranger
from tests.attacks.hostile_configs import CONFIGS
from tests.attacks.hostile_weights import SHARDS, TENSORS, WEIGHT_FILES, Case

GENERATION, SPECIAL = "generation_config.json", "special_tokens_map.json"


def opening(text: str) -> Change:
    """The config with this behind its first brace."""

    def change(folder: Path) -> None:
        path = folder / MODEL
        path.write_text("{" + text + path.read_text("utf-8").lstrip()[1:], "utf-8")

    return change


def coded(codec: str) -> Change:
    """The config in another encoding."""

    def change(folder: Path) -> None:
        path = folder / MODEL
        path.write_bytes(path.read_text("utf-8").encode(codec))

    return change


def deep(levels: int, pair: str = "[]") -> Change:
    """A key of the config with so many brackets in one another."""
    left, right = ('{"a":', "}") if pair == "{}" else ("[", "]")
    return opening(f'"x": {left * levels}1{right * levels},')


CONFIG_FILES: list[Case] = [
    ("as it is", lambda folder: None, "measured"),
    ("nothing", holding(MODEL, b""), "refused"),
    ("null", holding(MODEL, "null"), "refused"),
    ("a list", holding(MODEL, "[]"), "refused"),
    ("an empty object", holding(MODEL, "{}"), "refused"),
    ("garbage", holding(MODEL, bytes(range(256))), "refused"),
    ("cut", cut(MODEL, -20), "refused"),
    ("NaN", opening('"x": NaN, "y": -Infinity,'), "either"),
    ("one key twice, the first is wrong", opening('"vocab_size": 7,'), "either"),
    ("a type twice, the first is wrong", opening('"model_type": "bert",'), "either"),
    ("a number of 5,000 digits", opening(f'"x": {"9" * 5000},'), "refused"),
    ("1e999", opening('"hidden_act_scale": 1e999,'), "either"),
    *(
        (f"{levels} levels of {pair}", deep(levels, pair), "either")
        for levels in (50, 200, 300, 400, 700, 850, 900)
        for pair in ("[]", "{}")
    ),
    ("100,000 levels", deep(100_000), "refused"),
    ("20 MB of blanks", opening(" " * 20_000_000), "refused"),
    ("20 MB of text", opening(f'"x": "{"x" * 20_000_000}",'), "refused"),
    ("15 MB of text", opening(f'"x": "{"x" * 15_000_000}",'), "either"),
    ("5 MB of numbers", opening(f'"x": [{"1," * 2_500_000}1],'), "either"),
    ("a million objects", opening(f'"x": [{"{}," * 1_000_000}1],'), "either"),
    ("4 GB of nothing", sparse(MODEL, 4 << 30), "refused"),
    ("a byte order mark", coded("utf-8-sig"), "either"),
    ("UTF-16", coded("utf-16"), "refused"),
    ("UTF-32", coded("utf-32"), "refused"),
    ("a pipe", fifo(MODEL), "refused"),
    ("a folder", folder_at(MODEL), "refused"),
    ("/dev/zero", linked(MODEL, "/dev/zero"), "refused"),
    ("/dev/stdin", linked(MODEL, "/dev/stdin"), "refused"),
    ("/proc/kmsg", linked(MODEL, "/proc/kmsg"), "refused"),
    ("/proc/self/environ", linked(MODEL, "/proc/self/environ"), "refused"),
    ("a link to nowhere", linked(MODEL, "nowhere.json"), "refused"),
    ("a link to itself", linked(MODEL, MODEL), "refused"),
    ("a link to a good one", linked(MODEL, "../ft/config.json"), "measured"),
    ("a pickle", pickled(MODEL), "refused"),
    ("gone", without(MODEL), "refused"),
]
IN_PLACE: list[tuple[str, Callable[[str], Change], Outcome]] = [
    ("nothing", lambda name: holding(name, b""), "either"),
    ("garbage", lambda name: holding(name, bytes(range(256))), "either"),
    ("a list", lambda name: holding(name, "[1]"), "either"),
    ("null", lambda name: holding(name, "null"), "either"),
    ("deep", lambda name: holding(name, "[" * 100_000), "either"),
    ("800 levels", lambda name: holding(name, '{"a":' * 800 + "1" + "}" * 800), "either"),
    ("4 GB of nothing", lambda name: sparse(name, 4 << 30), "refused"),
    ("a pipe", fifo, "refused"),
    ("/dev/zero", lambda name: linked(name, "/dev/zero"), "refused"),
    ("a folder", folder_at, "either"),
    ("a link to nowhere", lambda name: linked(name, "nowhere"), "either"),
    ("a pickle", pickled, "either"),
    ("gone", lambda name: without(name), "measured"),
]
SMALL_FILES: list[Case] = [
    *(
        (f"{name}: {what}", change(name), outcome)
        for name in (GENERATION, SPECIAL)
        for what, change, outcome in IN_PLACE
    ),
    *(
        (f"generation {str(values)[:50]}", in_json(GENERATION, **values), "either")
        for values in (
            {"eos_token_id": [2, 5, 9]},
            {"eos_token_id": list(range(100_000))},
            {"eos_token_id": [10**30, -1]},
            {"eos_token_id": "x"},
            {"eos_token_id": {"a": 1}},
            {"pad_token_id": -7, "bos_token_id": 10**9},
            {"temperature": float("nan"), "do_sample": True},
            {"temperature": 0, "top_p": 7, "top_k": -1},
            {"num_beams": 10**9, "max_length": -1},
            {"max_new_tokens": 10**30},
            {"cache_implementation": "evil", "cache_config": {"backend": "evil"}},
            {"compile_config": {"backend": "evil"}},
            {"custom_generate": "org/evil", "trust_remote_code": True},
            {"watermarking_config": {"greenlist_ratio": "x"}},
            {"transformers_version": ["x"]},
            {"x\x1b[2J\n::error::x": 1},
            {"to_dict": 7, "validate": 7, "__class__": 7},
        )
    ),
    *(
        (f"special tokens {str(values)[:50]}", in_json(SPECIAL, **values), "either")
        for values in (
            {"eos_token": "a"},
            {"eos_token": ["a", "b"]},
            {"eos_token": {"content": "x" * 100_000}},
            {"bos_token": None, "pad_token": 7},
            {"additional_special_tokens": ["How", "knot"]},
            {"x\x1b[2J": "y"},
        )
    ),
]
FOLDERS = [
    *CONFIGS,
    *(
        Stranger(f"{kind}: {name}", change, outcome, "ft", is_examined=True)
        for kind, cases in (
            ("model config", CONFIG_FILES),
            ("tensors", TENSORS),
            ("model file", WEIGHT_FILES),
            ("shards", SHARDS),
            ("model folder", SMALL_FILES),
        )
        for name, change, outcome in cases
    ),
]
