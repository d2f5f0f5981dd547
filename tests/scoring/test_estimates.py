"""Divergences from parts of distributions: unbiased whatever is known, exact if all is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pytest_divergence import ModelPair, load_model_pair, score_prompts
from pytest_divergence.models.endpoints.llamacpp import LlamaCppServer
from pytest_divergence.models.endpoints.served_side import ServedSide
from pytest_divergence.models.side import Role, Told
from pytest_divergence.scoring.divergences import js, kl_of_log_probs
from pytest_divergence.scoring.estimates import (
    backward,
    jensen_shannon,
    k3,
    served_floor,
    token_scores,
)
from pytest_divergence.scoring.scorer import PromptScore

NUM_TOKENS = 40
PROMPTS = ["How do I tie a knot?", "Write a poem about rain.", "What is 17 + 5?", "Hello!"]
ROLES: tuple[Role, Role] = ("reference", "candidate")


def distributions(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits of two models that differ a little: (V,)."""
    generator = torch.Generator().manual_seed(seed)
    first = torch.randn(NUM_TOKENS, generator=generator) * 2
    return first, first + torch.randn(NUM_TOKENS, generator=generator) * 0.7


def told(logits: Tensor, tokens: Sequence[int], size: int) -> Told:
    """What a server tells of a model at positions that all have the same distribution."""
    log_p = logits.log_softmax(-1)
    head = log_p.topk(size)
    count = len(tokens)
    return Told(
        torch.tensor(tokens),
        log_p[list(tokens)],
        head.indices.expand(count, -1),
        head.values.expand(count, -1),
    )


def expected(writer: Role, size: int, name: str) -> float:
    """The mean of an estimate over all tokens, weighted as their writer samples them."""
    first, second = distributions()
    tokens = range(NUM_TOKENS)
    scores = token_scores(told(first, tokens, size), told(second, tokens, size), writer)
    weights = (first if writer == "reference" else second).softmax(-1)
    return float((weights * getattr(scores, name)).sum())


@pytest.mark.parametrize("size", [1, 20, NUM_TOKENS])
@pytest.mark.parametrize("writer", ROLES)
def test_each_estimate_is_unbiased_at_any_size_of_head(writer: Role, size: int) -> None:
    first, second = distributions()
    log_p, log_q = first.log_softmax(-1), second.log_softmax(-1)

    assert expected(writer, size, "forward") == pytest.approx(
        float(kl_of_log_probs(log_p, log_q)), rel=1e-4
    )
    assert expected(writer, size, "reverse") == pytest.approx(
        float(kl_of_log_probs(log_q, log_p)), rel=1e-4
    )
    assert expected(writer, size, "js") == pytest.approx(float(js(first, second)), rel=1e-4)


@pytest.mark.parametrize("writer", ROLES)
def test_equal_models_have_zero_divergence(writer: Role) -> None:
    first, _ = distributions()
    scores = token_scores(told(first, range(9), 4), told(first, range(9), 4), writer)

    for values in (scores.forward, scores.reverse, scores.js):
        assert values.tolist() == pytest.approx([0.0] * 9, abs=1e-7)


def test_no_estimate_is_negative() -> None:
    ratios = torch.linspace(-30, 5, 500, dtype=torch.float64)

    for function in (k3, backward, jensen_shannon):
        assert float(function(ratios).min()) >= -1e-12


def test_a_hand_worked_position() -> None:
    """p = (1/2, 1/4, 1/4), q = (1/2, 3/8, 1/8); the head of each is its first token, y the third.

    The head adds 1/2 ln 1 - 1/2 + 1/2 = 0; the tail r - 1 - ln r with r = 1/2.
    """
    ids, head_ids = torch.tensor([2]), torch.tensor([[0]])
    reference = Told(
        ids, torch.tensor([math.log(1 / 4)]), head_ids, torch.log(torch.tensor([[0.5]]))
    )
    candidate = Told(
        ids, torch.tensor([math.log(1 / 8)]), head_ids, torch.log(torch.tensor([[0.5]]))
    )

    (value,) = token_scores(reference, candidate, "reference").forward.tolist()

    assert value == pytest.approx(0.5 - 1 + math.log(2))


def test_the_noise_of_a_server_is_the_largest_reading_and_at_least_that_of_arithmetic() -> None:
    first, second = distributions()
    read, noisy = told(first, [1, 2], 5), told(first + 0.05 * second, [1, 2], 5)

    floor = served_floor([(read, read), (read, read)])

    assert (floor.value, floor.num_measurements) == (1e-6, 2)
    assert served_floor([(read, read), (read, noisy)]).value > 1e-4


# Tokens that an earlier candidate has sampled


def mean_over_stored(logits: tuple[Tensor, Tensor, Tensor], size: int, name: str) -> float:
    """The mean of an estimate over tokens that the earliest of three candidates samples.

    `logits` are the reference's, the candidate's then and its now.
    """
    first, then, now = logits
    tokens = range(NUM_TOKENS)
    scores = token_scores(
        told(first, tokens, size),
        told(now, tokens, size),
        "candidate",
        then.log_softmax(-1).tolist(),
    )
    return float((then.softmax(-1) * getattr(scores, name)).sum())


def three(*, distance: float) -> tuple[Tensor, Tensor, Tensor]:
    first, then = distributions()
    generator = torch.Generator().manual_seed(7)
    return first, then, then + torch.randn(NUM_TOKENS, generator=generator) * distance


@pytest.mark.parametrize("size", [1, 20])
def test_an_estimate_on_the_tokens_of_a_build_of_the_same_weights_is_unbiased(size: int) -> None:
    logits = three(distance=0.2)
    first, then, now = (each.log_softmax(-1) for each in logits)
    assert float((now - then).max()) < math.log(4)

    found = {name: mean_over_stored(logits, size, name) for name in ("forward", "reverse", "js")}

    assert found == pytest.approx(
        {
            "forward": float(kl_of_log_probs(first, now)),
            "reverse": float(kl_of_log_probs(now, first)),
            "js": float(js(logits[0], logits[2])),
        },
        rel=1e-4,
    )


def test_an_estimate_on_the_tokens_of_a_far_candidate_is_a_lower_bound() -> None:
    logits = three(distance=2.0)
    first, _, now = (each.log_softmax(-1) for each in logits)

    assert 0 < mean_over_stored(logits, 3, "reverse") < float(kl_of_log_probs(now, first))


def test_what_a_repaired_candidate_no_longer_writes_adds_almost_nothing() -> None:
    """One draw of the old candidate's advert, which the new one finds very unlikely."""
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(5000, generator=generator) * 2
    now = 1.1 * first + 0.1 * torch.randn(5000, generator=generator)
    advert = int(first.argsort(descending=True)[200])
    now[advert] -= 12
    then = now.clone()
    then[advert] += 32
    sides = told(first, [advert], 64), told(now, [advert], 64)
    exact = float(kl_of_log_probs(now.log_softmax(-1), first.log_softmax(-1)))

    as_if_it_wrote_it = token_scores(*sides, "candidate").reverse.item()
    found = token_scores(*sides, "candidate", [then.log_softmax(-1)[advert].item()]).reverse.item()

    assert as_if_it_wrote_it > 1000 * exact
    assert 0 < found < 2 * exact


def test_continuations_of_an_unknown_writer_are_measured_by_what_both_models_tell(
    served: ModelPair,
) -> None:
    (fresh,) = score_prompts(served, PROMPTS[:1], num_continuations=2, max_new_tokens=12)
    bare = replace(fresh.continuations, candidate_log_p=None)

    (again,) = score_prompts(served, PROMPTS[:1], continuations=[fresh.continuations])
    (found,) = score_prompts(served, PROMPTS[:1], continuations=[bare])

    assert again.measurement.reverse == pytest.approx(fresh.measurement.reverse, rel=1e-5)
    assert found.measurement.forward == pytest.approx(fresh.measurement.forward, rel=1e-5)
    assert found.measurement.reverse < fresh.measurement.reverse
    assert again.measurement.k3 == pytest.approx(fresh.measurement.k3, rel=1e-5)
    assert found.measurement.k3 is None


# With a real server


@pytest.fixture(scope="module")
def local(tiny_models: Path) -> ModelPair:
    return load_model_pair(str(tiny_models / "base"), str(tiny_models / "ft"))


@pytest.fixture(scope="module")
def served(tiny_models: Path, ft_server: str) -> ModelPair:
    return load_model_pair(str(tiny_models / "base"), f"llamacpp:{ft_server}")


def telling_all(pair: ModelPair) -> ModelPair:
    """The pair whose server is asked for every token."""
    side = pair.candidate
    assert isinstance(side, ServedSide)
    assert isinstance(side.dialect, LlamaCppServer)
    dialect = replace(side.dialect, num_told=side.dialect.vocab_size)
    return replace(pair, candidate=replace(side, dialect=dialect))


@pytest.fixture(scope="module")
def scores(local: ModelPair, served: ModelPair) -> tuple[list[PromptScore], ...]:
    """The same continuations scored on local weights, on the server, and on all that it tells."""
    written = score_prompts(local, PROMPTS, num_continuations=2, max_new_tokens=12)
    given = [score.continuations for score in written]
    return written, *(
        score_prompts(pair, PROMPTS, continuations=given) for pair in (served, telling_all(served))
    )


def test_a_server_that_tells_all_gives_the_value_of_the_local_weights(
    scores: tuple[list[PromptScore], ...],
) -> None:
    """What it tells of chosen tokens alone is that of the local weights with a part, too."""
    for ours, part, whole in zip(*scores, strict=True):
        for name in ("value", "forward", "reverse", "js", "k3", "max_token"):
            expected = getattr(ours.measurement, name)
            assert getattr(whole.measurement, name) == pytest.approx(expected, rel=2e-3), name
        assert (ours.measurement.evidence, part.measurement.evidence) == ("full", "head:64")
        assert part.measurement.k3 == pytest.approx(ours.measurement.k3, rel=2e-3)


def test_a_server_samples_as_its_own_probabilities_say(served: ModelPair) -> None:
    """At T = 1 over the whole vocabulary, not by the server's defaults, which cut it."""
    (score,) = score_prompts(served, PROMPTS[:1], num_continuations=64, max_new_tokens=1)

    tokens = torch.tensor([ids[0] for ids in score.continuations.candidate])
    surprise = -torch.cat([part.candidate_logprobs for part in score.on_candidate])
    # The mean surprise of true samples is the entropy; of 40 likeliest tokens it is far below it.
    assert len(set(tokens.tolist())) > 25
    assert float(surprise.mean()) > 4.0
