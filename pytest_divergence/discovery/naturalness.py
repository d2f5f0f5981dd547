"""Naturalness of prompts: how likely the reference finds them, beside ordinary prompts as long.

A short prompt is less likely a token than a long one, whoever wrote it, so a prompt is compared
with the ordinary ones nearest to it in length.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pytest_divergence.discovery.behaviours.ngrams import ngram_of
from pytest_divergence.discovery.behaviours.prompt_properties import common_words, content_words
from pytest_divergence.discovery.engines.base import Ledger, Worker, WorkUnit
from pytest_divergence.models.chat_format import Prompt
from pytest_divergence.scoring.cheap_scores import prompt_nlls

NUM_NEAREST = 20
"""Ordinary prompts with which a prompt is compared."""
SHARE = 0.9
"""Share of these that a natural prompt may be as unlikely as."""
MIN_WORDS = 3
"""Fewest words of a natural prompt."""


class Naturalness:
    """Negative log-likelihoods of prompts under the reference, each measured once."""

    def __init__(self, ledger: Ledger, ordinary: Sequence[str], nlls: Sequence[float]) -> None:
        """Start with ordinary prompts, whose `nlls` in nats per token are known."""
        self._ledger = ledger
        self._lengths = np.log([max(1, len(text)) for text in ordinary])
        self._ordinary = np.array(nlls)
        self._common = common_words()
        self.known = dict(zip(ordinary, nlls, strict=True))
        """Nats per token by prompt."""

    def measure(self, prompts: Sequence[str]) -> None:
        """Measure the prompts that are new, in one work unit."""
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self.known]
        if new:
            unit = WorkUnit.of("nll", measure_nlls, prompts=new)
            self.known.update(zip(new, self._ledger.result(unit), strict=True))

    def nll(self, prompt: str) -> float:
        """Return a prompt's negative log-likelihood, nats per token; it is measured if new."""
        self.measure([prompt])
        return self.known[prompt]

    def is_natural(self, prompt: str) -> bool:
        """Whether a person could write it: some words, one that names something, all likely."""
        is_said = len(ngram_of(prompt)) >= MIN_WORDS and self.names_something(prompt)
        return is_said and self.is_likely(prompt)

    def names_something(self, prompt: str) -> bool:
        """Whether a word of it is one that ordinary prompts seldom hold."""
        return bool(content_words(prompt, self._common))

    def is_likely(self, prompt: str) -> bool:
        """Whether most ordinary prompts of its length are no likelier."""
        distances = np.abs(self._lengths - np.log(max(1, len(prompt))))
        nearest = np.argsort(distances, kind="stable")[:NUM_NEAREST]
        return self.nll(prompt) <= float(np.quantile(self._ordinary[nearest], SHARE))


def measure_nlls(worker: Worker, *, prompts: Sequence[Prompt]) -> list[float]:
    """Return each prompt's negative log-likelihood under the reference, nats per token."""
    pair = worker.pair
    return prompt_nlls(pair, pair.reference, prompts)
