from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_divergence.core.errors import MeasurementError, StoreError
from pytest_divergence.core.journal import Journal
from tests.core.dying_calls import is_killed_at
from tests.forked import run_forked

UNITS: dict[str, Any] = {"noise": 1e-7, "controls": [0.5, None, "né"], "train": {"loss": [3, 2]}}


@pytest.fixture(scope="module", autouse=True)
def _quick_disk() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


def work(path: Path, key: str = "k") -> tuple[list[str], str | None]:
    """A run over all units: which it had to compute, and what it said about the journal."""
    computed: list[str] = []

    def compute(unit: str) -> object:
        computed.append(unit)
        return UNITS[unit]

    with Journal.open(path, key=key) as journal:
        for unit, result in UNITS.items():
            assert journal.remember(unit, partial(compute, unit)) == result
        return computed, journal.recovered


def never() -> object:
    raise AssertionError("a finished unit was computed again")


def test_finished_units_are_not_done_again_but_with_another_key(tmp_path: Path) -> None:
    path = tmp_path / "run.journal"
    assert work(path) == (list(UNITS), None)
    assert work(path) == ([], None)
    assert work(path, key="second") == (list(UNITS), None)
    assert work(path) == (list(UNITS), None)


def test_a_disk_that_fails_while_a_journal_is_opened_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(descriptor: int, size: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    work(tmp_path / "j")
    monkeypatch.setattr(os, "ftruncate", fail)

    with pytest.raises(StoreError, match=r"^cannot open the journal .*j: Input/output error$"):
        work(tmp_path / "j")


def test_a_result_is_the_same_whether_computed_or_reused(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "j", key="k") as journal:
        first = journal.remember("unit", lambda: {"pair": (1, 2.5), 3: "x"})
        again = journal.remember("unit", never)
    assert first == again == {"pair": [1, 2.5], "3": "x"}
    assert first is not again


def test_a_run_killed_in_a_unit_loses_that_unit_only(tmp_path: Path) -> None:
    path = tmp_path / "run.journal"

    def work_and_die() -> None:
        journal = Journal.open(path, key="k")
        for unit in range(3):
            journal.remember(str(unit), partial(int, unit * 10))
        journal.remember("3", lambda: os._exit(9))

    assert run_forked(work_and_die, tmp_path).returncode == 9
    with Journal.open(path, key="k") as journal:
        assert [journal.remember(str(unit), never) for unit in range(3)] == [0, 10, 20]
        assert journal.remember("3", lambda: 30) == 30


def test_a_finished_unit_is_on_the_disk_before_the_next_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.journal"
    synced: list[tuple[int, int]] = []

    def sync(descriptor: int) -> None:
        found = os.fstat(descriptor)
        synced.append((found.st_ino, found.st_size))

    monkeypatch.setattr(os, "fsync", sync)
    with Journal.open(path, key="k") as journal:
        for unit in UNITS:
            journal.remember(unit, partial(UNITS.get, unit))
            assert synced[-1:] == [(path.stat().st_ino, path.stat().st_size)]


def test_a_journal_cut_at_any_byte_keeps_its_whole_units(tmp_path: Path) -> None:
    path = tmp_path / "run.journal"
    work(path)
    data = path.read_bytes()
    for size in range(len(data) + 1):
        path.write_bytes(data[:size])
        num_whole = max(data[:size].count(b"\n") - 1, 0)
        torn = size - (data[:size].rfind(b"\n") + 1)
        computed, recovered = work(path)
        assert computed == list(UNITS)[num_whole:]
        assert recovered == (f"{path}: a torn tail of {torn} bytes was removed" if torn else None)
        assert path.read_bytes() == data


@settings(deadline=None, max_examples=60)
@given(place=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_a_damaged_byte_never_gives_a_wrong_result(
    tmp_path_factory: pytest.TempPathFactory, place: float, flip: int
) -> None:
    path = tmp_path_factory.mktemp("damaged") / "run.journal"
    work(path)
    data = bytearray(path.read_bytes())
    data[int(place * len(data))] ^= flip
    path.write_bytes(data)
    computed, recovered = work(path)
    assert computed
    assert recovered is not None
    assert recovered.startswith(f"{path}: ")
    assert work(path) == ([], None)


def test_damage_is_reported_in_words(tmp_path: Path) -> None:
    path = tmp_path / "run.journal"
    work(path)
    header, noise, controls, train = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(header + b"x" + noise + controls + train)
    assert work(path) == (["noise"], f"{path}: 1 damaged unit is redone")
    assert work(path) == ([], None), "it is said once"
    path.write_bytes(b"x" + header + noise + controls + b"torn")
    assert work(path) == (
        list(UNITS),
        f"{path}: a torn tail of 4 bytes was removed; its first line is "
        "damaged, so all units are redone",
    )


def test_a_run_killed_while_damage_is_removed_loses_no_unit(tmp_path: Path) -> None:
    path = tmp_path / "run.journal"
    seen = []
    for call in range(40):
        path.unlink(missing_ok=True)
        work(path)
        header, noise, *others = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join([header, b"x", noise, *others]))
        is_finished = not is_killed_at(call, lambda: Journal.open(path, key="k"))
        computed, recovered = work(path)
        assert computed == ["noise"]
        seen.append(recovered is None)
        if is_finished:
            break
    assert is_finished
    assert seen == sorted(seen), "from some step on, the damage is gone"
    assert {False, True} == set(seen)


@pytest.mark.parametrize(
    "result", [float("nan"), [float("inf")], {"a": {1, 2}}, "\ud800", object()]
)
def test_a_result_that_json_cannot_hold_is_refused(tmp_path: Path, result: object) -> None:
    with Journal.open(tmp_path / "j", key="k") as journal:
        with pytest.raises(
            MeasurementError, match='work unit "score-7" returned a value that plain JSON'
        ):
            journal.remember("score-7", lambda: result)
        assert journal.remember("score-7", lambda: 1) == 1


def test_a_full_disk_leaves_the_journal_usable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.journal"
    write = os.write
    with Journal.open(path, key="k") as journal:
        monkeypatch.setattr(os, "write", lambda file, data: write(file, data[:9]))
        with pytest.raises(StoreError) as caught:
            journal.remember("noise", lambda: 1)
        monkeypatch.setattr(os, "write", write)
        assert str(caught.value) == f"cannot write {path}: {os.strerror(errno.ENOSPC)}"
        assert journal.remember("noise", lambda: 2) == 2
    with Journal.open(path, key="k") as journal:
        assert journal.remember("noise", never) == 2
        assert journal.recovered is None


def test_a_unit_that_fails_is_not_remembered_and_a_closed_journal_takes_nothing(
    tmp_path: Path,
) -> None:
    with Journal.open(tmp_path / "j", key="k") as journal:
        with pytest.raises(ZeroDivisionError):
            journal.remember("unit", lambda: 1 / 0)
        assert journal.remember("unit", lambda: 1) == 1
    journal.close()
    with pytest.raises(StoreError, match="j is closed"):
        journal.remember("another", lambda: 1)


def test_a_journal_in_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError) as caught:
        Journal.open(tmp_path / "no" / "j", key="k")
    assert str(caught.value) == (
        f"cannot open the journal {tmp_path}/no/j: No such file or directory"
    )
