"""Statistics over single tokens: a model and itself differ in none, and each is its formula."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from pytest_divergence.core.token_statistics import ControlTokens, TokenStatistics
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.scoring.control_tokens import control_tokens, token_statistics
from pytest_divergence.scoring.scorer import PromptScore, score_prompts
from tests.models_in_memory import bare_logits, local, tiny_model
from tests.scoring.made_prompts import PROMPTS
from tests.tiny import tiny_tokenizer


def scored(pair: ModelPair) -> list[PromptScore]:
    return score_prompts(pair, PROMPTS, num_continuations=2, max_new_tokens=5)


def statistics(scores: list[PromptScore]) -> TokenStatistics:
    found = token_statistics([control_tokens(score) for score in scores])
    assert found is not None
    return found


def test_a_model_and_its_copy_differ_in_nothing() -> None:
    copies = (tiny_model(seed=3), tiny_model(seed=3))
    found = statistics(scored(ModelPair.from_models(*copies, tiny_tokenizer()))).model_dump()

    for name in found.keys() - {"evidence", "num_tokens", "num_controls"}:
        assert found[name] == pytest.approx(1.0 if name == "same_top" else 0.0, abs=1e-6), name


def test_each_number_is_its_formula(pair: ModelPair) -> None:
    scores = scored(pair)
    found = statistics(scores)

    kld, delta, same_top, ratios = [], [], [], []
    for score in scores:
        both = score.continuations
        for ids, is_own in [
            *((ids, True) for ids in both.reference),
            *((ids, False) for ids in both.candidate),
        ]:
            context = [*score.prompt_ids, *ids]
            log_p, log_q = (
                bare_logits(local(side).model, torch.tensor([context]))[-len(ids) - 1 : -1]
                .double()
                .log_softmax(-1)
                for side in pair.sides
            )
            kld += (log_p.exp() * (log_p - log_q)).sum(-1).tolist()
            own_p, own_q = (each.gather(-1, torch.tensor(ids)[:, None]) for each in (log_p, log_q))
            delta += (own_q.exp() - own_p.exp()).flatten().tolist()
            same_top += (log_p.argmax(-1) == log_q.argmax(-1)).tolist()
            ratios += (own_p - own_q).flatten().tolist() if is_own else []
    assert found.num_tokens == len(kld)
    assert found.num_controls == len(PROMPTS)
    assert found.mean_kld == pytest.approx(np.mean(kld), rel=1e-4)
    for name, share in (("median", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999), ("max", 1)):
        expected = float(np.quantile(kld, share))
        assert getattr(found, f"{name}_kld") == pytest.approx(expected, rel=1e-4), name
    assert found.rms_delta_p == pytest.approx(np.sqrt(np.mean(np.square(delta))), rel=1e-4)
    assert found.same_top == np.mean(same_top)
    assert found.ln_ppl_ratio == pytest.approx(np.mean(ratios), rel=1e-3)
    own = replace(scores[0], on_candidate=())
    assert statistics([own]).mean_kld == pytest.approx(scores[0].measurement.forward, rel=1e-5)


def row(kld: list[float]) -> ControlTokens:
    return ControlTokens(
        kld=kld, delta_p_squared=0.0, num_same_top=0, log_ratio=sum(kld), num_reference=len(kld)
    )


def test_the_standard_error_covers_positions_that_depend_on_each_other() -> None:
    # 64 controls of 32 positions, each with a level of its own: positions taken as independent
    # would give an error five times too small.
    random = np.random.default_rng(0)
    means, errors = [], []
    for _ in range(400):
        levels = random.gamma(2.0, 1.0, size=64)
        found = token_statistics([row(list(level + random.random(32))) for level in levels])
        assert found is not None
        assert found.mean_kld_se is not None
        means.append(found.mean_kld)
        errors.append(found.mean_kld_se)

    assert np.mean(errors) == pytest.approx(np.std(means), rel=0.1)


def test_controls_of_equal_length_give_the_usual_standard_error() -> None:
    found = token_statistics([row([1.0, 3.0]), row([2.0, 6.0]), row([0.0, 6.0])])

    assert found is not None
    assert found.mean_kld == found.ln_ppl_ratio == 3
    assert found.mean_kld_se == pytest.approx(np.std([2, 4, 3], ddof=1) / math.sqrt(3))
    assert found.ln_ppl_ratio_se == found.mean_kld_se


def test_one_control_has_no_standard_error_and_none_has_no_statistics(pair: ModelPair) -> None:
    alone = token_statistics([row([1.0])])

    assert alone is not None
    assert alone.mean_kld_se is None
    assert token_statistics([]) is None
    assert token_statistics([row([1.0]), None]) is None
    (score, *_) = scored(pair)
    endless = replace(score.on_candidate[0], forward=score.on_candidate[0].forward + math.inf)
    assert control_tokens(replace(score, on_candidate=(endless,))) is None
