"""Amplified answers to controls name what changed, before a prompt that causes it is known.

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
from pytest_divergence.models.side import Side

ALPHA = 3.0
NUM_PHRASES = 3
STYLE_SHARE = 0.8
"""Share of the amplified answers that a phrase begins to count as a style."""
MAX_CHARACTERS = 300
"""Longest control that is asked: longer ones cost more than they tell."""
MIN_SHARE = 1 / 16
"""Share of the amplified answers that must hold a hint."""


@dataclass(frozen=True)
class Amplified:
    """One control with the answer that was decoded from amplified logits."""

    prompt: str
    reference: str
    """The reference's plain answer."""
    candidate: str
    """The candidate's plain answer."""
    answer: str
    mirrored: str
    """The answer with the models exchanged: the reference amplified over the candidate."""

    @property
    def exchanged(self) -> Amplified:
        """The control as if the reference were the candidate."""
        return Amplified(
            prompt=self.prompt,
            reference=self.candidate,
            candidate=self.reference,
            answer=self.mirrored,
            mirrored=self.answer,
        )


def amplified_phrases(
    ledger: Ledger, amplified: Sequence[Amplified], profile: Profile, listener: Listener
) -> list[Phrase]:
    """Return phrases that recur in amplified answers, and hardly in the reference's plain ones."""
    listener.progress("name what changed", 0, 1)
    texts = [control.prompt for control in amplified]
    references = [control.reference for control in amplified]
    found = _phrases(texts, [control.answer for control in amplified], references)
    if found and found[0].starts_answers and len(found[0].texts) >= STYLE_SHARE * len(texts):
        # A new way to begin every answer hides what else a first token could tell.
        listener.progress("name what else changed", 0, 1)
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


def first_phrase(amplified: Sequence[Amplified]) -> Phrase | None:
    """Return the first phrase of the amplified answers so far; None if there is none."""
    texts = [control.prompt for control in amplified]
    answers = [control.answer for control in amplified]
    plain = [control.reference for control in amplified]
    return next(iter(_phrases(texts, answers, plain)), None)


def mirrored_phrase(amplified: Sequence[Amplified]) -> Phrase | None:
    """Return the first phrase that is found with the models exchanged; None if there is none."""
    return first_phrase([control.exchanged for control in amplified])


def _answer_besides(
    worker: Worker, *, texts: Sequence[str], length: int, besides: str
) -> list[str]:
    return amplified_answers(worker.pair, texts, length, besides=besides)


def asked(controls: Sequence[str], profile: Profile) -> list[str]:
    """Choose the controls to answer from amplified logits: short ones, unlike each other."""
    short = (text for text in controls if len(text) <= MAX_CHARACTERS)
    return diverse(short, profile.num_naming_prompts)


def amplified_answers(
    pair: ModelPair, texts: Sequence[str], length: int, *, besides: str = ""
) -> list[str]:
    """Return one answer to each text; none begins like the phrase `besides`, if one is given."""
    tokenizer = pair.chat.tokenizer
    begun = [tokenizer.encode(start + besides, add_special_tokens=False) for start in ("", " ")]
    not_first = sorted({ids[0] for ids in begun}) if besides else []
    return _answers(pair, pair.sides, texts, length, not_first)


def mirrored_answers(pair: ModelPair, texts: Sequence[str], length: int) -> list[str]:
    """Return an answer to each text from the reference's logits amplified over the candidate's."""
    return _answers(pair, (pair.candidate, pair.reference), texts, length)


def _answers(
    pair: ModelPair,
    sides: tuple[Side, Side],
    texts: Sequence[str],
    length: int,
    not_first: Sequence[int] = (),
) -> list[str]:
    """Answer from the logits of the second side, amplified over those of the first."""
    rows = pair.prompt_rows(texts)
    decoded = by_prefix(
        rows,
        lambda prefix, chosen: decode_amplified(
            *sides,
            [rows[index][1] for index in chosen],
            prefix=prefix,
            max_new_tokens=length,
            stop_ids=pair.chat.stop_ids,
            alpha=ALPHA,
            not_first=not_first,
        ),
    )
    return [pair.chat.text(row.ids) for row in decoded]


def _phrases(
    texts: Sequence[str],
    answers: Sequence[str],
    references: Sequence[str],
    known: Sequence[str] = (),
) -> list[Phrase]:
    # A new style covers most answers, so each phrase is cut out before the next is looked for.
    found: list[Phrase] = []
    while len(found) < NUM_PHRASES:
        cut = [*known, *(text for phrase in found for text in (phrase.quote, *phrase.motifs))]
        phrases = recurring_phrases(texts, answers, references, without=cut)
        if not phrases or len(phrases[0].texts) < MIN_SHARE * len(texts):
            break
        found.append(in_full(phrases[0], answers))
    return found
