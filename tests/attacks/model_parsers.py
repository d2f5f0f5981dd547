"""The parsers of what comes with models and on command lines: specs, seeds, folders, settings."""

from __future__ import annotations

import json
import struct
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from safetensors import SafetensorError
from transformers import PreTrainedTokenizerBase

from pytest_divergence.discovery.contexts.context_files import read_contexts
from pytest_divergence.discovery.prompt_files import read_prompts
from pytest_divergence.discovery.training_data import read_training_data
from pytest_divergence.models.adapter_checks import screen_adapter_folder
from pytest_divergence.models.chat_format import ChatFormat, choose_template
from pytest_divergence.models.folder_checks import screen_model_folder
from pytest_divergence.models.folder_files import check_files, stored_shapes
from pytest_divergence.models.gguf import read_gguf_header
from pytest_divergence.models.specs import parse_open_spec, parse_spec
from pytest_divergence.plugin.options import BY_FIELD, COMMAND_LINE, INI, RawOption
from pytest_divergence.plugin.settings_sources import settings_of
from tests.attacks.file_parsers import SPECS
from tests.attacks.mutations import (
    ODD,
    as_text,
    damaged,
    documents,
    json_files,
    plain_values,
    row_files,
    texts,
)
from tests.attacks.parsers import HoleError, Parser, in_file, safetensors_file, safetensors_headers
from tests.tiny import CHATML, save_tiny_adapter, save_tiny_model, tiny_tokenizer

ROLE = "--model-2"
PROMPTS = ("How do I tie a knot?", "Write a poem about rain.")
SAID = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
TRAINING_ROWS: tuple[dict[str, Any], ...] = (
    {"messages": SAID},
    {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]},
    {"prompt": PROMPTS[0], "completion": "Like so."},
    {"prompt": SAID[:1], "chosen": SAID[1:], "rejected": [], "label": True},
    {"chosen": SAID, "rejected": SAID},
    {"instruction": PROMPTS[1], "input": "Short.", "output": "It rains."},
)
VALUES = (
    *("auto", "search", "replay", "off", "smoke", "natural", "all", "true", "false"),
    *("200000", "300s", "30GB", "0.5", "1", "0", "-1", "1e999", "nan", "inf", "1_000", "٣", "0x10"),
    *("cuda:1", "float32"),
)
HEADER = {
    "__metadata__": {"format": "pt"},
    "base_model.model.0.lora_A.weight": {"dtype": "F32", "shape": [2, 4], "data_offsets": [0, 32]},
    "base_model.model.0.lora_B.weight": {"dtype": "F32", "shape": [4, 2], "data_offsets": [32, 64]},
}


@cache
def _folders() -> dict[str, Any]:
    """The configs of a real model and of a real adapter, made once."""
    with tempfile.TemporaryDirectory() as folder:
        base = save_tiny_model(Path(folder, "base"))
        adapter = save_tiny_adapter(base, Path(folder, "adapter"))
        return {
            path.name: json.loads(path.read_text("utf-8"))
            for path in (base / "config.json", adapter / "adapter_config.json")
        }


@cache
def _tokenizer() -> PreTrainedTokenizerBase:
    return tiny_tokenizer()


def _spec(folder: Path, text: str) -> None:
    """A spec that can be read is shown as one that is read as the same."""
    (folder / "base").mkdir()
    (folder / "base" / "config.json").write_text("{}", "utf-8")
    found = parse_spec(text, role=ROLE, root=folder)
    shown = str(found)
    if parse_spec(shown, role=ROLE, root=folder) != found:
        raise HoleError(f"{text!r} is shown as {shown!r}, which is another")


def _open_spec(folder: Path, text: str) -> None:
    parse_open_spec(text, role=ROLE, root=folder)


def _settings(folder: Path, values: dict[str, tuple[str, str]]) -> None:
    """What the command line or the ini file gives becomes settings, and a profile."""
    found = settings_of({name: RawOption(*one) for name, one in values.items()})
    found.resolved_profile("cpu")
    _ = found.budget_seconds, found.memory_bytes


def _seeds(suffix: str) -> Any:
    def read(path: Path) -> None:
        for prompt in read_prompts(path):
            if not prompt.strip():
                raise HoleError("a seed is blank")

    return in_file(f"seeds.{suffix}", read)


def _training_data(suffix: str) -> Any:
    def read(path: Path) -> None:
        data = read_training_data(path)
        if not any(row.exchanges for row in data.rows):
            raise HoleError("no row has a response")
        for prompt in data.seeds(2, seed=0, without=()):
            if not prompt.strip():
                raise HoleError("a seed is blank")

    return in_file(f"train.{suffix}", read)


def _contexts(suffix: str) -> Any:
    def read(path: Path) -> None:
        for context in read_contexts(path):
            if context.prompt("Hi")[-1].role != "user":
                raise HoleError("a context does not end before a user's turn")

    return in_file(f"contexts.{suffix}", read)


def _config(folder: Path, data: bytes) -> None:
    (folder / "config.json").write_bytes(data)
    (folder / "model.safetensors").write_bytes(safetensors_file(b"{}"))
    screen_model_folder(folder, role=ROLE)


def _index(folder: Path, data: bytes) -> None:
    (folder / "config.json").write_text(json.dumps(_folders()["config.json"]), "utf-8")
    (folder / "model.safetensors").write_bytes(safetensors_file(b"{}"))
    (folder / "model.safetensors.index.json").write_bytes(data)
    screen_model_folder(folder, role=ROLE)


def _adapter_config(folder: Path, data: bytes) -> None:
    (folder / "adapter_config.json").write_bytes(data)
    (folder / "adapter_model.safetensors").write_bytes(safetensors_file(b"{}"))
    screen_adapter_folder(folder, role=ROLE)


def _adapter_weights(folder: Path, data: bytes) -> None:
    (folder / "adapter_config.json").write_text(
        json.dumps(_folders()["adapter_config.json"]), "utf-8"
    )
    (folder / "adapter_model.safetensors").write_bytes(data)
    check_files(folder, role=ROLE)
    with suppress(SafetensorError, OSError):  # in which words, those who load it say
        stored_shapes(folder / "adapter_model.safetensors")


def _template_file(folder: Path, data: bytes) -> None:
    path = folder / "chat.jinja"
    path.write_bytes(data)
    choose_template(str(path), _tokenizer(), None, lambda _: None)


def _arguments(folder: Path, arguments: dict[str, Any]) -> None:
    """Whatever a template is given, it renders the prompt or refuses it."""
    chat = ChatFormat(_tokenizer(), "{{ date_string }}" + CHATML, arguments=arguments)
    if not chat.prompt_ids(PROMPTS[0]):
        raise HoleError("a prompt without a token")


def _gguf() -> bytes:
    """The header of a small file: two keys, one of them a list of tokens, and one tensor."""

    def text(one: str) -> bytes:
        return struct.pack("<Q", len(one)) + one.encode()

    keys = text("general.name") + struct.pack("<I", 8) + text("tiny")
    keys += text("tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, 2) + text("a") + text("b")
    tensor = text("output.weight") + struct.pack("<IQQIQ", 2, 2, 2, 0, 0)
    return b"GGUF" + struct.pack("<IQQ", 3, 1, 2) + keys + tensor + bytes(64)


@st.composite
def _gguf_files(draw: st.DrawFn) -> bytes:
    """A real header with one of its counts changed, or its bytes damaged."""
    found = bytearray(_gguf())
    at = draw(st.integers(4, len(found) - 8))
    count = draw(st.sampled_from((0, 1, 255, 2**31, 2**32, 2**63, 2**64 - 1)))
    found[at : at + 8] = struct.pack("<Q", count)
    return bytes(found)


def _csv(*columns: str) -> st.SearchStrategy[bytes]:
    """Files of a few rows whose fields are names of columns, prompts or quotation marks."""
    fields = texts(*columns, *PROMPTS, '"', "a,b")
    rows = st.lists(st.lists(fields, max_size=3), max_size=4)
    return damaged(rows.map(lambda rows: "\n".join(map(",".join, rows)).encode("utf-8", "replace")))


_ARGUMENTS = st.dictionaries(
    st.sampled_from(("date_string", "enable_thinking", "messages2", "strftime_now", "role"))
    | st.text(min_size=1, max_size=8).filter(str.isidentifier),
    plain_values() | st.sampled_from([one for one in ODD if one is not ODD[-1]]),
    max_size=3,
)
_GIVEN = st.dictionaries(
    st.sampled_from(sorted(BY_FIELD)),
    st.tuples(texts(*VALUES), st.sampled_from((COMMAND_LINE, INI, "PYTEST_DIVERGENCE_X"))),
    min_size=1,
    max_size=4,
)
MODEL_PARSERS = [
    Parser("spec", SPECS, _spec),
    Parser("spec, with a plugin", SPECS | texts("https://a:b@c/d?e=f", "s3://x"), _open_spec),
    Parser("settings", _GIVEN, _settings),
    Parser(
        "seeds, text", damaged(st.just("\n".join(PROMPTS).encode())) | st.binary(), _seeds("txt")
    ),
    Parser(
        "seeds, JSON Lines",
        row_files(
            {"input": PROMPTS[0]},
            {"prompt": PROMPTS[1]},
            {"messages": [{"role": "user", "content": "Hi"}]},
        ),
        _seeds("jsonl"),
    ),
    Parser(
        "seeds, CSV",
        _csv("input", "prompt"),
        _seeds("csv"),
    ),
    Parser("training data, JSON Lines", row_files(*TRAINING_ROWS), _training_data("jsonl")),
    Parser("training data, JSON list", json_files(list(TRAINING_ROWS)), _training_data("json")),
    Parser(
        "training data, CSV",
        _csv("prompt", "completion"),
        _training_data("csv"),
    ),
    Parser(
        "contexts, text", damaged(st.just(b"Be kind.\nBe brief.\n")) | st.binary(), _contexts("txt")
    ),
    Parser(
        "contexts, JSON Lines",
        row_files(
            {"system": "Be kind.", "name": "kind"},
            {
                "messages": [
                    {"role": "user", "content": "Hi"},
                    {"role": "assistant", "content": "Ho"},
                ]
            },
            {"before": "Now:"},
        ),
        _contexts("jsonl"),
    ),
    Parser(
        "GGUF header",
        _gguf_files() | damaged(st.just(_gguf())),
        in_file("x.gguf", lambda path: read_gguf_header(path, role=ROLE)),
    ),
    Parser("model config", st.deferred(lambda: json_files(_folders()["config.json"])), _config),
    Parser(
        "index of weights",
        json_files({"metadata": {"total_size": 1}, "weight_map": {"a": "model.safetensors"}}),
        _index,
    ),
    Parser(
        "adapter config",
        st.deferred(lambda: json_files(_folders()["adapter_config.json"])),
        _adapter_config,
    ),
    Parser(
        "safetensors header",
        safetensors_headers(HEADER, documents(HEADER).map(as_text).map(str.encode))
        | damaged(st.just(safetensors_file(json.dumps(HEADER).encode())))
        | st.binary(max_size=100),
        _adapter_weights,
    ),
    Parser("template file", damaged(st.just(CHATML.encode())) | st.binary(), _template_file),
    Parser("template arguments", _ARGUMENTS, _arguments),
]
