"""`pytest-divergence export`: cases in the format of another tool."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

from pytest_divergence.cli._project import add_suites, suites_of

FORMATS = {
    "inspect": "inspect_samples",
    "promptfoo": "promptfoo",
    "llm-comparator": "llm_comparator",
}
"""Each format's module in `exports`."""


def add(parser: ArgumentParser) -> None:
    """Describe the arguments."""
    parser.description = (
        "Write the cases of suites in the format of another tool, without control rows. inspect: "
        "samples, one a line; promptfoo: a configuration, to be run with providers (promptfoo "
        "eval -c FILE -r PROVIDER); llm-comparator: both models' answers side by side. None of "
        "them measures KL: the numbers go along as metadata, and the bounds stay here."
    )
    add_suites(parser)
    parser.add_argument("--format", choices=FORMATS, required=True, help="the other tool")
    parser.add_argument(
        "--output", metavar="FILE", type=Path, help="where the file goes (default: stdout)"
    )
    parser.set_defaults(run=run)


def run(given: Namespace) -> int:
    """Export, and say what could not be."""
    from importlib import import_module

    from pytest_divergence.core.errors import SettingsError
    from pytest_divergence.core.files import write_atomically
    from pytest_divergence.core.suites import read_suite

    tool = import_module(f"pytest_divergence.exports.{FORMATS[given.format]}")
    if given.output is not None and given.output.suffix not in tool.SUFFIXES:
        raise SettingsError(
            f"--output={given.output} must end in {' or '.join(tool.SUFFIXES)}, by which "
            f"{given.format} reads it"
        )
    suites = [read_suite(path) for path in suites_of(given.suites)]
    if not suites:
        raise SettingsError(f"there is no suite in {', '.join(map(str, given.suites))}; name one")
    exported = tool.exported(suites)
    if exported.left_out:
        ids = ", ".join(case.id for case in exported.left_out)
        print(f"left out, without the models' answers: {ids}", file=sys.stderr)
    if given.output is None:
        print(exported.text, end="")
    else:
        write_atomically(given.output, exported.text)
        print(f"wrote {given.output}, cases: {exported.num_cases}")
    return 0
