"""One search on several machines: whatever is done where, the suite is the undivided run's."""
# ruff: noqa: F811  # fixtures of another module are imported, and arguments name them

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest

from pytest_divergence.core.errors import SettingsError
from pytest_divergence.core.journal_lines import journal_bytes, read_journal
from pytest_divergence.core.merging import MergeError, merge
from pytest_divergence.core.provenance import load_provenance
from pytest_divergence.core.settings import Settings
from pytest_divergence.core.shards import Shard
from pytest_divergence.core.suites import sidecar_path
from pytest_divergence.discovery.executors import Executor, Unit
from pytest_divergence.discovery.identity import RunIdentity, identify
from pytest_divergence.discovery.progress import Listener, Silence
from pytest_divergence.discovery.run import SearchOutcome
from pytest_divergence.discovery.sharding import AwaitedUnitsError, executor_of
from pytest_divergence.models.pair import ModelPair
from tests.discovery.test_run import (
    Bench,
    Broken,
    KillAt,
    Words,
    _tiny_profile,  # noqa: F401
    bench,  # noqa: F401
    found,  # noqa: F401
    no_models,
    pair,  # noqa: F401
)

COMMON = {"pair", "controls/written"}
"""What every machine does itself."""


def run_shard(
    bench: Bench,
    root: Path,
    pair: ModelPair,
    shard: str,
    wait: float = 0.0,
    **options: object,
) -> SearchOutcome:
    settings = bench.settings(shard=shard, shard_wait=wait)
    return bench(root, pair, settings=settings, identity=identity_of(bench), **options)


def identity_of(bench: Bench) -> RunIdentity:
    """The pair's, without the folder of this test run: who calibrates what is always the same.

    Who searches what is not: the search's key has the models as they were named, that folder too.
    """
    identity = identify(bench.settings())
    return replace(
        identity,
        reference=replace(identity.reference, spec="base"),
        candidate=replace(identity.candidate, spec="ft"),
    )


def journal(root: Path) -> Path:
    return root / ".divergence" / "journal"


def own_units(root: Path, number: int, count: int) -> list[str]:
    files = journal(root).glob(f"*.shard-{number}-of-{count}.jsonl")
    return [unit for path in files for unit in read_journal(path).units]


def assert_same(ours: SearchOutcome, theirs: SearchOutcome) -> None:
    assert ours.awaited is None
    assert ours.report.run.status == "complete"
    assert ours.suite_path.read_bytes() == theirs.suite_path.read_bytes()
    tokens = [sidecar_path(one.suite_path, "tokens.jsonl").read_bytes() for one in (ours, theirs)]
    assert tokens[0] == tokens[1]
    assert ours.report.effort.tokens_forwarded == theirs.report.effort.tokens_forwarded
    assert ours.report.search_curve == theirs.report.search_curve
    made = [
        load_provenance(sidecar_path(one.suite_path, "provenance.json")) for one in (ours, theirs)
    ]
    assert made[0].settings == made[1].settings
    assert made[0].bound == made[1].bound


def test_shards_in_folders_of_their_own_end_in_the_undivided_suite(
    bench: Bench,
    found: SearchOutcome,
    pair: ModelPair,
    tmp_path: Path,
) -> None:
    """Run, hand over, run again: until no one waits for anyone. Two are tried below."""
    count = 3
    roots = [tmp_path / str(number) for number in range(1, count + 1)]
    num_done = 0
    while True:
        outcomes = [
            run_shard(bench, root, pair, f"{number}/{count}")
            for number, root in enumerate(roots, start=1)
        ]
        if all(one.awaited is None for one in outcomes):
            break
        done = [own_units(root, number, count) for number, root in enumerate(roots, start=1)]
        assert sum(map(len, done)) > num_done, "a round of all machines does something"
        num_done = sum(map(len, done))
        for root in roots:
            merge(root, [other for other in roots if other != root])

    for one in outcomes:
        assert_same(one, found)
    shared = [unit for one in done for unit in one if unit not in COMMON]
    assert len(shared) == len(set(shared)), "no unit is done twice"
    assert all(set(one) >= COMMON for one in done)


def test_one_machine_does_the_rest_once_the_shards_are_merged(
    bench: Bench,
    found: SearchOutcome,
    pair: ModelPair,
    tmp_path: Path,
) -> None:
    roots = [tmp_path / "one", tmp_path / "two"]
    for number, root in enumerate(roots, start=1):
        awaited = run_shard(bench, root, pair, f"{number}/2").awaited
        assert awaited is not None
        assert awaited.shard == Shard(number, 2)
        assert awaited.num_done == len(own_units(root, number, 2))
        assert awaited.tokens_forwarded > 0
    here = tmp_path / "here"
    merge(here, roots)
    before = pair.tokens_forwarded

    assert_same(bench(here, pair, identity=identity_of(bench)), found)

    spent = found.report.effort.tokens_forwarded
    assert 0 < pair.tokens_forwarded - before < spent, "what the shards did is not done again"


def in_a_process(work: Callable[[], object]) -> int:
    """Its id; the process ends with 0 where `work` returns a true value."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if work() else 2
        finally:
            os._exit(code)
    return child


def codes(children: Sequence[int]) -> list[int]:
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # of fork, Python 3.12
def test_machines_that_share_a_folder_run_through(
    bench: Bench,
    found: SearchOutcome,
    pair: ModelPair,
    tmp_path: Path,
) -> None:
    def machine(number: int) -> Callable[[], object]:
        return lambda: run_shard(bench, tmp_path, pair, f"{number}/2", wait=300).awaited is None

    assert codes([in_a_process(machine(number)) for number in (1, 2)]) == [0, 0]

    again = bench(tmp_path, pair, load_pair=no_models, identity=identity_of(bench))
    assert_same(again, found)
    assert again.is_cached, "the plain command reads back what the shards found"


def only_shard(
    bench: Bench, root: Path, pair: ModelPair, found: SearchOutcome, until: str = "", **options: Any
) -> SearchOutcome:
    """The one shard of one, which does all; begins with the units of `found` before `until`."""
    for path in journal(found.suite_path.parents[2]).glob("*.jsonl"):
        mine = Shard(1, 1).file(journal(root) / path.name)
        if not mine.exists():
            content = read_journal(path)
            units = dict(takewhile(lambda one: one[0] != until, content.units.items()))
            mine.parent.mkdir(parents=True, exist_ok=True)
            mine.write_bytes(journal_bytes(str(content.key), content.about, units))
    return bench(root, pair, settings=bench.settings(shard="1/1"), **options)


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # of fork, Python 3.12
def test_a_killed_shard_goes_on(
    bench: Bench,
    found: SearchOutcome,
    pair: ModelPair,
    tmp_path: Path,
) -> None:
    training = "search/soft_prompt/1"
    killer = KillAt("train restart-2", 1)
    child = in_a_process(
        lambda: only_shard(bench, tmp_path, pair, found, training, listener=killer)
    )
    assert codes([child]) == [-9]
    assert training not in own_units(tmp_path, 1, 1)

    assert_same(only_shard(bench, tmp_path, pair, found), found)


def test_a_shard_that_was_stopped_goes_on_although_a_new_search_is_asked_for(
    bench: Bench,
    found: SearchOutcome,
    pair: ModelPair,
    tmp_path: Path,
) -> None:
    """In CI only --divergence-mode=search searches; a shard would never end if it began anew."""
    again = only_shard(bench, tmp_path, pair, found, is_forced=True, load_pair=no_models)

    assert_same(again, found)


def test_a_waiting_shard_leaves_an_incomplete_report_and_no_suite(
    bench: Bench,
    pair: ModelPair,
    tmp_path: Path,
) -> None:
    outcomes = [run_shard(bench, tmp_path / str(n), pair, f"{n}/2") for n in (1, 2)]

    for number, outcome in enumerate(outcomes, start=1):
        assert outcome.awaited is not None
        other = Shard(3 - number, 2)
        assert list(outcome.awaited.units) == [other]
        assert not outcome.is_cached
        assert not outcome.suite_path.exists()
        assert outcome.report.run.status == "incomplete"
        assert outcome.report.errors == []
        assert outcome.report.run.reason == f"shard {number}/2 {outcome.awaited}"
        assert str(outcome.awaited).startswith(f"waits for shard {other} (")
        assert not any(case.verdict == "passed" for case in outcome.report.cases)


def test_a_shards_file_of_another_search_is_named_and_left_out(
    bench: Bench,
    pair: ModelPair,
    tmp_path: Path,
) -> None:
    seven = bench.settings(shard="1/2", seed=7)
    bench(tmp_path, pair, settings=seven, identity=identity_of(bench))

    awaited = run_shard(bench, tmp_path, pair, "2/2").awaited

    assert awaited is not None
    assert str(awaited).endswith(
        ".shard-1-of-2.jsonl is of another search (--divergence-seed: 0, 7)"
    )


def test_a_strategy_that_fails_on_one_machine_stops_all_and_is_named(
    bench: Bench,
    pair: ModelPair,
    tmp_path: Path,
) -> None:
    strategies = {"broken": Broken(), "words": Words("A word?", "Another word, please.")}
    where: set[str] = set()
    while "strategy broken" not in where:
        assert len(bench.reports) < 10, "the strategy has its turn after a few rounds"
        outcomes = [
            run_shard(bench, tmp_path / str(n), pair, f"{n}/2", strategies=strategies)
            for n in (1, 2)
        ]
        assert all(one.awaited or one.report.errors for one in outcomes)
        where = {error.where for one in outcomes for error in one.report.errors}
        for n in (1, 2):
            merge(tmp_path / str(n), [tmp_path / str(3 - n)])

    alone = bench(tmp_path / "1", pair, strategies=strategies, identity=identity_of(bench))
    assert [one.message for one in alone.report.errors] == ["ZeroDivisionError: no luck"]


def test_a_budget_in_seconds_cannot_be_shared_out(
    bench: Bench,
    pair: ModelPair,
    tmp_path: Path,
) -> None:
    with pytest.raises(SettingsError) as caught:
        bench(tmp_path, pair, settings=bench.settings(shard="1/2", budget="300s"))

    assert str(caught.value) == (
        "--divergence-shard=1/2 cannot go with --divergence-budget=300s: machines end at different "
        "points on a clock, and the same search on all of them is what is shared out; give the "
        "budget in forwarded tokens"
    )


def test_machines_that_do_not_compute_alike_are_told_so(
    bench: Bench,
    pair: ModelPair,
    tmp_path: Path,
) -> None:
    run_shard(bench, tmp_path, pair, "1/2")
    (ours,) = journal(tmp_path).glob("calibration-*.shard-1-of-2.jsonl")
    content = read_journal(ours)
    theirs = {"controls/written": {**content.units["controls/written"], "result": ["Hm"]}}
    other = ours.with_name(ours.name.replace("shard-1", "shard-2"))
    other.write_bytes(journal_bytes(str(content.key), {}, theirs))

    with pytest.raises(MergeError) as caught:
        run_shard(bench, tmp_path, pair, "1/2")

    assert str(caught.value) == (
        "this machine and another do not compute alike: they tell the work unit "
        '"controls/written" differently; use machines of one kind, or search on one of them'
    )


class Heard(Silence):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


@contextmanager
def sharded(
    folder: Path,
    pair: ModelPair,
    number: int,
    *,
    wait: float = 0.0,
    listener: Listener | None = None,
) -> Iterator[Executor]:
    settings = Settings(shard=f"{number}/2", shard_wait=wait)
    heard = listener or Silence()
    with executor_of(folder / "j.jsonl", "k", settings, lambda: pair, heard) as executor:
        yield executor


def units_of(*names: str) -> list[Unit]:
    return [Unit(name, lambda pair, name=name: f"did {name}") for name in names]  # type: ignore[misc]


def test_a_machine_does_all_of_its_own_before_it_looks_at_what_is_missing(
    pair: ModelPair,
    tmp_path: Path,
) -> None:
    asked = units_of("a", "b", "c", "d")
    owners = Shard(1, 2).owners("k", [one.name for one in asked])
    own = [name for name, owner in owners.items() if owner == Shard(1, 2)]
    with sharded(tmp_path, pair, 1) as executor:
        with pytest.raises(AwaitedUnitsError) as caught:
            list(executor.do(asked))
        assert set(read_journal(tmp_path / "j.shard-1-of-2.jsonl").units) == set(own)
    missing = [name for name in owners if name not in own]
    assert caught.value.awaited.units == {Shard(2, 2): missing}
    assert str(caught.value) == f"waits for shard 2/2 ({missing[0]} and 1 more)"


def test_what_was_done_before_others_were_awaited_counts_as_done_here(
    pair: ModelPair,
    tmp_path: Path,
) -> None:
    asked = units_of("a", "b", "c", "d")
    with sharded(tmp_path, pair, 1) as one, sharded(tmp_path, pair, 2) as two:
        with pytest.raises(AwaitedUnitsError):
            list(one.do(asked))
        theirs, ours = list(two.do(asked)), list(one.do(asked))
    assert [done.result for done in ours] == ["did a", "did b", "did c", "did d"]
    assert [done.is_new for done in ours] == [not done.is_new for done in theirs]
    assert sum(done.is_new for done in ours) == 2


def test_a_machine_waits_as_long_as_it_was_told(
    pair: ModelPair,
    tmp_path: Path,
) -> None:
    (unit,) = units_of("a")
    owner = Shard(1, 2).owners("k", ["a"])["a"].number
    heard = Heard()
    with sharded(tmp_path, pair, 3 - owner, wait=0.2, listener=heard) as executor:
        with pytest.raises(AwaitedUnitsError) as caught:
            list(executor.do([unit]))
        assert caught.value.awaited.units == {Shard(owner, 2): ["a"]}
    assert heard.lines == [f"waiting for shard {owner}/2: a (up to 0.2 s)"]

    def later() -> None:
        with sharded(tmp_path, pair, owner) as other:
            list(other.do([unit]))

    with sharded(tmp_path, pair, 3 - owner, wait=60) as executor:
        timer = threading.Timer(0.2, later)
        timer.start()
        assert [done.result for done in executor.do([unit])] == ["did a"]
        timer.join()
