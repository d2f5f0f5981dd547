"""What more workers give: searches timed on Ray, and the schedule of one laid out for up to 64.

    python benchmarks/workers.py measure MODEL_1 MODEL_2 [--profile smoke] [--write UNITS.json]
    python benchmarks/workers.py simulate MODEL_1 MODEL_2 [--profile smoke] [--write UNITS.json]
    python benchmarks/workers.py layout UNITS.json [--profile thorough] [--plot PICTURE.svg]

`measure` starts a Ray cluster for each number of workers, of one thread each, and compares the
suites and the tokens of their continuations. `simulate` searches in this process, notes when each
unit is begun, how long it takes and when its result is needed, and lays the same units out on 1 to
64 workers: a unit begins when it may and a worker is free, first come, first served. `layout` does
so with units that `--write` kept, of `simulate` or of the first search of `measure`, with other
rounds at once, and with the sizes of another profile by the rules of `schedules.py`. Neither the
transfer of units nor the start of workers counts there; what is never shared out, the time of this
process itself, is left out too. The picture needs matplotlib.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from unittest.mock import patch

import torch
from schedules import Measured, Schedule, Unit, draw, with_rounds

from pytest_divergence.core.file_names import sidecar_path
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
    given = arguments()
    numbers = [int(each) for each in given.rounds_at_once.split(",")]
    if given.what == "layout":
        layout(Measured.read(given.units), given.profile, numbers, given.plot)
        return
    torch.set_num_threads(1)
    settings = Settings(
        model_1=given.model_1,
        model_2=given.model_2,
        profile=given.profile,
        budget=given.budget,
        gate=given.gate,
    )
    for at_once in numbers:
        with with_rounds(given.profile, at_once):
            if given.what == "measure":
                workers = [int(each) for each in given.workers.split(",")]
                measure(settings, at_once, workers, given.write)
            else:
                simulate(settings, at_once, given.write)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="what", required=True)
    for name in ("measure", "simulate", "layout"):
        command = commands.add_parser(name)
        command.add_argument("--rounds-at-once", default="1", help="sizes of the profile to try")
        if name == "layout":
            command.add_argument("units", type=Path, help="what simulate --write wrote")
            command.add_argument("--profile", default="thorough", choices=PROFILES)
            command.add_argument("--plot", type=Path, help="an SVG of the speed-up")
            continue
        command.add_argument("model_1")
        command.add_argument("model_2")
        command.add_argument("--profile", default="smoke", choices=PROFILES)
        command.add_argument("--budget", help="forwarded tokens, instead of the profile's")
        command.add_argument("--gate", default="natural")
        if name == "measure":
            command.add_argument("--workers", default="1,2", help="numbers of workers to measure")
        command.add_argument("--write", type=Path, help="JSON for layout")
    given = parser.parse_args()
    if given.what != "layout" and given.write and given.rounds_at_once != "1":
        parser.error("--write keeps units that follow each other: it needs --rounds-at-once 1")
    return given


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


def measure(settings: Settings, at_once: int, numbers: Sequence[int], write: Path | None) -> None:
    print("| workers | rounds at once | start, s | search, s | of one | idle | suite |")
    print("|---|---|---|---|---|---|---|")
    first: tuple[float, bytes] | None = None
    for number in numbers:
        ray = settings.model_copy(update={"engine": "ray:local", "workers": number})
        options, schedule = RayOptions.of(ray, must_give_gpus=False), Schedule()
        began = time.monotonic()
        with new_root() as root, RayPool(options, recipe_of(ray), ray, Silence()) as pool:
            started = time.monotonic()
            outcome = run(ray, root, pool, schedule)
            seconds = time.monotonic() - started
            suite = (
                outcome.suite_path.read_bytes()
                + sidecar_path(outcome.suite_path, "tokens.jsonl").read_bytes()
            )
        first = first or (seconds, suite)
        idle = 1 - outcome.report.effort.seconds / (number * seconds)
        same = "the same" if suite == first[1] else "ANOTHER"
        print(
            f"| {number} | {at_once} | {started - began:.1f} | {seconds:.1f} | "
            f"{seconds / first[0]:.2f} | {idle:.0%} | {same} |",
            flush=True,
        )
        if number == numbers[0]:
            keep(schedule, settings, write)


def run(settings: Settings, root: Path, pool: RayPool, schedule: Schedule) -> SearchOutcome:
    def engine(journal: Journal, artefacts: Path) -> Engine:
        return Noting(RayEngine(pool, journal, artefacts), schedule)

    recipe = recipe_of(settings)
    return search(
        settings,
        root=root,
        load_pair=recipe.load,
        engine=engine,
        identity=pool.identity,
        listener=Silence(),
    )


@dataclass(frozen=True)
class Noting:
    """An engine that notes the schedule of its units."""

    engine: Engine
    schedule: Schedule

    def start(self, unit: WorkUnit) -> Take:
        number = sum(kind == "start" for kind, _ in self.schedule.events)
        self.schedule.events.append(("start", number))
        return partial(self._taken, self.engine.start(unit), number)

    def _taken(self, take: Take, number: int) -> UnitResult:
        result = take()
        self.schedule.units[number] = Unit(result.name, result.tokens, result.seconds)
        self.schedule.events.append(("take", number))
        return result


def simulate(settings: Settings, at_once: int, write: Path | None) -> None:
    schedule, pair = Schedule(), recipe_of(settings).load()

    def engine(journal: Journal, artefacts: Path) -> Engine:
        return Noting(InProcess(journal, lambda: pair, Silence(), artefacts), schedule)

    with new_root() as root:
        search(settings, root=root, load_pair=lambda: pair, engine=engine, listener=Silence())
    keep(schedule, settings, write)
    tell(schedule, at_once)


def keep(schedule: Schedule, settings: Settings, path: Path | None) -> None:
    """Keep the units for `layout`, if a path is given."""
    if path is not None:
        models = settings.model_1 or "", settings.model_2 or ""
        Measured(models, settings.profile, schedule).write(path)


def layout(measured: Measured, profile: str, numbers: Sequence[int], plot: Path | None) -> None:
    """Lay measured units out with other rounds at once, and with the sizes of a profile."""
    print(f"units measured at {measured.profile}, of {' and '.join(measured.models)}")
    schedules = {at_once: measured.at(profile, at_once) for at_once in numbers}
    before, after = measured.schedule.totals, schedules[numbers[0]].totals
    print(f"| kind | units | seconds | units at {profile} | seconds | forwarded tokens |")
    print("|---|--:|--:|--:|--:|--:|")
    for kind in {**before, **after}:
        (old, _, spent), (new, tokens, seconds) = before[kind], after.get(kind, (0, 0, 0.0))
        print(f"| {kind} | {old} | {spent:.1f} | {new} | {seconds:.1f} | {tokens:,} |")
    print(f"forwarded tokens in all: {sum(tokens for _, tokens, _ in after.values()):,}")
    speeds = {
        f"{at_once} {'round' if at_once == 1 else 'rounds'} at once": tell(schedule, at_once)
        for at_once, schedule in schedules.items()
    }
    if plot is not None:
        draw(speeds, SIZES, plot)


def tell(schedule: Schedule, at_once: int) -> list[float]:
    """Print, and return, the speed-up for each number of workers."""
    whole = schedule.length(1)
    speeds = [whole / schedule.length(number) for number in SIZES]
    print(f"rounds at once: {at_once}; units: {len(schedule.units)}; seconds of one: {whole:.1f}")
    print(f"serial share (units that wait for one another): {schedule.length(1e9) / whole:.0%}")
    print("| workers | " + " | ".join(map(str, SIZES)) + " |")
    print("|---" * (len(SIZES) + 1) + "|")
    print("| speed-up | " + " | ".join(f"{speed:.2f}" for speed in speeds) + " |", flush=True)
    return speeds


if __name__ == "__main__":
    main()
