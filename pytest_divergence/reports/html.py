"""`report.html`: one file that needs nothing else, works offline and runs no script.

Knows how to fill the page. Every string that reaches it is escaped, and has its hidden characters
shown, without the template asking for it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from bisect import bisect_right
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from pydantic import JsonValue

from pytest_divergence.core.report import Report, ReportCase, TokenComparison, TrainingSummary
from pytest_divergence.reports import charts, wording
from pytest_divergence.reports.wording import likelihood, nats, probability

TEXT_LIMIT = 4000
"""Characters of one model text in the page; report.json has all."""

HEAT = (0.02, 0.1, 0.3, 1.0, 2.0, 4.0, 8.0)
"""Nats at which a token's colour changes."""

NUM_ALTERNATIVES = 3


def render_html(report: Report, *, suite: str | None = None) -> str:
    """The run as a page."""
    cases = wording.asserted(report)
    return (
        _environment()
        .get_template("template.html.jinja")
        .render(
            report=report,
            headline=wording.headline(report),
            behaviours=wording.behaviours(report),
            differences=wording.differences(report),
            notes=[
                note
                for note in (wording.shrinkage(report), wording.first_behaviour(report))
                if note is not None
            ],
            accept=lambda one: wording.accept_command(one.id, suite or "SUITE"),
            cases=cases,
            apart=wording.set_apart(report),
            num_over=len(wording.failed(report)),
            top_kl=max((case.kl.value for case in cases if case.kl), default=0.0),
            distribution=_distribution(report),
            search_curve=_search_curve(report),
            rerun=lambda case: wording.rerun_command(report, case.id, suite),
            text_limit=TEXT_LIMIT,
            heat_limits=HEAT,
        )
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("pytest_divergence", "reports"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        nats=nats,
        probability=probability,
        duration=wording.duration,
        counted=wording.number_of,
        csp_hash=_csp_hash,
        as_json=_as_json,
    )
    environment.globals.update(
        heat=_heat,
        tip=_tip,
        token_text=_token_text,
        worst_tokens=wording.worst_tokens,
        bound_parts=wording.bound_parts,
        compared=wording.compared,
        bar=charts.bar,
        training_chart=_training_chart,
    )
    return environment


def _shown(value: object) -> object:
    """What each expression of the template passes before it is escaped."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    parts = re.split(r"([\n\t])", value.replace("\r\n", "\n"))
    return "".join(part if part in ("\n", "\t") else wording.visible(part) for part in parts)


def _csp_hash(text: str) -> Markup:
    digest = hashlib.sha256(str(text).encode("utf-8")).digest()
    return Markup("'sha256-{}'").format(Markup(base64.b64encode(digest).decode("ascii")))


def _as_json(value: JsonValue) -> str:
    return json.dumps(value, ensure_ascii=False)


def _heat(token: TokenComparison, case: ReportCase) -> int:
    return bisect_right(HEAT, wording.token_kl(token, case.kl.metric if case.kl else None))


def _token_text(text: str) -> str:
    """A token in running text: its line breaks marked, nothing of it invisible."""
    return text.replace("\n", "↵\n") or "∅"


def _tip(position: int, token: TokenComparison) -> str:
    """What both models think at a token, in a few lines."""
    lines = [
        f"token {position} “{token.text[:40]}”: reference {likelihood(token.reference_p)}, "
        f"candidate {likelihood(token.candidate_p)}",
        f"KL forward {nats(token.forward_kl)}, reverse {nats(token.reverse_kl)}",
    ]
    for name, top in (("reference", token.reference_top), ("candidate", token.candidate_top)):
        if top:
            shown = (f"“{text[:24]}” {probability(p)}" for text, p in top[:NUM_ALTERNATIVES])
            lines.append(f"{name}: {', '.join(shown)}")
    return "\n".join(wording.visible(line) for line in lines)


def _distribution(report: Report) -> Markup:
    calibration = report.calibration
    return charts.distribution(
        controls=calibration.typical_shift.values if calibration.typical_shift else [],
        cases=[
            (case.kl.value, case.verdict == "failed")
            for case in wording.asserted(report)
            if case.kl is not None
        ],
        bound=calibration.bound.value if calibration.bound else None,
        noise_floor=calibration.noise_floor.value if calibration.noise_floor else None,
    )


def _search_curve(report: Report) -> Markup:
    bound = report.calibration.bound
    points = [(float(point.prompts_scored), point.best_kl) for point in report.search_curve]
    return charts.curve(
        "Largest KL found, against prompts scored",
        [("best", points)],
        limit=bound.value if bound else None,
    )


def _training_chart(training: TrainingSummary) -> Markup:
    loss = [(float(step), value) for step, value in enumerate(training.loss, 1)]
    stride = len(loss) / (len(training.validation) or 1)
    validation = [(stride * i, value) for i, value in enumerate(training.validation, 1)]
    return charts.curve(
        "Training loss, and validation, over steps", [("loss", loss), ("validation", validation)]
    )
