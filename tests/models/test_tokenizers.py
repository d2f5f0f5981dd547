"""Two tokenizers that could give different ids are told apart, and the difference is named."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import AddedToken, PreTrainedTokenizerFast

from pytest_divergence.core.errors import TokenizerMismatchError
from pytest_divergence.models.tokenizers import check_same_tokenizer
from tests.tiny import tiny_tokenizer


def difference(candidate: PreTrainedTokenizerFast) -> str:
    with pytest.raises(TokenizerMismatchError) as caught:
        check_same_tokenizer(tiny_tokenizer(), candidate)
    return str(caught.value).split(": ", 1)[1].split(". A divergence")[0]


def test_equal_tokenizers_pass() -> None:
    check_same_tokenizer(tiny_tokenizer(), tiny_tokenizer())


def test_another_template_is_not_another_tokenizer() -> None:
    check_same_tokenizer(tiny_tokenizer(), tiny_tokenizer(chat_template=None))


def test_tokens_added_to_one_are_told() -> None:
    other: Any = tiny_tokenizer()
    other.add_tokens(["<new>", "<b>"])

    assert check_same_tokenizer(tiny_tokenizer(), other) == ["<b>", "<new>"]
    assert check_same_tokenizer(other, tiny_tokenizer()) == ["<b>", "<new>"]


def test_an_added_end_of_turn_is_one_of_the_added_tokens() -> None:
    other: Any = tiny_tokenizer()
    other.add_tokens(["<end>"])
    other.eos_token = "<end>"

    assert check_same_tokenizer(tiny_tokenizer(), other) == ["<end>"]


def test_another_token_is_named_with_its_id_and_harmless_text() -> None:
    ours, theirs = tiny_tokenizer(), tiny_tokenizer()
    any_ours: Any = ours
    any_theirs: Any = theirs
    any_ours.add_tokens([AddedToken("<\x1bours>")])
    any_theirs.add_tokens([AddedToken("<theirs>")])

    with pytest.raises(TokenizerMismatchError, match=r'"<\\u\{1b\}ours>" has id 271 and none'):
        check_same_tokenizer(ours, theirs)


def test_another_end_of_turn_is_named() -> None:
    other = tiny_tokenizer()
    other.eos_token = "<|im_start|>"

    assert difference(other) == "eos_token_id is 2 and 1"


def test_another_cut_is_named() -> None:
    other = tiny_tokenizer()
    backend: Any = other.backend_tokenizer
    backend.pre_tokenizer.add_prefix_space = True

    assert difference(other).startswith('they cut "How do I tie a knot?" into different tokens')
