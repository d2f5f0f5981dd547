"""The subcommands of `pytest-divergence`, one module each.

A module has `add(commands)`, which registers its parser and sets `run`, the function that carries
it out: it takes the parsed arguments, and returns the exit code.
"""

from __future__ import annotations
