"""Folders, adapters, templates and tokenizers of strangers: refused, or measured as they are.

`ATTACK_STRANGERS=all` takes all of them; `benchmarks/attack.py` does.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.attacks import hostile
from tests.attacks.changes import each, holding, in_config
from tests.attacks.hostile import Stranger, holes_of
from tests.attacks.hostile_adapters import ADAPTERS
from tests.attacks.hostile_folders import FOLDERS
from tests.attacks.hostile_templates import TEMPLATES
from tests.attacks.hostile_tokenizers import TOKENIZERS
from tests.attacks.projects import Done, Limits, Place

ALL = [*ADAPTERS, *FOLDERS, *TEMPLATES, *TOKENIZERS]
CHOSEN = (
    "as it is",
    "layer 0 alone",
    "lm_head.weight with its rows turned round",
    "trained biases whose sum is 0",
    "lora_B of zeros",
    "NaN",
    "config {'layer_replication': [[0, 2], [0, 2], [1, 2]]}",
    "weights: a pickle",
    "model config: as it is",
    "model config: 300 levels of {}",
    "tensors: score.weight",
    "tensors: two layers swapped",
    "model file: one place for two",
    "shards: out of the folder",
    "model folder: generation_config.json: a pipe",
    "template: loops",
    "template: without the user's text",
    "template that no one asked for: classes",
    "tokenizer: two letters swapped",
    "code named",
)
"""What a change to this package may break, one of each kind."""
BY_DAY = {"as it is", "NaN", "weights: a pickle", "template: loops"}
TRIED = [one for one in ALL if os.environ.get("ATTACK_STRANGERS") == "all" or one.name in CHOSEN]


def test_each_has_a_name_of_its_own() -> None:
    assert len({one.name for one in ALL}) == len(ALL)
    assert {*CHOSEN} <= {one.name for one in ALL}


@pytest.mark.parametrize(
    "stranger",
    [
        pytest.param(one, marks=() if one.name in BY_DAY else pytest.mark.slow, id=one.name)
        for one in TRIED
    ],
)
def test_a_strangers_model_is_refused_or_measured_truly(
    stranger: Stranger, strangers: Place, tmp_path: Path
) -> None:
    assert not holes_of(stranger, strangers, tmp_path / "place")


# Each of these is a fault that the attack is there to find.


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stranger", "found"),
    [
        (Stranger("harmless", lambda folder: None, "refused"), "and not refused"),
        (
            Stranger("broken", holding("adapter_config.json", "x"), "measured"),
            "refused, though there is nothing wrong with it",
        ),
        (
            Stranger(
                "unlimited",
                lambda folder: None,
                "measured",
                arguments=("-p", "tests.attacks.planted_hang"),
            ),
            "more time or memory",
        ),
        (
            Stranger("off", lambda folder: None, "measured", arguments=("--collect-only",)),
            "green, and nothing was measured",
        ),
    ],
    ids=lambda one: one.name if isinstance(one, Stranger) else None,
)
def test_the_attack_finds(
    stranger: Stranger,
    found: str,
    strangers: Place,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if stranger.name == "unlimited":  # it takes all that it may have
        little = Limits(seconds=30, cpu_seconds=2, more_bytes=3 << 30)
        monkeypatch.setattr(hostile, "LIMITS", little)

    holes = holes_of(stranger, strangers, tmp_path / "place")

    assert any(found in hole for hole in holes), holes


@pytest.mark.slow
def test_the_attack_finds_a_number_that_is_not_true(
    strangers: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hostile, "measured_in", lambda reports: 0.25)
    stranger = Stranger("scaled", each(lambda tensor: 2 * tensor), "measured")

    (hole,) = holes_of(stranger, strangers, tmp_path / "place")

    assert hole.startswith("KL 0.250000, and the true one is ")


def test_words_that_a_terminal_obeys_are_found(
    strangers: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = Done(4, "no \x1b[2J")
    monkeypatch.setattr(Place, "run", lambda *_, **__: done)
    stranger = Stranger("escape", in_config(r=3), "refused")

    assert holes_of(stranger, strangers, tmp_path / "place") == [
        "control characters on the screen: 0x1b"
    ]
