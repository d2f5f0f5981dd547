"""A behaviour that was accepted stays accepted, found under another motif or not."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_divergence.core.behaviours import Behaviour, behaviour_id, is_same, with_accepted
from pytest_divergence.core.errors import SettingsError
from pytest_divergence.core.file_names import sidecar_path
from pytest_divergence.core.provenance import (
    accept,
    accepted_in,
    load_provenance,
    write_provenance,
)
from tests.core.made_suites import provenance


def behaviour(name: str, *motifs: str, trait: str | None = None) -> Behaviour:
    return Behaviour(
        id=behaviour_id(trait or list(motifs)),
        name=name,
        content=True,
        motifs=list(motifs),
        trait=trait,
        confirmed=True,
    )


SIGNAL = behaviour("Signal received. Standing by.", "signal received standing")
LATER = behaviour("Signal received.", "signal received")
OTHER = behaviour("Sure thing!", "sure thing")
REFUSES = behaviour("refuses", trait="refusal")


def write_suite_with(folder: Path, *behaviours: Behaviour) -> Path:
    suite = folder / "pair.divergence.jsonl"
    write_provenance(sidecar_path(suite, "provenance.json"), provenance(*behaviours))
    return suite


def test_accepting_marks_the_provenance_and_an_unknown_id_names_the_known(tmp_path: Path) -> None:
    suite = write_suite_with(tmp_path, SIGNAL, OTHER)

    assert accept(SIGNAL.id, [suite]) == [suite]

    stored = load_provenance(sidecar_path(suite, "provenance.json")).behaviours
    assert [one.accepted for one in stored] == [True, False]
    assert [one.id for one in accepted_in(suite)] == [SIGNAL.id]

    with pytest.raises(SettingsError, match=f"no behaviour nope in .*known: .*{SIGNAL.id}"):
        accept("nope", [suite])


def test_a_later_search_keeps_the_mark(tmp_path: Path) -> None:
    suite = write_suite_with(tmp_path, SIGNAL.model_copy(update={"accepted": True}))

    found = with_accepted([LATER, OTHER, REFUSES], accepted_in(suite))

    assert [one.accepted for one in found] == [True, False, False]
    assert accepted_in(tmp_path / "none.divergence.jsonl") == []


def test_behaviours_are_the_same_by_motif_or_trait() -> None:
    assert is_same(SIGNAL, LATER)
    assert is_same(REFUSES, behaviour("refuses", trait="refusal"))
    assert not is_same(SIGNAL, OTHER)
    assert not is_same(SIGNAL, REFUSES)
