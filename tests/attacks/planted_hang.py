"""A plugin whose sessions never end."""

from __future__ import annotations

import pytest


def pytest_sessionstart(session: pytest.Session) -> None:
    while True:
        pass
