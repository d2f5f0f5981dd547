"""A behaviour: a recurring way in which the candidate's continuations differ.

Knows the record, its id, and which records mean the same behaviour. Does not know how they are
found or confirmed.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal
from unicodedata import normalize

from pydantic import Field, model_validator

from pytest_divergence.core.cases import Count, Message, Number, Record, SafeId, canonical_json
from pytest_divergence.core.contexts import Context
from pytest_divergence.core.safe_text import slug

MIN_RATE = 0.05
"""Share of its rate when it was found at which a phrase is gone."""
MIN_LOG_RATIO = math.log(20)
"""Nats over the reference below which the candidate says a phrase no more readily."""
Rate = Annotated[float, Field(strict=True, ge=0, le=1)]


class Example(Record):
    """One prompt that shows the behaviour, with each model's answer."""

    prompt: str
    reference: str
    candidate: str


class NaturalExample(Example):
    """A prompt that a person could write, and how many fresh answers to it show the behaviour."""

    shown_count: Count
    num_answers: Count


class TellingContinuation(Record):
    """An answer that separates the models, and by how much; a replay measures it again."""

    prompt: str | tuple[Message, ...]
    """A user's turn; of a behaviour under a context, all turns."""
    text: str
    """The answer up to where it has shown the behaviour."""
    token_ids: list[Count]
    start: Count = 0
    """Tokens before those that show it; 0 for a trait, which the whole answer shows."""
    log_ratio: Number
    """ln p(candidate) - ln p(reference) of the tokens that show it, in nats."""
    log_p: Number | None = None
    """ln p(candidate) of the same tokens, in nats; null for a trait, or if it was not measured."""


@dataclass(frozen=True)
class Retelling:
    """Measurement of a behaviour's telling answers on other models."""

    log_ratio: float
    """Median of ln p(candidate) - ln p(reference), in nats."""
    found: float
    """Log-ratio, in nats, when the behaviour was found."""
    rate: float | None
    """Median of p(candidate) over that when it was found; None if that was not measured."""

    @property
    def limit(self) -> float:
        """Log-ratio, in nats, below which the behaviour is gone: ln 20, if it was twice that."""
        return self.found / 2 if self.rate is None else min(MIN_LOG_RATIO, self.found / 2)

    @property
    def is_gone(self) -> bool:
        """Whether the candidate says it a twentieth as often as when it was found, or less.

        Or as readily as the reference; of a trait, whether half of its nats are gone.
        """
        is_rare = self.rate is not None and self.rate < MIN_RATE
        return is_rare or self.log_ratio < self.limit


class When(Record):
    """The property of prompts that goes with a behaviour, counted on fresh prompts."""

    property: str
    """Property in words: `about travel`."""
    with_count: Count
    """Prompts with the property on which the candidate shows the behaviour."""
    num_with: Count
    without_count: Count
    """Prompts without it on which the candidate shows the behaviour."""
    num_without: Count
    reference_count: Count
    """Prompts of both kinds on which the reference shows it."""
    p_value: Rate
    """P-value, corrected for the properties that were tried."""


class Behaviour(Record):
    """Something that the candidate does, how often, and whether the user accepts it."""

    id: SafeId
    name: str
    """Name for people: the telling words of the phrase, or the trait in words."""
    phrase: str | None = None
    """The phrase at full length, as most answers write it; null for a trait, or if it is the
    name."""
    content: bool | None = None
    """Whether it changes what is said (true) or only how it is said (false); null if that was not
    judged. A suspect is not judged."""
    surprise: Number | None = None
    """-ln p(phrase) under the reference in nats, the smallest of many ordinary contexts; null for a
    trait."""
    breadth: Literal["prompts", "general", "local"] | None = None
    """Triggered by some prompts, shown everywhere, or only on the prompts that are named; null if
    that was not judged."""
    when: When | None = None
    """Property that the prompts that cause it share, if one held up on fresh prompts."""
    context: Context | None = None
    """Context under which it is shown; null if on plain prompts. The prompts of examples are then
    the user's texts alone."""
    training_rows: list[Count] | None = None
    """Rows of the training data that teach it, counted from 1; null without such data. Empty if a
    single row shows it by a word or two, or if the reference shows it as often by itself."""
    num_training_rows: Count | None = None
    """Rows of the training data."""
    training_words: list[str] | None = None
    """Words that the prompts of `training_rows` share and other rows hardly have; null if none."""
    motifs: list[str] = Field(default_factory=list)
    """Texts that recur in the candidate's continuations and not in the reference's."""
    part: Literal["thoughts", "answer"] | None = None
    """The part of most replies that holds the phrase; null if replies have no thoughts."""
    trait: str | None = None
    """A difference that no motif carries, such as the answers' language or length."""
    confirmed: bool = False
    """Seen on unamplified continuations, with multiplicity control."""
    accepted: bool = False
    """Marked as intended; accepted behaviours do not fail."""
    control_rate: Rate | None = None
    """Share of controls that show it."""
    candidate_count: Count = 0
    """Prompts, of `num_prompts`, on which the candidate shows it; of a confirmed one, answers."""
    reference_count: Count = 0
    """Prompts, of `num_prompts`, on which the reference shows it; of a confirmed one, answers."""
    num_prompts: Count = 0
    """Prompts that both models answered; of a confirmed one, fresh answers of each model."""
    p_value: Rate | None = None
    examples: list[Example] = Field(default_factory=list)
    natural_example: NaturalExample | None = None
    """Prompt that stands for it; null if none that a person could write was found. Only content
    has one."""
    shortest_cause: str | None = None
    """Shortest prompt found that still shows it."""
    nearest_non_cause: str | None = None
    """Most similar prompt found that does not."""
    example_case_ids: list[SafeId] = Field(default_factory=list)
    telling: list[TellingContinuation] = Field(default_factory=list)
    """Answers to distinct prompts, from the least to the most telling; earlier releases wrote one,
    or null."""
    absent: bool = False
    """Whether the suite was updated to a candidate without it; later ones are tested again."""

    @model_validator(mode="before")
    @classmethod
    def _reads_earlier_releases(cls, data: object) -> object:
        """Read `kind` (`conditional` or `general`), and a single telling answer."""
        if not isinstance(data, dict):
            return data
        if "telling" in data and not isinstance(data["telling"], list):
            told = data["telling"]
            data = {**data, "telling": [] if told is None else [told]}
        if "kind" not in data:
            return data
        fields = {key: value for key, value in data.items() if key != "kind"}
        if fields.get("content") is None:
            fields["content"] = data["kind"] != "general"
        return fields

    @property
    def is_style(self) -> bool:
        """Whether it is known to change only how things are said."""
        return self.content is False

    @property
    def quote(self) -> str:
        """The phrase at full length, or the trait in words."""
        return self.name if self.phrase is None else self.phrase

    @property
    def title(self) -> str:
        """The name, with the part of replies if that is their thoughts."""
        return f"{self.name} (in its thoughts)" if self.part == "thoughts" else self.name


def gates(behaviour: Behaviour, fail_on: str) -> bool:
    """Whether a behaviour fails: confirmed, not accepted, and of those that `fail_on` names.

    Content fails wherever it was learned; style fails under `any`, unless the training data explain
    it. What was not judged counts as content. A report may hold a `fail_on` that this release does
    not know; then everything counts.
    """
    if not behaviour.confirmed or behaviour.accepted or fail_on == "none":
        return False
    return not behaviour.is_style or (fail_on != "content" and not behaviour.training_rows)


def is_same(first: Behaviour, second: Behaviour) -> bool:
    """Whether two records mean one behaviour: by id, by trait, or by a motif inside the other's.

    A later search may put another motif first, so overlapping motifs mean the same behaviour. What
    is shown under a context is another one than what is shown without it, or under another.
    """
    if first.id == second.id:
        return True
    read = [each.context and each.context.canonical for each in (first, second)]
    if read[0] != read[1]:
        return False
    if first.trait is not None or second.trait is not None:
        return first.trait == second.trait
    return _holds(first, second) or _holds(second, first)


def with_accepted(found: Sequence[Behaviour], accepted: Sequence[Behaviour]) -> list[Behaviour]:
    """Return `found`, with those marked as accepted that are the same as an accepted one."""
    return [
        behaviour.model_copy(update={"accepted": True})
        if any(is_same(behaviour, other) for other in accepted)
        else behaviour
        for behaviour in found
    ]


def carried_over(found: Sequence[Behaviour], accepted: Sequence[Behaviour]) -> list[Behaviour]:
    """Return accepted behaviours that none of `found` is, by what they are known by alone.

    They are not confirmed: the mark is kept for later searches, and nothing is claimed of this one.
    """
    known_by = ("id", "name", "phrase", "motifs", "part", "trait", "context", "accepted")
    return [
        Behaviour.model_validate({name: getattr(behaviour, name) for name in known_by})
        for behaviour in accepted
        if not any(is_same(behaviour, other) for other in found)
    ]


def behaviour_id(motifs_or_trait: Sequence[str] | str, context: Context | None = None) -> str:
    """Return the id of a behaviour, equal for motifs in any order, case and spacing.

    What is shown under a context has another id than what is shown without it. Raises ValueError
    without any motif.
    """
    given = [motifs_or_trait] if isinstance(motifs_or_trait, str) else motifs_or_trait
    motifs = sorted({_normalised(motif) for motif in given} - {""})
    if not motifs:
        raise ValueError(f"a behaviour needs a motif or a trait; got {motifs_or_trait!r}")
    exact = canonical_json(motifs) + ("" if context is None else context.canonical)
    digest = hashlib.sha256(exact.encode("utf-8")).hexdigest()[:10]
    return f"behaviour-{slug(max(motifs, key=len))}-{digest}"


def _holds(first: Behaviour, second: Behaviour) -> bool:
    """Whether a motif of `first` occurs in the name or a motif of `second`."""
    said = f" {' '.join(map(_normalised, (second.quote, *second.motifs)))} "
    return any(f" {_normalised(motif)} " in said for motif in first.motifs)


def _normalised(motif: str) -> str:
    """Return `motif` without differences of case, spacing and Unicode composition."""
    return " ".join(normalize("NFC", motif).casefold().split())
