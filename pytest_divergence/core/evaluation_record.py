"""Measurements of two models on given prompts, as one plain value.

Does not know how they are measured or shown, nor what each metric says
(`pytest_divergence.core.evaluation_metrics`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from pydantic import Field

from pytest_divergence.core.behaviours import Rate
from pytest_divergence.core.cases import Count, Number, PositiveNumber, Record
from pytest_divergence.core.errors import SettingsError, one_of
from pytest_divergence.core.report import Difference


class Diversity(Record):
    """Diversity of a set of texts."""

    distinct_1: Rate | None = None
    """Different words over all words (distinct-n; Li et al. 2016, arXiv:1510.03055); None where
    there is no word."""
    distinct_2: Rate | None = None
    """Different pairs of words over all pairs; None where no text has two words."""
    self_similarity: Rate | None = None
    """Mean Jaccard similarity of two texts' character 4-grams; None for a single text."""


class Generation(Record):
    """One text that model 2 wrote, and how surprising each model finds it.

    A perplexity above the largest float, about 1.8e308, is given as that float.
    """

    text: str
    perplexity_1: PositiveNumber
    perplexity_2: PositiveNumber


class PromptEvaluation(Record):
    """One prompt, with what both models wrote and all that was measured."""

    prompt: str
    generations_1: list[str]
    generations_2: list[Generation]
    metrics: dict[str, Number]
    """Values by the names of `evaluation_metrics.METRICS`."""


class OrdinaryPrompts(Record):
    """Divergence of ordinary prompts, measured like the evaluated ones, in nats per token."""

    num_prompts: Count
    mean: Number
    max: Number


class Evaluation(Record):
    """Two models on a list of prompts."""

    model_1: str
    model_2: str
    metric: str
    """Name of the divergence in `kl_divergence`."""
    prompts: list[PromptEvaluation]
    """Prompts in the order in which they were given."""
    differences: list[Difference] = Field(default_factory=list)
    """Types of difference between the models' first generations, the most frequent first."""
    ordinary: OrdinaryPrompts | None = None
    prompt_diversity: Diversity
    diversity_1: Diversity
    """Diversity of all that model 1 wrote."""
    diversity_2: Diversity

    @property
    def by_divergence(self) -> list[PromptEvaluation]:
        """The prompts, the most divergent first."""
        return sorted(self.prompts, key=lambda prompt: -prompt.metrics["kl_divergence"])


def passing(
    rows: Sequence[Mapping[str, float]],
    min_metrics: Mapping[str, float],
    max_metrics: Mapping[str, float],
) -> list[int]:
    """Return the indices of the rows within all limits; a metric that a row lacks is outside.

    Raises `SettingsError` for a metric that no row has, and if no row is left.
    """
    known = sorted({name for row in rows for name in row})
    for argument, limits in (("min_metrics", min_metrics), ("max_metrics", max_metrics)):
        for name in limits:
            if name not in known:
                raise SettingsError(f"{argument}: {name!r} {one_of(name, known)}")
    kept = [
        index
        for index, row in enumerate(rows)
        if all(row.get(name, -math.inf) >= limit for name, limit in min_metrics.items())
        and all(row.get(name, math.inf) <= limit for name, limit in max_metrics.items())
    ]
    if not kept:
        ranges = ", ".join(_range(rows, name) for name in sorted({*min_metrics, *max_metrics}))
        raise SettingsError(
            f"none of {len(rows)} rows lies within min_metrics={dict(min_metrics)} and "
            f"max_metrics={dict(max_metrics)}; they have {ranges}"
        )
    return kept


def _range(rows: Sequence[Mapping[str, float]], name: str) -> str:
    values = [row[name] for row in rows if name in row]
    return f"{name} from {min(values):.4g} to {max(values):.4g}"
