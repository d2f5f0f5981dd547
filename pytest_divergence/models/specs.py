"""Specs, by which a user names a model: parsed, checked, and safe to show.

Knows the kinds of spec, and the Protocol of a loader for those that no rule here understands (a
pytest plugin's). Does not load anything.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast
from urllib.parse import SplitResult, urlsplit

from pytest_divergence.core.errors import ModelLoadError, one_of
from pytest_divergence.core.file_names import SUITE_SUFFIX, is_suite
from pytest_divergence.core.safe_text import visible
from pytest_divergence.models.locations import is_so, location_and_options

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Kind = Literal[
    "hub", "folder", "adapter", "gguf", "demo", "plugin", "llamacpp", "openai", "vllm", "recorded"
]
OPTIONS = ("dtype", "attn_implementation", "revision", "device", "device_map", "base")
SERVED = ("llamacpp", "openai", "vllm")
"""Kinds of a served model: what a server speaks is named, never guessed."""
TEXT_ONLY = ("openai",)
"""Kinds of a served model that tells no probabilities, only what it writes."""
RECORDED = "recorded"
"""Kind of a reference that stands in a file beside a suite."""
SERVED_OPTIONS = ("model", "tokenizer", "key_env", "timeout")
ATTENTIONS = ("eager", "sdpa", "flex_attention", "flash_attention_2", "flash_attention_3")
"""Attention implementations that are not a model's own code."""
DEMO_PREFIX = "demo:"
SERVED_EXAMPLES = {
    "llamacpp": "llamacpp:http://127.0.0.1:8080",
    "vllm": "vllm:http://127.0.0.1:8000",
    "openai": "openai:https://api.example.com/v1,model=NAME,key_env=API_KEY",
}
DEFAULT_PATHS = {"llamacpp": "", "openai": "/v1", "vllm": ""}
"""Path at which a server is asked, if its address has none."""
TIMEOUT = 60.0
"""Seconds that one answer of a server may take, unless the spec says otherwise."""
MAX_TIMEOUT = 3600.0


@dataclass(frozen=True)
class ModelSpec:
    """One parsed spec: `location[,option=value…]`."""

    kind: Kind
    location: str
    """Hub id, absolute folder, the demo's name, a server's address, a recorded suite's path, or the
    whole spec if a plugin understands it."""
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
    model: str | None = None
    """Name of the model on a server that has several."""
    tokenizer: str | None = None
    """Spec of the model whose tokenizer a server has; None: the pair's other model."""
    key_env: str | None = None
    """Environment variable that holds the server's key."""
    timeout: float | None = None
    """Seconds that one answer of a server may take."""

    @property
    def is_served(self) -> bool:
        """Whether a server runs the model."""
        return self.kind in SERVED

    @property
    def is_remote(self) -> bool:
        """Whether a server on another machine runs the model."""
        return self.is_served and not _is_loopback(urlsplit(self.location).hostname or "")

    @property
    def path(self) -> Path:
        """The folder of a `folder` or `adapter` spec, the file of a `gguf` one."""
        return Path(self.location)

    def __str__(self) -> str:
        """The spec without secrets, as it is shown and stored."""
        name = self.location
        if self.kind in ("folder", "adapter", "gguf", RECORDED):
            name = _relative_to_here(self.path)
        if self.kind in ("demo", RECORDED) or self.is_served:
            name = f"{self.kind}:{name}"
        options = [
            f"{key}={getattr(self, key):g}" if key == "timeout" else f"{key}={getattr(self, key)}"
            for key in (*OPTIONS, *SERVED_OPTIONS)
            if getattr(self, key) is not None
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

    Raises `ModelLoadError` for an empty spec, an unknown option, a URL without the kind of its
    server, a file, or a name that is neither a folder nor a possible Hub id.
    """
    if is_served(text):
        return _served_spec(text.strip(), role=role)
    if is_recorded(text):
        return _recorded_spec(text.strip(), role=role, root=root or Path.cwd())
    location, raw_options = location_and_options(text.strip(), root=root or Path.cwd())
    if "\0" in location:
        raise ModelLoadError(
            f"{role} holds a NUL character, so it is not a folder, and not a Hub id"
        )
    if not location:
        raise ModelLoadError(f"{role} is empty; give a Hub id, a local folder or demo:NAME")
    if "://" in location:
        raise ModelLoadError(
            f"{role} is a URL (host {_host(text.strip())}); models are loaded from a Hub id such "
            "as owner/name or from a local folder, and a served one is named with what serves it: "
            f"{SERVED_EXAMPLES['llamacpp']}"
        )
    options: dict[str, Any] = _options(raw_options, OPTIONS, role=role)
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
        if not text.strip() or is_partial(text) or (is_url and ("@" in text or "?" in text)):
            raise
        return plugin_spec(text)


def plugin_spec(text: str) -> ModelSpec:
    """A spec that a plugin understands."""
    return ModelSpec("plugin", text.strip())


def is_served(text: str) -> bool:
    """Whether a spec, not yet parsed, names a server."""
    kind, colon, _ = text.strip().partition(":")
    return bool(colon) and kind in SERVED


def is_text_only(text: str) -> bool:
    """Whether a spec, not yet parsed, names a server that tells no probabilities."""
    return is_served(text) and text.strip().partition(":")[0] in TEXT_ONLY


def tells_heads(text: str) -> bool:
    """Whether a spec, not yet parsed, names a server that tells the likeliest tokens anywhere."""
    return is_served(text) and not is_text_only(text)


def is_recorded(text: str) -> bool:
    """Whether a spec, not yet parsed, names a recorded reference."""
    return text.strip().startswith(f"{RECORDED}:")


def is_partial(text: str) -> bool:
    """Whether a spec, not yet parsed, names a model of which only parts are told."""
    return is_served(text) or is_recorded(text)


def check_served_locally(text: str, *, name: str) -> None:
    """Refuse a server on another machine in a file of the project, which others may have written.

    `name` is the setting in that file. Raises `ModelLoadError`.
    """
    if not is_served(text):
        return
    spec = parse_spec(text, role=name)
    if spec.is_remote:
        raise ModelLoadError(
            f"{name} names a server on another machine (host {_host(text)}), and a file may name "
            "only one on this machine; give the address on the command line or in the environment "
            "variable of the option"
        )


def _served_spec(text: str, *, role: str) -> ModelSpec:
    """Parse `KIND:URL[,option=value…]`. No message shows more of the URL than its host."""
    kind, _, rest = text.partition(":")
    url, *raw_options = (part.strip() for part in rest.split(","))
    address = _address(url, role=role, kind=kind)
    options = _options(raw_options, SERVED_OPTIONS, role=role)
    key_env, seconds = options.get("key_env"), options.get("timeout")
    if key_env is not None and not re.fullmatch("[A-Z_][A-Z0-9_]{0,63}", key_env):
        raise ModelLoadError(
            f"{role}: key_env must be the name of an environment variable in capitals, such as "
            "LLAMACPP_KEY, never the key itself"
        )
    is_clear = address.scheme == "http" and not _is_loopback(address.hostname or "")
    if key_env is not None and is_clear:
        raise ModelLoadError(
            f"{role}: key_env={key_env} would be sent unencrypted to host "
            f"{visible(address.hostname or '', 200)}; give an https address"
        )
    return ModelSpec(
        cast(Kind, kind),
        f"{address.scheme}://{address.netloc}{address.path.rstrip('/') or DEFAULT_PATHS[kind]}",
        model=options.get("model"),
        tokenizer=options.get("tokenizer"),
        key_env=key_env,
        timeout=None if seconds is None else _seconds(seconds, role=role),
    )


def _recorded_spec(text: str, *, role: str, root: Path) -> ModelSpec:
    path = root / os.path.expanduser(text.partition(":")[2])
    if not is_suite(path) or not is_so(path.is_file):
        raise ModelLoadError(
            f"{role}: {visible(text, 200)} names no suite; write {RECORDED}:SUITE with the path of "
            f"a *{SUITE_SUFFIX} that has been recorded"
        )
    return ModelSpec("recorded", str(path.resolve()))


def _address(url: str, *, role: str, kind: str) -> SplitResult:
    """Scheme, host and port of a server, and the path where it speaks OpenAI's interface.

    Raises `ModelLoadError` for anything more or less.
    """
    fault = None
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises for what is no number
        if parts.scheme not in ("http", "https") or not parts.hostname:
            fault = "must begin with http:// or https:// and a host"
        elif parts.username is not None or parts.password is not None:
            fault = "must hold no user or password (key_env names the variable with the key)"
        elif parts.query or parts.fragment or (kind != "openai" and parts.path not in ("", "/")):
            fault = "must end after host and port"
        elif not re.fullmatch(r"(/[A-Za-z0-9._-]+)*/?", parts.path):
            fault = "must have a path of plain letters, digits, dots and hyphens"
        elif not re.fullmatch(r"[A-Za-z0-9.:\[\]_-]+", parts.netloc):
            fault = "must have a host of plain letters, digits, dots and hyphens"
    except ValueError:
        fault = "must have a host, and a port that is a number"
    if fault is not None:
        raise ModelLoadError(
            f"{role}: the address after {kind}: (host {_host(url)}) {fault}, as in "
            f"{SERVED_EXAMPLES[kind]}"
        )
    return parts


def _seconds(text: str, *, role: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= MAX_TIMEOUT:
        raise ModelLoadError(
            f"{role}: timeout={visible(text, 40)} must be a number of seconds above 0, and at most "
            f"{MAX_TIMEOUT:g}"
        )
    return seconds


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _options(parts: Sequence[str], known: Sequence[str], *, role: str) -> dict[str, str]:
    return dict(_option(part, known, role=role) for part in parts)


def _option(part: str, known: Sequence[str], *, role: str) -> tuple[str, str]:
    key, separator, value = part.strip().partition("=")
    if key not in known or not separator or not value:
        raise ModelLoadError(
            f"{role}: {key!r} is not an option of a spec, or has no value; write spec,"
            + ",".join(f"{name}=…" for name in known)
        )
    if key == "attn_implementation" and value not in ATTENTIONS:
        raise ModelLoadError(f"{role}: {key}={value!r} {one_of(value, ATTENTIONS)}")
    return key, value


def _kind_and_location(location: str, *, role: str, root: Path) -> tuple[Kind, str]:
    if location.startswith(DEMO_PREFIX):
        return "demo", location[len(DEMO_PREFIX) :]
    folder = root / os.path.expanduser(location)  # Path.expanduser raises for an unknown user
    if is_so(folder.is_dir):
        kind: Kind = "adapter" if (folder / "adapter_config.json").is_file() else "folder"
        return kind, str(folder.resolve())
    if folder.suffix == ".gguf" and is_so(folder.is_file):
        return "gguf", str(folder.resolve())
    if is_so(folder.is_file):
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
        # The scheme may be a dialect's name, before the real one.
        return visible(urlsplit(f"//{url.rpartition('://')[2]}").hostname or "unknown", 200)
    except ValueError:
        return "unknown"


def _relative_to_here(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
