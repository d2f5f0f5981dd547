"""When to use it: you quantised a model, and want to know that it still answers as before.

How to run it: name the full model and the quantised one in the ini file, put your users' prompts
into `prompts.txt`, one per line, and run `pytest`. It measures each prompt once and asks three
questions: is any prompt over the bound, do most tokens stay the same, is the typical change small?

What it leaves to you: the three limits, which depend on the number of bits. "What KL is bad?" in
the documentation lists usual values; run `pytest -v` once with a quantisation that you trust.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_divergence import ModelPair, PromptScore

PROMPTS = (Path(__file__).parent / "prompts.txt").read_text("utf-8").splitlines()


@pytest.fixture(scope="session")
def scores(model_pair: ModelPair) -> list[PromptScore]:
    """Measure all prompts in one pass."""
    from pytest_divergence import score_prompts

    return score_prompts(model_pair, [line for line in PROMPTS if line.strip()])
