"""Rounds of a search: a strategy proposes, its proposals are scored, and what they show is kept.

Values that strategies and selection go by; nothing is confirmed here. Does not know how a strategy
works (`pytest_divergence.discovery.strategies`).
"""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from pytest_divergence.core.errors import EngineError, ModelLoadError, StoreError
from pytest_divergence.core.report import CurvePoint, RunError, StrategySummary, TrainingSummary
from pytest_divergence.core.settings import Profile, Settings
from pytest_divergence.discovery.behaviours.hypotheses import Hypothesis
from pytest_divergence.discovery.behaviours.leads import Leads
from pytest_divergence.discovery.engines.base import Ledger, WorkUnit
from pytest_divergence.discovery.progress import Listener
from pytest_divergence.discovery.proposals import Proposal
from pytest_divergence.discovery.round_choice import CORE, CORE_SHARE, Budget, Choice, Turn
from pytest_divergence.discovery.round_units import (
    SCORED_IN_UNIT,
    SCREENED_IN_UNIT,
    even_parts,
    play_round,
    promise,
    score_proposals,
    screen_proposals,
)
from pytest_divergence.discovery.scored_proposals import ScoredProposal
from pytest_divergence.discovery.strategies.protocol import (
    Round,
    RoundTask,
    Strategy,
    StrategyWithVariants,
    TargetPhrase,
)
from pytest_divergence.models.decoding import row_seed
from pytest_divergence.scoring.cheap_scores import Screened
from pytest_divergence.scoring.residual import NUM_PROMPTS

NO_FAULT_OF_A_STRATEGY = (EngineError, ModelLoadError, StoreError)
"""Errors after which no strategy can continue."""


@dataclass
class SearchLog:
    """All that the search found, before anything is confirmed."""

    scored: list[ScoredProposal] = field(default_factory=list)
    strategies: dict[str, StrategySummary] = field(default_factory=dict)
    training: list[TrainingSummary] = field(default_factory=list)
    curve: list[CurvePoint] = field(default_factory=list)
    errors: list[RunError] = field(default_factory=list)
    known: set[str] = field(default_factory=set)
    """Ids of all proposals so far."""
    rounds: dict[str, list[Round]] = field(default_factory=dict)
    """Rounds of each strategy, in order, in which it proposed something."""
    failed: dict[str, int] = field(default_factory=dict)
    """Strategies that raised, in order, and how often each had been asked before: later rounds know
    less."""

    @property
    def best(self) -> list[ScoredProposal]:
        """Scored proposals, the largest search divergence first."""
        return sorted(self.scored, key=lambda scored: (-scored.search_kl, scored.proposal.id))


@dataclass(frozen=True)
class _PendingRound:
    """A round under way: what it was begun with, and how to wait for its result."""

    name: str
    asked: int
    """Earlier askings of the strategy: more than its rounds, if it was woken."""
    number: int
    aims: set[str]
    """Phrases to aim at that the strategy knows."""
    assumed: Round
    styled: Sequence[str]
    """Prompts that tell what a new style makes common to all answers; none without one."""
    take: Callable[[], Any]


@dataclass
class _Course:
    """The state of a search between its rounds."""

    ledger: Ledger
    result: SearchLog
    deadline: float
    """Seconds of the monotonic clock, and of what earlier sessions computed."""
    calibration_tokens: int
    asked: Counter[str] = field(default_factory=Counter)
    numbers: Counter[str] = field(default_factory=Counter)
    """Rounds of each strategy that are taken over, and had a proposal: the next one's number."""
    resting: dict[str, set[str]] = field(default_factory=dict)
    """Strategies with no more to offer, with the phrases that they knew: a new one wakes them."""
    pending: deque[_PendingRound] = field(default_factory=deque)

    @property
    def choice(self) -> Choice:
        """The rounds so far as the next choice sees them."""
        core = self.result.strategies.get(CORE)
        return Choice(
            self.result.rounds,
            [(each.name, each.assumed) for each in self.pending],
            0 if core is None else core.tokens_forwarded,
        )

    @property
    def is_over(self) -> bool:
        """Whether the deadline has passed; what earlier sessions computed has taken time too."""
        return time.monotonic() + self.ledger.spent.earlier_seconds > self.deadline

    def next_number(self, name: str) -> int:
        """Return the number of a strategy's next round."""
        begun = [each.number + 1 for each in self.pending if each.name == name]
        return max([self.numbers[name], *begun])


@dataclass(frozen=True)
class Search:
    """The rounds of a search.

    The budget goes to the strategy that has found the most for its cost, or is still untried; the
    others leave to `soft_prompt` what it is owed. `Profile.rounds_at_once` rounds are under way at
    a time and taken over in the order in which they began, so that a choice depends on the rounds
    before them and on nothing else: not on how many are computed at once, nor on which ends first.
    A strategy that fails is reported and the others continue; a later run tries it again, and once
    it no longer fails, the others' later rounds are repeated too.
    """

    settings: Settings
    profile: Profile
    seeds: Sequence[str]
    strategies: Mapping[str, Strategy]
    listener: Listener
    leads: Leads
    bound: float
    """Provisional limit above which a prompt counts as found, nats per token."""

    def run(self, ledger: Ledger, result: SearchLog) -> None:
        """Fill `result` round by round, so that an interruption keeps what is there."""
        result.strategies = {name: StrategySummary(name=name) for name in self.strategies}
        result.rounds = {name: [] for name in self.strategies}
        seconds = self.settings.budget_seconds
        begun = time.monotonic() + ledger.spent.earlier_seconds
        deadline = math.inf if seconds is None else begun + seconds
        course = _Course(ledger, result, deadline, ledger.spent.tokens_forwarded)
        while True:
            while len(course.pending) < self.profile.rounds_at_once:
                if (turn := self._next(course)) is None:
                    break
                course.pending.append(self._begun(course, turn))
            if not course.pending:
                return
            self._end(course, course.pending.popleft())

    def _next(self, course: _Course) -> Turn | None:
        """Return the next round; None where no other one begins now."""
        if course.is_over:
            return None
        # Models that are read a row at a time take most of a profile's own budget to calibrate.
        at_least = self.profile.soft_prompt_tokens if self.settings.budget is None else 0
        # A watched lead may come to be shown, and one may always turn up yet.
        reserved = self.profile.reserved_for(max(1, self.leads.num_watched))
        before = course.calibration_tokens
        limit = max(self.profile.budget_tokens - reserved, before + at_least)
        whole = max(0, limit - before)
        least = min(self.profile.soft_prompt_tokens, whole)
        left = limit - course.ledger.spent.tokens_forwarded
        aims = self._aims
        ready = [
            name
            for name in self.strategies
            if course.resting.get(name) != aims and name not in course.result.failed
        ]
        budget = Budget(left, share=max(least, round(CORE_SHARE * whole)), least=least)
        return course.choice.turn(ready, budget)

    @property
    def _aims(self) -> set[str]:
        return {target.motif for target in self.leads.targets}

    def _begun(self, course: _Course, turn: Turn) -> _PendingRound:
        """Begin a round."""
        name, result = turn.strategy, course.result
        asked, number = course.asked[name], course.next_number(name)
        course.asked[name] += 1
        if name not in course.resting:  # a woken strategy mostly has nothing to offer
            self.listener.progress(f"search: {name}", number, number + 1)
        without = "".join(f"/without/{other}/{after}" for other, after in result.failed.items())
        task, strategy = self._task(course, turn, number), self.strategies[name]
        arguments = {
            "strategy": strategy,
            "name": name,
            "task": task,
            "known": frozenset(result.known),
            "styled": (styled := self.seeds[:NUM_PROMPTS] if task.has_new_style else ()),
            "most": (SCREENED_IN_UNIT, SCORED_IN_UNIT),
        }
        unit = WorkUnit(f"search/{name}/{asked}{without}", play_round, arguments)
        variant = ""
        try:
            if isinstance(strategy, StrategyWithVariants):
                variant = strategy.next_variant(task)
            take = course.ledger.start(unit)
        except NO_FAULT_OF_A_STRATEGY:
            raise
        except Exception as error:  # a third party's strategy may raise anything
            take = partial(_raise, error)
        assumed = course.choice.assumed(turn, variant)
        return _PendingRound(name, asked, number, self._aims, assumed, styled, take)

    def _end(self, course: _Course, pending: _PendingRound) -> None:
        """Compute, wait for or read back a round, and take it over."""
        name, spent = pending.name, course.ledger.spent
        if name in course.result.failed:
            return  # later rounds are named as if it had found nothing since
        seconds, tokens = spent.seconds, spent.tokens_forwarded
        try:
            found = self._screened(course, pending, pending.take())
            scored = self._scored(course, pending, found)
        except NO_FAULT_OF_A_STRATEGY:
            raise
        except Exception as error:  # a third party's strategy may raise anything
            message = f"{type(error).__name__}: {error}"
            course.result.errors.append(RunError(where=f"strategy {name}", message=message))
            course.result.failed[name] = pending.asked
            return
        if found["num_proposals"]:
            course.numbers[name] = max(course.numbers[name], pending.number + 1)
            course.resting.pop(name, None)
        else:
            course.resting[name] = pending.aims
        self._take_over(
            found,
            scored,
            course.result,
            pending,
            course.ledger,
            spent.seconds - seconds,
            spent.tokens_forwarded - tokens,
        )

    def _screened(
        self, course: _Course, pending: _PendingRound, found: dict[str, Any]
    ) -> dict[str, Any]:
        """Return what a round found; the first scores of a large one are units of their own."""
        proposals = [Proposal(**row) for row in found["unscreened"]]
        if not proposals:
            return found
        parts, styled = even_parts(proposals, SCREENED_IN_UNIT), pending.styled
        rows = self._shared_out(course, pending, "screens", screen_proposals, parts, styled=styled)
        screened = [Screened(*row) for row in rows]
        return {**found, **promise(proposals, screened, self.profile, found["training"])}

    def _scored(
        self, course: _Course, pending: _PendingRound, found: dict[str, Any]
    ) -> list[ScoredProposal]:
        """Return the round's full scores; those of a large one are units of their own."""
        unscored = [Proposal(**row) for row in found["unscored"]]
        parts, length = even_parts(unscored, SCORED_IN_UNIT), self.profile.search_length
        rows = self._shared_out(course, pending, "scores", score_proposals, parts, length=length)
        return [
            ScoredProposal.from_row({**row, "first_token_kl": first})
            for row, first in zip((*found["scored"], *rows), found["first_token_kl"], strict=True)
        ]

    def _shared_out(
        self,
        course: _Course,
        pending: _PendingRound,
        work: str,
        function: Callable[..., Any],
        parts: Sequence[Sequence[Proposal]],
        **arguments: Any,
    ) -> list[Any]:
        """Return what units of their own make of parts of a round's proposals, a row for each."""
        kind, metric = f"search/{pending.name}/{pending.asked}/{work}", self.settings.metric
        units = [
            WorkUnit.of(kind, function, proposals=part, metric=metric, **arguments)
            for part in parts
        ]
        what = f"score {sum(map(len, parts))} proposals of {pending.name}"
        rows = []
        for number, part in enumerate(course.ledger.results(units)):
            self.listener.progress(what, number + 1, len(units))
            rows += part
        return rows

    def _task(self, course: _Course, turn: Turn, number: int) -> RoundTask:
        """Return a round as data."""
        name = turn.strategy
        begun = [each.assumed for each in course.pending if each.name == name]
        return RoundTask(
            round=number,
            seed=row_seed(self.settings.seed, name, number),
            profile=self.profile.part_of_a_round(turn.part),
            metric=self.settings.metric,
            seeds=self.seeds,
            best=[scored.proposal.text for scored in self._ranked(course.result)],
            targets=[
                replace(
                    target,
                    prompts=self._causes(course.result, target),
                    beginnings=self.leads.beginnings(target.motif),
                )
                for target in self.leads.targets
            ],
            has_new_style=self.leads.has_new_style,
            rounds=(*course.result.rounds[name], *begun),
        )

    def _ranked(self, result: SearchLog) -> list[ScoredProposal]:
        """Return the best so far, those that show a lead first."""
        return sorted(result.best, key=lambda scored: not self.leads.is_shown(scored.answered))

    def _causes(self, result: SearchLog, target: TargetPhrase) -> list[str]:
        hypothesis = Hypothesis(target.text, (target.motif,))
        shown = (scored for scored in result.best if hypothesis.is_shown_on(scored.answered))
        return [scored.proposal.text for scored in shown]

    def _take_over(
        self,
        found: dict[str, Any],
        rows: Sequence[ScoredProposal],
        result: SearchLog,
        pending: _PendingRound,
        ledger: Ledger,
        seconds: float,
        tokens: int,
    ) -> None:
        name = pending.name
        scored = [
            row
            for row in rows
            if row.proposal.id not in result.known  # another round under way may propose it too
        ]
        num_new = len({*found["ids"]} - result.known)
        result.scored += scored
        result.training += [TrainingSummary(**summary) for summary in found["training"]]
        result.known.update(found["ids"])
        ledger.spent.prompts_scored += num_new
        evidence = self.leads.evidence
        evidence.add(row.answered for row in scored if row.proposal.is_evidence)
        evidence.probed += [row.answered for row in scored if not row.proposal.is_evidence]
        self.leads.look()
        num_hits = sum(
            row.search_kl > self.bound or self.leads.is_shown(row.answered) for row in scored
        )
        if found["num_proposals"]:
            part = pending.assumed.part
            result.rounds[name].append(Round(found["variant"], num_hits, tokens, part))
        before = result.strategies[name]
        result.strategies[name] = StrategySummary(
            name=name,
            num_proposals=before.num_proposals + num_new,
            num_scored=before.num_scored + len(scored),
            num_hits=before.num_hits + num_hits,
            tokens_forwarded=before.tokens_forwarded + tokens,
            seconds=before.seconds + seconds,
        )
        result.curve.append(
            CurvePoint(
                strategy=name,
                prompts_scored=ledger.spent.prompts_scored,
                tokens_forwarded=ledger.spent.tokens_forwarded,
                best_kl=max((row.search_kl for row in result.scored), default=0.0),
                strategy_best_kl=max(
                    (row.search_kl for row in result.scored if row.proposal.strategy == name),
                    default=0.0,
                ),
                num_hits=before.num_hits + num_hits,
            )
        )


def _raise(error: Exception) -> None:
    raise error
