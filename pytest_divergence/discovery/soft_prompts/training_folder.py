"""A training in a folder of its own: interrupted, it goes on; finished, nothing is done again.

Owns the folder's files and their order. What is there is never overwritten by a training of other
settings, unless that is asked for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pytest_divergence.core.errors import SettingsError, StoreError, SuiteError
from pytest_divergence.core.files import check_inside
from pytest_divergence.core.json_files import load_document, read_rows, strict_loads, write_document
from pytest_divergence.core.regular_files import make_folders
from pytest_divergence.core.report import TrainingSummary
from pytest_divergence.core.training_record import TrainingRecord, changed
from pytest_divergence.discovery.evaluation import EvaluationConfig
from pytest_divergence.discovery.soft_prompts.trainer import DivergenceTrainer
from pytest_divergence.discovery.soft_prompts.training import training_rows
from pytest_divergence.discovery.soft_prompts.virtual_tokens import CHECKPOINT_SUFFIX, SoftPrompt

RECORD, SOFT_PROMPT = "training.json", "soft_prompt.safetensors"
CHECKPOINT = f"training{CHECKPOINT_SUFFIX}"
DATASET, DATASET_LINES = "divergent_dataset.pt", "divergent_dataset.jsonl"
WAY_OUT = "choose another --output-dir, or replace it with --force"
NUM_SHOWN = 3
"""Changed settings that a refusal names."""


@dataclass(frozen=True, kw_only=True)
class DatasetPlan:
    """The dataset that is written after the training."""

    num_prompts: int = 16
    """Prompts that are selected."""
    num_written: int = 64
    """Prompts that both models write, from which these are selected."""
    num_generations: int = 1
    temperature: float = 1.0
    max_new_tokens: int = 32
    min_metrics: Mapping[str, float] = field(default_factory=dict)
    max_metrics: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        EvaluationConfig(  # refused before the training, not after it
            num_generations=self.num_generations,
            temperature=self.temperature,
            max_new_tokens=self.max_new_tokens,
        )


@dataclass(frozen=True)
class TrainingFolder:
    """A training, and the files that it leaves in a folder."""

    path: Path
    trainer: DivergenceTrainer
    texts: Sequence[str]
    validation_texts: Sequence[str]
    plan: DatasetPlan

    files = (SOFT_PROMPT, RECORD, DATASET, DATASET_LINES)
    """What a finished training leaves."""

    def start(self, *, force: bool = False) -> TrainingRecord:
        """Claim the folder, and say how far the training in it has come.

        Raises `SettingsError` where the files of other settings are there, unless `force` is
        given: then they are replaced. `StoreError` for a folder that cannot be used.
        """
        fresh, found = self._fresh_record(), self._found(force)
        if found is None:
            if not force:
                self._refuse_strangers()
            return self._claim(fresh, SOFT_PROMPT, DATASET, DATASET_LINES)
        training = changed(found.settings, fresh.settings)
        dataset = changed(found.dataset_settings, fresh.dataset_settings)
        if (training or dataset) and not force:
            raise self._refusal([*training, *dataset])
        if training:
            return self._claim(fresh, SOFT_PROMPT, DATASET, DATASET_LINES)
        if dataset:
            kept = found.model_copy(
                update={
                    "status": "training" if found.status == "training" else "trained",
                    "dataset_settings": fresh.dataset_settings,
                }
            )
            return self._claim(kept, DATASET, DATASET_LINES)
        return found

    def train(self, record: TrainingRecord, on_step: Callable[[int, int], None]) -> TrainingRecord:
        """Train, or read back what was trained; the soft prompt is in its file afterwards."""
        if record.status != "training":
            self.trainer.use(SoftPrompt.load(self.path / SOFT_PROMPT), self.texts)
            return record
        checkpoint = self.path / CHECKPOINT
        result = self.trainer.train(
            self.texts, self.validation_texts, checkpoint=checkpoint, on_step=on_step
        )
        result.soft_prompt.save(self.path / SOFT_PROMPT)
        record = record.model_copy(
            update={
                "status": "trained",
                "training": TrainingSummary(
                    name=result.soft_prompt.name,
                    loss=result.history.loss,
                    validation=result.history.validation,
                    d_soft=result.d_soft,
                ),
                "gradient_norms": result.history.gradient_norms,
                "entropies": result.history.entropies,
            }
        )
        self._write(record)
        checkpoint.unlink(missing_ok=True)
        return record

    def write_dataset(self, record: TrainingRecord) -> TrainingRecord:
        """Let both models write prompts, and keep the dataset of the best, if it is not there."""
        if record.status == "complete":
            return record
        plan = self.plan
        selected = self.trainer.select_prompts(plan.num_prompts, num_written=plan.num_written)
        rows = self.trainer.generate_divergent_dataset(
            selected.prompts,
            self.path / DATASET,
            num_generations=plan.num_generations,
            temperature=plan.temperature,
            max_new_tokens=plan.max_new_tokens,
            min_metrics=plan.min_metrics,
            max_metrics=plan.max_metrics,
        )
        record = record.model_copy(
            update={
                "status": "complete",
                "training": record.training.model_copy(update={"d_hard": selected.d_hard}),
                "num_written": selected.num_written,
                "num_rows": len(rows),
            }
        )
        self._write(record)
        return record

    def rows(self) -> list[dict[str, Any]]:
        """The dataset's rows, from its JSON Lines. Raises `SuiteError`."""
        return [row for _, row in read_rows(self.path / DATASET_LINES)]

    def _fresh_record(self) -> TrainingRecord:
        config, pair = self.trainer.config, self.trainer.pair
        usable = training_rows(pair, self.texts, config.max_text_tokens)
        validation = training_rows(
            pair, self.validation_texts or self.texts, config.max_text_tokens
        )
        models = {
            "model_1": pair.reference_identity,
            "model_2": pair.candidate_identity,
        }
        settings = {
            "config": asdict(config),
            **{f"{name}_weights_sha256": one.weights_sha256 for name, one in models.items()},
            "dtype": str(pair.dtype).removeprefix("torch."),
            "chat_template_sha256": pair.chat.template_digest,
            "system_prompt": pair.chat.system_prompt,
            "texts_sha256": _digest(self.texts),
            "validation_texts_sha256": _digest(self.validation_texts),
        }
        return TrainingRecord(
            settings=_as_json(settings),
            dataset_settings=_as_json(asdict(self.plan)),
            num_texts=len(usable),
            num_validation_texts=len(validation),
            num_steps=config.total_steps(len(usable)),
        )

    def _found(self, force: bool) -> TrainingRecord | None:
        """The record that is there, less what it says of files that are gone."""
        path = self.path / RECORD
        if not path.is_file():
            return None
        try:
            record = load_document(path, TrainingRecord)
        except SuiteError as error:
            if force:
                return None
            raise SettingsError(f"{error}; {WAY_OUT}") from error
        if not (self.path / SOFT_PROMPT).is_file():
            return record.model_copy(update={"status": "training"})
        dataset = (self.path / name for name in (DATASET, DATASET_LINES))
        if record.status == "complete" and not all(path.is_file() for path in dataset):
            return record.model_copy(update={"status": "trained"})
        return record

    def _claim(self, record: TrainingRecord, *replaced: str) -> TrainingRecord:
        """Write the record, once the files that it does not speak of are gone."""
        check_inside(self.path, within=Path.cwd())
        try:
            make_folders(self.path)
            for name in replaced:
                (self.path / name).unlink(missing_ok=True)
        except OSError as error:
            raise StoreError(f"cannot use the folder {self.path}: {error.strerror}") from error
        self._write(record)
        return record

    def _write(self, record: TrainingRecord) -> None:
        write_document(self.path / RECORD, record)

    def _refusal(self, differences: Sequence[str]) -> SettingsError:
        shown = ", ".join(differences[:NUM_SHOWN])
        more = len(differences) - NUM_SHOWN
        return SettingsError(
            f"{self.path} holds a training of other settings: {shown}"
            + (f", and {more} more" if more > 0 else "")
            + f"; {WAY_OUT}"
        )

    def _refuse_strangers(self) -> None:
        for name in (SOFT_PROMPT, DATASET, DATASET_LINES):
            if (self.path / name).exists():
                raise SettingsError(
                    f"{self.path / name} is there, but no {RECORD} says what it came from; "
                    + WAY_OUT
                )


def _digest(texts: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(list(texts)).encode("utf-8")).hexdigest()


def _as_json(values: Mapping[str, Any]) -> dict[str, Any]:
    """As the file will hold it: a tuple reads back as a list."""
    read: dict[str, Any] = strict_loads(json.dumps(values))
    return read
