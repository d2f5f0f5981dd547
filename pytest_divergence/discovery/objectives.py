"""What a soft prompt is trained for, on rows of ids: one of four objectives, each to be maximised.

The divergence of the response's first token (cheap, and measured to make the soft prompt a strong
generator of prompts), that of a short continuation, the log-ratio of a wanted answer, or the
likelihood of the texts themselves. Knows no optimiser.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pytest_divergence.discovery.soft_prompts import insert, place_in
from pytest_divergence.discovery.training_config import TrainingConfig
from pytest_divergence.models.decoding import decode_greedily, row_seed
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.models.side import ModelSide
from pytest_divergence.scoring.metrics import DIVERGENCES
from pytest_divergence.scoring.screening import LEAST_LOG_PROB


@dataclass(frozen=True)
class SoftPromptObjective:
    """The objective of one training, as a function of what is trained."""

    pair: ModelPair
    config: TrainingConfig
    parameter: Tensor
    """(num_virtual_tokens, D) vectors, or (num_virtual_tokens, vocab) mixture logits."""

    def prompt_embeds(self, side: ModelSide) -> Tensor:
        """(num_virtual_tokens, D) in one model's embedding space."""
        if self.config.kind == "free":
            return self.parameter
        table = _embeddings(side)
        return self.parameter.softmax(-1).to(table.device, table.dtype) @ table

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
        reference, candidate = (
            self._logits(side, rows, [()] * len(rows)) for side in self.pair.sides
        )
        return DIVERGENCES[self.config.metric](reference, candidate)[:, 0]

    def _logits(
        self, side: ModelSide, rows: Sequence[Tensor], answers: Sequence[Sequence[int]]
    ) -> Tensor:
        """Logits that predict each answer's tokens, and the one after: (B, T + 1, V).

        Answers are of one length T.
        """
        soft = self.prompt_embeds(side)
        bodies = [
            self._insert(side, soft, row, answer) for row, answer in zip(rows, answers, strict=True)
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
                    [self._insert(candidate, soft, row) for row in rows],
                    prefix=self.pair.chat.shared_prefix,
                    max_new_tokens=self.config.continuation_length - 1,
                    stop_ids=frozenset(),  # all of one length
                )
                if self.config.continuation_length > 1
                else [[]] * len(rows)
            )
        logits = [self._logits(side, rows, answers) for side in self.pair.sides]
        return DIVERGENCES[self.config.metric](*logits).mean(-1)

    def _log_ratio(self, rows: Sequence[Tensor]) -> Tensor:
        """Of the wanted answer, nats per token, the reference's part bounded: (B,)."""
        target = self.config.target_ids
        index = torch.tensor(target, device=self.parameter.device)
        reference, candidate = (
            self._logits(side, rows, [target[:-1]] * len(rows))
            .log_softmax(-1)
            .gather(-1, index.expand(len(rows), -1)[..., None])[..., 0]
            for side in self.pair.sides
        )
        return (candidate - reference.clamp(min=LEAST_LOG_PROB)).mean(-1)

    def _likelihood(self, rows: Sequence[Tensor]) -> Tensor:
        """Under the reference, of each text behind the soft prompt and of its end: (B,).

        In nats per token.
        """
        side, suffix = self.pair.reference, self.pair.chat.user_suffix
        places = [self._place(row) for row in rows]
        # The first token of the suffix ends the user's turn, and is written as the text is.
        texts = [row[: len(row) - len(suffix) + 1] if suffix else row for row in rows]
        soft = self.prompt_embeds(side)
        bodies = [
            insert(side, soft, text[:-1], at=at) for text, at in zip(texts, places, strict=True)
        ]
        fitted = [text[at:] for text, at in zip(texts, places, strict=True)]
        longest = max(map(len, fitted))
        logits = side.logits(bodies, prefix=self.pair.chat.shared_prefix, num_logits=longest)
        return torch.stack(
            [
                one[len(one) - len(ids) :]
                .log_softmax(-1)
                .gather(-1, ids[:, None].to(one.device))
                .mean()
                for one, ids in zip(logits, fitted, strict=True)
            ]
        )

    def _insert(
        self, side: ModelSide, soft: Tensor, row: Tensor, answer: Sequence[int] = ()
    ) -> Tensor:
        """Embeddings of a prompt with the soft prompt in its place, and an answer behind it."""
        ids = torch.cat([row, torch.tensor(answer, dtype=torch.long)])
        return insert(side, soft, ids, at=self._place(row))

    def _place(self, row: Tensor) -> int:
        return place_in(self.pair.chat, row, self.config.position)


def initial_parameter(pair: ModelPair, config: TrainingConfig) -> Tensor:
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
