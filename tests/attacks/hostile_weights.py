"""Weights of strangers' models: other tensors, files that are none, shards from elsewhere."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import torch

from tests.attacks.changes import (
    INDEX,
    MODEL,
    MODEL_WEIGHTS,
    Change,
    all_of,
    code,
    copied,
    cut,
    fifo,
    folder_at,
    header,
    holding,
    in_json,
    linked,
    moved,
    pickled,
    sharded,
    shuffled,
    sparse,
    weights,
    without,
)
from tests.attacks.hostile import Outcome

Case = tuple[str, Change, Outcome]
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
DOWN, NORM = "model.layers.0.mlp.down_proj.weight", "model.norm.weight"
QUERY = "model.layers.1.self_attn.q_proj.weight"


def tensor(name: str, edit: Any) -> Change:
    """One of the model's tensors changed."""
    return weights(lambda all_: {**all_, name: edit(all_[name])}, MODEL_WEIGHTS)


def more(name: str, *shape: int, file: str = MODEL_WEIGHTS) -> Change:
    """One more tensor."""
    return weights(lambda all_: {**all_, name: torch.ones(shape)}, file)


def less(*names: str) -> Change:
    """Without some of the tensors."""
    return weights(lambda all_: {k: v for k, v in all_.items() if k not in names}, MODEL_WEIGHTS)


def named(old: str, new: str) -> Change:
    """All tensors by other names."""
    return weights(lambda all_: {k.replace(old, new): v for k, v in all_.items()}, MODEL_WEIGHTS)


def poisoned(value: float, row: int, one: torch.Tensor) -> torch.Tensor:
    """One number of a tensor set."""
    return one.index_put((torch.tensor(row), torch.tensor(0)), torch.tensor(value))


def as_(dtype: torch.dtype) -> Change:
    """All tensors of another type."""
    return weights(lambda all_: {k: v.to(dtype) for k, v in all_.items()}, MODEL_WEIGHTS)


def in_header(name: str, **values: Any) -> Change:
    """What the header says of one tensor."""
    return header(lambda all_: all_[name].update(values))


def in_index(name: str, shard: object) -> Change:
    """The index of shards with another place for one tensor."""
    return sharded(lambda index: index["weight_map"].update({name: shard}))


def all_in(shard: object) -> Change:
    """The index of shards with one place for all."""
    return sharded(lambda index: index.update(weight_map=dict.fromkeys(index["weight_map"], shard)))


DTYPES: list[tuple[torch.dtype, Outcome]] = [
    (torch.float16, "measured"),
    (torch.bfloat16, "measured"),
    (torch.float64, "measured"),
    (torch.float8_e4m3fn, "either"),
    (torch.int64, "either"),
    (torch.int8, "either"),
    (torch.bool, "either"),
    (torch.complex64, "either"),
]
TENSORS: list[Case] = [
    ("without the head", less(HEAD), "refused"),
    ("without a norm", less(NORM), "refused"),
    (
        "without layer 1",
        weights(
            lambda all_: {k: v for k, v in all_.items() if "layers.1." not in k}, MODEL_WEIGHTS
        ),
        "refused",
    ),
    ("none", weights(lambda all_: {}, MODEL_WEIGHTS), "refused"),
    ("score.weight", more("score.weight", 2, 32), "refused"),
    ("v_head", more("v_head.summary.weight", 1, 32), "refused"),
    ("a layer more", more("model.layers.2.input_layernorm.weight", 32), "refused"),
    ("a bias more", more("lm_head.bias", 271), "refused"),
    ("a LoRA beside", more("model.layers.0.self_attn.q_proj.lora_A.weight", 2, 32), "refused"),
    ("an escape in a name", more("x\x1b[2J\n::error::x", 1), "refused"),
    ("a name of 100,000 letters", more("x" * 100_000, 1), "refused"),
    ("rotary frequencies", more("model.layers.0.self_attn.rotary_emb.inv_freq", 8), "either"),
    (
        "10,000 more",
        weights(
            lambda all_: {**all_, **{f"x.{at}": torch.ones(1) for at in range(10_000)}},
            MODEL_WEIGHTS,
        ),
        "refused",
    ),
    ("no prefix", named("model.", ""), "either"),
    ("of another prefix", named("model.", "transformer."), "refused"),
    (
        "under module.",
        weights(lambda all_: {f"module.{k}": v for k, v in all_.items()}, MODEL_WEIGHTS),
        "refused",
    ),
    (
        "upper case",
        weights(lambda all_: {k.upper(): v for k, v in all_.items()}, MODEL_WEIGHTS),
        "refused",
    ),
    (
        "two layers swapped",
        weights(
            lambda all_: {
                k.replace("layers.0", "x")
                .replace("layers.1", "layers.0")
                .replace("x", "layers.1"): v
                for k, v in all_.items()
            },
            MODEL_WEIGHTS,
        ),
        "measured",
    ),
    ("a table transposed", tensor(DOWN, lambda one: one.T), "refused"),
    ("a square one transposed", tensor(QUERY, lambda one: one.T), "measured"),
    ("the head turned round", tensor(HEAD, shuffled), "measured"),
    ("a table flat", tensor(DOWN, lambda one: one.flatten()), "refused"),
    ("a table of three axes", tensor(DOWN, lambda one: one[None]), "refused"),
    ("a scalar", tensor(NORM, lambda one: one.sum()), "refused"),
    ("an empty one", tensor(NORM, lambda one: one[:0]), "refused"),
    ("a row more", tensor(HEAD, lambda one: torch.cat([one, one[:1]])), "refused"),
    ("a row less", tensor(EMBEDDING, lambda one: one[:-1]), "refused"),
    (
        "both tables longer",
        all_of(
            tensor(HEAD, lambda one: torch.cat([one, one[:5]])),
            tensor(EMBEDDING, lambda one: torch.cat([one, one[:5]])),
            in_json(MODEL, vocab_size=276),
        ),
        "measured",
    ),
    (
        "both tables shorter",
        all_of(
            tensor(HEAD, lambda one: one[:200]),
            tensor(EMBEDDING, lambda one: one[:200]),
            in_json(MODEL, vocab_size=200),
        ),
        "refused",
    ),
    (
        "all zeros",
        weights(lambda all_: {k: torch.zeros_like(v) for k, v in all_.items()}, MODEL_WEIGHTS),
        "measured",
    ),
    ("NaN", tensor(DOWN, lambda one: one * float("nan")), "refused"),
    ("infinite", tensor(NORM, lambda one: one * float("inf")), "refused"),
    ("1e38", tensor(HEAD, lambda one: torch.full_like(one, 1e38)), "refused"),
    ("one NaN in the head", tensor(HEAD, partial(poisoned, float("nan"), 9)), "refused"),
    (
        "one infinite number in the head",
        tensor(HEAD, partial(poisoned, float("inf"), 9)),
        "refused",
    ),
    ("NaN where no text leads", tensor(EMBEDDING, partial(poisoned, float("nan"), 5)), "either"),
    *((f"of {dtype}", as_(dtype), outcome) for dtype, outcome in DTYPES),
]
WEIGHT_FILES: list[Case] = [
    ("nothing", holding(MODEL_WEIGHTS, b""), "refused"),
    ("seven bytes", holding(MODEL_WEIGHTS, b"1234567"), "refused"),
    ("garbage", holding(MODEL_WEIGHTS, bytes(range(256)) * 9), "refused"),
    ("a header of 2**64 bytes", holding(MODEL_WEIGHTS, b"\xff" * 8 + b"{}"), "refused"),
    ("a header of 90 MB", holding(MODEL_WEIGHTS, (90 << 20).to_bytes(8, "little")), "refused"),
    ("an empty header", holding(MODEL_WEIGHTS, (2).to_bytes(8, "little") + b"{}"), "refused"),
    ("cut in the header", cut(MODEL_WEIGHTS, 500), "refused"),
    ("cut in the numbers", cut(MODEL_WEIGHTS, -40), "refused"),
    ("1 GB of nothing behind", sparse(MODEL_WEIGHTS, 1 << 30), "refused"),
    (
        "a header that is a list",
        holding(MODEL_WEIGHTS, (2).to_bytes(8, "little") + b"[]"),
        "refused",
    ),
    (
        "a header too deep",
        holding(MODEL_WEIGHTS, (100_000).to_bytes(8, "little") + b"[" * 100_000),
        "refused",
    ),
    ("one place for two", in_header(NORM, data_offsets=[0, 128]), "refused"),
    ("offsets turned round", in_header(NORM, data_offsets=[128, 0]), "refused"),
    ("offsets behind the end", in_header(NORM, data_offsets=[1 << 40, (1 << 40) + 128]), "refused"),
    ("offsets below 0", in_header(NORM, data_offsets=[-128, 0]), "refused"),
    ("a shape of 2**62 numbers", in_header(NORM, shape=[1 << 31, 1 << 31]), "refused"),
    ("a shape that overflows", in_header(NORM, shape=[1 << 62, 1 << 62, 4]), "refused"),
    ("a shape with 0", in_header(NORM, shape=[0, 1 << 62]), "refused"),
    ("no known dtype", in_header(NORM, dtype="EVIL"), "refused"),
    ("metadata of an object", header(lambda all_: all_.update(__metadata__={"a": {}})), "refused"),
    ("no metadata", header(lambda all_: all_.pop("__metadata__", None)), "either"),
    ("of flax", header(lambda all_: all_.update(__metadata__={"format": "flax"})), "either"),
    ("of nobody", header(lambda all_: all_.update(__metadata__={"format": "x"})), "either"),
    ("a pipe", fifo(MODEL_WEIGHTS), "refused"),
    ("a folder", folder_at(MODEL_WEIGHTS), "refused"),
    ("/dev/zero", linked(MODEL_WEIGHTS, "/dev/zero"), "refused"),
    ("a link to nowhere", linked(MODEL_WEIGHTS, "nowhere"), "refused"),
    ("a link to a good one", linked(MODEL_WEIGHTS, "../ft/model.safetensors"), "measured"),
    ("a pickle", pickled(MODEL_WEIGHTS), "refused"),
    ("pickles alone", all_of(without(MODEL_WEIGHTS), pickled("pytorch_model.bin")), "refused"),
    (
        "pickles beside",
        all_of(pickled("pytorch_model.bin"), pickled("training_args.bin"), pickled("x.pt")),
        "measured",
    ),
    (
        "pickles beside others",
        all_of(moved(MODEL_WEIGHTS, "other.safetensors"), pickled("pytorch_model.bin")),
        "refused",
    ),
    ("of another name", moved(MODEL_WEIGHTS, "other.safetensors"), "refused"),
    (
        "of two shards without an index",
        moved(MODEL_WEIGHTS, "model-00001-of-00001.safetensors"),
        "refused",
    ),
    (
        "of GGUF, TensorFlow and Flax",
        all_of(
            without(MODEL_WEIGHTS),
            pickled("model.gguf"),
            pickled("tf_model.h5"),
            pickled("flax_model.msgpack"),
        ),
        "refused",
    ),
    ("one more: a pipe", fifo("zz.safetensors"), "refused"),
    ("one more: garbage", holding("zz.safetensors", "garbage"), "refused"),
    ("one more: 1 GB of nothing", sparse("zz.safetensors", 1 << 30), "refused"),
    ("one more: of the base", copied("../base/model.safetensors", "zz.safetensors"), "either"),
    ("one more: a folder", folder_at("zz.safetensors"), "either"),
    ("one more: a link to nowhere", linked("zz.safetensors", "nowhere"), "refused"),
    ("a variant beside", copied("../base/model.safetensors", "model.fp16.safetensors"), "either"),
    (
        "consolidated beside",
        copied("../base/model.safetensors", "consolidated.safetensors"),
        "either",
    ),
    (
        "code beside",
        all_of(code("modeling_llama.py"), code("__init__.py"), code("torch.py")),
        "measured",
    ),
    (
        "an adapter beside",
        all_of(
            copied("../adapter/adapter_config.json", "adapter_config.json"),
            copied("../adapter/adapter_model.safetensors", "adapter_model.safetensors"),
        ),
        "either",
    ),
    (
        "an adapter's config beside",
        copied("../adapter/adapter_config.json", "adapter_config.json"),
        "refused",
    ),
    (
        "an adapter's weights beside",
        copied("../adapter/adapter_model.safetensors", "adapter_model.safetensors"),
        "either",
    ),
]
SHARDS: list[Case] = [
    ("as they are", sharded(), "measured"),
    ("out of the folder", all_in("../ft/model.safetensors"), "refused"),
    ("one out of the folder", in_index(HEAD, "../ft/model.safetensors"), "refused"),
    ("by way of the folder", in_index(HEAD, "./a.safetensors"), "refused"),
    ("/dev/zero", in_index(HEAD, "/dev/zero"), "refused"),
    ("absolute", in_index(HEAD, "/etc/x.safetensors"), "refused"),
    ("a pickle", all_of(pickled("x.bin"), in_index(HEAD, "x.bin")), "refused"),
    (
        "a pickle called safetensors",
        all_of(pickled("x.safetensors"), in_index(HEAD, "x.safetensors")),
        "refused",
    ),
    ("missing", in_index(HEAD, "c.safetensors"), "refused"),
    ("no file", in_index(HEAD, ".safetensors"), "refused"),
    ("an escape", in_index(HEAD, "x\x1b[2J\n.safetensors"), "refused"),
    ("a number", in_index(HEAD, 7), "refused"),
    ("a list", in_index(HEAD, ["a.safetensors"]), "refused"),
    ("null", in_index(HEAD, None), "refused"),
    ("the index itself", all_in(INDEX), "refused"),
    ("a link to itself", all_of(sharded(), linked("a.safetensors", "a.safetensors")), "refused"),
    ("a link to the other", all_of(sharded(), linked("a.safetensors", "b.safetensors")), "refused"),
    ("a pipe", all_of(sharded(), fifo("a.safetensors")), "refused"),
    ("a folder", all_of(sharded(), folder_at("a.safetensors")), "refused"),
    ("cut", all_of(sharded(), cut("b.safetensors", -9)), "refused"),
    ("the other's place", in_index(HEAD, "b.safetensors"), "either"),
    ("all in one place", all_in("a.safetensors"), "refused"),
    ("one without a place", sharded(lambda index: index["weight_map"].pop(HEAD)), "either"),
    ("a place for nothing", in_index("score.weight", "a.safetensors"), "either"),
    (
        "a shard without a place",
        all_of(sharded(), copied("../base/model.safetensors", "c.safetensors")),
        "either",
    ),
    ("one tensor in both", all_of(sharded(), more(HEAD, 271, 32, file="b.safetensors")), "either"),
    ("no places", sharded(lambda index: index.update(weight_map={})), "refused"),
    (
        "places: a list",
        sharded(lambda index: index.update(weight_map=["a.safetensors"])),
        "refused",
    ),
    ("places: null", sharded(lambda index: index.update(weight_map=None)), "refused"),
    ("no key", sharded(lambda index: index.clear()), "refused"),
    ("no metadata", sharded(lambda index: index.pop("metadata")), "either"),
    (
        "a total of 1e30",
        sharded(lambda index: index.update(metadata={"total_size": 1e30})),
        "either",
    ),
    ("a total below 0", sharded(lambda index: index.update(metadata={"total_size": -1})), "either"),
    ("metadata: a list", sharded(lambda index: index.update(metadata=[1])), "either"),
    (
        "100,000 places",
        sharded(
            lambda index: index["weight_map"].update(
                {f"x.{at}": "a.safetensors" for at in range(100_000)}
            )
        ),
        "either",
    ),
    (
        "10,000 files",
        sharded(
            lambda index: index["weight_map"].update(
                {f"x.{at}": f"{at}.safetensors" for at in range(10_000)}
            )
        ),
        "refused",
    ),
    *(
        (f"index: {name}", all_of(sharded(), change), "refused")
        for name, change in (
            ("garbage", holding(INDEX, "garbage")),
            ("a list", holding(INDEX, "[]")),
            ("deep", holding(INDEX, "[" * 100_000)),
            ("1 GB of nothing", sparse(INDEX, 1 << 30)),
            ("a pipe", fifo(INDEX)),
            ("a folder", folder_at(INDEX)),
            ("gone", without(INDEX)),
        )
    ),
    (
        "another index out of the folder",
        holding("zz.safetensors.index.json", json.dumps({"weight_map": {"x": "../x.safetensors"}})),
        "refused",
    ),
    (
        "an index beside a whole file",
        holding(INDEX, json.dumps({"weight_map": {HEAD: "other.safetensors"}})),
        "either",
    ),
    (
        "an index of pickles beside",
        all_of(
            pickled("x.bin"),
            holding("pytorch_model.bin.index.json", json.dumps({"weight_map": {HEAD: "x.bin"}})),
        ),
        "measured",
    ),
]
