"""What all tests share: no network, a cache of their own, and tiny models saved once."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import scipy.stats  # noqa: F401
import torch

# Imported here once: an inner session of pytester forgets what it was the first to import, and
# numpy, scipy and torch cannot be imported a second time, and httpx knows the errors of one
# httpcore; that one is missing where this repository is only tried on.
import pytest_divergence.plugin.assertions
import pytest_divergence.plugin.collection
import pytest_divergence.plugin.github
import pytest_divergence.plugin.search
import pytest_divergence.plugin.terminal
import pytest_divergence.plugin.update  # noqa: F401
from tests.gguf_writing import write_gguf
from tests.tiny import save_tiny_adapter, save_tiny_model

with contextlib.suppress(ImportError):
    import httpcore  # noqa: F401
pytest_plugins = ["pytester"]


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Models this small only wait for a second thread.

    In a fixture: pytest imports this file also where a pair is tried out beside these tests.
    """
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No option, CI flag, hub or cache of the machine reaches a test or a fixture of any scope."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        for name in list(os.environ):
            if name.startswith("PYTEST_DIVERGENCE_") or name in ("CI", "PYTEST_ADDOPTS"):
                monkeypatch.delenv(name)
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        monkeypatch.setenv("HF_HOME", str(tmp_path_factory.getbasetemp() / "hub"))
        cache = tmp_path_factory.getbasetemp() / "cache"
        monkeypatch.setenv("PYTEST_DIVERGENCE_CACHE", str(cache))
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        monkeypatch.setenv("COLUMNS", "80")
        yield


@pytest.fixture
def pytester(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """The usual one, whose sessions leave it to the outer one to tell a crash of this process."""
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p no:faulthandler")
    return pytester


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of folders: `base`, `ft` (differs from it) and `adapter` (of `base`)."""
    folder = tmp_path_factory.mktemp("models")
    save_tiny_model(folder / "base")
    save_tiny_model(folder / "ft", perturb=0.3)
    save_tiny_adapter(folder / "base", folder / "adapter")
    return folder


@pytest.fixture(scope="session")
def gguf_models(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of GGUF files: `base`, `ft`, and `other`, which differs more."""
    folder = tmp_path_factory.mktemp("gguf")
    other = save_tiny_model(tmp_path_factory.mktemp("other") / "other", perturb=1.0, seed=3)
    for source in (tiny_models / "base", tiny_models / "ft", other):
        write_gguf(source, folder / f"{source.name}.gguf")
    return folder


@pytest.fixture(scope="session")
def base_server(gguf_models: Path) -> Iterator[str]:
    """The address of a llama.cpp server that runs `base`."""
    # Here, since what it needs is missing where this repository is only tried on.
    from tests.served import llama_server

    with llama_server(gguf_models / "base.gguf") as address:
        yield address


@pytest.fixture(scope="session")
def ft_server(gguf_models: Path) -> Iterator[str]:
    """The address of a llama.cpp server that runs `ft`, two rows at a time."""
    from tests.served import llama_server

    with llama_server(gguf_models / "ft.gguf", num_slots=2) as address:
        yield address
