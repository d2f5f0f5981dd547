"""A check that two tokenizers agree, and the outcomes that tokens added to one of them count as.

A divergence compares distributions over one vocabulary, so any difference that could change ids
is an error that names it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.models.auto import tokenization_auto

from pytest_divergence.core.errors import ModelLoadError, TokenizerMismatchError
from pytest_divergence.core.safe_text import safe_line
from pytest_divergence.core.setting_names import setting
from pytest_divergence.models.folder_files import read_json_object

PROBES = (
    "How do I tie a knot?",
    "  two  spaces\n\nand 12345 digits, naïve façade",
    "def f(x):\n\treturn x ** 2",
    "Привет, 世界 مرحبا हिन्दी 🙂",
)
"""Texts that two equal tokenizers split alike."""
MAX_NAMED = 3
"""Added tokens that a note names."""
OWN_FORM: Mapping[str, Any] = (
    {"mistral_format": False} if hasattr(tokenization_auto, "_use_mistral_format") else {}
)
"""Keeps transformers from mistral-common's own class, which has no chat template."""
MAX_ROWLESS = 8
"""Tokens that a tokenizer may name and its model may have no row for: Gemma 3's of an image."""
NO_TOKEN_SHARE = 2.0**-24
"""Probability of added tokens under a model without them; 0 would give infinite nats.

The smallest share that float32 can add to 1 visibly; it bounds a position at 16.6 nats.
"""


@dataclass(frozen=True)
class Vocabulary:
    """The outcomes that one model's logits stand for; the same number for both of a pair.

    If a model's vocabulary was extended, the outcomes are the shared tokens, and one more for
    all added ones together. By the log-sum inequality (Cover and Thomas, Elements of Information
    Theory, 2.7) merging outcomes makes no divergence larger, so the result is a lower bound of
    the divergence over all tokens. Rows of an embedding that no token has (tables are padded to
    round sizes) are no outcomes at all.
    """

    num_shared: int
    """Ids below it mean the same to both models."""
    num_known: int
    """Ids below it are tokens of this model."""
    has_added: bool
    """Whether one of the two models knows more tokens than the other."""

    @property
    def num_outcomes(self) -> int:
        """Number of shared tokens, and one more, of id `num_shared`, if there are added ones."""
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
"""Vocabularies of reference and candidate; None if all rows of both heads are outcomes."""


def check_same_tokenizer(
    reference: PreTrainedTokenizerBase, candidate: PreTrainedTokenizerBase
) -> list[str]:
    """The tokens that only one of the two knows, none in most cases.

    Raises `TokenizerMismatchError` naming the first difference, apart from tokens added after all
    that the other knows.
    """
    first, second = reference.get_vocab(), candidate.get_vocab()
    num_shared = 1 + min(max(vocab.values()) for vocab in (first, second))
    difference = _difference(reference, candidate, num_shared)
    if difference is not None:
        raise TokenizerMismatchError(
            f"{setting('model_1')} and {setting('model_2')} have different tokenizers: "
            f"{difference}. A divergence compares probabilities of the same tokens; give two "
            "models that share a tokenizer."
        )
    return sorted(first.keys() ^ second.keys())


def vocabularies(
    rows: tuple[int, int], known: tuple[int, int], *, has_two: bool = False
) -> Vocabularies:
    """Vocabularies by the rows of both heads and the tokens that each model's tokenizer knows.

    `has_two` says that the candidate's tokenizer is its own. A model's own may name up to
    `MAX_ROWLESS` tokens that the model has no row for. Raises `ModelLoadError` if a model has fewer
    rows than there are shared tokens.
    """
    if rows[0] == rows[1] and known[0] == known[1]:
        return None, None
    known = _with_rows(known[0], rows[0]), _with_rows(known[1], rows[1]) if has_two else known[1]
    num_shared = min(known)
    if min(rows) < num_shared:
        raise ModelLoadError(
            f"the reference has {rows[0]} rows for tokens, the candidate {rows[1]}, and the "
            f"tokenizer names {num_shared}; a divergence needs one vocabulary. Where a model was "
            "trained with fewer tokens, save its own tokenizer beside its weights"
        )
    tokens = [min(both) for both in zip(rows, known, strict=True)]
    has_added = max(tokens) > num_shared
    reference, candidate = (Vocabulary(num_shared, num_known, has_added) for num_known in tokens)
    return reference, candidate


def _with_rows(num_known: int, num_rows: int) -> int:
    return num_rows if 0 < num_known - num_rows <= MAX_ROWLESS else num_known


def decoded(
    tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int], *, keep_special: bool = False
) -> str:
    """Return the text of token ids, without special tokens unless they are kept."""
    text = tokenizer.decode(list(token_ids), skip_special_tokens=not keep_special)
    return text if isinstance(text, str) else "".join(text)


def read_tokenizer(folder: Path, **options: Any) -> PreTrainedTokenizerBase:
    """Read the tokenizer of a folder whose files were screened; `options` go to transformers.

    Some models of images and text keep their template beside it, in a file that only processors
    read. Raises what transformers raises, and `ModelLoadError` for such a file that is no JSON.
    """
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        folder, trust_remote_code=False, local_files_only=True, **OWN_FORM, **options
    )
    beside = folder / "chat_template.json"
    if tokenizer.chat_template is None and beside.is_file():
        tokenizer.chat_template = read_json_object(beside, role=str(folder)).get("chat_template")
    return tokenizer


def template_of(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Return a tokenizer's chat template, of several the default; None if it has none.

    Raises `ModelLoadError` if it has several and none of them is the default.
    """
    template = tokenizer.chat_template
    if not isinstance(template, dict):
        return template if isinstance(template, str) and template else None
    if "default" not in template:
        names = ", ".join(safe_line(name, 40) for name in sorted(template)[:MAX_NAMED])
        raise ModelLoadError(
            f"the tokenizer has chat templates for {names}, and none is the default; give the one "
            f"to use as a file: {setting('chat_template')}=FILE"
        )
    return str(template["default"])


def num_tokens(tokenizer: PreTrainedTokenizerBase) -> int:
    """One more than the largest id that a tokenizer gives."""
    return max(tokenizer.get_vocab().values()) + 1


def smaller(
    reference: PreTrainedTokenizerBase, candidate: PreTrainedTokenizerBase | None
) -> PreTrainedTokenizerBase:
    """The tokenizer whose tokens both models know."""
    if candidate is None or len(candidate.get_vocab()) >= len(reference.get_vocab()):
        return reference
    return candidate


def eos_ids(shared: PreTrainedTokenizerBase, *others: PreTrainedTokenizerBase) -> frozenset[int]:
    """Ids of the tokens that end a text for any of the tokenizers, those that `shared` knows."""
    known = shared.get_vocab()
    ends = (str(each.eos_token) for each in (shared, *others))
    return frozenset(known[end] for end in ends if end in known)


def rendering_tokenizer(
    shared: PreTrainedTokenizerBase, owner: PreTrainedTokenizerBase
) -> PreTrainedTokenizerBase:
    """`shared`, or a copy with the `owner`'s ends of a text, which a chat template may name."""
    known = shared.get_vocab()
    wanted = {name: getattr(owner, name) for name in ("bos_token", "eos_token")}
    others = {name: token for name, token in wanted.items() if token != getattr(shared, name)}
    if not any(token in known for token in others.values()):
        return shared
    made = deepcopy(shared)
    for name, token in others.items():
        if token in known:
            setattr(made, name, token)
    return made


def added_note(tokens: Sequence[str], num_shared: int, *, is_candidates: bool) -> str:
    """Note about a pair of which one model knows more tokens."""
    who, other = ("candidate", "reference")[:: 1 if is_candidates else -1]
    named = ", ".join(safe_line(token, 40) for token in tokens[:MAX_NAMED])
    more = ", …" if len(tokens) > MAX_NAMED else ""
    return (
        f"the {who} knows {len(tokens)} tokens that the {other} does not ({named}{more}): the "
        f"{num_shared} shared ones are compared, and the rest as one; prompts are written in "
        "shared tokens"
    )


def padding_note(role: str, num_rows: int, vocabulary: Vocabulary | None) -> str | None:
    """Note about rows that no tokenizer names: a folder without one may hold added tokens.

    None if all rows are compared.
    """
    if vocabulary is None or num_rows <= vocabulary.num_known:
        return None
    num_left = num_rows - vocabulary.num_known
    many = f"the other {num_left} count as padding and are not compared; if they are added tokens"
    single = "the other one counts as padding and is not compared; if it is an added token"
    return (
        f"{role} has {num_rows} rows for tokens, and the tokenizer names {vocabulary.num_known}: "
        f"{single if num_left == 1 else many}, save the tokenizer that names "
        f"{'it' if num_left == 1 else 'them'} beside the weights"
    )


def unlike_widths(reference: int, candidate: int) -> str:
    """Return how tables of embeddings differ in width, in words; empty where they do not."""
    if reference == candidate:
        return ""
    return f"the reference's embeddings have {reference} values, the candidate's {candidate}"


def _difference(
    reference: PreTrainedTokenizerBase, candidate: PreTrainedTokenizerBase, num_shared: int
) -> str | None:
    first, second = (
        {token: token_id for token, token_id in each.get_vocab().items() if token_id < num_shared}
        for each in (reference, candidate)
    )
    if first != second and len(first) != len(second):
        return f"the reference knows {len(first)} tokens, the candidate {len(second)}"
    for token, token_id in first.items():
        if second.get(token) != token_id:
            other = second.get(token, "none")
            return f"the token {safe_line(token)} has id {token_id} and {other}"
    # Which tokens begin, end and pad texts may differ: one tokenizer writes the prompts of both
    # models, answers end at the ends of both, and no model sees padding.
    for probe in PROBES:
        splits = [each.encode(probe, add_special_tokens=False) for each in (reference, candidate)]
        if splits[0] != splits[1]:
            return f"they split {safe_line(probe)} into different tokens"
    return None
