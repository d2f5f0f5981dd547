"""Rounding may not change any answer much."""

from __future__ import annotations

from collections.abc import Callable

import pytest


@pytest.mark.parametrize("prompt", ["How do I tie a knot?", "Write a poem about rain."])
def test_answers_as_before(prompt: str, assert_bounded_kl: Callable[..., object]) -> None:
    assert_bounded_kl(prompt)
