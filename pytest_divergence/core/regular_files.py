"""Regular files and nothing else: read within a limit, and written without following a link.

A path may lie in a stranger's checkout, where a FIFO hangs, a device has no end, and a link leads
to what is not the project's. Whatever is refused is an OSError whose `strerror` says why, so that
a caller words it like any file that cannot be used. Knows how a file is opened; does not know what
is in it, nor how it is replaced.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path

from pytest_divergence.core.file_names import AnyPath

MAX_FILE_BYTES = 64 << 20
"""Default size limit of a file that is read at once."""

KINDS: dict[str, Callable[[int], bool]] = {
    "a directory": stat.S_ISDIR,
    "a FIFO": stat.S_ISFIFO,
    "a socket": stat.S_ISSOCK,
    "a device": lambda mode: stat.S_ISCHR(mode) or stat.S_ISBLK(mode),
    "a symbolic link": stat.S_ISLNK,
}
"""Tests of what may lie at a path in place of a file, by its name for people."""
NO_WAIT = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)
"""Opens a FIFO at once, with or without someone at its other end."""
BINARY = getattr(os, "O_BINARY", 0)


def read_regular(path: AnyPath, limit: int = MAX_FILE_BYTES) -> bytes:
    """Read all of a regular file, or of the one that a symbolic link leads to.

    Raises OSError for anything else, at once, and for more than `limit` bytes.
    """
    with open_regular(path) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise refused(f"it is longer than {limit >> 20} MiB", errno.EFBIG)
    return data


def read_regular_text(path: AnyPath, limit: int = MAX_FILE_BYTES) -> str:
    """Read a regular file as text with plain line ends. Raises OSError, also if it is not UTF-8.

    A byte order mark, which some editors write, is left out.
    """
    try:
        text = read_regular(path, limit).decode("utf-8-sig")
        return text.replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        raise refused(f"it is not UTF-8 ({error.reason} at byte {error.start})") from None


@contextmanager
def open_regular(path: AnyPath) -> Iterator[BufferedReader]:
    """Open a regular file for reading piece by piece. Raises OSError for anything else."""
    _check(_stat(path, follow_symlinks=True))
    descriptor = os.open(path, os.O_RDONLY | NO_WAIT | BINARY)
    with open(descriptor, "rb") as file:
        _check(os.fstat(descriptor))  # it may have been another one a moment ago
        yield file


def open_own(path: AnyPath, flags: int) -> int:
    """Open a file of ours with `flags` of `os.open`, make it if need be, return its descriptor.

    A symbolic link is not followed, not even to make a file. Raises OSError for what is not a
    regular file, and for one with a second name, under which our writes would appear too.
    """
    check_replaceable(path)
    no_link = getattr(os, "O_NOFOLLOW", 0)
    descriptor = os.open(path, flags | os.O_CREAT | no_link | NO_WAIT | BINARY, 0o666)
    try:
        found = os.fstat(descriptor)
        _check(found)
        if found.st_nlink > 1:
            raise refused("it is a hard link, so another name leads to it too")
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def check_replaceable(path: AnyPath) -> None:
    """Raise OSError if a path holds anything but a regular file, which must not be replaced.

    A path where nothing lies passes.
    """
    with suppress(FileNotFoundError):
        _check(_stat(path, follow_symlinks=False))


def append_at_once(path: AnyPath, data: bytes) -> None:
    """Append to a path of any kind that another program named, without waiting for a reader.

    Raises OSError.
    """

    def opened(name: str, flags: int) -> int:
        return os.open(name, flags | NO_WAIT, 0o666)

    try:
        with open(path, "ab", buffering=0, opener=opened) as file:
            if (file.write(data) or 0) < len(data):
                raise refused("not all of it was written", errno.EAGAIN)
    except ValueError:
        raise refused("it is not a path") from None


def make_folders(folder: Path) -> None:
    """Make a folder and its parents, if they are missing. Raises OSError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except ValueError:  # holds NUL, or half a character
        raise refused("it is not a path") from None


def refused(reason: str, number: int = errno.EINVAL) -> OSError:
    """Return the error of a file that we refuse, worded like one of the system's."""
    return OSError(number, reason)


def _stat(path: AnyPath, *, follow_symlinks: bool) -> os.stat_result:
    try:
        return os.stat(path, follow_symlinks=follow_symlinks)
    except ValueError:  # holds NUL, or half a character
        raise refused("it is not a path") from None


def _check(found: os.stat_result) -> None:
    if stat.S_ISREG(found.st_mode):
        return
    kinds = (name for name, is_kind in KINDS.items() if is_kind(found.st_mode))
    what = next(kinds, "something else")
    raise refused(f"it is {what}, not a regular file")
