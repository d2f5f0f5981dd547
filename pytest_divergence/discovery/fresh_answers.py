"""Fresh answers: one of each model to given prompts, sampled, that took no part in a search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from pytest_divergence.core.settings import Profile, Settings
from pytest_divergence.discovery.evidence import Answered
from pytest_divergence.discovery.units import WorkUnits
from pytest_divergence.models.decoding import row_seed
from pytest_divergence.models.fingerprints import text_digest
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.scoring.answers import Answer
from pytest_divergence.scoring.scorer import score_prompts


def fresh_answers(
    units: WorkUnits,
    prompts: Sequence[str],
    settings: Settings,
    profile: Profile,
    *,
    about: str,
) -> list[Answered]:
    """Answers sampled at T = 1, in one work unit; `about` is the id of what they shall test."""
    digest = text_digest("\n".join(prompts))[:8]
    rows = units.do(
        f"behaviour/{about}/{digest}", partial(_sample, prompts, settings, profile, digest)
    )
    return [
        Answered(row["prompt"], row["reference"], Answer.from_row(row["candidate"]), False)
        for row in rows
    ]


def _sample(
    prompts: Sequence[str], settings: Settings, profile: Profile, name: str, pair: ModelPair
) -> list[dict[str, Any]]:
    scores = score_prompts(
        pair,
        prompts,
        metric=settings.metric,
        num_continuations=1,
        max_new_tokens=profile.naming_length,
        seed=row_seed(settings.seed, "behaviours", name),
    )
    return [
        {
            "prompt": prompt,
            "reference": pair.chat.text(score.continuations.reference[0]),
            "candidate": asdict(
                Answer.of(pair.chat, score.continuations.candidate[0], score.log_ratios)
            ),
        }
        for prompt, score in zip(prompts, scores, strict=True)
    ]
