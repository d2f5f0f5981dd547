"""`report.html`: a single file that works offline.

Knows how to fill the page, colour its tokens and mark its phrases. Every string is escaped and
shows its hidden characters; templates need not ask for it. The page's only script sorts, filters,
copies and points; the page can be read without it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from pydantic import JsonValue

from pytest_divergence.core.behaviours import Behaviour
from pytest_divergence.core.comparison import Differences
from pytest_divergence.core.quantities import number_of
from pytest_divergence.core.report import Report, ReportCase, TokenComparison
from pytest_divergence.core.safe_text import visible
from pytest_divergence.core.setting_names import setting
from pytest_divergence.reports import charts, plots, wording
from pytest_divergence.reports.behaviours import (
    behaviour_groups,
    context_parts,
    counted_in,
    facts,
    properties,
    style_counts,
    style_phrase,
    training_rows,
)
from pytest_divergence.reports.headline import headline
from pytest_divergence.reports.token_statistics import (
    TITLE,
    statistics_rows,
    statistics_scope,
)
from pytest_divergence.reports.wording import likelihood, nats, probability

PAGE = "page"
"""The folder of the templates, the style and the script."""
TEXT_LIMIT = 4000
"""Characters of a model's text on the page; report.json has all."""
MAX_EXACT = 20_000
"""A longer prompt has no copy button."""
LEVELS = (0.02, 0.1, 0.3, 1.0, 2.0, 4.0, 8.0)
"""Nats at which a token's colour changes."""
NUM_ALTERNATIVES = 5
"""Likeliest tokens of each model that the page shows at a token."""
MAX_TOKEN = 200
"""Characters of one token that the page shows."""
MAX_MOTIFS, MAX_LENGTH = 12, 200
"""Number of phrases marked in a text, and characters of each that are searched for."""


@dataclass(frozen=True)
class Earlier:
    """Another run that the page compares this one with."""

    name: str
    differences: Differences
    """From that run to this one."""


def render_html(
    report: Report,
    *,
    suite: wording.Suite = None,
    given: Mapping[str, object] | None = None,
    earlier: Earlier | None = None,
) -> str:
    """Return the run as a page; its commands name `suite` and repeat the settings `given`."""
    cases = wording.asserted(report)
    failing = wording.unaccepted(report)
    num_style = sum(behaviour.is_style for behaviour in failing)
    motifs = {behaviour.id: _telling_words(behaviour) for behaviour in report.behaviours}
    return (
        _environment()
        .get_template("page.html.jinja")
        .render(
            report=report,
            scale=wording.scale(report),
            quantity=wording.scale(report).partition(",")[0],
            earlier=earlier,
            headline=headline(report),
            behaviours=behaviour_groups(report),
            style_counts=style_counts(report),
            differences=wording.differences(report),
            untested=wording.untested(wording.differences(report)),
            notes=_notes(report),
            counted_in=counted_in,
            training_rows=training_rows,
            accept=lambda behaviour: wording.accept_command(behaviour.id, suite),
            cases=cases,
            apart=wording.set_apart(report),
            is_of_texts=wording.is_of_texts(report),
            num_over=len(wording.failed(report)),
            unpassed=wording.unpassed(report),
            num_failed=len(wording.unpassed(report, "failed")),
            failing=[behaviour.id for behaviour in failing],
            num_new=len(failing) - num_style,
            num_style=num_style,
            num_aside=len(wording.put_aside(report)),
            top_kl=max((case.kl.value for case in cases if case.kl), default=0.0),
            motifs_of=lambda id_: motifs.get(id_ or "", ()),
            rerun=lambda case: wording.case_command(report, case.id, suite, given),
        )
    )


def marked(text: str, motifs: Sequence[str]) -> list[tuple[str, bool]]:
    """Split `text` into parts, each with whether it is a motif; joined, they are `text` again.

    Ignores case and spacing, as motifs do.
    """
    shown = sorted((motif for motif in motifs if motif.strip()), key=len, reverse=True)[:MAX_MOTIFS]
    patterns = [r"\s+".join(map(re.escape, motif[:MAX_LENGTH].split())) for motif in shown]
    if not patterns:
        return [(text, False)] if text else []
    parts = re.split(f"({'|'.join(patterns)})", text, flags=re.IGNORECASE)
    return [(part, i % 2 == 1) for i, part in enumerate(parts) if part]


def level(token: TokenComparison, case: ReportCase) -> int:
    """The number of a token's colour, 0 for none."""
    return bisect_right(LEVELS, wording.token_kl(token, _metric(case)))


def token_text(text: str) -> str:
    """A token in running text: its line breaks are marked, and nothing is invisible."""
    return text.replace("\n", "↵\n") or "∅"


def tip(position: int, token: TokenComparison) -> str:
    """Both models' probabilities at a token: four lines, with parts separated by tabs.

    A tab inside a token is shown as an escape, so that it separates nothing.
    """
    lines = [
        [f"token {position}", f"“{_short(token.text, 40)}”"],
        [f"KL forward {nats(token.forward_kl)}", f"reverse {nats(token.reverse_kl)}"],
    ]
    for name, p, top in (
        ("reference", token.reference_p, token.reference_top),
        ("candidate", token.candidate_p, token.candidate_top),
    ):
        lines.append([name, likelihood(p), *(_rival(*pair) for pair in top[:NUM_ALTERNATIVES])])
    return "\n".join("\t".join(parts) for parts in lines)


def most_telling(case: ReportCase) -> int:
    """The position, from 1, that the page shows first: the candidate's most surprising choice."""
    worst = wording.worst_tokens(case.tokens, _metric(case))
    return max(worst, key=lambda pair: pair[1].reverse_kl)[0] if worst else 1


def profile(case: ReportCase) -> Markup:
    """The case's tokens as a chart."""
    return charts.profile([wording.token_kl(token, _metric(case)) for token in case.tokens])


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
        counted=number_of,
        csp_hash=_csp_hash,
        as_json=_as_json,
        exact=_exact,
        marked=marked,
    )
    environment.globals.update(
        css=_asset("page.css"),
        js=_asset("page.js"),
        level=level,
        levels=LEVELS,
        token_text=token_text,
        tip=tip,
        most_telling=most_telling,
        profile=profile,
        max_token=MAX_TOKEN,
        plots=plots,
        bar=charts.bar,
        text_limit=TEXT_LIMIT,
        worst_tokens=wording.worst_tokens,
        bound_parts=wording.bound_parts,
        among_controls=wording.among_controls,
        compared=wording.compared,
        facts=facts,
        properties=properties,
        context_parts=context_parts,
        style_phrase=style_phrase,
        style_title=wording.STYLE_TITLE,
        tokens_title=TITLE,
        statistics_rows=statistics_rows,
        statistics_scope=statistics_scope,
        effort=wording.effort,
        effort_by_kind=wording.effort_by_kind,
        setting=setting,
    )
    return environment


def _asset(name: str) -> Markup:
    """A file of the page, unescaped: it is ours."""
    return Markup(files("pytest_divergence").joinpath("reports", PAGE, name).read_text("utf-8"))


def _shown(value: object) -> object:
    """Make hidden characters visible; every expression of a template passes through here."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    parts = re.split(r"([\n\t])", value.replace("\r\n", "\n"))
    return "".join(part if part in ("\n", "\t") else visible(part) for part in parts)


def _csp_hash(text: str) -> Markup:
    digest = hashlib.sha256(str(text).encode("utf-8")).digest()
    return Markup("'sha256-{}'").format(Markup(base64.b64encode(digest).decode("ascii")))


def _as_json(value: JsonValue) -> str:
    return json.dumps(value, ensure_ascii=False)


def _exact(text: str) -> str | None:
    """The text to copy, if the page shows another; None if it shows exactly this one.

    It is JSON in ASCII, so that the page holds nothing hidden, and it is markup already, so that
    `_shown` leaves it alone. It is empty if the text is too long to copy.
    """
    if len(text) > MAX_EXACT:
        return ""
    is_shown = len(text) <= TEXT_LIMIT and _shown(text) == text
    return None if is_shown else escape(json.dumps(text))


def _telling_words(behaviour: Behaviour) -> Sequence[str]:
    """Phrases to mark in answers: motifs hold only the part of a name that recurs word by word."""
    return [behaviour.quote, *behaviour.motifs] if behaviour.motifs else []


def _notes(report: Report) -> Sequence[str]:
    notes = (wording.shrinkage(report), wording.leads(report), wording.power(report))
    return [f"{note[0].upper()}{note[1:]}." for note in notes if note is not None]


def _rival(text: str, p: float) -> str:
    """`0.42  has`: the probability, a blank, the token."""
    return f"{probability(p).replace('< ', '<')} {_short(text, 24)}"


def _short(text: str, limit: int) -> str:
    return visible(text[:limit]) + ("…" if len(text) > limit else "")


def _metric(case: ReportCase) -> str | None:
    return case.kl.metric if case.kl else None
