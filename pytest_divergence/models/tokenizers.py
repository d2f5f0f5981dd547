"""Whether two tokenizers are one and the same for a measurement.

A divergence compares distributions over one vocabulary, so any difference that could change ids
is an error that names it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_divergence.core.errors import TokenizerMismatchError
from pytest_divergence.core.safe_text import safe_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROBES = (
    "How do I tie a knot?",
    "  two  spaces\n\nand 12345 digits, naïve façade",
    "def f(x):\n\treturn x ** 2",
    "Привет, 世界 مرحبا हिन्दी 🙂",
)
SPECIAL = ("bos_token_id", "eos_token_id")  # padding is never seen by a model here


def check_same_tokenizer(
    reference: PreTrainedTokenizerBase, candidate: PreTrainedTokenizerBase
) -> None:
    """Raise `TokenizerMismatchError` naming the first difference; return where there is none."""
    difference = _difference(reference, candidate)
    if difference is not None:
        raise TokenizerMismatchError(
            f"--model-1 and --model-2 have different tokenizers: {difference}. A divergence "
            "compares probabilities of the same tokens; give two models that share a tokenizer."
        )


def _difference(
    reference: PreTrainedTokenizerBase, candidate: PreTrainedTokenizerBase
) -> str | None:
    ours, theirs = reference.get_vocab(), candidate.get_vocab()
    if len(ours) != len(theirs):
        return f"the reference knows {len(ours)} tokens, the candidate {len(theirs)}"
    for token, token_id in ours.items():
        if theirs.get(token) != token_id:
            other = theirs.get(token, "none")
            return f"the token {safe_line(token)} has id {token_id} and {other}"
    for name in SPECIAL:
        if getattr(reference, name) != getattr(candidate, name):
            return f"{name} is {getattr(reference, name)} and {getattr(candidate, name)}"
    for probe in PROBES:
        if reference.encode(probe) != candidate.encode(probe):
            return f"they cut {safe_line(probe)} into different tokens"
    return None
