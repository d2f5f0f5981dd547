"""Files, folders and locks that survive a crash: old or new, never half.

Knows how to write a file and how to make the folders that files lie in; knows nothing of their
content.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import filelock
import platformdirs

from pytest_divergence.core.errors import StoreError
from pytest_divergence.core.file_names import (
    FOLDER,
    HUB,
    JOURNAL,
    LATEST,
    RECORD_SUFFIX,
    REPORTS,
    SUITES,
    AnyPath,
)
from pytest_divergence.core.regular_files import (
    check_replaceable,
    make_folders,
    open_own,
    read_regular,
    read_regular_text,
)
from pytest_divergence.core.safe_text import safe_line

CACHE_VARIABLE = "PYTEST_DIVERGENCE_CACHE"
"""Environment variable that moves the user cache folder."""

STRAY_SUFFIX = ".divergence-tmp"
"""Ending of the temporary files of `write_atomically`."""

RUN_NAME = re.compile("[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""Pattern of the names of folders that we make."""
MAX_NAME_BYTES = 1024
"""Size limit of the file that replaces the link `latest`."""
MAX_RECORD_BYTES = 4096
"""Size limit of the record of a joint write."""


def write_atomically(path: AnyPath, data: str | bytes) -> None:
    """Replace the file at `path` by `data` (text as UTF-8), or leave it as it was.

    Raises StoreError, with the old file intact, where the folder is missing or cannot be written.
    """
    write_together({Path(path): data.encode("utf-8") if isinstance(data, str) else data})


def write_together(files: Mapping[Path, bytes]) -> None:
    """Replace several files, in order, once the data of all of them is on the disk.

    Leftovers of killed writers beside them are removed. Raises StoreError, with all old files
    intact, where one of them cannot be written.
    """
    staged: dict[Path, Path] = {}
    target = Path()
    for folder in {target.parent for target in files}:
        sweep_strays(folder)
    try:
        for target, data in files.items():
            staged[target] = temporary_name(target)
            stage(staged[target], target, data)
        for target, temporary in staged.items():
            os.replace(temporary, target)
    except OSError as error:
        raise StoreError(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        for temporary in staged.values():
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
    for folder in {target.parent for target in staged}:
        sync_folder(folder)


def stage(temporary: Path, target: Path, data: bytes) -> None:
    """Write `data` to the disk under a new name, to replace `target` with; its mode stays.

    Raises OSError, also where the target is not a regular file, but a symbolic link, say.
    """
    check_replaceable(target)
    _write_new(temporary, data)
    if target.exists():
        shutil.copymode(target, temporary)


def sweep_strays(folder: Path, *, start: str = ".", max_age: float = 3600.0) -> list[Path]:
    """Remove leftovers of killed writers whose names begin with `start`, and return them.

    Only files older than `max_age` seconds go: a newer one may belong to a run that is writing.
    Files that the record of a joint write names stay, because they are still to be put in place.
    """
    swept = []
    with contextlib.suppress(OSError):  # no folder yet, or a record that tells us nothing
        paths = list(folder.iterdir())
        records = [path for path in paths if path.name.endswith(RECORD_SUFFIX)]
        committed = b"".join(read_regular(record, MAX_RECORD_BYTES) for record in records)
        for stray in [path for path in paths if path.name.endswith(STRAY_SUFFIX)]:
            is_old = time.time() - stray.lstat().st_mtime >= max_age
            is_committed = json.dumps(stray.name).encode("ascii") in committed
            if is_old and stray.name.startswith(start) and not is_committed:
                stray.unlink(missing_ok=True)
                swept.append(stray)
    return swept


@contextlib.contextmanager
def file_lock(
    path: Path, *, timeout: float, on_wait: Callable[[Path], None] | None = None
) -> Iterator[None]:
    """Hold the lock file at `path`; `on_wait` is called once if another process holds it.

    Local disks only. Raises StoreError after `timeout` seconds, and for a path that is not a file
    of ours.
    """
    lock = filelock.FileLock(path)
    try:
        os.close(open_own(path, os.O_RDWR))
        _acquire(lock, timeout, lambda: on_wait(path) if on_wait else None)
    except filelock.Timeout:
        raise StoreError(
            f"another process still holds {path} after {timeout:g} s; "
            "wait for it to finish, or stop it"
        ) from None
    except OSError as error:
        raise StoreError(f"cannot lock {path}: {error.strerror or error}") from error
    try:
        yield
    finally:
        lock.release()


class DivergenceFolder:
    """`.divergence/` in the root folder: made only on use, and ignored by git.

    Raises StoreError where a folder cannot be made.
    """

    def __init__(self, root: Path, *, report_dir: Path | None = None) -> None:
        """Belong to the project at `root`; `report_dir` moves the reports elsewhere."""
        self.path = root / FOLDER
        self._root = root
        self._report_dir = report_dir

    @property
    def suites(self) -> Path:
        """Folder of the suites that searches write."""
        return self._made(SUITES)

    @property
    def journal(self) -> Path:
        """Folder of the journals of unfinished runs."""
        return self._made(JOURNAL)

    @property
    def hub(self) -> Path:
        """Folder of copies of suites on the Hub."""
        return self._made(HUB)

    @property
    def reports(self) -> Path:
        """Folder of the reports, one folder a run."""
        if self._report_dir is None:
            return self._made(REPORTS)
        return make_folder(self._report_dir, within=self._root)

    def new_report_dir(self, run_id: str) -> Path:
        """Make a new folder for one run's reports and point `latest` to it.

        If `run_id` is taken, a number is appended.
        """
        reports = self.reports
        latest = reports / LATEST
        if latest.is_dir() and not latest.is_symlink():
            raise StoreError(f"{latest} is a folder, not the pointer to the last run; rename it")
        _check_name(run_id)
        for run in reports.iterdir():
            sweep_strays(run)
        folder = _make_new(reports, run_id)
        _point(latest, folder.name)
        return folder

    def _made(self, name: str) -> Path:
        folder = make_folder(self.path / name, within=self._root)
        ignore = self.path / ".gitignore"
        if not ignore.exists():
            write_atomically(ignore, "*\n")
        return folder


def latest_report_dir(reports: Path) -> Path | None:
    """Return the folder that `latest` points to, link or file; None before the first run.

    Raises StoreError where it names anything but a folder beside it, because pages of a report are
    rewritten there.
    """
    latest = reports / LATEST
    try:
        if latest.is_symlink():
            name = os.readlink(latest)
        else:
            name = read_regular_text(latest, MAX_NAME_BYTES).strip()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreError(f"cannot read {latest}: {error.strerror}; remove it") from error
    folder = reports / name
    if not _is_name(name) or folder.is_symlink():
        raise StoreError(
            f"{latest} names {safe_line(name)}, which is not a run's folder beside it; remove it"
        )
    return folder if folder.is_dir() else None


def make_folder(folder: Path, *, within: Path) -> Path:
    """Return the folder, made with its parents if it is missing.

    Raises StoreError where it cannot be made, and as `check_inside` does.
    """
    check_inside(folder, within=within)
    try:
        make_folders(folder)
    except OSError as error:
        raise StoreError(f"cannot make the folder {folder}: {error.strerror or error}") from error
    return folder


def check_inside(folder: Path, *, within: Path) -> None:
    """Refuse a folder whose path lies in `within`, but leads out of it through a symbolic link.

    A stranger's checkout may hold such a link. Raises StoreError.
    """
    named, top = Path(os.path.abspath(folder)), Path(os.path.abspath(within))
    if not named.is_relative_to(top):
        return
    try:
        is_inside = Path(os.path.realpath(named)).is_relative_to(os.path.realpath(top))
    except ValueError:  # not a path: making it raises the reason
        return
    if not is_inside:
        raise StoreError(f"{folder} leads out of {within} through a symbolic link; remove the link")


def user_cache(*parts: str) -> Path:
    """Return a folder of the user's cache, made on use; `PYTEST_DIVERGENCE_CACHE` moves the cache.

    Raises StoreError for parts that are not plain names.
    """
    for part in parts:
        _check_name(part)
    cache = user_cache_path()
    return make_folder(cache.joinpath(*parts), within=cache)


def user_cache_path() -> Path:
    """Return the path of the user's cache, without making it.

    Raises StoreError where the system names no home folder.
    """
    if moved := os.environ.get(CACHE_VARIABLE):
        return Path(moved)
    try:
        # Older releases of platformdirs leave "~" where there is no home.
        return platformdirs.user_cache_path("pytest-divergence").expanduser()
    except RuntimeError as error:
        raise StoreError(
            f"this system has no cache folder ({error}); set {CACHE_VARIABLE} to one"
        ) from None


def temporary_start(target: Path) -> str:
    """Return the beginning of the names of files staged for `target`."""
    return f".{target.name[:60]}."


def temporary_name(target: Path) -> Path:
    """Return a new name beside `target`, to stage a file under."""
    return target.with_name(f"{temporary_start(target)}{secrets.token_hex(6)}{STRAY_SUFFIX}")


def open_folder(folder: Path) -> int:
    """Open a folder, to sync or lock it, and return its descriptor. Raises OSError."""
    return os.open(folder, os.O_RDONLY)


def sync_folder(folder: Path) -> None:
    """Make a rename last through a power cut, where the system can."""
    if os.name != "posix":
        return
    with contextlib.suppress(OSError):  # the file is complete either way
        descriptor = open_folder(folder)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _write_new(path: Path, data: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags, 0o666)
    with open(descriptor, "wb") as file:  # a full disk may show only here, at close
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _acquire(lock: filelock.BaseFileLock, timeout: float, on_wait: Callable[[], None]) -> None:
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        on_wait()
        lock.acquire(timeout=timeout)


def _is_name(name: str) -> bool:
    return name != LATEST and RUN_NAME.fullmatch(name) is not None


def _check_name(name: str) -> None:
    if not _is_name(name):
        raise StoreError(
            f"{safe_line(name)} cannot name a folder here; use letters, digits, '.', '_' and '-'"
        )


def _make_new(parent: Path, name: str) -> Path:
    number = 1
    while True:
        folder = parent / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
        except OSError as error:
            raise StoreError(f"cannot make the folder {folder}: {error.strerror}") from error
        else:
            return folder


def _point(pointer: Path, name: str) -> None:
    temporary = temporary_name(pointer)
    try:
        os.symlink(name, temporary, target_is_directory=True)
        os.replace(temporary, pointer)
    except OSError:  # no symbolic links here: a file names the run
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
            pointer.unlink(missing_ok=True)
        write_atomically(pointer, name + "\n")
