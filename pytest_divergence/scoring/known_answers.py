"""Margins of right answers: by how much a model prefers one to all others.

One pass of a model over prompt and answer tells both whether it would give the answer and how
surely. Does not know where items come from, nor what a change of margins means.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pytest_divergence.core.damage_record import KnownAnswer, MeasuredAnswer
from pytest_divergence.core.errors import MeasurementError
from pytest_divergence.core.safe_text import safe_line
from pytest_divergence.models.batching import map_batches
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.models.side import Side
from pytest_divergence.scoring.divergences import log_probs
from pytest_divergence.scoring.teacher_forcing import (
    SCORING_BATCH,
    Measure,
    ScoringRow,
    check_finite,
    measured,
    with_one_prefix,
)

LARGEST_MARGIN = 100.0
"""Nats, either way: where a token is ruled out the margin is not finite."""


@dataclass(frozen=True)
class _AnswerRow:
    """A prompt with the texts that are compared, the right one first."""

    row: ScoringRow
    texts: tuple[tuple[int, ...], ...]
    """Token ids of each text, the opening included."""
    start: int
    """Place of the first token that is judged: those of the opening are not."""


def answer_margins(pair: ModelPair, items: Sequence[KnownAnswer]) -> list[MeasuredAnswer]:
    """Return each item with the margins of its answer under both models, in nats, in order.

    With choices, the margin is ln P(answer) - ln P(likeliest other choice), each the sum over its
    tokens. Without, it is the least, over the answer's tokens, of ln P(token) - ln P(likeliest
    other token): it is above 0 where greedy decoding writes the answer, and only there. The answer
    ends where its text does; what a model would write then is not looked at. Raises
    `MeasurementError` for an item that is too long for the models, and `NonFiniteLogitsError`.
    """
    rows = _rows(pair, items)
    reference, candidate = (_margins(side, rows) for side in pair.sides)
    return [
        MeasuredAnswer(
            input=item.input,
            answer=item.answer,
            reference_margin=before,
            candidate_margin=after,
        )
        for item, before, after in zip(items, reference, candidate, strict=True)
    ]


def _rows(pair: ModelPair, items: Sequence[KnownAnswer]) -> list[_AnswerRow]:
    limit = pair.chat.tokenizer.model_max_length
    rows = []
    for item, (prefix, body) in zip(
        items, pair.prompt_rows([item.input for item in items]), strict=True
    ):
        others = [choice for choice in dict.fromkeys(item.choices) if choice != item.answer]
        opening = _ids(pair, item.opening)
        texts = [_ids(pair, item.opening + text) for text in (item.answer, *others)]
        longest = len(prefix) + len(body) + max(map(len, texts))
        if longest > limit:
            raise MeasurementError(
                f"the item {safe_line(item.input)} has {longest:,} tokens with its answer, and the "
                f"models read {limit:,}; shorten it or leave it out"
            )
        start = min(_num_shared(opening, text) for text in texts)
        row = ScoringRow(prefix, body, texts[0])
        rows.append(_AnswerRow(row, tuple(texts), start))
    return rows


def _ids(pair: ModelPair, text: str) -> tuple[int, ...]:
    encode = pair.chat.tokenizer.encode
    return tuple(encode(text, add_special_tokens=False, split_special_tokens=True)) if text else ()


def _num_shared(opening: Sequence[int], text: Sequence[int]) -> int:
    """Return how many tokens of the opening begin the text: its last may have merged."""
    pairs = zip(opening, text, strict=False)
    return next((i for i, (first, second) in enumerate(pairs) if first != second), len(opening))


@torch.no_grad()
def _margins(side: Side, rows: Sequence[_AnswerRow]) -> list[float]:
    """Return one model's margin of each row's answer."""

    def compute(batch: list[_AnswerRow]) -> list[float]:
        read = with_one_prefix([row.row for row in batch])
        state = side.start([row.body for row in read], prefix=read[0].prefix)
        owners = [index for index, row in enumerate(batch) for _ in row.texts]
        texts = [text for row in batch for text in row.texts]
        tables = iter(
            measured(_measure(side, text), positions)
            for positions, text in zip(state.fork(owners).positions_of(texts), texts, strict=True)
        )
        return [_margin(row, [next(tables) for _ in row.texts]) for row in batch]

    return map_batches(
        rows,
        compute,
        length=lambda row: len(row.row.body) + max(map(len, row.texts)),
        max_rows=SCORING_BATCH,
    )


def _measure(side: Side, text: Sequence[int]) -> Measure:
    ids = torch.tensor(text)

    def measure(piece: slice, logits: Tensor) -> Tensor:
        """Return ln P of each token, and by how much it exceeds the likeliest other: (2, n)."""
        check_finite(logits, side)
        index = ids[piece, None].to(logits.device)
        log_p = log_probs(logits)
        own = log_p.gather(-1, index)[:, 0]
        return torch.stack([own, own - log_p.scatter(-1, index, -torch.inf).amax(-1)])

    return measure


def _margin(row: _AnswerRow, tables: Sequence[Tensor]) -> float:
    """Return the margin from the tables of an item's texts, the right one's first."""
    if len(tables) == 1:
        margin = tables[0][1, row.start :].min()
    else:
        right, *others = (table[0, row.start :].cpu().double().sum() for table in tables)
        margin = right - torch.stack(others).max()
    number = float(margin.nan_to_num(nan=-LARGEST_MARGIN))
    return max(-LARGEST_MARGIN, min(LARGEST_MARGIN, number))
