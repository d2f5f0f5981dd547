"""`pytest-divergence schema`: the JSON Schema of a kind of file."""

from __future__ import annotations

from argparse import Namespace

from pytest_divergence.cli._output import give
from pytest_divergence.core.json_schemas import published_path


def run(given: Namespace) -> int:
    """Print the schema."""
    give(published_path(given.kind).read_text("utf-8"))
    return 0
