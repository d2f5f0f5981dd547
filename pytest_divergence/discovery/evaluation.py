"""Two models measured on given prompts: divergence, perplexities, diversity, effectiveness.

Serves datasets of divergent prompts and evaluations alike. Does not choose prompts, and writes
nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pytest_divergence.core.errors import SettingsError
from pytest_divergence.core.evaluation_record import (
    Diversity,
    Evaluation,
    Generation,
    OrdinaryPrompts,
    PromptEvaluation,
)
from pytest_divergence.core.settings import MetricName
from pytest_divergence.discovery.behaviours.answers import Answer, AnsweredPrompt, AnsweredPrompts
from pytest_divergence.discovery.behaviours.counts import count_differences
from pytest_divergence.discovery.behaviours.hypotheses import hypotheses_in
from pytest_divergence.discovery.prompt_files import SHIPPED_CONTROLS, shipped_prompts
from pytest_divergence.discovery.proposals import distinct_share, self_similarity
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.scoring.cheap_scores import prompt_nlls
from pytest_divergence.scoring.scorer import PromptScore, perplexity, score_greedily, score_prompts

NUM_CONTROLS = 16
"""Shipped ordinary prompts that effectiveness is measured against."""


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """Settings for measuring prompts. Raises `SettingsError` for a value that cannot work."""

    metric: MetricName = "symmetric"
    """The divergence, in nats per token."""
    num_generations: int = 4
    """Texts that each model writes on a prompt."""
    temperature: float = 1.0
    """Temperature at which they are sampled; 0 takes the most likely tokens. The divergence is
    always that of the models' own distributions, so only values at 1 estimate how far apart the
    models are on what they write."""
    max_new_tokens: int = 32
    """Longest text, in tokens."""
    seed: int = 0
    """Random seed of the samples."""

    def __post_init__(self) -> None:
        for name in ("num_generations", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name}={getattr(self, name)} must be at least 1")
        if not (0 <= self.temperature < math.inf):
            raise SettingsError(f"temperature={self.temperature} must be 0 or more, and finite")
        if self.temperature == 0 and self.num_generations > 1:
            raise SettingsError(
                f"num_generations={self.num_generations} at temperature=0 gives the same text "
                "every time; use 1, or a higher temperature"
            )


def evaluate(
    pair: ModelPair,
    prompts: Sequence[str],
    config: EvaluationConfig,
    *,
    controls: Sequence[str] | None = None,
) -> Evaluation:
    """Measure both models on `prompts`, beside `controls`: ordinary prompts, or the shipped ones.

    Raises `SettingsError` without prompts, `NonFiniteLogitsError` and `MeasurementError`.
    """
    prompts = _checked(prompts)
    ordinary = measure_ordinary(pair, config, controls)
    measured = _measured(pair, prompts, config)
    answered = AnsweredPrompts(_answered(pair, score) for score, _ in measured).answered
    phrases = [hypothesis for hypothesis in hypotheses_in(answered) if hypothesis.motifs]
    evaluated = [_evaluation(pair, score, nlls, ordinary) for score, nlls in measured]
    return Evaluation(
        model_1=pair.reference_identity.spec,
        model_2=pair.candidate_identity.spec,
        metric=config.metric,
        prompts=evaluated,
        differences=count_differences(answered, phrases),
        ordinary=ordinary,
        prompt_diversity=diversity(prompts),
        diversity_1=diversity([text for prompt in evaluated for text in prompt.generations_1]),
        diversity_2=diversity([text.text for prompt in evaluated for text in prompt.generations_2]),
    )


def evaluate_prompts(
    pair: ModelPair,
    prompts: Sequence[str],
    config: EvaluationConfig,
    *,
    controls: Sequence[str] | None = None,
) -> list[PromptEvaluation]:
    """Measure both models on each prompt alone, in order."""
    prompts = _checked(prompts)
    ordinary = measure_ordinary(pair, config, controls)
    measured = _measured(pair, prompts, config)
    return [_evaluation(pair, score, nlls, ordinary) for score, nlls in measured]


def measure_ordinary(
    pair: ModelPair, config: EvaluationConfig, controls: Sequence[str] | None = None
) -> OrdinaryPrompts | None:
    """Measure ordinary prompts; None where `controls` is empty."""
    if controls is None:
        controls = shipped_prompts(SHIPPED_CONTROLS, NUM_CONTROLS)
    elif not controls:
        return None
    chosen = _checked(controls)
    values = [score.measurement.value for score in _scores(pair, chosen, config)]
    return OrdinaryPrompts(num_prompts=len(values), mean=sum(values) / len(values), max=max(values))


def diversity(texts: Sequence[str]) -> Diversity:
    """Measure the diversity of a set of texts."""
    longest = max((len(text.split()) for text in texts), default=0)
    return Diversity(
        distinct_1=distinct_share(texts, 1) if longest >= 1 else None,
        distinct_2=distinct_share(texts, 2) if longest >= 2 else None,
        self_similarity=self_similarity(texts) if len(texts) > 1 else None,
    )


def _checked(prompts: Sequence[str]) -> list[str]:
    """Return the prompts as a list, whatever gives them one by one. Raises `SettingsError`."""
    chosen = [] if isinstance(prompts, str) else list(prompts)
    if not chosen:
        raise SettingsError(f"prompts={prompts!r} must be a list of at least one prompt")
    return chosen


def _measured(
    pair: ModelPair, prompts: Sequence[str], config: EvaluationConfig
) -> list[tuple[PromptScore, tuple[float, float]]]:
    """Each prompt's score, and its negative log-likelihood under both models, nats per token."""
    with pair.reuse_prompts():
        nlls = zip(*(prompt_nlls(pair, side, prompts) for side in pair.sides), strict=True)
        return list(zip(_scores(pair, prompts, config), nlls, strict=True))


def _scores(pair: ModelPair, prompts: Sequence[str], config: EvaluationConfig) -> list[PromptScore]:
    if config.temperature == 0:
        return score_greedily(
            pair, prompts, metric=config.metric, max_new_tokens=config.max_new_tokens
        )
    return score_prompts(
        pair,
        prompts,
        metric=config.metric,
        num_continuations=config.num_generations,
        max_new_tokens=config.max_new_tokens,
        seed=config.seed,
        temperature=config.temperature,
    )


def _answered(pair: ModelPair, score: PromptScore) -> AnsweredPrompt:
    candidate = Answer.of(pair.chat, score.continuations.candidate[0], score.log_ratios)
    reference = pair.chat.text(score.continuations.reference[0])
    return AnsweredPrompt(str(score.prompt), reference, candidate, is_control=False)


def _evaluation(
    pair: ModelPair,
    score: PromptScore,
    nlls: tuple[float, float],
    ordinary: OrdinaryPrompts | None,
) -> PromptEvaluation:
    measured, tokens = score.measurement, score.on_candidate
    written = [pair.chat.text(ids) for ids in score.continuations.candidate]
    metrics = {
        "kl_divergence": measured.value,
        "forward_kl": measured.forward,
        "reverse_kl": measured.reverse,
        "js": measured.js,
        "same_top_share": score.same_top_share,
        "perplexity_1": perplexity(torch.cat([scored.reference_logprobs for scored in tokens])),
        "perplexity_2": score.candidate_perplexity,
        "prompt_nll_1": nlls[0],
        "prompt_nll_2": nlls[1],
        **diversity(written).model_dump(exclude_none=True),
    }
    if ordinary is not None:
        metrics["effectiveness"] = measured.value - ordinary.mean
    return PromptEvaluation(
        prompt=str(score.prompt),
        generations_1=[pair.chat.text(ids) for ids in score.continuations.reference],
        generations_2=[
            Generation(
                text=text,
                perplexity_1=perplexity(scored.reference_logprobs),
                perplexity_2=perplexity(scored.candidate_logprobs),
            )
            for text, scored in zip(written, tokens, strict=True)
        ],
        metrics={name: value for name, value in metrics.items() if math.isfinite(value)},
    )
