"""Whether a session compared what it was asked to compare; decided here alone, as it ends.

Collects the outcome of each test, here or in a worker of pytest-xdist, and knows who asked for a
comparison: if nothing was compared, a session that names its models itself or runs in CI fails, and
any other is warned. Does not know how anything is compared. Imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_divergence.core.file_names import SUITE_SUFFIX, is_suite
from pytest_divergence.core.safe_text import printable, safe_line, visible
from pytest_divergence.plugin._compat import active_fixtures
from pytest_divergence.plugin.notes import (
    NO_CASE,
    PREFIX,
    SKIP_PREFIX,
    is_ours,
    left_by,
    skip_reason,
)
from pytest_divergence.plugin.options import BY_FIELD, INI, MODELS, PAIRS_INI, assignment
from pytest_divergence.plugin.session import NO_MODELS, DivergenceSession, is_ci

if TYPE_CHECKING:
    from pytest_divergence.core.report import Report

RESUMING = {
    "lf": "--lf runs only tests that failed before",
    "stepwise": "--sw continues from the last failure",
}
"""Options of pytest that leave out tests which passed before, and no others."""
PROMPTS = frozenset({"divergence_case", "hard_prompts", "soft_prompts"})
"""Fixtures that provide the results of a search."""
FIXTURES = PROMPTS | {"model_pair", "assert_bounded_kl"}
RAN = f"{PREFIX}ran"
"""Property of the reports of tests with these fixtures: 1 if running counts as a comparison."""
SEARCH_ITEM = "search"
JUDGED = ("passed", "failed", "inconclusive")
NUM_SHOWN = 3
"""Number of paths that a sentence names."""
OFF = "if you want no comparison, add --divergence-mode=off"
IN_CI = "this fails in CI"


@dataclass(frozen=True)
class Remark:
    """A sentence in the last lines of a session."""

    text: str
    is_fault: bool
    """Whether it makes the session fail."""


@dataclass(eq=False)  # pytest keeps its plugins in sets
class Tally:
    """Outcomes of the tests that compare or should; registered as a plugin of pytest."""

    compared: set[str] = field(default_factory=set)
    """Node ids of tests that compared."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Reasons of skipped tests, by node id."""
    failed: set[str] = field(default_factory=set)
    """Node ids of tests that failed before anything was measured."""
    idle: set[str] = field(default_factory=set)
    """Node ids of tests that passed and measured nothing."""
    deselected: set[Path] = field(default_factory=set)
    """The suites with an item that will not run."""
    emptied: set[str] = field(default_factory=set)
    """The suites of which no item will run, as they are shown to people."""
    twins: set[tuple[str, str]] = field(default_factory=set)
    """The specs of each pair that is one model twice."""
    planned: set[str] = field(default_factory=set)
    """Node ids of the suites' items that are to run."""
    remarks: list[Remark] = field(default_factory=list)
    """The sentences to write at the end."""

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Take note of the suites' items."""
        self.planned |= {item.nodeid for item in session.items if is_suite(item.path)}

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: Sequence[str]) -> None:
        """Take note of the suites' items that a worker of pytest-xdist collected."""
        self.planned |= set(filter(suite_of, ids))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Record the outcome of a test."""
        if not is_ours(report):
            return
        reason = skip_reason(report)
        if _is_comparison(left_by(report)) or reason == SKIP_PREFIX + NO_CASE:
            self.compared.add(report.nodeid)
        elif report.skipped:
            self.skipped[report.nodeid] = reason
        elif report.failed:
            self.failed.add(report.nodeid)
        elif report.passed and report.when == "call":
            self.idle.add(report.nodeid)

    @property
    def skipped_suites(self) -> set[str]:
        """The suites whose reported items were all skipped, relative to the root folder."""
        other = {*self.compared, *self.failed, *self.idle}
        return set(map(suite_of, self.skipped)) - set(map(suite_of, other)) - {""}


KEY = pytest.StashKey[Tally]()


def tally_of(session: DivergenceSession) -> Tally:
    """Return the tally of a session so far."""
    return session.config.stash.setdefault(KEY, Tally())


def listen(session: DivergenceSession) -> None:
    """Record every test from now on; a controller records its workers' tests."""
    if session.told is None:
        session.config.pluginmanager.register(tally_of(session), "divergence-tally")


def mark(session: DivergenceSession, item: pytest.Item, report: pytest.TestReport) -> None:
    """Note on the report of a user's test whether it had something to compare."""
    taken = FIXTURES.intersection(active_fixtures(item))
    if not taken or report.when == "teardown":
        return
    has_found = bool(taken & PROMPTS) and session.has_whole_search
    has_run = report.when == "call" and not report.skipped
    ran = has_run and ("model_pair" in taken or has_found)
    report.user_properties.append((RAN, float(ran)))


def note_deselected(session: DivergenceSession, items: Iterable[pytest.Item]) -> None:
    """Remember the suites whose items are left out."""
    tally_of(session).deselected |= {item.path for item in items if is_suite(item.path)}


def finish(pytest_session: pytest.Session, session: DivergenceSession) -> None:
    """Fail a session that would wrongly pass; a worker leaves that to its controller."""
    tally, code = tally_of(session), pytest_session.exitstatus
    items: Sequence[pytest.Item] = getattr(pytest_session, "items", ())
    emptied = tally.deselected - {item.path for item in items}
    tally.emptied |= {session.shown(path) for path in emptied}
    tally.twins |= session.twins
    is_over = code in (
        pytest.ExitCode.OK,
        pytest.ExitCode.TESTS_FAILED,
        pytest.ExitCode.NO_TESTS_COLLECTED,
    )
    if session.plan.process == "worker" or not session.plan.may_measure or not is_over:
        return
    tally.remarks = list(_remarks(session, tally, is_green=code == pytest.ExitCode.OK))
    if code == pytest.ExitCode.OK and faults(session):
        pytest_session.exitstatus = pytest.ExitCode.TESTS_FAILED


def faults(session: DivergenceSession) -> list[str]:
    """Return the sentences that make the session fail."""
    return [remark.text for remark in tally_of(session).remarks if remark.is_fault]


def write(session: DivergenceSession) -> None:
    """Write the remarks in the last lines, however quiet the session is."""
    terminal: Any = session.config.pluginmanager.get_plugin("terminalreporter")
    for remark in tally_of(session).remarks if terminal is not None else ():
        colour = {"red": True} if remark.is_fault else {"yellow": True}
        terminal.ensure_newline()
        terminal.write_line(printable(f"divergence: {remark.text}"), **colour)


def _remarks(session: DivergenceSession, tally: Tally, *, is_green: bool) -> Iterator[Remark]:
    asked = _asked(session, tally)
    if not tally.compared:
        if asked is not None and (is_green or not tally.failed):  # failures speak for themselves
            yield _nothing(session, tally, *asked)
        return
    if (reason := _why_no_search(session)) is not None:
        mode = assignment(session.given["mode"], BY_FIELD["mode"])
        yield Remark(f"no search ran, though {mode} is given: {reason}", is_fault=True)
    has_item = any(nodeid.endswith(f"::{SEARCH_ITEM}") for nodeid in tally.planned)
    if not has_item and session.report is not None and (broken := reason_against(session.report)):
        yield Remark(broken, is_fault=True)
    if asked is not None and _resumed(session) is None:
        yield from _left_out(session, tally, is_fault=asked[1])
    for pair in sorted(tally.twins):
        yield _same_model(session, *pair)


def reason_against(report: Report) -> str | None:
    """Return why a search says nothing about the models; None if it is complete."""
    reasons = []
    if report.run.status != "complete":
        reasons.append("it stopped before it was complete")
    if report.leads is None:
        reasons.append("its leads were not judged")
    reasons += [f"{error.where}: {safe_line(error.message)}" for error in report.errors]
    return f"the search cannot vouch for the models: {'; '.join(reasons)}" if reasons else None


def _asked(session: DivergenceSession, tally: Tally) -> tuple[str, bool] | None:
    """Return what asks for a comparison, and whether the session fails without one."""
    mode = session.given.get("mode")
    if mode is not None and mode.source != INI and mode.value in ("search", "replay"):
        return f"{assignment(mode, BY_FIELD['mode'])} is given", True
    if session.plan.is_explicit:
        models = (assignment(session.given[field], BY_FIELD[field]) for field in MODELS)
        return f"{' and '.join(models)} are given", True
    asked = None
    if session.has_models or session.config.getini(PAIRS_INI):
        asked = "the ini file names models"
    elif tally.emptied or tally.skipped_suites:
        asked = "a suite is among the tests"
    elif _unconfigured(tally) and is_ci():  # outside CI the summary says so
        asked = "a test uses divergence_case"
    if asked is None:
        return None
    return (f"{asked} and CI is set", True) if is_ci() else (asked, False)


def _nothing(session: DivergenceSession, tally: Tally, asked: str, is_fault: bool) -> Remark:
    why, *then = _why(session, tally)
    parts = [f"nothing was compared, though {asked}: {why}"]
    if is_fault:
        return Remark("; ".join([*parts, *then, OFF]), is_fault)
    return Remark("; ".join([f"warning: {parts[0]}", IN_CI]), is_fault)


def _why(session: DivergenceSession, tally: Tally) -> tuple[str, ...]:
    """Return why nothing was compared, and what to do about it."""
    if (reason := _why_no_search(session)) is not None:
        return (reason,)
    if _unconfigured(tally):
        return (f"divergence_case {NO_MODELS}",)
    if tally.skipped:
        return _skips(tally), "let them run"
    if (resumed := _resumed(session)) is not None:
        return f"{resumed}, and none of these tests compares models", "run once without it"
    if tally.emptied:
        suites = _list(sorted(tally.emptied))
        return f"every item of {suites} was deselected", "leave out -k, -m and --deselect"
    if session.config.getoption("setuponly", False):
        return "--setup-only runs no test", "leave it out"
    if tally.idle:
        tests = _list(sorted(tally.idle))
        return f"{tests} ran and measured nothing", "use assert_bounded_kl or model_pair"
    return _not_found(session)


def _skips(tally: Tally) -> str:
    count, reason = len(tally.skipped), next(iter(tally.skipped.values()))
    many = (
        "1 test that compares models was"
        if count == 1
        else f"{count} tests that compare models were"
    )
    return f"{many} skipped ({safe_line(reason.removeprefix(SKIP_PREFIX), 60)})"


def _not_found(session: DivergenceSession) -> tuple[str, str]:
    where = "pytest found"
    if session.has_paths:
        paths = [session.shown(path) for path in session.arguments]
        where = f"{_list(paths)} {'has' if len(paths) == 1 else 'have'}"
    then = f"name a *{SUITE_SUFFIX}, or use model_pair or assert_bounded_kl in a test"
    if session.plan.action == "search" and session.has_models:
        then = then.replace(", or use", ", use") + ", or add --divergence-builtin-suite=on"
    return f"{where} no suite and no test that compares models", then


def _why_no_search(session: DivergenceSession) -> str | None:
    """Return why this session ran no search although it asks for one itself."""
    mode = session.given.get("mode")
    is_asked = mode is not None and mode.source != INI and session.plan.action == "search"
    if not is_asked or session.report is not None:
        return None
    if not session.has_models:
        return f"the pairs of {PAIRS_INI} are only replayed; give --model-1 and --model-2"
    return (
        "with a path, only a test that uses divergence_case or hard_prompts starts a search; "
        "add --divergence-builtin-suite=on, or leave the path out"
    )


def _left_out(session: DivergenceSession, tally: Tally, *, is_fault: bool) -> Iterator[Remark]:
    """Yield a remark for each suite of which nothing was compared."""
    then = "name only the suites that you mean" if is_fault else IN_CI
    start = "" if is_fault else "warning: "
    skipped = {session.shown(session.file_of(suite)) for suite in tally.skipped_suites}
    for suites, what in ((tally.emptied, "deselected"), (skipped, "skipped")):
        for suite in sorted(suites):
            text = f"every item of {suite} was {what}, so nothing in it was compared"
            yield Remark(f"{start}{text}; {then}", is_fault)


def _same_model(session: DivergenceSession, reference: str, candidate: str) -> Remark:
    first, second = (visible(spec, 60) for spec in (reference, candidate))
    which = f"{first} is compared with itself"
    if first != second:
        which = f"{first} and {second} are the same model"
    text, allow = f"{which}, so nothing could differ", BY_FIELD["allow_same_model"].flag
    if session.resolved.settings.allow_same_model:
        return Remark(text, is_fault=False)
    if is_ci():
        then = f"name another candidate, or, if you mean this, add {allow}"
        return Remark(f"{text}; {then}", is_fault=True)
    return Remark(f"warning: {text}; {IN_CI} without {allow}", is_fault=False)


def _is_comparison(left: dict[str, Any]) -> bool:
    """Whether a test measured, judged the search's measurement, or had both models."""
    is_judged = left.get(f"{PREFIX}verdict") in JUDGED
    return is_judged or f"{PREFIX}kl" in left or bool(left.get(RAN))


def _unconfigured(tally: Tally) -> bool:
    return any(
        NO_MODELS in reason for reason in tally.skipped.values() if reason.startswith(SKIP_PREFIX)
    )


def _resumed(session: DivergenceSession) -> str | None:
    """Return the sentence on the option that leaves out tests which passed before."""
    given = (text for name, text in RESUMING.items() if getattr(session.config.option, name, 0))
    return next(given, None)


def suite_of(nodeid: str) -> str:
    """Return the suite of a node id; empty for a user's own tests."""
    path = nodeid.partition("::")[0]
    return path if is_suite(path) else ""


def _list(names: Sequence[str]) -> str:
    more = len(names) - NUM_SHOWN
    shown = [*names[:NUM_SHOWN], *([f"{more} more"] if more > 0 else [])]
    return " and ".join([*([", ".join(shown[:-1])] if shown[1:] else []), *shown[-1:]])
