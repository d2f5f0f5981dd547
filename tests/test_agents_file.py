"""AGENTS.md, which coding assistants of users read, names what there is and stays short."""

from __future__ import annotations

import re
from pathlib import Path

from pytest_divergence.cli import COMMANDS
from pytest_divergence.plugin.options import OPTIONS

TEXT = (Path(__file__).parent.parent / "AGENTS.md").read_text("utf-8")


def test_each_option_and_command_that_it_names_exists() -> None:
    known = {name for one in OPTIONS for name in (one.flag, one.alias)}
    options = set(re.findall(r"--(?:divergence|model)-[a-z0-9-]+", TEXT))
    commands = set(re.findall(r"pytest-divergence ([a-z-]+)", TEXT)) - {"in"}

    assert len(options) > 4
    assert options <= known
    assert len(commands) > 4
    assert commands <= set(COMMANDS)


def test_an_assistant_reads_it_in_one_piece() -> None:
    assert len(TEXT.splitlines()) <= 80
