"""Items of a session that rewrites suites: they measure rows afresh, and pass.

Knows what one suite will be when the session ends. Does not know whether it may then be written
(`pytest_divergence.updating`), nor what of a suite changes (`discovery.suite_update`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_divergence import progress_display
from pytest_divergence.core.errors import MeasurementError
from pytest_divergence.core.stored import StoredSuite, read_suite, write_stored
from pytest_divergence.failing import error_text, failures
from pytest_divergence.frames import forget_frames
from pytest_divergence.items import SuiteItem
from pytest_divergence.measuring import metric_for, note, sizes_for
from pytest_divergence.session import DivergenceSession, of

if TYPE_CHECKING:
    from pytest_divergence.collection import SuiteFile
    from pytest_divergence.core.cases import Case
    from pytest_divergence.core.provenance import Provenance
    from pytest_divergence.discovery.suite_update import NewSuite
    from pytest_divergence.models.pair import ModelPair
    from pytest_divergence.scoring.remeasuring import Sizes


class SuiteUpdate:
    """One suite as it is, and as it will be."""

    def __init__(self, session: DivergenceSession, stored: StoredSuite, *, is_fill: bool) -> None:
        """Measure nothing yet; `is_fill` leaves rows that have a measurement as they are."""
        self.stored = stored
        self.is_fill = is_fill
        self.done: set[str] = set()
        """Ids of the cases whose items have run to their end."""
        self._session = session
        self._new: NewSuite | None = None

    @property
    def path(self) -> Path:
        """The suite's file."""
        return self.stored.suite.path

    def takes(self, row: Case) -> bool:
        """Whether a row is measured afresh."""
        return not self.is_fill or row.kl is None

    @property
    def wanted(self) -> list[Case]:
        """The cases among the rows that are measured afresh."""
        return [case for case in self.stored.suite.cases if self.takes(case)]

    @property
    def judged(self) -> StoredSuite:
        """The suite without the rows that are measured afresh."""
        rows = tuple(row for row in self.stored.suite.rows if not self.takes(row))
        return replace(self.stored, suite=replace(self.stored.suite, rows=rows))

    def of(self, pair: ModelPair, row: Case) -> Case:
        """The row as it will be; the first one asked for measures all. Raises what that raised."""
        if self._new is None:
            self._new = self._measured(pair)
        if row.id in self._new.failed:
            raise self._new.failed[row.id]
        return self._new.rows[row.id]

    @property
    def problem(self) -> str | None:
        """Why nothing of this suite may be written."""
        if lacking := [case.id for case in self.wanted if case.id not in self.done]:
            return (
                f"{len(lacking)} of {len(self.wanted)} cases did not run to their end, the first "
                f"is {lacking[0]}"
            )
        if self._new is not None and self._new.failed:
            id_, error = next(iter(self._new.failed.items()))
            return f"control row {id_} could not be measured: {error_text(self._session, error)}"
        if self._new is None and any(map(self.takes, self.stored.suite.controls)):
            return (
                "only control rows have no kl, and they are measured along with a case; measure "
                "all rows with --divergence-update"
            )
        return None

    def write(self) -> None:
        """Replace the files, if they are still what was read. Raises DivergenceError."""
        if self._new is None:  # there was nothing to fill
            return
        now = read_suite(self.path)
        if (now.suite.rows, now.tokens) != (self.stored.suite.rows, self.stored.tokens):
            raise MeasurementError("the suite was changed by others while this session measured it")
        new = self._new
        write_stored(self.path, new.rows.values(), new.tokens.values(), new.provenance)

    @property
    def written(self) -> StoredSuite:
        """The suite as it will be; as it is where nothing was measured."""
        if self._new is None:
            return self.stored
        rows = tuple(self._new.rows.values())
        return StoredSuite(
            replace(self.stored.suite, rows=rows), self._new.provenance, self._new.tokens
        )

    def changed(self) -> list[tuple[Case, Case]]:
        """Each case that was measured afresh, before and after."""
        new = self._new.rows if self._new is not None else {}
        return [(case, new[case.id]) for case in self.wanted if case.id in new]

    def _measured(self, pair: ModelPair) -> NewSuite:
        from pytest_divergence.discovery.suite_update import filled, updated

        session, stored = self._session, self.stored
        rows = sum(map(self.takes, stored.suite.rows))
        progress_display.announce(
            session.config, f"measuring {rows} rows of {session.shown(self.path)} afresh"
        )
        make = filled if self.is_fill else updated
        seed = session.resolved.settings.seed
        new = make(pair, stored, self._made(pair), self._sizes_of(pair), seed=seed)
        for error in new.failed.values():  # kept to the end, and the models may have to go before
            forget_frames(error)
        return new

    def _sizes_of(self, pair: ModelPair) -> Callable[[Case], Sizes]:
        """Sizes of a row's stored measurement, else the profile's."""
        from pytest_divergence.scoring.remeasuring import Sizes

        sizes = sizes_for(self._session, pair)
        stored = self.stored.tokens.values()
        written = (ids for one in stored for ids in (*one.reference, *one.candidate))
        longest = max(map(len, written), default=sizes["max_new_tokens"])

        def sizes_of(row: Case) -> Sizes:
            metric = metric_for(self._session, row)
            if row.kl is None:
                return Sizes(metric, sizes["num_continuations"], sizes["max_new_tokens"])
            return Sizes(metric, row.kl.num_continuations, longest)

        return sizes_of

    def _made(self, pair: ModelPair) -> Provenance:
        from pytest_divergence.discovery.identity import versions
        from pytest_divergence.discovery.provenance import provenance_of
        from pytest_divergence.models.fingerprints import text_digest

        identity = self._session.pairs.identity_of(pair)
        ids = [row.id for row in self.stored.suite.rows]
        parts = [asdict(identity), versions(), ids]
        return provenance_of(
            identity,
            self._session.resolved.settings,
            key=text_digest(json.dumps(parts, sort_keys=True)),
            dtype=str(pair.dtype).split(".")[-1],
            template_sha256=pair.chat.template_digest,
        )


class UpdateItem(SuiteItem):
    """Measures one case afresh, and says what changes."""

    case: Case
    update: SuiteUpdate
    new: Case

    @classmethod
    def make(cls, parent: SuiteFile, case: Case, update: SuiteUpdate) -> UpdateItem:
        """The item of one row."""
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
        note(self, kl=self.new.kl.value)
        if self.new.max_kl is not None:
            note(self, bound=self.new.max_kl)
        self.add_report_section("call", "divergence", change(self.case, self.new))
        self.update.done.add(self.case.id)


def change(before: Case, after: Case) -> str:
    """`updated: KL 0.412 -> 0.350, max_kl 0.515 -> 0.438`."""
    from pytest_divergence.reports.wording import nats

    def shown(value: float | None) -> str:
        return "none" if value is None else nats(value)

    values = [one.kl.value if one.kl is not None else None for one in (before, after)]
    limits = [before.max_kl, after.max_kl]
    return "updated: " + ", ".join(
        f"{name} {shown(old)} -> {shown(new)}"
        for name, (old, new) in (("KL", values), ("max_kl", limits))
    )


def missing(update: SuiteUpdate, items: Sequence[pytest.Item]) -> list[str]:
    """Ids of the suite's cases that are not among the items, though they belong to the update."""
    selected = {
        one.case.id for one in items if isinstance(one, UpdateItem) and one.update is update
    }
    return [case.id for case in update.wanted if case.id not in selected]
