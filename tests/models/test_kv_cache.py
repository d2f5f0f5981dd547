"""Within `reuse_prompts` a prompt is read once, and no number changes for it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import Gemma2Config, LlamaConfig, MistralConfig

from pytest_divergence.models import kv_cache
from pytest_divergence.models.decoding import decode_amplified, decode_greedily
from pytest_divergence.models.side import Decoding
from pytest_divergence.models.transformers_side import TransformersSide
from tests.models_in_memory import local, tiny_config, tiny_model, tiny_pair

SHORT, LONG, OTHER = torch.arange(20, 23), torch.arange(30, 50), torch.tensor([9, 8, 7, 6, 5])
BODIES = [SHORT, LONG, OTHER]
PREFIX = (1, 87, 85)
ADDED = torch.tensor([40, 41, 42])


@pytest.fixture(params=["llama", "gpt2"], ids=["rotary", "absolute"])
def side(request: pytest.FixtureRequest) -> TransformersSide:
    return local(tiny_pair(request.param).candidate)


@torch.no_grad()
def bare(side: TransformersSide, *ids: int) -> Tensor:
    """What the model says after these ids, without anything of ours."""
    logits: Tensor = side.model(torch.tensor([ids]), use_cache=False).logits[0, -1]
    return logits


def assert_goes_on_as_the_model_alone(
    state: Decoding, bodies: list[Tensor], prefix: tuple[int, ...]
) -> None:
    """Behind each prompt, and behind each prompt and one token more."""
    side, read = local(state.side), [[*prefix, *body.tolist()] for body in bodies]
    for logits, ids in zip(state.logits, read, strict=True):
        assert torch.allclose(logits, bare(side, *ids), atol=1e-5)
    with torch.no_grad():
        state.step(ADDED[: len(bodies)])
    for logits, ids, added in zip(state.logits, read, ADDED.tolist(), strict=False):
        assert torch.allclose(logits, bare(side, *ids, added), atol=1e-5)


@pytest.mark.parametrize("prefix", [(), PREFIX], ids=["bare", "prefix"])
def test_a_prompt_is_read_once_whatever_batch_it_comes_in(
    side: TransformersSide, prefix: tuple[int, ...]
) -> None:
    """In another order and with less padding, alone, twice, and beside one that is new."""
    with side.reuse_prompts():
        side.start([SHORT], prefix=prefix)
        side.start([OTHER], prefix=prefix)
        for asked in (BODIES, BODIES, [OTHER, SHORT], [SHORT], [LONG, LONG, SHORT]):
            state = side.start(asked, prefix=prefix)

            assert side.meter.tokens_forwarded == sum(map(len, BODIES))
            assert_goes_on_as_the_model_alone(state, asked, prefix)
            side.meter.tokens_forwarded -= len(asked)  # the tokens that were decoded
        state = side.start(BODIES, prefix=(87, 1, 85))

        assert side.meter.tokens_forwarded == 2 * sum(map(len, BODIES))  # another prefix
        assert_goes_on_as_the_model_alone(state, BODIES, (87, 1, 85))


@pytest.mark.parametrize("prefix", [(), PREFIX], ids=["bare", "prefix"])
def test_prompts_whose_own_words_were_measured_are_not_read_again(
    side: TransformersSide, prefix: tuple[int, ...]
) -> None:
    longest = max(map(len, BODIES))
    with side.reuse_prompts():
        with torch.no_grad():
            kept = side.positions(BODIES, prefix=prefix, num_positions=longest)
        spent = side.meter.tokens_forwarded
        state = side.start(BODIES, prefix=prefix)

        assert side.meter.tokens_forwarded == spent
        assert_goes_on_as_the_model_alone(state, BODIES, prefix)
    with torch.no_grad():
        plain = side.positions(BODIES, prefix=prefix, num_positions=longest)
    places = torch.cat([index * longest + longest - 1 - torch.arange(2) for index in range(3)])
    assert torch.allclose(kept.at(places).logits(0, 6), plain.at(places).logits(0, 6), atol=1e-5)


def test_decoding_leaves_a_reading_as_it_was() -> None:
    pair = tiny_pair()
    limits = {"prefix": PREFIX, "max_new_tokens": 6, "stop_ids": frozenset({2})}
    fresh = decode_greedily(pair.candidate, BODIES, **limits)  # type: ignore[arg-type]
    loud = decode_amplified(*pair.sides, BODIES, alpha=3.0, **limits)  # type: ignore[arg-type]

    with pair.reuse_prompts():
        for _ in range(2):
            assert decode_greedily(pair.candidate, BODIES, **limits) == fresh  # type: ignore[arg-type]
            amplified = decode_amplified(*pair.sides, BODIES, alpha=3.0, **limits)  # type: ignore[arg-type]
            assert [row.ids for row in amplified] == [row.ids for row in loud]


def test_the_models_of_a_pair_do_not_go_on_from_each_others_readings() -> None:
    pair = tiny_pair()
    with pair.reuse_prompts():
        states = [side.start(BODIES, prefix=PREFIX) for side in (*pair.sides, *pair.sides)]

    assert pair.tokens_forwarded == 2 * sum(map(len, BODIES))
    for state in states[2:]:
        assert_goes_on_as_the_model_alone(state, BODIES, PREFIX)


def test_afterwards_all_is_forgotten() -> None:
    side = tiny_pair().candidate
    with side.reuse_prompts():
        with side.reuse_prompts():
            side.start(BODIES)
        spent = side.meter.tokens_forwarded
        side.start(BODIES)
        assert side.meter.tokens_forwarded == spent  # the outer one goes on
    side.start(BODIES)
    side.start(BODIES)

    assert side.meter.tokens_forwarded == 3 * spent


def test_what_does_not_fit_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    side = tiny_pair().candidate
    with side.reuse_prompts():
        side.start([SHORT], prefix=PREFIX)
        monkeypatch.setattr(kv_cache, "KEPT_BYTES", 0)
        side.start([LONG], prefix=PREFIX)
        spent = side.meter.tokens_forwarded
        state = side.start(BODIES, prefix=PREFIX)

        assert side.meter.tokens_forwarded == spent + len(LONG) + len(OTHER)
        assert_goes_on_as_the_model_alone(state, BODIES, PREFIX)


@pytest.mark.parametrize(
    ("kind", "window"),
    [(MistralConfig, 4), (MistralConfig, 22), (Gemma2Config, 12), (Gemma2Config, 24)],
    ids=["all layers, short", "all, just too short", "some layers, short", "some, just enough"],
)
def test_layers_that_forget_go_on_right(kind: Any, window: int) -> None:
    """Where a prompt is longer than what they attend to, its reading is no use."""
    model = tiny_model(config=tiny_config(kind, sliding_window=window))
    side = TransformersSide("candidate", model)
    with side.reuse_prompts():
        side.start([SHORT], prefix=PREFIX)
        side.start([LONG], prefix=PREFIX)
        state = side.start(BODIES, prefix=PREFIX)
        again = side.start([SHORT, OTHER], prefix=PREFIX)

    assert_goes_on_as_the_model_alone(state, BODIES, PREFIX)
    assert_goes_on_as_the_model_alone(again, [SHORT, OTHER], PREFIX)


@pytest.mark.parametrize(
    "windows",
    [{"sliding_window": 0}, {"sliding_window": 1, "layer_types": ["sliding_attention"] * 2}],
    ids=["none", "one"],
)
def test_a_window_that_the_model_does_not_know_forgets_nothing(windows: dict[str, Any]) -> None:
    config = tiny_config(LlamaConfig, num_hidden_layers=2)
    for key, value in windows.items():
        setattr(config, key, value)
    side = TransformersSide("candidate", tiny_model(config=config))

    assert_goes_on_as_the_model_alone(side.start(BODIES, prefix=PREFIX), BODIES, PREFIX)


def test_embeddings_are_read_each_time_and_pass_gradients() -> None:
    side = tiny_pair().candidate
    rows = [local(side).embed(body).requires_grad_() for body in BODIES]
    with side.reuse_prompts():
        side.start(rows, prefix=PREFIX)
        side.start(rows, prefix=PREFIX)
        side.positions(rows, prefix=PREFIX, num_positions=1).logits(0, 3).sum().backward()  # type: ignore[no-untyped-call]

    assert side.meter.tokens_forwarded == 3 * sum(map(len, BODIES))
    assert all(row.grad is not None and row.grad.norm() > 0 for row in rows)


def test_of_what_was_measured_only_the_end_is_kept() -> None:
    """Logits of all positions, and a prefix for each row, would take many times as much."""
    side = local(tiny_pair().candidate)
    longest = max(map(len, BODIES))
    with side.reuse_prompts(), torch.no_grad():
        side.positions(BODIES, prefix=PREFIX, num_positions=longest)
        assert side._prompts is not None
        kept = side._prompts.get((PREFIX, tuple(LONG.tolist())))
        assert kept is not None
        batch, _ = kept
        tensors = [batch.logits, *(one for both in batch.layers for one in both)]
        assert batch.num_bytes == sum(one.untyped_storage().nbytes() for one in tensors)
        assert all(keys.shape[-2] == longest for keys, _ in batch.layers)

        side.positions(BODIES, prefix=PREFIX, num_positions=longest)
        assert side._prompts._num_bytes == batch.num_bytes


def test_where_memory_ends_readings_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    side = tiny_pair().candidate
    with side.reuse_prompts():
        side.start(BODIES, prefix=PREFIX)
        monkeypatch.setattr(side, "_pass", out_of_memory)
        with pytest.raises(MemoryError):
            side.start([torch.tensor([1, 2])], prefix=PREFIX)
        monkeypatch.undo()
        spent = side.meter.tokens_forwarded
        state = side.start(BODIES, prefix=PREFIX)

        assert side.meter.tokens_forwarded == 2 * spent
        assert_goes_on_as_the_model_alone(state, BODIES, PREFIX)


def out_of_memory(*_: object) -> Tensor:
    raise MemoryError
