"""Cases of a search become a committed suite, whole or not at all."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_divergence.core.behaviours import behaviour_id
from pytest_divergence.core.errors import DivergenceError, StoreError
from pytest_divergence.core.file_names import suite_path, suite_record
from pytest_divergence.core.promotion import Choice, promote
from pytest_divergence.core.provenance import ModelProvenance
from pytest_divergence.core.report import PairSummary, Report, ReportCase, Run, write_report
from pytest_divergence.core.suites import read_suite
from pytest_divergence.core.verdicts import approved_limit
from tests.core.made_suites import (
    KNOT,
    POEM,
    SIGNAL,
    SOUP,
    SURE,
    case,
    control,
    texts,
    write_searched,
)

ROWS = [
    case(KNOT, 0.8, behaviour=SIGNAL.id),
    case(POEM, 0.1),
    *(control(f"Ordinary prompt {number}") for number in range(70)),
]
LIMITED = """
import resource, sys
from pytest_divergence.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
sys.exit(main(sys.argv[2:]))
"""


@pytest.fixture
def searched(tmp_path: Path) -> Path:
    """The suite of a search of `base` and `ft`, where searches leave theirs."""
    path = suite_path(tmp_path, "base", "ft")
    path.parent.mkdir(parents=True)
    return write_searched(path, ROWS, SIGNAL, SURE)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    folder = tmp_path / "tests"
    folder.mkdir()
    return folder / "release.divergence.jsonl"


def refusal(
    source: Path, target: Path, *ids: str, is_adding: bool = False, is_forced: bool = False
) -> str:
    before = texts(target.parent)
    with pytest.raises(DivergenceError) as caught:
        promote(source, target, Choice(ids), is_adding=is_adding, is_forced=is_forced)
    assert texts(target.parent) == before, "a refusal changes nothing"
    return str(caught.value)


@pytest.mark.parametrize(
    ("value", "floor", "limit"),
    [(0.8, 1e-4, 1.0), (0.81, 0.03, 1.44), (0.04, 0.03, 0.25), (0.0, None, 3e-6)],
)
def test_a_limit_leaves_a_quarter_and_stays_out_of_the_noise(
    value: float, floor: float | None, limit: float
) -> None:
    assert approved_limit(value, floor) == pytest.approx(limit)


def test_growth_by_half_is_caught_from_sixty_times_the_noise_on() -> None:
    floor = 0.005
    caught = [
        floors
        for floors in (59, 60, 1_000)
        if 1.5 * floors * floor > approved_limit(floors * floor, floor)
    ]
    assert caught == [60, 1_000]


def test_all_cases_go_with_their_behaviours_tokens_and_64_controls(
    searched: Path, target: Path
) -> None:
    promoted = promote(searched, target)

    new = read_suite(target)
    assert {one.text: one.max_kl for one in new.suite.cases} == {
        KNOT: pytest.approx(1.1398, abs=1e-4),
        POEM: pytest.approx(0.2395, abs=1e-4),
    }
    assert len(new.suite.controls) == promoted.num_controls == 64
    assert all(row.max_kl is None for row in new.suite.controls)
    assert set(new.tokens) == {row.id for row in new.suite.rows}
    assert new.provenance is not None
    assert new.provenance.behaviours == [SIGNAL], "accepted, and telling, as it was"
    assert [one.id for one in promoted.left_behind] == [SURE.id]


@pytest.mark.parametrize(
    ("choice", "cases", "behaviours"),
    [
        (Choice(ids=["write-a-poem"]), [POEM], []),
        (Choice(behaviours=["behaviour-signal"]), [KNOT], [SIGNAL.id]),
        (Choice(ids=["write"], behaviours=[SURE.id]), [POEM], [SURE.id]),
        (Choice(is_all=True), [KNOT, POEM], [SIGNAL.id, SURE.id]),
    ],
)
def test_what_is_chosen_goes_with_what_it_shows(
    searched: Path, target: Path, choice: Choice, cases: list[str], behaviours: list[str]
) -> None:
    """By the start of an id, by the behaviour that cases show, or all of it."""
    promoted = promote(searched, target, choice)

    new = read_suite(target)
    assert [one.text for one in new.suite.cases] == cases
    assert new.provenance is not None
    assert [one.id for one in new.provenance.behaviours] == behaviours
    assert [one.id for one in promoted.left_behind] == [
        id_ for id_ in (SIGNAL.id, SURE.id) if id_ not in behaviours
    ]


def test_an_id_that_means_no_case_or_several_is_refused(searched: Path, target: Path) -> None:
    said = refusal(searched, target, "ordinary")
    assert 'no case begins with "ordinary"; there are how-do-i-tie-a-knot-' in said

    write_searched(searched, [case("How one?", 0.1), case("How two?", 0.1)])
    assert '"how" matches 2 cases: how-one-' in refusal(searched, target, "how")


def test_a_target_must_be_collected_by_pytest(searched: Path, tmp_path: Path) -> None:
    said = refusal(searched, tmp_path / "release.jsonl")

    assert said == (
        f"{tmp_path}/release.jsonl cannot name a suite: the name must end in .divergence.jsonl, or "
        f"pytest does not collect it; for example {tmp_path}/release.divergence.jsonl"
    )


def test_a_missing_folder_is_made_or_named(searched: Path, tmp_path: Path) -> None:
    promote(searched, tmp_path / "a" / "b" / "x.divergence.jsonl")
    assert (tmp_path / "a" / "b" / "x.divergence.jsonl").is_file()

    (tmp_path / "no").write_text("a file", "utf-8")
    with pytest.raises(StoreError, match=f"cannot make the folder {tmp_path}/no/suites: "):
        promote(searched, tmp_path / "no" / "suites" / "x.divergence.jsonl")


def test_a_target_that_is_there_is_not_overwritten(searched: Path, target: Path) -> None:
    promote(searched, target)

    assert refusal(searched, target) == (
        f"{target} exists already; add to it with --add, or name another file"
    )


def test_a_source_that_lacks_a_part_is_refused(searched: Path, target: Path) -> None:
    tokens, provenance = (
        searched.with_name(searched.name.replace("divergence.jsonl", end))
        for end in ("tokens.jsonl", "provenance.json")
    )
    tokens.unlink()
    assert "the continuations of row " in refusal(searched, target)
    provenance.unlink()
    assert "have a kl (first: " in refusal(searched, target)
    assert f"but {provenance.name} is missing" in refusal(searched, target)
    searched.write_text('{"input": "Hi"}\n', "utf-8")
    assert refusal(searched, target).endswith(
        "has no provenance file; promote the suite of a search"
    )


# Adding to a suite


def test_adding_merges_and_keeps_what_is_there(searched: Path, target: Path) -> None:
    promote(searched, target, Choice(ids=["how"]))
    old = target.read_bytes().splitlines()
    write_searched(searched, [case(KNOT, 0.4), case(SOUP, 0.5), control("A new one")], SURE)

    promoted = promote(searched, target, is_adding=True)

    new = read_suite(target)
    assert [one.text for one in new.suite.cases] == [KNOT, SOUP]
    assert [one.text for one in promoted.written] == [SOUP]
    assert len(promoted.kept) == 1
    assert len(new.suite.controls) == 64, "it had as many as it gets"
    assert set(old) < set(target.read_bytes().splitlines())
    assert new.provenance is not None
    assert new.provenance.behaviours == [SIGNAL]


def test_force_replaces_rows_that_both_have(searched: Path, target: Path) -> None:
    promote(searched, target)
    write_searched(searched, [case(KNOT, 0.4), control("Ordinary prompt 1", 0.02)])

    promoted = promote(searched, target, is_adding=True, is_forced=True)

    values = {one.text: one.kl.value for one in read_suite(target).suite.rows if one.kl}
    assert (values[KNOT], values[POEM]) == (0.4, 0.1)
    assert values["Ordinary prompt 1"] == 0.02
    assert promoted.kept == ()


@pytest.mark.parametrize("is_forced", [False, True])
@pytest.mark.parametrize("motif", ["signal received standing", "signal received"])
def test_what_the_target_accepts_stays_accepted(
    searched: Path, target: Path, motif: str, is_forced: bool
) -> None:
    """Also under other words, as a later search may find it."""
    promote(searched, target)
    again = SIGNAL.model_copy(
        update={"id": behaviour_id([motif]), "motifs": [motif], "accepted": False}
    )
    write_searched(searched, [case(KNOT, 0.4, behaviour=again.id), case(SOUP, 0.5)], again, SURE)

    promote(searched, target, Choice(is_all=True), is_adding=True, is_forced=is_forced)

    new = read_suite(target).provenance
    assert new is not None
    marks = {each.id: each.accepted for each in new.behaviours}
    assert marks == {SIGNAL.id: True, again.id: True, SURE.id: False}


def test_a_control_that_turned_out_to_differ_becomes_a_case(searched: Path, target: Path) -> None:
    promote(searched, target)
    write_searched(searched, [case("Ordinary prompt 1", 0.4)])

    promote(searched, target, is_adding=True)

    suite = read_suite(target).suite
    assert "Ordinary prompt 1" in {one.text for one in suite.cases}
    assert len(suite.controls) == 63


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"candidate": ModelProvenance(spec="ft", kind="folder", weights_sha256="d" * 64)},
            'the candidate (was "ft" bbbbbbbb, now "ft" dddddddd); name',
        ),
        ({"tokenizer_sha256": "e" * 64}, "another pair: the tokenizer ("),
        ({"template_sha256": "e" * 64}, "the chat template (was none, now"),
        ({"settings": {"system_prompt": "Be brief."}}, 'the system prompt (was none, now "Be bri'),
    ],
)
def test_cases_of_another_pair_are_refused(
    searched: Path, target: Path, changes: dict[str, object], words: str
) -> None:
    promote(searched, target)
    write_searched(searched, [case(SOUP, 0.5)], **changes)

    said = refusal(searched, target, is_adding=True)
    assert "belongs to another pair: " in said
    assert words in said
    assert said.endswith("; name another file, or update this one first with --divergence-update")


def test_nothing_is_added_to_values_of_unknown_models(searched: Path, target: Path) -> None:
    promote(searched, target)
    (target.parent / "release.provenance.json").unlink()

    said = refusal(searched, target, is_adding=True)
    assert "but release.provenance.json is missing" in said
    assert said.endswith(
        "; restore it, or remove kl from the rows and measure them with --divergence-fill"
    )


def test_what_a_killed_promotion_had_still_to_put_in_place_counts(
    searched: Path, target: Path
) -> None:
    """The record was there when it was killed, or another command is at that point just now."""
    promote(searched, target)
    staged = target.with_name(f".{target.name}.0.divergence-tmp")
    target.rename(staged)
    suite_record(target).write_text(json.dumps({target.name: staged.name}), "utf-8")

    with pytest.raises(DivergenceError, match="another command has written it"):
        promote(searched, target, Choice(ids=["how"]))
    with pytest.raises(DivergenceError, match="exists already; add to it with --add"):
        promote(searched, target)

    assert len(read_suite(target).suite.cases) == 2


def test_rows_written_by_hand_stay_byte_for_byte(searched: Path, target: Path) -> None:
    by_hand = b'{"max_kl":1e0,   "prompt": "Is it mine?"}'
    target.write_bytes(by_hand + b"\n")

    promote(searched, target, is_adding=True)

    assert by_hand in target.read_bytes().splitlines()
    assert len(read_suite(target).suite.cases) == 3


# A run as the source


def write_run(root: Path, *rows: ReportCase) -> Path:
    folder = root / ".divergence" / "reports" / "run"
    folder.mkdir(parents=True)
    pair = PairSummary(
        reference="base", candidate="ft", dtype="float32", device="cpu", chat_template="reference"
    )
    report = Report(
        run=Run(id="run", mode="search", status="complete"), pair=pair, cases=list(rows)
    )
    write_report(folder / "report.json", report)
    (folder.parent / "latest").symlink_to("run")
    return folder


RUN = [ReportCase(**dict(row), verdict="failed") for row in ROWS if not row.is_control]


@pytest.mark.parametrize(
    "given",
    [".divergence/reports/latest", ".divergence/reports/run/report.json"],
)
@pytest.mark.usefixtures("searched")
def test_a_run_means_the_suite_that_it_wrote(
    tmp_path: Path, target: Path, given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run(tmp_path, *RUN)
    monkeypatch.chdir(tmp_path)

    assert refusal(Path(given), target, "x").startswith(".divergence/suites/base--")
    promote(Path(given), target)

    assert [one.text for one in read_suite(target).suite.cases] == [KNOT, POEM]


@pytest.mark.usefixtures("searched")
def test_a_run_whose_suite_was_written_again_is_refused(tmp_path: Path, target: Path) -> None:
    folder = write_run(tmp_path, *RUN[:1])

    assert "a later search of this pair has replaced it" in refusal(folder, target)


def test_no_run_yet_is_one_sentence(
    tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    assert refusal(Path(".divergence/reports/latest"), target) == (
        "latest: no run in .divergence/reports yet; name a suite"
    )


# A full disk


def test_a_full_disk_leaves_all_three_files_as_they_were(searched: Path, target: Path) -> None:
    """The tokens would fit, the suite would not: neither changes."""
    promote(searched, target, Choice(ids=["how"]))
    before = texts(target.parent)
    limit = (target.parent / "release.tokens.jsonl").stat().st_size + 2000
    assert limit < target.stat().st_size

    command = [sys.executable, "-c", LIMITED, str(limit)]
    full = subprocess.run(
        [*command, "promote", str(searched), str(target), "--add"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert full.returncode == 1
    assert full.stderr == f"error: cannot write {target}: File too large\n"
    assert texts(target.parent) == before
