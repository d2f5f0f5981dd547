"""Ranks of a user's own prompts by the largest leap at the start of their answers.

Places each among ordinary prompts, and says how many of those would lie above it; decides nothing.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Sequence
from functools import cache

import numpy as np
from scipy import stats

from pytest_divergence.core.cases import case_id
from pytest_divergence.core.errors import SettingsError
from pytest_divergence.core.ranked_prompts import PromptRanking, RankedPrompt
from pytest_divergence.discovery.progress import Listener
from pytest_divergence.discovery.prompt_files import SHIPPED_CONTROLS, shipped_prompts
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.scoring.leaps import NUM_POSITIONS, Leap, largest_leaps

NUM_CONTROLS = 64
"""Shipped ordinary prompts that each prompt is compared with."""
MAX_TOKENS = 4096
"""Longer prompts are left out: a few of them would take longer than all the others."""
CHUNK = 64
"""Prompts between two signs of progress."""
CONFIDENCE = 0.95
"""Probability with which no more ordinary prompts than the limit stand above a prompt."""


def rank_prompts(pair: ModelPair, given: Sequence[str], listener: Listener) -> PromptRanking:
    """Read each prompt once with both models, and return all of them, the most affected first.

    Raises `SettingsError` if every prompt is too long, and `NonFiniteLogitsError`.
    """
    limit = min(pair.chat.tokenizer.model_max_length, MAX_TOKENS) - NUM_POSITIONS
    controls = shipped_prompts(SHIPPED_CONTROLS, NUM_CONTROLS)
    texts = list(dict.fromkeys(given))
    leaps = _measured(pair, [*controls, *texts], limit, listener)
    ordinary = sorted(leap.size for leap in leaps[: len(controls)] if leap is not None)
    found = [
        (text, leap)
        for text, leap in zip(texts, leaps[len(controls) :], strict=True)
        if leap is not None
    ]
    if not found:
        raise SettingsError(
            f"every prompt is longer than {limit:,} tokens, so none is ranked; shorten them"
        )
    found.sort(key=lambda each: each[1].size, reverse=True)
    return PromptRanking(
        reference=pair.reference_identity.spec,
        candidate=pair.candidate_identity.spec,
        prompts=[
            _ranked(pair, number, text, leap, ordinary, len(found))
            for number, (text, leap) in enumerate(found, start=1)
        ],
        num_controls=len(ordinary),
        num_repeated=len(given) - len(texts),
        num_too_long=len(texts) - len(found),
        max_tokens=limit,
    )


@cache
def ordinary_above(num_prompts: int, num_above: int, num_controls: int) -> tuple[float, int]:
    """Return how many of `num_prompts` ordinary prompts stand there: on average, and at 95 %.

    Of n controls, k stand at or above a prompt. An ordinary prompt exceeds the next control with a
    probability that varies with the controls as Beta(k + 1, n - k), whatever the distribution of
    leaps (order statistics of a uniform sample). All prompts share the controls, so their count is
    beta-binomial: its mean is N (k + 1) / (n + 1), and its quantile at 95 % is the limit. Both are
    upper bounds, as the prompt itself lies above that control.
    """
    if num_above == num_controls:
        return num_prompts, num_prompts
    counts = np.arange(num_prompts + 1)
    count = stats.betabinom(num_prompts, num_above + 1, num_controls - num_above)
    limit = int(np.searchsorted(np.cumsum(count.pmf(counts)), CONFIDENCE))
    return num_prompts * (num_above + 1) / (num_controls + 1), limit


def _measured(
    pair: ModelPair, texts: Sequence[str], limit: int, listener: Listener
) -> list[Leap | None]:
    """Return the largest leap on each prompt, in order; None where it is too long."""
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    leaps: list[Leap | None] = [None] * len(texts)
    total, read, started = sum(map(len, texts)), 0, time.monotonic()
    for start in range(0, len(order), CHUNK):
        listener.progress("rank", start, len(order))
        chunk = order[start : start + CHUNK]
        rows = pair.prompt_rows([texts[index] for index in chunk])
        fitting = [
            (index, row)
            for index, row in zip(chunk, rows, strict=True)
            if len(row[0]) + len(row[1]) <= limit
        ]
        found = largest_leaps(pair, [row for _, row in fitting])
        for (index, _), leap in zip(fitting, found, strict=True):
            leaps[index] = leap
        read += sum(len(texts[index]) for index in chunk)
        listener.expect((time.monotonic() - started) * (total - read) / read)
    return leaps


def _ranked(
    pair: ModelPair,
    rank: int,
    text: str,
    leap: Leap,
    ordinary: Sequence[tuple[float, float]],
    num_prompts: int,
) -> RankedPrompt:
    above = len(ordinary) - bisect_left(ordinary, leap.size)
    expected, limit = ordinary_above(num_prompts, above, len(ordinary))
    return RankedPrompt(
        rank=rank,
        id=case_id(text),
        input=text,
        leap=leap.nats,
        first_token_js=leap.first_token_js,
        opening=pair.chat.text(leap.opening),
        controls_above=above,
        num_controls=len(ordinary),
        expected_above=expected,
        limit_above=limit,
    )
