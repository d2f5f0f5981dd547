"""Where a search's time goes: inside the models' forward and backward passes, and outside.

    python benchmarks/profile_search.py [MODEL_1 MODEL_2] [--profile smoke] [--functions FILE]

Each kind of work unit has a row. Then come the operations of the forward passes a second, two for
each weight of the layers and token, beside what this CPU reaches in one large product. With
`--functions` the whole search runs under cProfile, whose table of functions by own time is written
to FILE (and whose cost makes the shares useless).
"""

from __future__ import annotations

import argparse
import cProfile
import io
import pstats
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from sides import local
from timing import seconds

from pytest_divergence.core.settings import Settings
from pytest_divergence.discovery.engines.base import Worker, WorkUnit
from pytest_divergence.discovery.progress import Silence
from pytest_divergence.discovery.run import search
from pytest_divergence.models.forward import fast_matmul
from pytest_divergence.models.loading import load_model_pair
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.models.transformers_side import TransformersSide

NUM_FUNCTIONS = 40
SIZE, NUM_PRODUCTS = 3_072, 5
"""Rows of a large product's matrices, and products, of which the fastest counts."""
NAMED_BY_TWO = ("calibrate", "controls", "name", "search", "select")
"""Work whose kind is told by the first two parts of a unit's name; others by one."""


@dataclass
class Times:
    """Seconds of one kind of unit."""

    total: float = 0.0
    forward: float = 0.0
    backward: float = 0.0

    @property
    def share(self) -> float:
        return (self.forward + self.backward) / self.total


class Stopwatch:
    """Times units, and the passes inside them, by the unit's kind."""

    def __init__(self) -> None:
        self.by_kind: dict[str, Times] = defaultdict(Times)
        self._kind = ""

    @contextmanager
    def watching(self) -> Iterator[None]:
        with ExitStack() as patches:
            recorded = self._recorded(WorkUnit.record)
            patches.enter_context(mock.patch.object(WorkUnit, "record", recorded))
            for owner, name, kind in (
                (TransformersSide, "_forward", "forward"),
                (torch.Tensor, "backward", "backward"),
            ):
                timed = self._timed(getattr(owner, name), kind)
                patches.enter_context(mock.patch.object(owner, name, timed))
            yield

    def _recorded(self, record: Callable[..., Any]) -> Callable[..., Any]:
        def timed(unit: WorkUnit, worker: Worker) -> Any:
            parts = unit.name.split("/")  # numbers and digests tell units of one kind apart
            self._kind = "/".join(parts[:2]) if parts[0] in NAMED_BY_TWO else parts[0]
            started = time.perf_counter()
            try:
                return record(unit, worker)
            finally:
                self.by_kind[self._kind].total += time.perf_counter() - started

        return timed

    def _timed(self, work: Callable[..., Any], field: str) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            try:
                return work(*args, **kwargs)
            finally:
                times = self.by_kind[self._kind]
                setattr(times, field, getattr(times, field) + time.perf_counter() - started)

        return timed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    demo = ("demo:smollm2-135m", "demo:travel-advert")
    parser.add_argument("models", nargs="*", default=demo, help="reference and candidate")
    parser.add_argument("--profile", default="smoke")
    parser.add_argument("--functions", type=Path, help="where to write cProfile's table")
    given = parser.parse_args()
    pair = load_model_pair(*given.models)
    settings = Settings(model_1=given.models[0], model_2=given.models[1], profile=given.profile)
    watch, profiler = Stopwatch(), cProfile.Profile()
    with tempfile.TemporaryDirectory() as root, ExitStack() as measuring:
        measuring.enter_context(profiler if given.functions else watch.watching())
        started = time.perf_counter()
        # By force, or a soft prompt that an earlier run has trained would not be trained again.
        search(
            settings, root=Path(root), load_pair=lambda: pair, listener=Silence(), is_forced=True
        )
        whole = time.perf_counter() - started
    tokens = pair.tokens_forwarded
    if given.functions:
        given.functions.write_text(functions(profiler), "utf-8")
    else:
        show(watch, whole)
        inside = sum(times.forward for times in watch.by_kind.values())
        print(f"forward passes: {2 * layer_weights(pair) * tokens / inside / 1e9:.1f} GFLOP/s")
        for threads in (1, 2):
            print(f"a large product, threads: {threads}: {peak(threads) / 1e9:.1f} GFLOP/s")


def show(watch: Stopwatch, seconds: float) -> None:
    whole = Times(seconds)
    print(f"{'work':32} {'s':>7} {'forward':>8} {'backward':>8} {'inside':>7}")
    for kind, one in sorted(watch.by_kind.items(), key=lambda item: -item[1].total):
        whole.forward += one.forward
        whole.backward += one.backward
        print_row(kind, one)
    print_row("the whole search", whole)


def print_row(name: str, times: Times) -> None:
    print(
        f"{name:32} {times.total:7.1f} {times.forward:8.1f} {times.backward:8.1f} "
        f"{times.share:7.1%}"
    )


def layer_weights(pair: ModelPair) -> int:
    """Weights that each token is multiplied with; the output head, for some tokens, left out."""
    named = local(pair.reference).model.named_parameters()
    return sum(each.numel() for name, each in named if each.ndim == 2 and ".layers." in name)


def peak(threads: int) -> float:
    """Return float32 operations a second of the fastest of some large products."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        matrix = torch.rand(SIZE, SIZE)
        with fast_matmul():
            best = min(seconds(lambda: matrix @ matrix) for _ in range(NUM_PRODUCTS))
    finally:
        torch.set_num_threads(before)
    return 2 * SIZE**3 / best


def functions(profiler: cProfile.Profile) -> str:
    text = io.StringIO()
    pstats.Stats(profiler, stream=text).strip_dirs().sort_stats("tottime").print_stats(
        NUM_FUNCTIONS
    )
    return text.getvalue()


if __name__ == "__main__":
    main()
