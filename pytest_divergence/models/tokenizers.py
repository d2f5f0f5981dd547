"""Whether two tokenizers are one and the same for a measurement, but for tokens added to one.

A divergence compares distributions over one vocabulary, so any difference that could change ids
is an error that names it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pytest_divergence.core.errors import TokenizerMismatchError
from pytest_divergence.core.safe_text import safe_line
from pytest_divergence.core.setting_names import setting

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROBES = (
    "How do I tie a knot?",
    "  two  spaces\n\nand 12345 digits, naïve façade",
    "def f(x):\n\treturn x ** 2",
    "Привет, 世界 مرحبا हिन्दी 🙂",
)
SPECIAL = ("bos_token_id", "eos_token_id")  # padding is never seen by a model here


MAX_NAMED = 3


def check_same_tokenizer(
    reference: PreTrainedTokenizerBase, candidate: PreTrainedTokenizerBase
) -> list[str]:
    """The tokens that only one of the two knows, none in most cases.

    Raises `TokenizerMismatchError` naming the first difference other than tokens added behind
    all that the other knows.
    """
    ours, theirs = reference.get_vocab(), candidate.get_vocab()
    num_shared = 1 + min(max(one.values()) for one in (ours, theirs))
    difference = _difference(reference, candidate, num_shared)
    if difference is not None:
        raise TokenizerMismatchError(
            f"{setting('model_1')} and {setting('model_2')} have different tokenizers: "
            f"{difference}. A divergence compares probabilities of the same tokens; give two "
            "models that share a tokenizer."
        )
    return sorted({**ours, **theirs}.keys() - (ours.keys() & theirs.keys()))


def smaller(
    reference: PreTrainedTokenizerBase, candidate: PreTrainedTokenizerBase | None
) -> PreTrainedTokenizerBase:
    """The one whose tokens both models know."""
    if candidate is None or len(candidate.get_vocab()) >= len(reference.get_vocab()):
        return reference
    return candidate


def added_note(tokens: Sequence[str], num_shared: int, *, is_candidates: bool) -> str:
    """What is said of a pair of which one knows more tokens."""
    who, other = ("candidate", "reference")[:: 1 if is_candidates else -1]
    named = ", ".join(safe_line(token, 40) for token in tokens[:MAX_NAMED])
    more = ", …" if len(tokens) > MAX_NAMED else ""
    return (
        f"the {who} knows {len(tokens)} tokens that the {other} does not ({named}{more}): the "
        f"{num_shared} shared ones are compared, and the rest as one; prompts are written in "
        "shared tokens"
    )


def _difference(
    reference: PreTrainedTokenizerBase, candidate: PreTrainedTokenizerBase, num_shared: int
) -> str | None:
    ours, theirs = (
        {token: token_id for token, token_id in one.get_vocab().items() if token_id < num_shared}
        for one in (reference, candidate)
    )
    if ours != theirs and len(ours) != len(theirs):
        return f"the reference knows {len(ours)} tokens, the candidate {len(theirs)}"
    for token, token_id in ours.items():
        if theirs.get(token) != token_id:
            other = theirs.get(token, "none")
            return f"the token {safe_line(token)} has id {token_id} and {other}"
    for name in SPECIAL:
        both = [getattr(one, name) for one in (reference, candidate)]
        # An end of turn that was added is one of the rest.
        if both[0] != both[1] and max(one or 0 for one in both) < num_shared:
            return f"{name} is {both[0]} and {both[1]}"
    for probe in PROBES:
        if reference.encode(probe) != candidate.encode(probe):
            return f"they cut {safe_line(probe)} into different tokens"
    return None
