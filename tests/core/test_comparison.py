"""Two suites, or two runs: what differs, and nothing where nothing does."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from pytest_divergence.core.comparison import Differences, compare, read_side
from pytest_divergence.core.json_files import strict_dumps, strict_loads
from pytest_divergence.core.provenance import Bound, ModelProvenance, TypicalShift
from pytest_divergence.core.report import PairSummary, Report, ReportCase, Run, write_report
from pytest_divergence.reports.comparison import difference_lines
from tests.core.made_suites import (
    KNOT,
    POEM,
    SIGNAL,
    SOUP,
    SURE,
    case,
    control,
    measured,
    write_searched,
)

OLD, NEW = "old.divergence.jsonl", "new.divergence.jsonl"


def between(folder: Path, before: str = OLD, after: str = NEW) -> Differences:
    return compare(read_side(folder / before), read_side(folder / after))


def test_the_case_that_moved_most_comes_first_up_or_down(tmp_path: Path) -> None:
    """Two directions of KL have a ratio; values inside of arithmetic have none to speak of."""
    forward = case(SOUP, 1.0, kl=measured(1.0, metric="forward"))
    write_searched(tmp_path / OLD, [case(KNOT, 0.4), case(POEM, 0.1), forward, case("Hi", 0.0)])
    moved = [case(KNOT, 0.2), case(POEM, 0.15), case(SOUP, 0.1), case("Hi", 4e-9)]
    write_searched(tmp_path / NEW, moved)

    cases = between(tmp_path).cases

    assert [one.prompt for one in cases] == [SOUP, KNOT, POEM, "Hi"]
    ratios = [one.log_ratio for one in cases]
    assert ratios == pytest.approx([math.log(0.1), math.log(0.5), math.log(1.5), 0.0])


def test_swapped_sides_turn_every_ratio_round_and_a_suite_is_like_itself(
    tmp_path: Path,
) -> None:
    write_searched(tmp_path / OLD, [case(KNOT, 0.4), case(POEM, 0.1)])
    write_searched(tmp_path / NEW, [case(KNOT, 0.2), case(SOUP, 0.1)])

    there, back = between(tmp_path), between(tmp_path, NEW, OLD)
    itself = between(tmp_path, OLD, OLD)

    assert difference_lines(itself, OLD, OLD) == [f"no difference between {OLD} and {OLD}"]
    assert {one.id: one.log_ratio for one in there.cases if one.log_ratio} == {
        one.id: pytest.approx(-one.log_ratio) for one in back.cases if one.log_ratio
    }
    assert sorted(one.change for one in there.cases) == ["added", "changed", "removed"]
    assert {one.id: one.before for one in there.cases} == {one.id: one.after for one in back.cases}


def test_values_of_two_quantities_have_no_ratio(tmp_path: Path) -> None:
    js = [case(text, 0.1, kl=measured(0.1, metric="js")) for text in (KNOT, POEM)]
    write_searched(tmp_path / OLD, js)
    write_searched(tmp_path / NEW, [case(KNOT, 0.4), case(POEM, 0.5)])

    found = between(tmp_path)

    assert [(one.prompt, one.log_ratio) for one in found.cases] == [(POEM, None), (KNOT, None)]
    lines = difference_lines(found, OLD, NEW)
    assert "metric: js -> symmetric" in lines
    assert "(x " not in "\n".join(lines)


def test_a_suite_in_words(tmp_path: Path) -> None:
    write_searched(
        tmp_path / OLD,
        [case(KNOT, 0.4, behaviour=SIGNAL.id), case(POEM, 0.1), control("Hello", 0.01)],
        SIGNAL.model_copy(update={"accepted": False}),
        SURE,
        typical_shift=TypicalShift(mean=0.01, p99=0.02, max=0.02, num_controls=64),
    )
    write_searched(
        tmp_path / NEW,
        [case(KNOT, 0.1, max_kl=0.125), case(SOUP, 0.0), control("Hello", 0.02)],
        SIGNAL,
        candidate=ModelProvenance(spec="ft-2", kind="folder", weights_sha256="d" * 64),
        bound=Bound(value=0.3),
        typical_shift=TypicalShift(mean=0.03, p99=0.02, max=0.02, num_controls=64),
    )

    lines = difference_lines(between(tmp_path), OLD, NEW)

    assert lines == [
        f"--- {OLD}",
        f"+++ {NEW}",
        "",
        'candidate: "ft" bbbbbbbb -> "ft-2" dddddddd',
        "bound: 0.200 -> 0.300",
        "typical shift, mean: 0.010 -> 0.030",
        "",
        '~ behaviour "Signal received."',
        f"    {SIGNAL.id}",
        "    confirmed -> confirmed, accepted",
        '- behaviour "Sure thing!"',
        f"    {SURE.id}",
        "    confirmed",
        "",
        "3 cases: 1 changed, 1 added, 1 removed",
        "~ how-do-i-tie-a-knot-07f0d731ce",
        f'    "{KNOT}"',
        "    KL 0.400 -> 0.100 (x 0.25), max_kl 0.200 -> 0.125, verdict failed -> passed,",
        f"    behaviour {SIGNAL.id} -> none",
        "- write-a-poem-about-rain-493c33119f",
        f'    "{POEM}"',
        "    KL 0.100, max_kl 0.200, verdict passed",
        "+ what-goes-into-a-soup-" + between(tmp_path).cases[2].id[-10:],
        f'    "{SOUP}"',
        "    KL 0.000, max_kl 0.200, verdict passed",
        "",
        "control rows: 1 -> 1, 1 of those in both changed",
    ]
    assert max(map(len, lines)) <= 80


def test_text_of_models_is_harmless_and_fits(tmp_path: Path) -> None:
    nasty = "::error::\x1b[31m" + "x" * 200
    write_searched(tmp_path / OLD, [case(KNOT, 0.1), case(nasty, 0.4)])
    write_searched(tmp_path / NEW, [case(KNOT, 0.1)], SIGNAL.model_copy(update={"name": nasty}))

    lines = difference_lines(between(tmp_path), OLD, NEW)

    assert "\x1b" not in "".join(lines)
    assert not any(line.lstrip().startswith("::") for line in lines)
    assert max(map(len, lines)) <= 80


def write_run(folder: Path, value: float) -> Path:
    folder.mkdir()
    row = ReportCase(input=KNOT, max_kl=0.2, kl=measured(value), verdict="failed")
    pair = PairSummary(
        reference="base", candidate="ft", dtype="float32", device="cpu", chat_template="reference"
    )
    report = Report(run=Run(id="run", mode="search", status="complete"), pair=pair, cases=[row])
    write_report(folder / "report.json", report)
    return folder


def test_runs_compare_by_their_folders_or_files_and_with_a_suite(tmp_path: Path) -> None:
    first, second = (write_run(tmp_path / name, kl) for name, kl in (("a", 0.4), ("b", 0.8)))

    suite = write_searched(tmp_path / OLD, [case(KNOT, 0.1)])

    both = compare(read_side(first), read_side(second / "report.json"))
    (found,) = compare(read_side(suite), read_side(first)).cases

    assert [one.log_ratio for one in both.cases] == [pytest.approx(math.log(2))]
    assert compare(read_side(first), read_side(first / "report.json")).is_empty
    assert found.before is not None
    assert found.after is not None
    assert (found.before.verdict, found.after.verdict) == ("passed", "failed")


def test_suites_written_by_hand_differ_by_their_rows_alone(tmp_path: Path) -> None:
    for name, more in ((OLD, ""), (NEW, f'{{"input": "{SOUP}"}}\n')):
        (tmp_path / name).write_text(f'{{"input": "{KNOT}"}}\n{more}', "utf-8")

    found = between(tmp_path)

    assert [(one.prompt, one.change) for one in found.cases] == [(SOUP, "added")]
    assert found.values == []


def test_what_machines_read_comes_back_as_it_was(tmp_path: Path) -> None:
    write_searched(tmp_path / OLD, [case(KNOT, 0.4), case(POEM, 0.1)], SURE)
    write_searched(tmp_path / NEW, [case(KNOT, 0.2), control("Hello")], SIGNAL)
    found = between(tmp_path)

    read = Differences.model_validate(strict_loads(strict_dumps(found.model_dump(mode="json"))))

    assert read == found
