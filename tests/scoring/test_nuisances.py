"""Attention, dtype and device: what each alone makes the reference read against itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pytest_divergence.models.loading import load_model_pair
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.scoring.baseline import batched_logits, noise_rows
from pytest_divergence.scoring.continuations import greedy_continuations
from pytest_divergence.scoring.divergences import symmetric_kl
from pytest_divergence.scoring.sensitivity import attention_of, measure_nuisance, nuisances_of
from tests.models.test_kinds import extended
from tests.models_in_memory import local, tiny_pair

PROMPTS = ("How do I tie a knot?", "Write a poem about rain.", "Why?")
TINY = 1e-9


@pytest.fixture(scope="module", params=["ft", "adapter"])
def pair(request: pytest.FixtureRequest, tiny_models: Path) -> ModelPair:
    return load_model_pair(str(tiny_models / "base"), str(tiny_models / request.param))


def answers(pair: ModelPair) -> list[tuple[int, ...]]:
    return [one.candidate[0] for one in greedy_continuations(pair, PROMPTS, max_new_tokens=6)]


def test_attention_reads_next_to_nothing_bfloat16_more_and_nothing_of_it_stays(
    pair: ModelPair,
) -> None:
    given = answers(pair)
    rows = noise_rows(pair, PROMPTS, given)
    choices = [("attention", "eager"), ("dtype", "bfloat16"), ("dtype", "float16")]
    assert nuisances_of(pair) == choices, "on a CPU in float32"
    with torch.no_grad():
        before = [batched_logits(side, rows) for side in pair.sides]

        attention = measure_nuisance(pair, "attention", "eager", PROMPTS, given)
        rounded = measure_nuisance(pair, "dtype", "bfloat16", PROMPTS, given)
        same = measure_nuisance(pair, "dtype", "float32", PROMPTS, given)

        after = [batched_logits(side, rows) for side in pair.sides]

    assert attention.max == pytest.approx(0, abs=TINY)
    assert attention.num_measurements == len(PROMPTS)
    assert rounded.mean is not None
    assert rounded.max is not None
    assert 1e-6 < rounded.mean <= rounded.max < 0.01
    assert same.max == pytest.approx(0, abs=TINY)
    assert attention_of(pair) == "sdpa"
    for ours, theirs in zip(before, after, strict=True):
        assert all(map(torch.equal, ours, theirs))


def test_a_converted_model_reads_as_one_that_is_loaded_so(tiny_models: Path) -> None:
    """Also what models keep in float32, such as the frequencies of their positions, is kept."""
    base = str(tiny_models / "base")
    ours, loaded = load_model_pair(base, base), load_model_pair(base, base, dtype="bfloat16")
    given = answers(ours)
    rows = noise_rows(ours, PROMPTS, given)
    with torch.no_grad():
        values = [
            float(symmetric_kl(p, q).mean())
            for p, q in zip(
                *(batched_logits(one.reference, rows) for one in (ours, loaded)), strict=True
            )
        ]

    row = measure_nuisance(ours, "dtype", "bfloat16", PROMPTS, given)

    assert row.max == pytest.approx(max(values), rel=1e-6)


def test_tokens_that_one_model_added_are_one_outcome_here_too(
    tiny_models: Path, tmp_path: Path
) -> None:
    folder = extended(tiny_models / "ft", tmp_path, "<call>", "<result>")
    pair = load_model_pair(str(tiny_models / "base"), str(folder))

    row = measure_nuisance(pair, "dtype", "bfloat16", PROMPTS, answers(pair))

    assert row.max is not None
    assert row.max < 0.01


def test_what_could_not_be_measured_says_why() -> None:
    pair = tiny_pair()
    row = measure_nuisance(pair, "attention", "no such one", PROMPTS, answers(pair))

    assert row.max is None
    assert row.num_measurements == 0
    assert row.reason is not None
    assert row.reason.startswith("ValueError: ")
    assert attention_of(pair) == "sdpa"


def test_logits_that_overflow_are_no_measurement() -> None:
    pair = tiny_pair()
    given = answers(pair)
    with torch.no_grad():
        local(pair.reference).embedding_table.mul_(1e6)  # too large for float16, not for float32

    row = measure_nuisance(pair, "dtype", "float16", PROMPTS, given)

    assert row.max is None
    assert row.reason == "its logits are not numbers (NaN or infinite)"
