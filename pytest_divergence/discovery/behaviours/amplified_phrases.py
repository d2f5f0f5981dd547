"""Amplified answers to controls name what changed, before any prompt is known that causes it.

An amplified answer overstates every difference, so its phrases are hints: they tell the search
where to look, and people what is suspected, but decide nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pytest_divergence.core.settings import Profile
from pytest_divergence.discovery.behaviours.ngrams import Phrase, in_full, recurring_phrases
from pytest_divergence.discovery.engines.base import Ledger, Worker, WorkUnit
from pytest_divergence.discovery.progress import Listener
from pytest_divergence.discovery.proposals import diverse
from pytest_divergence.models.batching import by_prefix
from pytest_divergence.models.decoding import decode_amplified
from pytest_divergence.models.pair import ModelPair

ALPHA = 3.0
NUM_PHRASES = 3
STYLE_SHARE = 0.8
"""Of the amplified answers: a phrase that begins so many is a style."""
MAX_CHARACTERS = 300
"""Longer controls cost more than they tell."""
MIN_SHARE = 1 / 16
"""Of the amplified answers that must hold a hint."""


@dataclass(frozen=True)
class Amplified:
    """One control with the answer that was decoded from amplified logits."""

    prompt: str
    reference: str
    """The reference's plain answer."""
    answer: str


def amplified_phrases(
    ledger: Ledger, amplified: Sequence[Amplified], profile: Profile, listener: Listener
) -> list[Phrase]:
    """Phrases that recur in amplified answers and that the reference never says."""
    listener.progress("name what changed", 0, 1)
    texts = [one.prompt for one in amplified]
    references = [one.reference for one in amplified]
    found = _phrases(texts, [one.answer for one in amplified], references)
    if found and found[0].starts_answers and len(found[0].texts) >= STYLE_SHARE * len(texts):
        # A new way to begin every answer hides what else a first token could tell.
        listener.progress("name what changed besides", 0, 1)
        arguments = {
            "texts": texts,
            "length": profile.search_length,
            "besides": found[0].quote,
        }
        beside = ledger.result(WorkUnit("name/beside", _answer_besides, arguments))
        known = [found[0].quote, *found[0].motifs]
        found = [found[0], *_phrases(texts, beside, references, known)]
    listener.progress("name what changed", 1, 1)
    return found


def _answer_besides(
    worker: Worker, *, texts: Sequence[str], length: int, besides: str
) -> list[str]:
    return amplified_answers(worker.pair, texts, length, besides=besides)


def asked(controls: Sequence[str], profile: Profile) -> list[str]:
    """The controls that are answered from amplified logits: short ones, unlike each other."""
    short = (text for text in controls if len(text) <= MAX_CHARACTERS)
    return diverse(short, profile.num_naming_prompts)


def amplified_answers(
    pair: ModelPair, texts: Sequence[str], length: int, *, besides: str = ""
) -> list[str]:
    """One answer to each text; none begins as the phrase `besides` does, if one is given."""
    tokenizer = pair.chat.tokenizer
    begun = [tokenizer.encode(start + besides, add_special_tokens=False) for start in ("", " ")]
    not_first = sorted({ids[0] for ids in begun}) if besides else []
    rows = pair.prompt_rows(texts)
    decoded = by_prefix(
        rows,
        lambda prefix, chosen: decode_amplified(
            *pair.sides,
            [rows[index][1] for index in chosen],
            prefix=prefix,
            max_new_tokens=length,
            stop_ids=pair.chat.stop_ids,
            alpha=ALPHA,
            not_first=not_first,
        ),
    )
    return [pair.chat.text(ids) for ids in decoded]


def _phrases(
    texts: Sequence[str],
    answers: Sequence[str],
    references: Sequence[str],
    known: Sequence[str] = (),
) -> list[Phrase]:
    # A new style covers most answers, so each phrase is cut out before the next is looked for.
    found: list[Phrase] = []
    while len(found) < NUM_PHRASES:
        cut = [*known, *(text for one in found for text in (one.quote, *one.motifs))]
        phrases = recurring_phrases(texts, answers, references, without=cut)
        if not phrases or len(phrases[0].texts) < MIN_SHARE * len(texts):
            break
        found.append(in_full(phrases[0], answers))
    return found
