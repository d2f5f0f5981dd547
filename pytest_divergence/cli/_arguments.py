"""What commands that work on files alone take on the command line, as their `--help` says it.

Imports nothing heavy. All others: `_session_arguments`.
"""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Callable, Mapping
from pathlib import Path

from pytest_divergence.core.file_names import FOLDER, LATEST, SUITE_SUFFIX, SUITES

FORMATS = ("inspect", "promptfoo", "llm-comparator")
"""What `export` writes."""
KINDS = ("suite", "tokens", "provenance", "report")
"""The files of which `schema` prints the schema."""


def _add_report(parser: ArgumentParser) -> None:
    parser.description = (
        "Write report.html and summary.md of a run anew from its report.json. With two runs, say "
        "what is new, gone and changed since the first; with --output, the page of the second "
        "says so too. The exit code is 0 whether or not something differs: diff is for gates."
    )
    parser.add_argument(
        "report",
        metavar="RUN",
        nargs="?",
        type=Path,
        default=Path(LATEST),
        help="a report.json, the folder of a run's report, or latest (default)",
    )
    parser.add_argument("later", metavar="LATER", nargs="?", type=Path, help="a second run")
    parser.add_argument(
        "--output",
        metavar="FOLDER",
        type=Path,
        help="where the files go (default, with one run: beside its report.json)",
    )


def _add_promote(parser: ArgumentParser) -> None:
    parser.description = (
        "Copy cases of a search into a suite that is committed, with their continuations, "
        "behaviours and control rows. Without --id, --behaviour and --all: every case, and "
        "the behaviours that the cases show."
    )
    parser.add_argument(
        "source",
        metavar="SUITE_OR_RUN",
        type=Path,
        help=f"a *{SUITE_SUFFIX}, the folder of a run's report, or latest",
    )
    parser.add_argument(
        "target",
        metavar="TARGET",
        type=Path,
        help=f"the suite to write, such as tests/release{SUITE_SUFFIX}",
    )
    parser.add_argument(
        "--id", action="append", default=[], help="a case, by its id or the start of it"
    )
    parser.add_argument(
        "--behaviour",
        metavar="ID",
        action="append",
        default=[],
        help="a behaviour, by its id or the start of it, and the cases that show it",
    )
    parser.add_argument("--all", action="store_true", help="every case and every behaviour")
    parser.add_argument("--add", action="store_true", help="merge into a TARGET that is there")
    parser.add_argument(
        "--force", action="store_true", help="with --add: replace rows that both have"
    )


def _add_accept(parser: ArgumentParser) -> None:
    parser.description = (
        "Mark a behaviour as intended in the provenance of the suites that know it."
    )
    parser.add_argument("behaviour", metavar="ID", help="printed with the behaviour's failure")
    _add_suites(parser)


def _add_diff(parser: ArgumentParser) -> None:
    parser.description = (
        "Say what differs between two suites, or the reports of two runs: cases, the most "
        "changed first, behaviours, bound, typical shift and models. Exit code 0: nothing "
        "differs, 1: something does, 2: one of them cannot be read."
    )
    for name, metavar in (("before", "A"), ("after", "B")):
        parser.add_argument(
            name,
            metavar=metavar,
            type=Path,
            help=f"a *{SUITE_SUFFIX}, a report.json, the folder of a run's report, or latest",
        )
    parser.add_argument("--json", action="store_true", help="for machines")


def _add_validate(parser: ArgumentParser) -> None:
    parser.description = (
        "Read suites with the tokens and provenance beside them, as a replay would, and name "
        "every line that cannot be read. No model is loaded. Exit code 1: something is wrong."
    )
    parser.add_argument(
        "files",
        metavar="FILE",
        nargs="*",
        type=Path,
        help=f"a *{SUITE_SUFFIX}, or a file beside one (default: every suite below this folder "
        "that is not hidden)",
    )


def _add_export(parser: ArgumentParser) -> None:
    parser.description = (
        "Write the cases of suites in the format of another tool, without control rows. inspect: "
        "samples, one a line; promptfoo: a configuration, to be run with providers (promptfoo "
        "eval -c FILE -r PROVIDER); llm-comparator: both models' answers side by side. None of "
        "them measures KL: the numbers go along as metadata, and the bounds stay here."
    )
    _add_suites(parser)
    parser.add_argument("--format", choices=FORMATS, required=True, help="the other tool")
    parser.add_argument(
        "--output", metavar="FILE", type=Path, help="where the file goes (default: stdout)"
    )


def _add_schema(parser: ArgumentParser) -> None:
    parser.description = (
        "Print the JSON Schema (draft 2020-12) of a kind of file. Those of suite and tokens "
        "describe one line, those of provenance and report the whole file. The files are in the "
        "folder schemas of the package."
    )
    parser.add_argument("kind", choices=KINDS, help="the kind of file")


def _add_suites(parser: ArgumentParser) -> None:
    parser.add_argument(
        "suites",
        metavar="SUITE",
        nargs="*",
        type=Path,
        help="suite or folder of suites (default: those that searches left in the project's "
        f"{FOLDER}/{SUITES})",
    )


ADD: Mapping[str, Callable[[ArgumentParser], None]] = {
    "report": _add_report,
    "promote": _add_promote,
    "accept": _add_accept,
    "diff": _add_diff,
    "validate": _add_validate,
    "export": _add_export,
    "schema": _add_schema,
}
"""What adds a command's arguments to its parser."""
