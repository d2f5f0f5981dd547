"""`summary.md`: a page that also reads well as plain text, for a pull request or a CI summary.

Untrusted text appears only in fences and code spans, which it can neither end nor fill with links.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pytest_divergence.core.behaviours import Behaviour
from pytest_divergence.core.quantities import number_of
from pytest_divergence.core.report import Calibration, Report, ReportCase
from pytest_divergence.reports import wording
from pytest_divergence.reports.behaviours import (
    behaviour_groups,
    context_parts,
    facts,
    kind,
    style_counts,
    style_line,
    training_rows,
)
from pytest_divergence.reports.headline import headline
from pytest_divergence.reports.markdown_text import code, page, plain, table
from pytest_divergence.reports.text_blocks import PAGE_WIDTH, fenced
from pytest_divergence.reports.token_statistics import (
    TITLE,
    statistics_rows,
    statistics_scope,
)
from pytest_divergence.reports.wording import nats

MAX_CASES = 20
"""Failed cases shown with their texts; the table has them all."""


def render_markdown(
    report: Report, *, suite: wording.Suite = None, given: Mapping[str, object] | None = None
) -> str:
    """Return the run in Markdown; its commands name `suite` and repeat the settings `given`."""
    sections = (
        _head(report),
        _behaviours(report),
        _differences(report),
        _checks(report),
        _case_table(report),
        _failed_cases(report, suite, given),
        _errors(report),
        _calibration(report),
        _tokens(report),
    )
    return page(line for section in sections for line in section)


def _head(report: Report) -> Iterator[str]:
    yield "# pytest-divergence"
    yield ""
    first, *more = headline(report)
    yield f"**{plain(first)}** {plain(' '.join(more))}".rstrip()
    yield ""
    if report.run.reason:
        yield f"- why it stopped: {code(report.run.reason)}"
    yield f"- reference: {code(report.pair.reference)}"
    yield f"- candidate: {code(report.pair.candidate)}"
    yield f"- cases: {', '.join(wording.counts(report))}"
    yield f"- effort: {wording.effort(report)}"
    for text in (wording.leads(report), wording.power(report)):
        if text is not None:
            yield f"- {plain(text)}"
    yield "- full report: [report.html](report.html), data: [report.json](report.json)"
    yield ""


def _behaviours(report: Report) -> Iterator[str]:
    content, style, suspects = behaviour_groups(report)
    if content:
        yield "## Behaviours of the candidate"
        yield ""
    for behaviour in content:
        yield from _behaviour(behaviour)
    if style:
        yield f"## {wording.STYLE_TITLE}"
        yield ""
        yield f"{style_counts(report)}."
        yield ""
    for behaviour in style:
        yield from _behaviour(behaviour)
    if suspects:
        yield "## Suspects, not confirmed"
        yield ""
    for behaviour in suspects:
        yield from _behaviour(behaviour)


def _behaviour(behaviour: Behaviour) -> Iterator[str]:
    yield f"### {behaviour.id}"
    yield ""
    for label, text in facts(behaviour):
        yield f"- {plain(f'{label}: {text}')}"
    if (judged := kind(behaviour)) is not None:
        yield f"- {plain(judged)}"
    yield ""
    if (taught := training_rows(behaviour)) is not None:
        yield plain(taught[0].upper() + taught[1:])
        yield ""
    is_style = behaviour.confirmed and behaviour.is_style
    shown = style_line(behaviour, PAGE_WIDTH) if is_style else behaviour.title
    yield from fenced(shown)
    for words, text in context_parts(behaviour):
        yield f"{words[0].upper()}{words[1:]}:"
        yield ""
        yield from fenced(text)
    natural = behaviour.natural_example
    for title, told in (
        ("A prompt that shows it", natural and natural.prompt),
        ("The reference's answer", natural and natural.reference),
        ("The candidate's answer", natural and natural.candidate),
        ("Even this is enough", behaviour.shortest_cause),
        ("But not this", behaviour.nearest_non_cause),
    ):
        if told:
            yield f"{title}:"
            yield ""
            yield from fenced(told)


def _differences(report: Report) -> Iterator[str]:
    shown = wording.differences(report)
    if not shown:
        return
    yield "## Types of difference"
    yield ""
    yield from table(
        ("The answer", "Candidate only", "Reference only", "p"),
        "|---|--:|--:|--:|",
        (
            (
                plain(f"{difference.name}: {difference.explanation}"),
                str(difference.candidate_count),
                str(difference.reference_count),
                wording.difference_p(difference),
            )
            for difference in shown
        ),
    )
    prompts = number_of(shown[0].num_prompts, "distinct prompt")
    yield f"Over {prompts}; p from a sign test, corrected for the number of types."
    if (note := wording.untested(shown)) is not None:
        yield ""
        yield plain(note)
    yield ""


def _checks(report: Report) -> Iterator[str]:
    rows = [
        (code(check.name), check.verdict, plain(check.sentence))
        for check in wording.unpassed(report)
    ]
    if rows:
        yield "## Items that did not pass"
        yield ""
        yield from table(("Item", "Verdict", "Found"), "|---|---|---|", rows)


def _case_table(report: Report) -> Iterator[str]:
    cases = [*wording.asserted(report), *wording.set_apart(report)]
    if not cases:
        return
    yield "## Cases"
    yield ""
    titles = ("Case", plain(wording.scale(report)), "Bound", "Verdict")
    yield from table(titles, "|---|--:|--:|---|", map(_case_cells, cases))


def _case_cells(case: ReportCase) -> tuple[str, ...]:
    value = nats(case.kl.value) if case.kl else "–"
    limit = nats(case.max_kl) if case.max_kl is not None else "–"
    if case.kl and case.max_kl is not None:
        value, limit = wording.compared(case.kl.value, case.max_kl)
    verdict = "set apart, not tested" if case.off_distribution else case.verdict
    return code(case.id), value, limit, verdict


def _failed_cases(
    report: Report, suite: wording.Suite, given: Mapping[str, object] | None
) -> Iterator[str]:
    over = wording.failed(report)
    if over:
        yield "## Where they differ"
        yield ""
    for case in over[:MAX_CASES]:
        yield from _case(
            case, report.calibration, wording.case_command(report, case.id, suite, given)
        )
    if len(over) > MAX_CASES:
        yield f"{len(over) - MAX_CASES} more failed cases are in report.html."
        yield ""


def _case(case: ReportCase, calibration: Calibration, rerun: str) -> Iterator[str]:
    yield f"### {case.id}"
    yield ""
    for turn in case.turns:
        yield f"Prompt ({turn.role}):"
        yield ""
        yield from fenced(turn.content)
    if case.completions is not None:
        yield "Reference:"
        yield ""
        yield from fenced(case.completions.reference)
        yield "Candidate:"
        yield ""
        yield from fenced(case.completions.candidate)
    if case.kl is None:
        yield from fenced(case.verdict_reason)
    if case.category is not None:
        yield f"Category: {code(case.category)}"
        yield ""
    if case.kl is not None and (rank := wording.among_controls(case.kl.value, calibration)):
        yield f"{rank.capitalize()}."
        yield ""
    yield f"Run it again: {code(rerun)}"
    yield ""


def _errors(report: Report) -> Iterator[str]:
    unjudged = [
        (case.id, case.verdict_reason)
        for case in wording.asserted(report)
        if case.verdict in ("error", "inconclusive")
    ]
    errors = [*((error.where, error.message) for error in report.errors), *unjudged]
    if errors:
        yield "## Errors"
        yield ""
    for where, message in errors:
        yield from fenced(f"{where}: {message}")


def _calibration(report: Report) -> Iterator[str]:
    calibration = report.calibration
    if calibration.bound is None and calibration.noise_floor is None:
        return
    yield "## Bound"
    yield ""
    if (bound := calibration.bound) is not None:
        label = f" ({code(bound.label)})" if bound.label else ""
        provisional = ", provisional" if bound.provisional else ""
        yield f"- bound: {nats(bound.value)} {plain(calibration.unit)}{label}{provisional}"
        for name, value in wording.bound_parts(bound):
            yield f"    - {code(name)}: {value}"
    if (noise := wording.noise(report)) is not None:
        yield f"- {plain(noise)}"
    if (shift := calibration.typical_shift) is not None:
        yield (
            f"- typical shift: mean {nats(shift.mean)}, 99th percentile {nats(shift.p99)}, "
            f"largest {nats(shift.max)} {plain(calibration.unit)} over "
            f"{number_of(shift.num_controls, 'control')}"
        )
    yield ""


def _tokens(report: Report) -> Iterator[str]:
    found = report.calibration.token_statistics
    if found is None:
        return
    yield f"## {TITLE}"
    yield ""
    yield from table(("Statistic", "Value"), "|---|--:|", statistics_rows(found))
    yield f"Over {plain(statistics_scope(found))}."
    yield ""
