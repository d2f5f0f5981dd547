"""Locations in specs of models: where a path ends, and options begin.

Imports next to nothing, since each session of pytest may ask. Does not know what the options mean
(`pytest_divergence.models.specs`).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path


def location_and_options(spec: str, *, root: Path) -> tuple[str, list[str]]:
    """Split a spec at its commas, but for those in the path of a folder or file that exists."""
    parts = spec.split(",")
    for count in range(len(parts), 1, -1):
        location = ",".join(parts[:count])
        if is_so((root / os.path.expanduser(location)).exists):
            return location, parts[count:]
    return parts[0].strip(), parts[1:]


def is_so(check: Callable[[], bool]) -> bool:
    """Return what a check of a path says; False for a path that the file system does not accept."""
    try:
        return check()
    except (OSError, ValueError):
        return False
