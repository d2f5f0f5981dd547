"""How a soft prompt is trained: every choice, its default and its rule. Does not know models."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from pytest_divergence.core.errors import SettingsError
from pytest_divergence.core.settings import MetricName
from pytest_divergence.scoring.metrics import DIVERGENCES

Kind = Literal["free", "simplex"]
Objective = Literal["first_token", "continuation", "log_ratio", "likelihood"]
Position = Literal["before", "inside", "after"]
DEFAULT_LEARNING_RATES = {"free": 1e-2, "simplex": 0.3}
DEFAULT_NUM_STEPS = 60
COUNTS = (
    "num_virtual_tokens",
    "num_steps",
    "num_epochs",
    "batch_size",
    "max_text_tokens",
    "continuation_length",
    "validate_every",
    "checkpoint_every",
)
"""Fields that must be at least 1, where they are given."""


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How one soft prompt is trained. Raises `SettingsError` for a value that cannot work.

    A training is as long as `num_steps` or `num_epochs` says: give one of them, or neither.
    """

    kind: Kind = "free"
    """`free` vectors, or `simplex`: each virtual token a mixture of real token embeddings."""
    num_virtual_tokens: int = 8
    """Length of the soft prompt."""
    position: Position = "before"
    """Where the soft prompt stands in a user's turn: `before` the text, `inside` it (behind the
    first half of its tokens), or `after` it."""
    num_steps: int | None = None
    """Optimiser steps, each on texts drawn anew; default 60, without `num_epochs`."""
    num_epochs: int | None = None
    """Passes over the texts, each text once a pass: `num_epochs` x ceil(texts / `batch_size`)
    steps."""
    stop_after_growth: float | None = None
    """How far a step's mean objective lies above the first step's, in its unit, for that step to be
    the last one. Beyond a few nats a first token's divergence grows by leaving real text: measured
    to find hardly more, for more tokens."""
    batch_size: int = 16
    """Texts in one step; the last step of a pass takes what is left."""
    learning_rate: float | None = None
    """Adam's; default 1e-2 for `free` and 0.3 on the mixture logits for `simplex`."""
    objective: Objective = "first_token"
    """`first_token` or `continuation` (divergence, nats), `log_ratio` of `target_ids` after the
    text (nats per token), or `likelihood` of the texts under the reference (nats per token), of
    what stands behind the soft prompt."""
    target_ids: tuple[int, ...] = ()
    """The wanted answer of `log_ratio`."""
    continuation_length: int = 4
    """Tokens of the candidate's greedy answer over which `continuation` averages."""
    metric: MetricName = "symmetric"
    """Which built-in divergence, in nats: one that others add need not have a gradient."""
    entropy_weight: float = 0.0
    """Only for `simplex`: price of a nat of the mixtures' mean entropy, in nats of the objective,
    at the last step; it grows linearly from 0 at the first. Measured to lead to fewer finds."""
    max_text_tokens: int = 32
    """Longer texts are not trained on: a step costs their length. The end of the chat template's
    opening and what closes the user's turn count."""
    gradient_checkpointing: bool = False
    """Whether a step computes each layer a second time in its backward pass, in place of keeping
    what is inside it: less memory, for about a third more time. The chat template's opening is then
    read with each text."""
    validate_every: int = 10
    """Steps between two values of the validation curve."""
    checkpoint_every: int = 10
    """Steps between two checkpoints, where a checkpoint file is given."""
    seed: int = 0
    """Random seed of initialisation and batches."""

    def __post_init__(self) -> None:
        for name in COUNTS:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise SettingsError(f"{name}={value} must be at least 1")
        if self.kind not in DEFAULT_LEARNING_RATES:
            raise SettingsError(f"kind={str(self.kind)[:60]!r} must be free or simplex")
        if self.metric not in DIVERGENCES:
            raise SettingsError(
                f"metric={str(self.metric)[:60]!r} must be one of {', '.join(DIVERGENCES)}"
            )
        for name, choices in (("objective", get_args(Objective)), ("position", get_args(Position))):
            if getattr(self, name) not in choices:
                known = ", ".join(choices)
                raise SettingsError(
                    f"{name}={str(getattr(self, name))[:60]!r} must be one of {known}"
                )
        if (self.objective == "log_ratio") != bool(self.target_ids):
            raise SettingsError("target_ids and objective='log_ratio' go together; give both")
        if self.objective == "likelihood" and self.position == "after":
            raise SettingsError(
                "objective='likelihood' fits the text behind the soft prompt, and with "
                "position='after' there is none; use before or inside"
            )
        if self.num_steps is not None and self.num_epochs is not None:
            raise SettingsError(
                f"num_steps={self.num_steps} and num_epochs={self.num_epochs} both say how long "
                "the training is; give one of them"
            )
        if self.stop_after_growth is not None and not (0 < self.stop_after_growth < math.inf):
            raise SettingsError(
                f"stop_after_growth={self.stop_after_growth} must be positive and finite"
            )
        if not (0 < self.resolved_learning_rate < math.inf):
            raise SettingsError(f"learning_rate={self.learning_rate} must be positive and finite")
        if not (0 <= self.entropy_weight < math.inf):
            raise SettingsError(
                f"entropy_weight={self.entropy_weight} must be 0 or more and finite"
            )
        if self.entropy_weight and self.kind != "simplex":
            raise SettingsError(
                f"entropy_weight={self.entropy_weight} is a price on the mixtures of "
                f"kind='simplex', and with kind={self.kind!r} there are none; use kind='simplex', "
                "or entropy_weight=0"
            )

    @property
    def resolved_learning_rate(self) -> float:
        """The learning rate, or the kind's default."""
        if self.learning_rate is None:
            return DEFAULT_LEARNING_RATES[self.kind]
        return self.learning_rate

    def entropy_price(self, step: int, num_steps: int) -> float:
        """Price per nat of entropy in one of `num_steps` steps, counted from 0.

        Linear from 0 to `entropy_weight`: mixtures are to be explored before they are narrowed.
        """
        return self.entropy_weight * step / max(1, num_steps - 1)

    def steps_per_epoch(self, num_texts: int) -> int:
        """Steps that see each of `num_texts` texts once."""
        return math.ceil(num_texts / self.batch_size)

    def total_steps(self, num_texts: int) -> int:
        """Optimiser steps of a training on `num_texts` texts."""
        if self.num_epochs is None:
            return self.num_steps or DEFAULT_NUM_STEPS
        return self.num_epochs * self.steps_per_epoch(num_texts)
