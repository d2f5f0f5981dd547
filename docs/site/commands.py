"""The command `pytest-divergence`, as its own help describes it."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from unittest.mock import patch

from docs.site.markdown import block
from pytest_divergence import cli


def helps() -> Iterator[tuple[str, str]]:
    """Name and `--help` of each command, 80 columns wide."""
    with patch.dict(os.environ, COLUMNS="80", NO_COLOR="1"):
        for name in cli.COMMANDS:
            parser = argparse.ArgumentParser(prog=f"pytest-divergence {name}")
            cli.add_arguments(name, parser)
            yield name, parser.format_help()


def commands_page() -> str:
    """What each command does, and its help."""
    parts = ["# Commands\n\n`pytest-divergence COMMAND`, of which there are these.\n"]
    for name, text in helps():
        line = cli.COMMANDS[name]
        parts.append(
            f"## pytest-divergence {name}\n\n{line[0].upper()}{line[1:]}.\n\n{block(text)}"
        )
    return "\n".join(parts)
