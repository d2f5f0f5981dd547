"""What every attack starts from: tiny models, and all modules imported before the first fork."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.attacks import warm
from tests.attacks.hostile import prepared
from tests.attacks.projects import Place, make_place

assert warm.LOADED


@pytest.fixture
def place(tmp_path: Path, tiny_models: Path) -> Place:
    """A project of one test's own."""
    return make_place(tmp_path / "place", tiny_models)


@pytest.fixture(scope="session")
def strangers(tmp_path_factory: pytest.TempPathFactory, tiny_models: Path) -> Place:
    """A project to which strangers' model folders are brought."""
    return prepared(tmp_path_factory.mktemp("strangers") / "ready", tiny_models)
