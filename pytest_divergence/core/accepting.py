"""Behaviours that people marked as intended, and later ones that are the same.

The mark stands in a suite's provenance. A later search may find the behaviour with another motif
in front, so it is told by the overlap of motifs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pytest_divergence.core.behaviours import Behaviour, normalised_motif
from pytest_divergence.core.errors import SettingsError
from pytest_divergence.core.provenance import load_provenance, write_provenance
from pytest_divergence.core.suites import sidecar_path


def accepted_in(suite: Path) -> list[Behaviour]:
    """The accepted behaviours of a suite; none where it is not there or cannot be read."""
    path = sidecar_path(suite, "provenance.json")
    if not path.is_file():
        return []
    return [one for one in load_provenance(path).behaviours if one.accepted]


def with_accepted(found: Sequence[Behaviour], accepted: Sequence[Behaviour]) -> list[Behaviour]:
    """`found`, those marked that are the same as an accepted one."""
    return [
        one.model_copy(update={"accepted": True})
        if any(is_same(one, other) for other in accepted)
        else one
        for one in found
    ]


def is_same(first: Behaviour, second: Behaviour) -> bool:
    """Whether two records mean one behaviour: by id, by trait, or by a motif inside the other's."""
    if first.id == second.id:
        return True
    if first.trait is not None or second.trait is not None:
        return first.trait == second.trait
    return _holds(first, second) or _holds(second, first)


def accept(behaviour_id: str, suites: Sequence[Path]) -> list[Path]:
    """Mark a behaviour as intended in the suites that know it; returns those.

    Raises `SettingsError` where none does, `SuiteError` where a provenance cannot be read.
    """
    changed, known = [], []
    for suite in suites:
        path = sidecar_path(suite, "provenance.json")
        if not path.is_file():
            continue
        provenance = load_provenance(path)
        known += [one.id for one in provenance.behaviours]
        if behaviour_id in (one.id for one in provenance.behaviours):
            marked = [
                one.model_copy(update={"accepted": one.accepted or one.id == behaviour_id})
                for one in provenance.behaviours
            ]
            write_provenance(path, provenance.model_copy(update={"behaviours": marked}))
            changed.append(suite)
    if not changed:
        where = ", ".join(map(str, suites)) or "any folder given: there is no suite"
        names = f"; known there: {', '.join(known)}" if known else ""
        raise SettingsError(f"no behaviour {behaviour_id} in {where}{names}")
    return changed


def _holds(first: Behaviour, second: Behaviour) -> bool:
    """Whether a motif of one stands in what the other says."""
    said = f" {' '.join(map(normalised_motif, (second.name, *second.motifs)))} "
    return any(f" {normalised_motif(motif)} " in said for motif in first.motifs)
