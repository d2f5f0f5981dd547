"""Suites replayed while a real Trainer trains a tiny model."""

from __future__ import annotations

import importlib
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import (
    AutoModelForCausalLM,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
)

from pytest_divergence import DivergenceCallback
from pytest_divergence.core.cases import case_id
from pytest_divergence.core.errors import (
    DivergenceError,
    MeasurementError,
    ModelLoadError,
    SettingsError,
    SuiteError,
    TokenizerMismatchError,
)
from pytest_divergence.core.suites import read_suite
from pytest_divergence.integrations.checkpoint_replay import main
from pytest_divergence.models.loading import load_model_pair
from pytest_divergence.scoring.reference_record import record_reference, write_record
from tests.integrations.conftest import ADVERT, CASES, logged, train, weights_of
from tests.plugin.conftest import properties
from tests.tiny import CHATML, tiny_tokenizer

Training = Callable[..., Trainer]
# transformers and PEFT use these names of transformers themselves.
pytestmark = pytest.mark.filterwarnings("ignore:.*(activ|gradient_check).*deprec:FutureWarning")


@pytest.fixture
def base(tiny_models: Path) -> str:
    return str(tiny_models / "base")


def with_callback(trainer: Trainer, suite: Path, **options: Any) -> DivergenceCallback:
    callback = DivergenceCallback(trainer, suite, **options)
    trainer.add_callback(callback)
    return callback


def test_each_save_is_measured_as_a_replay_of_the_checkpoint_measures_it(
    training: Training, suite: Path, base: str, pytester: pytest.Pytester
) -> None:
    trainer = training()
    with_callback(trainer, suite, reference=base)

    train(trainer)

    first, second = logged(trainer)  # the end is the model of the second save: not once more
    assert (first["step"], second["step"]) == (2, 4)
    assert first["divergence/mean_kl"] < second["divergence/mean_kl"]
    assert second["divergence/cases_over"] == len(CASES)
    assert 0 < second["divergence/same_top"] < 1
    assert 0 < second["divergence/typical_shift"] <= second["divergence/typical_shift_max"]
    checkpoint = Path(str(trainer.args.output_dir)) / "checkpoint-4"
    result = pytester.runpytest_inprocess(
        "-p", "divergence", str(suite), f"--model-1={base}", f"--model-2={checkpoint}",
        "--divergence-max-shift=9", "--junitxml=junit.xml",
    )  # fmt: skip
    assert result.ret == 1
    found = properties(pytester.path / "junit.xml")
    shift = float(found["shift"]["shift"])
    assert second["divergence/typical_shift"] == pytest.approx(shift, rel=1e-4)
    values = [float(found[case_id(text)]["kl"]) for text in CASES]
    assert second["divergence/mean_kl"] == pytest.approx(sum(values) / len(CASES), rel=1e-4)
    assert second["divergence/max"] == pytest.approx(max(values), rel=1e-4)
    assert sum(row["verdict"] == "failed" for row in found.values() if "kl" in row) == len(CASES)


def test_an_adapter_is_compared_with_its_base(training: Training, suite: Path) -> None:
    trainer = training(adapter=True, save_strategy="no")
    with_callback(trainer, suite)

    train(trainer)

    (last,) = logged(trainer)
    assert last["step"] == 4
    assert last["divergence/cases_over"] == last["divergence/behaviours"] == 0
    assert 1e-5 < last["divergence/mean_kl"] < 0.1
    assert last["divergence/same_top"] > 0.5


def test_a_model_that_the_trainer_makes_anew_is_the_one_measured(
    training: Training, suite: Path, base: str
) -> None:
    trainer = training(anew=True, save_strategy="no")
    with_callback(trainer, suite, reference=base)

    train(trainer)

    (last,) = logged(trainer)
    assert last["divergence/mean_kl"] > 1e-5


KINDS: dict[str, dict[str, Any]] = {
    "autocast": {"bf16": True},
    "checkpointed adapter": {"adapter": True, "gradient_checkpointing": True},
}


def state_after_training(trainer: Trainer) -> list[Any]:
    """All random states, and what a measurement switches in a model."""
    random.seed(0)
    np.random.seed(0)
    train(trainer)
    model: Any = trainer.model
    return [
        random.getstate(),
        np.random.get_state()[1].tolist(),  # type: ignore[index]
        torch.get_rng_state().tolist(),
        model.config.use_cache,
        [weight.requires_grad for weight in model.parameters()],
        [module.training for module in model.modules()],
        [vars(module).get("_disable_adapters") for module in model.modules()],
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_the_training_goes_on_as_if_nothing_had_been_measured(
    training: Training, suite: Path, base: str, kind: str
) -> None:
    measured, alone = training(**KINDS[kind]), training(**KINDS[kind])
    for trainer in (measured, alone):
        model: Any = trainer.model  # not all of it wants gradients, even without PEFT
        model.get_input_embeddings().requires_grad_(False)
    with_callback(measured, suite, reference=None if "adapter" in kind else base)

    states = [state_after_training(trainer) for trainer in (measured, alone)]

    assert len(logged(measured)) == 2
    assert states[0] == states[1]
    with_it, without = weights_of(measured), weights_of(alone)
    assert all(torch.equal(with_it[name], without[name]) for name in without)
    start = weights_of(training(**KINDS[kind]))
    assert any(not torch.equal(start[name], without[name]) for name in without)


def test_stop_ends_the_training_after_the_save(
    training: Training, suite: Path, base: str, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = training(learning_rate=0.03)
    with_callback(trainer, suite, reference=base, action="stop")

    train(trainer)

    assert trainer.state.global_step == 2
    (row,) = logged(trainer)
    assert row["divergence/cases_over"] == len(CASES)
    assert "at step 2: 3 of 3 cases over the bound: " in caplog.text


def test_raise_ends_it_with_an_error_that_names_the_worst_cases(
    training: Training, suite: Path, base: str
) -> None:
    trainer = training(learning_rate=0.03)
    with_callback(trainer, suite, reference=base, action="raise", on=["train_end"])

    with pytest.raises(DivergenceError, match=r"at step 4: 3 of 3 cases .* > 0\.2\)"):
        train(trainer)


def test_log_only_warns(
    training: Training, suite: Path, base: str, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = training(start="ft", learning_rate=1e-6)
    with_callback(trainer, suite, reference=base, on=["save"])

    train(trainer)

    assert trainer.state.global_step == 4
    assert [row["divergence/behaviours"] for row in logged(trainer)] == [1, 1]
    assert f"1 behaviour that nobody has accepted: {ADVERT.id}" in caplog.text


def test_what_cannot_be_measured_is_no_pass(
    training: Training, suite: Path, base: str, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = training(learning_rate=1e30)  # to NaN in one step
    with_callback(trainer, suite, reference=base)
    trainer.add_callback(Ruined(trainer))

    train(trainer)

    assert trainer.state.global_step == 4
    assert "could not be measured" in caplog.text


class Ruined(DivergenceCallback):
    """Sets a weight to NaN."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        pass

    def on_save(self, *_: Any, **__: Any) -> Any:
        pass

    on_train_end = on_save

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        model: Any = self.trainer.model
        with torch.no_grad():
            model.get_input_embeddings().weight.fill_(torch.nan)


FIRST_IS_BEST: dict[str, Any] = {
    "load_best_model_at_end": True,
    "metric_for_best_model": "loss",
    "greater_is_better": True,
    "eval_strategy": "steps",
    "eval_steps": 2,
}
"""Options of a training whose first checkpoint is the best."""


@pytest.mark.slow
def test_the_best_model_is_measured_where_it_is_loaded_at_the_end(
    training: Training, suite: Path, base: str
) -> None:
    trainer = training(**FIRST_IS_BEST)
    with_callback(trainer, suite, reference=base)

    train(trainer)

    first, _, best = logged(trainer)
    assert str(trainer.state.best_model_checkpoint).endswith("checkpoint-2")
    assert best["divergence/mean_kl"] == pytest.approx(first["divergence/mean_kl"], rel=1e-5)


@pytest.mark.slow
def test_trackers_get_the_numbers_of_the_end_too(
    training: Training, suite: Path, tmp_path: Path
) -> None:
    pytest.importorskip("torch.utils.tensorboard", reason="tensorboard is not installed")
    reader: Any = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "runs"))
        trainer = training(adapter=True, report_to="tensorboard", save_strategy="no")
        with_callback(trainer, suite)
        train(trainer)

    (file,) = (tmp_path / "runs").rglob("events.*")
    events = reader.EventAccumulator(str(file))
    events.Reload()
    ((number),) = events.Scalars("train/divergence/mean_kl")
    assert (number.step, number.value) == (
        4,
        pytest.approx(logged(trainer)[0]["divergence/mean_kl"]),
    )


@pytest.mark.slow
def test_a_recorded_reference_takes_no_memory(
    training: Training, suite: Path, base: str, tmp_path: Path
) -> None:
    own = tmp_path / "suites"
    shutil.copytree(suite.parent, own)
    path = own / suite.name
    write_record(path, record_reference(load_model_pair(base, base), read_suite(path)))
    by_record, by_weights = training(save_steps=4), training(save_steps=4)
    with_callback(by_record, path, reference=f"recorded:{path}")
    with_callback(by_weights, path, reference=base)

    for trainer in (by_record, by_weights):
        train(trainer)

    (estimated,), (exact,) = logged(by_record), logged(by_weights)
    assert estimated["divergence/errors"] == 0
    assert estimated["divergence/mean_kl"] == pytest.approx(exact["divergence/mean_kl"], rel=0.5)
    assert estimated["divergence/same_top"] == pytest.approx(exact["divergence/same_top"])


@pytest.mark.slow
def test_a_saved_checkpoint_is_measured_in_a_process_of_its_own(
    training: Training, suite: Path, base: str, tmp_path: Path
) -> None:
    """Whatever its folder is called."""
    apart = training(save_steps=4, output_dir=str(tmp_path / "lr=1e-4,bs=8"))
    inside = training(save_steps=4)
    with_callback(apart, suite, reference=base, mode="process")
    with_callback(inside, suite, reference=base)

    for trainer in (apart, inside):
        train(trainer)

    (first,), (second,) = logged(apart), logged(inside)
    assert first["step"] == 4
    del first["divergence/seconds"], second["divergence/seconds"]
    assert first == pytest.approx(second, rel=1e-4)


@pytest.mark.slow
def test_a_checkpoint_of_an_earlier_step_is_not_the_model_of_the_end(
    training: Training, suite: Path, base: str, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = training()
    with_callback(trainer, suite, reference=base, mode="process")
    trainer.add_callback(Stopped())

    train(trainer)

    assert trainer.state.global_step == 3
    assert [row["step"] for row in logged(trainer)] == [2]
    assert "at step 3: could not be measured: no checkpoint of this step was saved" in caplog.text


class Stopped(TrainerCallback):
    """Ends the training between two saves."""

    def on_step_end(
        self, args: Any, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        control.should_training_stop = state.global_step == 3
        return control


@pytest.mark.slow
def test_the_best_checkpoint_is_measured_in_a_process_where_it_is_loaded_at_the_end(
    training: Training, suite: Path, base: str
) -> None:
    trainer = training(**FIRST_IS_BEST)
    with_callback(trainer, suite, reference=base, mode="process", on=["train_end"])

    train(trainer)

    (best,) = logged(trainer)
    assert str(trainer.state.best_model_checkpoint).endswith("checkpoint-2")
    assert best["divergence/errors"] == 0


@pytest.mark.slow
def test_a_process_that_cannot_measure_says_why(
    suite: Path, base: str, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = str(suite.with_name("gone.divergence.jsonl"))

    assert main([json.dumps([gone, base, base, None])]) == 1

    assert "gone.divergence.jsonl: cannot be read: No such file" in capsys.readouterr().err


def test_a_full_fine_tune_needs_a_reference(training: Training, suite: Path) -> None:
    trainer = training()
    with pytest.raises(SettingsError, match="reference is missing: all weights of the Llama"):
        DivergenceCallback(trainer, suite)
    with pytest.raises(SettingsError, match="reference is missing: all weights of the Llama"):
        DivergenceCallback(trainer, suite, mode="process")
    model: Any = trainer.model
    with pytest.raises(SettingsError, match="reference is the model in training itself"):
        DivergenceCallback(trainer, suite, reference=model)


def test_a_reference_may_be_a_model_in_memory(training: Training, suite: Path, base: str) -> None:
    trainer = training(save_steps=4)
    model = AutoModelForCausalLM.from_pretrained(base)
    model.train()
    with_callback(trainer, suite, reference=model)

    train(trainer)

    assert logged(trainer)[0]["divergence/cases_over"] == len(CASES)
    assert model.training
    assert all(weight.requires_grad for weight in model.parameters())


def test_a_suite_that_cannot_be_read_is_refused_at_once(
    training: Training, base: str, tmp_path: Path
) -> None:
    path = tmp_path / "bad.divergence.jsonl"
    with pytest.raises(SuiteError, match=r"bad\.divergence\.jsonl"):
        DivergenceCallback(training(), path, reference=base)
    path.write_text('{"input": "Hello", "max_kl": "much"}\n', "utf-8")
    with pytest.raises(SuiteError, match=r'bad\.divergence\.jsonl:1: max_kl is "much"'):
        DivergenceCallback(training(), path, reference=base)
    path.write_text('{"input": "Hello"}\n', "utf-8")
    with pytest.raises(SettingsError, match=r"case hello-\w+ has no bound; add max_kl"):
        DivergenceCallback(training(), path, reference=base)
    DivergenceCallback(training(), path, reference=base, max_kl=0.1)


def test_models_that_do_not_belong_to_the_suite_are_refused_at_once(
    training: Training, suite: Path, base: str, tmp_path: Path
) -> None:
    trainer = training()
    trainer.processing_class = tiny_tokenizer(chat_template=CHATML.replace("user", "human"))
    own = Path(shutil.copytree(base, tmp_path / "own"))
    text = (own / "tokenizer.json").read_text("utf-8")
    vocabulary = json.loads(text)
    entries = vocabulary["model"]["vocab"]
    entries["a"], entries["b"] = entries["b"], entries["a"]
    (own / "tokenizer.json").write_text(json.dumps(vocabulary), "utf-8")

    with pytest.raises(TokenizerMismatchError, match="have different tokenizers: the token"):
        DivergenceCallback(training(), suite, reference=str(own))
    with pytest.raises(TokenizerMismatchError, match="have different tokenizers: the token"):
        DivergenceCallback(training(), suite, reference=str(own), mode="process")
    with pytest.raises(ModelLoadError, match=r"reference: no folder '\./none'"):
        DivergenceCallback(training(), suite, reference="./none")
    trainer.processing_class = tiny_tokenizer(chat_template="{{ messages[0].content }}")
    model = AutoModelForCausalLM.from_pretrained(base)
    with pytest.raises(MeasurementError, match="prompt's token ids differ from the stored ones"):
        DivergenceCallback(trainer, suite, reference=model)
    trainer.processing_class = None
    with pytest.raises(SettingsError, match="processing_class is a NoneType"):
        DivergenceCallback(trainer, suite, reference=base)


def test_a_wrong_option_is_refused_with_the_known_ones(
    training: Training, suite: Path, base: str
) -> None:
    wrong: Any = "halt"
    with pytest.raises(SettingsError, match="action='halt' must be one of log, stop, raise"):
        DivergenceCallback(training(), suite, reference=base, action=wrong)
    with pytest.raises(SettingsError, match="on='halt' must be one of save, train_end"):
        DivergenceCallback(training(), suite, reference=base, on=[wrong])
    with pytest.raises(SettingsError, match="save_strategy is 'no'; set it to 'steps'"):
        DivergenceCallback(training(save_strategy="no"), suite, reference=base, mode="process")
    trainer = training()
    model = AutoModelForCausalLM.from_pretrained(base)
    with pytest.raises(SettingsError, match="reference is a LlamaForCausalLM in memory"):
        DivergenceCallback(trainer, suite, reference=model, mode="process")


@pytest.mark.slow
def test_a_model_in_shards_is_measured_only_once_it_is_saved(
    training: Training, suite: Path, base: str, tmp_path: Path
) -> None:
    trainer = training()
    torch.distributed.init_process_group(
        "gloo", init_method=(tmp_path / "store").as_uri(), rank=0, world_size=1
    )
    try:
        fully_shard(trainer.model, mesh=init_device_mesh("cpu", (1,)))  # type: ignore[arg-type]
        with pytest.raises(SettingsError) as refused:
            DivergenceCallback(trainer, suite, reference=base)
        DivergenceCallback(trainer, suite, reference=base, mode="process")
    finally:
        torch.distributed.destroy_process_group()

    assert "give mode='process', or replay a saved checkpoint: pytest-divergence replay" in str(
        refused.value
    )
    assert f"--model-1 {base} --model-2 {trainer.args.output_dir}/checkpoint-STEP" in str(
        refused.value
    )
