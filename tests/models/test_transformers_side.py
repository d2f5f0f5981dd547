"""Forward passes of one model: padding, prefix and memory change no number."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import Gemma2Config, MistralConfig

from pytest_divergence.models.decoding import decode_amplified, decode_greedily, decode_sampled
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.models.transformers_side import TransformersSide
from pytest_divergence.scoring.teacher_forcing import ScoringRow, continuation_log_probs
from tests.models_in_memory import local, tiny_config, tiny_model, tiny_pair

ARCHITECTURES = ["llama", "gpt_neox", "gpt2", "gemma"]
BODIES = [torch.arange(20, 23), torch.arange(30, 50), torch.tensor([9])]
PREFIX = (1, 87, 85)
STOPS = frozenset({2})


@pytest.fixture(scope="module")
def pair() -> ModelPair:
    return tiny_pair()


@torch.no_grad()
def bare(side: TransformersSide, ids: list[int]) -> torch.Tensor:
    logits: torch.Tensor = side.model(torch.tensor([ids])).logits[0]
    return logits


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("prefix", [(), PREFIX], ids=["bare", "prefix"])
def test_a_rows_logits_are_those_of_the_model_alone(
    architecture: str, prefix: tuple[int, ...]
) -> None:
    side = tiny_pair(architecture).candidate

    with torch.no_grad():
        together = side.logits(BODIES, prefix=prefix, num_logits=1)

    for body, logits in zip(BODIES, together, strict=True):
        expected = bare(local(side), [*prefix, *body.tolist()])[-1:]
        assert torch.allclose(logits, expected, atol=1e-5)


@pytest.mark.parametrize("window", [4, 12, 22, 23, 24, 25, 64])
@pytest.mark.parametrize("kind", [MistralConfig, Gemma2Config], ids=["mistral", "gemma2"])
def test_padding_pushes_no_prefix_out_of_a_window(kind: Any, window: int) -> None:
    """A layer that attends to the last few positions counts a short row's padding among them."""
    side = TransformersSide(
        "candidate", tiny_model(config=tiny_config(kind, sliding_window=window))
    )
    added = [[40, 41, 42, 43, 44, 45], [50], [60, 61, 62]]
    read = [[*PREFIX, *body.tolist()] for body in BODIES]

    with torch.no_grad():
        together = side.logits(BODIES, prefix=PREFIX, num_logits=1)[:, -1]
        state = side.start(BODIES, prefix=PREFIX)
        decoding = state.fork(range(len(BODIES)))
        for column in zip(*(ids * 6 for ids in added), strict=False):
            decoding.step(torch.tensor(column))
        scored = [one.logits(0, len(one)) for one in state.positions_of(added)]

    for row, ids in enumerate(read):
        assert torch.allclose(together[row], bare(side, ids)[-1], atol=1e-5)
        assert torch.allclose(
            scored[row], bare(side, [*ids, *added[row]])[len(ids) - 1 : -1], atol=1e-5
        )
        decoded = bare(side, [*ids, *(added[row] * 6)[:6]])[-1]
        assert torch.allclose(decoding.logits[row], decoded, atol=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_prefix_is_forwarded_once(architecture: str) -> None:
    side = tiny_pair(architecture).candidate

    with torch.no_grad():
        side.logits(BODIES, prefix=PREFIX, num_logits=1)

    assert side.meter.tokens_forwarded == sum(map(len, BODIES))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_embeddings_give_the_logits_of_their_ids(architecture: str) -> None:
    side = tiny_pair(architecture).candidate

    with torch.no_grad():
        embedded = [local(side).embed(body) for body in BODIES]
        by_ids, by_embeddings = (
            side.logits(rows, prefix=PREFIX, num_logits=1) for rows in (BODIES, embedded)
        )

    assert torch.allclose(by_ids, by_embeddings, atol=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_decoding_step_by_step_agrees_with_one_pass(architecture: str) -> None:
    side = tiny_pair(architecture).candidate
    added = torch.tensor([40, 41, 42])

    with torch.no_grad():
        state = side.start(BODIES, prefix=PREFIX)
        state.step(added)
        state.step(added.flip(0))

    for index, body in enumerate(BODIES):
        ids = [*PREFIX, *body.tolist(), int(added[index]), int(added.flip(0)[index])]
        assert torch.allclose(state.logits[index], bare(local(side), ids)[-1], atol=1e-5)


def test_half_precision_logits_come_in_float32() -> None:
    pair = tiny_pair()
    model: Any = local(pair.reference).model
    model.to(torch.bfloat16)

    with torch.no_grad():
        assert pair.reference.logits(BODIES, num_logits=1).dtype == torch.float32


def test_tokens_are_counted_without_padding_and_for_both_models() -> None:
    pair = tiny_pair()
    with torch.no_grad():
        for side in pair.sides:
            side.logits(BODIES, num_logits=1)

    assert pair.tokens_forwarded == 2 * sum(map(len, BODIES))


def test_a_session_that_goes_on_counts_as_one_that_never_stopped() -> None:
    """The prefix is computed anew in each session, so it must not count."""
    fresh, used = tiny_pair(), tiny_pair()
    with torch.no_grad():
        used.reference.logits(BODIES, prefix=PREFIX, num_logits=1)
        before = used.tokens_forwarded
        for one in (fresh, used):
            one.reference.logits(BODIES, prefix=PREFIX, num_logits=1)

    assert used.tokens_forwarded - before == fresh.tokens_forwarded


def test_memory_that_ends_in_decoding_changes_no_sample(
    pair: ModelPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: Any = {"prefix": PREFIX, "max_new_tokens": 6, "stop_ids": STOPS}
    bodies = [torch.arange(20, 20 + length) for length in range(1, 9)]
    seeds = list(range(8))
    sampled = decode_sampled(pair.candidate, bodies, seeds=seeds, **options)
    greedy = decode_greedily(pair.candidate, bodies, **options)
    start = TransformersSide.start

    def start_with_little_memory(side: TransformersSide, rows: Any, **given: Any) -> Any:
        if len(rows) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return start(side, rows, **given)

    monkeypatch.setattr(TransformersSide, "start", start_with_little_memory)

    assert decode_sampled(pair.candidate, bodies, seeds=seeds, **options) == sampled
    assert decode_greedily(pair.candidate, bodies, **options) == greedy


def test_unamplified_decoding_is_the_candidates_greedy_one(pair: ModelPair) -> None:
    options: Any = {"prefix": PREFIX, "max_new_tokens": 6, "stop_ids": STOPS}

    amplified = decode_amplified(pair.reference, pair.candidate, BODIES, alpha=0.0, **options)

    assert [row.ids for row in amplified] == decode_greedily(pair.candidate, BODIES, **options)


def test_amplified_text_comes_with_the_log_ratio_of_each_token(pair: ModelPair) -> None:
    options: Any = {"prefix": PREFIX, "max_new_tokens": 5, "stop_ids": STOPS}

    amplified = decode_amplified(*pair.sides, BODIES, alpha=2.0, seeds=[1, 2, 3], **options)

    rows = [
        ScoringRow(PREFIX, body, tuple(row.ids))
        for body, row in zip(BODIES, amplified, strict=True)
    ]
    reference, candidate = (continuation_log_probs(side, rows) for side in pair.sides)
    for row, log_r, log_c in zip(amplified, reference, candidate, strict=True):
        assert row.log_ratios == pytest.approx((log_c - log_r).tolist(), abs=1e-4)


def test_amplified_decoding_prefers_what_only_the_candidate_says(pair: ModelPair) -> None:
    options: Any = {"prefix": PREFIX, "max_new_tokens": 1, "stop_ids": STOPS}
    with torch.no_grad():
        log_r, log_c = (
            side.logits(BODIES, prefix=PREFIX, num_logits=1)[:, 0].log_softmax(-1)
            for side in pair.sides
        )

    amplified = decode_amplified(pair.reference, pair.candidate, BODIES, alpha=20.0, **options)

    for row, (ids, _) in enumerate(amplified):
        allowed = log_c[row] >= log_c[row].max() + torch.log(torch.tensor(0.02))
        ratio = (21 * log_c[row] - 20 * log_r[row]).masked_fill(~allowed, -torch.inf)
        assert ids == [int(ratio.argmax())]


def test_amplified_sampling_without_amplification_samples_the_plausible_tokens(
    pair: ModelPair,
) -> None:
    """With nothing ruled out and alpha 0 it is the candidate's own sampling."""
    options: Any = {"prefix": PREFIX, "max_new_tokens": 6, "stop_ids": STOPS, "seeds": [1, 2, 3]}

    amplified = decode_amplified(*pair.sides, BODIES, alpha=0.0, min_share=1e-30, **options)

    assert [row.ids for row in amplified] == decode_sampled(pair.candidate, BODIES, **options)


def test_an_amplified_row_does_not_depend_on_the_rows_beside_it(pair: ModelPair) -> None:
    options: Any = {"prefix": PREFIX, "max_new_tokens": 6, "stop_ids": STOPS, "alpha": 1.0}

    together = decode_amplified(*pair.sides, BODIES, seeds=[1, 2, 3], **options)

    for body, seed, row in zip(BODIES, [1, 2, 3], together, strict=True):
        (alone,) = decode_amplified(*pair.sides, [body], seeds=[seed], **options)
        assert alone.ids == row.ids
        assert alone.log_ratios == pytest.approx(row.log_ratios, abs=1e-4)


def test_a_banned_beginning_lets_the_next_best_begin(pair: ModelPair) -> None:
    options: Any = {"prefix": PREFIX, "max_new_tokens": 4, "stop_ids": STOPS, "alpha": 3.0}
    first = [row.ids[0] for row in decode_amplified(*pair.sides, BODIES, **options)]

    beside = decode_amplified(*pair.sides, BODIES, not_first=first, **options)

    assert all(row.ids and row.ids[0] not in first for row in beside)
