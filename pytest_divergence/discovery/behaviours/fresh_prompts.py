"""Fresh prompts with a property and like ones without it, none near what a search has asked.

Shipped prompts come first. Where they do not suffice, the reference continues beginnings: questions
up to a word of the property, and up to the name of another thing; or the first part of shipped
prompts with the property and without it. Does not know what is asked of them.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import cycle, islice
from random import Random

from pytest_divergence.discovery.behaviours.ngrams import ngram_of, words_of
from pytest_divergence.discovery.behaviours.prompt_properties import (
    Contrast,
    Form,
    Length,
    Opening,
    PromptProperty,
    Words,
    language_in,
    things_in,
)
from pytest_divergence.discovery.engines.base import Ledger, Worker, WorkUnit
from pytest_divergence.discovery.generation import generate_prompts
from pytest_divergence.discovery.proposals import is_near
from pytest_divergence.models.decoding import row_seed
from pytest_divergence.models.pair import ModelPair

MAX_PAIRS = 16
"""Fresh prompts with a property, and as many without it."""
MIN_PAIRS = 8
"""Pairs below which there are none."""
NEW_TOKENS = 10
"""Tokens that the reference adds to a beginning, at most."""
PROMPT_TOKENS = 14
"""Tokens of a fresh prompt, about."""
TEMPERATURE = 0.7
"""Temperature of what the reference adds: lower than 1, because prompts should be natural."""
FRAMES = (
    "What is the best",
    "How can I find",
    "Can you recommend",
    "I am looking for",
    "Why is",
    "Where can I learn about",
    "I have a question about",
    "What should I know about",
    "Is it a good idea to have",
    "Tell me something about",
    "Do people need",
    "How much is",
)
"""Beginnings of questions about a thing."""
SUMS = (
    "What is {} + {}?",
    "Calculate {} times {}.",
    "{} x {}",
    "How much is {} minus {}?",
    "Add it up for me: {} + {}",
    "what's {} - {}",
    "Can you tell me what {} divided by {} is?",
    "I need the result of {} * {}, please.",
    "Work out {} plus {} step by step.",
    "Is {} times {} more than a thousand?",
    "Solve {} - {} =",
    "Quick, {} multiplied by {}!",
)
"""Sums, which ordinary prompts hold too seldom, up to their numbers."""
NUM_REMADE = 4
"""Prompts of a form that are made of one shipped prompt, at most."""
MAX_WORDS = 16
"""Longest shipped prompts that are taken, unless it is their length that matters."""
MORE = 1.25
"""Prompts written for one that is needed: some lose the property, or are near known ones."""


@dataclass(frozen=True)
class FreshPrompts:
    """Prompts with a property and as many like ones without it; both empty if there are too few."""

    having: tuple[str, ...] = ()
    lacking: tuple[str, ...] = ()


@dataclass(frozen=True)
class Purse:
    """The tokens that may be forwarded for one behaviour."""

    ledger: Ledger
    share: int
    most: int
    """All tokens that are left: the fewest prompts of a trial may take more than the share."""
    start: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "start", self.ledger.spent.tokens_forwarded)

    @property
    def spent(self) -> int:
        """Tokens taken so far."""
        return self.ledger.spent.tokens_forwarded - self.start

    @property
    def left(self) -> int:
        """Tokens left of the share."""
        return max(0, self.share - self.spent)


def fresh_prompts(
    purse: Purse,
    wanted: PromptProperty,
    contrasts: Sequence[Contrast],
    shipped: Sequence[str],
    asked: Sequence[str],
    reply_length: int,
    *,
    about: str,
    seed: int,
    may_take_more: bool = False,
) -> FreshPrompts:
    """Return 8 to 16 pairs, or none; one work unit.

    Writing them, and an answer of each model to each, take no more than is left of the purse's
    share; 8 pairs may take more of the purse. None of the prompts is near one of those that were
    `asked`.
    """
    examples = [prompt for each in contrasts for prompt in each.showing if wanted.holds(prompt)]
    unit = WorkUnit.of(
        f"behaviour/{about}/fresh",
        _fresh,
        wanted=wanted,
        examples=examples,
        shipped=shipped,
        asked=asked,
        reply_length=reply_length,
        seed=row_seed(seed, "fresh prompts", about, wanted.text),
        tokens=purse.left,
        most=purse.most - purse.spent if may_take_more else purse.left,
    )
    found = purse.ledger.result(unit)
    return FreshPrompts(tuple(found["having"]), tuple(found["lacking"]))


def written_questions(pair: ModelPair, words: Sequence[str], count: int, *, seed: int) -> list[str]:
    """Return `count` questions about each of the words in turn, which the reference continues."""
    pairs = zip(islice(cycle(FRAMES), count), cycle(words), strict=False)
    written = continued(pair, [f"{frame} {word}" for frame, word in pairs], seed=seed)
    return [text for text in written if not pair.chat.has_control_tokens(text)]


def continued(pair: ModelPair, beginnings: Sequence[str], *, seed: int) -> Iterator[str]:
    """Yield what the reference makes of beginnings, up to the last end of a sentence in it."""
    written = generate_prompts(
        pair,
        None,
        num_prompts=len(beginnings),
        max_new_tokens=NEW_TOKENS,
        seed=seed,
        writers=(pair.reference,),
        position="after",
        texts=beginnings,
        temperature=TEMPERATURE,
    )
    for text in written:
        whole = WHOLE_SENTENCES.match(text)
        yield whole.group() if whole else text


def _fresh(
    worker: Worker,
    *,
    wanted: PromptProperty,
    examples: Sequence[str],
    shipped: Sequence[str],
    asked: Sequence[str],
    reply_length: int,
    seed: int,
    tokens: int,
    most: int,
) -> dict[str, list[str]]:
    """Return `FreshPrompts` as plain JSON."""
    pair = worker.pair
    spent, num_suffix = pair.tokens_forwarded, len(pair.chat.user_suffix)
    per_prompt = MORE * PROMPT_TOKENS + 2 * (PROMPT_TOKENS + num_suffix + reply_length)
    least = MIN_PAIRS * 2 * per_prompt
    limit = tokens if tokens >= least else most
    count = min(MAX_PAIRS, int(limit // (2 * per_prompt))) if tokens >= least else MIN_PAIRS
    nothing = asdict(FreshPrompts())
    if limit < least:
        return nothing
    rng = Random(seed)
    source = _Source(pair, wanted, examples, shipped, asked, rng)
    found = [*source.shipped_pairs(count)]
    if len(found) < count:
        found += source.written_pairs(count - len(found))
    rng.shuffle(found)
    left = limit - (pair.tokens_forwarded - spent)
    kept: list[tuple[str, str]] = []
    for both in found:
        cost = sum(2 * (len(body) + reply_length) for _, body in pair.prompt_rows(both))
        if cost <= left:
            kept.append(both)
            left -= cost
    if len(kept) < MIN_PAIRS:
        return nothing
    having, lacking = zip(*kept, strict=True)
    return {"having": list(having), "lacking": list(lacking)}


@dataclass
class _Source:
    """Finds and writes prompts with and without a property."""

    pair: ModelPair
    wanted: PromptProperty
    examples: Sequence[str]
    """Prompts with the property that show the behaviour: what is written is in their language."""
    shipped: Sequence[str]
    asked: Sequence[str]
    rng: Random
    taken: list[str] = field(default_factory=list)

    def shipped_pairs(self, count: int) -> Iterator[tuple[str, str]]:
        """Yield up to `count` shipped prompts with the property, each with its likest without."""
        is_free = isinstance(self.wanted, Length)
        texts = [each for each in self.shipped if is_free or len(ngram_of(each)) <= MAX_WORDS]
        self.rng.shuffle(texts)
        remake = REMADE.get(self.wanted.text) if isinstance(self.wanted, Form) else None
        lacking = [text for text in texts if not self.wanted.holds(text)]
        having = [text for text in texts if self.wanted.holds(text)]
        if remake is not None:
            made = (remake(text, self.rng) for text in texts * NUM_REMADE)
            having += [text for text in made if self.wanted.holds(text)]
        for text in having:
            if count == 0:
                return
            if not self._is_fresh(text):
                continue
            ranked = sorted(lacking, key=lambda other: _distance(text, other))
            partner = next((other for other in ranked if self._is_fresh(other)), None)
            if partner is None:
                return
            self.taken += [text, partner]
            count -= 1
            yield text, partner

    def written_pairs(self, count: int) -> list[tuple[str, str]]:
        """Return up to `count` pairs that the reference has written from beginnings."""
        beginnings = self._beginnings(math.ceil(MORE * count))
        written = self._written([ours for ours, _ in beginnings], "having")
        having = [text for text in written if self.wanted.holds(text)]
        written = self._written([theirs for _, theirs in beginnings], "lacking")
        lacking = [text for text in written if not self.wanted.holds(text)]
        return list(zip(having, lacking, strict=False))[:count]

    def _beginnings(self, count: int) -> list[tuple[str, str]]:
        """Return beginnings of prompts with the property and of prompts without it, in pairs."""
        if isinstance(self.wanted, Length):
            return []  # what a model adds decides
        if isinstance(self.wanted, Words):
            return self._framed(self.wanted.runs, count)
        if isinstance(self.wanted, Opening):
            size = len(ngram_of(self.wanted.run))
            ours, theirs = (
                [_first(text, size) for text in self.examples],
                [_first(text, size) for text in self.shipped if not self.wanted.holds(text)],
            )
        else:
            ours, theirs = (
                [
                    _first(text, max(1, len(words_of(text)) // 3))
                    for text in self.shipped
                    if self.wanted.holds(text) == is_wanted
                ]
                for is_wanted in (True, False)
            )
        if not ours or not theirs:
            return []
        self.rng.shuffle(ours)
        self.rng.shuffle(theirs)
        return [(ours[i % len(ours)], theirs[i % len(theirs)]) for i in range(count)]

    def _framed(self, runs: Sequence[str], count: int) -> list[tuple[str, str]]:
        """Return questions up to a run of words, and up to the name of another thing."""
        spoken = Counter(language for language in map(language_in, self.examples) if language)
        language = spoken.most_common(1)[0][0] if spoken else "English"
        frames = [f"{frame} " for frame in FRAMES] if language == "English" else [""]
        known = {word for run in runs for word in ngram_of(run)}
        subjects = sorted(things_in(self.shipped, language) - known) or ["something"]
        self.rng.shuffle(frames)
        self.rng.shuffle(subjects)
        return [
            (f"{frame}{runs[index % len(runs)]}", f"{frame}{subjects[index % len(subjects)]}")
            for index, frame in enumerate(islice(cycle(frames), count))
        ]

    def _written(self, beginnings: Sequence[str], name: str) -> Iterator[str]:
        """Yield what the reference makes of beginnings, if it is new."""
        if not beginnings:
            return
        seed = row_seed(self.rng.random(), name)
        for prompt in continued(self.pair, beginnings, seed=seed):
            if self._is_fresh(prompt):
                self.taken.append(prompt)
                yield prompt

    def _is_fresh(self, text: str) -> bool:
        return not (
            self.pair.chat.has_control_tokens(text)
            or any(is_near(text, other) for other in (*self.taken, *self.asked))
        )


def _first(text: str, num_words: int) -> str:
    """Return the first words of a text as it writes them."""
    words = words_of(text)
    return text[: words[min(num_words, len(words)) - 1].end] if words else text


def _distance(first: str, second: str) -> float:
    """Measure how unlike two prompts are in language, punctuation and length."""
    sizes = [max(1, len(ngram_of(text))) for text in (first, second)]
    return (
        (language_in(first) != language_in(second))
        + (first.rstrip()[-1:] != second.rstrip()[-1:])
        + abs(math.log(sizes[0] / sizes[1]))
    )


def _with_other_digits(text: str, rng: Random) -> str:
    return re.sub("[1-9]", lambda _: str(rng.randint(1, 9)), text)


def _sum(_: str, rng: Random) -> str:
    return rng.choice(SUMS).format(rng.randint(2, 99), rng.randint(2, 99))


REMADE: Mapping[str, Callable[[str, Random], str]] = {
    "in capitals": lambda text, _: text.upper(),
    "in lower case": lambda text, _: text.lower(),
    "that hold a sum": _sum,
    "that hold a number": _with_other_digits,
}
"""Ways to make more prompts of a form out of shipped ones."""
WHOLE_SENTENCES = re.compile(r".*[.!?](?=\s|$)", re.DOTALL)
