"""Two sessions and commands at once, on one suite and on one project."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.attacks.at_once import CROWDS, Crowd, holes_of
from tests.attacks.stories import committed, filled


@pytest.mark.slow
@pytest.mark.parametrize("crowd", CROWDS, ids=lambda crowd: crowd.name)
def test_each_ends_as_if_it_were_alone(crowd: Crowd, tmp_path: Path, tiny_models: Path) -> None:
    assert not holes_of(crowd, tmp_path, tiny_models)


@pytest.mark.slow
def test_the_attack_finds_two_that_write_one_file_together(
    tmp_path: Path, tiny_models: Path
) -> None:
    """Each adds to a suite what it read before the other wrote: one row is lost, or half a file."""

    def add() -> int:
        path = Path("tests/release.divergence.jsonl")
        path.write_bytes(path.read_bytes() + f'{{"input": "{os.getpid()}"}}\n'.encode())
        return 0

    crowd = Crowd("planted", filled, (add, add), committed)

    assert "the files are those of no one of them" in holes_of(crowd, tmp_path, tiny_models)
