"""Gradient ascent on the divergence of the two models, over a soft prompt.

Both models stay frozen; only the virtual tokens move. Maximises the mean of an objective
(`pytest_divergence.discovery.soft_prompts.objectives`) over texts, less a price on the entropy of
mixtures. Does not know what is written after the soft prompt.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from pytest_divergence.core.errors import NoGradientError, SettingsError
from pytest_divergence.core.files import write_atomically
from pytest_divergence.discovery.soft_prompts.objectives import (
    SoftPromptObjective,
    initial_parameter,
)
from pytest_divergence.discovery.soft_prompts.training_config import (
    TrainingConfig,
)
from pytest_divergence.discovery.soft_prompts.virtual_tokens import SoftPrompt
from pytest_divergence.models.decoding import row_seed
from pytest_divergence.models.forward import fast_matmul
from pytest_divergence.models.pair import ModelPair, with_gradients
from pytest_divergence.models.tokenizers import unlike_widths


@dataclass
class TrainingHistory:
    """Record of a training, step by step; divergences in nats."""

    loss: list[float] = field(default_factory=list)
    """Minus the batch's mean objective, before each step; without a price on entropy."""
    validation: list[float] = field(default_factory=list)
    """Mean objective on the validation texts; the last one is of the finished soft prompt."""
    gradient_norms: list[float] = field(default_factory=list)
    """Gradient norms of what a step minimises, a price on entropy included."""
    entropies: list[float] = field(default_factory=list)
    """Mean entropy of a simplex prompt's mixtures, nats, before each step; empty for a free one."""


@dataclass(frozen=True)
class TrainingResult:
    """The trained soft prompt and how it came about."""

    soft_prompt: SoftPrompt
    history: TrainingHistory
    d_soft: float | None
    """First-token divergence with the soft prompt in place, nats: reported, but it decides nothing.
    None where only texts were fitted."""


def train_soft_prompt(
    pair: ModelPair,
    config: TrainingConfig,
    texts: Sequence[str],
    validation_texts: Sequence[str] = (),
    *,
    name: str = "soft-prompt",
    checkpoint: Path | None = None,
    initial: Tensor | None = None,
    on_step: Callable[[int, int], None] = lambda done, total: None,
) -> TrainingResult:
    """Train one soft prompt over `texts`; validated on `validation_texts` (or on `texts`).

    `initial` (num_virtual_tokens, D) is where a free one starts, instead of at random tokens.
    With `checkpoint` the training continues from that file if it has the same config and texts, and
    keeps it up to date. Raises `SettingsError` without usable texts and for models whose embeddings
    differ in width, `NoGradientError` where no gradient, or one that is not finite, reaches the
    soft prompt.
    """
    if unlike := width_difference(pair):
        raise SettingsError(
            f"{unlike}, and a soft prompt must fit both; search without training: the other "
            "strategies need no soft prompt"
        )
    rows = training_rows(pair, texts, config.max_text_tokens)
    validation_rows = training_rows(pair, validation_texts or texts, config.max_text_tokens)
    if initial is not None and config.kind != "free":
        raise SettingsError(
            "initial needs kind='free'; kind='simplex' starts at mixtures of tokens"
        )
    start = initial_parameter(pair, config) if initial is None else initial.float().clone()
    parameter = start.to(pair.device).requires_grad_(True)
    optimiser = torch.optim.Adam([parameter], lr=config.resolved_learning_rate)
    objective = SoftPromptObjective(pair, config, parameter)
    run = _Training(pair, config, rows, validation_rows, objective, optimiser)
    if checkpoint is not None:
        run.resume(checkpoint)
    while not run.is_finished:
        run.take_step(run.num_done)
        if checkpoint is not None and run.num_done % config.checkpoint_every == 0:
            run.save(checkpoint)
        on_step(run.num_done, run.num_steps)
    run.validate()
    with torch.no_grad():
        prompt_embeds = objective.prompt_embeds(objective.sides[0]).detach().float().cpu()
    return TrainingResult(
        SoftPrompt(name, prompt_embeds, asdict(config)), run.history, run.final_divergence()
    )


def width_difference(pair: ModelPair) -> str:
    """Return how the models' embeddings differ in width, in words; empty where they do not.

    Raises `NoGradientError` for a side that gives no gradients.
    """
    token = torch.zeros(1, dtype=torch.long)
    reference, candidate = (with_gradients(pair, side).embed(token) for side in pair.sides)
    return unlike_widths(reference.shape[-1], candidate.shape[-1])


def training_rows(pair: ModelPair, texts: Sequence[str], max_tokens: int) -> list[Tensor]:
    """Return the texts that can be trained on, as ids after the shared prefix.

    Raises `SettingsError` where there are none.
    """
    rows = [
        body
        for prefix, body in pair.prompt_rows(texts)
        if prefix == pair.chat.shared_prefix and len(body) <= max_tokens
    ]
    if not rows:
        raise SettingsError(
            f"none of {len(texts)} texts can be trained on: each must be a single user turn of at "
            f"most max_text_tokens={max_tokens} tokens"
        )
    return rows


@dataclass
class _Training:
    pair: ModelPair
    config: TrainingConfig
    rows: list[Tensor]
    validation_rows: list[Tensor]
    objective: SoftPromptObjective
    optimiser: torch.optim.Adam
    history: TrainingHistory = field(default_factory=TrainingHistory)

    def __post_init__(self) -> None:
        self.parameter = self.objective.parameter
        self.tokens_before = self.pair.tokens_forwarded
        self.num_steps = self.config.total_steps(len(self.rows))

    @property
    def num_done(self) -> int:
        """Steps taken, those of a resumed checkpoint too."""
        return len(self.history.loss)

    @property
    def is_finished(self) -> bool:
        growth, loss = self.config.stop_after_growth, self.history.loss
        has_grown = growth is not None and bool(loss) and loss[0] - loss[-1] >= growth
        return has_grown or self.num_done >= self.num_steps

    @property
    def key(self) -> str:
        """All that a checkpoint depends on: config, models and texts as token ids."""
        models = self.pair.reference_identity, self.pair.candidate_identity
        rows = [row.tolist() for row in (*self.rows, *self.validation_rows)]
        weights = [model.weights_sha256 for model in models]
        parts = [asdict(self.config), weights, self.pair.chat.shared_prefix, len(self.rows), rows]
        return json.dumps(parts, sort_keys=True)

    def take_step(self, step: int) -> None:
        if step % self.config.validate_every == 0:
            self.validate()
        self.optimiser.zero_grad()
        loss = -self.objective.values(self._batch(step)).mean()
        value = float(loss.detach())
        entropies = []
        if self.config.kind == "simplex":
            entropy = self.objective.entropy()
            entropies = [float(entropy.detach())]
            price = self.config.entropy_price(step, self.num_steps)
            if price:  # the first step never has one: its gradient check sees the objective's alone
                loss = loss + price * entropy.to(loss.device)
        if loss.requires_grad:  # a model may cut its inputs off; the gradient check names it
            with fast_matmul():
                loss.backward()  # type: ignore[no-untyped-call]
        norm = self._checked_gradient_norm(step, value)
        self.optimiser.step()
        self.history.loss.append(value)
        self.history.gradient_norms.append(norm)
        self.history.entropies += entropies

    @torch.no_grad()
    def final_divergence(self) -> float | None:
        """Return the mean first-token divergence on the validation texts, nats.

        Where the training had another objective, one batch of them is measured; None where it was
        `likelihood`.
        """
        if self.config.objective == "likelihood":
            return None
        if self.config.objective == "first_token":
            return self.history.validation[-1]
        return float(
            self.objective.divergence(self.validation_rows[: self.config.batch_size]).mean()
        )

    @torch.no_grad()
    def validate(self) -> None:
        values = [
            self.objective.values(self.validation_rows[start : start + self.config.batch_size])
            for start in range(0, len(self.validation_rows), self.config.batch_size)
        ]
        self.history.validation.append(float(torch.cat(values).mean()))

    def save(self, path: Path) -> None:
        state = self.optimiser.state[self.parameter]
        tensors = {name: state[name].detach().clone() for name in ("exp_avg", "exp_avg_sq", "step")}
        tensors["parameter"] = self.parameter.detach().clone()
        tensors = {key: tensor.contiguous().cpu() for key, tensor in tensors.items()}
        metadata = {
            "key": self.key,
            "history": json.dumps(asdict(self.history)),
            "tokens": str(self.pair.tokens_forwarded - self.tokens_before),
        }
        write_atomically(path, save(tensors, metadata))

    def resume(self, path: Path) -> None:
        """Continue from a checkpoint of the same training; ignore any other file."""
        if not path.is_file():
            return
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("key") != self.key:
                    return
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError):
            return
        self.history = TrainingHistory(**json.loads(metadata["history"]))
        # Tokens spent before count too, so that a budget ends where an unbroken run's does.
        self.pair.reference.meter.tokens_forwarded += int(metadata["tokens"])
        with torch.no_grad():
            self.parameter.copy_(tensors.pop("parameter"))
        device = self.parameter.device
        step = tensors.pop("step")  # Adam keeps its step count on the CPU
        moments = {name: tensor.to(device) for name, tensor in tensors.items()}
        self.optimiser.state[self.parameter] = {"step": step, **moments}

    def _batch(self, step: int) -> list[Tensor]:
        """Draw new texts for each step, or return the step's part of a pass over all of them."""
        size, drawn, first = self.config.batch_size, step, 0
        if self.config.num_epochs is not None:
            drawn, index = divmod(step, self.config.steps_per_epoch(len(self.rows)))
            first = index * size
        generator = torch.Generator().manual_seed(row_seed(self.config.seed, "batch", drawn))
        order = torch.randperm(len(self.rows), generator=generator)
        return [self.rows[index] for index in order[first : first + size].tolist()]

    def _checked_gradient_norm(self, step: int, loss: float) -> float:
        gradient = self.parameter.grad
        norm = 0.0 if gradient is None else float(gradient.norm())
        if not math.isfinite(norm) or (step == 0 and norm == 0.0):
            raise NoGradientError(
                f"at step {step + 1} the soft prompt's gradient has norm {norm} (objective "
                f"{-loss:.4g} nats); it must be finite and not zero. Quantised models may pass no "
                "gradient to their inputs; models with non-finite weights pass NaN."
            )
        return norm
