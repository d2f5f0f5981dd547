"""A whole run with contexts: it ends the same however often it stops, also where they find it."""

from __future__ import annotations

import re
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pytest_divergence.core import settings as settings_module
from pytest_divergence.core.behaviours import Behaviour, gates
from pytest_divergence.core.file_names import sidecar_path
from pytest_divergence.core.provenance import accept, load_provenance
from pytest_divergence.core.settings import PROFILES, Settings
from pytest_divergence.core.suites import load_suite
from pytest_divergence.discovery import confirmation, rounds, run
from pytest_divergence.discovery.engines.base import Take, UnitResult, WorkUnit
from pytest_divergence.discovery.engines.in_process import InProcess
from pytest_divergence.discovery.plan import identify_pair
from pytest_divergence.discovery.progress import Listener, Silence
from pytest_divergence.discovery.run import SearchOutcome, search
from pytest_divergence.discovery.strategies.built_in import built_in_strategies
from pytest_divergence.models.pair import ModelPair
from tests.dated_model import SAID, SYSTEM
from tests.discovery.test_run import StopAt

SIZES = {
    "num_shipped_controls": 48,
    "num_written_controls": 0,
    "num_naming_prompts": 2,
    "naming_length": 8,
    "search_length": 8,
    "continuation_length": 4,
    "num_seeds": 4,
    "num_cases": 1,
    "prompt_length": 6,
}


@pytest.fixture(autouse=True)
def _tiny_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    small = PROFILES["smoke"].model_copy(update=SIZES)
    monkeypatch.setitem(settings_module.PROFILES, "smoke", small)


class Bench:
    def __init__(self, pair: ModelPair, folder: Path) -> None:
        self.pair, self.folder = pair, folder
        (folder / "contexts.txt").write_text(f"Be kind.\n{SYSTEM}\n", "utf-8")

    def __call__(self, root: str, listener: Listener, **changes: Any) -> SearchOutcome:
        named = {"model_1": "base", "model_2": "dated", "profile": "smoke"}
        file = {"contexts": str(self.folder / "contexts.txt")}
        return search(
            Settings(**{**named, **file, **changes}),
            root=self.folder / root,
            load_pair=lambda: self.pair,
            listener=listener,
            identity=identify_pair(self.pair),
            strategies={"seeds": built_in_strategies()["seeds"]},
        )


@pytest.fixture
def bench(dated_pair: ModelPair, tmp_path: Path) -> Bench:
    return Bench(dated_pair, tmp_path)


STOPS = [("look at contexts", 2), ("test a lead under its context", 1), ("confirm", 2)]


@pytest.mark.slow
def test_a_run_that_stops_at_a_context_ends_like_an_unbroken_one(bench: Bench) -> None:
    unbroken = bench("unbroken", Silence())
    (behaviour,) = (each for each in unbroken.report.behaviours if each.context is not None)
    assert behaviour.name in SAID
    assert unbroken.report.leads is not None
    assert unbroken.report.leads.tested >= 1
    cases = load_suite(unbroken.suite_path).cases
    under = [case for case in cases if case.behaviour == behaviour.id]
    assert behaviour.context is not None
    assert len(under) == 2
    assert len(cases) == 3, "one of the search, as the profile asks, and two under the context"
    for case in under:
        assert case.messages == behaviour.context.prompt(case.text)
        assert case.origin is not None
        assert case.origin.strategy == "contexts"
    assert len({case.max_kl for case in cases}) == 1, "they have the bound of the others"

    for phase, count in STOPS:
        with pytest.raises(KeyboardInterrupt):
            bench("stopped", StopAt(phase, count))
    resumed = bench("stopped", Silence())

    assert resumed.suite_path.read_bytes() == unbroken.suite_path.read_bytes()
    effort, before = resumed.report.effort, unbroken.report.effort
    assert effort.tokens_forwarded == before.tokens_forwarded
    assert effort.prompts_scored == before.prompts_scored


class Counting(InProcess):
    """An engine that counts, by kind, the units under way."""

    now, most = Counter[str](), Counter[str]()

    def start(self, unit: WorkUnit) -> Take:
        kind = re.sub(r"/[^/]*$", "", re.sub(r"behaviour-[^/]*", "ID", unit.name))
        self.now[kind] += 1
        self.most[kind] = max(self.now[kind], self.most[kind])
        return partial(self._counted, super().start(unit), kind)

    def _counted(self, take: Take, kind: str) -> UnitResult:
        self.now[kind] -= 1
        return take()


def test_units_that_need_no_other_are_under_way_together(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else workers wait for each other."""
    monkeypatch.setattr(confirmation, "CHUNK", 1)
    monkeypatch.setattr(rounds, "SCREENED_IN_UNIT", 2)
    monkeypatch.setattr(rounds, "SCORED_IN_UNIT", 1)
    monkeypatch.setattr(run, "InProcess", Counting)

    bench("here", Silence())

    together = {kind: number for kind, number in Counting.most.items() if number > 1}
    assert together == {
        "controls/measure": 2,
        "contexts/effect": 3,
        "contexts/answers": 2,
        "search/seeds/0/screens": 2,
        "search/seeds/0/scores": 2,
        "behaviour/context-ID/repeated": 2,
        "confirm": 3,
    }


class AcceptAt(Silence):
    """The user accepts a behaviour of a suite when a phase begins."""

    def __init__(self, phase: str, id_: str, suite: Path) -> None:
        self.phase, self.id, self.suite = phase, id_, suite

    def progress(self, phase: str, done: int, total: int) -> None:
        if phase == self.phase:
            accept(self.id, [self.suite])


def stored(found: SearchOutcome) -> list[Behaviour]:
    return load_provenance(sidecar_path(found.suite_path, "provenance.json")).behaviours


@pytest.mark.slow
def test_an_accepted_behaviour_stays_accepted(bench: Bench) -> None:
    """Also if that is done during a search, and past a search that does not find it."""
    first = bench("here", Silence())
    (behaviour,) = (each for each in first.report.behaviours if each.context is not None)
    assert not behaviour.accepted

    again = bench("here", AcceptAt("confirm", behaviour.id, first.suite_path))
    for told in (again.report.behaviours, stored(again)):
        assert [each.accepted for each in told if each.id == behaviour.id] == [True]

    without = bench("here", Silence(), contexts=None)
    assert not [each for each in without.report.behaviours if each.context is not None]
    assert "contexts" not in (without.report.effort.tokens_by_kind or {})
    (kept,) = (each for each in stored(without) if each.id == behaviour.id)
    assert kept.accepted
    assert not kept.confirmed, "this search did not find it"
    assert not gates(kept, "any"), "it is no item of a replay"
    assert (kept.telling, kept.example_case_ids, kept.p_value) == ([], [], None)

    later = bench("here", Silence())
    (found,) = (each for each in later.report.behaviours if each.id == behaviour.id)
    assert found == behaviour.model_copy(update={"accepted": True})
    assert [each for each in stored(later) if each.id == behaviour.id] == [found]
