"""Rows of the training data that teach a behaviour, and the words that their prompts share.

Knows what the data must hold to explain a behaviour. Does not know how a file is read, nor what
follows from an explanation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_divergence.core.behaviours import Behaviour
from pytest_divergence.discovery.behaviours.answers import AnsweredPrompt
from pytest_divergence.discovery.behaviours.ngrams import FULL_SIZE, ngram_of, spaced_words
from pytest_divergence.discovery.behaviours.traits import TRAITS, shows_trait
from pytest_divergence.discovery.behaviours.word_contrast import telling_words
from pytest_divergence.discovery.training_data import TrainingData

MIN_ROWS = 2
"""Rows that teach a behaviour, at least, unless the only one says several words of its phrase."""
TRAIT_LENGTH = 200
"""Characters of a response on which a trait is judged; a search sees no more of an answer."""


@dataclass(frozen=True)
class Reply:
    """A response to a prompt, and the words of both."""

    prompt: str
    response: str
    prompt_words: str
    response_words: str

    @classmethod
    def of(cls, prompt: str, response: str) -> Reply:
        """Return the reply with its words."""
        return cls(prompt, response, spaced_words(prompt), spaced_words(response))

    def says(self, phrases: Sequence[str]) -> bool:
        """Whether the response has one of the phrases, as words in blanks, and the prompt none."""
        is_said = any(phrase in self.response_words for phrase in phrases)
        return is_said and not any(phrase in self.prompt_words for phrase in phrases)


class TrainingRows:
    """Training data in which behaviours are looked up."""

    def __init__(self, data: TrainingData, controls: Sequence[AnsweredPrompt]) -> None:
        """Read the words of all rows, and of the reference's answers to ordinary prompts."""
        self._rows = [
            [Reply.of(exchange.prompt, exchange.response) for exchange in row.exchanges]
            for row in data.rows
        ]
        self._ordinary = [Reply.of(control.prompt, control.reference) for control in controls]

    def explain(self, behaviour: Behaviour) -> Behaviour:
        """Return the behaviour with the rows that teach it, and what their prompts share.

        A row shows a phrase if a response says it and its prompt does not, and a trait if prompt
        and response alone tell that; a trait for which they don't is left as it is. Rows that show
        a behaviour teach it if there are two, or one with a wording of at least three words, and
        if their share of all rows is larger than the share of ordinary prompts on which the
        reference shows it by itself.
        """
        if (shows := _test_of(behaviour)) is None:
            return behaviour
        showing, others, numbers = list[Reply](), list[Reply](), list[int]()
        for number, row in enumerate(self._rows, start=1):
            shown = [reply for reply in row if shows(reply)]
            showing += shown
            others += [reply for reply in row if reply not in shown]
            if shown:
                numbers.append(number)
        found: dict[str, Any] = {"training_rows": [], "num_training_rows": len(self._rows)}
        share = sum(map(shows, self._ordinary)) / max(1, len(self._ordinary))
        is_more = len(numbers) > share * len(self._rows)
        if is_more and (len(numbers) >= MIN_ROWS or _say_several_words(showing, behaviour.motifs)):
            prompts, other_prompts = ([each.prompt for each in some] for some in (showing, others))
            found["training_rows"] = numbers
            found["training_words"] = telling_words(prompts, other_prompts) or None
        return behaviour.model_copy(update=found)


def _say_several_words(showing: Sequence[Reply], motifs: Sequence[str]) -> bool:
    """Whether one of the replies says a wording of at least three words."""
    phrases = _spaced([motif for motif in motifs if len(ngram_of(motif)) >= FULL_SIZE])
    return any(reply.says(phrases) for reply in showing)


def _test_of(behaviour: Behaviour) -> Callable[[Reply], bool] | None:
    """Return the test of whether a reply shows a behaviour; None if a reply alone cannot tell."""
    key = behaviour.trait
    if key is None:
        phrases = _spaced(behaviour.motifs)
        return lambda reply: reply.says(phrases)
    if key not in TRAITS or TRAITS[key].is_relative:
        return None
    return lambda reply: shows_trait(key, reply.prompt, reply.response[:TRAIT_LENGTH], "")


def _spaced(motifs: Sequence[str]) -> list[str]:
    return [words for words in map(spaced_words, motifs) if words.strip()]
