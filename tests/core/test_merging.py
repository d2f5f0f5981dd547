"""Journals of several machines become one, or are refused with the reason."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import pytest

from pytest_divergence.core.errors import StoreError
from pytest_divergence.core.journal import Journal
from pytest_divergence.core.journal_lines import About, journal_bytes, read_journal
from pytest_divergence.core.merging import MergeError, merge
from pytest_divergence.core.shards import Shard, undivided
from pytest_divergence.core.store import file_lock

NAME = "base--ft-1234abcd"
SEED_0: About = {"settings.seed": "0", "versions.torch": "2.13.0"}
SEED_1: About = {"settings.seed": "1", "versions.torch": "2.13.0"}


def record(value: float, seconds: float = 1.0) -> dict[str, object]:
    return {"result": value, "tokens": 10, "seconds": seconds}


def machine(
    root: Path, name: str, units: Mapping[str, object], key: str = "k", about: About = SEED_0
) -> Path:
    """A project's journal folder with a file of these units."""
    folder = root / ".divergence" / "journal"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.jsonl").write_bytes(journal_bytes(key, about, units))
    return folder


@pytest.fixture
def one(tmp_path: Path) -> Path:
    units = {"pair": record(0), "controls/score/0": record(0.5)}
    return machine(tmp_path / "one", f"{NAME}.shard-1-of-2", units)


@pytest.fixture
def two(tmp_path: Path) -> Path:
    units = {"pair": record(0, seconds=9.0), "controls/score/32": record(0.25)}
    machine(tmp_path / "two", "calibration-00ff.shard-2-of-2", {"noise": record(1e-7)}, key="c")
    return machine(tmp_path / "two", f"{NAME}.shard-2-of-2", units)


def test_units_of_all_machines_come_together(one: Path, two: Path) -> None:
    search, calibration = sorted(merge(one.parents[1], [two]), key=lambda merged: merged.path)

    assert (search.path, search.num_units, search.num_added) == (one / f"{NAME}.jsonl", 3, 3)
    assert (calibration.path.name, calibration.num_units) == ("calibration-00ff.jsonl", 1)
    found = read_journal(one / f"{NAME}.jsonl")
    assert set(found.units) == {"pair", "controls/score/0", "controls/score/32"}
    assert found.about == SEED_0
    with Journal.open(one / f"{NAME}.jsonl", key="k") as journal:
        assert journal.remember("controls/score/32", lambda: 1 / 0) == record(0.25)


def test_merging_twice_changes_nothing(one: Path, two: Path) -> None:
    merge(one.parents[1], [two])
    before = {path: (path.read_bytes(), path.stat().st_ino) for path in one.glob("*.jsonl")}

    again = merge(one.parents[1], [two, two / f"{NAME}.shard-2-of-2.jsonl"])

    assert [merged.num_added for merged in again] == [0, 0]
    after = {path: (path.read_bytes(), path.stat().st_ino) for path in one.glob("*.jsonl")}
    assert after == before


@pytest.mark.parametrize("place", [".", ".divergence", ".divergence/journal"])
def test_a_machine_is_named_by_any_of_its_folders(one: Path, two: Path, place: str) -> None:
    merged = merge(one.parents[1], [two.parents[1] / place])

    assert {each.path.name for each in merged} == {f"{NAME}.jsonl", "calibration-00ff.jsonl"}


def test_a_shared_folder_needs_no_name(one: Path, two: Path) -> None:
    for path in two.glob("*.jsonl"):
        path.rename(one / path.name)

    assert {each.num_units for each in merge(one.parents[1], [])} == {3, 1}


def test_what_is_merged_can_be_merged_on(one: Path, two: Path, tmp_path: Path) -> None:
    merge(one.parents[1], [two])
    third = machine(tmp_path / "three", f"{NAME}.shard-3-of-3", {"confirm/1": record(2.0)})

    merged = merge(third.parents[1], [one.parents[1]])

    assert {each.num_units for each in merged} == {4, 1}


def test_machines_that_do_not_agree_are_refused(one: Path, two: Path) -> None:
    units = {"pair": record(0), "controls/score/0": record(0.5000001)}
    other = machine(two.parents[1], f"{NAME}.shard-2-of-2", units)

    with pytest.raises(MergeError) as caught:
        merge(one.parents[1], [other])

    assert str(caught.value) == (
        f"{one}/{NAME}.shard-1-of-2.jsonl:3 and {other}/{NAME}.shard-2-of-2.jsonl:3 tell the work "
        'unit "controls/score/0" differently: the machines do not compute alike, or a file was '
        "changed; remove one of the files, and its units are done again"
    )
    assert not (one / f"{NAME}.jsonl").exists()
    assert not (one / "calibration-00ff.jsonl").exists(), "nothing is written by halves"


def test_another_count_of_tokens_is_a_contradiction_too(one: Path, two: Path) -> None:
    units = {"pair": {**record(0), "tokens": 11}}
    with pytest.raises(MergeError, match='tell the work unit "pair" differently'):
        merge(one.parents[1], [machine(two.parents[1], f"{NAME}.shard-2-of-2", units)])


def test_another_search_is_refused_and_its_settings_are_named(one: Path, tmp_path: Path) -> None:
    other = machine(tmp_path / "two", f"{NAME}.shard-2-of-2", {}, key="l", about=SEED_1)

    with pytest.raises(MergeError) as caught:
        merge(one.parents[1], [other])

    assert str(caught.value) == (
        f"{one}/{NAME}.shard-1-of-2.jsonl and {other}/{NAME}.shard-2-of-2.jsonl are of different "
        "searches (--divergence-seed: 0, 1); give those of one search, or remove the file that is "
        "not wanted"
    )


def joined(folder: Path, *journals: Path) -> Path:
    """Journals put together without the command, as by `cat`."""
    whole = folder / f"{NAME}.jsonl"
    whole.write_bytes(b"".join(path.read_bytes() for path in journals))
    return whole


def test_another_search_inside_a_file_is_refused_by_its_line(one: Path, tmp_path: Path) -> None:
    units = {"confirm/1": record(2.0)}
    other = machine(tmp_path / "two", f"{NAME}.shard-2-of-2", units, key="l", about=SEED_1)
    parts = [next(folder.glob("*.jsonl")) for folder in (one, other)]
    whole = joined(tmp_path, *parts)

    with pytest.raises(MergeError) as caught:
        merge(tmp_path / "here", [whole])

    assert str(caught.value) == (
        f"{whole} and {whole}:4 are of different searches (--divergence-seed: 0, 1); give those of "
        "one search, or remove the file that is not wanted"
    )
    assert set(read_journal(whole).units) == {"pair", "controls/score/0"}
    with Journal.open(whole, key="k") as journal:
        assert "confirm/1" not in journal
        assert journal.recovered == f"{whole}: 1 damaged unit is done again"


def test_a_file_that_tells_a_unit_twice_is_taken_where_both_agree(
    one: Path, two: Path, tmp_path: Path
) -> None:
    parts = [folder / f"{NAME}.shard-{n}-of-2.jsonl" for n, folder in ((1, one), (2, two))]

    (merged,) = merge(tmp_path / "here", [joined(tmp_path, *parts)])

    assert (merged.num_units, merged.damaged) == (3, ())


def test_a_file_that_contradicts_itself_is_refused_by_its_lines(one: Path, tmp_path: Path) -> None:
    other = machine(tmp_path / "two", f"{NAME}.shard-2-of-2", {"pair": record(1)})
    whole = joined(tmp_path, *(next(folder.glob("*.jsonl")) for folder in (one, other)))

    with pytest.raises(MergeError, match=f'^{whole}:2 and {whole}:5 tell the work unit "pair"'):
        merge(tmp_path / "here", [whole])


@pytest.mark.parametrize(
    "changed",
    [
        1,
        {"result": 1, "tokens": 10},
        {**record(1), "tokens": -1},
        {**record(1), "tokens": "10"},
        {**record(1), "seconds": None},
        {**record(1), "more": 0},
    ],
)
def test_a_record_that_no_search_writes_is_refused_by_its_line(
    one: Path, tmp_path: Path, changed: object
) -> None:
    units = {"pair": record(0), "confirm/1": changed}
    other = machine(tmp_path / "two", f"{NAME}.shard-2-of-2", units)

    with pytest.raises(MergeError) as caught:
        merge(one.parents[1], [other])

    assert str(caught.value) == (
        f'{other}/{NAME}.shard-2-of-2.jsonl:3: the work unit "confirm/1" is not as a search writes '
        "it, with result, tokens and seconds; remove the line, and it is done again"
    )


def test_an_undivided_search_is_not_written_over(one: Path, tmp_path: Path) -> None:
    """Unless this machine has done a shard of the new one: then it has begun anew, as usual."""
    old = {"pair": record(3)}
    collector = machine(tmp_path / "here", NAME, old, key="old", about=SEED_1)
    with pytest.raises(MergeError, match="are of different searches"):
        merge(collector.parents[1], [one])
    assert read_journal(collector / f"{NAME}.jsonl").units == old

    machine(one.parents[1], NAME, old, key="old", about=SEED_1)
    (merged,) = merge(one.parents[1], [])
    assert (merged.num_units, merged.num_added) == (2, 2)
    assert read_journal(one / f"{NAME}.jsonl").key == "k"


def test_what_a_crash_left_is_no_hindrance(one: Path, two: Path) -> None:
    path = two / f"{NAME}.shard-2-of-2.jsonl"
    header, pair, score = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(header + b"x" + pair + score + b"torn")

    merged = {each.path.name: each for each in merge(one.parents[1], [two])}

    assert merged[f"{NAME}.jsonl"].num_units == 3
    assert merged[f"{NAME}.jsonl"].damaged == (f"{path}:2",)


def test_a_file_that_is_no_journal_is_named(one: Path, tmp_path: Path) -> None:
    suite = tmp_path / "release.divergence.jsonl"
    suite.write_text('{"input": "Hi"}\n', "utf-8")

    with pytest.raises(MergeError) as caught:
        merge(one.parents[1], [suite])
    assert str(caught.value) == (
        f"{suite} is no journal of a search, or its first line is damaged; leave it out, or "
        "remove it"
    )


def test_what_a_strangers_journal_says_cannot_move_the_terminal(one: Path, tmp_path: Path) -> None:
    about = {"settings.seed\x1b[2J": "0\x1b[2J"}
    machine(tmp_path / "two", f"{NAME}.shard-2-of-2", {}, key="l", about=about)
    (tmp_path / "two").rename(tmp_path / "t\x1bwo")

    with pytest.raises(MergeError, match="are of different searches") as caught:
        merge(one.parents[1], [tmp_path / "t\x1bwo"])
    assert "\x1b" not in str(caught.value)


def test_lines_that_no_search_writes_are_damaged_ones(one: Path, two: Path) -> None:
    """Although their checksums are right."""
    path = two / f"{NAME}.shard-2-of-2.jsonl"
    strange = [b"[1]", b'{"unit": 1, "result": 2}', b'{"unit": "x"}', b"{"]
    lines = [hashlib.sha256(text).hexdigest()[:16].encode() + b" " + text for text in strange]
    path.write_bytes(path.read_bytes() + b"\n".join([*lines, b""]))

    merged = {each.path.name: each for each in merge(one.parents[1], [two])}

    assert merged[f"{NAME}.jsonl"].num_units == 3
    assert merged[f"{NAME}.jsonl"].damaged == tuple(f"{path}:{line}" for line in range(4, 8))


def test_an_empty_journal_makes_room_for_what_shards_have_done(one: Path) -> None:
    """As a full disk leaves it; found at the end of a search, it would lose the suite."""
    (one / f"{NAME}.jsonl").touch()

    (merged,) = merge(one.parents[1], [])

    assert (merged.num_units, merged.num_added) == (2, 2)


def test_a_place_without_journals_is_named(one: Path, tmp_path: Path) -> None:
    for place in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(MergeError, match=f"there is no journal of a search in {place};"):
            merge(one.parents[1], [place])


def test_a_search_that_was_not_shared_out_leaves_nothing_to_unite(tmp_path: Path) -> None:
    alone = machine(tmp_path, NAME, {"pair": record(0)})

    with pytest.raises(MergeError) as caught:
        merge(tmp_path, [])

    assert str(caught.value) == (
        f"no search in {alone} was shared out, so there is nothing to unite; name the .divergence "
        "folder of a machine that has done a share of one, or files of its journal folder"
    )


def test_a_journal_that_a_search_holds_is_not_touched(
    one: Path, two: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pytest_divergence.core.merging.LOCK_SECONDS", 0.01)
    with (
        file_lock(one / f"{NAME}.lock", timeout=1),
        pytest.raises(StoreError, match="is still held by another process"),
    ):
        merge(one.parents[1], [two])


@pytest.mark.parametrize("text", ["4/3", "0/2", "x", "1/0", "1", "1/2/3", "-1/2", "01/2", " 1/2"])
def test_a_shard_is_one_of_so_many(text: str) -> None:
    with pytest.raises(ValueError, match="must be I/N with 1 <= I <= N"):
        Shard.parse(text)


def test_units_asked_for_together_are_dealt_out_in_turns() -> None:
    units = [f"controls/score/{start}" for start in range(0, 320, 32)]
    for count in (1, 2, 3, 7):
        told = [Shard(number, count).owners("k", units) for number in range(1, count + 1)]
        assert all(one == told[0] for one in told), "every machine says the same"
        shares = [
            list(told[0].values()).count(Shard(number, count)) for number in range(1, count + 1)
        ]
        assert max(shares) - min(shares) <= 1


def test_who_begins_depends_on_the_unit_and_the_run() -> None:
    first = {
        Shard(1, 5).owners(key, [unit])[unit].number
        for key in ("k", "l")
        for unit in map(str, range(20))
    }
    assert first == {1, 2, 3, 4, 5}


def test_a_shards_file_belongs_to_its_journal(tmp_path: Path) -> None:
    journal = tmp_path / f"{NAME}.jsonl"
    assert undivided(Shard(2, 12).file(journal)) == journal
    assert undivided(journal) == journal
