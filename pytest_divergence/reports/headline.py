"""The outcome of a run in plain sentences, the verdict first; without any model's text.

Knows the report; does not know whether a terminal, a browser or a Markdown file shows it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from pytest_divergence.core.errors import SettingsError
from pytest_divergence.core.quantities import number_of
from pytest_divergence.core.report import Check, Report
from pytest_divergence.core.safe_text import visible
from pytest_divergence.core.setting_names import setting
from pytest_divergence.reports.wording import (
    STYLE_TITLE,
    asserted,
    failed,
    is_of_texts,
    nats,
    put_aside,
    unaccepted,
    unpassed,
)

BLUNT = (
    "A style in most answers makes that bound high, so that cases say little: rely on behaviours."
)
BROKEN = (
    "Ordinary prompts alone go beyond what any automatic bound allows: this is another model, or a "
    "broken one."
)
REFUSED = "The error below says what to change."
DIFFERENT = "The models behave differently."
NUM_NAMED = 3
"""Items that a sentence names."""
EXIT_CODE = "Exit code 1 means that differences were found, not that the tool broke."


def headline(report: Report, *, is_tested: bool = True) -> list[str]:
    """The outcome in plain sentences, the verdict first; without any model's text.

    `is_tested` is False if no test ran: then no exit code reflects the findings.
    """
    sentences = []
    if report.run.status == "incomplete":
        is_refused = any(error.where == SettingsError.__name__ for error in report.errors)
        then = f"R{continuation(report.settings.get('mode'))[1:]}."
        if report.run.mode == "replay":
            then = "Run the same command again."
        step = REFUSED if is_refused else then
        sentences = [f"The run stopped early; this is what it found until then. {step}"]
    sentences += _checked(report)
    findings = _findings(report)
    is_different = bool(failed(report) or unaccepted(report) or unpassed(report, "failed"))
    if is_different and report.run.mode != "replay":
        findings.insert(0, DIFFERENT)
    sentences += findings
    unjudged = sum(case.verdict in ("error", "inconclusive") for case in asserted(report))
    if unjudged:
        cases, these = number_of(unjudged, "case"), "It does" if unjudged == 1 else "They do"
        sentences.append(f"{cases} could not be judged. {these} not count as passed.")
    if is_tested and is_different and is_sound(report):
        sentences.append(EXIT_CODE)
    return sentences


def continuation(mode: object) -> str:
    """Return how to continue a search that was stopped in a `mode`; `search` forgets what is there.

    It begins in the lower case and has no full stop.
    """
    anew = f", but without {setting('mode')}=search (discover: --anew), which starts anew"
    return f"run the same command to continue{anew if mode == 'search' else ''}"


def is_sound(report: Report) -> bool:
    """Whether a run came to its end without an error, so that exit code 1 tells of differences."""
    return (
        report.run.status == "complete"
        and not report.errors
        and not unpassed(report, "error")
        and all(case.verdict != "error" for case in asserted(report))
    )


def failure_sum(counts: Mapping[str, int]) -> str | None:
    """`4 failed = 3 cases + 1 behaviour`, from failed tests by kind; None if there are none."""
    parts = [number_of(count, kind) for kind, count in counts.items() if count]
    return f"{sum(counts.values())} failed = {' + '.join(parts)}" if parts else None


def _checked(report: Report) -> Iterator[str]:
    """Yield what failed or was not measured beside the cases, which may all be within bounds."""
    if names := _names(unpassed(report, "failed")):
        yield f"{names[0]} failed: {names[1]}."
    if names := _names(broken := unpassed(report, "error")):
        these = "It does" if len(broken) == 1 else "They do"
        yield f"{names[0]} could not be measured: {names[1]}. {these} not count as passed."


def _names(checks: Sequence[Check]) -> tuple[str, str] | None:
    """Return the number of items and some of their names; None if there are none."""
    if not checks:
        return None
    names = [visible(check.name.rpartition("::")[2], 60) for check in checks[:NUM_NAMED]]
    more = [f"{len(checks) - NUM_NAMED} more"] if len(checks) > NUM_NAMED else []
    return number_of(len(checks), "item"), ", ".join([*names, *more])


def _findings(report: Report) -> list[str]:
    cases = _replayed(report) if report.run.mode == "replay" else _searched(report)
    new, num_aside = unaccepted(report), len(put_aside(report))
    num_style = sum(behaviour.is_style for behaviour in new)
    found = []
    if num_content := len(new) - num_style:
        found.append(f"The candidate shows {number_of(num_content, 'new behaviour')}.")
    if num_style:
        verb = "fails" if num_style == 1 else "fail"
        found.append(f"{number_of(num_style, 'style change')} {verb}; see {STYLE_TITLE}.")
    sentences = [*found, cases]
    if num_aside:
        sentences.append(f"{number_of(num_aside, 'style change')} put aside; see {STYLE_TITLE}.")
    if note := _of_the_bound(report):
        sentences.append(note)
    return sentences


def _of_the_bound(report: Report) -> str | None:
    """Return what ordinary prompts say of an automatic bound, if it is no usual one."""
    bound = report.calibration.bound
    if bound is None or len(bound.parts) < 2:
        return None
    largest = [value for part, value in bound.parts.items() if part.startswith("largest of")]
    if any(value > bound.value for value in largest):
        return BROKEN
    is_common = any(
        behaviour.confirmed and behaviour.is_style and (behaviour.control_rate or 0) > 0.5
        for behaviour in report.behaviours
    )
    return BLUNT if is_common else None


def _replayed(report: Report) -> str:
    over, cases = len(failed(report)), number_of(len(asserted(report)), "case")
    if is_of_texts(report):
        if over:
            return f"The answers to {over} of {cases} differ, compared as texts."
        return f"No difference seen in the answers to {cases}, compared as texts."
    if over:
        return f"{over} of {cases} {_verb(over)} more divergence than the bound."
    passed = sum(case.verdict == "passed" for case in asserted(report))
    return f"No case over its bound: {passed} of {cases} within it."


def _searched(report: Report) -> str:
    over, tested = len(failed(report)), len(asserted(report))
    bound = report.calibration.bound
    limit = f", {nats(bound.value)} {visible(report.calibration.unit)}" if bound else ""
    if over:
        return (
            f"{over} of {number_of(tested, 'prompt')} found by the search {_verb(over)} more "
            f"divergence than the bound{limit}."
        )
    scored = f"{number_of(report.effort.prompts_scored, 'prompt')} scored"
    if not tested and report.run.status != "complete":
        return f"{scored}, none of them confirmed."
    none_over = f"No prompt over the bound{limit}: {scored}"
    if not tested:
        return f"{none_over}, none of them kept as a case."
    judged = sum(case.verdict != "error" for case in asserted(report))
    again = "measured again on fresh continuations"
    most = "the most divergent one" if tested == 1 else f"the {tested} most divergent"
    if not judged:
        not_again = f"{most} not {again}" if tested == 1 else f"none of {most} {again}"
        return f"{scored}, and {not_again}: nothing is judged against the bound{limit}."
    return f"{none_over}, and {most if judged == tested else f'{judged} of {most}'} {again}."


def _verb(count: int) -> str:
    return "shows" if count == 1 else "show"
