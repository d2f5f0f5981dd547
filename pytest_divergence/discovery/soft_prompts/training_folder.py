"""A training in its own folder: interrupted, it continues; finished, nothing is repeated.

Owns the folder's files and their order. Its stages are units of a journal, as a search's are; the
files are written from their results. A training with other settings overwrites nothing, unless it
is told to.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch

from pytest_divergence.core.errors import SettingsError, StoreError, SuiteError
from pytest_divergence.core.files import DivergenceFolder, check_inside, file_lock
from pytest_divergence.core.journal import Journal
from pytest_divergence.core.json_files import load_document, strict_loads, write_document
from pytest_divergence.core.regular_files import make_folders
from pytest_divergence.core.training_record import TrainingRecord, changed
from pytest_divergence.discovery.plan import LOCK_SECONDS, identify_pair, open_journal
from pytest_divergence.discovery.progress import Listener
from pytest_divergence.discovery.soft_prompts.trainer import (
    PairTrainer,
    rows_within,
    write_dataset,
)
from pytest_divergence.discovery.soft_prompts.training import training_rows
from pytest_divergence.discovery.soft_prompts.training_config import DatasetPlan
from pytest_divergence.discovery.soft_prompts.virtual_tokens import CHECKPOINT_SUFFIX, SoftPrompt
from pytest_divergence.models.fingerprints import text_digest

RECORD, SOFT_PROMPT = "training.json", "soft_prompt.safetensors"
DATASET, DATASET_LINES = "divergent_dataset.pt", "divergent_dataset.jsonl"
MADE = (SOFT_PROMPT, DATASET, DATASET_LINES)
"""Files whose origin is in `RECORD`."""
CHECKPOINT = f"training{CHECKPOINT_SUFFIX}"
JOURNAL = "training.jsonl"
WAY_OUT = "choose another --output-dir, or replace it with --force"
NUM_SHOWN = 3
"""Changed settings that a refusal names."""
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class TrainingFolder:
    """A training, and the files that it leaves in a folder."""

    path: Path
    trainer: PairTrainer
    texts: Sequence[str]
    validation_texts: Sequence[str]
    plan: DatasetPlan

    files = (SOFT_PROMPT, RECORD, DATASET, DATASET_LINES)
    """Names of the files that a finished training leaves for people."""

    @cached_property
    def planned(self) -> TrainingRecord:
        """The record of this training before its first step. Raises `SettingsError`."""
        config, pair = self.trainer.config, self.trainer.pair
        usable = training_rows(pair, self.texts, config.max_text_tokens)
        validation = training_rows(
            pair, self.validation_texts or self.texts, config.max_text_tokens
        )
        identity = identify_pair(pair)
        settings = {
            "config": asdict(config),
            "model_1_weights_sha256": identity.reference.weights_sha256,
            "model_2_weights_sha256": identity.candidate.weights_sha256,
            "tokenizer_sha256": identity.tokenizer_sha256,
            "dtype": pair.dtype_name,
            "device": pair.device.type,
            "chat_template_sha256": pair.chat.template_digest,
            "system_prompt": pair.chat.system_prompt,
            **{f"template_arg.{name}": value for name, value in pair.chat.given_arguments.items()},
            "texts_sha256": _digest(list(self.texts)),
            "validation_texts_sha256": _digest(list(self.validation_texts)),
        }
        return TrainingRecord(
            settings=_as_json(settings),
            dataset_settings=_as_json(asdict(self.plan)),
            num_texts=len(usable),
            num_validation_texts=len(validation),
            num_steps=config.total_steps(len(usable)),
        )

    def run(self, listener: Listener, *, force: bool = False) -> tuple[TrainingRecord, Rows]:
        """Do the remaining work; return the record and the dataset's rows.

        Raises `SettingsError` where a training with other settings has left files, unless `force`
        is given: then they are replaced. `StoreError` for a folder that cannot be used.
        """
        self._stale_files(force)  # refuses before anything is made
        with self._alone(listener) as path:
            record = self._claim(force)
            with open_journal(path, _digest(self.planned.settings), listener) as journal:
                return self._finish(record, journal, listener)

    def _stale_files(self, force: bool) -> Sequence[str]:
        """The files that must go before this training is done. Raises `SettingsError`."""
        found = self._found(force)
        if found is None:
            there = [name for name in MADE if (self.path / name).exists()]
            if there and not force:
                raise SettingsError(
                    f"{self.path / there[0]} exists, but no {RECORD} says how it was made; "
                    + WAY_OUT
                )
            return there
        training = changed(found.settings, self.planned.settings)
        dataset = changed(found.dataset_settings, self.planned.dataset_settings)
        if (training or dataset) and not force:
            raise self._refusal([*training, *dataset])
        return MADE if training else MADE[1:] if dataset else ()

    def _found(self, force: bool) -> TrainingRecord | None:
        """Return the record in the folder, if any; with `force`, a damaged one counts as none."""
        path = self.path / RECORD
        if not path.is_file():
            return None
        try:
            return load_document(path, TrainingRecord)
        except SuiteError as error:
            if force:
                return None
            raise SettingsError(f"{error}; {WAY_OUT}") from error

    def _refusal(self, differences: Sequence[str]) -> SettingsError:
        shown = ", ".join(differences[:NUM_SHOWN])
        more = len(differences) - NUM_SHOWN
        return SettingsError(
            f"{self.path} holds a training with other settings: {shown}"
            + (f", and {more} more" if more > 0 else "")
            + f"; {WAY_OUT}"
        )

    @contextmanager
    def _alone(self, listener: Listener) -> Iterator[Path]:
        """Make and hold the folder; yield the path of its journal. Raises `StoreError`."""
        check_inside(self.path, within=Path.cwd())
        try:
            make_folders(self.path)
        except OSError as error:
            raise StoreError(f"cannot use the folder {self.path}: {error.strerror}") from error
        journal = DivergenceFolder(self.path).journal / JOURNAL
        with file_lock(
            journal.with_suffix(".lock"),
            timeout=LOCK_SECONDS,
            on_wait=lambda _: listener.say(
                "another process is training in this folder; waiting for it"
            ),
        ):
            yield journal

    def _claim(self, force: bool) -> TrainingRecord:
        """Return the folder's record of this training; write one after removing stale files."""
        stale, found = self._stale_files(force), self._found(force)
        self._remove(*stale)
        if found is not None and not stale:
            return found
        return self._write(self.planned)

    def _remove(self, *names: str) -> None:
        try:
            for name in names:
                (self.path / name).unlink(missing_ok=True)
        except OSError as error:
            raise StoreError(f"cannot use the folder {self.path}: {error.strerror}") from error

    def _finish(
        self, found: TrainingRecord, journal: Journal, listener: Listener
    ) -> tuple[TrainingRecord, Rows]:
        """Do each unit that the journal lacks, and write each file that the folder lacks."""
        plan, trainer = self.plan, self.trainer
        trained = journal.remember("training", partial(self._train, listener))
        self._remove(CHECKPOINT)
        soft_prompt = SoftPrompt(
            self.planned.training.name,
            torch.tensor(trained["prompt_embeds"], dtype=torch.float32),
            asdict(trainer.config),
        )
        if not (self.path / SOFT_PROMPT).is_file():
            soft_prompt.save(self.path / SOFT_PROMPT)
        trainer.use(soft_prompt, self.texts)
        record = self._trained(trained)
        if found.status != "complete":
            self._write(record)

        writing = f"prompts {plan.num_prompts} of {plan.num_written}"
        if writing not in journal:
            listener.say("letting both models write prompts with it")
        selected = journal.remember(writing, self._select)
        answering = f"{plan.num_generations} x {plan.max_new_tokens} tokens, T {plan.temperature}"
        measured = journal.remember(
            f"{writing}: {answering}", partial(self._measure, selected["prompts"])
        )
        rows = rows_within(measured, plan.min_metrics, plan.max_metrics)
        if not all((self.path / name).is_file() for name in (DATASET, DATASET_LINES)):
            write_dataset(rows, self.path / DATASET)
        record = record.model_copy(
            update={
                "status": "complete",
                "training": record.training.model_copy(update={"d_hard": selected["d_hard"]}),
                "num_written": selected["num_written"],
                "num_rows": len(rows),
            }
        )
        return self._write(record), rows

    def _trained(self, result: Mapping[str, Any]) -> TrainingRecord:
        """Return the record after the first unit, given its result."""
        summary = {name: result[name] for name in ("loss", "validation", "d_soft")}
        return self.planned.model_copy(
            update={
                "status": "trained",
                "training": self.planned.training.model_copy(update=summary),
                "gradient_norms": result["gradient_norms"],
                "entropies": result["entropies"],
            }
        )

    def _train(self, listener: Listener) -> dict[str, Any]:
        result = self.trainer.train(
            self.texts,
            self.validation_texts,
            checkpoint=self.path / CHECKPOINT,
            on_step=_progress_on(listener),
        )
        embeds = result.soft_prompt.prompt_embeds.tolist()
        return {"prompt_embeds": embeds, "d_soft": result.d_soft, **asdict(result.history)}

    def _select(self) -> dict[str, Any]:
        plan = self.plan
        return asdict(self.trainer.select_prompts(plan.num_prompts, num_written=plan.num_written))

    def _measure(self, prompts: Sequence[str]) -> Rows:
        plan = self.plan
        config = self.trainer.evaluation_config(
            plan.num_generations, plan.temperature, plan.max_new_tokens
        )
        return self.trainer.measure_prompts(prompts, config)

    def _write(self, record: TrainingRecord) -> TrainingRecord:
        """Write the record unless the folder holds it already."""
        if self._found(force=True) != record:
            write_document(self.path / RECORD, record)
        return record


def _progress_on(listener: Listener) -> Callable[[int, int], None]:
    """Return a function that tells a listener of each step, and when the last one is expected."""
    first: tuple[float, int] | None = None

    def on_step(done: int, total: int) -> None:
        nonlocal first
        listener.progress("train the soft prompt", done, total)
        # The first step costs more than others; it may be one in the middle of a training.
        started, step = first = first or (time.monotonic(), done)
        if done > step:
            listener.expect((time.monotonic() - started) / (done - step) * (total - done))

    return on_step


def _digest(value: object) -> str:
    """sha256 of a value's JSON."""
    return text_digest(json.dumps(value, sort_keys=True))


def _as_json(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values as the file holds them: a tuple reads back as a list."""
    read: dict[str, Any] = strict_loads(json.dumps(values))
    return read
