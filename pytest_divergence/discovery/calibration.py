"""The run's first step: measure the pair on ordinary prompts, and each model against itself.

Ordinary prompts are answered from amplified logits at the same time, because both models have just
read them; phrases that recur in these answers name what changed
(`pytest_divergence.discovery.behaviours.amplified_phrases`).
Does not know the statistics (`pytest_divergence.scoring.baseline`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from pytest_divergence.core.behaviours import Behaviour
from pytest_divergence.core.cases import CONTROL_TAG, NOT_ORDINARY_TAG, Case, Measurement, case_id
from pytest_divergence.core.evaluation_metrics import BUILT_IN_METRICS
from pytest_divergence.core.provenance import Bound, NoiseFloor
from pytest_divergence.core.report import Calibration, FirstFound, ShiftDistribution
from pytest_divergence.core.settings import MetricName, Profile
from pytest_divergence.core.token_statistics import ControlTokens, TokenStatistics
from pytest_divergence.core.tokens import StoredTokens
from pytest_divergence.discovery.behaviours.amplified_phrases import (
    Amplified,
    amplified_answers,
    asked,
    first_phrase,
    mirrored_answers,
)
from pytest_divergence.discovery.behaviours.answers import Answer, AnsweredPrompt
from pytest_divergence.discovery.behaviours.hypotheses import (
    Hypothesis,
    behaviour_shows,
    shows_in_part,
)
from pytest_divergence.discovery.engines.base import Ledger, Worker, WorkUnit
from pytest_divergence.discovery.generation import generate_prompts
from pytest_divergence.discovery.progress import Listener
from pytest_divergence.discovery.proposals import Proposal, clean
from pytest_divergence.models.decoding import row_seed
from pytest_divergence.scoring.baseline import (
    CEILING,
    NUM_READINGS,
    NoiseReadings,
    absolute_bound,
    automatic_bound,
    nll_limit,
    noise_floor,
    noise_readings,
    typical_shift,
)
from pytest_divergence.scoring.cheap_scores import prompt_nlls
from pytest_divergence.scoring.control_tokens import control_tokens, token_statistics
from pytest_divergence.scoring.scorer import score_prompts, stored_tokens
from pytest_divergence.scoring.suite_rows import CONTROL_STREAM

FIRST_CHUNK, CHUNK = 20, 44
"""Controls in one work unit; fewer in the first, after which a first lead may be named."""
MIN_ORDINARY = 20
"""Fewer controls tell nothing of how far ordinary prompts go."""
WRITTEN_UNIT = "controls/written"
"""The work unit in which the reference writes controls."""


@dataclass(frozen=True)
class Control:
    """One control with what was measured on it, and a continuation of each model."""

    text: str
    measurement: Measurement
    reference: str
    candidate: Answer
    further: tuple[str, ...]
    """Texts of the candidate's other continuations."""
    stored: StoredTokens
    amplified: str | None = None
    """An answer from amplified logits; None where none was asked for."""
    mirrored: str | None = None
    """An answer with the models exchanged; None where `amplified` is."""
    tokens: ControlTokens | None = None
    """Divergence at each token; None where it is not finite, or in journals of before."""

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Control:
        """Return the control that `to_row` and JSON made `row` of."""
        return cls(
            text=row["text"],
            measurement=Measurement(**row["measurement"]),
            reference=row["reference"],
            candidate=Answer.from_row(row["candidate"]),
            further=tuple(row["further"]),
            stored=StoredTokens(**row["stored"]),
            amplified=row["amplified"],
            mirrored=row["mirrored"],
            tokens=ControlTokens(**row["tokens"]) if row.get("tokens") else None,
        )

    def to_row(self) -> dict[str, Any]:
        """Return all of it as plain JSON."""
        return {
            "text": self.text,
            "measurement": self.measurement.model_dump(),
            "reference": self.reference,
            "candidate": asdict(self.candidate),
            "further": list(self.further),
            "stored": self.stored.model_dump(),
            "amplified": self.amplified,
            "mirrored": self.mirrored,
            "tokens": self.tokens and self.tokens.model_dump(),
        }

    @property
    def value(self) -> float:
        """Its divergence in the run's metric, and in its unit."""
        return self.measurement.value

    def case(self, *, is_ordinary: bool = True) -> Case:
        """Return a suite's control row."""
        tags = (CONTROL_TAG,) if is_ordinary else (CONTROL_TAG, NOT_ORDINARY_TAG)
        return Case(input=self.text, tags=tags, kl=self.measurement)

    @property
    def answered(self) -> AnsweredPrompt:
        """The prompt and its answers as evidence for behaviours."""
        return AnsweredPrompt(self.text, self.reference, self.candidate, is_control=True)


@dataclass(frozen=True)
class Calibrated:
    """Noise floor, typical shift and naturalness limit of one pair."""

    noise_floor: NoiseFloor
    shift: ShiftDistribution
    controls: list[Control]
    nlls: list[float]
    """Negative log-likelihood of each control under the reference, nats per token."""
    first_lead: FirstFound | None = None
    """Work until amplified answers named a lead; None if they named none."""

    @property
    def nll_limit(self) -> float:
        """Nats per token; less likely prompts are off distribution."""
        return nll_limit(self.nlls)

    @property
    def unit(self) -> str:
        """The metric's unit."""
        return self.controls[0].measurement.unit

    @property
    def own_noise(self) -> float | None:
        """The noise floor in the run's metric; None where it was not measured in it."""
        return self.noise_floor.of(self.controls[0].measurement.metric)

    @property
    def token_statistics(self) -> TokenStatistics | None:
        """Divergence at single tokens of the controls' continuations."""
        return token_statistics([control.tokens for control in self.controls])

    @property
    def amplified(self) -> list[Amplified]:
        """The controls that were answered from amplified logits; none of a model and itself."""
        return _amplified(self.controls)

    def bound(
        self,
        max_kl: float | Literal["auto"],
        num_prompts: int,
        behaviours: Sequence[Behaviour] = (),
    ) -> Bound:
        """Return the asserted limit: the option's, or computed from the parts.

        `num_prompts` are those that the search scores. Controls that show one of the `behaviours`
        found so far do not raise it.
        """
        if max_kl == "auto":
            return self.automatic_bound(num_prompts, behaviours)
        return absolute_bound(max_kl)

    def automatic_bound(self, num_prompts: int, behaviours: Sequence[Behaviour] = ()) -> Bound:
        """Compute the limit from the parts, as a search needs it whatever the option asserts."""
        values = [control.value for control in self.ordinary(behaviours)]
        is_built_in = self.controls[0].measurement.metric in BUILT_IN_METRICS
        ceiling = CEILING if is_built_in else math.inf  # an added metric's unit is its own
        return automatic_bound(self.own_noise, values, num_prompts, ceiling=ceiling)

    def ordinary(self, behaviours: Sequence[Behaviour]) -> list[Control]:
        """Return the controls that show no confirmed content; all, if fewer than 20 are left."""
        found = [control for control in self.controls if is_ordinary(control, behaviours)]
        return found if len(found) >= MIN_ORDINARY else self.controls

    def as_report(self, bound: Bound) -> Calibration:
        """Return it as `report.json` holds it."""
        return Calibration(
            unit=self.unit,
            noise_floor=self.noise_floor,
            typical_shift=self.shift,
            bound=bound,
            token_statistics=self.token_statistics,
        )


def is_ordinary(control: Control, behaviours: Sequence[Behaviour]) -> bool:
    """Whether a control shows no confirmed behaviour of content, nor a part of one.

    Style is on ordinary prompts too, and does not count.
    """
    return not any(
        _is_shown(behaviour, control) or shows_in_part(behaviour, control.answered)
        for behaviour in behaviours
        if behaviour.confirmed and behaviour.content
    )


def calibrate(
    ledger: Ledger,
    profile: Profile,
    shipped: Sequence[str],
    listener: Listener,
    *,
    metric: MetricName,
    seed: int,
) -> Calibrated:
    """Measure the controls, the shipped ones and those that the reference writes."""
    total = profile.num_shipped_controls + profile.num_written_controls
    listener.progress("calibrate", 0, total)
    written = ledger.result(
        WorkUnit(WRITTEN_UNIT, _write_controls, {"seed": seed, "profile": profile})
    )
    proposals = clean(Proposal(text, "control") for text in (*shipped, *written))
    texts = [proposal.text for proposal in proposals]
    controls: list[Control] = []
    nlls: list[float] = []
    named, read_again = frozenset(asked(texts, profile)), frozenset(noise_prompts(texts))
    readings: list[NoiseReadings] = []
    starts = [0, *range(FIRST_CHUNK, len(texts), CHUNK)]
    ends = [*starts[1:], len(texts)]
    chunks = [
        WorkUnit(
            f"controls/measure/{start}",
            measure_controls,
            {
                "texts": texts[start:end],
                "named": named,
                "read_again": read_again,
                "metric": metric,
                "seed": seed,
                "profile": profile,
            },
        )
        for start, end in zip(starts, ends, strict=True)
    ]
    first_lead: FirstFound | None = None
    for end, scored in zip(ends, ledger.results(chunks), strict=True):
        controls += [Control.from_row(row) for row in scored["controls"]]
        nlls += scored["nlls"]
        readings.append(NoiseReadings(**scored["noise"]))
        listener.progress("calibrate", end, len(texts))
        if first_lead is None and (phrase := first_phrase(_amplified(controls))) is not None:
            first_lead = ledger.spent.so_far
            listener.say(f"named a first lead: {Hypothesis(phrase.quote, phrase.motifs).id}")
    values = [control.value for control in controls]
    shift = ShiftDistribution(**typical_shift(values).model_dump(), values=values)
    floor = noise_floor(readings, metric, controls[0].measurement.unit)
    return Calibrated(floor, shift, controls, nlls, first_lead)


def noise_prompts(texts: Sequence[str]) -> list[str]:
    """Return 59 prompts of all lengths, on which the noise floor is measured."""
    ranked = sorted(texts, key=len)
    places = np.linspace(0, len(ranked) - 1, min(NUM_READINGS, len(ranked)))
    return [ranked[round(place)] for place in places]


def _write_controls(worker: Worker, *, seed: int, profile: Profile) -> list[str]:
    """Return unguided user turns of the reference: they cover odd, but ordinary prompts."""
    pair = worker.pair
    if profile.num_written_controls == 0:
        return []
    return generate_prompts(
        pair,
        None,
        num_prompts=profile.num_written_controls,
        max_new_tokens=profile.prompt_length,
        seed=row_seed(seed, "written controls"),
        writers=(pair.reference,),
    )


def measure_controls(
    worker: Worker,
    *,
    texts: Sequence[str],
    named: frozenset[str],
    read_again: frozenset[str],
    metric: MetricName,
    seed: int,
    profile: Profile,
) -> dict[str, Any]:
    """Measure divergence and negative log-likelihood; amplify the answers to those in `named`.

    They are amplified both ways while the prompts are read, which costs a third of a pass of its
    own. Noise is measured on those in `read_again`, which costs half for the same reason.
    """
    pair = worker.pair
    with pair.reuse_prompts():
        nlls = prompt_nlls(pair, pair.reference, texts)
        scores = score_prompts(
            pair,
            texts,
            metric=metric,
            num_continuations=profile.num_continuations,
            max_new_tokens=profile.continuation_length,
            seed=row_seed(seed, CONTROL_STREAM),
        )
        # A model and itself have nothing to amplify.
        chosen = [] if pair.is_same_model else [text for text in texts if text in named]
        amplified = amplified_answers(pair, chosen, profile.search_length)
        mirrored = mirrored_answers(pair, chosen, profile.search_length)
        given = {
            text: score.continuations.candidate[0]
            for text, score in zip(texts, scores, strict=True)
            if text in read_again
        }
        num_readings = math.ceil(NUM_READINGS / max(1, len(read_again))) * len(given)
        noise = noise_readings(pair, list(given), list(given.values()), num_readings, metric)
    answers = dict(zip(chosen, zip(amplified, mirrored, strict=True), strict=True))
    return {
        "controls": [
            Control(
                text=text,
                measurement=score.measurement,
                reference=pair.chat.text(score.continuations.reference[0]),
                candidate=Answer.of(pair.chat, score.continuations.candidate[0], score.log_ratios),
                further=tuple(map(pair.chat.text, score.continuations.candidate[1:])),
                stored=stored_tokens(case_id(text), score),
                amplified=both[0],
                mirrored=both[1],
                tokens=control_tokens(score),
            ).to_row()
            for text, score in zip(texts, scores, strict=True)
            for both in (answers.get(text, (None, None)),)
        ],
        "nlls": nlls,
        "noise": noise._asdict(),
    }


def _amplified(controls: Sequence[Control]) -> list[Amplified]:
    return [
        Amplified(
            control.text,
            control.reference,
            control.candidate.text,
            control.amplified,
            control.mirrored,
        )
        for control in controls
        if control.amplified is not None and control.mirrored is not None
    ]


def _is_shown(behaviour: Behaviour, control: Control) -> bool:
    """Whether a phrase is in any measured continuation, or a trait in the first."""
    further = control.further if behaviour.trait is None else ()
    return any(
        behaviour_shows(behaviour, control.text, answer, control.reference)
        for answer in (control.candidate.text, *further)
    )
