"""`report.html` and `summary.md`, written beside `report.json`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pytest_divergence.core.files import write_atomically
from pytest_divergence.core.report import Report
from pytest_divergence.reports.html import Earlier, render_html
from pytest_divergence.reports.markdown import render_markdown
from pytest_divergence.reports.wording import Suite


def write_reports(
    report: Report,
    folder: Path,
    *,
    suite: Suite = None,
    given: Mapping[str, object] | None = None,
    earlier: Earlier | None = None,
) -> list[Path]:
    """Write `report.html` and `summary.md` into `folder`, and return their paths.

    The commands that run a case again name `suite`, the path of its file, or the paths by case id,
    and repeat the settings `given`, by field; `earlier` is a run that the page compares this one
    with. Raises StoreError.
    """
    views = {
        folder / "report.html": render_html(report, suite=suite, given=given, earlier=earlier),
        folder / "summary.md": render_markdown(report, suite=suite, given=given),
    }
    for path, text in views.items():
        write_atomically(path, text)
    return list(views)
