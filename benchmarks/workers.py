"""What more workers give: searches timed on Ray, and the schedule of one replayed for up to 64.

    python benchmarks/workers.py measure MODEL_1 MODEL_2 [--profile smoke] [--workers 1,2]
    python benchmarks/workers.py simulate MODEL_1 MODEL_2 [--profile smoke] [--rounds-at-once 1,4]

`measure` starts a Ray cluster for each number of workers, of one thread each, and compares the
suites. `simulate` searches in this process, notes when each unit is begun, how long it takes and
when its result is needed, and lays the same units out on 1 to 64 workers: a unit begins when it may
and a worker is free, first come, first served. Neither the transfer of units nor the start of
workers counts there; what is never shared out, the time of this process itself, is left out too.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from heapq import heappop, heappush
from pathlib import Path
from unittest.mock import patch

import torch

from pytest_divergence.core import settings as settings_module
from pytest_divergence.core.journal import Journal
from pytest_divergence.core.settings import PROFILES, Settings
from pytest_divergence.discovery.engines.base import Engine, Take, UnitResult, WorkUnit
from pytest_divergence.discovery.engines.in_process import InProcess
from pytest_divergence.discovery.engines.ray import RayEngine, RayPool
from pytest_divergence.discovery.engines.ray_cluster import RayOptions
from pytest_divergence.discovery.progress import Silence
from pytest_divergence.discovery.run import SearchOutcome, search
from pytest_divergence.models.load_plan import LoadOptions
from pytest_divergence.models.loading import PairRecipe

SIZES = (1, 2, 4, 8, 16, 32, 64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("measure", "simulate"))
    parser.add_argument("model_1")
    parser.add_argument("model_2")
    parser.add_argument("--profile", default="smoke")
    parser.add_argument("--budget", help="forwarded tokens, instead of the profile's")
    parser.add_argument("--gate", default="natural")
    parser.add_argument("--workers", default="1,2", help="numbers of workers to measure")
    parser.add_argument("--rounds-at-once", default="1", help="sizes of the profile to try")
    given = parser.parse_args()
    torch.set_num_threads(1)
    settings = Settings(
        model_1=given.model_1,
        model_2=given.model_2,
        profile=given.profile,
        budget=given.budget,
        gate=given.gate,
    )
    for at_once in map(int, given.rounds_at_once.split(",")):
        with with_rounds(given.profile, at_once):
            if given.what == "measure":
                measure(settings, at_once, [int(each) for each in given.workers.split(",")])
            else:
                simulate(settings, at_once)


@contextmanager
def with_rounds(profile: str, at_once: int) -> Iterator[None]:
    """Let so many rounds of a profile be under way at a time."""
    changed = PROFILES[profile].model_copy(update={"rounds_at_once": at_once})
    with patch.dict(settings_module.PROFILES, {profile: changed}):
        yield


@contextmanager
def new_root() -> Iterator[Path]:
    """A folder with a cache of its own, so that nothing is read back."""
    with (
        tempfile.TemporaryDirectory() as folder,
        patch.dict("os.environ", {"PYTEST_DIVERGENCE_CACHE": str(Path(folder, "cache"))}),
    ):
        yield Path(folder)


def recipe_of(settings: Settings) -> PairRecipe:
    return PairRecipe(settings.model_1 or "", settings.model_2 or "", LoadOptions.of(settings))


def measure(settings: Settings, at_once: int, numbers: Sequence[int]) -> None:
    print("| workers | rounds at once | start, s | search, s | of one | idle | suite |")
    print("|---|---|---|---|---|---|---|")
    first: tuple[float, bytes] | None = None
    for number in numbers:
        ray = settings.model_copy(update={"engine": "ray:local", "workers": number})
        options = RayOptions.of(ray, must_give_gpus=False)
        began = time.monotonic()
        with new_root() as root, RayPool(options, recipe_of(ray), ray, Silence()) as pool:
            started = time.monotonic()
            outcome = run(ray, root, pool)
            seconds = time.monotonic() - started
            suite = outcome.suite_path.read_bytes()
        first = first or (seconds, suite)
        idle = 1 - outcome.report.effort.seconds / (number * seconds)
        same = "the same" if suite == first[1] else "ANOTHER"
        print(
            f"| {number} | {at_once} | {started - began:.1f} | {seconds:.1f} | "
            f"{seconds / first[0]:.2f} | {idle:.0%} | {same} |",
            flush=True,
        )


def run(settings: Settings, root: Path, pool: RayPool) -> SearchOutcome:
    recipe = recipe_of(settings)
    return search(
        settings,
        root=root,
        load_pair=recipe.load,
        engine=partial(RayEngine, pool),
        identity=pool.identity,
        listener=Silence(),
    )


@dataclass
class Schedule:
    """When units were begun and taken, in order, and what they took."""

    events: list[tuple[str, int]] = field(default_factory=list)
    """`start` or `take`, and the unit's number."""
    seconds: dict[int, float] = field(default_factory=dict)

    def length(self, num_workers: float) -> float:
        """Return the seconds that the schedule takes on so many workers."""
        now, ends, free = 0.0, dict[int, float](), list[float]()
        for kind, unit in self.events:
            if kind == "take":
                now = max(now, ends[unit])
                continue
            begin = now if len(free) < num_workers else max(now, heappop(free))
            ends[unit] = begin + self.seconds[unit]
            heappush(free, ends[unit])
        return now


@dataclass(frozen=True)
class Noting:
    """An engine of this process that notes the schedule."""

    engine: Engine
    schedule: Schedule

    def start(self, unit: WorkUnit) -> Take:
        number = len(self.schedule.events)
        self.schedule.events.append(("start", number))
        return partial(self._taken, self.engine.start(unit), number)

    def _taken(self, take: Take, number: int) -> UnitResult:
        result = take()
        self.schedule.seconds[number] = result.seconds
        self.schedule.events.append(("take", number))
        return result


def simulate(settings: Settings, at_once: int) -> None:
    schedule, pair = Schedule(), recipe_of(settings).load()

    def engine(journal: Journal, artefacts: Path) -> Engine:
        return Noting(InProcess(journal, lambda: pair, Silence(), artefacts), schedule)

    with new_root() as root:
        search(settings, root=root, load_pair=lambda: pair, engine=engine, listener=Silence())
    whole = schedule.length(1)
    print(f"rounds at once: {at_once}; units: {len(schedule.seconds)}; seconds of one: {whole:.1f}")
    print(f"serial share (units that wait for one another): {schedule.length(1e9) / whole:.0%}")
    print("| workers | " + " | ".join(map(str, SIZES)) + " |")
    print("|---" * (len(SIZES) + 1) + "|")
    speeds = (f"{whole / schedule.length(number):.2f}" for number in SIZES)
    print("| speed-up | " + " | ".join(speeds) + " |", flush=True)


if __name__ == "__main__":
    main()
