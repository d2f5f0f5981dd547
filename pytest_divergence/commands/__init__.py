"""The subcommands of `pytest-divergence`, one module each; `pytest_divergence.cli` names them.

A module has `add(parser)`, which describes its arguments and sets `run`, the function that carries
it out: it takes the parsed arguments, and returns the exit code.
"""

from __future__ import annotations
