"""A worker of an engine that computes elsewhere: one pair, loaded when the first unit needs it.

Lives in a process of its own, perhaps on another machine: device, dtype and memory are judged here,
where the models live. Does not know which engine made it, and writes no journal.
"""

from __future__ import annotations

import os
import pickle
import socket
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from pytest_divergence.core.journal import unit_record
from pytest_divergence.core.regular_files import read_regular
from pytest_divergence.core.setting_names import spelled_by
from pytest_divergence.core.settings import Settings
from pytest_divergence.discovery.cost import Memory, search_memory
from pytest_divergence.discovery.engines.base import Worker, WorkUnit
from pytest_divergence.discovery.plan import RunIdentity, identify_plan, versions
from pytest_divergence.discovery.soft_prompts.virtual_tokens import CHECKPOINT_SUFFIX
from pytest_divergence.models.load_plan import LoadPlan
from pytest_divergence.models.loading import PairRecipe
from pytest_divergence.models.pair import ModelPair

Position = tuple[str, int, int]
"""A phase, and how many of how many of its steps are finished."""


@dataclass(frozen=True)
class WorkerFacts:
    """The place of a worker, and all that its numbers depend on."""

    host: str
    pid: int
    device: str
    """Name of the hardware: a GPU's, or what a CPU is capable of."""
    num_threads: int
    versions: Mapping[str, str]
    identity: RunIdentity
    memory: Memory | None
    """Memory that a search takes here; None where it is not known."""

    @property
    def computes_with(self) -> dict[str, str]:
        """All that must be the same for workers to give the same numbers, by name."""
        identity = self.identity
        return {
            "the device": self.device,
            "the number of threads": str(self.num_threads),
            **self.versions,
            "the weights of model 1": identity.reference.weights_sha256,
            "the weights of model 2": identity.candidate.weights_sha256,
            "the tokenizer": identity.tokenizer_sha256,
            "the arithmetic": str(identity.arithmetic),
        }


@dataclass(frozen=True)
class Failure:
    """An error as data: it need not be of a class that another process can make again."""

    name: str
    text: str
    trace: str
    pickled: bytes | None
    """The error itself, if a copy of it says the same."""

    @classmethod
    def of(cls, error: Exception) -> Failure:
        """Return an error as data."""
        trace = "".join(traceback.format_exception(error))
        try:
            pickled: bytes | None = pickle.dumps(error)
            copy = pickle.loads(pickled or b"")
            if (type(copy), str(copy)) != (type(error), str(error)):
                pickled = None
        except Exception:  # a third party's class may refuse in any way
            pickled = None
        return cls(type(error).__name__, str(error), trace, pickled)

    def error(self) -> Exception:
        """Return the error, or one of the same name and text, with its traceback as a note."""
        kind = type(self.name, (Exception,), {})
        found: Exception = kind(self.text)
        if self.pickled is not None:
            try:
                found = pickle.loads(self.pickled)
            except Exception:  # its class is not known here
                found = kind(self.text)
        found.add_note(f"In the worker:\n{self.trace}")
        return found


@dataclass(frozen=True)
class Reply:
    """A worker's answer: a value or a failure, and what came with it."""

    value: Any = None
    failure: Failure | None = None
    said: tuple[str, ...] = ()
    """Messages for people."""
    files: Mapping[str, bytes] = field(default_factory=dict)
    """Heavy files that a unit wrote, by name; checkpoints stay behind."""


class _Notes:
    """A listener that keeps what it hears until it is asked."""

    def __init__(self) -> None:
        self.position: Position | None = None
        self.said: list[str] = []

    def say(self, text: str) -> None:
        """Keep a message."""
        self.said.append(text)

    def progress(self, phase: str, done: int, total: int) -> None:
        """Keep the position."""
        self.position = phase, done, total

    def expect(self, seconds: float) -> None:
        """Forget it: only the whole run's end is of interest."""


class PairWorker:
    """Computes units on a pair of its own, one at a time."""

    def __init__(self, recipe: PairRecipe, settings: Settings, spelling: Mapping[str, str]) -> None:
        """Load nothing yet. `spelling` says how messages name settings, by field."""
        self._recipe = recipe
        self._settings = settings
        self._spelling = spelling
        self._notes = _Notes()

    def facts(self) -> Reply:
        """Return the `WorkerFacts`; resolves and hashes the models, and loads no weights."""
        return self._reply(self._facts)

    def compute(self, unit: WorkUnit) -> Reply:
        """Return a unit's record; the first one loads the models."""
        with TemporaryDirectory(prefix="pytest-divergence-") as folder:
            reply = self._reply(lambda: self._record(unit, Path(folder)))
        if reply.failure is not None:
            return reply
        record, files = reply.value
        return Reply(record, said=reply.said, files=files)

    def position(self) -> Position | None:
        """Return where the unit in work is; asked from a second thread."""
        return self._notes.position

    @cached_property
    def _plan(self) -> LoadPlan:
        return self._recipe.plan(self._notes.say)

    @cached_property
    def _pair(self) -> ModelPair:
        self._notes.progress("load the models", 0, 1)
        return self._recipe.load_plan(self._plan, self._notes.say)

    def _reply(self, compute: Callable[[], Any]) -> Reply:
        value, failure = None, None
        try:
            with spelled_by(lambda name: self._spelling.get(name, name)):
                value = compute()
        except Exception as error:  # a third party's strategy may raise anything
            failure = Failure.of(error)
        said, self._notes.said = tuple(self._notes.said), []
        self._notes.position = None
        return Reply(value, failure, said)

    def _facts(self) -> WorkerFacts:
        plan, settings = self._plan, self._settings
        profile = settings.resolved_profile(plan.device.type)
        return WorkerFacts(
            host=socket.gethostname(),
            pid=os.getpid(),
            device=_hardware(plan.device),
            num_threads=torch.get_num_threads(),
            versions=versions(),
            identity=identify_plan(plan),
            memory=search_memory(plan, profile, allowed=settings.memory_bytes),
        )

    def _record(self, unit: WorkUnit, folder: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
        """Return a unit's record, and the heavy files that it wrote; raises what it raises."""
        record = unit.record(Worker(self._pair, self._notes, folder))
        unit_record(unit.name, record)  # an error of this unit, not of the process that journals it
        return record, {
            path.name: read_regular(path)
            for path in sorted(folder.iterdir())
            if not path.name.endswith(CHECKPOINT_SUFFIX)
        }


def _hardware(device: torch.device) -> str:
    """Return the name of a GPU, or a CPU with the instructions that torch uses on it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "cpu":
        return f"CPU with {torch.backends.cpu.get_cpu_capability()}"
    return str(device)
