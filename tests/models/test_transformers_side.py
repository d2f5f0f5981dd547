"""Forward passes of one model: windows, embeddings and memory change no number.

That padding and a shared prefix change none either is the zoo's to prove, family by family.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import Gemma2Config, MistralConfig

from pytest_divergence.models.decoding import decode_amplified, decode_greedily, decode_sampled
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.models.transformers_side import TransformersSide
from pytest_divergence.scoring.teacher_forcing import ScoringRow, continuation_log_probs
from tests.models_in_memory import bare_logits, local, tiny_config, tiny_model, tiny_pair
from tests.tiny import tiny_tokenizer

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


@pytest.mark.parametrize(
    ("kind", "window"),
    [(MistralConfig, 4), (MistralConfig, 22), (Gemma2Config, 12), (Gemma2Config, 24)],
    ids=["all layers, short", "all, just too short", "some layers, short", "some, just enough"],
)
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


@pytest.mark.parametrize("architecture", ["llama", "gemma"], ids=["as they are", "scaled"])
def test_embeddings_give_the_logits_of_their_ids(architecture: str) -> None:
    side = tiny_pair(architecture).candidate

    with torch.no_grad():
        embedded = [local(side).embed(body) for body in BODIES]
        by_ids, by_embeddings = (
            side.logits(rows, prefix=PREFIX, num_logits=1) for rows in (BODIES, embedded)
        )

    assert torch.allclose(by_ids, by_embeddings, atol=1e-5)


def test_models_that_are_handed_over_in_training_are_read_as_in_use() -> None:
    """Half of each attention drops out in training, of other positions each time."""
    config = tiny_config(MistralConfig, attention_dropout=0.5)
    models = [tiny_model(config=config, perturb=noise).train() for noise in (0.0, 0.3)]

    pair = ModelPair.from_models(models[0], models[1], tiny_tokenizer())

    found = [side.logits([BODIES[1]], num_logits=1) for side in pair.sides]
    for model, logits in zip(models, found, strict=True):
        assert torch.allclose(logits[0], bare_logits(model.eval(), BODIES[1][None])[-1:], atol=1e-5)


def test_half_precision_logits_come_in_float32() -> None:
    pair = tiny_pair()
    model: Any = local(pair.reference).model
    model.to(torch.bfloat16)

    with torch.no_grad():
        assert pair.reference.logits(BODIES, num_logits=1).dtype == torch.float32


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


def test_without_amplification_the_candidate_decodes(pair: ModelPair) -> None:
    """Greedily, and, where no token is ruled out, as it samples."""
    options: Any = {"prefix": PREFIX, "max_new_tokens": 6, "stop_ids": STOPS}
    seeds = [1, 2, 3]

    greedy = decode_amplified(*pair.sides, BODIES, alpha=0.0, **options)
    sampled = decode_amplified(
        *pair.sides, BODIES, alpha=0.0, min_share=1e-30, seeds=seeds, **options
    )

    assert [row.ids for row in greedy] == decode_greedily(pair.candidate, BODIES, **options)
    assert [row.ids for row in sampled] == decode_sampled(
        pair.candidate, BODIES, seeds=seeds, **options
    )


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
