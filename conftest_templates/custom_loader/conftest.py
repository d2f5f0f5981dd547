"""When to use it: your models are not where this plugin looks: training checkpoints, for example.

How to run it: `pytest-divergence discover --model-1 owner/base --model-2
checkpoint:runs/7/step-400.safetensors`, and `pytest` and `pytest-divergence replay` the same way.
The file holds only the weights, as `safetensors.torch.save_model` writes them; the rest comes from
the base. Other stores (a registry, a bucket) need the same two functions.

What it leaves to you: trust. A loader runs what it loads; safetensors hold weights and no code.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest

if TYPE_CHECKING:
    from pytest_divergence import LoadedModel

PREFIX = "checkpoint:"
BASE = "owner/base"
"""The model whose architecture, tokenizer and dtype the checkpoints have."""


@pytest.hookimpl(optionalhook=True)  # so that tests also run where the plugin is switched off
def pytest_divergence_load_model(
    config: pytest.Config, spec: str, role: Literal["reference", "candidate"], device: str
) -> LoadedModel | None:
    """Return the base with a checkpoint's weights."""
    path = _checkpoint(config, spec)
    if path is None:
        return None
    from safetensors.torch import load_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from pytest_divergence import LoadedModel

    model: Any = AutoModelForCausalLM.from_pretrained(BASE, dtype="auto")
    load_model(model, path)  # raises if a weight is missing, or has another shape
    return LoadedModel(model.to(device), AutoTokenizer.from_pretrained(BASE))


@pytest.hookimpl(optionalhook=True)
def pytest_divergence_fingerprint(config: pytest.Config, spec: str) -> str | None:
    """Return a digest of the file to cache searches by: a name alone may be reused."""
    path = _checkpoint(config, spec)
    if path is None:
        return None
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return f"{BASE} {digest.hexdigest()}"


def _checkpoint(config: pytest.Config, spec: str) -> Path | None:
    """Return the file that a spec names, or None if the spec is not ours."""
    if not spec.startswith(PREFIX):
        return None
    path = config.rootpath / spec.removeprefix(PREFIX)
    if not path.is_file():
        raise pytest.UsageError(f"there is no checkpoint {spec.removeprefix(PREFIX)}")
    return path
