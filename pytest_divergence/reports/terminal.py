"""The end of a run in a terminal: plain text, 80 columns, no colour needed.

Knows words and lines; does not know pytest.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from pathlib import PurePath

from pytest_divergence.core.behaviours import Behaviour
from pytest_divergence.core.file_names import LATEST
from pytest_divergence.core.quantities import number_of
from pytest_divergence.core.report import Report, ReportCase
from pytest_divergence.core.safe_text import printable_lines, visible
from pytest_divergence.reports import wording
from pytest_divergence.reports.behaviours import (
    behaviour_groups,
    style_counts,
    style_line,
)
from pytest_divergence.reports.failures import (
    behaviour_details,
    comparison,
    every_token,
    labelled,
    texts,
)
from pytest_divergence.reports.headline import EXIT_CODE, failure_sum, headline, is_sound
from pytest_divergence.reports.text_blocks import (
    WIDTH,
    block,
    command,
    quoted,
    sentence,
    within,
)
from pytest_divergence.reports.token_statistics import statistics_lines
from pytest_divergence.reports.wording import nats

NUM_SHOWN = 5
"""Failed cases in a summary without -v."""
EXAMPLE_SUITE = "tests/release.divergence.jsonl"


def summary_lines(
    report: Report,
    *,
    width: int = WIDTH,
    verbosity: int = 0,
    report_path: str,
    suite: str,
    given: Mapping[str, object] | None = None,
    failed_tests: Mapping[str, int] | None = None,
    has_errors: bool = False,
    is_read_back: bool = False,
) -> list[str]:
    """The end of a run: verdict, behaviours, failed cases, and what to do next.

    `verbosity` below 0 gives one line; 0 shows failed cases in a line each, 1 with both answers,
    and all numbers, 2 also every token of the candidate's answers. `given` holds the settings that
    commands repeat, by field; `failed_tests` counts the failed tests by kind, and `has_errors` is
    True if others could not be judged. `is_read_back` is True if the results are those of an
    earlier search.
    """
    if verbosity < 0:
        return printable_lines([_one_line(report, report_path)])
    lines = sentence(" ".join(headline(report, is_tested=False)), width=width)
    for section in (
        *_behaviours(report, width, verbosity),
        list(_failed_cases(report, width, verbosity)),
        list(_errors(report, width)),
        list(_numbers(report, width, verbosity, is_read_back=is_read_back)),
        list(_sum(failed_tests or {}, width, is_sound=is_sound(report) and not has_errors)),
    ):
        lines += ["", *section] if section else []
    steps = _steps(report, width, verbosity, report_path, suite, given)
    return printable_lines([*lines, "", *steps])


def _one_line(report: Report, report_path: str) -> str:
    tested = wording.asserted(report)
    parts = [f"{len(wording.failed(report))} of {number_of(len(tested), 'case')} over the bound"]
    unjudged = sum(case.verdict in ("error", "inconclusive") for case in tested)
    new, num_aside = wording.unaccepted(report), len(wording.put_aside(report))
    num_style = sum(behaviour.is_style for behaviour in new)
    for count, words in (
        (unjudged, f"{unjudged} not judged"),
        (len(new) - num_style, number_of(len(new) - num_style, "new behaviour")),
        (num_style, number_of(num_style, "failing style change")),
        (num_aside, f"{number_of(num_aside, 'style change')} put aside"),
        (len(report.errors), number_of(len(report.errors), "error")),
    ):
        parts += [words] if count else []
    stopped = "stopped early: " if report.run.status == "incomplete" else ""
    return f"divergence: {stopped}{', '.join(parts)}; report: {visible(report_path)}"


def _behaviours(report: Report, width: int, verbosity: int) -> Iterator[list[str]]:
    """Yield the blocks of behaviours: content, each its own; style; suspects."""
    content, style, suspects = behaviour_groups(report)
    for behaviour in content:
        yield list(_behaviour(behaviour, width, verbosity))
    if style:
        lines = [f"{wording.STYLE_TITLE}: {style_counts(report)}"]
        for behaviour in style:
            lines.append(f"  {style_line(behaviour, width - 2)}")
            lines += _details(behaviour, width, verbosity, "    ") if verbosity > 0 else []
        yield lines
    if suspects:
        count = number_of(len(suspects), "suspect")
        lines = [f"{count}, not confirmed{':' if verbosity > 0 else '; see the report, or -v'}"]
        for behaviour in suspects if verbosity > 0 else ():
            lines.append(f"  {quoted(behaviour.title, width - 4)}")
            lines += _details(behaviour, width, verbosity, "    ")
        yield lines


def _behaviour(behaviour: Behaviour, width: int, verbosity: int) -> Iterator[str]:
    accepted = "; accepted" if behaviour.accepted else ""
    if behaviour.trait is None:
        start = "It says "
        yield start + quoted(behaviour.title, width - len(start + accepted)) + accepted
    else:
        yield f"It {within(behaviour.title, width - len(f'It {accepted}'))}{accepted}"
    yield from _details(behaviour, width, verbosity, "  ")


def _details(behaviour: Behaviour, width: int, verbosity: int, indent: str) -> Iterator[str]:
    yield from behaviour_details(behaviour, width=width, indent=indent, is_verbose=verbosity > 0)
    if verbosity > 0:
        yield f"{indent}id: {behaviour.id}"


def _failed_cases(report: Report, width: int, verbosity: int) -> Iterator[str]:
    over = wording.failed(report)
    if not over:
        return
    if verbosity > 0:
        yield f"{number_of(len(over), 'failed case')}, the most divergent first:"
        for case in over:
            yield from _case(case, report, width)
            if verbosity > 1:
                metric = case.kl.metric if case.kl else ""
                yield from every_token(case.tokens, metric, width=width, indent="    ")
        return
    bound = report.calibration.bound
    limit = f" of {nats(bound.value)} {visible(report.calibration.unit)}" if bound else ""
    yield f"{number_of(len(over), 'case')} over the bound{limit}:"
    for case in over[:NUM_SHOWN]:
        value = nats(case.kl.value) if case.kl else ""
        yield f"  {value:>7}  {within(case.turns[-1].content, width - 11)}"
    if len(over) > NUM_SHOWN:
        yield f"  {len(over) - NUM_SHOWN} more in the report, or with -v"


def _case(case: ReportCase, report: Report, width: int) -> Iterator[str]:
    bound = report.calibration.bound
    max_kl = case.max_kl if case.max_kl is not None else bound.value if bound else None
    yield f"  {case.id}"
    if case.kl is not None:
        kl = case.kl
        alone = f"{kl.quantity} {nats(kl.value)} {visible(kl.unit)}"
        beside = max_kl is not None and comparison(kl.value, max_kl, kl.metric, kl.unit)
        yield f"    {beside or alone}"
        if (rank := wording.among_controls(kl.value, report.calibration)) is not None:
            yield f"    {rank}"
    yield from texts(case, width=width, indent="    ", limit=300, max_lines=4)


def _errors(report: Report, width: int) -> Iterator[str]:
    if report.run.reason:
        yield from sentence(f"why it stopped: {visible(report.run.reason)}", width=width)
    if report.errors:
        yield f"{number_of(len(report.errors), 'error')} during the run:"
    for error in report.errors:
        yield f"  {within(error.where, width - 3)}:"
        yield from block(error.message, width=width, indent="    ", limit=600, max_lines=8)
    for case in wording.asserted(report):
        if case.verdict in ("error", "inconclusive"):
            words = "not measured" if case.verdict == "error" else "inconclusive"
            yield f"  {words}: {case.id}"
            if case.verdict_reason:
                reason = case.verdict_reason
                yield from block(reason, width=width, indent="    ", limit=600, max_lines=8)


def _numbers(report: Report, width: int, verbosity: int, *, is_read_back: bool) -> Iterator[str]:
    if verbosity > 0:
        yield from _measured(report, width)
    effort = report.effort
    work = "replay" if report.run.mode == "replay" else "search"
    yield from sentence(
        f"{work}{' (saved results)' if is_read_back else ''}: "
        f"{number_of(effort.prompts_scored, 'prompt')} scored, "
        f"{number_of(effort.tokens_forwarded, 'token')} forwarded, "
        f"{wording.duration(effort.seconds)}",
        width=width,
    )
    if verbosity > 0 and (kinds := wording.effort_by_kind(report)) is not None:
        yield from sentence(f"tokens forwarded: {kinds}", width=width)


def _measured(report: Report, width: int) -> Iterator[str]:
    """The cases' counts, the parts of the bound, and what the search has judged."""
    yield from sentence(f"cases: {', '.join(wording.counts(report))}", width=width)
    calibration = report.calibration
    if (bound := calibration.bound) is not None:
        provisional = " (provisional)" if bound.provisional else ""
        start = f"bound: {nats(bound.value)} {visible(calibration.unit)}{provisional}"
        yield from labelled(f"{start},", bound.label, width) if bound.label else [start]
        for name, value in wording.bound_parts(bound):
            yield f"  {value:>8}  {visible(name)}"
    if (noise := wording.noise(report)) is not None:
        yield from sentence(noise, width=width)
    if (tokens := calibration.token_statistics) is not None:
        yield from statistics_lines(tokens, width)
    if report.differences and (shown := wording.differences(report)):
        counts = ", ".join(
            f"{difference.name} {difference.candidate_count} : {difference.reference_count}"
            for difference in shown
        )
        total = number_of(report.differences[0].num_prompts, "prompt")
        yield from sentence(
            f"differences (candidate : reference, of {total}): {counts}", width=width
        )
        if (untested := wording.untested(shown)) is not None:
            yield from sentence(untested, width=width)
    for text in (wording.shrinkage(report), wording.leads(report), wording.power(report)):
        if text is not None:
            yield from sentence(text, width=width)


def _sum(failed_tests: Mapping[str, int], width: int, *, is_sound: bool) -> Iterator[str]:
    if (total := failure_sum(failed_tests)) is not None:
        yield from sentence(f"{total}. {EXIT_CODE if is_sound else ''}".rstrip(), width=width)


def _steps(
    report: Report,
    width: int,
    verbosity: int,
    report_path: str,
    suite: str,
    given: Mapping[str, object] | None,
) -> Iterator[str]:
    """Name the next steps: read the report, accept what was meant, keep the cases."""
    yield f"report: {visible(report_path)}"
    if report.run.status != "complete":  # it wrote no suite
        return
    for behaviour in wording.unaccepted(report)[:NUM_SHOWN]:
        accept = shlex.join(["pytest-divergence", "accept", behaviour.id])
        yield from command("accept", accept, width=width, indent="")
    if tested := wording.asserted(report):
        # Another command does not know a folder that only this one was given.
        run = str(PurePath(report_path).parent) if "report_dir" in (given or {}) else LATEST
        yield f"keep:   {shlex.join(['pytest-divergence', 'promote', run, EXAMPLE_SUITE])}"
        if verbosity > 0:
            yield f"suite:  {visible(suite)}"
            rerun = wording.case_command(report, tested[0].id, suite, given)
            yield from command("run one case again", rerun, width=width, indent="")
