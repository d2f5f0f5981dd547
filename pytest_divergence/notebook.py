"""`discover`: the search from Python, with progress and results that a notebook shows.

The front door to `pytest_divergence.discovery.run`, which searches, and to
`pytest_divergence.reports.cards`, which shows.
"""

from __future__ import annotations

import sys
from pathlib import Path

from pytest_divergence.core.report import Report, ReportCase
from pytest_divergence.core.settings import Settings
from pytest_divergence.discovery.plan import identify_pair
from pytest_divergence.discovery.progress import Listener, ProgressLine, Silence
from pytest_divergence.discovery.run import SearchOutcome, search
from pytest_divergence.models.fingerprints import ModelIdentity
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.reports.cards import case_card, report_frame


class ShownCase(ReportCase):
    """A case of a report; a notebook shows it as a card."""

    def _repr_html_(self) -> str:
        return case_card(self)


class ShownReport(Report):
    """Report of a search; a notebook shows its page."""

    def _repr_html_(self) -> str:
        return report_frame(self)


class ShownOutcome(SearchOutcome):
    """Report and files of a finished search; a notebook shows the report's page."""

    report: ShownReport

    def _repr_html_(self) -> str:
        return report_frame(self.report)


def discover(
    pair: ModelPair,
    settings: Settings | None = None,
    *,
    root: Path | None = None,
    listener: Listener | None = None,
) -> ShownOutcome:
    """Search a pair that is in memory; files go under `root` (default: the working directory).

    The pair's own system prompt and template arguments are used and recorded, whatever `settings`
    say. Models that have no name, in the pair or in `settings`, are named by their weights: other
    weights get files of their own. `listener` hears how far the search is, by methods `say`,
    `progress` and `expect`. Without one a notebook shows a line of progress, and a script shows
    nothing. Raises a `DivergenceError`, or what interrupted the search.
    """
    settings = settings or Settings()
    named = settings.model_copy(
        update={
            "model_1": settings.model_1 or _name(pair.reference_identity),
            "model_2": settings.model_2 or _name(pair.candidate_identity),
            "system_prompt": pair.chat.system_prompt,
            "template_arg": pair.chat.given_arguments,
        }
    )
    found = search(
        named,
        root=root or Path.cwd(),
        load_pair=lambda: pair,
        listener=listener or _usual_listener(),
        identity=identify_pair(pair).with_metric(pair.metrics.get(named.metric)),
    )
    return ShownOutcome(
        _shown(found.report), found.report_dir, found.suite_path, found.key, found.is_cached
    )


def _name(identity: ModelIdentity) -> str:
    """Return a model's spec, for one without a source also its digest, with its adapters' names."""
    if identity.kind != "memory":
        return identity.spec
    digest, plus, adapters = identity.weights_sha256.partition("+")
    return f"{identity.spec} {digest[:8]}{plus}{adapters}"


def _shown(report: Report) -> ShownReport:
    """Return the same values, which were checked when they were made."""
    cases = [
        ShownCase.model_construct(case.model_fields_set, **dict(case)) for case in report.cases
    ]
    values = {**dict(report), "cases": cases}
    return ShownReport.model_construct(report.model_fields_set, **values)


def _usual_listener() -> Listener:
    is_notebook = "ipykernel" in sys.modules
    return ProgressLine(sys.stdout.write) if is_notebook else Silence()  # noqa: TID251
