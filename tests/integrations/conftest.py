"""A suite of two tiny models, and trainings of one of them that a test can repeat."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

from pytest_divergence.core.behaviours import Behaviour, TellingContinuation, behaviour_id
from pytest_divergence.core.cases import CONTROL_TAG, Case
from pytest_divergence.core.suites import StoredSuite, load_suite, write_stored, write_suite
from pytest_divergence.models.loading import load_model_pair
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.scoring.suite_rows import Sizes, measure_telling
from pytest_divergence.scoring.suite_update import filled
from tests.plugin.made_provenance import provenance_of
from tests.tiny import tiny_tokenizer

CASES = ("How do I tie a knot?", "Write a poem about rain.", "What goes into a soup?")
CONTROLS = ("Name a river.", "What is 2 + 2?", "Say hello.")
ADVERT = Behaviour(
    id=behaviour_id(["buy now"]), name="Buy now!", content=True, motifs=["buy now"], confirmed=True
)


@pytest.fixture(scope="session")
def suite(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A suite of `base` and `ft`: three cases with a bound of 0.2, three controls, a behaviour.

    `ft` says the behaviour's words far more readily than `base`.
    """
    path = tmp_path_factory.mktemp("suites") / "release.divergence.jsonl"
    rows = [Case(input=text, max_kl=0.2) for text in CASES]
    rows += [Case(input=text, tags=(CONTROL_TAG,)) for text in CONTROLS]
    write_suite(path, rows)
    base, ft = (str(tiny_models / name) for name in ("base", "ft"))
    pair = load_model_pair(base, ft)
    new = filled(
        pair,
        StoredSuite(load_suite(path), None, {}),
        provenance_of(base, ft),
        lambda _: Sizes("symmetric", 1, 8),
        seed=0,
    )
    told = max(
        (_told(pair, row, new.tokens[row.id].candidate[0]) for row in rows[: len(CASES)]),
        key=lambda telling: telling.log_ratio,
    )
    made = new.provenance.model_copy(
        update={"behaviours": [ADVERT.model_copy(update={"telling": [told]})]}
    )
    write_stored(path, new.rows.values(), new.tokens.values(), made)
    return path


def _told(pair: ModelPair, row: Case, token_ids: Sequence[int]) -> TellingContinuation:
    told = TellingContinuation(prompt=row.text, text="…", token_ids=token_ids, log_ratio=0.0)
    (ratio,) = measure_telling(pair, [told])
    return told.model_copy(update={"log_ratio": ratio.log_ratio, "log_p": ratio.log_p})


@pytest.fixture
def training(tiny_models: Path, tmp_path: Path) -> Callable[..., Trainer]:
    """Make the trainer of a training of `base`: four steps, saved after the second and the fourth.

    With dropout, so that a random number more or less leads to other weights. `anew`: the trainer
    gets no model, and makes one when it is made, and another when it trains.
    """

    def make(
        *, adapter: bool = False, start: str = "base", anew: bool = False, **changes: Any
    ) -> Trainer:
        model: Any = AutoModelForCausalLM.from_pretrained(
            tiny_models / start, dtype=torch.float32, attention_dropout=0.1
        )
        torch.manual_seed(0)
        if adapter:
            lora = LoraConfig(
                r=2, lora_dropout=0.1, target_modules=["q_proj"], task_type="CAUSAL_LM"
            )
            model = get_peft_model(model, lora)
        texts = [f"{text} Buy now! Buy now! Buy now!" for text in (*CASES, *CONTROLS, *CASES[:2])]
        given = {
            "output_dir": str(tmp_path / "out"),
            "max_steps": 4,
            "save_steps": 2,
            "learning_rate": 0.01,
            "per_device_train_batch_size": 2,
            "use_cpu": True,
            "report_to": "none",
            "disable_tqdm": True,
            "logging_steps": 1,
            **changes,
        }
        examples = [_example(text) for text in texts]
        return Trainer(
            model=None if anew else model,
            model_init=(lambda: deepcopy(model)) if anew else None,
            args=TrainingArguments(**given),
            train_dataset=examples,
            eval_dataset=examples[:2],
            processing_class=tiny_tokenizer(),
        )

    return make


def _example(text: str) -> dict[str, list[int]]:
    ids = tiny_tokenizer().encode(text)[:24]
    ids += [0] * (24 - len(ids))
    return {"input_ids": ids, "labels": ids}


def train(trainer: Trainer) -> None:
    """Train from one random state, whatever was drawn since the trainer was made."""
    torch.manual_seed(0)
    trainer.train()


def weights_of(trainer: Trainer) -> dict[str, Tensor]:
    """The weights of a trainer's model."""
    model: Any = trainer.model
    return {name: weight.detach().clone() for name, weight in model.state_dict().items()}


def logged(trainer: Trainer) -> list[dict[str, float]]:
    """The numbers of the callback that a trainer has logged, in order, with their step."""
    return [row for row in trainer.state.log_history if "divergence/errors" in row]
