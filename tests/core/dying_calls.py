"""A writer that is killed at one of its system calls, as `kill -9` does: nothing is tidied up."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable
from pathlib import Path

from tests.forked import run_forked

CHANGES = ("open", "fsync", "replace", "unlink", "ftruncate")
"""The functions of `os` by which a writer changes what lies on the disk."""


def is_killed_at(number: int, write: Callable[[], object]) -> bool:
    """Whether a process that only writes was killed at its call of that number, and did not end."""

    def main() -> None:
        calls = itertools.count()
        for name in CHANGES:
            setattr(os, name, _dying(getattr(os, name), calls, number))
        write()

    code = run_forked(main, Path.cwd()).returncode
    assert code in (0, -signal.SIGKILL)
    return code != 0


def _dying(
    real: Callable[..., object], calls: itertools.count[int], number: int
) -> Callable[..., object]:
    def call(*arguments: object, **options: object) -> object:
        if next(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **options)

    return call
