"""One forward pass of any causal model: padded rows in, logits out.

Knows what architectures and versions of transformers call things, and which of them take what. Does
not know prefixes, roles or which tokens are compared.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from pytest_divergence.core.errors import ModelLoadError
from pytest_divergence.models.products import fast_products

CACHE_ARGUMENTS = ("cache", "past_key_values")
"""What models call their key-value cache, the newest name first: transformers 5.24 renamed it."""


@dataclass
class Padded:
    """Rows padded on the left: `rows` (B, L) ids or (B, L, D) embeddings, `mask` (B, L)."""

    rows: Tensor
    mask: Tensor

    @staticmethod
    def of(bodies: Sequence[Tensor], device: torch.device) -> Padded:
        """Pad rows of ids (L,) or of embeddings (L, D); all of one kind."""
        longest = max(len(body) for body in bodies)
        rows, mask = [], torch.zeros(len(bodies), longest, dtype=torch.long, device=device)
        for index, body in enumerate(bodies):
            missing = longest - len(body)
            padding = body.new_zeros((missing, *body.shape[1:]))
            rows.append(torch.cat([padding, body]).to(device))
            mask[index, missing:] = 1
        return Padded(torch.stack(rows), mask)


class ForwardPass:
    """A model as a function of rows, mask, positions and what was read before."""

    def __init__(self, model: PreTrainedModel, role: str) -> None:
        """Raise `ModelLoadError`, naming the role, for a model without a key-value cache."""
        self._model = model
        parameters = _forward_parameters(type(model))
        self._keeps_logits = "logits_to_keep" in parameters
        # By a name that a model merely swallows, it would keep nothing of what it has read.
        known = [name for name in CACHE_ARGUMENTS if name in parameters]
        if not known:
            raise ModelLoadError(
                f"the {role}, a {type(model).__name__}, takes no key-value cache (none "
                f"of {', '.join(CACHE_ARGUMENTS)}), without which nothing can be decoded; update "
                "transformers, or choose another model"
            )
        self._cache_argument = known[0]

    def __call__(
        self,
        rows: Tensor,
        mask: Tensor,
        positions: Tensor,
        cache: DynamicCache | None,
        num_logits: int,
    ) -> Tensor:
        """Logits at the last `num_logits` positions, in float32: (B, num_logits, rows of the head).

        `rows` are ids (B, L) or embeddings (B, L, D); `mask` covers what the cache holds too.
        """
        name = "inputs_embeds" if rows.is_floating_point() else "input_ids"
        options: dict[str, object] = {"logits_to_keep": num_logits} if self._keeps_logits else {}
        options[self._cache_argument] = cache
        with fast_products(self._model):
            output = self._model(
                **{name: rows},
                attention_mask=mask,
                position_ids=positions,
                use_cache=cache is not None,
                **options,
            )
        logits: Tensor = output.logits[:, -num_logits:].float()
        return logits


def _forward_parameters(model: type) -> set[str]:
    """What `forward` takes, by name, also where a subclass hands on `**kwargs`."""
    forwards = [one.__dict__["forward"] for one in model.__mro__ if "forward" in one.__dict__]
    return {name for forward in forwards for name in inspect.signature(forward).parameters}
