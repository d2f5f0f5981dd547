"""A trial of the ways of reading rows: each model of a pair gets the fastest one that is right.

A side may read rows in padded batches that share what they begin with, in padded batches, or a row
at a time, with a cache or without. The fastest way that agrees with plain forward passes, each of
one row without padding or cache, is used: what a model and its cache can do decides, not a name.
Knows no pair, and nothing of what is measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace

import torch
from torch import Tensor

from pytest_divergence.core.errors import ModelLoadError
from pytest_divergence.core.safe_text import safe_line
from pytest_divergence.models.batching import is_out_of_memory
from pytest_divergence.models.row_side import RowSide
from pytest_divergence.models.side import Meter
from pytest_divergence.models.transformers_log import Say, quiet_transformers
from pytest_divergence.models.transformers_side import TransformersSide

PREFIX_LENGTH = 2
LENGTHS = (14, 6)
"""Tokens of the rows that are tried, with the prefix; the shorter begins the longer."""
NUM_DECODED = 4
"""Tokens decoded after each row."""
ROUNDING, NOISE = 1e-4, 1e-3
"""Nats at one position that float32 may differ by: always, and at most if shapes differ."""
ROUNDING_EPS, NOISE_EPS = 16, 32
"""Both limits for coarser dtypes, in units of their precision."""
NOISE_FACTOR = 10
"""Allowed difference of a way, as a multiple of that between plain passes of unlike shape."""
COARSE_NOISE_FACTOR = 3
"""Factor for coarser dtypes, without an upper limit: large models round more than small."""
LAST_FACTOR = 10
"""Allowed difference of the last way, plain passes again, as a multiple of the limit."""


def checked(side: TransformersSide, say: Say) -> TransformersSide:
    """The side by the fastest way of reading that gives the numbers of plain forward passes.

    Says so if it is not the first. The tokens of the check are in no meter. Raises
    `ModelLoadError` for a model that cannot read a row by itself, that is not causal, or that no
    way of reading agrees with. Logits that are no numbers are left to whoever measures.
    """
    # Advice on faster kernels, which a GPU alone could follow.
    with quiet_transformers() if side.device.type == "cpu" else nullcontext():
        return _fastest(side, say)


def _fastest(side: TransformersSide, say: Say) -> TransformersSide:
    trial = Trial(side)
    if not trial.is_of_numbers:
        return side
    failures: list[str] = []
    *faster, last = _ways(side)
    for way in (*faster, last):
        failure = trial.failure(way, factor=LAST_FACTOR if way is last else 1)
        if failure is None:
            if failures:
                say(f"{_name(side)}, is read {way.reading}, which is slower: {failures[0]}")
            return way
        failures.append(f"{way.reading} {failure}")
    raise ModelLoadError(
        f"{_name(side)}, cannot be measured: {'; '.join(failures)}; update transformers, or choose "
        "another model"
    )


def _ways(side: TransformersSide) -> list[TransformersSide]:
    """Ways of reading the same model that differ, the fastest first."""
    batched = replace(side, shares_cache=False)
    ways = [
        side,
        batched,
        replace(batched, extends_cache=False),
        RowSide.of(side, keeps_cache=True),
        RowSide.of(side, keeps_cache=False),
    ]
    return [*{way.reading: way for way in ways}.values()]


class Trial:
    """Two rows of one model, and the logits of plain forward passes at each position."""

    def __init__(self, side: TransformersSide) -> None:
        """Read the rows; raise `ModelLoadError` for a model that cannot, or is not causal."""
        size, generator = side.vocab_size, torch.Generator().manual_seed(0)

        def ids(*shape: int) -> Tensor:  # no special ones, which stand at either end
            return torch.randint(size // 8, size - size // 8, shape, generator=generator)

        longest = ids(max(LENGTHS))
        self._prompts = [longest[:length] for length in LENGTHS]
        self._decoded = ids(len(LENGTHS), NUM_DECODED)
        rows = [torch.cat(row) for row in zip(self._prompts, self._decoded, strict=True)]
        self._exact = _plain(side, rows)
        self.is_of_numbers = all(map(_are_numbers, self._exact))
        """Whether plain passes give logits at all."""
        if self.is_of_numbers:
            self._limit = _limit(side, rows, self._exact)

    def failure(self, way: TransformersSide, *, factor: float = 1) -> str | None:
        """Return why a way of reading is wrong for this model; None if it is right.

        It may differ from plain passes by `factor` times the limit.
        """
        limit = factor * self._limit
        try:
            found = self._difference(replace(way, meter=Meter()))
        except Exception as error:  # whatever a model raises at what it cannot do
            if is_out_of_memory(error):
                raise
            return f"it raises {_words(error)}"
        if found <= limit:
            return None
        return f"it differs from plain passes by {found:.2g} nats, more than {limit:.2g}"

    @torch.no_grad()
    def _difference(self, side: TransformersSide) -> float:
        """Largest difference of a side from plain passes, in nats, over all ways to use it."""
        prefix = tuple(self._prompts[0][:PREFIX_LENGTH].tolist())
        bodies = [prompt[PREFIX_LENGTH:] for prompt in self._prompts]
        exact = [row[length - 1 :] for row, length in zip(self._exact, LENGTHS, strict=True)][::-1]
        decoded = self._decoded.flip(0)
        with side.reuse_prompts():
            side.start(bodies, prefix=prefix)
            state = side.start(bodies, prefix=prefix).fork([1, 0])  # the rows change places
        found = [mean_log_ratio(torch.stack([row[0] for row in exact]), state.logits)]
        state.step(decoded[:, 0].to(side.device))
        found.append(mean_log_ratio(torch.stack([row[1] for row in exact]), state.logits))
        # Continuations of unlike length, which are read together.
        given = [decoded[0, 1:].tolist(), decoded[1, 1:-1].tolist()]
        for row, positions in zip(exact, state.positions_of(given), strict=True):
            logits = positions.logits(0, len(positions))
            found.append(mean_log_ratio(row[1 : 1 + len(logits)], logits))
        # As virtual tokens are trained: without a cache or a prefix.
        logits = side.logits(self._prompts, num_logits=min(LENGTHS))
        for row, length, at_end in zip(self._exact, LENGTHS, logits, strict=True):
            found.append(mean_log_ratio(row[length - len(at_end) : length], at_end))
        return max(found)


def mean_log_ratio(exact: Tensor, found: Tensor) -> float:
    """Mean of |ln p - ln q| under p, in nats, at the position where it is largest: (..., V) each.

    No KL divergence of the two is larger. Infinite where `found` holds no numbers.
    """
    log_p = exact.log_softmax(-1)
    apart = (log_p - found.to(exact.device).log_softmax(-1)).abs()
    weighted = torch.where(log_p.isneginf(), 0.0, log_p.exp() * apart).sum(-1)
    return float(weighted.nan_to_num(nan=torch.inf).max())


def _plain(side: TransformersSide, rows: Sequence[Tensor]) -> list[Tensor]:
    """Logits at all positions of rows of ids (L,) that stand alone: (L, V) each.

    Raises `ModelLoadError` for a model that cannot read such a row.
    """
    alone = RowSide.of(side, keeps_cache=False, meter=Meter())
    try:
        with torch.no_grad():
            return [alone.logits([row], num_logits=len(row))[0] for row in rows]
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise ModelLoadError(
            f"{_name(side)}, cannot read a row of tokens: {_words(error)}; choose a causal "
            "language model, which reads text alone"
        ) from error


def _not_causal(side: TransformersSide, changed: float) -> str:
    """Return why a model is refused whose logits of a prompt change with the text after it."""
    what = f"the tokens after a prompt change what it says of the prompt, by {changed:.2g} nats"
    quantiser = getattr(side.model, "hf_quantizer", None)
    if getattr(getattr(quantiser, "quantization_config", None), "llm_int8_threshold", 0) > 0:
        return (
            f"{_name(side)}, cannot be measured: {what}, because its 8-bit layers (LLM.int8) look "
            "for outliers among the tokens of all rows together; set llm_int8_threshold to 0.0 in "
            "the quantization_config of its config.json"
        )
    return (
        f"{_name(side)}, is no causal language model: {what}; choose a model that is trained to "
        "continue text, or, where this one is, set is_decoder to true in its config.json"
    )


def _limit(side: TransformersSide, rows: Sequence[Tensor], exact: Sequence[Tensor]) -> float:
    """Difference from plain passes, in nats, that a way of reading may have.

    Raises `ModelLoadError` for a model whose logits of a prompt change with the text after it.
    """
    eps = torch.finfo(side.model.dtype).eps
    if getattr(side.model, "hf_quantizer", None) is not None:
        eps = max(eps, torch.finfo(torch.bfloat16).eps)  # activations may be rounded too
    rounding = max(ROUNDING, ROUNDING_EPS * eps)
    length = min(LENGTHS)
    longer, shorter = (logits[:length] for logits in exact)
    noise = mean_log_ratio(longer, shorter)
    if noise > ROUNDING:
        # Another length may round otherwise: other tokens in the same places must change nothing.
        (other,) = _plain(side, [torch.cat([rows[0][:length], rows[0][length:] + 1])])
        changed = mean_log_ratio(longer, other[:length])
        if changed > rounding:
            raise ModelLoadError(_not_causal(side, changed))
    limit = max(rounding, min(NOISE_FACTOR * noise, max(NOISE, NOISE_EPS * eps)))
    is_coarse = eps > torch.finfo(torch.float32).eps
    return max(limit, COARSE_NOISE_FACTOR * noise) if is_coarse else limit


def _are_numbers(logits: Tensor) -> bool:
    """Whether none is NaN or +inf; -inf rules a token out."""
    return not bool(torch.isnan(logits).any() or torch.isposinf(logits).any())


def _name(side: TransformersSide) -> str:
    return f"the {side.role}, a {type(side.model).__name__}"


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {safe_line(str(error))}"
