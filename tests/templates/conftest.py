"""A template copied into a project with tiny models, and one search of them to start from."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from pytest_divergence.cli import main
from pytest_divergence.core.settings import PROFILES
from tests.plugin.conftest import Project, project  # noqa: F401  # a fixture
from tests.plugin.test_search import TINY_SEARCH
from tests.tiny import save_tiny_adapter

TEMPLATES = Path(__file__).parents[2] / "conftest_templates"
SPECS = {
    "owner/base": "base",
    "owner/finetuned": "ft",
    "adapters/support": "adapter",
    "models/base-int8": "int8",
}
"""What the templates call models, and the tiny ones that take their place."""

Copy = Callable[[str], Project]
GATE_SEARCH = {**TINY_SEARCH, "num_shipped_controls": 48, "num_written_controls": 16}
"""With as many control rows as an aggregate needs."""


@pytest.fixture(autouse=True, scope="module")
def _tiny_search() -> Iterator[None]:
    """A smoke profile that takes seconds."""
    with tiny_search(TINY_SEARCH):
        yield


@contextmanager
def tiny_search(sizes: Mapping[str, int]) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PROFILES, "smoke", PROFILES["smoke"].model_copy(update=dict(sizes)))
        yield


@pytest.fixture
def copied(project: Project) -> Copy:  # noqa: F811  # the fixture
    """Copy a template into the project, with tiny models' names in it."""
    save_tiny_adapter(project.path / "base", project.path / "adapter", scale=0.15)

    def copy(name: str) -> Project:
        copy_template(name, project.path)
        return project

    return copy


def copy_template(name: str, folder: Path) -> None:
    for path in sorted((TEMPLATES / name).rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            text = path.read_text("utf-8")
            for spec, tiny in SPECS.items():
                text = text.replace(spec, tiny)
            target = folder / path.relative_to(TEMPLATES / name)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, "utf-8")


@pytest.fixture(scope="session")
def _searched(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the minimal template has searched a candidate that answers nothing."""
    folder = tmp_path_factory.mktemp("searched")
    shutil.copytree(tiny_models / "base", folder / "base")
    change_weight(folder / "base", folder / "ft", "model.norm.weight", 0.0)
    copy_template("minimal", folder)
    with pytest.MonkeyPatch.context() as patch, tiny_search(GATE_SEARCH):
        patch.chdir(folder)
        patch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
        patch.setenv("PYTEST_DIVERGENCE_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        assert main(["discover"]) == 0
    return folder


@pytest.fixture
def searched(copied: Copy, _searched: Path) -> Iterator[Copy]:
    """Copy a template to where a search of its models has been done already."""

    def copy(name: str) -> Project:
        project = copied(name)  # noqa: F811  # the project
        shutil.rmtree(project.path / "ft")
        for one in ("ft", ".divergence"):
            shutil.copytree(_searched / one, project.path / one, symlinks=True)
        return project

    with tiny_search(GATE_SEARCH):
        yield copy


def change_weight(source: Path, target: Path, name: str, factor: float) -> None:
    """Save a model again with one weight multiplied."""
    if source != target:
        shutil.copytree(source, target, dirs_exist_ok=True)
    weights = load_file(target / "model.safetensors")
    weights[name] = weights[name] * factor
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})


def round_weights(source: Path, target: Path, *, levels: int) -> None:
    """Save a model again with each row of its matrices rounded to so many steps either way."""
    shutil.copytree(source, target, dirs_exist_ok=True)
    weights = load_file(target / "model.safetensors")
    for name, weight in weights.items():
        if weight.ndim == 2:
            step = weight.abs().amax(1, keepdim=True).clamp_min(1e-12) / levels
            weights[name] = (weight / step).round() * step
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
