"""`pytest-divergence report`, as a user types it in a project with two runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_divergence.cli import main
from pytest_divergence.core.file_names import suite_path
from pytest_divergence.core.files import DivergenceFolder
from pytest_divergence.core.report import Report, load_report, write_report
from tests.reports.made_reports import CASES, ROME, case, report

FIRST, SECOND = Path(".divergence/reports/first"), Path(".divergence/reports/second")
pytestmark = pytest.mark.usefixtures("_runs")


@pytest.fixture
def _runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two runs of a pair: in the second a case is new, one gone, one changed, a behaviour gone."""
    monkeypatch.chdir(tmp_path)
    folder = DivergenceFolder(tmp_path)
    changed = [case(ROME.text, 1.5), *CASES[2:], case("Where is Oslo?", 0.9)]
    for name, shown in (("first", report()), ("second", report(cases=changed, behaviours=[]))):
        _write(folder.new_report_dir(name), shown)
    suite = suite_path(tmp_path, "demo:smollm2-135m", "examples/adapters/zephyr-travel")
    suite.parent.mkdir()
    suite.touch()


def _write(folder: Path, shown: Report) -> None:
    run = shown.run.model_copy(update={"id": folder.name})
    write_report(folder / "report.json", shown.model_copy(update={"run": run}))


def test_the_pages_of_the_latest_run_are_written_anew(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report"]) == 0

    assert capsys.readouterr().out.splitlines() == [
        f"wrote {SECOND}/report.html",
        f"wrote {SECOND}/summary.md",
    ]
    (suite,) = Path(".divergence/suites").iterdir()
    page = (SECOND / "report.html").read_text("utf-8")
    assert f"pytest {suite}::{ROME.id} --model-1" in page
    assert 'id="compared"' not in page
    assert not (FIRST / "report.html").exists()

    suite.unlink()
    assert main(["report"]) == 0
    assert f"-k {ROME.id}" in (SECOND / "report.html").read_text("utf-8")


@pytest.mark.parametrize("given", [FIRST, FIRST / "report.json"])
def test_another_run_goes_where_it_is_asked_to(
    given: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(given), "--output", "shown/first"]) == 0

    pages = sorted(path.name for path in Path("shown/first").iterdir())
    assert pages == ["report.html", "summary.md"]
    assert capsys.readouterr().out.startswith("wrote shown/first/report.html\n")


def test_two_runs_are_compared_in_the_terminal_or_on_the_later_page(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["report", str(FIRST), "latest"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [f"--- {FIRST}", "+++ latest"]
    assert "3 cases: 1 changed, 1 added, 1 removed" in lines
    assert not (SECOND / "report.html").exists()

    assert main(["report", str(FIRST), str(SECOND), "--output", "both"]) == 0
    page = Path("both/report.html").read_text("utf-8")
    assert '<h2 id="compared">Since run first</h2>' in page
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "wrote both/report.html",
        "wrote both/summary.md",
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "error: nowhere does not exist; name a suite, or the folder of a run's"),
        (["x.divergence.jsonl"], "x.divergence.jsonl is not the report of a run; name a report"),
        (["--output", "x.divergence.jsonl"], "--output=x.divergence.jsonl cannot be created: File"),
    ],
)
def test_what_cannot_be_done_is_said(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("x.divergence.jsonl").touch()

    assert main(["report", *words]) == 1
    assert message in capsys.readouterr().err


def test_a_report_that_is_read_is_written_as_it_was(tmp_path: Path) -> None:
    write_report(tmp_path / "again.json", load_report(FIRST / "report.json"))

    assert (tmp_path / "again.json").read_bytes() == (FIRST / "report.json").read_bytes()
