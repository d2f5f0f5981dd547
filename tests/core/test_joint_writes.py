from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from pytest_divergence.core.cases import Case
from pytest_divergence.core.errors import StoreError, SuiteError
from pytest_divergence.core.file_names import suite_files, suite_record
from pytest_divergence.core.files import write_atomically
from pytest_divergence.core.joint_writes import alone_in
from pytest_divergence.core.provenance import accept, accepted_in
from pytest_divergence.core.suites import read_suite, write_stored
from tests.core.dying_calls import is_killed_at
from tests.core.made_suites import (
    KNOT,
    POEM,
    SURE,
    case,
    control,
    provenance,
    texts,
    tokens_of,
    write_searched,
)

OLD = [case(KNOT, 0.4), case(POEM, 0.1), control("Hello")]
NEW = [case(KNOT, 0.8), case(POEM, 0.3), case("More?", 0.2), control("Hello", 0.02)]


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    return write_searched(tmp_path / "rel.divergence.jsonl", OLD, SURE)


def write_new(path: Path) -> None:
    write_stored(path, NEW, tokens_of(NEW, first=7), provenance(SURE))


def undisturbed(tmp_path: Path, rows: list[Case], first: int) -> dict[str, bytes]:
    folder = tmp_path / f"undisturbed-{first}"
    folder.mkdir()
    path = folder / "rel.divergence.jsonl"
    write_stored(path, rows, tokens_of(rows, first=first), provenance(SURE))
    return dict(texts(folder))


def fail_at_replacement(number: int, patch: pytest.MonkeyPatch) -> None:
    """Let the rename of that number fail once; number 0 is the record's."""
    real, calls = os.replace, iter(range(10_000))

    def failing(source: Path, target: Path) -> None:
        if next(calls) == number:
            raise OSError(28, "No space left on device", str(source), None, str(target))
        real(source, target)

    patch.setattr(os, "replace", failing)


def write_beside_an_hour_later(folder: Path) -> None:
    """Another command writes into the folder, which removes what dead writers left."""
    then = time.time() - 4000
    for path in folder.glob(".*.divergence-tmp"):
        os.utime(path, (then, then))
    write_atomically(folder / "promptfoo.json", "{}")


@pytest.mark.skipif(os.name != "posix", reason="needs fork and signals")
@pytest.mark.parametrize("is_much_later", [False, True])
def test_a_writer_that_is_killed_leaves_the_old_suite_or_the_new_one(
    tmp_path: Path, is_much_later: bool
) -> None:
    old, new = undisturbed(tmp_path, OLD, 1), undisturbed(tmp_path, NEW, 7)
    seen = []
    for number in range(100):
        folder = tmp_path / str(number)
        folder.mkdir()
        path = write_searched(folder / "rel.divergence.jsonl", OLD, SURE)
        if not is_killed_at(number, partial(write_new, path)):
            break
        if is_much_later:
            write_beside_an_hour_later(folder)
            (folder / "promptfoo.json").unlink()
        found = read_suite(path)
        is_new = len(found.suite.rows) == len(NEW)
        seen.append(is_new)
        there = texts(folder)
        assert {name: there[name] for name in old} == (new if is_new else old)
        write_new(path)
        assert texts(folder) == new, "the same command goes on, and nothing is left over"
    else:
        raise AssertionError("the writer never came to its end")
    assert seen == sorted(seen), "from some event on it is the new one"
    assert {False, True} == set(seen)


def test_a_disk_that_is_full_before_the_end_leaves_the_old_files(
    suite: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = texts(suite.parent)
    for number in range(4):  # the three files, and the record
        calls = iter(range(100))

        def full(descriptor: int, calls: Iterator[int] = calls, number: int = number) -> None:
            if next(calls) == number:
                raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(StoreError, match=r"cannot write .*: No space left on device"):
                write_new(suite)
        assert texts(suite.parent) == before


def test_a_rename_that_fails_half_way_is_made_up_for_by_whoever_reads(
    suite: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        fail_at_replacement(3, patch)
        with pytest.raises(StoreError) as caught:
            write_new(suite)
    assert str(caught.value) == (
        f"cannot put {suite} in place: No space left on device; the new files are complete, and "
        "the next command that reads them puts them in place"
    )
    assert read_suite(suite).suite.rows == tuple(sorted(NEW, key=lambda row: row.id))
    assert set(texts(suite.parent)) == {path.name for path in suite_files(suite)}

    write_searched(suite, OLD, SURE)
    with monkeypatch.context() as patch:
        fail_at_replacement(1, patch)
        with pytest.raises(StoreError):
            write_new(suite)
    assert accept(SURE.id, [suite]) == [suite]
    assert [one.id for one in accepted_in(suite)] == [SURE.id]
    assert len(read_suite(suite).suite.rows) == len(NEW)


def test_a_first_suite_that_is_not_in_place_yet_outlasts_other_writers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rel.divergence.jsonl"
    with monkeypatch.context() as patch:
        fail_at_replacement(1, patch)
        with pytest.raises(StoreError, match="the next command that reads them puts them in"):
            write_new(path)

    write_beside_an_hour_later(tmp_path)

    assert len(read_suite(path).suite.rows) == len(NEW)
    assert not suite_record(path).exists()


def test_a_suite_of_a_similar_name_is_written_without_harm_to_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = "release-2026-07-llama-3-1-8b-instruct-against-customer-finetune"
    path, other = (tmp_path / f"{start}-{end}.divergence.jsonl" for end in ("de", "en"))
    write_searched(path, OLD, SURE)
    with monkeypatch.context() as patch:
        fail_at_replacement(1, patch)
        with pytest.raises(StoreError):
            write_new(path)

    write_searched(other, OLD, SURE)

    assert len(read_suite(path).suite.rows) == len(NEW)
    assert len(read_suite(other).suite.rows) == len(OLD)


def test_a_write_whose_files_someone_removed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rel.divergence.jsonl"
    with monkeypatch.context() as patch:
        fail_at_replacement(2, patch)
        with pytest.raises(StoreError):
            write_new(path)
    for staged in tmp_path.glob(".*.divergence-tmp"):
        staged.unlink()

    for _ in range(2):
        with pytest.raises(StoreError) as caught:
            read_suite(path)
        assert str(caught.value) == (
            f"{suite_record(path)} records an interrupted write that cannot be finished, because "
            "rel.provenance.json is gone; remove the record, and restore the files beside it from "
            "their source or write them again"
        )
    suite_record(path).unlink()
    write_new(path)
    assert len(read_suite(path).suite.rows) == len(NEW)


@pytest.mark.parametrize(
    "content",
    [
        "no JSON",
        "[]",
        '{"../rel.provenance.json": ".rel.provenance.json.0.divergence-tmp"}',
        '{"rel.provenance.json": "/etc/passwd"}',
        '{"rel.provenance.json": "other.json"}',
        '{"other.json": ".other.json.0.divergence-tmp"}',
        '{"rel.provenance.json": 3}',
        "[" * 3000,
        " " * 5000,
    ],
)
def test_a_record_that_no_writer_of_ours_left_moves_nothing(suite: Path, content: str) -> None:
    suite_record(suite).write_text(content)
    before = texts(suite.parent)
    with pytest.raises(StoreError, match="is not the record of an interrupted write; remove it"):
        read_suite(suite)
    assert texts(suite.parent) == before


@pytest.mark.skipif(os.name != "posix", reason="needs symbolic links")
def test_a_record_that_is_a_link_moves_nothing(suite: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text(json.dumps({suite.name: f".{suite.name}.0.divergence-tmp"}))
    suite_record(suite).symlink_to(elsewhere)
    with pytest.raises(StoreError, match="is not the record of an interrupted write"):
        read_suite(suite)
    assert elsewhere.exists()


@pytest.mark.skipif(os.name != "posix", reason="locks a folder")
def test_writers_wait_for_one_another(suite: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_divergence.core.joint_writes.LOCK_SECONDS", 0.1)
    with alone_in(suite.parent) as is_alone:
        assert is_alone
        with pytest.raises(StoreError, match=r"another process still holds .* after 0.1 s"):
            write_new(suite)
    write_new(suite)


def test_a_suite_that_was_changed_meanwhile_stays_as_it_is(suite: Path) -> None:
    read = read_suite(suite)
    accept(SURE.id, [suite])
    before = texts(suite.parent)
    with pytest.raises(SuiteError, match="has changed since it was read"):
        write_stored(suite, NEW, tokens_of(NEW), provenance(SURE), instead_of=read)
    assert texts(suite.parent) == before
