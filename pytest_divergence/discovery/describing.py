"""What is said of a behaviour: how often it is shown, of which kind it is, and what shows it best.

Counts in answers that are there already; whether a behaviour is confirmed is decided elsewhere
(`pytest_divergence.discovery.testing`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from pytest_divergence.core.behaviours import Behaviour, Example, TellingContinuation
from pytest_divergence.discovery.behaviours import (
    GENERAL_RATE,
    Suspect,
    control_rate,
    log_ratio_of,
)
from pytest_divergence.discovery.evidence import Answered, Evidence
from pytest_divergence.discovery.phrases import quote_in
from pytest_divergence.scoring.motifs import has_motif

NUM_EXAMPLES = 3


@dataclass(frozen=True)
class ConfirmedBehaviour:
    """A behaviour that held on answers that came after it was suspected."""

    suspect: Suspect
    behaviour: Behaviour
    causes: tuple[str, ...]
    """Prompts that showed it, the clearest first."""


def shown_by(suspect: Suspect, answered: Sequence[Answered]) -> list[Answered]:
    """Answers that show it and no echo, while the reference's does not; clearest first."""
    return sorted(
        (one for one in answered if suspect.is_shown_on(one)),
        key=lambda one: (-log_ratio_of(suspect, one.candidate), one.prompt),
    )


def as_suspected(suspect: Suspect, evidence: Evidence) -> Behaviour:
    """What all answers so far say of a suspect."""
    answered = evidence.answered
    return _described(suspect, evidence, answered, shown_by(suspect, answered))


def as_confirmed(
    suspect: Suspect,
    evidence: Evidence,
    tested: Sequence[Answered],
    shown: Sequence[Answered],
    p_value: float,
) -> ConfirmedBehaviour:
    """What the `tested` answers say of it, named in the words of those that have `shown` it."""
    texts = [one.candidate.text for one in shown]
    said = [one for one in suspect.motifs if any(has_motif([one], text) for text in texts)]
    named = replace(suspect, name=quote_in(said[0], texts) if said else suspect.name)
    behaviour = _described(named, evidence, tested, shown).model_copy(
        update={"confirmed": True, "p_value": p_value, "telling": _telling(suspect, shown)}
    )
    return ConfirmedBehaviour(named, behaviour, tuple(one.prompt for one in shown))


def _described(
    suspect: Suspect, evidence: Evidence, answered: Sequence[Answered], shown: Sequence[Answered]
) -> Behaviour:
    rate = control_rate(suspect, evidence)
    return Behaviour(
        id=suspect.id,
        name=suspect.name,
        kind=_kind(suspect, rate, len(shown) / len(answered) if answered else 0.0),
        motifs=list(suspect.motifs),
        trait=suspect.trait,
        control_rate=rate,
        candidate_count=len(shown),
        reference_count=sum(suspect.is_shown_by_reference(one) for one in answered),
        num_prompts=len(answered),
        examples=[
            Example(prompt=one.prompt, reference=one.reference, candidate=one.candidate.text)
            for one in shown[:NUM_EXAMPLES]
        ],
    )


def _kind(
    suspect: Suspect, control_rate: float, found_rate: float
) -> Literal["general", "conditional"]:
    """A trait that ordinary prompts show nearly as often as found ones hangs on no condition."""
    is_everywhere = suspect.trait is not None and 2 * control_rate > found_rate
    return "general" if control_rate >= GENERAL_RATE or is_everywhere else "conditional"


def _telling(suspect: Suspect, shown: Sequence[Answered]) -> TellingContinuation:
    """The prompt of median log-ratio, with its answer up to where it has shown the behaviour."""
    chosen = sorted(shown, key=lambda one: (log_ratio_of(suspect, one.candidate), one.prompt))[
        (len(shown) - 1) // 2
    ]
    answer = chosen.candidate
    _, end = suspect.place(answer)
    upto = answer.tokens_of(0, end).stop
    return TellingContinuation(
        prompt=chosen.prompt,
        text=answer.text[:end],
        token_ids=list(answer.token_ids[:upto]),
        log_ratio=sum(answer.log_ratios[:upto]),
    )
