"""With a pair of models named, this repository is a place to try the plugin on: only what the
search finds is run, and the project's own tests stay out.
"""

from __future__ import annotations

from pathlib import Path

import pytest

TESTS = Path(__file__).parent / "tests"
collect_ignore = ["conftest_templates", "examples"]
"""Projects to copy from; `tests/templates/` and `tests/shown_examples/` run them."""


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out `tests/` where a model is named on the command line."""
    is_trial = config.getoption("divergence_model_1", None) is not None
    return True if is_trial and collection_path == TESTS else None
