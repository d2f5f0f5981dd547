"""Schedules of searches: laid out on any number of workers, and with the sizes of another profile.

A schedule says which units were begun before which results were needed. Another profile's schedule
is made from a measured one by rules that stand here: what they assume is what a layout assumes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from heapq import heappop, heappush
from itertools import zip_longest
from pathlib import Path
from statistics import mean
from typing import Any
from unittest.mock import patch

from pytest_divergence.core import settings as settings_module
from pytest_divergence.core.settings import PROFILES, Profile
from pytest_divergence.discovery.behaviours.long_answers import UNIT_SIZE as LONG_ANSWERS_IN_UNIT
from pytest_divergence.discovery.calibration import CHUNK as CONTROLS_IN_UNIT
from pytest_divergence.discovery.confirmation import CHUNK as CASES_IN_UNIT
from pytest_divergence.discovery.round_units import SCORED_IN_UNIT, SCREENED_IN_UNIT

SHARED_OUT = ("screens", "scores")
"""Work of a large round that has units of its own, in order."""
PASSES_OF_A_STEP = 3
"""Forward passes that a training step takes: a backward pass takes about two."""


@contextmanager
def with_rounds(profile: str, at_once: int) -> Iterator[None]:
    """Let so many rounds of a profile be under way at a time."""
    changed = PROFILES[profile].model_copy(update={"rounds_at_once": at_once})
    with patch.dict(settings_module.PROFILES, {profile: changed}):
        yield


@dataclass(frozen=True)
class Unit:
    """A work unit's name and cost."""

    name: str
    tokens: int
    """Forwarded tokens."""
    seconds: float

    @property
    def kind(self) -> str:
        """Kind of work: rounds of each strategy, and what a behaviour needs, apart."""
        parts = self.name.split("/")
        if parts[0] == "behaviour":
            return f"behaviour/{parts[2]}"
        if parts[0] == "search" and parts[-2] in SHARED_OUT:
            return f"{parts[-2]}/{parts[1]}"
        return "/".join(parts[:2]) if parts[0] in ("search", "controls", "contexts") else parts[0]

    def times(self, factor: float) -> Unit:
        return replace(self, tokens=round(self.tokens * factor), seconds=self.seconds * factor)


@dataclass(frozen=True)
class PlayedRound:
    """A round of a search: the unit that proposes, and those that score what it proposed."""

    own: Unit
    screens: Sequence[Unit] = ()
    scores: Sequence[Unit] = ()

    @property
    def tokens(self) -> int:
        return sum(unit.tokens for unit in (self.own, *self.screens, *self.scores))


@dataclass
class Schedule:
    """When units were begun and their results taken, in order, and what they cost."""

    events: list[tuple[str, int]] = field(default_factory=list)
    """`start` or `take`, and the unit's number."""
    units: dict[int, Unit] = field(default_factory=dict)

    def length(self, num_workers: float) -> float:
        """Return the seconds that the schedule takes on so many workers."""
        now, ends, free = 0.0, dict[int, float](), list[float]()
        for kind, unit in self.events:
            if kind == "take":
                now = max(now, ends[unit])
                continue
            begin = now if len(free) < num_workers else max(now, heappop(free))
            ends[unit] = begin + self.units[unit].seconds
            heappush(free, ends[unit])
        return now

    def add(self, units: Sequence[Unit]) -> None:
        """Add units that are under way together; results are taken in order."""
        for number in [self._start(unit) for unit in units]:
            self.events.append(("take", number))

    def add_rounds(self, rounds: Sequence[PlayedRound], at_once: int) -> None:
        """Add rounds of which so many are under way at a time, and taken over in order.

        The next one begins once the oldest is taken over, its scores too.
        """
        begun = [self._start(each.own) for each in rounds[:at_once]]
        for place, each in enumerate(rounds):
            self.events.append(("take", begun[place]))
            self.add(each.screens)
            self.add(each.scores)
            begun += [self._start(later.own) for later in rounds[place + at_once :][:1]]

    def _start(self, unit: Unit) -> int:
        number = len(self.units)
        self.units[number] = unit
        self.events.append(("start", number))
        return number

    @property
    def batches(self) -> Iterator[list[Unit]]:
        """Units that were under way together, batch by batch, each of which needed the last."""
        batch, pending = list[Unit](), 0
        for kind, number in self.events:
            if kind == "start":
                batch.append(self.units[number])
            pending += 1 if kind == "start" else -1
            if not pending:
                yield batch
                batch = []

    @property
    def totals(self) -> dict[str, tuple[int, int, float]]:
        """Number, forwarded tokens and seconds of the units of each kind."""
        found: dict[str, tuple[int, int, float]] = {}
        for unit in self.units.values():
            count, tokens, seconds = found.get(unit.kind, (0, 0, 0.0))
            found[unit.kind] = count + 1, tokens + unit.tokens, seconds + unit.seconds
        return found


@dataclass(frozen=True)
class Measured:
    """A search whose units were timed, with one round at once."""

    models: tuple[str, str]
    profile: str
    schedule: Schedule

    def write(self, path: Path) -> None:
        """Keep it, so that it need not be measured again."""
        batches = [list(map(asdict, batch)) for batch in self.schedule.batches]
        row = {"models": self.models, "profile": self.profile, "batches": batches}
        path.write_text(json.dumps(row, indent=1), "utf-8")

    @classmethod
    def read(cls, path: Path) -> Measured:
        """Read what `write` wrote."""
        row, schedule = json.loads(path.read_text("utf-8")), Schedule()
        for batch in row["batches"]:
            schedule.add([Unit(**unit) for unit in batch])
        return cls(tuple(row["models"]), row["profile"], schedule)

    def at(self, profile: str, at_once: int) -> Schedule:
        """Return the schedule with so many rounds at once and the sizes of a profile.

        Between other profiles the rules of `GROWTH` hold. Of rounds, each strategy that had one has
        as many as the profile allows, in turns, within the budget. What the measured search had
        none of is not laid out either.
        """
        old, new = PROFILES[self.profile], PROFILES[profile]
        made, rounds, is_same = Schedule(), list[PlayedRound](), profile == self.profile
        for batch in self.schedule.batches:
            work = batch[0].kind.partition("/")[0]
            if work == "search":
                rounds += map(PlayedRound, batch)
            elif work in SHARED_OUT:
                shared: dict[str, Any] = {work: batch}
                rounds[-1] = replace(rounds[-1], **shared)
            else:
                spent = sum(unit.tokens for unit in made.units.values())
                made.add_rounds(rounds if is_same else all_rounds(rounds, old, new, spent), at_once)
                rounds = []
                made.add(batch if is_same else resized(batch, old, new))
        return made


def num_scored(size: Profile, num_proposals: int) -> int:
    """Proposals of a round that get the full score."""
    return math.ceil(size.full_score_share * num_proposals)


def own_tokens(size: Profile, num_proposals: int) -> float:
    """Tokens of a proposal's scores that the round's own unit computes, where there are few.

    At the first token of all, and the full score of the promising ones.
    """
    is_narrow = num_proposals <= SCREENED_IN_UNIT
    is_few = is_narrow and num_scored(size, num_proposals) <= SCORED_IN_UNIT
    full = size.full_score_share * full_tokens(size)
    return is_narrow * screen_tokens(size) + is_few * full


def screen_tokens(size: Profile) -> float:
    """Tokens of a proposal's score at the first token."""
    return 2 * size.prompt_length


def full_tokens(size: Profile) -> float:
    """Tokens of a proposal's full score."""
    return 6 * size.search_length


def training_tokens(size: Profile) -> float:
    """Tokens of the training of a soft prompt."""
    return PASSES_OF_A_STEP * size.num_steps * size.batch_size * 2 * size.max_text_tokens


def written_tokens(size: Profile) -> float:
    """Tokens of a proposal that a model writes, and of its scores in the round's own unit."""
    return size.prompt_length + own_tokens(size, size.num_proposals)


def num_controls(size: Profile) -> int:
    return size.num_shipped_controls + size.num_written_controls


@dataclass(frozen=True)
class Growth:
    """How work of one kind grows with the sizes of a profile."""

    num_items: Callable[[Profile], int]
    tokens: Callable[[Profile], float]
    """Forwarded tokens of an item, about, that depend on the profile. What an item was measured to
    take beyond them, such as the reading of a prompt, stays."""
    chunk: int | None = None
    """Items of a unit; None: there are as many units as were measured."""

    def resized(self, batch: Sequence[Unit], old: Profile, new: Profile) -> list[Unit]:
        """Return a batch's units as another profile has them."""
        if not self.num_items(old):
            return []
        measured = sum(unit.tokens for unit in batch) / self.num_items(old)
        rest = max(0.0, measured - self.tokens(old))
        before = rest + self.tokens(old)
        grown = (rest + self.tokens(new)) / before if before else 1.0
        factor = grown * self.num_items(new) / self.num_items(old)
        if self.chunk is None:
            return [unit.times(factor) for unit in batch]
        chunks = [math.ceil(self.num_items(size) / self.chunk) for size in (old, new)]
        number = max(1, round(len(batch) * chunks[1] / chunks[0]))
        return [average(batch).times(factor * len(batch) / number)] * number


GROWTH: Mapping[str, Growth] = {
    "controls/written": Growth(
        lambda size: size.num_written_controls, lambda size: size.prompt_length
    ),
    "controls/measure": Growth(
        num_controls, lambda size: size.calibration_tokens / num_controls(size), CONTROLS_IN_UNIT
    ),
    "long-answers": Growth(
        lambda size: size.num_long_answers, lambda size: 6 * size.long_length, LONG_ANSWERS_IN_UNIT
    ),
    "behaviour/repeated": Growth(
        lambda size: size.num_behaviour_prompts,
        lambda size: size.judging_tokens(0) / size.num_behaviour_prompts,
    ),
    "behaviour/fresh": Growth(lambda size: 1, lambda size: size.condition_tokens),
    "behaviour/words": Growth(lambda size: 1, lambda size: size.condition_tokens),
    "confirm": Growth(
        lambda size: size.num_cases,
        lambda size: size.case_tokens / size.num_cases,
        CASES_IN_UNIT,
    ),
    "search/seeds": Growth(
        lambda size: size.num_seeds, lambda size: own_tokens(size, size.num_seeds)
    ),
    "search/soft_prompt": Growth(
        lambda size: 1,
        lambda size: training_tokens(size) + size.num_proposals * written_tokens(size),
    ),
    "search/": Growth(lambda size: size.num_proposals, written_tokens),
    "screens/seeds": Growth(lambda size: size.num_seeds, screen_tokens, SCREENED_IN_UNIT),
    "screens/": Growth(lambda size: size.num_proposals, screen_tokens, SCREENED_IN_UNIT),
    "scores/seeds": Growth(
        lambda size: num_scored(size, size.num_seeds), full_tokens, SCORED_IN_UNIT
    ),
    "scores/": Growth(
        lambda size: num_scored(size, size.num_proposals), full_tokens, SCORED_IN_UNIT
    ),
}
"""By the beginning of a kind, the first that fits; work of other kinds stays as it was measured."""


def resized(batch: Sequence[Unit], old: Profile, new: Profile) -> list[Unit]:
    """Return a batch of units of one kind as another profile has it."""
    start = next((each for each in GROWTH if batch[0].kind.startswith(each)), None)
    return list(batch) if start is None else GROWTH[start].resized(batch, old, new)


def average(units: Sequence[Unit]) -> Unit:
    tokens = round(mean(unit.tokens for unit in units))
    return Unit(units[0].name, tokens, mean(unit.seconds for unit in units))


def all_rounds(
    rounds: Sequence[PlayedRound], old: Profile, new: Profile, spent: int
) -> list[PlayedRound]:
    """Return as many rounds of each strategy as a profile allows, in turns, within its budget.

    The first of soft prompts is kept in any case, as in a search.
    """
    turns = []
    for kind in dict.fromkeys(each.own.kind for each in rounds if each.tokens):
        played = [each for each in rounds if each.own.kind == kind and each.tokens]
        typical = typical_round(played, old, new)
        turns.append([typical] * (1 if kind == "search/seeds" else new.num_restarts))
    left, kept, kinds = new.budget_tokens - new.reserved_tokens - spent, list[PlayedRound](), set()
    for each in (each for turn in zip_longest(*turns) for each in turn if each is not None):
        is_owed = each.own.kind == "search/soft_prompt" and each.own.kind not in kinds
        if each.tokens <= left or is_owed:
            left -= each.tokens
            kept.append(each)
            kinds.add(each.own.kind)
    return kept


def typical_round(played: Sequence[PlayedRound], old: Profile, new: Profile) -> PlayedRound:
    """Return the average of a strategy's rounds, as another profile has it."""
    (own,) = resized([average([each.own for each in played])], old, new)
    screens, scores = (
        typical_batch([getattr(each, work) for each in played], old, new) for work in SHARED_OUT
    )
    return PlayedRound(own, screens, scores)


def typical_batch(batches: Sequence[Sequence[Unit]], old: Profile, new: Profile) -> Sequence[Unit]:
    """Return the average of what rounds share out, as another profile has it."""
    units = [unit for batch in batches for unit in batch]
    if not units:
        return ()
    number = math.ceil(len(units) / len(batches))
    whole = average(units).times(len(units) / len(batches))
    return resized([whole.times(1 / number)] * number, old, new)


def draw(speeds: Mapping[str, Sequence[float]], numbers: Sequence[int], path: Path) -> None:
    """Draw the speed-up by the number of workers, and what it would be without any waiting."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, panel = pyplot.subplots(figsize=(5, 3.5))
    panel.plot(numbers, numbers, ":", color="grey", label="no waiting")
    for name, values in speeds.items():
        panel.plot(numbers, values, "o-", label=name)
    panel.set_xscale("log", base=2)
    panel.set_xticks(numbers, map(str, numbers))
    panel.set_ylim(0, 1.3 * max(max(values) for values in speeds.values()))
    panel.set_xlabel("workers")
    panel.set_ylabel("speed-up")
    panel.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
