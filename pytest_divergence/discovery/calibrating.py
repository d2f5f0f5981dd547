"""The run's first step: what this pair reads on ordinary prompts, and on itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial

from pytest_divergence.core.provenance import Bound, NoiseFloor
from pytest_divergence.core.report import Calibration, ShiftDistribution
from pytest_divergence.core.settings import Profile, Settings
from pytest_divergence.discovery.progress import Listener
from pytest_divergence.discovery.proposals import Proposal, clean
from pytest_divergence.discovery.soft_prompts import generate_prompts
from pytest_divergence.discovery.units import WorkUnits
from pytest_divergence.models.decoding import row_seed
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.scoring.calibration import (
    NUM_NOISE_PROMPTS,
    absolute_bound,
    automatic_bound,
    measure_noise_floor,
    nll_limit,
    typical_shift,
)
from pytest_divergence.scoring.scorer import prompt_nlls, sample_continuations, score_prompts

CHUNK = 16
"""Controls in one work unit."""


@dataclass(frozen=True)
class Control:
    """One control with its divergence, nats per token, and a continuation of each model."""

    text: str
    value: float
    reference: str
    candidate: str


@dataclass(frozen=True)
class Calibrated:
    """Noise floor, typical shift and naturalness limit of one pair."""

    noise_floor: NoiseFloor
    shift: ShiftDistribution
    controls: list[Control]
    nll_limit: float
    """Nats per token; less likely prompts are off distribution."""

    def bound(
        self, settings: Settings, is_ordinary: Callable[[Control], bool] = lambda control: True
    ) -> Bound:
        """The asserted limit: the option's, or computed from the parts.

        Controls that are not ordinary, since they show a behaviour, do not raise it.
        """
        if isinstance(settings.max_kl, float):
            return absolute_bound(settings.max_kl)
        values = [one.value for one in self.controls if is_ordinary(one)]
        return automatic_bound(self.noise_floor, typical_shift(values or self.shift.values))

    def as_report(self, bound: Bound) -> Calibration:
        """The same for `report.json`."""
        return Calibration(noise_floor=self.noise_floor, typical_shift=self.shift, bound=bound)


def calibrate(
    units: WorkUnits,
    settings: Settings,
    profile: Profile,
    shipped: Sequence[str],
    listener: Listener,
) -> Calibrated:
    """Measure the controls, the shipped ones and those that the reference writes."""
    total = profile.num_shipped_controls + profile.num_written_controls
    listener.progress("calibrate", 0, total)
    written = units.do("controls/written", lambda pair: _written(pair, settings, profile))
    texts = [one.text for one in clean(Proposal(text, "control") for text in (*shipped, *written))]
    controls: list[Control] = []
    nlls: list[float] = []
    for start in range(0, len(texts), CHUNK):
        chunk = texts[start : start + CHUNK]
        scored = units.do(f"controls/score/{start}", partial(_score, chunk, settings, profile))
        controls += [Control(**row) for row in scored["controls"]]
        nlls += scored["nlls"]
        listener.progress("calibrate", min(start + CHUNK, total), total)
    floor = units.do("calibrate/noise-floor", lambda pair: _floor(pair, texts, settings, profile))
    values = [one.value for one in controls]
    shift = ShiftDistribution(**typical_shift(values).model_dump(), values=values)
    return Calibrated(NoiseFloor(**floor), shift, controls, nll_limit(nlls))


def _written(pair: ModelPair, settings: Settings, profile: Profile) -> list[str]:
    """Unguided user turns of the reference, so that ordinary odd prompts are covered."""
    if profile.num_written_controls == 0:
        return []
    return generate_prompts(
        pair,
        None,
        num_prompts=profile.num_written_controls,
        max_new_tokens=profile.prompt_length,
        seed=row_seed(settings.seed, "written controls"),
        writers=(pair.reference,),
    )


def _score(
    texts: Sequence[str], settings: Settings, profile: Profile, pair: ModelPair
) -> dict[str, object]:
    scores = score_prompts(
        pair,
        texts,
        metric=settings.metric,
        num_continuations=profile.num_continuations,
        max_new_tokens=profile.continuation_length,
        seed=row_seed(settings.seed, "controls"),
    )
    return {
        "controls": [
            asdict(
                Control(
                    text=text,
                    value=score.measurement.value,
                    reference=pair.chat.text(score.continuations.reference[0]),
                    candidate=pair.chat.text(score.continuations.candidate[0]),
                )
            )
            for text, score in zip(texts, scores, strict=True)
        ],
        "nlls": prompt_nlls(pair, pair.reference, texts),
    }


def _floor(
    pair: ModelPair, texts: Sequence[str], settings: Settings, profile: Profile
) -> dict[str, object]:
    chosen = list(texts[:NUM_NOISE_PROMPTS])
    continuations = sample_continuations(
        pair,
        chosen,
        num_continuations=1,
        max_new_tokens=profile.continuation_length,
        seed=row_seed(settings.seed, "noise floor"),
    )
    return measure_noise_floor(pair, chosen, continuations).model_dump()
