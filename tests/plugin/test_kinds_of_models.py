"""From two models to a suite that replays, for kinds of models that are not plain transformers."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from pytest_divergence.cli import main
from pytest_divergence.core.file_names import suite_path
from pytest_divergence.core.settings import PROFILES
from tests.models.test_text_models import IN_TEXT, adapted, gemma3, perturb, save
from tests.plugin.conftest import Project, shown
from tests.plugin.test_search import TINY_SEARCH
from tests.zoo.shrunken import FAMILIES, perturbed, shrunken_config, shrunken_model

SIZES = {name: size for name, size in TINY_SEARCH.items() if not name.endswith("_controls")}
"""As many controls as a user's search has: fewer say nothing of a replay as a whole."""
REPLAY = "release.divergence.jsonl"


def family(name: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        model = shrunken_model(shrunken_config(name))
        save(model, folder / "base")
        save(perturbed(model, 0.3), folder / "ft")

    return make


def whole() -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return gemma3().float()


def vision_language(folder: Path) -> None:
    model = whole()
    save(model, folder / "base")
    save(perturb(model), folder / "ft")


def adapter_of_vision_language(folder: Path) -> None:
    base: PreTrainedModel = whole()
    save(base, folder / "base")
    adapted(base, folder / "ft", target_modules=IN_TEXT)


KINDS = {
    "qwen3_5": family("qwen3_5_text"),
    "mamba2": family("mamba2"),
    "vision_language": vision_language,
    "adapter_of_vision_language": adapter_of_vision_language,
}
LACKING = pytest.mark.skipif("qwen3_5_text" not in FAMILIES, reason="transformers has no Qwen3.5")


@pytest.fixture
def said() -> Any:
    """What transformers says to whoever listens, each thing anew in each test."""
    lines: list[str] = []
    logger = logging.getLogger("transformers")
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    for name in ("warning_once", "info_once"):
        getattr(logging.Logger, name).cache_clear()
    logger.addHandler(handler)
    yield lines
    logger.removeHandler(handler)


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=LACKING if kind == "qwen3_5" else ()) for kind in KINDS]
)
def test_a_whole_search_and_the_replay_of_what_it_found(
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    said: list[str],
    kind: str,
) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setitem(PROFILES, "smoke", PROFILES["smoke"].model_copy(update=SIZES))
    KINDS[kind](pytester.path.parent / kind)
    project = Project(pytester)
    models = [f"--model-{i}=../{kind}/{name}" for i, name in ((1, "base"), (2, "ft"))]
    said.clear()

    first = project.run(*models, "--divergence-mode=search")

    suite = suite_path(project.path, *(model.partition("=")[2] for model in models))
    outcomes = first.parseoutcomes()
    assert outcomes.keys() <= {"passed", "failed"}
    assert sum(outcomes.values()) == 3
    assert not first.errlines
    rows = suite.read_bytes()
    report = json.loads((project.path / ".divergence/reports/latest/report.json").read_bytes())
    assert report["run"]["status"] == "complete"
    assert report["errors"] == []
    assert report["training"]
    notes = [line for line in first.outlines if line.startswith("divergence: --model")]
    assert len(notes) == {"vision_language": 2, "adapter_of_vision_language": 1}.get(kind, 0)

    again = project.run(*models)
    assert again.parseoutcomes() == outcomes
    assert "search (saved results): " in shown(again)
    assert suite.read_bytes() == rows

    capsys.readouterr()
    assert main(["promote", "latest", REPLAY]) == 0
    command = re.sub(r"\s*\\?\n\s*", " ", capsys.readouterr().out.partition("replay it:")[2])
    replayed = project.run(*command.split()[1:])
    replayed.assert_outcomes(passed=3)
    assert f"rootdir: {project.path}" in replayed.outlines

    capsys.readouterr()
    assert main(["doctor", "--measure", *models]) == 0
    told = capsys.readouterr()
    assert "ok    a search needs about " in told.out
    assert "ok    a search takes about " in told.out
    assert not re.search("^fail", told.out, re.MULTILINE)
    assert told.err == ""
    assert said == []
