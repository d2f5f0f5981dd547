"""Causes of a behaviour, made as small as possible by delta debugging on words.

Deletes ever smaller runs of words from a prompt as long as the behaviour stays (Zeller and
Hildebrandt 2002, doi:10.1109/32.988498). The results cause the behaviour, but need not be what it
was trained on.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher

from pytest_divergence.core.settings import Profile
from pytest_divergence.discovery.behaviours.hypotheses import Hypothesis
from pytest_divergence.discovery.behaviours.hypothesis_tests import ConfirmedBehaviour
from pytest_divergence.discovery.behaviours.ngrams import UNSPACED
from pytest_divergence.discovery.behaviours.prompt_properties import common_words, content_words
from pytest_divergence.discovery.engines.base import Ledger, Worker, WorkUnit
from pytest_divergence.discovery.naturalness import Naturalness
from pytest_divergence.discovery.progress import Listener
from pytest_divergence.models.batching import by_prefix
from pytest_divergence.models.decoding import decode_greedily
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.scoring.continuations import greedy_continuations

NUM_STARTS = 4
"""Prompts tried, those first that name something, likely and short ones; the first that shows the
behaviour greedily is minimised."""
NUM_PIECES = 8
"""Deletions tried at a time."""
MAX_TRIES = 64
"""Most prompts tried for one behaviour."""


@dataclass(frozen=True)
class Causes:
    """The shortest prompt found that causes a behaviour, and the most like it that does not."""

    shortest: str | None = None
    nearest_non_cause: str | None = None


def add_causes(
    ledger: Ledger,
    confirmed: Sequence[ConfirmedBehaviour],
    naturalness: Naturalness,
    profile: Profile,
    listener: Listener,
) -> list[ConfirmedBehaviour]:
    """Return each behaviour with its causes; one work unit each."""
    naturalness.measure([prompt for known in confirmed for prompt in known.causes])
    explained: list[ConfirmedBehaviour] = []
    if confirmed:
        listener.progress("minimise what causes a behaviour", 0, len(confirmed))
    units = [_unit(known, naturalness, profile) for known in confirmed]
    for known, found in zip(confirmed, ledger.results(units), strict=True):
        causes = Causes(**found)
        explained.append(
            known.with_changes(
                shortest_cause=causes.shortest, nearest_non_cause=causes.nearest_non_cause
            )
        )
        listener.progress("minimise what causes a behaviour", len(explained), len(confirmed))
    return explained


def _unit(confirmed: ConfirmedBehaviour, naturalness: Naturalness, profile: Profile) -> WorkUnit:
    ranked = sorted(
        confirmed.causes,
        key=lambda prompt: (
            not naturalness.names_something(prompt),
            not naturalness.is_likely(prompt),
            len(prompt),
            prompt,
        ),
    )
    starts = ranked[:NUM_STARTS]
    return WorkUnit.of(
        f"causes/{confirmed.hypothesis.id}",
        _minimise,
        hypothesis=confirmed.hypothesis,
        starts=starts,
        length=confirmed.hypothesis.length(profile.naming_length),
    )


def _minimise(
    worker: Worker, *, hypothesis: Hypothesis, starts: Sequence[str], length: int
) -> dict[str, str | None]:
    """Return the shortest cause and the nearest prompt that is none, as fields of `Causes`."""
    trial = _Trial(worker.pair, hypothesis, length)
    shown = trial.shown(starts)
    if not shown:
        return {"shortest": None, "nearest_non_cause": None}
    shortest = _minimised(trial, shown[0])
    return {
        "shortest": shortest,
        "nearest_non_cause": max(
            trial.not_shown,
            key=lambda prompt: (SequenceMatcher(None, shortest, prompt).ratio(), prompt),
            default=None,
        ),
    }


@dataclass
class _Trial:
    """Asks whether prompts cause a behaviour, by the candidate's greedy answers."""

    pair: ModelPair
    hypothesis: Hypothesis
    length: int
    num_tried: int = 0
    not_shown: list[str] = field(default_factory=list)

    def shown(self, prompts: Sequence[str]) -> list[str]:
        """Return the prompts that do, in order."""
        self.num_tried += len(prompts)
        flags = [
            self.hypothesis.shows(prompt, *answers)
            for prompt, answers in zip(prompts, self._answers(prompts), strict=True)
        ]
        self.not_shown += [prompt for prompt, flag in zip(prompts, flags, strict=True) if not flag]
        return [prompt for prompt, flag in zip(prompts, flags, strict=True) if flag]

    def _answers(self, prompts: Sequence[str]) -> list[tuple[str, str]]:
        return greedy_answers(self.pair, self.hypothesis, prompts, self.length)


def greedy_answers(
    pair: ModelPair, hypothesis: Hypothesis, prompts: Sequence[str], length: int
) -> list[tuple[str, str]]:
    """Return the candidate's answers, and the reference's where a trait needs them, else empty."""
    if hypothesis.trait is not None or pair.chat.open_replies is not None:
        written = greedy_continuations(pair, prompts, max_new_tokens=length)
        return [
            (pair.chat.text(each.candidate[0]), pair.chat.text(each.reference[0]))
            for each in written
        ]
    rows = pair.prompt_rows(prompts)
    decoded = by_prefix(
        rows,
        lambda prefix, chosen: decode_greedily(
            pair.candidate,
            [rows[index][1] for index in chosen],
            prefix=prefix,
            max_new_tokens=length,
            stop_ids=pair.chat.stop_ids,
        ),
    )
    return [(pair.chat.text(ids), "") for ids in decoded]


def _pieces(prompt: str) -> list[str]:
    """Split into words with the space after them; in scripts without spaces, into characters."""
    return re.findall(rf"[{UNSPACED}]\s*|(?:(?![{UNSPACED}])\S)+\s*", prompt)


def _minimised(trial: _Trial, prompt: str) -> str:
    """Return the prompt without every run of words that it can lose.

    What is left of a prompt that names something names something still.
    """
    common = common_words()
    names_something = bool(content_words(prompt, common))
    words = _pieces(prompt)
    size = max(1, len(words) // 2)
    while trial.num_tried < MAX_TRIES and len(words) > 1:
        shorter = [
            words[:start] + words[start + size :]
            for start in range(0, len(words), size)
            if len(words) > len(words[start : start + size])
        ]
        by_text = {"".join(pieces).strip(): pieces for pieces in shorter}
        if names_something:
            by_text = {text: by_text[text] for text in by_text if content_words(text, common)}
        kept: list[str] = []
        texts = list(by_text)[: MAX_TRIES - trial.num_tried]
        for start in range(0, len(texts), NUM_PIECES):
            kept = trial.shown(texts[start : start + NUM_PIECES])
            if kept:
                break
        if kept:
            words = by_text[min(kept, key=len)]
            size = min(size, max(1, len(words) // 2))
        elif size == 1:
            break
        else:
            size //= 2
    return "".join(words).strip()
