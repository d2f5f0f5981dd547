"""Specs, by which a user names a model: parsed, checked, and safe to show.

Knows the kinds of spec, and the Protocol of a loader for those that no rule here understands (a
pytest plugin's). Does not load anything.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol
from urllib.parse import urlsplit

from pytest_divergence.core.errors import ModelLoadError, one_of
from pytest_divergence.core.safe_text import visible

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Kind = Literal["hub", "folder", "adapter", "gguf", "demo", "plugin"]
OPTIONS = ("dtype", "attn_implementation", "revision", "device", "device_map", "base")
ATTENTIONS = ("eager", "sdpa", "flex_attention", "flash_attention_2", "flash_attention_3")
"""Attention implementations that are not a model's own code."""
DEMO_PREFIX = "demo:"


@dataclass(frozen=True)
class ModelSpec:
    """One parsed spec: `location[,option=value…]`."""

    kind: Kind
    location: str
    """Hub id, absolute folder, the demo's name, or the whole spec if a plugin understands it."""
    revision: str | None = None
    dtype: str | None = None
    """Dtype of this model alone."""
    attn_implementation: str | None = None
    """Attention of this model alone."""
    device: str | None = None
    """Device of this model, in place of the session's."""
    device_map: str | None = None
    """`auto`: over all devices, by accelerate."""
    base: str | None = None
    """Spec of the model that an adapter was trained on."""

    @property
    def path(self) -> Path:
        """The folder of a `folder` or `adapter` spec, the file of a `gguf` one."""
        return Path(self.location)

    def __str__(self) -> str:
        """The spec without secrets, as it is shown and stored."""
        name = f"{DEMO_PREFIX}{self.location}" if self.kind == "demo" else self.location
        if self.kind in ("folder", "adapter", "gguf"):
            name = _relative_to_here(self.path)
        options = [
            f"{key}={getattr(self, key)}" for key in OPTIONS if getattr(self, key) is not None
        ]
        return ",".join([name, *options])


@dataclass(frozen=True)
class LoadedModel:
    """A causal language model and its tokenizer, in memory."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase


class ModelProvider(Protocol):
    """A loader of models by specs that no built-in rule understands."""

    @property
    def names(self) -> str:
        """Names of the loaders, for messages; empty if there are none."""

    def fingerprint(self, spec: str) -> str | None:
        """Text that identifies the model, without loading it; None: not known."""

    def load_model(self, spec: str, role: str, device: str) -> LoadedModel | None:
        """The model of a spec; None: no model has that spec."""


def parse_spec(text: str, *, role: str, root: Path | None = None) -> ModelSpec:
    """Parse one spec; `role` is the option it came from, `root` resolves relative folders.

    Raises `ModelLoadError` for an empty spec, an unknown option, a URL, a file, or a name that is
    neither a folder nor a possible Hub id.
    """
    location, *raw_options = text.strip().split(",")
    location = location.strip()
    if "\0" in location:
        raise ModelLoadError(
            f"{role} holds a NUL character, so it is not a folder, and not a Hub id"
        )
    if not location:
        raise ModelLoadError(f"{role} is empty; give a Hub id, a local folder or demo:NAME")
    if "://" in location:
        raise ModelLoadError(
            f"{role} is a URL (host {_host(text.strip())}); models are loaded from a Hub id such "
            "as owner/name or from a local folder"
        )
    options = dict(_option(part, role=role) for part in raw_options)
    kind, location = _kind_and_location(location, role=role, root=root or Path.cwd())
    if "revision" in options and kind != "hub":
        raise ModelLoadError(
            f"{role}: revision={options['revision']} is for a Hub id, and {location} is not one; "
            "leave it out"
        )
    return ModelSpec(kind, location, **options)


def parse_open_spec(text: str, *, role: str, root: Path | None = None) -> ModelSpec:
    """Parse one spec that a plugin may understand if no rule here does.

    Raises `ModelLoadError` for text that may hold a secret: suites and reports store specs.
    """
    try:
        return parse_spec(text, role=role, root=root)
    except ModelLoadError:
        is_url = "://" in text
        if not text.strip() or (is_url and ("@" in text or "?" in text)):
            raise
        return plugin_spec(text)


def plugin_spec(text: str) -> ModelSpec:
    """A spec that a plugin understands."""
    return ModelSpec("plugin", text.strip())


def _option(part: str, *, role: str) -> tuple[str, str]:
    key, separator, value = part.strip().partition("=")
    if key not in OPTIONS or not separator or not value:
        raise ModelLoadError(
            f"{role}: {key!r} is not an option of a spec, or has no value; write spec,"
            + ",".join(f"{name}=…" for name in OPTIONS)
        )
    if key == "attn_implementation" and value not in ATTENTIONS:
        raise ModelLoadError(f"{role}: {key}={value!r} {one_of(value, ATTENTIONS)}")
    return key, value


def _kind_and_location(location: str, *, role: str, root: Path) -> tuple[Kind, str]:
    if location.startswith(DEMO_PREFIX):
        return "demo", location[len(DEMO_PREFIX) :]
    folder = root / os.path.expanduser(location)  # Path.expanduser raises for an unknown user
    if _is(folder.is_dir):
        kind: Kind = "adapter" if (folder / "adapter_config.json").is_file() else "folder"
        return kind, str(folder.resolve())
    if folder.suffix == ".gguf" and _is(folder.is_file):
        return "gguf", str(folder.resolve())
    if _is(folder.is_file):
        raise ModelLoadError(
            f"{role} is the file {location!r}; give the folder that holds config.json and "
            "the safetensors"
        )
    is_hub_id = re.fullmatch(r"[\w.-]+(/[\w.-]+)?", location) and ".." not in location
    if not is_hub_id or location.startswith("."):
        shown = re.sub("^.*@", "…@", location, flags=re.DOTALL)  # a password may stand before it
        raise ModelLoadError(f"{role}: no folder {shown!r} here, and it is not a Hub id")
    return "hub", location


def _host(url: str) -> str:
    """The only part of a URL that is shown: the rest may hold a password."""
    try:
        return visible(urlsplit(url).hostname or "unknown", 200)
    except ValueError:
        return "unknown"


def _is(check: Callable[[], bool]) -> bool:
    """Whether a path exists; one that the file system does not accept does not."""
    try:
        return check()
    except (OSError, ValueError):
        return False


def _relative_to_here(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
