"""The tokens that two models share, and what becomes of those that only one of them knows.

A divergence needs one set of outcomes. Where a model's vocabulary was extended, the outcomes are
the shared tokens, and one more for all added ones together. By the log-sum inequality (Cover and
Thomas, Elements of Information Theory, 2.7) merging outcomes makes no divergence larger, so what is
read is a lower bound of the divergence over all tokens. Rows of an embedding that no token has
(tables are padded to round sizes) are no outcomes at all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pytest_divergence.core.errors import ModelLoadError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NO_TOKEN_SHARE = 2.0**-24
"""What a model without added tokens gives them: with 0, whatever the other gives is infinite nats.

The smallest share that float32 tells from none beside 1; it bounds a position at 16.6 nats.
"""


@dataclass(frozen=True)
class Vocabulary:
    """The outcomes that one model's logits are read as; the same number for both of a pair."""

    num_shared: int
    """Ids below it mean the same to both models."""
    num_known: int
    """Ids below it are tokens of this model."""
    has_added: bool
    """Whether one of the two models knows more tokens than the other."""

    @property
    def num_outcomes(self) -> int:
        """Shared tokens, and one, of id `num_shared`, for all others where there are any."""
        return self.num_shared + self.has_added

    def fold(self, logits: Tensor) -> Tensor:
        """Logits of the outcomes: (..., rows of the head) -> (..., num_outcomes)."""
        shared = logits[..., : self.num_shared]
        if not self.has_added:
            return shared
        if self.num_known > self.num_shared:
            added = logits[..., self.num_shared : self.num_known].logsumexp(-1, keepdim=True)
        else:
            added = shared.logsumexp(-1, keepdim=True) + math.log(NO_TOKEN_SHARE)
        return torch.cat([shared, added], dim=-1)


Vocabularies = tuple[Vocabulary | None, Vocabulary | None]
"""Of the reference and the candidate; None where all rows of both heads are outcomes."""


def vocabularies(rows: tuple[int, int], known: tuple[int, int]) -> Vocabularies:
    """From the rows of both heads and the tokens that each model's tokenizer knows.

    Raises `ModelLoadError` where a model has fewer rows than there are shared tokens.
    """
    num_shared = min(known)
    if rows[0] == rows[1] and known[0] == known[1]:
        return None, None
    if min(rows) < num_shared:
        raise ModelLoadError(
            f"the reference has {rows[0]} rows for tokens, the candidate {rows[1]}, and the "
            f"tokenizer names {num_shared}; a divergence needs one vocabulary. Where a model was "
            "trained with fewer tokens, save its own tokenizer beside its weights"
        )
    tokens = [min(both) for both in zip(rows, known, strict=True)]
    has_added = max(tokens) > num_shared
    reference, candidate = (Vocabulary(num_shared, one, has_added) for one in tokens)
    return reference, candidate


def padding_note(role: str, num_rows: int, vocabulary: Vocabulary | None) -> str | None:
    """What is said of rows that no tokenizer names: a folder without one may hold added tokens.

    None where all rows are compared.
    """
    if vocabulary is None or num_rows <= vocabulary.num_known:
        return None
    num_left = num_rows - vocabulary.num_known
    many = f"the other {num_left} count as padding and are not compared; if they are added tokens"
    one = "the other one counts as padding and is not compared; if it is an added token"
    return (
        f"{role} has {num_rows} rows for tokens, and the tokenizer names {vocabulary.num_known}: "
        f"{one if num_left == 1 else many}, save the tokenizer that names "
        f"{'it' if num_left == 1 else 'them'} beside the weights"
    )


def num_tokens(tokenizer: PreTrainedTokenizerBase) -> int:
    """One more than the largest id that a tokenizer gives."""
    return max(tokenizer.get_vocab().values()) + 1
