"""`pytest-divergence schema`: the JSON Schema of a kind of file."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "schemas"
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
    print((FOLDER / f"divergence-{given.kind}.schema.json").read_text("utf-8"), end="")
    return 0
