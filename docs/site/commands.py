"""The command `pytest-divergence`, from its own help."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from unittest.mock import patch

from docs.site.markdown import block
from pytest_divergence import cli


def helps() -> Iterator[tuple[str, str]]:
    """Yield the name and `--help` of each command, 80 columns wide."""
    with patch.dict(os.environ, COLUMNS="80", NO_COLOR="1"):
        for name in cli.COMMANDS:
            parser = argparse.ArgumentParser(prog=f"pytest-divergence {name}")
            cli.add_arguments(name, parser)
            yield name, parser.format_help()


def commands_page() -> str:
    """Return the page of commands, with the help of each."""
    parts = ["# Commands\n\n`pytest-divergence COMMAND` has these commands.\n"]
    for name, text in helps():
        line = cli.COMMANDS[name]
        parts.append(
            f"## pytest-divergence {name}\n\n{line[0].upper()}{line[1:]}.\n\n{block(text)}"
        )
    return "\n".join(parts)
