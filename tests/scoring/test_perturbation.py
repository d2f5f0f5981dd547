"""The positive control: what noise in the weights reads, and that none of it stays behind."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch

from pytest_divergence.core.cases import Case
from pytest_divergence.core.errors import MeasurementError
from pytest_divergence.core.tokens import StoredTokens
from pytest_divergence.models.loading import load_model_pair
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.scoring.scorer import score_prompts, stored_tokens
from pytest_divergence.scoring.sensitivity import injected_kls, planted
from tests.models_in_memory import local, tiny_pair

PROMPTS = ("How do I tie a knot?", "Write a poem about rain.", "Why?")
CASES = [Case(input=prompt) for prompt in PROMPTS]
EXACT = 1e-7


@pytest.fixture(scope="module", params=["folder", "adapter"])
def pair(request: pytest.FixtureRequest, tiny_models: Path) -> ModelPair:
    """Two models in memory, and one that serves both sides through an adapter."""
    candidate = "ft" if request.param == "folder" else "adapter"
    return load_model_pair(str(tiny_models / "base"), str(tiny_models / candidate))


def stored(pair: ModelPair) -> dict[str, StoredTokens]:
    scores = score_prompts(pair, PROMPTS, num_continuations=1, max_new_tokens=6)
    return {
        case.id: stored_tokens(case.id, score) for case, score in zip(CASES, scores, strict=True)
    }


def kls(pair: ModelPair, size: float, *, seed: int = 0) -> list[float]:
    return injected_kls(pair, CASES, stored(pair), size=size, seed=seed, metric="symmetric")


def digests(pair: ModelPair) -> list[str]:
    """Of every bit of both models, buffers included."""
    return [
        hashlib.sha256(
            b"".join(
                one.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
                for one in (*local(side).model.parameters(), *local(side).model.buffers())
            )
        ).hexdigest()
        for side in pair.sides
    ]


def test_the_divergence_grows_from_zero_with_the_size_on_every_prompt(pair: ModelPair) -> None:
    assert all(abs(value) <= EXACT for value in kls(pair, 0.0))
    ladder = [kls(pair, size) for size in (0.003, 0.03, 0.3)]

    for values in zip(*ladder, strict=True):
        assert 0 < values[0] < values[1] < values[2]
    other = pair.with_template("{% for m in messages %}{{ m.content }}{% endfor %}")
    with pytest.raises(MeasurementError, match="differ from the stored ones"):
        injected_kls(other, CASES, stored(pair), size=0.1, seed=0, metric="symmetric")


def test_an_adapter_on_the_base_changes_nothing_of_the_noise_in_it(tiny_models: Path) -> None:
    base, adapter, ft = (str(tiny_models / name) for name in ("base", "adapter", "ft"))
    plain, adapted = load_model_pair(base, ft), load_model_pair(base, adapter)
    tokens = stored(plain)

    values = [
        injected_kls(one, CASES, tokens, size=0.1, seed=0, metric="symmetric")
        for one in (plain, adapted)
    ]

    assert values[0] == pytest.approx(values[1], abs=1e-6)


def test_the_weights_are_restored_bit_for_bit_after_an_error_too(pair: ModelPair) -> None:
    before, values = digests(pair), kls(pair, 0.1)
    assert digests(pair) == before

    def interrupted() -> None:
        with planted(pair, size=0.3, seed=0) as changed:
            score_prompts(changed, PROMPTS, num_continuations=1, max_new_tokens=2)
            assert digests(changed) != before  # the noise is in: the candidate ran last
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()

    assert digests(pair) == before
    assert kls(pair, 0.1) == values
    assert kls(pair, 0.1, seed=1) != values


def test_the_noise_is_relative_to_each_matrix() -> None:
    pair = tiny_pair()
    weights = dict(local(pair.reference).model.named_parameters())
    own = {name: weight.detach().clone() for name, weight in weights.items()}

    with planted(pair, size=0.1, seed=0) as changed:
        changed.candidate.start([torch.tensor([1, 2, 3])])
        for name, weight in weights.items():
            added = (weight - own[name]).std()
            expected = 0.1 * own[name].std() if weight.ndim > 1 else torch.tensor(0.0)
            assert added == pytest.approx(float(expected), rel=0.1)


def test_a_model_without_floating_point_matrices_is_refused() -> None:
    pair = tiny_pair()
    for weight in local(pair.reference).model.parameters():
        weight.data = weight.data.to(torch.int8)

    with pytest.raises(MeasurementError, match="quantised"), planted(pair, size=0.1, seed=0):
        pass
