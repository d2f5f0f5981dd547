"""Work units are values: another process computes them, and a search finds the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest

from pytest_divergence.core import settings as settings_module
from pytest_divergence.core.cases import Case
from pytest_divergence.core.errors import ModelLoadError
from pytest_divergence.core.file_names import sidecar_path
from pytest_divergence.core.settings import Settings
from pytest_divergence.discovery import calibration_report as calibration_module
from pytest_divergence.discovery import run as run_module
from pytest_divergence.discovery.behaviours.prompt_properties import Form, Opening
from pytest_divergence.discovery.calibration_report import calibration_report
from pytest_divergence.discovery.engines.base import WorkUnit, kind_of_work
from pytest_divergence.discovery.progress import Silence
from pytest_divergence.discovery.run import search
from pytest_divergence.models.load_plan import LoadOptions
from pytest_divergence.models.loading import PairRecipe
from pytest_divergence.models.pair import ModelPair
from tests.discovery.posted_units import OtherProcess, Posted
from tests.discovery.test_run import PROFILE


@pytest.fixture
def settings(tiny_models: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setitem(settings_module.PROFILES, "smoke", PROFILE)
    return Settings(
        model_1=str(tiny_models / "base"),
        model_2=str(tiny_models / "ft"),
        profile="smoke",
        gate="all",
    )


@pytest.fixture
def recipe(tiny_models: Path) -> PairRecipe:
    return PairRecipe("base", "ft", LoadOptions(), root=tiny_models)


def found_in(root: Path, settings: Settings, load_pair: Callable[[], ModelPair]) -> list[bytes]:
    """The suite and its tokens."""
    suite = search(settings, root=root, load_pair=load_pair, listener=Silence()).suite_path
    return [suite.read_bytes(), sidecar_path(suite, "tokens.jsonl").read_bytes()]


def no_models() -> ModelPair:
    raise ModelLoadError("the models are in another process")


@pytest.mark.slow
def test_another_process_computes_a_whole_search(
    settings: Settings, recipe: PairRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTEST_DIVERGENCE_CACHE", str(tmp_path / "one" / "cache"))
    here = found_in(tmp_path / "here", settings, recipe.load)

    monkeypatch.setenv("PYTEST_DIVERGENCE_CACHE", str(tmp_path / "other" / "cache"))
    with OtherProcess(recipe) as other:
        monkeypatch.setattr(run_module, "InProcess", other.engine)
        there = found_in(tmp_path / "there", settings, no_models)

    assert there == here
    assert {name.split("/")[0] for name in other.computed} == {
        "behaviour",
        "confirm",
        "controls",
        "nll",
        "pair",
        "search",
    }
    assert "search/soft_prompt/0" in other.computed
    nameless = {name for name in other.computed if kind_of_work(name) == name.split("/")[0]}
    assert nameless == {"pair"}  # which forwards nothing


def test_a_strategy_of_any_name_is_a_kind_of_work() -> None:
    assert kind_of_work("search/mine/0/without/seeds/2") == "search: mine"
    assert kind_of_work("behaviour/decoy-behaviour-the-1/repeated/2") == "test of the decoy"
    assert kind_of_work("behaviour/behaviour-decoy-1/repeated/2") == "tests of leads"


def test_a_unit_is_named_after_all_of_its_arguments() -> None:
    """Else a later session, which found other prompts, reads back an answer to earlier ones."""

    def name(**arguments: object) -> str:
        return WorkUnit.of("nll", kind_of_work, **arguments).name

    assert name(prompts=["a", "b"], length=3) == name(length=3, prompts=("a", "b"))
    assert name(wanted=Opening("that ask"), row=Case(input="A")).startswith("nll/")
    others = [
        name(prompts=["a", "b"]),
        name(prompts=["a\nb"]),
        name(prompts=["a", "b"], length=3),
        name(prompts=["a", "b"], length=4),
        name(wanted=Opening("that ask")),
        name(wanted=Form("that ask")),
        name(row=Case(input="A")),
        name(row=Case(input="B")),
    ]
    assert len({*others}) == len(others)
    with pytest.raises(TypeError):
        name(known={"of no order"})


@dataclass(frozen=True)
class Text:
    text: str

    @cached_property
    def words(self) -> list[str]:
        return self.text.split()


def test_a_unit_keeps_its_name_once_an_argument_was_used() -> None:
    argument = Text("two words")
    before = WorkUnit.of("nll", kind_of_work, argument=argument).name

    assert argument.words == ["two", "words"]
    assert WorkUnit.of("nll", kind_of_work, argument=argument).name == before


def test_every_unit_of_a_calibration_is_a_value(
    settings: Settings, recipe: PairRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = recipe.load()
    here = calibration_report(
        settings, root=tmp_path / "here", load_pair=lambda: pair, listener=Silence()
    )
    monkeypatch.setattr(calibration_module, "InProcess", Posted)
    posted = calibration_report(
        settings, root=tmp_path / "posted", load_pair=lambda: pair, listener=Silence()
    )

    assert posted.model_copy(update={"effort": here.effort}) == here
    assert here.nuisances
    assert here.planted
