"""Gradient ascent on the divergence of the two models, over a soft prompt.

Both models stay frozen; only the virtual tokens move. What is maximised, averaged over texts, is
one of four objectives: the divergence of the response's first token (cheap, and measured to make
the soft prompt a strong generator of prompts), that of a short continuation, the log-ratio of a
wanted answer, or the likelihood of the texts themselves.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from pytest_divergence.core.errors import NoGradientError, SettingsError
from pytest_divergence.core.settings import MetricName
from pytest_divergence.core.store import write_atomically
from pytest_divergence.discovery.soft_prompts import SoftPrompt, insert
from pytest_divergence.models.decoding import decode_greedily, row_seed
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.models.products import fast_products
from pytest_divergence.models.side import ModelSide
from pytest_divergence.scoring.metrics import DIVERGENCES
from pytest_divergence.scoring.screening import LEAST_LOG_PROB

Kind = Literal["free", "simplex"]
Objective = Literal["first_token", "continuation", "log_ratio", "likelihood"]
DEFAULT_LEARNING_RATES = {"free": 1e-2, "simplex": 0.3}


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How one soft prompt is trained. Raises `SettingsError` for a value that cannot work."""

    kind: Kind = "free"
    """`free` vectors, or `simplex`: each virtual token a mixture of real token embeddings."""
    num_virtual_tokens: int = 8
    """Length of the soft prompt."""
    num_steps: int = 60
    """Optimiser steps."""
    batch_size: int = 16
    """Texts in one step."""
    learning_rate: float | None = None
    """Adam's; default 1e-2 for `free` and 0.3 on the mixture logits for `simplex`."""
    objective: Objective = "first_token"
    """`first_token` or `continuation` (divergence, nats), `log_ratio` of `target_ids` after the
    text (nats per token), or `likelihood` of the texts under the reference (nats per token)."""
    target_ids: tuple[int, ...] = ()
    """The wanted answer of `log_ratio`."""
    continuation_length: int = 4
    """Tokens of the candidate's greedy answer over which `continuation` averages."""
    metric: MetricName = "symmetric"
    """Which built-in divergence, in nats: one that others add need not have a gradient."""
    max_text_tokens: int = 32
    """Longer texts are not trained on: a step costs their length."""
    validate_every: int = 10
    """Steps between two values of the validation curve."""
    checkpoint_every: int = 10
    """Steps between two checkpoints, where a checkpoint file is given."""
    seed: int = 0
    """Random seed of initialisation and batches."""

    def __post_init__(self) -> None:
        for name in (
            "num_virtual_tokens",
            "num_steps",
            "batch_size",
            "max_text_tokens",
            "continuation_length",
            "validate_every",
            "checkpoint_every",
        ):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name}={getattr(self, name)} must be at least 1")
        if self.kind not in DEFAULT_LEARNING_RATES:
            raise SettingsError(f"kind={self.kind!r} must be free or simplex")
        if self.metric not in DIVERGENCES:
            raise SettingsError(f"metric={self.metric!r} must be one of {', '.join(DIVERGENCES)}")
        if self.objective not in get_args(Objective):
            known = ", ".join(get_args(Objective))
            raise SettingsError(f"objective={self.objective!r} must be one of {known}")
        if (self.objective == "log_ratio") != bool(self.target_ids):
            raise SettingsError("target_ids and objective='log_ratio' go together; give both")
        if not (0 < self.resolved_learning_rate < math.inf):
            raise SettingsError(f"learning_rate={self.learning_rate} must be positive and finite")

    @property
    def resolved_learning_rate(self) -> float:
        """The learning rate, or the kind's default."""
        if self.learning_rate is None:
            return DEFAULT_LEARNING_RATES[self.kind]
        return self.learning_rate


@dataclass
class TrainingHistory:
    """What a training did, step by step; divergences in nats."""

    loss: list[float] = field(default_factory=list)
    """Minus the batch's mean objective, before each step."""
    validation: list[float] = field(default_factory=list)
    """Mean objective on the validation texts; the last one is of the finished soft prompt."""
    gradient_norms: list[float] = field(default_factory=list)


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
    With `checkpoint` the training goes on from that file where it is of the same config and texts,
    and writes it as it goes. Raises `SettingsError` without usable texts, `NoGradientError` where
    no gradient, or one that is not finite, reaches the soft prompt.
    """
    rows = _training_rows(pair, texts, config.max_text_tokens)
    validation_rows = _training_rows(pair, validation_texts or texts, config.max_text_tokens)
    if initial is not None and config.kind != "free":
        raise SettingsError("initial is for kind='free'; a simplex starts at mixtures of tokens")
    start = _initial_parameter(pair, config) if initial is None else initial.float().clone()
    parameter = start.to(pair.device).requires_grad_(True)
    optimiser = torch.optim.Adam([parameter], lr=config.resolved_learning_rate)
    run = _Training(pair, config, rows, validation_rows, parameter, optimiser)
    if checkpoint is not None:
        run.resume(checkpoint)
    for step in range(len(run.history.loss), config.num_steps):
        run.take_step(step)
        if checkpoint is not None and (step + 1) % config.checkpoint_every == 0:
            run.save(checkpoint)
        on_step(step + 1, config.num_steps)
    run.validate()
    with torch.no_grad():
        prompt_embeds = run.prompt_embeds(pair.reference).detach().float().cpu()
    return TrainingResult(
        SoftPrompt(name, prompt_embeds, asdict(config)), run.history, run.final_divergence()
    )


@dataclass
class _Training:
    pair: ModelPair
    config: TrainingConfig
    rows: list[Tensor]
    validation_rows: list[Tensor]
    parameter: Tensor
    optimiser: torch.optim.Adam
    history: TrainingHistory = field(default_factory=TrainingHistory)

    def __post_init__(self) -> None:
        self.tokens_before = self.pair.tokens_forwarded

    @property
    def key(self) -> str:
        """All that a checkpoint depends on: config, models and texts as token ids."""
        models = self.pair.reference_identity, self.pair.candidate_identity
        rows = [row.tolist() for row in (*self.rows, *self.validation_rows)]
        weights = [one.weights_sha256 for one in models]
        parts = [asdict(self.config), weights, self.pair.chat.shared_prefix, len(self.rows), rows]
        return json.dumps(parts, sort_keys=True)

    def take_step(self, step: int) -> None:
        if step % self.config.validate_every == 0:
            self.validate()
        self.optimiser.zero_grad()
        loss = -self.values(self._batch(step)).mean()
        if loss.requires_grad:  # a model may cut its inputs off; the gradient check names it
            with fast_products():
                loss.backward()  # type: ignore[no-untyped-call]
        value = float(loss.detach())
        norm = self._checked_gradient_norm(step, value)
        self.optimiser.step()
        self.history.loss.append(value)
        self.history.gradient_norms.append(norm)

    def values(self, rows: Sequence[Tensor]) -> Tensor:
        """What is maximised, of each row: (B,)."""
        objective = self.config.objective
        if objective == "first_token":
            return self.divergence(rows)
        if objective == "continuation":
            return self._continuation_divergence(rows)
        if objective == "log_ratio":
            return self._log_ratio(rows)
        return self._likelihood(rows)

    def divergence(self, rows: Sequence[Tensor]) -> Tensor:
        """Divergence of the first response token of each row, nats: (B,)."""
        reference, candidate = (self._logits(side, rows, [()] * len(rows)) for side in self.sides)
        return DIVERGENCES[self.config.metric](reference, candidate)[:, 0]

    @property
    def sides(self) -> tuple[ModelSide, ModelSide]:
        return self.pair.sides

    def _logits(
        self, side: ModelSide, rows: Sequence[Tensor], answers: Sequence[Sequence[int]]
    ) -> Tensor:
        """Logits that predict each answer's tokens, and the one after: (B, T + 1, V).

        Answers are of one length T.
        """
        soft = self.prompt_embeds(side)
        bodies = [
            insert(side, soft, torch.cat([row, torch.tensor(answer, dtype=torch.long)]))
            for row, answer in zip(rows, answers, strict=True)
        ]
        prefix = self.pair.chat.shared_prefix
        logits = side.logits(bodies, prefix=prefix, num_logits=len(answers[0]) + 1)
        return logits.to(self.parameter.device)

    def _continuation_divergence(self, rows: Sequence[Tensor]) -> Tensor:
        """Mean over the first tokens of the candidate's greedy answer, nats per token: (B,)."""
        candidate = self.pair.candidate
        with torch.no_grad():
            soft = self.prompt_embeds(candidate)
            answers = (
                decode_greedily(
                    candidate,
                    [insert(candidate, soft, row) for row in rows],
                    prefix=self.pair.chat.shared_prefix,
                    max_new_tokens=self.config.continuation_length - 1,
                    stop_ids=frozenset(),  # all of one length
                )
                if self.config.continuation_length > 1
                else [[]] * len(rows)
            )
        logits = [self._logits(side, rows, answers) for side in self.sides]
        return DIVERGENCES[self.config.metric](*logits).mean(-1)

    def _log_ratio(self, rows: Sequence[Tensor]) -> Tensor:
        """Of the wanted answer, nats per token, the reference's part bounded: (B,)."""
        target = self.config.target_ids
        index = torch.tensor(target, device=self.parameter.device)
        reference, candidate = (
            self._logits(side, rows, [target[:-1]] * len(rows))
            .log_softmax(-1)
            .gather(-1, index.expand(len(rows), -1)[..., None])[..., 0]
            for side in self.sides
        )
        return (candidate - reference.clamp(min=LEAST_LOG_PROB)).mean(-1)

    def _likelihood(self, rows: Sequence[Tensor]) -> Tensor:
        """Of the texts under the reference, and of their end, nats per token: (B,)."""
        side, suffix = self.pair.reference, self.pair.chat.user_suffix
        # The first token of the suffix ends the user's turn, and is written as the text is.
        texts = [row[: len(row) - len(suffix) + 1] if suffix else row for row in rows]
        soft = self.prompt_embeds(side)
        bodies = [insert(side, soft, text[:-1]) for text in texts]
        longest = max(map(len, texts)) - 1
        logits = side.logits(bodies, prefix=self.pair.chat.shared_prefix, num_logits=longest)
        return torch.stack(
            [
                one[len(one) - len(text) + 1 :]
                .log_softmax(-1)
                .gather(-1, text[1:, None].to(one.device))
                .mean()
                for one, text in zip(logits, texts, strict=True)
            ]
        )

    @torch.no_grad()
    def final_divergence(self) -> float | None:
        """Mean first-token divergence on the validation texts."""
        if self.config.objective == "likelihood":
            return None
        if self.config.objective == "first_token":
            return self.history.validation[-1]
        return float(self.divergence(self.validation_rows[: self.config.batch_size]).mean())

    def prompt_embeds(self, side: ModelSide) -> Tensor:
        """(num_virtual_tokens, D) in one model's embedding space."""
        if self.config.kind == "free":
            return self.parameter
        table = _embeddings(side)
        return self.parameter.softmax(-1).to(table.device, table.dtype) @ table

    @torch.no_grad()
    def validate(self) -> None:
        values = [
            self.values(self.validation_rows[start : start + self.config.batch_size])
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
        """Go on from a checkpoint of the same training; any other file is left alone."""
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
        # What was spent before counts too, so that a budget ends where an unbroken run's does.
        self.pair.reference.meter.tokens_forwarded += int(metadata["tokens"])
        with torch.no_grad():
            self.parameter.copy_(tensors.pop("parameter"))
        device = self.parameter.device
        step = tensors.pop("step")  # Adam keeps its step count on the CPU
        moments = {name: tensor.to(device) for name, tensor in tensors.items()}
        self.optimiser.state[self.parameter] = {"step": step, **moments}

    def _batch(self, step: int) -> list[Tensor]:
        generator = torch.Generator().manual_seed(row_seed(self.config.seed, "batch", step))
        order = torch.randperm(len(self.rows), generator=generator)
        return [self.rows[index] for index in order[: self.config.batch_size].tolist()]

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


def _training_rows(pair: ModelPair, texts: Sequence[str], max_tokens: int) -> list[Tensor]:
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


def _initial_parameter(pair: ModelPair, config: TrainingConfig) -> Tensor:
    """Random real tokens: their embeddings, or mixtures that put most weight on them."""
    table = _embeddings(pair.reference)
    generator = torch.Generator().manual_seed(row_seed(config.seed, "initial tokens"))
    chosen = torch.randint(len(table), (config.num_virtual_tokens,), generator=generator)
    if config.kind == "free":
        return table[chosen.to(table.device)].float().clone()
    mixture = torch.zeros(config.num_virtual_tokens, len(table), device=table.device)
    # ln V on one token of V gives it half of the weight: real text, and still free to move.
    mixture[torch.arange(config.num_virtual_tokens), chosen] = math.log(len(table))
    return mixture


@torch.no_grad()
def _embeddings(side: ModelSide) -> Tensor:
    """All tokens as the model embeds them: some models scale their table's rows."""
    return side.embed(torch.arange(side.vocab_size))
