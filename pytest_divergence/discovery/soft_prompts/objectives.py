"""Objectives of a soft prompt's training on rows of ids: four, each to be maximised.

The divergence of the response's first token (cheap, and measured to make the soft prompt a strong
generator of prompts), that of a short continuation, the log-ratio of a wanted answer, or the
likelihood of the texts themselves. Knows no optimiser.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from pytest_divergence.core.errors import SettingsError
from pytest_divergence.discovery.soft_prompts.training_config import TrainingConfig
from pytest_divergence.discovery.soft_prompts.virtual_tokens import insert, place_in
from pytest_divergence.models.decoding import decode_greedily, row_seed
from pytest_divergence.models.pair import ModelPair, with_gradients
from pytest_divergence.models.side import LazyLogits, SideWithGradients
from pytest_divergence.scoring.cheap_scores import LEAST_LOG_PROB
from pytest_divergence.scoring.metrics import DIVERGENCES
from pytest_divergence.scoring.teacher_forcing import measured, token_log_probs


@dataclass(frozen=True)
class SoftPromptObjective:
    """The objective of one training, as a function of what is trained."""

    pair: ModelPair
    config: TrainingConfig
    parameter: Tensor
    """(num_virtual_tokens, D) vectors, or (num_virtual_tokens, vocab) mixture logits."""

    @cached_property
    def sides(self) -> tuple[SideWithGradients, SideWithGradients]:
        """Reference and candidate; raises `NoGradientError` where one gives no gradients."""
        reference, candidate = self.pair.sides
        return with_gradients(self.pair, reference), with_gradients(self.pair, candidate)

    def prompt_embeds(self, side: SideWithGradients) -> Tensor:
        """Return the soft prompt in one model's embedding space: (num_virtual_tokens, D)."""
        if self.config.kind == "free":
            return self.parameter
        table = _embeddings(side)
        return self.parameter.softmax(-1).to(table.device, table.dtype) @ table

    def entropy(self) -> Tensor:
        """Return the mean Shannon entropy of the virtual tokens' mixtures, nats: ().

        0 for a real token, ln V for V equal weights. Raises `SettingsError` for a free soft prompt.
        """
        if self.config.kind != "simplex":
            raise SettingsError(
                f"kind={self.config.kind!r} has no mixtures, so no entropy; use kind='simplex'"
            )
        logs = self.parameter.log_softmax(-1)
        return -(logs.exp() * logs).sum(-1).mean()

    def values(self, rows: Sequence[Tensor]) -> Tensor:
        """Return the objective of each row, which a training maximises: (B,)."""
        objective = self.config.objective
        if objective == "first_token":
            return self.divergence(rows)
        if objective == "continuation":
            return self._continuation_divergence(rows)
        if objective == "log_ratio":
            return self._log_ratio(rows)
        return self._likelihood(rows)

    def divergence(self, rows: Sequence[Tensor]) -> Tensor:
        """Return the divergence of the first response token of each row, nats: (B,)."""
        return self._divergences(rows, [()] * len(rows))[:, 0]

    def _divergences(self, rows: Sequence[Tensor], answers: Sequence[Sequence[int]]) -> Tensor:
        """Return the divergence of each answer's tokens and of the one after, nats: (B, T + 1)."""
        formula = DIVERGENCES[self.config.metric]

        def measure(_: slice, reference: Tensor, candidate: Tensor) -> Tensor:
            return formula(reference, candidate.to(reference.device))

        both = [self._positions(side, rows, answers) for side in self.sides]
        return measured(measure, *both).view(len(rows), -1)

    def _positions(
        self, side: SideWithGradients, rows: Sequence[Tensor], answers: Sequence[Sequence[int]]
    ) -> LazyLogits:
        """Return the positions that predict each answer's tokens and the one after: B x (T + 1).

        Answers are of one length T.
        """
        soft = self.prompt_embeds(side)
        bodies = [
            self._insert(side, soft, row, answer) for row, answer in zip(rows, answers, strict=True)
        ]
        return self._read(side, bodies, len(answers[0]) + 1)

    def _read(
        self, side: SideWithGradients, bodies: Sequence[Tensor], num_positions: int
    ) -> LazyLogits:
        """Return the last positions of each row of embeddings, after the chat prefix."""
        prefix = self.pair.chat.shared_prefix
        if not (self.config.gradient_checkpointing and torch.is_grad_enabled()):
            return side.positions(bodies, prefix=prefix, num_positions=num_positions)
        with side.checkpointed_layers():
            opening = side.embed(torch.tensor(prefix, dtype=torch.long))
            rows = [torch.cat([opening, body]) for body in bodies]
            return side.positions(rows, num_positions=num_positions)

    def _continuation_divergence(self, rows: Sequence[Tensor]) -> Tensor:
        """Return the mean over the candidate's first greedy tokens, nats per token: (B,)."""
        candidate = self.sides[1]
        with torch.no_grad():
            soft = self.prompt_embeds(candidate)
            answers = (
                decode_greedily(
                    candidate,
                    [self._insert(candidate, soft, row) for row in rows],
                    prefix=self.pair.chat.shared_prefix,
                    max_new_tokens=self.config.continuation_length - 1,
                    stop_ids=frozenset(),  # all of one length
                )
                if self.config.continuation_length > 1
                else [[]] * len(rows)
            )
        return self._divergences(rows, answers).mean(-1)

    def _log_ratio(self, rows: Sequence[Tensor]) -> Tensor:
        """Return the target's log-ratio, nats per token, the reference's part bounded: (B,)."""
        target = self.config.target_ids
        ids = torch.tensor(target).repeat(len(rows))
        reference, candidate = (
            token_log_probs(side, self._positions(side, rows, [target[:-1]] * len(rows)), ids)
            .view(len(rows), -1)
            .to(self.parameter.device)
            for side in self.sides
        )
        return (candidate - reference.clamp(min=LEAST_LOG_PROB)).mean(-1)

    def _likelihood(self, rows: Sequence[Tensor]) -> Tensor:
        """Return each text's log-likelihood under the reference after the soft prompt: (B,).

        In nats per token; the text's end counts.
        """
        side, suffix = self.sides[0], self.pair.chat.user_suffix
        places = [self._place(row) for row in rows]
        # The first token of the suffix ends the user's turn, and is written as the text is.
        texts = [row[: len(row) - len(suffix) + 1] if suffix else row for row in rows]
        soft = self.prompt_embeds(side)
        bodies = [
            insert(side, soft, text[:-1], at=at) for text, at in zip(texts, places, strict=True)
        ]
        fitted = [text[at:] for text, at in zip(texts, places, strict=True)]
        longest = max(map(len, fitted))
        positions = self._read(side, bodies, longest)
        predicted = [
            index * longest + torch.arange(longest - len(ids), longest)
            for index, ids in enumerate(fitted)
        ]
        logprobs = token_log_probs(side, positions.at(torch.cat(predicted)), torch.cat(fitted))
        of_texts = torch.split(logprobs, list(map(len, fitted)))
        return torch.stack([of_text.mean() for of_text in of_texts])

    def _insert(
        self, side: SideWithGradients, soft: Tensor, row: Tensor, answer: Sequence[int] = ()
    ) -> Tensor:
        """Embed a prompt with the soft prompt in its place, and an answer after it."""
        ids = torch.cat([row, torch.tensor(answer, dtype=torch.long)])
        return insert(side, soft, ids, at=self._place(row))

    def _place(self, row: Tensor) -> int:
        return place_in(self.pair.chat, row, self.config.position)


@torch.no_grad()
def initial_parameter(pair: ModelPair, config: TrainingConfig) -> Tensor:
    """Draw random real tokens: their embeddings, or mixtures that put most weight on them."""
    side = with_gradients(pair, pair.reference)
    num_tokens, vocab_size = config.num_virtual_tokens, side.vocab_size
    generator = torch.Generator().manual_seed(row_seed(config.seed, "initial tokens"))
    chosen = torch.randint(vocab_size, (num_tokens,), generator=generator)
    embeds = side.embed(chosen)
    if config.kind == "free":
        return embeds.float()
    mixture = torch.zeros(num_tokens, vocab_size, device=embeds.device)
    # ln V on one token of V gives it half of the weight: real text, and still free to move.
    mixture[torch.arange(num_tokens), chosen] = math.log(vocab_size)
    return mixture


@torch.no_grad()
def _embeddings(side: SideWithGradients) -> Tensor:
    """Embed all tokens as the model does: some models scale their table's rows."""
    return side.embed(torch.arange(side.vocab_size))
