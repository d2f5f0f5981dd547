"""A fault at one file event of a process: killed before it, torn in it, or refused by the system.

A file event is what Python asks of the file system to change below one folder: a file opened for
writing, a write, fsync, rename, removal, folder, link or truncation. They are numbered from 0 in
the order in which they come. What a library written in another language does is not seen.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, NoReturn

Kind = Literal["kill", "torn", "ENOSPC", "EIO"]
KINDS: tuple[Kind, ...] = ("kill", "torn", "ENOSPC", "EIO")
TAKES_SPACE = {"create", "write", "fsync", "rename", "mkdir", "symlink", "link"}
"""What a full disk refuses."""
WRITES = os.O_WRONLY | os.O_RDWR
ON_PATHS = {
    "unlink": "unlink",
    "remove": "unlink",
    "rmdir": "rmdir",
    "mkdir": "mkdir",
    "truncate": "truncate",
    "fsync": "fsync",
    "fdatasync": "fsync",
    "ftruncate": "truncate",
}
"""Functions of `os` by their first argument, and the events that they are."""
ON_TWO_PATHS = {"rename": "rename", "replace": "rename", "symlink": "symlink", "link": "link"}
"""Functions of `os` by their second argument."""


@dataclass(frozen=True)
class Fault:
    """What happens at event `at`.

    `kill` and `torn` end the process: before the event, or with half of a write done. `EIO` fails
    that event alone; with `ENOSPC` the disk stays full.
    """

    kind: Kind
    at: int

    def __str__(self) -> str:
        return f"{self.kind}:{self.at}"


@dataclass(frozen=True)
class Event:
    """One of a process's file events."""

    name: str
    path: str
    """Below the watched folder."""

    def __str__(self) -> str:
        return f"{self.name} {self.path}"


class FileEvents:
    """Numbers the file events of this process below `folder`, and meets each as `fault` says.

    For a process of its own: nothing is put back. Each event is a line of the file `log`.
    """

    def __init__(self, folder: Path, log: Path, fault: Fault | None = None) -> None:
        self._folder = os.path.abspath(folder) + os.sep
        self._fault = fault
        self._count = 0
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._note = os.write
        self._readlink = os.readlink

    def watch(self) -> None:
        """From here on."""
        os_: Any = os
        for name, event in ON_PATHS.items():
            setattr(os, name, self._on_path(getattr(os_, name), event))
        for name, event in ON_TWO_PATHS.items():
            setattr(os, name, self._on_two_paths(getattr(os_, name), event))
        os.open = self._os_open(os.open)
        os.write = self._os_write(os.write)
        opened = self._open(builtins.open)
        for module in (builtins, io):
            module.open = opened  # type: ignore[attr-defined]

    def meet(self, name: str, path: Any) -> bool:
        """Note one event, and fail or end here where its turn has come; True: tear it."""
        shown = self.below(path)
        if shown is None:
            return False
        number, self._count = self._count, self._count + 1
        self._note(self._log, f"{name} {shown}\n".encode())
        fault = self._fault
        if fault is None or number < fault.at:
            return False
        if fault.kind == "ENOSPC" and name in TAKES_SPACE:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        if number > fault.at or fault.kind == "ENOSPC":
            return False
        if fault.kind == "EIO":
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        if fault.kind == "kill":
            end()
        return name == "write"

    def below(self, path: Any) -> str | None:
        """A path or descriptor as its name below the folder; None: it lies elsewhere."""
        if isinstance(path, int):
            try:
                found = self._readlink(f"/proc/self/fd/{path}")
            except OSError:
                return None
        else:
            found = os.path.abspath(os.fsdecode(path))
        return found[len(self._folder) :] if found.startswith(self._folder) else None

    def _on_path(self, real: Callable[..., Any], event: str) -> Callable[..., Any]:
        def wrapped(path: Any, *rest: Any, **options: Any) -> Any:
            self.meet(event, self._at(path, options.get("dir_fd")))
            return real(path, *rest, **options)

        return wrapped

    def _on_two_paths(self, real: Callable[..., Any], event: str) -> Callable[..., Any]:
        def wrapped(source: Any, target: Any, *rest: Any, **options: Any) -> Any:
            self.meet(event, target)
            return real(source, target, *rest, **options)

        return wrapped

    def _at(self, path: Any, dir_fd: int | None) -> Any:
        if dir_fd is None:
            return path
        return os.path.join(self._readlink(f"/proc/self/fd/{dir_fd}"), path)

    def _os_open(self, real: Callable[..., int]) -> Callable[..., int]:
        def wrapped(path: Any, flags: int, mode: int = 0o777, **options: Any) -> int:
            if flags & WRITES:
                self.meet(self._opening(path), self._at(path, options.get("dir_fd")))
            return real(path, flags, mode, **options)

        return wrapped

    def _os_write(self, real: Callable[..., int]) -> Callable[..., int]:
        def wrapped(descriptor: int, data: bytes) -> int:
            if self.meet("write", descriptor):
                real(descriptor, bytes(data)[: len(data) // 2])
                end()
            return real(descriptor, data)

        return wrapped

    def _open(self, real: Callable[..., IO[Any]]) -> Callable[..., IO[Any]]:
        def wrapped(
            file: Any, mode: str = "r", buffering: int = -1, *rest: Any, **named: Any
        ) -> Any:
            if not set(mode) & set("wax+") or self.below(file) is None:
                return real(file, mode, buffering, *rest, **named)
            if not isinstance(file, int):
                self.meet(self._opening(file), file)
            return self._watched(file, mode, buffering, *rest, **named)

        return wrapped

    def _watched(
        self,
        file: Any,
        mode: str,
        buffering: int,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        closefd: bool = True,
        opener: Any = None,
    ) -> Any:
        """What `open` returns, over a file whose writes are met."""
        plain = mode.replace("b", "").replace("t", "")
        raw = _WatchedFile(file, plain, closefd, opener)
        raw.events = self
        if buffering == 0:
            return raw
        size = buffering if buffering > 1 else io.DEFAULT_BUFFER_SIZE
        kind = io.BufferedRandom if "+" in mode else io.BufferedWriter
        buffered = kind(raw, size)
        if "b" in mode:
            return buffered
        return io.TextIOWrapper(buffered, encoding, errors, newline, buffering == 1)

    @staticmethod
    def _opening(path: Any) -> str:
        return "open" if os.path.lexists(path) else "create"


class _WatchedFile(io.FileIO):
    events: FileEvents

    def write(self, data: Any) -> int:
        if self.events.meet("write", self.fileno()):
            super().write(bytes(data)[: len(data) // 2])
            end()
        return super().write(data)

    def truncate(self, size: int | None = None) -> int:
        self.events.meet("truncate", self.fileno())
        return super().truncate(size)


def end() -> NoReturn:
    """End this process as `kill -9` does: nothing is tidied up."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("not reached")


def events_in(log: Path) -> list[Event]:
    """The events that a process has noted."""
    if not log.exists():
        return []
    return [Event(*line.split(" ", 1)) for line in log.read_text("utf-8").splitlines()]
