"""`pytest-divergence schema`: the JSON Schema of a kind of file."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

KINDS = ("suite", "tokens", "provenance", "report")


def add(parser: ArgumentParser) -> None:
    """Describe the arguments."""
    parser.description = (
        "Print the JSON Schema (draft 2020-12) of a kind of file. Those of suite and tokens "
        "describe one line, those of provenance and report the whole file. The files are in the "
        "folder schemas of the package."
    )
    parser.add_argument("kind", choices=KINDS, help="the kind of file")
    parser.set_defaults(run=run)


def run(given: Namespace) -> int:
    """Print it."""
    from pytest_divergence.core.json_schemas import published_path

    print(published_path(given.kind).read_text("utf-8"), end="")
    return 0
