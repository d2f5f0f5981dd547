"""A process that is killed, or finds the disk full, at one of the changes that it makes to files.

A change is what `os` is asked for below one folder: a file opened for writing, a write, fsync,
rename, removal, folder, link or truncation. They are numbered from 0 in the order in which they
come. What a library written in another language does is not seen.
"""

from __future__ import annotations

import errno
import itertools
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

PLACES = {
    **dict.fromkeys(("open", "write", "fsync", "mkdir", "ftruncate", "truncate"), 0),
    **dict.fromkeys(("unlink", "remove", "rmdir"), 0),
    **dict.fromkeys(("rename", "replace", "symlink", "link"), 1),
}
"""Functions of `os`, and which argument names what they change, as path or descriptor."""
NEEDS_NO_SPACE = ("ftruncate", "truncate", "unlink", "remove", "rmdir")
WRITES = os.O_WRONLY | os.O_RDWR


@dataclass(frozen=True)
class Fault:
    """`kill` ends the process before the change `at`; from there on the disk is `full`."""

    kind: Literal["kill", "full"]
    at: int

    def __str__(self) -> str:
        return f"{self.kind}:{self.at}"


class WatchedChanges:
    """Numbers the changes of this process below `folder`, and meets each as `fault` says.

    For a process of its own: nothing is put back. Each change is a byte of the file `log`.
    """

    def __init__(self, folder: Path, log: Path, fault: Fault | None) -> None:
        self._folder = os.path.abspath(folder) + os.sep
        self._fault = fault
        self._numbers = itertools.count()
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        self._note = os.write

    def watch(self) -> None:
        """From here on."""
        for name in PLACES:
            setattr(os, name, self._watched(name, getattr(os, name)))

    def _watched(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            is_change = name != "open" or arguments[1] & WRITES
            if is_change and self._is_below(arguments[PLACES[name]]):
                self._meet(name)
            return real(*arguments, **options)

        return call

    def _meet(self, name: str) -> None:
        self._note(self._log, b".")
        number = next(self._numbers)
        if self._fault is None or number < self._fault.at:
            return
        if self._fault.kind == "full" and name not in NEEDS_NO_SPACE:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if self._fault.kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)

    def _is_below(self, path: Any) -> bool:
        if isinstance(path, int):
            found = os.readlink(f"/proc/self/fd/{path}")
        else:
            found = os.path.abspath(os.fsdecode(path))
        return found.startswith(self._folder)
