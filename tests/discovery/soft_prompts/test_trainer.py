"""Datasets of divergent prompts: what stands in them, how they are chosen and filtered."""

from __future__ import annotations

import json
import math
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch

from pytest_divergence import DivergenceTrainer, TrainingConfig, score_prompts
from pytest_divergence.core.errors import SettingsError, StoreError
from pytest_divergence.core.evaluation_metrics import METRICS
from pytest_divergence.discovery.proposals import is_near
from pytest_divergence.models.decoding import row_seed
from pytest_divergence.scoring.cheap_scores import first_token_scores
from tests.models_in_memory import local, tiny_model, tiny_pair
from tests.tiny import tiny_tokenizer

TEXTS = ["How do I tie a knot?", "Write a poem.", "2 + 2 =", "Name a river."]
PROMPTS = ["How do I tie a knot?", "Name a river.", "Why?"]
CONFIG = TrainingConfig(num_virtual_tokens=3, num_steps=4, batch_size=2, learning_rate=0.1)
FEW: Any = {"max_new_tokens": 6, "controls": ["Hello!", "What is rain?"]}


@pytest.fixture(scope="module")
def trainer() -> DivergenceTrainer:
    trainer = DivergenceTrainer(tiny_model(), tiny_model(perturb=0.3), tiny_tokenizer(), CONFIG)
    trainer.train(TEXTS)
    return trainer


def test_a_dataset_is_plain_and_twice_the_same(trainer: DivergenceTrainer, tmp_path: Path) -> None:
    path = tmp_path / "divergent_dataset.pt"

    rows = trainer.generate_divergent_dataset(PROMPTS, path, **FEW)

    assert torch.load(path, weights_only=True) == rows
    lines = path.with_suffix(".jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line) for line in lines] == rows
    assert {row["prompt"] for row in rows} == set(PROMPTS)
    assert all(list(row) == ["prompt", "generation", "metrics"] for row in rows)
    found = {name for row in rows for name in row["metrics"]}
    assert found | {"distinct_2"} == set(METRICS) - {"self_similarity"}  # of one generation
    values = [row["metrics"]["kl_divergence"] for row in rows]
    assert values == sorted(values, reverse=True)


def test_metrics_are_those_of_the_text_alone(trainer: DivergenceTrainer, tmp_path: Path) -> None:
    """Against one forward pass of each model, without the package's own parts."""
    rows = trainer.generate_divergent_dataset(PROMPTS, tmp_path / "set.pt", **FEW)
    pair, row = trainer.pair, rows[0]
    (score,) = score_prompts(
        pair,
        [row["prompt"]],
        num_continuations=1,
        max_new_tokens=6,
        seed=row_seed(CONFIG.seed, "generations"),
    )
    ids = score.continuations.candidate[0]
    prompt = pair.chat.prompt_ids(row["prompt"])
    for number, side in enumerate(pair.sides, start=1):
        logits = local(side).model(torch.tensor([[*prompt, *ids]])).logits[0].detach()
        logprobs = logits.log_softmax(-1)[len(prompt) - 1 : -1]
        nll = -float(logprobs[range(len(ids)), list(ids)].mean())
        assert row["metrics"][f"perplexity_{number}"] == pytest.approx(math.exp(nll), rel=1e-4)

    controls = score_prompts(
        pair,
        FEW["controls"],
        num_continuations=1,
        max_new_tokens=6,
        seed=row_seed(CONFIG.seed, "generations"),
    )
    typical = sum(one.measurement.value for one in controls) / 2
    assert row["generation"] == pair.chat.text(ids)
    assert row["metrics"]["kl_divergence"] == pytest.approx(score.measurement.value)
    assert row["metrics"]["effectiveness"] == pytest.approx(score.measurement.value - typical)


def test_each_generation_of_a_prompt_is_a_row(trainer: DivergenceTrainer, tmp_path: Path) -> None:
    rows = trainer.generate_divergent_dataset(
        PROMPTS, tmp_path / "set.pt", num_generations=3, **FEW
    )

    assert len(rows) == 9
    for prompt in PROMPTS:
        own = [row for row in rows if row["prompt"] == prompt]
        assert len({row["generation"] for row in own}) == 3
        assert len({row["metrics"]["perplexity_2"] for row in own}) == 3
        assert len({row["metrics"]["kl_divergence"] for row in own}) == 1
        assert 0 <= own[0]["metrics"]["self_similarity"] < 1


def test_a_low_temperature_writes_what_is_likely(
    trainer: DivergenceTrainer, tmp_path: Path
) -> None:
    def perplexities(temperature: float) -> list[float]:
        rows = trainer.generate_divergent_dataset(
            PROMPTS, tmp_path / "set.pt", temperature=temperature, **FEW
        )
        return [row["metrics"]["perplexity_2"] for row in sorted(rows, key=lambda r: r["prompt"])]

    greedy, cold, warm, hot = (perplexities(one) for one in (0, 1e-4, 1.0, 5.0))

    assert greedy == pytest.approx(cold, rel=1e-5)
    assert sum(map(math.log, greedy)) < sum(map(math.log, warm)) < sum(map(math.log, hot))


def test_rows_outside_of_limits_are_left_out_and_a_filter_that_cannot_work_says_why(
    trainer: DivergenceTrainer, tmp_path: Path
) -> None:
    path = tmp_path / "set.pt"
    with pytest.raises(SettingsError, match=r"^min_metrics: 'kl_divergense' must .*; did"):
        trainer.generate_divergent_dataset(PROMPTS, path, min_metrics={"kl_divergense": 1}, **FEW)
    with pytest.raises(SettingsError, match=r"^max_metrics: 'self_similarity' must be one of "):
        trainer.generate_divergent_dataset(PROMPTS, path, max_metrics={"self_similarity": 1}, **FEW)
    with pytest.raises(
        SettingsError,
        match=r"^none of 3 rows lies within min_metrics=\{'js': 0.7\} and max_metrics=\{\}; they "
        r"have js from 0\.\d+ to 0\.\d+$",
    ):
        trainer.generate_divergent_dataset(PROMPTS, path, min_metrics={"js": 0.7}, **FEW)
    assert not path.exists()

    rows = trainer.generate_divergent_dataset(PROMPTS, path, **FEW)
    limit = {"kl_divergence": rows[1]["metrics"]["kl_divergence"]}
    middle = trainer.generate_divergent_dataset(
        PROMPTS, path, min_metrics=limit, max_metrics=limit, **FEW
    )

    assert middle == rows[1:2] == torch.load(path, weights_only=True)


def test_without_prompts_the_most_divergent_and_diverse_are_taken(
    trainer: DivergenceTrainer, tmp_path: Path
) -> None:
    written = trainer.generate_prompts(32, max_new_tokens=8)

    selected = trainer.select_prompts(5, num_written=32, max_new_tokens=8)

    first = first_token_scores(trainer.pair, written)
    assert selected.num_written == len(written) > 20
    assert selected.d_hard == pytest.approx(sum(first) / len(first))
    assert len(selected.prompts) == 5
    assert set(selected.prompts) < set(written)
    assert not any(is_near(*both) for both in combinations(selected.prompts, 2))
    chosen = [first[written.index(prompt)] for prompt in selected.prompts]
    assert min(chosen) >= sorted(first)[len(first) // 2 - 1]  # of the better half

    rows = trainer.generate_divergent_dataset(None, tmp_path / "set.pt", num_prompts=4, **FEW)
    assert len({row["prompt"] for row in rows}) == 4


def test_a_soft_prompt_after_a_text_writes_on_from_the_training_texts() -> None:
    trainer = DivergenceTrainer.from_pair(
        tiny_pair(), TrainingConfig(num_steps=2, batch_size=2, position="after")
    )
    trainer.train(TEXTS)

    written = trainer.generate_prompts(12, max_new_tokens=6)

    assert len(written) > 6
    assert {text for text in TEXTS if any(one.startswith(text) for one in written)} == set(TEXTS)
    assert all(any(one.startswith(text) for text in TEXTS) for one in written)


def test_a_trainer_says_what_it_needs(trainer: DivergenceTrainer, tmp_path: Path) -> None:
    untrained = DivergenceTrainer.from_pair(trainer.pair)
    with pytest.raises(SettingsError, match=r"^there is no soft prompt yet; call train\(\) first$"):
        untrained.generate_divergent_dataset(output_file=tmp_path / "set.pt")
    with pytest.raises(SettingsError, match=r"^prompts is empty; pass at least one prompt"):
        trainer.generate_divergent_dataset([], tmp_path / "set.pt")
    with pytest.raises(SettingsError, match=r"^temperature=-1 must be 0 or more, and finite$"):
        trainer.generate_divergent_dataset(PROMPTS, tmp_path / "set.pt", temperature=-1)
    with pytest.raises(SettingsError, match=r"^num_generations=2 at temperature=0 gives the same"):
        trainer.generate_divergent_dataset(
            PROMPTS, tmp_path / "set.pt", temperature=0, num_generations=2
        )
    with pytest.raises(
        SettingsError, match=r"set\.jsonl is where the JSON Lines are written; choose"
    ):
        trainer.generate_divergent_dataset(PROMPTS, tmp_path / "set.jsonl", **FEW)
    with pytest.raises(StoreError, match=r"^cannot write .*nowhere/set\.pt: "):
        trainer.generate_divergent_dataset(PROMPTS, tmp_path / "nowhere" / "set.pt", **FEW)
    assert list(tmp_path.iterdir()) == []
