"""When to use it: one repository holds several candidates, and each has its own bound.

How to run it: `pytest tests`, or `pytest tests/lora` for one of them. The ini file maps folders to
pairs: suites (`*.divergence.jsonl`) and tests in a folder are measured on its pair, and only one
pair at a time is in memory. Search one pair with `pytest-divergence discover --model-1 … --model-2
…`, then `pytest-divergence promote latest tests/lora/support.divergence.jsonl`.

What it leaves to you: `model_pair` is the session's single pair and not a folder's, so if tests
need it, name the models: `pytest tests/lora --model-1 … --model-2 …`.
"""

from __future__ import annotations

import pytest

MAX_KL = {"lora": 0.5, "quantised": 0.1}
"""Bound of the assertions in a folder's tests, nats per token. Suites have their own."""


def pytest_itemcollected(item: pytest.Item) -> None:
    """Give a test its folder's bound, unless the test or the assertion names its own."""
    bound = MAX_KL.get(item.path.parent.name)
    if bound is not None:
        item.add_marker(pytest.mark.divergence(max_kl=bound))
