"""Searches whose candidate a llama.cpp server runs: what works of them, and what they leave."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pytest_divergence import ModelPair, load_model_pair
from pytest_divergence.core.errors import MeasurementError
from pytest_divergence.core.settings import PROFILES
from pytest_divergence.core.suites import read_suite
from pytest_divergence.discovery.behaviours.amplified_phrases import amplified_answers
from pytest_divergence.discovery.behaviours.fresh_prompts import written_questions
from pytest_divergence.discovery.proposals import Proposal
from pytest_divergence.discovery.scored_proposals import first_scores, most_promising
from pytest_divergence.models.decoding import decode_greedily, decode_sampled
from pytest_divergence.models.endpoints.positions import Position
from pytest_divergence.models.endpoints.served_side import spread
from pytest_divergence.scoring.baseline import measure_noise_floor
from pytest_divergence.scoring.cheap_scores import first_token_scores, prompt_nlls
from pytest_divergence.scoring.residual import common_tilt
from tests.plugin.conftest import KNOT, POEM, Project
from tests.plugin.test_search import TINY_SEARCH
from tests.plugin.test_served import text_of
from tests.scoring.test_estimates import telling_all
from tests.vllm_form import vllm_form

PROMPTS = [KNOT, POEM, "Name three rivers."]


@pytest.fixture(scope="module")
def local(tiny_models: Path) -> ModelPair:
    return load_model_pair(str(tiny_models / "base"), str(tiny_models / "ft"))


@pytest.fixture(scope="module")
def served(tiny_models: Path, ft_server: str) -> ModelPair:
    return load_model_pair(str(tiny_models / "base"), f"llamacpp:{ft_server}")


def test_what_the_likeliest_leave_is_spread_over_the_other_tokens() -> None:
    head = Position(-0.5, (3, 1), (-0.5, -2.0))

    found = spread(head, 6)

    assert found[3] == -0.5
    assert found[1] == -2.0
    assert len(set(found[[0, 2, 4, 5]].tolist())) == 1
    assert float(found.exp().sum()) == pytest.approx(1)
    assert torch.allclose(found.log_softmax(-1), found)


def test_what_a_search_reads_is_told_as_by_the_weights(local: ModelPair, served: ModelPair) -> None:
    assert prompt_nlls(served, served.candidate, PROMPTS) == pytest.approx(
        prompt_nlls(local, local.candidate, PROMPTS), abs=1e-3
    )
    # A screen's values are what the likeliest tokens hold, never more than the weights tell.
    scores = zip(
        first_token_scores(served, PROMPTS), first_token_scores(local, PROMPTS), strict=True
    )
    assert all(0.2 * true < told <= true + 1e-3 for told, true in scores)
    floor = measure_noise_floor(served, PROMPTS, [(5, 6, 7)] * 3)
    assert floor.num_measurements == 18
    assert 0 < floor.value < 1e-3
    with pytest.raises(MeasurementError, match="this needs the probabilities of all"):
        common_tilt(served, PROMPTS)


def test_proposals_are_screened_where_most_answers_have_a_new_style(served: ModelPair) -> None:
    """That needs the whole distributions, so the style stays in on a server."""
    proposals = [Proposal(text, "seeds") for text in PROMPTS]

    plain, found = (
        first_scores(served, proposals, metric="symmetric", styled=styled)
        for styled in ((), PROMPTS)
    )

    first = [each.first_token_kl for each in plain]
    assert [each.first_token_kl for each in found] == pytest.approx(first, abs=1e-4)
    assert most_promising(proposals, found, 0.5)


def test_amplified_answers_are_those_of_the_weights(local: ModelPair, served: ModelPair) -> None:
    def begin(pair: ModelPair) -> list[str]:
        return [text[:8] for text in amplified_answers(pair, PROMPTS, 4)]

    assert begin(telling_all(served)) == begin(local)


def test_a_served_reference_writes_questions_as_its_weights_do(
    base_server: str, tiny_models: Path
) -> None:
    """At a temperature below 1, and the nearer to 0, the likelier its tokens."""
    base = f"llamacpp:{base_server}"
    with vllm_form(tiny_models / "base") as form:
        for spec in (base, f"vllm:{form.address}"):
            pair = load_model_pair(spec, str(tiny_models / "ft"))
            ((prefix, body),) = pair.prompt_rows([KNOT])
            ways: Any = {"prefix": prefix, "max_new_tokens": 6, "stop_ids": frozenset()}

            greedy = decode_greedily(pair.reference, [body], **ways)
            cold, hot = (
                decode_sampled(pair.reference, [body], seeds=[7], temperature=temperature, **ways)
                for temperature in (1e-4, 1.0)
            )

            assert cold == greedy
            assert hot != greedy
            assert len(written_questions(pair, ["rivers"], 3, seed=0)) == 3


@pytest.mark.slow
def test_a_search_with_a_served_candidate_writes_a_suite_that_replays(
    project: Project, ft_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PROFILES, "smoke", PROFILES["smoke"].model_copy(update=TINY_SEARCH))
    both = ("--model-1=base", f"--model-2=llamacpp:{ft_server}")

    result = project.run(*both, "-v")

    result.assert_outcomes(passed=3)
    said = text_of(result)
    assert "no gradient reaches the inputs of the candidate, which a server runs: soft" in said
    assert "search: seeds" in said
    assert "search: amplified" in said
    (path,) = (project.path / ".divergence/suites").glob("*.divergence.jsonl")
    suite = read_suite(path).suite
    assert {row.kl.evidence for row in suite.rows if row.kl} == {"head:64"}

    again = project.run(*both)
    assert "saved results" not in text_of(again)
    again.assert_outcomes(passed=3)

    replayed = project.run(str(path), *both, "-Wignore:aggregate")
    replayed.assert_outcomes(passed=3)
