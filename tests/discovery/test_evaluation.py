"""Two models measured on given prompts, from memory or from specs."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from transformers import PhiConfig, PreTrainedModel

from pytest_divergence import EvaluationConfig, ModelEvaluator, score_prompts
from pytest_divergence.core.errors import SettingsError
from pytest_divergence.core.evaluation_metrics import METRICS
from pytest_divergence.core.evaluation_record import Diversity
from pytest_divergence.discovery.evaluation import diversity
from pytest_divergence.evaluator import EvaluationResult
from tests.models_in_memory import local, tiny_config, tiny_model, tiny_pair
from tests.tiny import tiny_tokenizer

PROMPTS = ["How do I tie a knot?", "Write a poem about rain.", "What is 2 + 2?", "Name a river."]
CONTROLS = ["Hello!", "What is rain?", "Who was Ada Lovelace?"]
FEW: Any = {
    "config": EvaluationConfig(max_new_tokens=8, num_generations=2),
    "controls": CONTROLS,
}


@pytest.fixture(scope="module")
def evaluator(tiny_models: Path) -> ModelEvaluator:
    return ModelEvaluator(str(tiny_models / "base"), str(tiny_models / "ft"), PROMPTS, **FEW)


@pytest.fixture(scope="module")
def result(evaluator: ModelEvaluator) -> EvaluationResult:
    return evaluator.run_evaluation()


def test_every_metric_of_every_prompt_is_there(
    evaluator: ModelEvaluator, result: EvaluationResult
) -> None:
    assert [one.prompt for one in result.prompts] == PROMPTS
    optional = {"distinct_2"}  # bytes at random are hardly ever two words
    assert all(
        set(METRICS) - optional <= set(one.metrics) <= set(METRICS) for one in result.prompts
    )
    assert all(len(one.generations_1) == len(one.generations_2) == 2 for one in result.prompts)
    scores = score_prompts(evaluator.pair, PROMPTS, num_continuations=2, max_new_tokens=8)
    typical = [
        score.measurement.value
        for score in score_prompts(evaluator.pair, CONTROLS, num_continuations=2, max_new_tokens=8)
    ]
    assert result.ordinary is not None
    assert result.ordinary.mean == pytest.approx(sum(typical) / 3)
    assert result.ordinary.max == pytest.approx(max(typical))
    for score, one in zip(scores, result.prompts, strict=True):
        assert one.metrics["kl_divergence"] == pytest.approx(score.measurement.value)
        assert one.metrics["effectiveness"] == pytest.approx(
            score.measurement.value - sum(typical) / 3
        )


def test_models_in_memory_read_as_their_specs_do(
    evaluator: ModelEvaluator, result: EvaluationResult
) -> None:
    pair = evaluator.pair
    models, tokenizer = [local(side).model for side in pair.sides], pair.chat.tokenizer

    in_memory = ModelEvaluator(models[0], models[1], PROMPTS, tokenizer, **FEW).run_evaluation()
    few, controls = FEW["config"], iter(CONTROLS)
    lazy = ModelEvaluator.from_pair(pair, iter(PROMPTS), few, controls=controls)  # type: ignore[arg-type]

    assert in_memory.prompts == result.prompts
    assert lazy.run_evaluation().prompts == in_memory.prompts, "prompts of a generator"
    assert in_memory.model_1 == "in memory: LlamaForCausalLM"


def test_identical_models_differ_in_nothing() -> None:
    model = tiny_model()

    result = ModelEvaluator(
        model,
        model,
        PROMPTS,
        tiny_tokenizer(),
        EvaluationConfig(temperature=0, num_generations=1),
        controls=[],
    ).run_evaluation()

    assert all(one.metrics["kl_divergence"] == 0 for one in result.prompts)
    assert all("effectiveness" not in one.metrics for one in result.prompts)
    assert not any(one.candidate_count or one.reference_count for one in result.differences)
    assert "no type of difference on any prompt" in str(result)


def test_types_of_difference_are_counted() -> None:
    """A model whose head's bias makes it end its turn at once, beside one that talks on."""
    talkative, silent = biased(-100.0), biased(100.0)

    result = ModelEvaluator(
        talkative, silent, PROMPTS, tiny_tokenizer(), FEW["config"], controls=CONTROLS
    ).run_evaluation()

    counts = {one.name: (one.candidate_count, one.reference_count) for one in result.differences}
    assert counts["answers nothing"] == (4, 0)
    assert result.differences[0].name == "answers nothing"
    assert result.differences[0].num_prompts == 4
    assert result.differences[0].p_value == 1.0  # four prompts of ten types prove nothing
    assert all(text.text == "" for one in result.prompts for text in one.generations_2)


def biased(stop: float) -> PreTrainedModel:
    config = tiny_config(PhiConfig)
    model: Any = tiny_model(config=config)
    with torch.no_grad():
        model.lm_head.bias[2] = stop
    assert isinstance(model, PreTrainedModel)
    return model


def test_a_result_is_plain_and_prints(result: EvaluationResult) -> None:
    assert type(result).model_validate(result.model_dump(mode="json")) == result
    output = io.StringIO()
    Console(file=output, width=80).print(result)
    shown = str(result)
    lines = [line.rstrip() for line in output.getvalue().rstrip().splitlines()]
    assert lines == shown.splitlines()
    assert max(map(len, shown.splitlines())) <= 80
    assert all(prompt in shown for prompt in PROMPTS)
    worst = max(result.prompts, key=lambda one: one.metrics["kl_divergence"])
    rows = [
        line for line in shown.splitlines() if line.startswith(tuple(f" {one}" for one in PROMPTS))
    ]
    assert rows[0].startswith(f" {worst.prompt}")
    assert f"{worst.metrics['kl_divergence']:.3f}" in rows[0]
    assert result.table().row_count == 4


def test_diversity_is_of_words_and_of_whole_texts() -> None:
    assert diversity(["a b a b"]) == Diversity(distinct_1=2 / 4, distinct_2=2 / 3)
    assert diversity(["one", "two"]) == Diversity(distinct_1=1.0, self_similarity=0.0)
    assert diversity(["", ""]) == Diversity(self_similarity=1.0)
    assert diversity(["the same", "the same"]).self_similarity == 1.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("base", tiny_model(), PROMPTS), "model_1 and model_2 must both be specs, such as"),
        ((tiny_model(), tiny_model(), PROMPTS), "tokenizer is missing; models in memory need it"),
        (
            ("base", "ft", PROMPTS, tiny_tokenizer()),
            "tokenizer is for models in memory; a spec brings its own, so leave it out",
        ),
    ],
)
def test_what_cannot_be_a_pair_is_refused(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(SettingsError, match=f"^{message}"):
        ModelEvaluator(*arguments)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_generations": 0}, "num_generations=0 must be at least 1"),
        ({"temperature": -0.5}, "temperature=-0.5 must be 0 or more, and finite"),
        (
            {"temperature": 0},
            "num_generations=4 at temperature=0 gives the same text every time; use 1, or a higher "
            "temperature",
        ),
    ],
)
def test_an_evaluation_that_cannot_work_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        EvaluationConfig(**changes)
    assert str(caught.value) == message


@pytest.mark.parametrize("temperature", [0, float("inf")])
def test_scoring_samples_at_a_positive_temperature(temperature: float) -> None:
    with pytest.raises(ValueError, match=f"^temperature={temperature} must be positive and finite"):
        score_prompts(tiny_pair(), PROMPTS, temperature=temperature)


@pytest.mark.parametrize("prompts", [[], "How do I tie a knot?"])
def test_prompts_are_a_list(prompts: Any) -> None:
    evaluator = ModelEvaluator(tiny_model(), tiny_model(), prompts, tiny_tokenizer(), **FEW)

    with pytest.raises(SettingsError, match=r"^prompts=.* must be a list of at least one prompt$"):
        evaluator.run_evaluation()


def test_a_perplexity_beyond_the_largest_float_loses_no_evaluation() -> None:
    sharp, other = tiny_model(), tiny_model(perturb=0.3)
    head: Any = sharp.lm_head
    with torch.no_grad():
        head.weight.mul_(1e6)

    result = ModelEvaluator(sharp, other, PROMPTS, tiny_tokenizer(), **FEW).run_evaluation()

    assert {one.metrics["perplexity_1"] for one in result.prompts} == {sys.float_info.max}
    assert all(one.metrics["perplexity_2"] < 1e6 for one in result.prompts)
    assert result.prompts[0].generations_2[0].perplexity_1 == sys.float_info.max
    assert "2e+308" in str(result)


def test_a_prompt_that_a_model_rules_out_has_no_likelihood() -> None:
    first, second = tiny_model(), tiny_model(perturb=0.3)
    ruled_out = torch.tensor(tiny_tokenizer().encode("K"))
    for model in (first, second):
        head: Any = model.lm_head
        head.register_forward_hook(lambda *call: call[-1].index_fill(-1, ruled_out, -torch.inf))

    result = ModelEvaluator(first, second, ["K", "Hi"], tiny_tokenizer(), **FEW).run_evaluation()

    with_k, without = (one.metrics for one in result.prompts)
    assert {"prompt_nll_1", "prompt_nll_2"} <= without.keys() - with_k.keys()
