"""Ways to change a model folder, from which strangers' folders are made."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

Change = Callable[[Path], object]
ADAPTER, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
MODEL, MODEL_WEIGHTS = "config.json", "model.safetensors"
INDEX = f"{MODEL_WEIGHTS}.index.json"
PT = {"format": "pt"}
MARKER = "RAN"
"""A file beside the project that a stranger's code makes where it runs."""


def all_of(*changes: Change) -> Change:
    """One after the other."""
    return lambda folder: [change(folder) for change in changes]


def in_json(name: str, **values: Any) -> Change:
    """Keys of a JSON file set; `...` takes one out."""

    def change(folder: Path) -> None:
        path = folder / name
        value = {**(json.loads(path.read_text("utf-8")) if path.exists() else {}), **values}
        path.write_text(json.dumps({k: v for k, v in value.items() if v is not ...}), "utf-8")

    return change


def in_config(**values: Any) -> Change:
    """Keys of an adapter's config set."""
    return in_json(ADAPTER, **values)


def edited(name: str, edit: Callable[[Any], object]) -> Change:
    """A JSON file changed in place."""

    def change(folder: Path) -> None:
        value = json.loads((folder / name).read_text("utf-8"))
        edit(value)
        (folder / name).write_text(json.dumps(value), "utf-8")

    return change


def weights(
    edit: Callable[[dict[str, Tensor]], Mapping[str, Tensor]], name: str = ADAPTER_WEIGHTS
) -> Change:
    """The tensors of an adapter, or of another file, as `edit` gives them."""

    def change(folder: Path) -> None:
        path = folder / name
        found = {key: tensor.contiguous().clone() for key, tensor in edit(load_file(path)).items()}
        save_file(found, path, PT)

    return change


def each(edit: Callable[[Tensor], Tensor], part: str = "lora_") -> Change:
    """Each of the adapter's tensors with `part` in its name changed."""
    return weights(lambda all_: {k: edit(v) if part in k else v for k, v in all_.items()})


def renamed(edit: Callable[[str], str]) -> Change:
    """The names of the adapter's tensors changed."""
    return weights(lambda all_: {edit(name): tensor for name, tensor in all_.items()})


def kept(keep: Callable[[str], bool]) -> Change:
    """Only the tensors whose names are kept."""
    return weights(lambda all_: {name: tensor for name, tensor in all_.items() if keep(name)})


def with_base(name: str, edit: Callable[[Tensor], Tensor], base: str = "base") -> Change:
    """A weight of the base itself, changed, among the adapter's."""

    def change(folder: Path) -> None:
        whole = load_file(folder.parent / base / "model.safetensors")
        added = {f"base_model.model.{name}": edit(whole[name])}
        weights(lambda all_: {**all_, **added})(folder)

    return change


def added(**tensors: Tensor) -> Change:
    """More tensors; `__` in a name stands for a dot."""
    named = {name.replace("__", "."): tensor for name, tensor in tensors.items()}
    return weights(lambda all_: {**all_, **named})


def header(edit: Callable[[dict[str, Any]], object], name: str = MODEL_WEIGHTS) -> Change:
    """The header of a file of tensors changed; the bytes behind it stay."""

    def change(folder: Path) -> None:
        data = (folder / name).read_bytes()
        end = 8 + int.from_bytes(data[:8], "little")
        value = json.loads(data[8:end])
        edit(value)
        said = json.dumps(value).encode()
        (folder / name).write_bytes(len(said).to_bytes(8, "little") + said + data[end:])

    return change


def sharded(edit: Callable[[dict[str, Any]], object] = lambda index: None) -> Change:
    """A model's weights in two files, `a` and `b`, with an index, changed."""

    def change(folder: Path) -> None:
        whole = load_file(folder / MODEL_WEIGHTS)
        (folder / MODEL_WEIGHTS).unlink()
        places = {key: "ab"[at % 2] + ".safetensors" for at, key in enumerate(sorted(whole))}
        for name in set(places.values()):
            save_file({k: whole[k] for k in whole if places[k] == name}, folder / name, PT)
        index = {"metadata": {"total_size": 1}, "weight_map": places}
        edit(index)
        (folder / INDEX).write_text(json.dumps(index), "utf-8")

    return change


def holding(name: str, data: str | bytes) -> Change:
    """A file of these bytes."""
    content = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data

    def change(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).write_bytes(content)

    return change


def without(*names: str) -> Change:
    """Files taken away."""

    def change(folder: Path) -> None:
        for name in names:
            (folder / name).unlink(missing_ok=True)

    return change


def fifo(name: str) -> Change:
    """A pipe in place of a file: whoever opens it waits for ever."""

    def change(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    return change


def linked(name: str, target: str) -> Change:
    """A symbolic link in place of a file."""

    def change(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target)

    return change


def moved(name: str, target: str) -> Change:
    """A file by another name."""
    return lambda folder: (folder / name).rename(folder / target)


def copied(source: str, name: str) -> Change:
    """A file from elsewhere in the project, or from the folder itself."""
    return lambda folder: shutil.copy(folder / source, folder / name)


def cut(name: str, size: int) -> Change:
    """A file cut to `size` bytes, from its end where that is negative."""

    def change(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[:size])

    return change


def sparse(name: str, size: int) -> Change:
    """A file that says to be huge and takes no disk."""

    def change(folder: Path) -> None:
        (folder / name).touch()
        with (folder / name).open("r+b") as file:
            file.truncate(size)

    return change


def pickled(name: str) -> Change:
    """A pickle that makes the marker when it is read."""

    def change(folder: Path) -> None:
        marker = str(folder.parent.parent / MARKER)
        (folder / name).unlink(missing_ok=True)
        (folder / name).write_bytes(pickle.dumps(_Payload(marker)))

    return change


def code(name: str) -> Change:
    """A Python file that makes the marker when it is imported."""

    def change(folder: Path) -> None:
        marker = str(folder.parent.parent / MARKER)
        (folder / name).write_text(f"open({marker!r}, 'w')\n", "utf-8")

    return change


def shuffled(tensor: Tensor) -> Tensor:
    """Its rows in another order: every sum over it stays."""
    return tensor[torch.arange(len(tensor) - 1, -1, -1)]


class _Payload:
    def __init__(self, marker: str) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.marker, "w")
