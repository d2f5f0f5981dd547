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
import transformers
from transformers import OpenAIGPTLMHeadModel, PreTrainedConfig, PreTrainedModel

from pytest_divergence.cli import main
from pytest_divergence.core.file_names import suite_path
from pytest_divergence.core.settings import PROFILES
from tests.models.test_self_check import openai_gpt
from tests.models.test_text_models import IN_TEXT, adapted, gemma3, save
from tests.models_in_memory import tiny_config, tiny_mamba2, tiny_model
from tests.plugin.conftest import Project, shown
from tests.plugin.test_search import TINY_SEARCH

SIZES = {name: size for name, size in TINY_SEARCH.items() if not name.endswith("_controls")}
"""As many controls as a user's search has: fewer say nothing of a replay as a whole."""
REPLAY = "release.divergence.jsonl"
IMPORTED = (OpenAIGPTLMHeadModel,)
"""Imported with this file: transformers looks for its module, and `pytester` forgets late ones."""


def qwen3_5() -> PreTrainedConfig:
    return tiny_config(
        transformers.Qwen3_5TextConfig,
        layer_types=["linear_attention", "full_attention"],
        linear_key_head_dim=16,
        linear_value_head_dim=16,
        linear_num_key_heads=2,
        linear_num_value_heads=4,
    )


def gpt() -> PreTrainedConfig:
    config = openai_gpt()
    config.pad_token_id = None  # transformers takes text with that byte for padded
    return config


def text(config: Callable[[], PreTrainedConfig]) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        save(tiny_model(config=config()), folder / "base")
        save(tiny_model(config=config(), perturb=0.3), folder / "ft")

    return make


def whole() -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return gemma3().float()


def adapter_of_vision_language(folder: Path) -> None:
    base: PreTrainedModel = whole()
    save(base, folder / "base")
    adapted(base, folder / "ft", target_modules=IN_TEXT)


KINDS = {
    "qwen3_5": text(qwen3_5),
    "mamba2": text(tiny_mamba2),
    "without_cache": text(gpt),
    "adapter_of_vision_language": adapter_of_vision_language,
}


BY_DAY = "qwen3_5"


@pytest.fixture(
    scope="module",
    params=[pytest.param(kind, marks=() if kind == BY_DAY else pytest.mark.slow) for kind in KINDS],
)
def models_of(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `base` and `ft`, made before `pytester`, which forgets what is imported."""
    folder = tmp_path_factory.mktemp("models") / str(request.param)
    KINDS[folder.name](folder)
    return folder


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


def test_a_whole_search_and_the_replay_of_what_it_found(
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    said: list[str],
    models_of: Path,
) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setitem(PROFILES, "smoke", PROFILES["smoke"].model_copy(update=SIZES))
    project, kind = Project(pytester), models_of.name
    models = [f"--model-{i}={models_of / name}" for i, name in ((1, "base"), (2, "ft"))]

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
    assert len(notes) == (kind == "adapter_of_vision_language")

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
