"""`DivergenceCallback`: a suite replayed while the Trainer of transformers trains.

Knows the Trainer: when it saves and ends, what it logs, and which of its processes measures. Does
not know how a suite is measured (`pytest_divergence.scoring.whole_suite`), nor how the model in
training is left as it was (`pytest_divergence.models.snapshot`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch.distributed
from torch.distributed.tensor import DTensor
from transformers import (
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from pytest_divergence.core.errors import DivergenceError, SettingsError, one_of
from pytest_divergence.core.file_names import AnyPath, from_here
from pytest_divergence.core.safe_text import visible
from pytest_divergence.core.suites import read_suite
from pytest_divergence.integrations.checkpoint_replay import replay_checkpoint
from pytest_divergence.models.training_pair import (
    PromptOptions,
    TrainingPair,
    base_spec,
    check_reference,
)
from pytest_divergence.scoring.whole_suite import (
    SuiteReading,
    check_suite,
    measure_suite,
    suite_bounds,
)

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

Event = Literal["save", "train_end"]
Action = Literal["log", "stop", "raise"]
Mode = Literal["memory", "process"]
PREFIX = "divergence/"
"""Beginning of the names of all numbers that are logged."""

logger = logging.getLogger(__name__)


class DivergenceCallback(TrainerCallback):
    """Replays a suite on the model in training, and logs how it diverges from its reference.

    Add it to its trainer: `trainer.add_callback(DivergenceCallback(trainer, suite))`.
    """

    def __init__(
        self,
        trainer: Trainer,
        suite: AnyPath,
        *,
        reference: PreTrainedModel | PeftModel | str | None = None,
        on: Collection[Event] = ("save", "train_end"),
        action: Action = "log",
        mode: Mode = "memory",
        max_kl: float | None = None,
    ) -> None:
        """Check all that can be checked before the training starts; log nothing yet.

        `reference` is a model in memory, a Hub id or folder, or `recorded:SUITE`; None stands for
        the base of the adapter in training. Where a case is over its bound, an unaccepted behaviour
        shows or something cannot be measured, `action` "log" warns, "stop" ends the training after
        this step, and "raise" raises `DivergenceError`. `mode` "memory" measures the model in
        training, "process" its saved checkpoint in a process of its own. `max_kl` is the bound, in
        nats per token, of cases for which the suite has none. Raises `SuiteError`, `SettingsError`,
        and `ModelLoadError` or `MeasurementError` for models that the suite cannot be measured on.
        """
        _check_choice("action", action, Action)
        _check_choice("mode", mode, Mode)
        for event in on:
            _check_choice("on", event, Event)
        self.trainer, self.suite, self.action, self.mode = trainer, Path(suite), action, mode
        self.on, self.max_kl = frozenset(on), max_kl
        self._stored = read_suite(self.suite)
        self._measured_step: int | None = None
        self._checkpoint: Path | None = None
        suite_bounds(self._stored, max_kl)
        made = self._stored.provenance
        self._options = PromptOptions.of(made.settings if made is not None else {})
        self._refuse_shards(reference)
        self._pair: TrainingPair | None = None
        self._reference = ""
        prepare = self._prepare_process if mode == "process" else self._prepare_memory
        self._on_first_rank(lambda: prepare(reference))

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **others: Any,
    ) -> None:
        """Go before the trackers, which take no number any more once the training has ended.

        The model in training may be another one by now: `model_init` makes it anew.
        """
        self._measured_step = self._checkpoint = None
        if self._pair is not None:
            model: Any = self.trainer.model
            self._pair = self._pair.with_candidate(model)
        callbacks = self.trainer.callback_handler.callbacks
        callbacks.remove(self)
        callbacks.insert(0, self)

    def on_save(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **others: Any,
    ) -> TrainerControl:
        """Replay the suite on the model that was saved."""
        self._checkpoint = _checkpoint_of(args, state)
        if "save" in self.on:
            self._replay(state, control)
        return control

    def on_train_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **others: Any,
    ) -> TrainerControl:
        """Replay the suite on the model as it is left, unless that was measured just now.

        In mode "process" a model that was not saved cannot be measured.
        """
        has_best = args.load_best_model_at_end and state.best_model_checkpoint is not None
        if has_best:
            self._checkpoint = Path(str(state.best_model_checkpoint))
        elif self._checkpoint != _checkpoint_of(args, state):
            self._checkpoint = None  # an earlier model
        if "train_end" in self.on and (has_best or self._measured_step != state.global_step):
            self._replay(state, control)
        return control

    def _replay(self, state: TrainerState, control: TrainerControl) -> None:
        self._measured_step = state.global_step
        failure: str | None = self._on_first_rank(self._outcome)
        if failure is None:
            return
        message = f"{from_here(self.suite)} at step {state.global_step}: {failure}"
        if self.action == "raise":
            raise DivergenceError(message)
        if self.trainer.is_world_process_zero():
            logger.warning(message)
        if self.action == "stop":
            control.should_training_stop = True

    def _outcome(self) -> str | None:
        """Measure and log; return why the model fails the suite, or None."""
        started = time.monotonic()
        try:
            reading = self._reading()
        except Exception as error:  # a failed measurement must not end a training that only logs
            reason = str(error) if isinstance(error, DivergenceError) else repr(error)
            return f"could not be measured: {visible(reason, 1000)}"
        numbers = {**reading.metrics(), "seconds": time.monotonic() - started}
        # The subclasses of TRL would add their own numbers, and forget them.
        Trainer.log(self.trainer, {f"{PREFIX}{name}": value for name, value in numbers.items()})
        return reading.failure()

    def _reading(self) -> SuiteReading:
        if self._pair is not None:
            with self._pair.measurable() as pair:
                return measure_suite(pair, self._stored, max_kl=self.max_kl)
        if self._checkpoint is None:
            raise SettingsError(
                "no checkpoint of this step was saved, and mode='process' measures only those; "
                "save the last step too, or leave 'train_end' out of on"
            )
        return replay_checkpoint(self.suite, self._reference, self._checkpoint, max_kl=self.max_kl)

    def _prepare_memory(self, reference: PreTrainedModel | PeftModel | str | None) -> None:
        model: Any = self.trainer.model
        self._pair = TrainingPair.of(model, reference, self._tokenizer(), self._options)
        with self._pair.measurable() as pair:
            check_suite(pair, self._stored)

    def _prepare_process(self, reference: PreTrainedModel | PeftModel | str | None) -> None:
        if self.trainer.args.save_strategy == "no":
            raise SettingsError(
                "mode='process' measures saved checkpoints, and the trainer's save_strategy is "
                "'no'; set it to 'steps' or 'epoch'"
            )
        if not isinstance(reference, str | None):
            raise SettingsError(
                f"reference is a {type(reference).__name__} in memory, and mode='process' can "
                "only load it by name; give its Hub id or folder"
            )
        model: Any = self.trainer.model
        self._reference = reference or base_spec(model)
        check_reference(self._reference, self._tokenizer())

    def _refuse_shards(self, reference: object) -> None:
        sharding = _sharding(self.trainer)
        if sharding is None or self.mode == "process":
            return
        named = reference if isinstance(reference, str) else "BASE"
        raise SettingsError(
            f"{sharding} spreads the weights over several processes, so the model in training "
            "cannot be measured by one; give mode='process', or replay a saved checkpoint: "
            f"pytest-divergence replay {from_here(self.suite)} --model-1 {named} "
            f"--model-2 {self.trainer.args.output_dir}/{PREFIX_CHECKPOINT_DIR}-STEP"
        )

    def _tokenizer(self) -> PreTrainedTokenizerBase:
        found: Any = self.trainer.processing_class
        found = getattr(found, "tokenizer", found)  # of a processor for text and images
        if not isinstance(found, PreTrainedTokenizerBase):
            raise SettingsError(
                f"the trainer's processing_class is a {type(found).__name__}, and prompts need its "
                "tokenizer; give processing_class=tokenizer to the trainer"
            )
        return found

    def _on_first_rank(self, act: Callable[[], str | None]) -> str | None:
        """Return what `act` returns on the first process; the others wait for it.

        Raises on all what it raises on the first: one process alone would wait for ever.
        """
        said: list[str | None] = [None, None]
        own: Exception | None = None
        if self.trainer.is_world_process_zero():
            try:
                said[0] = act()
            except Exception as error:
                own, said[1] = error, str(error)
        if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
            torch.distributed.broadcast_object_list(said, src=0)
        if own is not None:
            raise own
        if said[1] is not None:
            raise DivergenceError(f"on the first process: {said[1]}")
        return said[0]


def _checkpoint_of(args: TrainingArguments, state: TrainerState) -> Path:
    return Path(str(args.output_dir)) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"


def _check_choice(name: str, value: str, choices: Any) -> None:
    known = get_args(choices)
    if value not in known:
        raise SettingsError(f"{name}={value!r} {one_of(str(value), known)}")


def _sharding(trainer: Trainer) -> str | None:
    """Return the name of what keeps only parts of the weights in each process; None if nothing."""
    if trainer.is_fsdp_enabled:
        return "FSDP"
    if is_deepspeed_zero3_enabled():  # type: ignore[no-untyped-call]
        return "DeepSpeed ZeRO-3"
    model: Any = trainer.model
    return "a device mesh" if any(isinstance(w, DTensor) for w in model.parameters()) else None
