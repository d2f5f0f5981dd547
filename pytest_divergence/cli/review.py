"""`pytest-divergence review`: the findings of a run, one at a time, and a decision on each.

A decision is written at once, by the functions of `accept` and `promote`, so that stopping at any
moment loses none and leaves none half written.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from pytest_divergence.cli._output import say, say_lines
from pytest_divergence.cli._project import root
from pytest_divergence.cli.promote import replay_lines, written
from pytest_divergence.cli.report import report_of
from pytest_divergence.core.behaviours import Behaviour, is_same
from pytest_divergence.core.errors import SettingsError
from pytest_divergence.core.files import check_inside
from pytest_divergence.core.promotion import Choice, Promoted, existing_suite, promote, shows
from pytest_divergence.core.provenance import accept, accepted_in
from pytest_divergence.core.quantities import number_of
from pytest_divergence.core.report import Report, ReportCase, load_report, suite_of
from pytest_divergence.reports.failures import behaviour_lines, case_lines, labelled, telling_words
from pytest_divergence.reports.headline import continuation
from pytest_divergence.reports.text_blocks import WIDTH, sentence
from pytest_divergence.reports.wording import asserted, failed, unaccepted

ACCEPT, KEEP, SKIP, QUIT = "accept", "keep", "skip", "quit"
Finding = Behaviour | ReportCase


def run(given: Namespace) -> int:
    """Show each finding that nothing is decided on, and do what the user answers."""
    path = report_of(given.run)
    report = load_report(path)
    _check(report)
    every: list[Finding] = [*unaccepted(report), *failed(report)]
    if not every:
        say(f"run {report.run.id} has no findings: no behaviour fails, no case is over its bound")
        return 0
    review = _Review(report, path, given.suite, every)
    if not review.findings:
        say(f"every finding of run {report.run.id} is accepted, or kept in {given.suite}")
        return 0
    say_lines(review.introduction())
    try:
        review.go_through()
    finally:  # also if it is stopped, or a decision is refused
        say_lines(["", *review.outcome()])
    return 0


def _check(report: Report) -> None:
    """Refuse a run that left no suite of its own."""
    if report.run.mode == "replay":
        raise SettingsError(
            f"run {report.run.id} is a replay, so its cases are in a suite already; accept its "
            "behaviours there: pytest-divergence accept ID SUITE"
        )
    if report.run.status != "complete":
        raise SettingsError(
            f"run {report.run.id} stopped early and left no suite; "
            f"{continuation(report.settings.get('mode'))}; then review it"
        )


class _Review:
    """A run's findings, and the decisions of this review."""

    def __init__(self, report: Report, path: Path, target: Path, every: Sequence[Finding]) -> None:
        """Leave out what is decided already. Raises SettingsError, SuiteError or StoreError."""
        self._report, self._path, self._target = report, path, target
        self._suite = suite_of(report, path, root)
        check_inside(target.parent, within=Path.cwd())
        kept = existing_suite(target, is_adding=True)
        self._kept = {case.id for case in kept.suite.cases} if kept is not None else set()
        self._promoted: Promoted | None = None
        self._counts: Counter[str] = Counter()
        accepted = accepted_in(self._suite)
        self.findings = [
            finding
            for finding in every
            if not (_is_accepted(finding, accepted) or self._is_kept(finding))
        ]
        self._position = 0

    def introduction(self) -> Iterator[str]:
        """Tell what can be decided, and where it is written."""
        yield from sentence(
            f"{number_of(len(self.findings), 'finding')} of run {self._report.run.id}. Accept what "
            f"is intended: it no longer fails. Keep what a replay should test: it goes to "
            f"{self._target}.",
            width=WIDTH,
        )

    def go_through(self) -> None:
        """Ask about each finding, and write each decision."""
        for position, finding in enumerate(self.findings):
            self._position = position
            if self._is_kept(finding):  # with a behaviour
                continue
            say_lines(["", f"{position + 1} of {len(self.findings)}", *self._lines(finding)])
            answer = _answer(list(self._choices(finding)))
            if answer == QUIT:
                return
            self._decide(finding, answer)
        self._position = len(self.findings)

    def outcome(self) -> Iterator[str]:
        """Tell what this review has written, and how to replay it."""
        accepted, kept, skipped = (self._counts[name] for name in (ACCEPT, KEEP, SKIP))
        counts = (
            (accepted, f"{number_of(accepted, 'behaviour')} accepted"),
            (kept, f"{number_of(kept, 'case')} kept"),
            (skipped, f"{skipped} skipped"),
        )
        done = ", ".join(words for count, words in counts if count) or "nothing"
        rest = [each for each in self.findings[self._position :] if not self._is_kept(each)]
        left = f"stopped with {number_of(len(rest), 'finding')} left; " if rest else ""
        yield from sentence(f"{left}decided, and written: {done}", width=WIDTH)
        if self._promoted is not None:
            yield from replay_lines(self._promoted, self._target)

    def _cases_of(self, behaviour: Behaviour) -> list[ReportCase]:
        return [case for case in asserted(self._report) if shows(case, behaviour)]

    def _is_kept(self, finding: Finding) -> bool:
        cases = self._cases_of(finding) if isinstance(finding, Behaviour) else [finding]
        return bool(cases) and all(case.id in self._kept for case in cases)

    def _lines(self, finding: Finding) -> Iterator[str]:
        if isinstance(finding, Behaviour):
            yield from behaviour_lines(finding)
            yield from telling_words(finding)
            return
        kl, bound = finding.kl, self._report.calibration.bound
        max_kl = finding.max_kl if finding.max_kl is not None else bound.value if bound else None
        assert kl is not None and max_kl is not None  # noqa: PT018  # or it would not have failed
        yield from case_lines(finding, kl, max_kl, None, finding.tokens)

    def _choices(self, finding: Finding) -> Iterator[tuple[str, str]]:
        """Yield what can be decided on a finding, each with the words that ask for it."""
        if isinstance(finding, Behaviour):
            yield ACCEPT, "[a]ccept"
            if cases := self._cases_of(finding):
                yield KEEP, f"[k]eep its {number_of(len(cases), 'case')}"
        else:
            yield KEEP, "[k]eep"
        yield from ((SKIP, "[s]kip"), (QUIT, "[q]uit"))

    def _decide(self, finding: Finding, answer: str) -> None:
        count = 1
        if answer == ACCEPT:
            # The search's own suite last: there it counts as decided.
            for suite in accept(finding.id, [*filter(Path.exists, [self._target]), self._suite]):
                say_lines(labelled(f"accepted {finding.id} in", str(suite), WIDTH))
        elif answer == KEEP:
            is_behaviour = isinstance(finding, Behaviour)
            choice = Choice(behaviours=[finding.id]) if is_behaviour else Choice([finding.id])
            promoted = promote(self._path, self._target, choice, root_of=root, is_adding=True)
            say(written(promoted, self._target))
            self._promoted = promoted
            self._kept |= {case.id for case in promoted.written}
            count = len(promoted.written)
        self._counts[answer] += count


def _answer(choices: Sequence[tuple[str, str]]) -> str:
    """Ask until the answer is a choice or begins its name; the end of the input quits."""
    question = ", ".join(words for _, words in choices)
    while True:
        try:
            typed = input(f"{question}: ").strip().lower()
        except EOFError:
            say("")
            return QUIT
        if not sys.stdin.isatty():  # a terminal shows it by itself
            say(typed)
        for name, _ in choices:
            if typed and name.startswith(typed):
                return name


def _is_accepted(finding: Finding, accepted: Sequence[Behaviour]) -> bool:
    """Whether it is a behaviour that is the same as an accepted one."""
    return isinstance(finding, Behaviour) and any(is_same(finding, other) for other in accepted)
