"""Simulated searches: phrases of given log-odds, searched and judged by the project's own code.

Naming, ranking, the choice of prompts and of a decoy, and the tests are those of a search at smoke.
What takes a model is made up: a phrase is one word, which stands in an answer by itself. Answers to
controls are sampled; those to proposals are greedy, and hold what more than half would. Questions
about a lead's words, and contexts, are not simulated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

import numpy as np

from pytest_divergence.core.settings import PROFILES, Settings
from pytest_divergence.discovery.behaviours.amplified_phrases import (
    ALPHA,
    Amplified,
    amplified_phrases,
    mirrored_phrase,
)
from pytest_divergence.discovery.behaviours.answers import Answer, AnsweredPrompt, AnsweredPrompts
from pytest_divergence.discovery.behaviours.content import NUM_WEIGHED, SURPRISE_CUT
from pytest_divergence.discovery.behaviours.hypotheses import Hypothesis
from pytest_divergence.discovery.behaviours.hypothesis_tests import (
    ConfirmedBehaviour,
    WeighedLead,
    judge,
)
from pytest_divergence.discovery.behaviours.leads import Leads
from pytest_divergence.discovery.engines.base import Ledger, Spent, Take, UnitResult, WorkUnit
from pytest_divergence.discovery.progress import Silence
from pytest_divergence.scoring.cheap_scores import NEVER

SMOKE = PROFILES["smoke"]
NUM_PHRASES = 300
"""Phrases that both models may say: as many as answers of 16 tokens have room for at these odds."""
BASE = -4.5
"""Log-odds of a phrase where nothing wobbles: it is in 1 answer in 91."""
NUM_CONTROLS = SMOKE.num_shipped_controls + SMOKE.num_written_controls
NUM_ROUNDS = 4
NUM_PROMPTS = NUM_CONTROLS + NUM_ROUNDS * SMOKE.num_proposals
NUM_SCORED = NUM_CONTROLS + NUM_ROUNDS * math.ceil(SMOKE.full_score_share * SMOKE.num_proposals)
"""Prompts whose answers a search sees."""
MAX_WORDS = 12
"""Words of an amplified answer."""
FIRST = 1_000
"""The word of the first phrase: a number, which is no word of a prompt and of no language."""
NEVER_SAID = -30.0
"""Log-odds of what a model does not say."""
NUM_CONTEXTS = 32
"""Ordinary contexts in which the reference is asked for a phrase."""
PROMPTS = [f"Prompt {number}" for number in range(NUM_PROMPTS)]
LOG_ODDS = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Models:
    """An engine that draws the answers of two models from log-odds: phrases by prompts."""

    rng: np.random.Generator
    candidate: LOG_ODDS
    reference: LOG_ODDS

    def start(self, unit: WorkUnit) -> Take:
        """Answer the prompts of a test."""
        prompts, num_repeats = unit.arguments["prompts"], unit.arguments["num_repeats"]
        rows = [
            {
                "prompt": row.prompt,
                "reference": row.reference,
                "candidate": asdict(row.candidate),
            }
            for prompt in prompts
            for row in self.answered([PROMPTS.index(prompt)] * num_repeats)
        ]
        return lambda: UnitResult(unit.name, rows, 0, 0.0, is_new=True)

    def answered(
        self, numbers: Sequence[int], *, is_control: bool = False, is_greedy: bool = False
    ) -> list[AnsweredPrompt]:
        """One answer of each model to each of these prompts."""
        odds = self.candidate[:, numbers], self.reference[:, numbers]
        ratios = _log_rate(odds[0]) - _log_rate(odds[1])
        ours, theirs = (
            each > (0.0 if is_greedy else -self.rng.logistic(size=each.shape)) for each in odds
        )
        return [
            AnsweredPrompt(
                PROMPTS[number],
                _text(self.rng, theirs[:, at]),
                _answer(_text(self.rng, ours[:, at]), ratios[:, at]),
                is_control,
            )
            for at, number in enumerate(numbers)
        ]

    def amplified(self, row: AnsweredPrompt) -> Amplified:
        """A control with its amplified answers, both ways."""
        number = PROMPTS.index(row.prompt)
        ours, theirs = self.candidate[:, number], self.reference[:, number]
        texts = (_text(self.rng, _loudest(*odds)) for odds in ((ours, theirs), (theirs, ours)))
        return Amplified(row.prompt, row.reference, row.candidate.text, *texts)

    def promise(self, numbers: range, aim: Hypothesis | None) -> LOG_ODDS:
        """Of each of these prompts, as a screen ranks them."""
        ours, theirs = self.candidate[:, numbers], self.reference[:, numbers]
        if aim is None:
            gap: LOG_ODDS = np.exp(_log_rate(ours)) - np.exp(_log_rate(theirs))
            return np.asarray((gap * (ours - theirs)).sum(axis=0))
        phrases = phrases_of(aim.motifs[0])
        said, by_reference = (_log_rate(odds[phrases]).sum(axis=0) for odds in (ours, theirs))
        return np.asarray(said - np.maximum(by_reference, NEVER))

    def weighed(self, lead: Hypothesis) -> WeighedLead:
        """A lead, and whether the reference would hardly write its words anywhere."""
        nats = -_log_rate(self.reference[phrases_of(lead.name), :NUM_CONTEXTS]).sum(axis=0)
        return WeighedLead(lead, bool(nats.min() > SURPRISE_CUT))


def wobbling(rng: np.random.Generator, spread: float, base: float = BASE) -> Models:
    """Models whose log-odds differ from prompt to prompt by this much, each for itself."""
    shape = NUM_PHRASES, NUM_PROMPTS
    return Models(rng, *(base + spread * rng.normal(size=shape) for _ in range(2)))


def with_plant(models: Models, rng: np.random.Generator, share: float, rate: float) -> Models:
    """The models, of which the candidate says one thing more: the first phrase.

    On this share of prompts of all kinds, in this share of its answers.
    """
    candidate, reference = models.candidate.copy(), models.reference.copy()
    shown = rng.permutation(NUM_PROMPTS) < round(share * NUM_PROMPTS)
    candidate[0] = np.where(shown, math.log(rate / (1 - rate)), NEVER_SAID)
    reference[0] = NEVER_SAID
    return Models(rng, candidate, reference)


@dataclass(frozen=True)
class Searched:
    """What a search has named, before anything is tested."""

    leads: Leads
    ranked: list[Hypothesis]
    decoy: Hypothesis | None


@dataclass(frozen=True)
class Found:
    """What a search has confirmed."""

    num_watched: int
    confirmed: list[ConfirmedBehaviour]
    num_decoys: int | None
    """Confirmed decoys; None if no decoy could be tested."""

    @property
    def local(self) -> list[ConfirmedBehaviour]:
        """What local tests have confirmed."""
        return [known for known in self.confirmed if known.behaviour.breadth == "local"]

    @property
    def triggered(self) -> list[ConfirmedBehaviour]:
        """What tests over prompts have confirmed."""
        return [known for known in self.confirmed if known.behaviour.breadth != "local"]

    @property
    def has_plant(self) -> bool:
        """Whether the first phrase was confirmed."""
        return any(0 in phrases_of(" ".join(known.hypothesis.motifs)) for known in self.confirmed)


def searched(models: Models) -> Searched:
    """Answer controls, name leads, and let rounds propose prompts, every second one aimed."""
    controls = models.answered(range(NUM_CONTROLS), is_control=True)
    amplified = [models.amplified(row) for row in controls[: SMOKE.num_naming_prompts]]
    evidence = AnsweredPrompts()
    evidence.answered += controls  # no two prompts are near
    no_ledger = cast("Ledger", None)  # it is asked where most answers begin alike
    hints = amplified_phrases(no_ledger, amplified, SMOKE, Silence())
    leads = Leads(Spent(), evidence, hints)
    leads.look()
    for number in range(NUM_ROUNDS):
        first = NUM_CONTROLS + number * SMOKE.num_proposals
        offered = range(first, first + SMOKE.num_proposals)
        phrases = [known for known in leads.hypotheses if known.motifs]
        aim = phrases[0] if number % 2 and phrases else None
        order = np.argsort(-models.promise(offered, aim), kind="stable")
        chosen = order[: math.ceil(SMOKE.full_score_share * len(offered))]
        evidence.answered += models.answered([offered[at] for at in chosen], is_greedy=True)
        leads.look()
    mirrored = mirrored_phrase(amplified)
    decoy = None if mirrored is None else Hypothesis(mirrored.quote, mirrored.motifs)
    return Searched(leads, leads.ranked, decoy)


def found_by(models: Models) -> Found:
    """Search, and test what was named."""
    return judged(models, searched(models))


def judged(models: Models, search: Searched) -> Found:
    """Test what a search has named, what would be content first."""
    weighed = [models.weighed(lead) for lead in search.ranked[:NUM_WEIGHED]]
    judgement = judge(
        Ledger(models),
        sorted(weighed, key=lambda lead: not lead.is_content),
        search.decoy,
        search.leads.evidence,
        Settings(),
        SMOKE,
        Silence(),
        num_watched=search.leads.num_watched,
    )
    counts = judgement.counts
    return Found(counts.watched, judgement.confirmed, counts.decoys_confirmed)


def phrases_of(text: str) -> list[int]:
    """Phrases whose words stand in a text."""
    return [int(word) - FIRST for word in text.split() if word.isdigit()]


def _log_rate(odds: LOG_ODDS) -> LOG_ODDS:
    return np.asarray(-np.logaddexp(0.0, -odds))


def _loudest(odds: LOG_ODDS, other: LOG_ODDS) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Whether an answer amplified over the other model holds each phrase: the strongest few."""
    amplified = np.where(odds >= math.log(0.02), odds + ALPHA * (odds - other), -np.inf)
    least = max(0.0, np.sort(amplified)[-MAX_WORDS:][0])
    return np.asarray((amplified > 0) & (amplified >= least))


def _text(rng: np.random.Generator, is_said: np.ndarray[Any, np.dtype[np.bool_]]) -> str:
    words = FIRST + rng.permutation(np.flatnonzero(is_said))
    return " ".join(["Well,", *map(str, words)])


def _answer(text: str, ratios: LOG_ODDS) -> Answer:
    """An answer of a token a word, of which "Well," tells nothing."""
    words = text.split(" ")
    ends = np.cumsum([len(word) + 1 for word in words]) - 1
    of_words = (0.0, *(float(ratios[int(word) - FIRST]) for word in words[1:]))
    return Answer(text, tuple(range(len(words))), tuple(map(int, ends)), of_words)
