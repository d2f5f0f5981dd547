"""A merged model between its two parents: which of them it follows on each prompt.

Takes two runs of one merge, each with another parent as the reference. Knows plain values; does not
know how they are shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pytest_divergence.core.behaviours import is_same
from pytest_divergence.core.cases import Number, Record
from pytest_divergence.core.comparison import Side
from pytest_divergence.core.errors import SettingsError
from pytest_divergence.core.safe_text import safe_line

Follows = Literal["neither", "first", "second", "both"]
ORDER: tuple[Follows, ...] = ("neither", "first", "second", "both")


class PromptParents(Record):
    """A prompt that was measured against both parents, in the metric's unit."""

    id: str
    prompt: str
    follows: Follows
    """Parent from which the merge diverges by no more than the bound."""
    first_kl: Number
    second_kl: Number
    first_bound: Number
    second_bound: Number


class BehaviourParents(Record):
    """A behaviour that the merge shows in both runs, so neither parent does."""

    id: str
    name: str


class Parents(Record):
    """All that two runs tell of a merge and its parents."""

    merge: str
    first: str
    second: str
    prompts: list[PromptParents]
    """Prompts that both runs have measured: like neither parent first, then by the parent."""
    behaviours: list[BehaviourParents]
    num_alone: int
    """Prompts that were not measured in both runs, or have no bound there."""

    @property
    def is_explained(self) -> bool:
        """Whether the merge does nothing that neither parent does."""
        return not self.behaviours and all(row.follows != "neither" for row in self.prompts)


def between_parents(first: Side, second: Side) -> Parents:
    """Return which parent a merge follows; each side is a run with one parent as the reference.

    A run's bound is that of the search that made its suite; without one, a row's own. The limit of
    a promoted row is no bound: it allows what was found. Raises `SettingsError` for runs of two
    candidates or of one parent, and without a prompt that can be judged.
    """
    _check(first, second)
    judged = (_judged(id_, first, second) for id_ in first.cases.keys() & second.cases.keys())
    prompts = [row for row in judged if row is not None]
    if not prompts:
        raise SettingsError(
            "no prompt was measured in both runs and has a bound, so nothing tells the parents "
            "apart; replay one suite with each parent as the reference, and compare the reports"
        )
    return Parents(
        merge=first.candidate,
        first=first.reference,
        second=second.reference,
        prompts=sorted(prompts, key=_rank),
        behaviours=_of_neither(first, second),
        num_alone=len(first.cases.keys() | second.cases.keys()) - len(prompts),
    )


def _judged(id_: str, first: Side, second: Side) -> PromptParents | None:
    """Return a prompt of both runs; None where a value or a bound is missing."""
    values = []
    for side in (first, second):
        state = side.cases[id_][1]
        bound = side.bound.value if side.bound is not None else state.max_kl
        if state.kl is None or bound is None:
            return None
        values.append((state.kl, bound))
    (first_kl, first_bound), (second_kl, second_bound) = values
    return PromptParents(
        id=id_,
        prompt=first.cases[id_][0],
        follows=FOLLOWS[first_kl <= first_bound, second_kl <= second_bound],
        first_kl=first_kl,
        second_kl=second_kl,
        first_bound=first_bound,
        second_bound=second_bound,
    )


FOLLOWS: dict[tuple[bool, bool], Follows] = {
    (False, False): "neither",
    (True, False): "first",
    (False, True): "second",
    (True, True): "both",
}
"""Parents by whether the merge is within the bound of each."""


def _check(first: Side, second: Side) -> None:
    """Raise `SettingsError` for runs that are not of one merge and two parents."""
    candidates, references = (
        [safe_line(name) for name in names]
        for names in (
            (first.candidate, second.candidate),
            (first.reference, second.reference),
        )
    )
    if candidates[0] != candidates[1]:
        raise SettingsError(
            f"the runs are about two candidates, {candidates[0]} and {candidates[1]}; give two "
            "runs of one merge, each with another parent as the reference"
        )
    if references[0] == references[1]:
        raise SettingsError(
            f"both runs have the reference {references[0]}; give one run for each parent"
        )
    if first.metric != second.metric:
        raise SettingsError(
            f"the runs measure {first.metric} and {second.metric}, which do not compare; give two "
            "runs with one metric"
        )


def _of_neither(first: Side, second: Side) -> list[BehaviourParents]:
    """Return the confirmed behaviours that differ from both parents."""
    there = [behaviour for behaviour in second.behaviours.values() if behaviour.confirmed]
    return [
        BehaviourParents(id=behaviour.id, name=behaviour.name)
        for behaviour in first.behaviours.values()
        if behaviour.confirmed and any(is_same(behaviour, other) for other in there)
    ]


def _rank(row: PromptParents) -> tuple[int, float, str]:
    return ORDER.index(row.follows), -min(row.first_kl, row.second_kl), row.id


def counts(prompts: Sequence[PromptParents]) -> dict[Follows, int]:
    """Return how many prompts follow each parent, both or neither."""
    return {follows: sum(row.follows == follows for row in prompts) for follows in ORDER}
