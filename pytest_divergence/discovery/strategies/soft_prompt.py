"""`soft_prompt`, the core: trained soft prompts as generators of hard prompts.

The kind of soft prompt that works depends on the pair, so restarts of different kinds take turns;
then the kind that found the most for its cost is chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pytest_divergence.core.report import TrainingSummary
from pytest_divergence.discovery.generation import generate_prompts
from pytest_divergence.discovery.proposals import Proposal, clean
from pytest_divergence.discovery.soft_prompts.training import (
    TrainingResult,
    train_soft_prompt,
    width_difference,
)
from pytest_divergence.discovery.soft_prompts.training_config import Kind, Objective, TrainingConfig
from pytest_divergence.discovery.soft_prompts.virtual_tokens import CHECKPOINT_SUFFIX
from pytest_divergence.discovery.strategies.protocol import (
    RoundTask,
    SearchContext,
    TargetPhrase,
    most_paying,
)
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.models.side import SideWithGradients
from pytest_divergence.scoring.cheap_scores import beginning, first_token_scores
from pytest_divergence.scoring.metrics import built_in_metric

NUM_VALIDATION = 8
ENOUGH_GROWTH = 6.0
"""Growth of the divergence, in nats, at which a training ends: by then the models part at the first
token, and more steps only leave real text, and lead to hardly more finds."""
MIN_ELITE = 8
"""Fewest prompts to fit to."""
ELITE_LEARNING_RATE = 2e-2
ELITE_STEPS_SHARE = 0.5
"""Share of a restart's steps that each fit to the elite takes."""
NUM_FITS = 2
"""Times that an elite-fitted restart is fitted, generates and is scored."""
MIN_CAUSES = 4
"""Prompts that make the candidate say a phrase at which an aimed restart is fitted to them: a soft
prompt trained on the phrase's log-ratio needs none, but seldom leads to text that causes it."""


@dataclass(frozen=True)
class Variant:
    """One way to train a soft prompt."""

    name: str
    kind: Kind
    objective: Objective
    length_factor: float = 1.0
    """Factor of the profile's `num_virtual_tokens`."""


FREE = Variant("free", "free", "first_token")
AIMED = Variant("aimed", "free", "log_ratio")
ELITE = Variant("elite", "free", "likelihood")
VARIANTS = (
    FREE,
    AIMED,
    ELITE,
    Variant("simplex", "simplex", "first_token"),
    Variant("free-long", "free", "first_token", 2.0),
    Variant("continuation", "free", "continuation"),
    Variant("simplex-short", "simplex", "first_token", 0.5),
)
"""In the order of their first turns."""
BY_NAME = {variant.name: variant for variant in VARIANTS}


class SoftPromptStrategy:
    """Proposes prompts written after a soft prompt that was trained to part the models."""

    def next_variant(self, task: RoundTask) -> str:
        """Return the name of the variant that the round trains."""
        return choose(task).name

    def propose(self, pair: ModelPair, context: SearchContext) -> Sequence[Proposal]:
        """Train one restart and let both models write prompts after it."""
        # Identical models have no gradient to follow, and nothing to find.
        if context.round >= context.profile.num_restarts or pair.is_same_model:
            return []
        if obstacle := _closed(pair) or width_difference(pair):
            context.listener.say(
                f"{obstacle}: soft prompts are skipped, and the other strategies continue"
            )
            return []
        variant = choose(context)
        target = _target(context) if variant is AIMED else None
        aim = target.text if target else ""
        name = f"restart-{context.round + 1}-{variant.name}"
        if variant is ELITE:
            texts, result = _fit_elite(pair, context, name)
        elif target and len(target.prompts) >= MIN_CAUSES:
            texts, result = _fit_causes(pair, context, name, target)
        else:
            result = _train(pair, context, variant, name, _objective(pair, variant, aim))
            texts = _write(pair, context, result.soft_prompt.prompt_embeds)
        result.soft_prompt.save(context.artefacts / f"{name}.safetensors")
        context.record_training(
            TrainingSummary(
                name=name,
                loss=result.history.loss,
                validation=result.history.validation,
                d_soft=result.d_soft,
            )
        )
        return [
            Proposal(text, "soft_prompt", name, variant=variant.name, aim=aim) for text in texts
        ]


def _closed(pair: ModelPair) -> str:
    """Name the models whose inputs no gradient reaches; empty if there are none."""
    closed = [
        side.role
        for side in pair.sides
        if not (isinstance(side, SideWithGradients) and side.passes_gradients())
    ]
    if not closed:
        return ""
    why = "which a server runs" if pair.is_served else "as in some quantised models"
    return f"no gradient reaches the inputs of the {' and the '.join(closed)}, {why}"


def choose(context: RoundTask) -> Variant:
    """Return a variant that has not had its turn, else the one that found the most for its cost.

    An aimed one comes first, for a suspected phrase that some known prompts cause.
    """
    if any(_is_within_reach(target) for target in context.targets):
        return AIMED
    # Under a new style the first token's divergence measures the style alone.
    order = sorted(VARIANTS, key=lambda variant: context.has_new_style and variant is not AIMED)
    possible = [
        variant.name
        for variant in order
        if (variant is not AIMED or context.targets)
        and (variant is not ELITE or len(context.best) >= MIN_ELITE)
    ]
    tried = [(past.variant, past) for past in context.rounds]
    untried = (name for name in possible if name not in dict(tried))
    return BY_NAME[next(untried, None) or most_paying(possible, tried)]


def _objective(pair: ModelPair, variant: Variant, aim: str) -> dict[str, Any]:
    if variant is not AIMED:
        return {"objective": variant.objective, "stop_after_growth": ENOUGH_GROWTH}
    return {"objective": variant.objective, "target_ids": tuple(beginning(pair, aim))}


def _target(context: SearchContext) -> TargetPhrase:
    """Choose a suspected phrase within reach, else take turns, confirmed phrases first."""
    near = [target for target in context.targets if _is_within_reach(target)]
    targets = near or context.targets
    turn = sum(past.variant == AIMED.name for past in context.rounds)
    return targets[turn % len(targets)]


def _is_within_reach(target: TargetPhrase) -> bool:
    return not target.is_supported and len(target.prompts) >= MIN_CAUSES


def _train(
    pair: ModelPair,
    context: SearchContext,
    variant: Variant,
    name: str,
    objective: dict[str, Any],
) -> TrainingResult:
    profile = context.profile
    validation, texts = _split(context)
    config = TrainingConfig(
        kind=variant.kind,
        num_virtual_tokens=max(1, round(variant.length_factor * profile.num_virtual_tokens)),
        num_steps=profile.num_steps,
        batch_size=profile.batch_size,
        max_text_tokens=_max_text_tokens(pair, context),
        validate_every=profile.num_steps,
        metric=built_in_metric(context.metric),
        seed=context.seed,
        **objective,
    )
    return train_soft_prompt(
        pair,
        config,
        texts,
        validation,
        name=name,
        checkpoint=context.artefacts / f"{name}{CHECKPOINT_SUFFIX}",
        on_step=lambda done, total: context.listener.progress(f"train {name}", done, total),
    )


def _max_text_tokens(pair: ModelPair, context: SearchContext) -> int:
    """Return the profile's limit, or more if a tokenizer with small pieces leaves too few seeds."""
    profile = context.profile
    validation, texts = _split(context)
    shortest = sorted(len(body) for _, body in pair.prompt_rows(texts))
    enough = shortest[min(len(shortest), profile.batch_size) - 1]
    least = min(len(body) for _, body in pair.prompt_rows(validation))
    return max(profile.max_text_tokens, enough, least)


def _split(context: SearchContext) -> tuple[Sequence[str], Sequence[str]]:
    """Split the seeds into those to validate on, and those to train on."""
    seeds = context.seeds
    return seeds[:NUM_VALIDATION], seeds[NUM_VALIDATION:] or seeds


def _fit_causes(
    pair: ModelPair, context: SearchContext, name: str, target: TargetPhrase
) -> tuple[list[str], TrainingResult]:
    """Fit to the prompts that make the candidate say a phrase; let both models write more."""
    causes = target.prompts[: context.profile.num_elite]
    result = _fit(pair, context, name, causes)
    return _write(pair, context, result.soft_prompt.prompt_embeds), result


def _fit(
    pair: ModelPair,
    context: SearchContext,
    name: str,
    texts: Sequence[str],
    *,
    turn: int = 0,
    start: Tensor | None = None,
) -> TrainingResult:
    """Make texts likely after a soft prompt."""
    profile = context.profile
    shortest = min(len(body) for _, body in pair.prompt_rows(texts))
    config = TrainingConfig(
        num_virtual_tokens=profile.num_virtual_tokens,
        num_steps=max(1, round(ELITE_STEPS_SHARE * profile.num_steps)),
        batch_size=profile.batch_size,
        # No prompt that was written is too long, but a user's own seeds may all be.
        max_text_tokens=max(10 * profile.max_text_tokens, shortest),
        validate_every=profile.num_steps,
        learning_rate=ELITE_LEARNING_RATE,
        objective="likelihood",
        metric=built_in_metric(context.metric),
        seed=context.seed + turn,
    )
    return train_soft_prompt(pair, config, texts, name=name, initial=start)


def _fit_elite(
    pair: ModelPair, context: SearchContext, name: str
) -> tuple[list[str], TrainingResult]:
    """Fit to the best prompts by likelihood, write more, keep the best of all, and repeat."""
    profile = context.profile
    elite = list(context.best[: profile.num_elite])
    written: list[str] = []
    start: Tensor | None = None
    for turn in range(NUM_FITS):
        result = _fit(pair, context, name, elite, turn=turn, start=start)
        start = result.soft_prompt.prompt_embeds
        written += _write(pair, context, start, turn=turn, share=NUM_FITS)
        if turn + 1 < NUM_FITS:
            proposals = clean(Proposal(text, "") for text in (*elite, *written))
            pool = [proposal.text for proposal in proposals]
            scores = first_token_scores(pair, pool, metric=context.metric)
            order = sorted(range(len(pool)), key=lambda index: -scores[index])
            elite = [pool[index] for index in order[: profile.num_elite]]
        context.listener.progress(f"train {name}", turn + 1, NUM_FITS)
    return written, result


def _write(
    pair: ModelPair, context: SearchContext, prompt_embeds: Tensor, turn: int = 0, share: int = 1
) -> list[str]:
    return generate_prompts(
        pair,
        prompt_embeds,
        num_prompts=max(1, context.profile.num_proposals // share),
        max_new_tokens=context.profile.prompt_length,
        seed=context.seed + turn,
    )
