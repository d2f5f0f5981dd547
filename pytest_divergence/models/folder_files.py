"""Files of a model folder that may be read: regular ones of a sane size, checked before opening.

Reading a pipe or a device might never end; a link to a file, as in the Hub's cache, is as good as
the file. Does not know what the files contain.
"""

from __future__ import annotations

import json
import math
import stat
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from pytest_divergence.core.errors import ModelLoadError
from pytest_divergence.core.quantities import amount

READ_WHOLE = (".json", ".jinja", ".txt", ".model")
"""Endings of files that are read into memory at once."""
MAX_CONFIG_BYTES = 16 * 2**20
MAX_TEXT_BYTES = 512 * 2**20
"""Limit for a tokenizer's files and an index of shards: ten times the largest known ones."""
CONFIGS = ("config.json", "adapter_config.json", "generation_config.json")
TEMPLATES = "additional_chat_templates"
"""The only folder inside a model folder that is read."""
SYSTEM = ("proc", "sys")
"""Folders of the system whose files are not what they seem."""

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
"""Files that transformers looks for in this order: all weights, and the names of their shards."""

Shapes = dict[str, tuple[int, ...]]
"""Shapes of tensors by name."""


def check_files(folder: Path, *, role: str) -> None:
    """Raise `ModelLoadError` for a file that cannot be read to its end, or is far too large.

    All files count: all that end in `.safetensors` are hashed, and a tokenizer reads what it finds.
    """
    inside = folder / TEMPLATES
    for path in (*sorted(folder.iterdir()), *(sorted(inside.iterdir()) if inside.is_dir() else ())):
        try:
            found = path.stat()
        except OSError:  # a broken link: whoever needs the file reports that it is missing
            if path.suffix == ".safetensors":
                raise ModelLoadError(
                    f"{role}: {path} is a link to a missing file; remove it from the folder, "
                    "or restore the file that it names"
                ) from None
            continue
        if stat.S_ISDIR(found.st_mode):
            continue
        is_system = path.resolve().parts[1:2] in [(name,) for name in SYSTEM]
        if not stat.S_ISREG(found.st_mode) or is_system:
            raise ModelLoadError(
                f"{role}: {path} is not a regular file (but a pipe, socket or device), and reading "
                "it might never end; remove it from the folder"
            )
        most = MAX_CONFIG_BYTES if path.name in CONFIGS else MAX_TEXT_BYTES
        if path.suffix in READ_WHOLE and found.st_size > most:
            raise ModelLoadError(
                f"{role}: {path} has {amount(found.st_size)}, and the limit for such a file is "
                f"{amount(most)}; give the folder as save_pretrained() wrote it"
            )


def read_json_object(path: Path, *, role: str) -> dict[str, Any]:
    """The JSON object in a file of a model folder; anything else is a `ModelLoadError`."""
    try:
        value = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ModelLoadError(f"{role}: {path.parent} has no readable {path.name}") from error
    except (ValueError, RecursionError) as error:
        raise ModelLoadError(f"{role}: {path} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise ModelLoadError(f"{role}: {path} must hold a JSON object")
    return value


def weight_files(folder: Path) -> list[Path]:
    """List the safetensors files of a folder that are loaded, in order of their names.

    Others may lie beside them: Mistral's repositories hold the same weights in another form. An
    adapter's folder, and one with a broken index, give all files.
    """
    found = sorted(folder.glob("*.safetensors"))
    wanted = {WHOLE}
    if not (folder / WHOLE).is_file() and (folder / INDEX).is_file():
        shards = read_json_object(folder / INDEX, role="model").get("weight_map")
        wanted = set(map(str, shards.values())) if isinstance(shards, dict) else set()
    return [path for path in found if path.name in wanted] or found


def stored_shapes(*files: Path) -> Shapes:
    """All tensors of safetensors files, by their headers alone.

    Raises `SafetensorError` or `OSError` for files that cannot be read.
    """
    shapes: Shapes = {}
    for path in files:
        with safe_open(path, framework="pt") as weights:
            keys = weights.keys()
            shapes |= {key: tuple(weights.get_slice(key).get_shape()) for key in keys}
    return shapes


def num_stored(shapes: Shapes) -> int:
    """Total number of values in the tensors."""
    return sum(map(math.prod, shapes.values()))


def model_shapes(folder: Path) -> Shapes:
    """The tensors of a model folder; none if its files cannot be read, which loading reports."""
    try:
        return stored_shapes(*sorted(folder.glob("*.safetensors")))
    except (SafetensorError, OSError):
        return {}
