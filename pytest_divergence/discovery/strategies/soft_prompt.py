"""`soft_prompt`, the core: trained soft prompts as generators of hard prompts.

Which kind of soft prompt works depends on the pair, so restarts of different kinds take turns.
"""

from __future__ import annotations

from collections.abc import Sequence

from pytest_divergence.core.report import TrainingSummary
from pytest_divergence.discovery.proposals import Proposal
from pytest_divergence.discovery.soft_prompts import CHECKPOINT_SUFFIX, generate_prompts
from pytest_divergence.discovery.strategies.base import SearchContext
from pytest_divergence.discovery.training import Kind, TrainingConfig, train_soft_prompt
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.scoring.scorer import first_token_scores

KINDS: tuple[Kind, ...] = ("free", "simplex")
NUM_VALIDATION = 8


class SoftPromptStrategy:
    """Proposes prompts written after a soft prompt that was trained to part the models."""

    def propose(self, pair: ModelPair, context: SearchContext) -> Sequence[Proposal]:
        """Train one restart and let both models write prompts after it."""
        profile = context.profile
        # Identical models have no gradient to follow, and nothing to find.
        if context.round >= profile.num_restarts or pair.is_same_model:
            return []
        config = TrainingConfig(
            kind=KINDS[context.round % len(KINDS)],
            num_virtual_tokens=profile.num_virtual_tokens,
            num_steps=profile.num_steps,
            batch_size=profile.batch_size,
            max_text_tokens=profile.max_text_tokens,
            validate_every=max(1, profile.num_steps // 2),
            metric=context.metric,
            seed=context.seed,
        )
        name = f"restart-{context.round + 1}-{config.kind}"
        phase = f"train soft prompt {context.round + 1}/{profile.num_restarts}"
        result = train_soft_prompt(
            pair,
            config,
            context.seeds[NUM_VALIDATION:] or context.seeds,
            context.seeds[:NUM_VALIDATION],
            name=name,
            checkpoint=context.artefacts / f"{name}{CHECKPOINT_SUFFIX}",
            on_step=lambda done, total: context.listener.progress(phase, done, total),
        )
        result.soft_prompt.save(context.artefacts / f"{name}.safetensors")
        texts = generate_prompts(
            pair,
            result.soft_prompt.prompt_embeds,
            num_prompts=profile.num_proposals,
            max_new_tokens=profile.prompt_length,
            seed=context.seed,
        )
        d_hard = first_token_scores(pair, texts, metric=context.metric)
        context.record_training(
            TrainingSummary(
                name=name,
                loss=result.history.loss,
                validation=result.history.validation,
                d_soft=result.d_soft,
                d_hard=sum(d_hard) / len(d_hard) if d_hard else None,
            )
        )
        return [Proposal(text, "soft_prompt", name) for text in texts]
