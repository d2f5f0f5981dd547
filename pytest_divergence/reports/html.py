"""`report.html`: one file that needs nothing else, and works offline.

Knows how to fill the page. Every string that reaches it is escaped, and has its hidden characters
shown, without a template asking for it. The page's one script only sorts, filters, copies and
points; without it everything can be read.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from pydantic import JsonValue

from pytest_divergence.core.behaviours import Behaviour
from pytest_divergence.core.comparing import Differences
from pytest_divergence.core.report import Report
from pytest_divergence.core.setting_names import setting
from pytest_divergence.reports import charts, heat, plots, wording
from pytest_divergence.reports.marking import marked
from pytest_divergence.reports.wording import nats, probability

PAGE = "page"
"""The folder of the templates, the style and the script."""
TEXT_LIMIT = 4000
"""Characters of one model text in the page; report.json has all."""
MAX_EXACT = 20_000
"""A longer prompt has no copy button."""


@dataclass(frozen=True)
class Earlier:
    """Another run that the page compares this one with."""

    name: str
    differences: Differences
    """From that run to this one."""


def render_html(report: Report, *, suite: str | None = None, earlier: Earlier | None = None) -> str:
    """The run as a page; `suite` is the path that its commands name."""
    cases = wording.asserted(report)
    motifs = {one.id: _telling_words(one) for one in report.behaviours}
    return (
        _environment()
        .get_template("page.html.jinja")
        .render(
            report=report,
            scale=wording.scale(report),
            quantity=wording.scale(report).partition(",")[0],
            earlier=earlier,
            headline=wording.headline(report),
            behaviours=wording.behaviours(report),
            differences=wording.differences(report),
            notes=_notes(report),
            accept=lambda one: wording.accept_command(one.id, suite or "SUITE"),
            cases=cases,
            apart=wording.set_apart(report),
            num_over=len(wording.failed(report)),
            num_new=len(wording.unaccepted(report)),
            top_kl=max((case.kl.value for case in cases if case.kl), default=0.0),
            motifs_of=lambda id_: motifs.get(id_ or "", ()),
            rerun=lambda case: wording.rerun_command(report, case.id, suite),
        )
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("pytest_divergence", f"reports/{PAGE}"),
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
        spelled=wording.spelled,
        counted=wording.number_of,
        csp_hash=_csp_hash,
        as_json=_as_json,
        exact=_exact,
        marked=marked,
    )
    environment.globals.update(
        css=_asset("page.css"),
        js=_asset("page.js"),
        heat=heat,
        plots=plots,
        bar=charts.bar,
        text_limit=TEXT_LIMIT,
        worst_tokens=wording.worst_tokens,
        bound_parts=wording.bound_parts,
        compared=wording.compared,
        effort=wording.effort,
        setting=setting,
    )
    return environment


def _asset(name: str) -> Markup:
    """A file of our own, as it stands."""
    return Markup(files("pytest_divergence").joinpath("reports", PAGE, name).read_text("utf-8"))


def _shown(value: object) -> object:
    """What each expression of a template passes before it is escaped."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    parts = re.split(r"([\n\t])", value.replace("\r\n", "\n"))
    return "".join(part if part in ("\n", "\t") else wording.visible(part) for part in parts)


def _csp_hash(text: str) -> Markup:
    digest = hashlib.sha256(str(text).encode("utf-8")).digest()
    return Markup("'sha256-{}'").format(Markup(base64.b64encode(digest).decode("ascii")))


def _as_json(value: JsonValue) -> str:
    return json.dumps(value, ensure_ascii=False)


def _exact(text: str) -> str | None:
    """What copying must give where the page shows something else; None: what it shows is exact.

    JSON in ASCII, so that nothing hidden stands in the page; markup already, since what is shown
    of a text must not be done to it. Empty for what is too long to copy.
    """
    if len(text) > MAX_EXACT:
        return ""
    is_shown = len(text) <= TEXT_LIMIT and _shown(text) == text
    return None if is_shown else escape(json.dumps(text))


def _telling_words(behaviour: Behaviour) -> Sequence[str]:
    """What is marked in answers: motifs are only as much of the phrase as recurs word by word."""
    return [behaviour.name, *behaviour.motifs] if behaviour.motifs else []


def _notes(report: Report) -> Sequence[str]:
    notes = (wording.shrinkage(report), wording.first_behaviour(report))
    return [f"{note[0].upper()}{note[1:]}." for note in notes if note is not None]
