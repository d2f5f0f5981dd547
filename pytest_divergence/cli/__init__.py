"""The command `pytest-divergence`: the table of its commands, and how each of them ends.

This is the command's door for late imports: a command's module is imported only after its arguments
are parsed, so that `--help` and usage errors appear at once.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from pytest_divergence import __version__

COMMANDS = {
    "demo": "search a real pair with a planted difference, in minutes",
    "discover": "find prompts on which two models differ",
    "replay": "replay suites on two models, with pytest",
    "train": "train a soft prompt and save a dataset of divergent prompts",
    "report": "rewrite a run's report pages, or compare two runs",
    "review": "decide on a run's findings, one at a time: accept, keep, skip",
    "promote": "copy cases from a search into a suite that you commit",
    "record": "keep what a suite's reference tells, to gate without it",
    "accept": "mark a behaviour as intended, so that it no longer fails",
    "diff": "compare two suites, or the reports of two runs",
    "validate": "list the lines of a suite that cannot be read",
    "export": "write cases for Inspect, promptfoo or LLM Comparator",
    "push": "push a suite to the Hub, as a dataset with a card",
    "schema": "print the JSON Schema of a kind of file",
    "calibrate": "measure a pair's noise and typical shift, and what its bound catches",
    "rank": "order your own prompts by how much two models differ on them",
    "damage": "test whether a model has lost answers that are known",
    "init": "set up a project: ini file, conftest.py and GitHub workflow",
    "show-config": "print every setting, and where its value comes from",
    "doctor": "check this machine, and whether a pair would load and fit",
}
"""Each command's line in `--help`; its module has the same name, with `_` for `-`."""
INTERRUPTED = 130
"""Exit code after Ctrl-C, by the convention of shells."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0, or 1 after a sentence about what went wrong."""
    given = _parser().parse_args(arguments)
    from pytest_divergence.cli._output import complain
    from pytest_divergence.core.errors import DivergenceError
    from pytest_divergence.core.setting_names import spelled_by

    try:
        with spelled_by(_flag):
            command = import_module(f"{__name__}.{given.command.replace('-', '_')}")
            code = int(command.run(given))
        sys.stdout.flush()
        return code
    except DivergenceError as error:
        complain(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        complain("stopped")
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output, such as `head`, has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the exit flush fails
        return 1


def part(name: str) -> Any:
    """Import a part of a command that needs more than the rest of it."""
    return import_module(f"{__name__}.{name}")


def _flag(field: str) -> str:
    from pytest_divergence.plugin.options import flag_of

    return flag_of(field)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pytest-divergence",
        description="Find prompts on which two language models differ, and manage the suites.",
        epilog="Run pytest-divergence COMMAND --help for more.",
    )
    parser.add_argument("-V", "--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="COMMAND", parser_class=_Command
    )
    for name, line in COMMANDS.items():
        commands.add_parser(name, help=line)
    return parser


class _Command(argparse.ArgumentParser):
    """The parser of a command, filled only if the command is chosen."""

    def parse_known_args(self, *arguments: Any, **keywords: Any) -> Any:
        """Add the command's arguments, then parse."""
        add_arguments(self.prog.rsplit(" ", 1)[-1], self)
        return super().parse_known_args(*arguments, **keywords)


def add_arguments(command: str, parser: argparse.ArgumentParser) -> None:
    """Add a command's arguments to a parser; imports pytest if some of them are settings."""
    from pytest_divergence.cli import _arguments

    if command in _arguments.ADD:
        _arguments.ADD[command](parser)
        return
    from pytest_divergence.cli import _session_arguments

    _session_arguments.ADD[command](parser)
