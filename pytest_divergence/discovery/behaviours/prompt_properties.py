"""Properties of prompts, told from their text alone, and those that part two groups of prompts.

Knows words, languages, forms and lengths. Does not know what the groups have done, nor how a
property is tried out (`pytest_divergence.discovery.behaviours.conditions`).
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import pairwise
from typing import Protocol

import numpy as np
from scipy.stats import hypergeom

from pytest_divergence.discovery.behaviours.ngrams import UNSPACED, Gram, ngram_of
from pytest_divergence.discovery.behaviours.prompt_forms import FORMS, SPECIAL_CASES
from pytest_divergence.discovery.behaviours.traits import FUNCTION_WORDS, language_of
from pytest_divergence.discovery.prompt_files import every_shipped_prompt

MAX_PROPERTIES = 3
"""Hypotheses about the prompts of one behaviour."""
MIN_PROMPTS = 3
"""Fewest prompts of the first group with a property."""
LEVEL = 0.5
"""P-value, corrected for the properties of its kind, above which a property is not worth a trial;
the trial decides, so a search that met few prompts of a kind may suggest that kind too."""
CLEAR = 0.001
"""P-value, corrected in the same way, at which a property parts the groups clearly."""
MAX_WORDS = 4
"""Words of one topic."""
MIN_GAIN = math.log(10)
"""Nats by which the log of the p-value must fall, for one more word to belong to a topic."""
RUNS = range(1, 5)
"""Words of the runs that are looked for."""
ORDINARY_SHARE = 0.02
"""Share of ordinary prompts at which a word of them tells no topic."""
ALIKE = 0.8
"""Share of prompts, of all with either of two properties, at which these are one."""
BEFORE_NOUNS = frozenset({"a", "an", "for", "in", "my", "of", "our", "the", "your"})
BEFORE_VERBS = frozenset({"can", "i", "not", "should", "to", "we", "will", "you"})


language_in = lru_cache(maxsize=4096)(language_of)
"""The language of a text, remembered: each prompt is asked often."""


class PromptProperty(Protocol):
    """A property of prompts."""

    @property
    def text(self) -> str:
        """Words for people that follow `prompts`: `about travel`, `in German`."""

    def holds(self, prompt: str) -> bool:
        """Whether a prompt has it."""


@dataclass(frozen=True)
class Words:
    """Prompts that hold one of some runs of words, singular or plural."""

    runs: tuple[str, ...]
    is_topic: bool = False
    """Whether these are names of things, rather than a way of speaking."""

    @property
    def text(self) -> str:
        """Return `about travel or flights`, `that hold the words 'thank you'`."""
        if self.is_topic:
            return f"about {_listed(self.runs)}"
        is_short = len(self.runs) == 1 and len(ngram_of(self.runs[0])) == 1
        return f"that hold the word{'' if is_short else 's'} {_listed(map(_quoted, self.runs))}"

    def holds(self, prompt: str) -> bool:
        """Whether a run stands in it as whole words."""
        words = _stems(prompt)
        return any(_stands_in(_stems(run), words) for run in self.runs)


@dataclass(frozen=True)
class Opening:
    """Prompts that begin with a run of words."""

    run: str

    @property
    def text(self) -> str:
        """Return `that begin with 'tell me'`."""
        return f"that begin with {_quoted(self.run)}"

    def holds(self, prompt: str) -> bool:
        """Whether its first words are these."""
        run = ngram_of(self.run)
        return ngram_of(prompt)[: len(run)] == run


@dataclass(frozen=True)
class Language:
    """Prompts in a language or script."""

    name: str

    @property
    def text(self) -> str:
        """Return `in German`, `in Cyrillic script`."""
        return f"in {self.name}" if self.name in FUNCTION_WORDS else f"in {self.name} script"

    def holds(self, prompt: str) -> bool:
        """Whether it is long enough to tell, and in this language."""
        return language_in(prompt) == self.name


@dataclass(frozen=True)
class Form:
    """Prompts of a form, one of `FORMS`."""

    text: str

    def holds(self, prompt: str) -> bool:
        """Whether it has this form."""
        return FORMS[self.text](prompt)


@dataclass(frozen=True)
class Length:
    """Prompts of at most, or at least, a number of words."""

    num_words: int
    is_most: bool

    @property
    def text(self) -> str:
        """Return `of at most 5 words`."""
        words = "word" if self.num_words == 1 else "words"
        return f"of at {'most' if self.is_most else 'least'} {self.num_words} {words}"

    def holds(self, prompt: str) -> bool:
        """Whether it is no longer, or no shorter."""
        length = len(ngram_of(prompt))
        return length <= self.num_words if self.is_most else length >= self.num_words


@dataclass(frozen=True)
class Contrast:
    """Prompts that show something, and prompts of the same origin that do not."""

    showing: Sequence[str]
    others: Sequence[str]


def dividing_properties(
    contrasts: Sequence[Contrast], ordinary: Sequence[str]
) -> list[PromptProperty]:
    """Return at most 3 properties that part the groups, the one that does so best first.

    Prompts are compared within a contrast alone, so what sets origins apart is none. A property
    ranks by its p-value, times the number of properties of its kind that are looked at. A word that
    `ordinary` prompts hold often tells no topic. Before a form comes a special case of it, which a
    search may have met too rarely for a p-value. A length comes last unless it parts them clearly:
    much else makes prompts short.
    """
    groups = _Groups(contrasts)
    ranked = _ranked(groups, ordinary)
    chosen: list[PromptProperty] = []
    while ranked and len(chosen) < MAX_PROPERTIES:
        best = ranked[0]
        alike = [pair for pair in ranked if groups.are_alike(best[1], pair[1])]
        # Of those that part as well, the one that asks for most is surest to hold the whole cause.
        close = [found for log_p, found in alike if log_p <= best[0] + MIN_GAIN]
        chosen.append(max(close, key=_num_words))
        ranked = [pair for pair in ranked if pair not in alike]
    return [found for each in chosen for found in groups.with_special_case(each)][:MAX_PROPERTIES]


def parts_clearly(contrasts: Sequence[Contrast], ordinary: Sequence[str]) -> bool:
    """Whether some property parts the groups so well that no more prompts are needed to name it."""
    ranked = _ranked(_Groups(contrasts), ordinary)
    return bool(ranked) and ranked[0][0] <= math.log(CLEAR)


def ordinary_words(prompts: Sequence[str]) -> set[str]:
    """Return words that ordinary prompts hold often, and that tell no topic, as singulars."""
    counts = _document_counts(prompts)
    return {stem for stem, count in counts.items() if count >= ORDINARY_SHARE * len(prompts)}


@cache
def common_words() -> set[str]:
    """Return the ordinary words of all shipped prompts."""
    return ordinary_words(every_shipped_prompt())


def words_by_rise(
    shown: Sequence[Sequence[str]], others: Sequence[Sequence[str]], ordinary: Sequence[str]
) -> list[str]:
    """Return words that a larger share of texts hold than of others, as most of them write them.

    Several kinds of texts may be compared with others of their kind; the rises of the shares are
    added up, and the largest comes first. Words that `ordinary` prompts hold often are left out.
    """
    common, rises = ordinary_words(ordinary), defaultdict[str, float](float)
    for texts, rest in zip(shown, others, strict=True):
        ours, theirs = _document_counts(texts), _document_counts(rest)
        for stem, count in ours.items():
            if _names_something(stem, common):
                rises[stem] += count / len(texts) - theirs[stem] / max(1, len(rest))
    every = [text for texts in shown for text in texts]
    ranked = sorted(rises, key=lambda stem: (-rises[stem], stem))
    return [_as_written(stem, every) for stem in ranked if rises[stem] > 0]


def content_words(text: str, common: Collection[str]) -> list[str]:
    """Return the words of a text that name something, as singulars: none of the `common` ones."""
    return [stem for stem in _stems(text) if _names_something(stem, common)]


def things_in(prompts: Sequence[str], language: str) -> set[str]:
    """Return words of prompts in a language that name something; in English, nouns alone."""
    common = ordinary_words(prompts)
    return {
        word
        for prompt in prompts
        if language_in(prompt) == language
        for before, word in pairwise(ngram_of(prompt))
        if (before in BEFORE_NOUNS or language != "English") and _names_something(word, common)
    }


def _ranked(groups: _Groups, ordinary: Sequence[str]) -> list[tuple[float, PromptProperty]]:
    """Return properties with the logs of their corrected p-values, the best first."""
    ranked = []
    for kind in (*_topics(groups, ordinary), _runs(groups), _openings(groups), *_plain(groups)):
        for found in kind.properties:
            log_p = groups.log_p(found.holds) + math.log(kind.num_seen)
            is_frequent = sum(map(found.holds, groups.showing)) >= MIN_PROMPTS
            if is_frequent and log_p <= math.log(LEVEL):
                ranked.append((log_p, found))

    def place(pair: tuple[float, PromptProperty]) -> tuple[bool, float, str]:
        log_p, found = pair
        return isinstance(found, Length) and log_p > math.log(CLEAR), log_p, found.text

    return sorted(ranked, key=place)


@dataclass(frozen=True)
class _Kind:
    """Properties of one kind, and how many were looked at to find them."""

    properties: Sequence[PromptProperty]
    num_seen: int


class _Groups:
    """Prompts that show something and others, by origin."""

    def __init__(self, contrasts: Sequence[Contrast]) -> None:
        # An empty origin has no distribution, and one of a single group tells nothing.
        self.contrasts = [each for each in contrasts if each.showing and each.others]
        self.showing = [prompt for each in contrasts for prompt in each.showing]
        self.all = [*self.showing, *(prompt for each in contrasts for prompt in each.others)]

    def log_p(self, holds: Callable[[str], bool]) -> float:
        """Return the log of the exact p-value; the null: both groups of a contrast have it alike.

        Given how many prompts of a contrast have it, those that show are a hypergeometric number.
        """
        distribution, observed = np.ones(1), 0
        for each in self.contrasts:
            ours, others = (sum(map(holds, part)) for part in (each.showing, each.others))
            num_showing = len(each.showing)
            counts = np.arange(num_showing + 1)
            chances = hypergeom.pmf(
                counts, num_showing + len(each.others), ours + others, num_showing
            )
            distribution, observed = np.convolve(distribution, chances), observed + ours
        return math.log(min(1.0, max(float(distribution[observed:].sum()), 1e-300)))

    def with_special_case(self, found: PromptProperty) -> list[PromptProperty]:
        """Return a property, and before it the special case that at least as many share."""
        special = Form(SPECIAL_CASES.get(found.text, "")) if isinstance(found, Form) else None
        if special is None or not special.text or not any(map(special.holds, self.showing)):
            return [found]
        shares = [
            sum(map(each.holds, self.showing)) / sum(map(each.holds, self.all))
            for each in (special, found)
        ]
        return [special, found] if shares[0] >= shares[1] else [found]

    def are_alike(self, first: PromptProperty, second: PromptProperty) -> bool:
        """Whether mostly the same prompts have two properties."""
        ours, theirs = ({p for p in self.all if each.holds(p)} for each in (first, second))
        return len(ours & theirs) >= ALIKE * len(ours | theirs)


def _topics(groups: _Groups, ordinary: Sequence[str]) -> Iterator[_Kind]:
    """Yield the word of a thing that parts best, then the topic that it is a word of.

    Each topic is one of all that have as many words.
    """
    common, counts = ordinary_words(ordinary), _document_counts(groups.showing)
    verbs = _verbs([*groups.all, *ordinary])
    words = sorted(
        stem
        for stem, count in counts.items()
        if count > 1 and stem not in verbs and _names_something(stem, common)
    )

    def log_p(stems: Collection[str]) -> float:
        return groups.log_p(lambda prompt: not set(_stems(prompt)).isdisjoint(stems))

    topic, least = list[str](), 0.0
    while len(topic) < min(MAX_WORDS, len(words)):
        # Another word of a topic has prompts of its own: two may show anything by chance.
        rest = [prompt for prompt in groups.showing if set(topic).isdisjoint(_stems(prompt))]
        more = [
            (log_p([*topic, word]), word)
            for word in words
            if word not in topic
            and (not topic or sum(word in _stems(prompt) for prompt in rest) >= MIN_PROMPTS)
        ]
        value, word = min(more, default=(0.0, ""))
        if not word or (topic and value > least - MIN_GAIN):
            return
        least, topic = value, [*topic, word]
        runs = tuple(_as_written(stem, groups.showing) for stem in topic)
        yield _Kind([Words(runs, is_topic=True)], math.comb(len(words), len(topic)))


def _runs(groups: _Groups) -> _Kind:
    """Return runs of words that several showing prompts hold, no part of one held alike."""
    counts = Counter(run for prompt in groups.showing for run in _runs_in(ngram_of(prompt)))
    frequent = [run for run, count in counts.items() if count >= MIN_PROMPTS]
    whole = [
        run
        for run in frequent
        if not any(
            len(other) == len(run) + 1 and counts[other] == counts[run] and run in _runs_in(other)
            for other in frequent
        )
    ]
    return _Kind([Words((_spaced(run),)) for run in sorted(whole)], max(1, len(frequent)))


def _openings(groups: _Groups) -> _Kind:
    counts = Counter(ngram_of(prompt)[:size] for prompt in groups.showing for size in RUNS)
    frequent = sorted(run for run, count in counts.items() if run and count >= MIN_PROMPTS)
    return _Kind([Opening(_spaced(run)) for run in frequent], max(1, len(frequent)))


def _plain(groups: _Groups) -> list[_Kind]:
    """Return languages, forms and lengths."""
    names = {language_in(prompt) for prompt in groups.all} - {None}
    languages = [Language(name) for name in sorted(filter(None, names))]
    lengths = sorted({len(ngram_of(prompt)) for prompt in groups.showing})
    limits = [Length(size, is_most) for size in lengths for is_most in (True, False)]
    kinds = (languages, [Form(text) for text in FORMS], limits)
    return [_Kind(kind, max(1, len(kind))) for kind in kinds]


def _num_words(found: PromptProperty) -> int:
    """Count the words that a property asks for together; 0 for one that asks for no words."""
    if isinstance(found, Opening):
        return len(ngram_of(found.run))
    return len(ngram_of(found.runs[0])) if isinstance(found, Words) and len(found.runs) == 1 else 0


def _document_counts(prompts: Iterable[str]) -> Counter[str]:
    return Counter(stem for prompt in prompts for stem in set(_stems(prompt)))


@lru_cache(maxsize=4096)  # each prompt is asked for many words
def _stems(text: str) -> Gram:
    """Return the words of a text, plurals as singulars."""
    return tuple(
        word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word
        for word in ngram_of(text)
    )


def _runs_in(words: Gram) -> set[Gram]:
    return {words[start : start + size] for size in RUNS for start in range(len(words) - size + 1)}


def _stands_in(run: Gram, words: Gram) -> bool:
    return any(words[start : start + len(run)] == run for start in range(len(words)))


def _as_written(stem: str, prompts: Sequence[str]) -> str:
    """Return the form of a word that most prompts write."""
    forms = Counter(
        word
        for prompt in prompts
        for word, each in zip(ngram_of(prompt), _stems(prompt), strict=True)
        if each == stem
    )
    return max(forms, key=lambda form: (forms[form], form))


def _verbs(prompts: Sequence[str]) -> set[str]:
    """Return English words that stand like verbs more often than like nouns."""
    leanings = Counter[str]()
    for prompt in prompts:
        for before, word in pairwise(_stems(prompt)):
            leanings[word] += (before in BEFORE_VERBS) - (before in BEFORE_NOUNS)
    return {word for word, leaning in leanings.items() if leaning > 0}


def _names_something(stem: str, common: Collection[str]) -> bool:
    is_long = len(stem) > 2 or not stem.isascii()
    is_function = any(stem in words for words in FUNCTION_WORDS.values())
    return is_long and not stem.isdigit() and stem not in common and not is_function


def _spaced(run: Gram) -> str:
    """Return words as they are written in a row; some scripts have no spaces."""
    return re.sub(rf"(?<=[{UNSPACED}]) (?=[{UNSPACED}])", "", " ".join(run))


def _quoted(run: str) -> str:
    return f"'{run}'"


def _listed(words: Iterable[str]) -> str:
    """Return `a`, `a or b`, `a, b or c`."""
    *first, last = words
    return f"{', '.join(first)} or {last}" if first else last
