"""A command in a process of its own, which need not import torch again: a fork of the tests' one.

All that a process has is the command's own: folder, environment, standard streams, exit code. What
is imported is not; a test of that starts a fresh interpreter.
"""

from __future__ import annotations

import os
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryFile
from typing import NoReturn

import torch

QUIET_BY_DEFAULT = (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning)
"""What a fresh interpreter does not show; the tests' own process makes errors of warnings."""


class Forked:
    """A process that was started and not yet waited for."""

    def __init__(
        self,
        main: Callable[[], object],
        folder: Path,
        *,
        environment: Mapping[str, str] | None = None,
        typed: str = "",
    ) -> None:
        """Start it: `main` is the whole of it, with `typed` on stdin."""
        sys.stdout.flush()
        sys.stderr.flush()
        self._streams = [TemporaryFile() for _ in range(3)]  # noqa: SIM115  # until `wait`
        self._streams[0].write(typed.encode())
        self._streams[0].seek(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads
            self.pid = os.fork()
        if self.pid == 0:
            for number, stream in enumerate(self._streams):
                os.dup2(stream.fileno(), number)
            _become(main, folder, {**os.environ, **(environment or {})})

    def wait(self) -> subprocess.CompletedProcess[str]:
        """Its exit code and what it wrote, once it has ended."""
        _, status = os.waitpid(self.pid, 0)
        texts = []
        for stream in self._streams[1:]:
            stream.seek(0)
            texts.append(stream.read().decode())
        for stream in self._streams:
            stream.close()
        return subprocess.CompletedProcess(
            args=(), returncode=os.waitstatus_to_exitcode(status), stdout=texts[0], stderr=texts[1]
        )


def run_forked(
    main: Callable[[], object],
    folder: Path,
    *,
    environment: Mapping[str, str] | None = None,
    typed: str = "",
) -> subprocess.CompletedProcess[str]:
    """Run `main` as the whole of a process, with `typed` on stdin; its result is the exit code."""
    return Forked(main, folder, environment=environment, typed=typed).wait()


def _become(main: Callable[[], object], folder: Path, environment: Mapping[str, str]) -> NoReturn:
    code = 1
    try:
        _as_fresh(folder, environment)
        code = _exit_code(main)
        sys.stdout.flush()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)  # nothing of the tests' process is tidied up a second time


def _as_fresh(folder: Path, environment: Mapping[str, str]) -> None:
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    # Its pool of threads is not there after a fork, and it says so on stderr.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    # Nor is torch's: the first thread to ask makes another, and two that ask at once, as they do
    # where transformers reads weights, get one that is invalid.
    torch.set_num_threads(1)
    sys.path.insert(0, str(folder))
    sys.stdin, sys.stdout, sys.stderr = os.fdopen(0), os.fdopen(1, "w"), os.fdopen(2, "w")
    warnings.resetwarnings()
    for category in QUIET_BY_DEFAULT:
        warnings.simplefilter("ignore", category)


def _exit_code(main: Callable[[], object]) -> int:
    """As `sys.exit(main())` would leave it."""
    try:
        code = main()
    except SystemExit as stopped:
        code = stopped.code
    if code is None or isinstance(code, int):
        return int(code or 0)
    print(code, file=sys.stderr)
    return 1
