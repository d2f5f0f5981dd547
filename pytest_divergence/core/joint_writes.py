"""Files that belong together change together: all are old or all are new, whenever a writer dies.

A record beside them names the staged files; from the moment that it exists, the new files count.
The next reader or writer puts in place what a killed writer left. Knows nothing of the files'
content.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from pytest_divergence.core.errors import StoreError
from pytest_divergence.core.files import (
    MAX_RECORD_BYTES,
    STRAY_SUFFIX,
    open_folder,
    stage,
    sweep_strays,
    sync_folder,
    temporary_name,
    temporary_start,
)
from pytest_divergence.core.regular_files import check_replaceable, read_regular

if os.name == "posix":
    import fcntl

LOCK_SECONDS = 30.0
"""Time to wait for a lock, which a writer holds for milliseconds."""


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[bool]:
    """Keep other writers out of a folder; yields False where the system cannot.

    The folder itself is locked, so that no lock file stays beside committed files. Raises
    StoreError where another process holds it too long.
    """
    if os.name != "posix":
        yield False
        return
    descriptor = None
    try:
        with contextlib.suppress(OSError):
            descriptor = open_folder(folder)
        yield descriptor is not None and _is_locked(descriptor, folder)
    finally:
        if descriptor is not None:
            os.close(descriptor)


@contextlib.contextmanager
def alone_with(record: Path, targets: tuple[Path, ...]) -> Iterator[bool]:
    """Finish an interrupted write, then keep other writers out of the record's folder.

    Yields False where the system cannot. `targets` are the files that the record may name. Raises
    StoreError.
    """
    with alone_in(record.parent) as is_alone:
        if os.path.lexists(record):
            _finish(record, targets)
        yield is_alone


def replace_together(files: Mapping[Path, bytes], record: Path, *, is_alone: bool) -> None:
    """Replace the files, which lie in one folder; hold `alone_with` their record.

    Raises StoreError where one cannot be written: until the record exists all old files are intact,
    after that `finish` puts the new ones in place.
    """
    max_age = 0.0 if is_alone else 3600.0  # no one else is writing, or someone may be
    for target in (*files, record):
        sweep_strays(record.parent, start=temporary_start(target), max_age=max_age)
    staged: dict[Path, Path] = {}
    note = temporary_name(record)
    has_committed = False
    target = record
    try:
        for target, data in files.items():
            staged[target] = temporary_name(target)
            stage(staged[target], target, data)
        names = {target.name: temporary.name for target, temporary in staged.items()}
        target = record
        stage(note, record, json.dumps(names).encode("utf-8"))
        sync_folder(record.parent)
        os.replace(note, record)
        has_committed = True
        sync_folder(record.parent)
        _put_in_place(record, staged)
    except OSError as error:
        why = f"cannot write {target}: {error.strerror or error}"
        if has_committed:
            why = (
                f"cannot put {record.parent / error.filename2 if error.filename2 else target} in "
                f"place: {error.strerror or error}; the new files are complete, and the next "
                "command that reads them puts them in place"
            )
        raise StoreError(why) from error
    finally:
        if not has_committed:
            for temporary in (*staged.values(), note):
                with contextlib.suppress(OSError):
                    temporary.unlink(missing_ok=True)


def finish(record: Path, targets: tuple[Path, ...]) -> None:
    """Put in place what a dead writer had committed, if there is anything.

    `targets` are the files that the record may name. Raises StoreError where that cannot be
    done.
    """
    if os.path.lexists(record):  # else no lock is needed
        with alone_with(record, targets):
            pass


def _finish(record: Path, targets: tuple[Path, ...]) -> None:
    try:
        _put_in_place(record, _named_in(record, targets))
    except FileNotFoundError as error:
        raise StoreError(
            f"{record} records an interrupted write that cannot be finished, because "
            f"{Path(error.filename2).name} is gone; remove the record, and restore the files "
            "beside it from their source or write them again"
        ) from error
    except OSError as error:
        raise StoreError(
            f"{record.parent} holds an interrupted write ({record.name}) that cannot be finished: "
            f"{error.strerror or error}; make the folder writable and start again"
        ) from error


def _named_in(record: Path, targets: tuple[Path, ...]) -> dict[Path, Path]:
    """Return a record's staged files by target; a stranger may have written the record."""
    try:
        check_replaceable(record)
        names = json.loads(read_regular(record, MAX_RECORD_BYTES))
        staged = {record.parent / name: record.parent / names[name] for name in names}
        for temporary in staged.values():
            check_replaceable(temporary)
    except FileNotFoundError:  # its writer, or another reader, was faster
        return {}
    except (OSError, ValueError, TypeError, RecursionError):
        raise _unusable(record) from None
    if not staged:
        raise _unusable(record)
    for target, temporary in staged.items():
        is_ours = temporary.parent == record.parent and _is_staged_for(temporary, target)
        if target not in targets or not is_ours:
            raise _unusable(record)
    return staged


def _unusable(record: Path) -> StoreError:
    return StoreError(
        f"{record} is not the record of an interrupted write; remove it, and restore the files "
        "beside it from their source"
    )


def _put_in_place(record: Path, staged: Mapping[Path, Path]) -> None:
    for target, temporary in staged.items():
        try:
            os.replace(temporary, target)
        except FileNotFoundError:
            if not target.exists():  # else it was put there before
                raise
    sync_folder(record.parent)
    record.unlink(missing_ok=True)  # another reader may have been faster


def _is_staged_for(temporary: Path, target: Path) -> bool:
    name = temporary.name
    return name.startswith(temporary_start(target)) and name.endswith(STRAY_SUFFIX)


def _is_locked(descriptor: int, folder: Path) -> bool:
    end = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                raise StoreError(
                    f"another process still holds {folder} after {LOCK_SECONDS:g} s; wait for it "
                    "to finish, or stop it"
                ) from None
            time.sleep(0.02)
        except OSError:  # a network disk may know no such lock
            return False
        else:
            return True
