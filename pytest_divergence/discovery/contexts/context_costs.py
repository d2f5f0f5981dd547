"""Cost of contexts: forwarded tokens, about, before any model is loaded.

Estimates from sizes and the lengths of texts. Does not know a budget.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pytest_divergence.core.contexts import Context
from pytest_divergence.core.settings import Profile
from pytest_divergence.discovery.contexts.context_effects import LENGTH, MAX_KEPT, NUM_PROMPTS
from pytest_divergence.discovery.contexts.context_leads import NUM_ASKED
from pytest_divergence.discovery.contexts.context_tests import NUM_CASES, NUM_TESTED

CHARACTERS = 4
"""Of a text, for each of its tokens."""
TURN = 8
"""Tokens that a chat template adds to a turn."""


class ContextCosts(NamedTuple):
    """Forwarded tokens, about."""

    finding: int
    """Of measuring all contexts, and of answers under those that are kept."""
    testing: int
    """Of the tests of leads and of cases, at most."""


def context_costs(contexts: Sequence[Context], profile: Profile) -> ContextCosts:
    """Estimate what looking for behaviours under these contexts costs; nothing without any."""
    if not contexts:
        return ContextCosts(0, 0)
    plain = profile.prompt_length + 2 * TURN
    read = [plain + tokens_of(context) for context in contexts]
    kept, longest, thought = min(MAX_KEPT, len(contexts)), max(read), profile.thought_length

    def scored(read: int, length: int) -> int:
        """Of one prompt, that both models read, answer, and score the answers of."""
        return 2 * (read + 3 * (thought + length))

    measured = sum(scored(each, LENGTH) for each in (*read, plain))
    answered = kept * NUM_ASKED * scored(longest, profile.search_length)
    sampled = 2 * (longest + plain + 2 * (thought + profile.naming_length))
    case = profile.case_tokens // profile.num_cases + 4 * longest
    return ContextCosts(
        NUM_PROMPTS * measured + answered, kept * (NUM_TESTED * sampled + NUM_CASES * case)
    )


def tokens_of(context: Context) -> int:
    """Estimate the tokens that models read of a context."""
    texts = [turn.content for turn in context.messages]
    texts += [] if context.before is None else [context.before]
    return sum(TURN + len(text) // CHARACTERS for text in texts)
