"""Explanations of confirmed behaviours: all that a report tells of them besides the test.

Each step has a file of its own; this one knows their order.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from pytest_divergence.core.settings import Profile
from pytest_divergence.discovery.behaviours.answers import AnsweredPrompts
from pytest_divergence.discovery.behaviours.causes import add_causes
from pytest_divergence.discovery.behaviours.conditions import find_conditions
from pytest_divergence.discovery.behaviours.content import judge_content
from pytest_divergence.discovery.behaviours.hypothesis_tests import ConfirmedBehaviour
from pytest_divergence.discovery.behaviours.natural_prompts import with_natural_examples
from pytest_divergence.discovery.behaviours.surprise import Surprise
from pytest_divergence.discovery.behaviours.telling_answers import with_telling_answers
from pytest_divergence.discovery.engines.base import Ledger
from pytest_divergence.discovery.naturalness import Naturalness
from pytest_divergence.discovery.progress import Listener


def explained(
    ledger: Ledger,
    confirmed: Sequence[ConfirmedBehaviour],
    evidence: AnsweredPrompts,
    surprise: Surprise,
    naturalness: Naturalness,
    profile: Profile,
    listener: Listener,
    *,
    seeds: Sequence[str],
    people: Collection[str],
    seed: int,
) -> list[ConfirmedBehaviour]:
    """Return the behaviours with their causes, conditions, content, and examples of all kinds.

    `seeds` are prompts that the search has seen besides the evidence; `people` wrote some prompts.
    """
    known = add_causes(ledger, confirmed, naturalness, profile, listener)
    conditions = find_conditions(ledger, known, evidence, profile, listener, seeds=seeds, seed=seed)
    known = judge_content(ledger, known, conditions, surprise, profile, seed=seed)
    known = with_natural_examples(
        ledger, known, conditions, evidence, naturalness, people, profile, listener, seed=seed
    )
    return with_telling_answers(ledger, known, evidence)
