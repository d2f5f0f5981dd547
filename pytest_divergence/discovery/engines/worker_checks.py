"""Checks of workers before they compute: that their numbers agree, and that the models fit.

Knows what workers tell of themselves. Does not know how they are run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from pytest_divergence.core.errors import SettingsError
from pytest_divergence.core.quantities import number_of
from pytest_divergence.core.safe_text import visible
from pytest_divergence.core.setting_names import setting
from pytest_divergence.discovery.cost import MEMORY_SAID_FROM
from pytest_divergence.discovery.engines.pair_worker import WorkerFacts
from pytest_divergence.discovery.plan import versions
from pytest_divergence.discovery.progress import Listener

HERE = "this process"


def check_alike(workers: Sequence[WorkerFacts]) -> None:
    """Raise `SettingsError` where workers, or this process's packages, differ in what counts."""
    expected = workers[0].computes_with
    others = [(visible(facts.host, 60), facts.computes_with) for facts in workers[1:]]
    for host, found in [*others, (HERE, {**expected, **versions()})]:
        for name in {**expected, **found}:
            first, other = expected.get(name, "missing"), found.get(name, "missing")
            if first != other:
                raise SettingsError(
                    f"the workers do not compute alike: {name} is {visible(first, 80)} on "
                    f"{visible(workers[0].host, 60)} and {visible(other, 80)} on {host}; give "
                    "all machines the same packages, files and devices"
                )


def check_memory(workers: Sequence[WorkerFacts], listener: Listener) -> None:
    """Raise `SettingsError` where the models do not fit; workers of one CPU share its memory."""
    if (memory := workers[0].memory) is not None and memory.needed >= MEMORY_SAID_FROM:
        each = "each worker " if len(workers) > 1 else ""
        listener.say(f"{each}loads the models: {memory}")
    counts = Counter(facts.host for facts in workers)
    for facts in workers:
        if (memory := facts.memory) is None:
            continue
        count = 1 if memory.device.startswith("cuda") else counts[facts.host]
        try:
            replace(memory, weights=count * memory.weights, batch=count * memory.batch).check()
        except SettingsError as error:
            raise SettingsError(
                f"{number_of(count, 'worker')} on {visible(facts.host, 60)}: {error}; or ask for "
                f"fewer with {setting('workers')}"
            ) from None
