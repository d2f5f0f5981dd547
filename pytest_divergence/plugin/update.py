"""Suites measured again and rewritten: their items, and the writing at the end.

Knows which rows are measured, and what a rewritten suite still fails on. Does not know how a row is
measured (`pytest_divergence.scoring.suite_update`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from pytest_divergence.core.cases import Case, is_same_quantity
from pytest_divergence.core.errors import DivergenceError
from pytest_divergence.core.file_names import SUITE_SUFFIX
from pytest_divergence.core.files import check_inside
from pytest_divergence.core.provenance import Provenance
from pytest_divergence.core.quantities import number_of
from pytest_divergence.core.suites import StoredSuite, write_stored
from pytest_divergence.core.verdicts import judge
from pytest_divergence.discovery.plan import versions
from pytest_divergence.discovery.results import provenance_of
from pytest_divergence.models.fingerprints import text_digest
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.plugin import _compat, options
from pytest_divergence.plugin.aggregate_items import AGGREGATE_ITEM, SHIFT_ITEM
from pytest_divergence.plugin.bounds import metric_for
from pytest_divergence.plugin.collection import SuiteFile
from pytest_divergence.plugin.frames import forget_frames
from pytest_divergence.plugin.items import SuiteItem, SuiteModule
from pytest_divergence.plugin.notes import note
from pytest_divergence.plugin.replay import controls_breadth, sizes_for
from pytest_divergence.plugin.session import DivergenceSession, of
from pytest_divergence.plugin.usage_errors import error_text, failures
from pytest_divergence.reports.aggregates import (
    SEARCH_AGAIN,
    breadth_sentence,
    raise_shift,
    shift_sentence,
)
from pytest_divergence.reports.failures import comparison
from pytest_divergence.reports.text_blocks import WIDTH, sentence
from pytest_divergence.reports.wording import nats
from pytest_divergence.scoring.aggregate_tests import shift
from pytest_divergence.scoring.suite_rows import Sizes
from pytest_divergence.scoring.suite_update import NewSuite, filled, updated

BEGUN_KEY = pytest.StashKey["list[SuiteUpdate]"]()
"""The suites that this session measures again."""
NUM_SHOWN = 20
"""Number of changed cases per suite that the summary shows."""


def check_selection(pytest_session: pytest.Session, session: DivergenceSession) -> None:
    """Raise UsageError, before the first test, if only part of a file would be measured."""
    if pytest_session.testsfailed:
        return
    flag, begun = _flag(session), _begun(session)
    if not begun and not session.rewrites_by_ini:
        raise pytest.UsageError(
            f"{flag} found no suite; name one, or a folder with *{SUITE_SUFFIX} in it"
        )
    for update in begun:
        if lacking := missing(update, pytest_session.items):
            raise pytest.UsageError(
                f"{flag} rewrites whole files, but this session leaves out {len(lacking)} of "
                f"{len(update.wanted)} cases of {session.shown(update.path)}, the first is "
                f"{lacking[0]}; do not give -k, -m, --lf, --deselect or node ids"
            )


def finish(pytest_session: pytest.Session, session: DivergenceSession) -> None:
    """Write every suite that was measured completely; fail the session for any other."""
    if pytest_session.exitstatus in (
        pytest.ExitCode.INTERRUPTED,
        pytest.ExitCode.INTERNAL_ERROR,
        pytest.ExitCode.USAGE_ERROR,
    ):
        return
    for update in _begun(session):
        problem = _written(session, update)
        if problem is None:
            session.rewritten += _lines(session, update)
            continue
        session.rewritten.append(f"{session.shown(update.path)} stays as it was: {problem}.")
        if pytest_session.exitstatus == pytest.ExitCode.OK:
            pytest_session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _flag(session: DivergenceSession) -> str:
    """Return the option that asks for the update."""
    assert session.plan.rewrites is not None  # only sessions that rewrite get here
    return options.BY_FIELD[session.plan.rewrites].flag


def _begun(session: DivergenceSession) -> list[SuiteUpdate]:
    return session.config.stash.get(BEGUN_KEY, [])


def _written(session: DivergenceSession, update: SuiteUpdate) -> str | None:
    """Write a suite; return the reason if that fails, else None."""
    if problem := update.problem:
        return problem
    try:
        update.write()
    except DivergenceError as error:
        return error_text(session, error)
    return None


def _lines(session: DivergenceSession, update: SuiteUpdate) -> list[str]:
    path, changed = session.shown(update.path), update.changed()
    if not changed:
        return [f"{path}: every case already has a kl; nothing to fill."]
    shown = [f"  {new.id} {change(old, new)}" for old, new in changed[:NUM_SHOWN]]
    if len(changed) > NUM_SHOWN:
        shown.append(f"  {len(changed) - NUM_SHOWN} more: git diff {path}")
    first = f"{path} rewritten, {number_of(len(changed), 'case')} measured:"
    return [first, *shown, *outlook(session, update.written)]


class SuiteUpdate:
    """A suite as it is, and as it will be."""

    def __init__(self, session: DivergenceSession, stored: StoredSuite, *, is_fill: bool) -> None:
        """Measure nothing yet; `is_fill` leaves rows that have a measurement as they are."""
        self.stored = stored
        self.is_fill = is_fill
        self.done: set[str] = set()
        """Ids of the cases whose items have finished."""
        self._session = session
        self._new: NewSuite | None = None

    @property
    def path(self) -> Path:
        """The suite's file."""
        return self.stored.suite.path

    def takes(self, row: Case) -> bool:
        """Whether a row is measured again."""
        return not self.is_fill or row.kl is None

    @property
    def wanted(self) -> list[Case]:
        """The cases among the rows that are measured again."""
        return [case for case in self.stored.suite.cases if self.takes(case)]

    @property
    def judged(self) -> StoredSuite:
        """The suite without the rows that are measured again."""
        rows = tuple(row for row in self.stored.suite.rows if not self.takes(row))
        return replace(self.stored, suite=replace(self.stored.suite, rows=rows))

    def of(self, pair: ModelPair, row: Case) -> Case:
        """Return the row as it will be; the first call measures all. Raises what that raised."""
        if self._new is None:
            self._new = self._measured(pair)
        if row.id in self._new.failed:
            raise self._new.failed[row.id]
        return self._new.rows[row.id]

    @property
    def problem(self) -> str | None:
        """The reason why nothing of this suite may be written, if there is one."""
        if lacking := [case.id for case in self.wanted if case.id not in self.done]:
            return (
                f"{len(lacking)} of {len(self.wanted)} cases did not finish, the first "
                f"is {lacking[0]}"
            )
        if self._new is not None and self._new.failed:
            id_, error = next(iter(self._new.failed.items()))
            return f"control row {id_} could not be measured: {error_text(self._session, error)}"
        if self._new is None and any(map(self.takes, self.stored.suite.controls)):
            return (
                "only control rows have no kl, and they are measured only along with a case; "
                "measure all rows with --divergence-update"
            )
        return None

    def write(self) -> None:
        """Replace the files, if they still hold what was read. Raises DivergenceError."""
        if self._new is None:  # there was nothing to fill
            return
        new = self._new
        check_inside(self.path.parent, within=self._session.root)
        write_stored(
            self.path,
            new.rows.values(),
            new.tokens.values(),
            new.provenance,
            instead_of=self.stored,
        )

    @property
    def written(self) -> StoredSuite:
        """The suite as it will be, or as it is if nothing was measured."""
        if self._new is None:
            return self.stored
        rows = tuple(self._new.rows.values())
        return StoredSuite(
            replace(self.stored.suite, rows=rows), self._new.provenance, self._new.tokens
        )

    def changed(self) -> list[tuple[Case, Case]]:
        """Return each case that was measured again, before and after."""
        new = self._new.rows if self._new is not None else {}
        return [(case, new[case.id]) for case in self.wanted if case.id in new]

    def _measured(self, pair: ModelPair) -> NewSuite:
        session, stored = self._session, self.stored
        rows = sum(map(self.takes, stored.suite.rows))
        _compat.announce(session.config, f"measuring {rows} rows of {session.shown(self.path)}")
        make = filled if self.is_fill else updated
        seed = session.resolved.settings.seed
        new = make(pair, stored, self._made(pair), self._sizes_of(pair), seed=seed)
        for error in new.failed.values():  # kept to the end, unlike the models
            forget_frames(error)
        return new

    def _sizes_of(self, pair: ModelPair) -> Callable[[Case], Sizes]:
        """Return a function that gives the sizes of a row's measurement, else the profile's."""
        sizes = sizes_for(self._session, pair)
        stored = self.stored.tokens.values()
        written = (ids for tokens in stored for ids in (*tokens.reference, *tokens.candidate))
        longest = max(map(len, written), default=sizes["max_new_tokens"])
        if pair.chat.open_replies is not None:  # thoughts have a limit of their own
            longest = sizes["max_new_tokens"]

        def sizes_of(row: Case) -> Sizes:
            metric = metric_for(self._session, row)
            if row.kl is None:
                return Sizes(metric, sizes["num_continuations"], sizes["max_new_tokens"])
            return Sizes(metric, row.kl.num_continuations, longest)

        return sizes_of

    def _made(self, pair: ModelPair) -> Provenance:
        identity = self._session.pairs.identity_of(pair)
        ids = [row.id for row in self.stored.suite.rows]
        parts = [asdict(identity), versions(), ids]
        return provenance_of(
            identity,
            self._session.resolved.settings,
            key=text_digest(json.dumps(parts, sort_keys=True)),
            dtype=pair.dtype_name,
            template_sha256=pair.chat.template_digest,
            template_arguments=pair.chat.all_arguments,
        )


class UpdatedSuite(SuiteFile):
    """A suite whose rows are measured again."""

    update: SuiteUpdate

    def begin(self, session: DivergenceSession) -> StoredSuite:
        """Begin the update; return the rows whose bounds still count. Raises UsageError."""
        if session.is_own(self.path):
            raise pytest.UsageError(
                f"{session.shown(self.path)} belongs to a search, which replaces it; promote its "
                "cases (pytest-divergence promote), and update the promoted suite"
            )
        is_fill = session.plan.rewrites == "fill"
        self.update = SuiteUpdate(session, self.stored, is_fill=is_fill)
        session.config.stash.setdefault(BEGUN_KEY, []).append(self.update)
        return self.update.judged

    def case_item(
        self, case: Case, bounds: Mapping[str, float], *, is_searched: bool
    ) -> pytest.Item:
        """Return the item that measures a row again, or judges a row that stays as it is."""
        if self.update.takes(case):
            return UpdateItem.make(self, case, self.update)
        return super().case_item(case, bounds, is_searched=is_searched)


class UpdateItem(SuiteItem):
    """Measures a case again, and says what changes."""

    case: Case
    update: SuiteUpdate
    new: Case

    @classmethod
    def make(cls, parent: SuiteModule, case: Case, update: SuiteUpdate) -> UpdateItem:
        """Return the item for a row."""
        item: UpdateItem = cls.named(parent, case.id, update.stored.suite.lines[case.id])
        item.case, item.update = case, update
        item.add_marker(pytest.mark.divergence(id=case.id, behaviour=case.behaviour))
        return item

    def measure(self, request: pytest.FixtureRequest) -> None:
        """Measure the whole suite with the first of its items."""
        with failures(of(self.config)):
            self.new = self.update.of(self.pair(request), self.case)

    def judge(self) -> None:
        """Pass, and say what changes."""
        assert self.new.kl is not None  # it was measured
        found = self.new.kl
        note(self, kl=found.value, metric=found.metric, unit=found.unit)
        if self.new.max_kl is not None:
            note(self, bound=self.new.max_kl)
        self.add_report_section("call", "divergence", change(self.case, self.new))
        self.update.done.add(self.case.id)


def change(before: Case, after: Case) -> str:
    """Return `updated: KL 0.412 -> 0.350, max_kl 0.515 -> 0.438`."""

    def shown(value: float | None) -> str:
        return "none" if value is None else nats(value)

    old, new = before.kl, after.kl
    assert new is not None  # it was measured
    value = f"{new.quantity} {nats(new.value)}"
    if old is None or is_same_quantity(old.metric, new.metric):
        value = nats(new.value)
    start = f"{(old or new).quantity} {shown(old.value if old else None)}"
    return f"updated: {start} -> {value}, max_kl {shown(before.max_kl)} -> {shown(after.max_kl)}"


def missing(update: SuiteUpdate, items: Sequence[pytest.Item]) -> list[str]:
    """Return the ids of the update's cases that are not among the items."""
    selected = {
        item.case.id for item in items if isinstance(item, UpdateItem) and item.update is update
    }
    return [case.id for case in update.wanted if case.id not in selected]


def outlook(session: DivergenceSession, stored: StoredSuite) -> list[str]:
    """Return lines on each item that a replay of the rewritten suite will fail.

    The suite's bound and the option's limits stay as they are, or a ruined candidate would raise
    the bar for ordinary prompts.
    """
    found = [*_aggregate(session, stored), *_shift(session, stored), *_cases(session, stored)]
    if not found:
        return []
    path = session.shown(stored.suite.path)
    first = f"{path} will fail on this pair, because an update does not change these limits:"
    wrapped = (line for text in found for line in sentence(text, width=WIDTH, indent="  "))
    return [first, *wrapped]


def _aggregate(session: DivergenceSession, stored: StoredSuite) -> Iterator[str]:
    failing = {"failed"}
    if session.resolved.settings.inconclusive == "fail":
        failing.add("inconclusive")
    found, _ = controls_breadth(
        session, stored, [row.kl for row in stored.suite.ordinary if row.kl is not None]
    )
    if found is not None and found.verdict in failing:
        yield f"{AGGREGATE_ITEM}: {breadth_sentence(found)}; intended? {SEARCH_AGAIN}"


def _shift(session: DivergenceSession, stored: StoredSuite) -> Iterator[str]:
    limit, measured = (
        session.resolved.settings.max_shift,
        [row.kl for row in stored.suite.controls if row.kl is not None],
    )
    if limit is None or not measured:
        return
    found = shift(_values(stored.suite.controls), limit)
    if found.verdict == "failed":
        found = replace(found, metric=measured[0].metric, unit=measured[0].unit)
        yield f"{SHIFT_ITEM}: {shift_sentence(found)}; intended? {raise_shift()}"


def _cases(session: DivergenceSession, stored: StoredSuite) -> Iterator[str]:
    """Yield a line for each case over a bound that is not its own, which no update changes."""
    bound, whose = session.number_bound, "the option's"
    if bound is None and stored.provenance is not None and stored.provenance.bound is not None:
        bound, whose = stored.provenance.bound.value, "the suite's"
    for case in stored.suite.cases:
        if bound is None or case.max_kl is not None or case.kl is None:
            continue
        if judge(case.kl.value, bound) == "failed":
            numbers = comparison(case.kl.value, bound, case.kl.metric, case.kl.unit)
            yield f"{case.id}: {numbers}, {whose}; intended? give the row its own max_kl"


def _values(rows: Sequence[Case]) -> list[float]:
    return [row.kl.value for row in rows if row.kl is not None]
