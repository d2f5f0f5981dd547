"""Models that are not on the session's device, or not on one device at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from pytest_divergence.core.errors import ModelLoadError
from pytest_divergence.discovery.soft_prompts.training import train_soft_prompt
from pytest_divergence.discovery.soft_prompts.training_config import TrainingConfig
from pytest_divergence.models import output_head
from pytest_divergence.models.loading import load_model_pair
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.models.transformers_log import quiet_transformers
from pytest_divergence.scoring.cheap_scores import prompt_nlls
from pytest_divergence.scoring.scorer import score_prompts
from tests.models_in_memory import local
from tests.tiny import tiny_tokenizer

TEXTS = ["How do I tie a knot?", "Write a poem.", "2 + 2 ="]
ON_DISK = {
    "model.embed_tokens": "disk",
    "model.layers.0": "disk",
    "model.layers.1": "cpu",
    "model.norm": "cpu",
    "model.rotary_emb": "cpu",
    "lm_head": "disk",
}
"""Embeddings, the first layer and the output head are read whenever they are needed."""


def loaded(folder: Path, device_map: Any, offload: Path | None = None) -> Any:
    with quiet_transformers():
        return AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, device_map=device_map, offload_folder=offload
        )


@pytest.fixture
def pairs(tiny_models: Path, tmp_path: Path) -> tuple[ModelPair, ModelPair]:
    """The same two models in memory, and with weights of the candidate on disk."""
    base, ft = tiny_models / "base", tiny_models / "ft"
    return (
        ModelPair.from_models(loaded(base, None), loaded(ft, None), tiny_tokenizer()),
        ModelPair.from_models(loaded(base, None), loaded(ft, ON_DISK, tmp_path), tiny_tokenizer()),
    )


@pytest.mark.parametrize("is_late", [False, True], ids=["whole", "pieces"])
def test_weights_on_disk_measure_and_train_as_weights_in_memory(
    pairs: tuple[ModelPair, ModelPair], is_late: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, spread = pairs
    assert any(weight.is_meta for weight in local(spread.candidate).model.parameters())
    assert spread.candidate_identity == here.candidate_identity
    assert spread.candidate.device == torch.device("cpu")
    configs = [
        TrainingConfig(
            num_virtual_tokens=2, num_steps=2, batch_size=3, gradient_checkpointing=is_twice
        )
        for is_twice in (False, is_late)  # layers on disk can be computed twice
    ]
    if is_late:
        monkeypatch.setattr(output_head, "WHOLE_BYTES", 0)

    scores, nlls, trained = zip(
        *(
            (
                score_prompts(pair, TEXTS, num_continuations=1, max_new_tokens=5),
                prompt_nlls(pair, pair.candidate, TEXTS),
                train_soft_prompt(pair, config, TEXTS).history,
            )
            for pair, config in zip(pairs, configs, strict=True)
        ),
        strict=True,
    )

    for ours, theirs in zip(*scores, strict=True):
        assert ours.continuations == theirs.continuations
        assert ours.measurement.value == pytest.approx(theirs.measurement.value, abs=1e-6)
    assert nlls[1] == pytest.approx(nlls[0], abs=1e-6)
    assert trained[1].loss == pytest.approx(trained[0].loss, abs=1e-5)
    assert trained[1].gradient_norms == pytest.approx(trained[0].gradient_norms, rel=1e-4)


@pytest.mark.parametrize("candidate", ["ft", "adapter"])
def test_a_map_of_all_devices_measures_as_one_device(tiny_models: Path, candidate: str) -> None:
    base, other = str(tiny_models / "base"), str(tiny_models / candidate)
    options = ",device_map=auto" if candidate == "ft" else ""

    spread = load_model_pair(f"{base},device_map=auto", other + options)
    here = load_model_pair(f"{base},device=cpu", other)

    assert spread.reference_identity.spec.endswith(",device_map=auto")
    assert here.reference_identity.spec.endswith(",device=cpu")
    for ours, theirs in zip(
        *(
            score_prompts(one, TEXTS, num_continuations=1, max_new_tokens=5)
            for one in (spread, here)
        ),
        strict=True,
    ):
        assert ours.measurement.value == pytest.approx(theirs.measurement.value, abs=1e-6)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("device=cuda:99", "--model-2: device=cuda:99 is not usable here: "),
        ("device_map=0", "must be auto, and given without device"),
        ("device_map=auto,device=cpu", "must be auto, and given without device"),
    ],
)
def test_a_device_that_is_not_there_and_another_map_than_auto_are_refused(
    tiny_models: Path, options: str, said: str
) -> None:
    with pytest.raises(ModelLoadError) as caught:
        load_model_pair(str(tiny_models / "base"), f"{tiny_models / 'ft'},{options}")
    assert said in str(caught.value)


@pytest.mark.parametrize("option", ["device=cpu", "device_map=auto"])
def test_an_adapter_runs_where_its_base_does(tiny_models: Path, option: str) -> None:
    with pytest.raises(ModelLoadError) as caught:
        load_model_pair(str(tiny_models / "base"), f"{tiny_models / 'adapter'},{option}")
    assert str(caught.value) == (
        "--model-2 is an adapter, which runs where its base does; give "
        f"{option.split('=')[0]} with --model-1"
    )
