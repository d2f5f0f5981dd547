"""Suites replayed while TRL's trainers train a tiny model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM

from pytest_divergence import DivergenceCallback
from tests.integrations.conftest import CASES, logged, train
from tests.tiny import tiny_tokenizer

trl: Any = pytest.importorskip("trl")

# TRL and PEFT use names that transformers has given up.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")


def options(folder: Path, **changes: Any) -> dict[str, Any]:
    return {
        "output_dir": str(folder),
        "max_steps": 4,
        "save_steps": 2,
        "learning_rate": 0.01,
        "per_device_train_batch_size": 2,
        "use_cpu": True,
        "bf16": False,
        "report_to": "none",
        "disable_tqdm": True,
        "logging_steps": 3,  # so that the numbers of a save come between
        **changes,
    }


@pytest.mark.slow
def test_sft_of_all_weights(tiny_models: Path, suite: Path, tmp_path: Path) -> None:
    rows = [{"prompt": f"{text} ", "completion": "Buy now! Buy now!"} for text in CASES * 3]
    base = str(tiny_models / "base")

    def trained(*, is_measured: bool) -> Any:
        trainer = trl.SFTTrainer(
            model=AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32),
            args=trl.SFTConfig(**options(tmp_path / "sft")),
            train_dataset=Dataset.from_list(rows),
            processing_class=tiny_tokenizer(),
        )
        if is_measured:
            trainer.add_callback(DivergenceCallback(trainer, suite, reference=base))
        train(trainer)
        return trainer

    measured, alone = trained(is_measured=True), trained(is_measured=False)

    assert [row["step"] for row in logged(measured)] == [2, 4]
    assert logged(measured)[1]["divergence/cases_over"] == len(CASES)
    # TRL's own numbers are neither among ours nor lost to theirs.
    own = [row["mean_token_accuracy"] for row in measured.state.log_history if "loss" in row]
    others = [row["mean_token_accuracy"] for row in alone.state.log_history if "loss" in row]
    assert own == others
    assert "mean_token_accuracy" not in logged(measured)[0]
    weights, without = (trainer.model.state_dict() for trainer in (measured, alone))
    assert all(torch.equal(weights[name], without[name]) for name in without)


@pytest.mark.slow
def test_dpo_of_an_adapter(tiny_models: Path, suite: Path, tmp_path: Path) -> None:
    rows = [
        {"prompt": f"{text} ", "chosen": "Buy now! Buy now!", "rejected": "No."}
        for text in CASES * 3
    ]

    torch.manual_seed(0)
    trainer = trl.DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(tiny_models / "base", dtype=torch.float32),
        args=trl.DPOConfig(**options(tmp_path / "dpo", gradient_checkpointing=True)),
        train_dataset=Dataset.from_list(rows),
        processing_class=tiny_tokenizer(),
        peft_config=LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"),
    )
    trainer.add_callback(DivergenceCallback(trainer, suite))
    train(trainer)

    first, second = logged(trainer)
    assert 0 < first["divergence/mean_kl"] < second["divergence/mean_kl"]
    assert first["divergence/errors"] == 0
