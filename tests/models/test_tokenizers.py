"""Tokenizers that could give other ids are told apart; added tokens are one outcome."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from transformers import AddedToken, LlamaConfig, PreTrainedTokenizerFast

from pytest_divergence.core.errors import ModelLoadError, TokenizerMismatchError
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.models.tokenizers import (
    NO_TOKEN_SHARE,
    Vocabulary,
    check_same_tokenizer,
    rendering_tokenizer,
    vocabularies,
)
from pytest_divergence.scoring.divergences import forward_kl, js, reverse_kl, symmetric_kl
from tests.models_in_memory import tiny_config, tiny_model
from tests.tiny import tiny_tokenizer


def difference(candidate: PreTrainedTokenizerFast) -> str:
    with pytest.raises(TokenizerMismatchError) as caught:
        check_same_tokenizer(tiny_tokenizer(), candidate)
    return str(caught.value).split(": ", 1)[1].split(". A divergence")[0]


def test_tokens_added_to_one_are_told() -> None:
    """An end of turn among them."""
    other: Any = tiny_tokenizer()
    other.add_tokens(["<new>", "<end>"])
    other.eos_token = "<end>"

    assert check_same_tokenizer(tiny_tokenizer(), other) == ["<end>", "<new>"]
    assert check_same_tokenizer(other, tiny_tokenizer()) == ["<end>", "<new>"]


def test_another_template_beginning_or_end_is_not_another_tokenizer() -> None:
    """As of SmolLM2 and its instruct model, and of a fine-tune saved with `add_eos_token`."""
    other: Any = tiny_tokenizer(chat_template=None)
    other.bos_token = "<|im_start|>"
    end, end_id = other.eos_token, other.eos_token_id
    other.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"$A {end}", special_tokens=[(end, end_id)]
    )
    assert other.encode("a")[-1] == end_id
    other.eos_token = "<|endoftext|>"

    assert check_same_tokenizer(tiny_tokenizer(), other) == []


def test_another_token_is_named_with_its_id_and_harmless_text() -> None:
    ours, theirs = tiny_tokenizer(), tiny_tokenizer()
    any_ours: Any = ours
    any_theirs: Any = theirs
    any_ours.add_tokens([AddedToken("<\x1bours>")])
    any_theirs.add_tokens([AddedToken("<theirs>")])

    with pytest.raises(TokenizerMismatchError, match=r'"<\\u\{1b\}ours>" has id 271 and none'):
        check_same_tokenizer(ours, theirs)


def test_a_template_names_its_owners_beginning_and_end() -> None:
    shared, owner = tiny_tokenizer(), tiny_tokenizer()
    owner.bos_token, owner.eos_token = "<|im_start|>", "no token of both"

    made = rendering_tokenizer(shared, owner)

    assert (made.bos_token, made.eos_token) == ("<|im_start|>", shared.eos_token)
    assert shared.bos_token != made.bos_token
    assert rendering_tokenizer(shared, tiny_tokenizer()) is shared


def test_another_cut_is_named() -> None:
    other = tiny_tokenizer()
    backend: Any = other.backend_tokenizer
    backend.pre_tokenizer.add_prefix_space = True

    assert difference(other).startswith('they split "How do I tie a knot?" into different tokens')


SHARED, KNOWN, ROWS = 7, 10, 16
EXTENDED = Vocabulary(SHARED, KNOWN, has_added=True)
PLAIN = Vocabulary(SHARED, SHARED, has_added=True)
METRICS = (forward_kl, reverse_kl, symmetric_kl, js)


def logits(seed: int, columns: int = ROWS) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(40, columns, generator=generator, dtype=torch.float64)


def test_the_rest_is_the_sum_of_the_added_tokens_probabilities() -> None:
    whole, padded = logits(0)[:, :KNOWN], logits(0)
    padded[:, KNOWN:] += 50  # rows without a token are no outcomes

    folded = EXTENDED.fold(padded).softmax(-1)

    assert torch.allclose(folded[:, :SHARED], whole.softmax(-1)[:, :SHARED])
    assert torch.allclose(folded[:, SHARED], whole.softmax(-1)[:, SHARED:].sum(-1))
    exact = Vocabulary(SHARED, SHARED, has_added=False)  # where none was added, there is no rest
    assert torch.equal(exact.fold(padded), padded[:, :SHARED])


@pytest.mark.parametrize("metric", METRICS)
def test_merging_outcomes_makes_no_divergence_larger(metric: object) -> None:
    ours, theirs = logits(0), logits(1)

    whole = metric(ours[:, :KNOWN], theirs[:, :KNOWN])  # type: ignore[operator]
    merged = metric(EXTENDED.fold(ours), EXTENDED.fold(theirs))  # type: ignore[operator]

    assert (merged <= whole + 1e-12).all()
    assert (merged < whole - 1e-3).any()


def test_a_token_that_the_other_does_not_know_costs_finite_nats() -> None:
    """Worked by hand: the candidate says an added token for sure, the reference cannot."""
    reference = torch.zeros(1, SHARED)
    candidate = torch.zeros(1, KNOWN)
    candidate[0, SHARED] = 60.0

    value = float(reverse_kl(PLAIN.fold(reference), EXTENDED.fold(candidate)))

    assert value == pytest.approx(-math.log(NO_TOKEN_SHARE), abs=1e-4)
    assert value == pytest.approx(16.64, abs=0.01)
    candidate[0, SHARED:] = -40.0  # where it never says it, nothing changes
    for metric in METRICS:
        assert metric(PLAIN.fold(reference), EXTENDED.fold(candidate)).abs() < 3e-6


@pytest.mark.parametrize(
    ("rows", "known", "expected"),
    [
        ((10, 10), (10, 10), (None, None)),
        ((64, 64), (10, 10), (None, None)),
        ((10, 64), (10, 10), (Vocabulary(10, 10, False), Vocabulary(10, 10, False))),
        ((10, 64), (10, 12), (Vocabulary(10, 10, True), Vocabulary(10, 12, True))),
        ((64, 64), (10, 12), (Vocabulary(10, 10, True), Vocabulary(10, 12, True))),
        ((64, 10), (12, 10), (Vocabulary(10, 12, True), Vocabulary(10, 10, True))),
        # Two tokens more in the tokenizer, and no rows for them: nothing was added.
        ((10, 10), (10, 12), (Vocabulary(10, 10, False), Vocabulary(10, 10, False))),
    ],
)
def test_outcomes_follow_from_rows_and_tokens(
    rows: tuple[int, int], known: tuple[int, int], expected: object
) -> None:
    assert vocabularies(rows, known) == expected


def test_a_token_without_a_row_is_no_outcome_of_its_model() -> None:
    """Gemma 3's tokenizer names one of images, for which a converted or text-only model has none.

    Without a tokenizer of its own, the candidate's table is cut off.
    """
    rows, known = (262_208, 262_144), (262_145, 262_145)

    assert vocabularies(rows, known, has_two=True) == (
        Vocabulary(262_144, 262_145, has_added=True),
        Vocabulary(262_144, 262_144, has_added=True),
    )
    with pytest.raises(ModelLoadError):
        vocabularies(rows, known)
    assert vocabularies(rows[::-1], known) == (
        Vocabulary(262_144, 262_144, has_added=True),
        Vocabulary(262_144, 262_145, has_added=True),
    )


def test_a_mark_of_the_template_without_a_row_is_refused() -> None:
    """Else another token would be read in its place."""
    tokenizer: Any = tiny_tokenizer(chat_template="<turn>{{ messages[0].content }}<turn>")
    tokenizer.add_tokens([AddedToken("<turn>", special=True)], special_tokens=True)
    whole, cut = (
        tiny_model(config=tiny_config(LlamaConfig, vocab_size=rows)) for rows in (272, 271)
    )

    with pytest.raises(ModelLoadError, match='writes the token "<turn>", and one of the models'):
        ModelPair.from_models(
            whole, cut, tokenizer, known_tokens=(272, 272), has_two_tokenizers=True
        )


def test_too_few_rows_are_refused() -> None:
    with pytest.raises(ModelLoadError) as caught:
        vocabularies((271, 200), (271, 271))

    assert str(caught.value) == (
        "the reference has 271 rows for tokens, the candidate 200, and the tokenizer names 271; a "
        "divergence needs one vocabulary. Where a model was trained with fewer tokens, save its "
        "own tokenizer beside its weights"
    )
