"""A session asks once what its two models are, and reads the answer wherever it needs it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.constants as hub_constants
import pytest

from pytest_divergence.core.settings import PROFILES
from pytest_divergence.models import load_plan, side_plan, sources
from tests.plugin.conftest import KNOT, MODELS, POEM, Project, shown
from tests.plugin.test_search import TINY_SEARCH

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FIXTURE = "def test_it(model_pair): assert model_pair.dtype\n"


class Counts:
    """What a session looked up and screened, in the order in which it did."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        self.pairs: list[str] = []
        self.screened: list[str] = []
        self.looked_up: list[str] = []
        # Wherever a plan is asked for, it is made there.
        self._count(load_plan, "LoadPlan", self.pairs)
        self._count(load_plan, "screen_model_folder", self.screened)
        self._count(load_plan, "screen_adapter_folder", self.screened)
        self._count(sources, "snapshot_download", self.looked_up)

    def _count(self, module: Any, name: str, calls: list[str]) -> None:
        original: Callable[..., Any] = getattr(module, name)

        def counting(first: Any, *others: Any, **options: Any) -> Any:
            names = {Path: "name", side_plan.SidePlan: "spec"}
            found = [
                getattr(first, part) for kind, part in names.items() if isinstance(first, kind)
            ]
            calls.append(str(found[0] if found else first))
            return original(first, *others, **options)

        self._monkeypatch.setattr(module, name, counting)

    def take(self) -> tuple[list[str], list[str], list[str]]:
        """Pairs, screened folders and looked up models since the last time."""
        taken = list(self.pairs), list(self.screened), list(self.looked_up)
        for calls in (self.pairs, self.screened, self.looked_up):
            calls.clear()
        return taken


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Counts:
    monkeypatch.setitem(PROFILES, "smoke", PROFILES["smoke"].model_copy(update=TINY_SEARCH))
    return Counts(monkeypatch)


@pytest.fixture
def hub(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """The project's models are in the Hub cache, as someone/NAME, and nowhere else."""
    cache = project.path.parent / f"{project.path.name}-hub"
    monkeypatch.setattr(hub_constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub_constants, "HF_HUB_CACHE", str(cache))
    for name in ("base", "ft", "adapter"):
        repository = cache / f"models--someone--{name}"
        (repository / "refs").mkdir(parents=True)
        (repository / "refs" / "main").write_text(COMMIT)
        shutil.move(project.path / name, repository / "snapshots" / COMMIT)
    return project


@pytest.mark.parametrize("candidate", ["ft", "adapter"])
def test_a_search_resolves_and_screens_each_model_once(
    project: Project, counts: Counts, candidate: str
) -> None:
    project.write("test_fixture.py", FIXTURE)
    pair = ("--model-1=base", f"--model-2={candidate}", "--divergence-max-kl=50")

    first = project.run(*pair)

    assert first.ret == pytest.ExitCode.OK, shown(first)
    assert counts.take() == (["base"], ["base", candidate], [])
    again = project.run(*pair)
    assert again.ret == pytest.ExitCode.OK, shown(again)
    assert "search (saved results):" in " ".join(shown(again).split())
    assert counts.take() == (["base"], ["base", candidate], [])


def test_a_search_asks_the_hub_once_for_each_model(hub: Project, counts: Counts) -> None:
    hub.write("test_fixture.py", FIXTURE)

    result = hub.run("--model-1=someone/base", "--model-2=someone/ft", "--divergence-max-kl=50")

    assert result.ret == pytest.ExitCode.OK, shown(result)
    names = ["someone/base", "someone/ft"]
    assert counts.take() == (["someone/base"], [COMMIT, COMMIT], names)


def test_a_base_that_is_named_twice_is_asked_for_once(hub: Project, counts: Counts) -> None:
    hub.write("test_fixture.py", FIXTURE)
    pair = ("--model-1=someone/base", "--model-2=someone/adapter,base=someone/base")

    result = hub.run(*pair, "--divergence-mode=replay", "test_fixture.py")

    assert result.ret == pytest.ExitCode.OK, shown(result)
    assert counts.take()[1:] == ([COMMIT, COMMIT], ["someone/base", "someone/adapter"])


def test_a_replay_and_its_tests_share_one_resolution(project: Project, counts: Counts) -> None:
    project.write("test_fixture.py", FIXTURE)
    project.write_suite("a.divergence.jsonl", {"input": KNOT, "max_kl": 9.0})

    result = project.run(*MODELS, "a.divergence.jsonl", "test_fixture.py")

    result.assert_outcomes(passed=2)
    assert counts.take() == (["base"], ["base", "ft"], [])


def test_the_next_session_of_a_process_looks_again(project: Project, counts: Counts) -> None:
    project.write("test_fixture.py", FIXTURE)
    command = (*MODELS, "--divergence-mode=replay", "test_fixture.py")
    project.run(*command).assert_outcomes(passed=1)
    config = project.path / "ft" / "config.json"
    harmless = json.loads(config.read_text("utf-8"))
    config.write_text(json.dumps({**harmless, "fusion_config": {}}), "utf-8")

    refused = project.run(*command)

    assert "ft/config.json has fusion_config, which selects code" in shown(refused)
    assert counts.take()[1] == ["base", "ft", "base", "ft"]


RETRAINED = """
import json, pathlib, pytest

@pytest.fixture(scope="session", autouse=True)
def retrained():
    config = pathlib.Path("ft/config.json")
    config.write_text(json.dumps({**json.loads(config.read_text()), **CHANGE}))
"""


@pytest.mark.parametrize(
    ("change", "line"),
    [("{}", "*2 passed*"), ('{"fusion_config": {}}', "*has fusion_config, which selects code*")],
    ids=["harmless", "code"],
)
def test_a_folder_that_changed_since_it_was_looked_at_is_screened_again(
    project: Project, counts: Counts, change: str, line: str
) -> None:
    project.write("conftest.py", RETRAINED.replace("CHANGE", change))
    suite = project.write_suite(
        "a.divergence.jsonl", {"input": KNOT, "max_kl": 9.0}, {"input": POEM, "max_kl": 9.0}
    )

    result = project.run(*MODELS, str(suite))

    result.stdout.fnmatch_lines([line])
    assert counts.take()[1] == ["base", "ft", "base", "ft"]
