"""The engine that computes units on the workers of a Ray cluster.

Each worker is an actor with a pair of its own; a unit goes to whoever is free. Only this process
journals. Does not know what a unit computes.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from pytest_divergence.core.errors import EngineError, SettingsError
from pytest_divergence.core.files import write_atomically
from pytest_divergence.core.journal import Journal
from pytest_divergence.core.quantities import number_of
from pytest_divergence.core.safe_text import visible
from pytest_divergence.core.setting_descriptions import DESCRIPTIONS
from pytest_divergence.core.setting_names import setting
from pytest_divergence.core.settings import Settings
from pytest_divergence.discovery.engines.base import Take, UnitResult, WorkUnit
from pytest_divergence.discovery.engines.pair_worker import PairWorker, Reply, WorkerFacts
from pytest_divergence.discovery.engines.ray_cluster import (
    RayOptions,
    connect,
    imported,
    own_sigterm,
)
from pytest_divergence.discovery.engines.worker_checks import check_alike, check_memory
from pytest_divergence.discovery.plan import RunIdentity
from pytest_divergence.discovery.progress import Listener
from pytest_divergence.models.loading import PairRecipe

MAX_DEATHS = 3
"""Deaths of workers that a unit survives; and restarts of a worker."""
PATIENCE = 60.0
"""Seconds after which people are told that Ray has no room for all workers."""
INTERVAL = 1.0
"""Seconds between looks at what the workers do."""
MAX_SHOWN = 3
"""Workers whose position is shown at a time."""


@dataclass
class _Flight:
    """A unit that waits for a worker, is with one, or has come back."""

    unit: WorkUnit
    on_reply: Callable[[Reply], None]
    num_deaths: int = 0
    reply: Reply | None = None
    error: Exception | None = None


@dataclass
class _Actor:
    handle: Any
    facts: WorkerFacts


@dataclass
class _Wait:
    """The time in which nothing can go on because a cluster has no room for workers."""

    limit: float | None
    """Seconds; None: no limit."""
    started: float | None = None
    is_told: bool = False

    def end(self) -> None:
        """Note that there is room."""
        self.started, self.is_told = None, False

    def look(self, count: int, ray: Any, listener: Listener) -> None:
        """Tell once that so many workers have no room yet; raises `EngineError` at the limit."""
        now, limit = time.monotonic(), math.inf if self.limit is None else self.limit
        self.started = self.started or now
        is_over = now - self.started >= limit
        if not is_over and (self.is_told or now - self.started < PATIENCE):
            return
        free, workers = ray.available_resources(), number_of(count, "more worker")
        room = f"Ray has {free.get('CPU', 0):g} CPUs and {free.get('GPU', 0):g} GPUs free"
        fewer = f"{setting('workers')} asks for fewer"
        if is_over:
            raise EngineError(
                f"no room for {workers} after {limit:g} s: {room}; {fewer}, "
                f"{setting('worker_timeout')} waits longer, and the same command continues"
            )
        self.is_told = True
        listener.say(f"waiting for {workers}, which may be starting; {room}, and {fewer}")


class RayPool:
    """Workers that load the pair of a recipe; a context manager."""

    def __init__(
        self, options: RayOptions, recipe: PairRecipe, settings: Settings, listener: Listener
    ) -> None:
        """Start nothing yet."""
        self._options, self._listener = options, listener
        self._arguments = (
            recipe,
            settings,
            {each.field: setting(each.field) for each in DESCRIPTIONS},
        )
        self._handles: list[Any] = []
        self._actors: list[_Actor] = []
        self._free: list[_Actor] = []
        self._queue: deque[_Flight] = deque()
        self._calls: dict[Any, tuple[_Actor, _Flight | None]] = {}
        """Calls under way; without a unit, a worker that was lost tells of itself."""
        self._unplaced: set[Any] = set()
        """Calls to workers that were lost, which return once Ray has room for them again."""
        self._said: set[str] = set()
        self._shown = 0.0
        self._wait = _Wait(options.timeout)
        self._is_ours = False

    def __enter__(self) -> RayPool:
        """Connect, start the workers and compare them; raises `SettingsError`, or what they say."""
        self._ray = imported()
        try:
            with own_sigterm():
                self._is_ours = connect(self._ray, self._options)
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop the workers, and the cluster or the connection if it is ours."""
        self._stop()

    @property
    def identity(self) -> RunIdentity:
        """The pair as the workers load it."""
        return self._expected.identity

    @property
    def workers(self) -> list[WorkerFacts]:
        """Facts on all workers."""
        return [actor.facts for actor in self._actors]

    def submit(self, unit: WorkUnit, on_reply: Callable[[Reply], None]) -> _Flight:
        """Give a unit to the next free worker; `on_reply` is called when it arrives."""
        flight = _Flight(unit, on_reply)
        self._queue.append(flight)
        self._dispatch()
        return flight

    def wait(self, flight: _Flight) -> Reply:
        """Wait for a unit, taking in others as they arrive; raises `EngineError`."""
        while flight.reply is None:
            if flight.error is not None:
                raise flight.error
            self._step()
        return flight.reply

    @property
    def _busy(self) -> list[_Actor]:
        """Workers with a unit."""
        return [actor for actor, flight in self._calls.values() if flight is not None]

    @property
    def _lost_errors(self) -> tuple[type[Exception], ...]:
        """Errors of a worker that is lost; the monitor of Ray that kills for memory has its own."""
        errors = self._ray.exceptions
        return errors.RayActorError, errors.OutOfMemoryError

    def _start(self) -> None:
        ray, options = self._ray, self._options
        there = ray.cluster_resources()
        gpus = options.gpus
        if gpus is None and there.get("GPU", 0) >= 1:
            if options.must_give_gpus:
                raise SettingsError(
                    "a model's own device= or device_map= may take more than one GPU; give "
                    f"{setting('worker_gpus')}, the number of GPUs that each worker gets"
                )
            gpus = 1
        room = there.get("GPU", 0) // gpus if gpus else there.get("CPU", 1)
        wanted = options.num_workers or max(1, int(room))
        kind = ray.remote(
            num_cpus=1,
            num_gpus=gpus or 0,
            max_restarts=MAX_DEATHS,
            max_task_retries=0,  # a lost unit goes to whoever is free
            concurrency_groups={"watch": 1},
            scheduling_strategy="SPREAD",
        )(PairWorker)
        try:
            self._handles = [kind.remote(*self._arguments) for _ in range(wanted)]
        except Exception as error:  # a third party's metric may refuse in any way
            raise SettingsError(
                f"an added metric cannot be sent to workers: {_reason(error)}"
            ) from error
        facts = self._all_facts(self._handles)
        self._actors = [_Actor(*both) for both in zip(self._handles, facts, strict=True)]
        self._free = list(self._actors)
        self._expected = self.workers[0]
        """Facts that all workers must share in what counts, those that begin again too."""
        check_alike(self.workers)
        self._listener.say(self._header())
        check_memory(self.workers, self._listener)

    def _all_facts(self, handles: Sequence[Any]) -> Iterator[WorkerFacts]:
        """Wait until Ray has room for all workers, then until they know their models.

        Models that are not there yet may take hours to arrive: only the first wait has a limit.
        """
        placed = [_position(handle) for handle in handles]
        for waiting in self._waiting("start workers", placed):
            self._wait.look(waiting, self._ray, self._listener)
        self._wait.end()
        calls = [handle.facts.remote() for handle in handles]
        for _ in self._waiting("read the models", calls):
            pass
        for call in calls:
            yield self._facts_in(call)

    def _waiting(self, phase: str, calls: Sequence[Any]) -> Iterator[int]:
        """Yield how many calls have not returned, each second, until all have."""
        waiting = list(calls)
        while waiting:
            self._listener.progress(phase, len(calls) - len(waiting), len(calls))
            _, waiting = self._ray.wait(waiting, num_returns=len(waiting), timeout=INTERVAL)
            if waiting:
                yield len(waiting)

    def _facts_in(self, call: Any) -> WorkerFacts:
        try:
            reply: Reply = self._ray.get(call)
        except self._ray.exceptions.RayError as error:
            raise EngineError(f"a worker did not start: {_reason(error)}") from error
        self._repeat(reply)
        if reply.failure is not None:
            raise reply.failure.error()
        facts: WorkerFacts = reply.value
        return facts

    def _header(self) -> str:
        hosts = sorted({facts.host for facts in self.workers})
        named = ", ".join(visible(host, 60) for host in hosts[:4])
        return (
            f"ray, {number_of(len(self._actors), 'worker')} on {number_of(len(hosts), 'host')} "
            f"({named}{', …' if hosts[4:] else ''}), {visible(self.workers[0].device, 80)}"
        )

    def _stop(self) -> None:
        ray = self._ray
        if not ray.is_initialized():
            return
        with suppress(Exception):  # a cluster that is gone has no workers
            for handle in self._handles:
                ray.kill(handle)
        self._handles, self._actors, self._free, self._calls = [], [], [], {}
        self._unplaced.clear()
        if self._is_ours:
            with own_sigterm():
                ray.shutdown()

    def _dispatch(self) -> None:
        while self._queue and self._free:
            actor, flight = self._free[0], self._queue.popleft()
            try:
                call = actor.handle.compute.remote(flight.unit)
            except Exception as error:  # a third party's strategy may hold anything
                flight.error = error
                continue
            self._calls[call] = self._free.pop(0), flight

    def _step(self) -> None:
        """Take in what arrives within a second."""
        done, _ = self._ray.wait(list(self._calls), num_returns=1, timeout=INTERVAL)
        for call in done:
            actor, flight = self._calls.pop(call)
            is_place = call in self._unplaced
            self._unplaced.discard(call)
            try:
                reply = self._ray.get(call)
            except self._lost_errors as error:
                self._lost(actor, flight, error)
            except self._ray.exceptions.RayError as error:
                raise EngineError(f"the engine failed: {_reason(error)}") from error
            else:
                if is_place:
                    self._calls[actor.handle.facts.remote()] = actor, None
                elif flight is None:
                    self._is_back(actor, reply)
                else:
                    self._arrived(actor, flight, reply)
        self._dispatch()
        if self._queue and self._calls.keys() <= self._unplaced:
            self._wait.look(len(self._actors), self._ray, self._listener)
        else:
            self._wait.end()
        if time.monotonic() - self._shown > INTERVAL:
            self._shown = time.monotonic()
            self._show()

    def _arrived(self, actor: _Actor, flight: _Flight, reply: Reply) -> None:
        self._repeat(reply)
        self._free.append(actor)
        flight.reply = reply
        flight.on_reply(reply)

    def _is_back(self, actor: _Actor, reply: Reply) -> None:
        """Let a worker that was lost go on, if it computes as before; raises `EngineError`.

        What is wrong with it is no fault of the unit that is waited for.
        """
        self._repeat(reply)
        try:
            if reply.failure is not None:
                raise reply.failure.error()
            check_alike([self._expected, reply.value])
        except Exception as error:  # of loading a model, which may be a third party's code
            raise EngineError(
                f"a worker that began again on {visible(actor.facts.host, 60)} cannot go on: "
                f"{error}"
            ) from error
        actor.facts = reply.value
        self._free.append(actor)

    def _lost(self, actor: _Actor, flight: _Flight | None, error: Exception) -> None:
        """Begin a lost worker's unit again, and wait for the worker, if it is to come back."""
        host, reason = visible(actor.facts.host, 60), _reason(error)
        errors = self._ray.exceptions
        is_gone = isinstance(error, (errors.ActorDiedError, errors.OutOfMemoryError))
        if is_gone:
            self._actors.remove(actor)
        else:
            call = _position(actor.handle)
            self._unplaced.add(call)
            self._calls[call] = actor, None
        if flight is not None:
            flight.num_deaths += 1
            name = visible(flight.unit.name, 80)
            if flight.num_deaths > MAX_DEATHS:
                flight.error = EngineError(
                    f"{name} was begun {flight.num_deaths} times, and each time its worker was "
                    f"lost, the last on {host}: {reason}; run the same command to continue"
                )
            else:
                self._queue.appendleft(flight)
                self._listener.say(
                    f"a worker on {host} was lost in {name}, which begins again: {reason}"
                )
        if not self._actors:
            raise (flight and flight.error) or EngineError(
                f"all workers are lost, the last on {host}: {reason}; run the same command to "
                "continue"
            )
        if is_gone:
            left = number_of(len(self._actors), "worker is", "workers are")
            self._listener.say(f"a worker on {host} does not come back, {left} left: {reason}")

    def _repeat(self, reply: Reply) -> None:
        """Say once what each worker says."""
        for text in reply.said:
            if text not in self._said:
                self._said.add(text)
                self._listener.say(text)

    def _show(self) -> None:
        """Show where the units in work are."""
        busy = self._busy
        if not busy and self._queue:
            self._listener.progress("wait for a worker", 0, len(self._actors))
        asked = [_position(actor.handle) for actor in busy[:MAX_SHOWN]]
        ready, _ = (
            self._ray.wait(asked, num_returns=len(asked), timeout=INTERVAL) if asked else ([], [])
        )
        found = []
        for call in ready:
            with suppress(self._ray.exceptions.RayError):
                found.append(self._ray.get(call))
        texts = [f"{phase} {done}/{total}" for phase, done, total in filter(None, found)]
        if texts:
            more = ", …" if len(busy) > MAX_SHOWN else ""
            self._listener.progress(
                f"{' | '.join(texts)}{more}; busy", len(busy), len(self._actors)
            )


@dataclass(frozen=True)
class RayEngine:
    """Units of one journal, computed by a pool."""

    pool: RayPool
    journal: Journal
    artefacts: Path
    """Folder for the heavy files that units write."""

    def start(self, unit: WorkUnit) -> Take:
        """Give a unit to the pool, unless the journal has it."""
        if unit.name in self.journal:
            return partial(self._result, unit.name, is_new=False)
        return partial(self._taken, self.pool.submit(unit, partial(self._keep, unit.name)))

    def _keep(self, name: str, reply: Reply) -> None:
        """Write what arrives at once, whichever unit is waited for."""
        if reply.failure is not None:
            return
        for file, data in reply.files.items():
            write_atomically(self.artefacts / Path(file).name, data)
        self.journal.remember(name, lambda: reply.value)

    def _taken(self, flight: _Flight) -> UnitResult:
        reply = self.pool.wait(flight)
        if reply.failure is not None:
            raise reply.failure.error()
        return self._result(flight.unit.name, is_new=True)

    def _result(self, name: str, *, is_new: bool) -> UnitResult:
        return UnitResult(name, **self.journal.remember(name, dict), is_new=is_new)


def _position(handle: Any) -> Any:
    """Ask a worker where it is, beside its unit; it answers once Ray has given it a place."""
    return handle.position.options(concurrency_group="watch").remote()


def _reason(error: Exception) -> str:
    """Return the beginning of what Ray says."""
    return visible(" ".join(str(error).split()), 200)
