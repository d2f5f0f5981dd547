"""The warning for a suite that was made with another reference than the session's.

Compares digests alone; loads nothing.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import pytest

from pytest_divergence.core.provenance import ModelProvenance, is_same_model
from pytest_divergence.core.suites import StoredSuite
from pytest_divergence.plugin.model_pairs import Models
from pytest_divergence.plugin.notes import note
from pytest_divergence.plugin.session import DivergenceSession
from pytest_divergence.plugin.warning import warn_of_suite


class ReferenceCheck:
    """Compares the reference that a suite was made with to the session's, and warns once."""

    def __init__(self, session: DivergenceSession, stored: StoredSuite, models: Models) -> None:
        """Compare nothing yet."""
        self._session, self._models = session, models
        self._path: Path = stored.suite.path
        self._made_with = stored.provenance.reference if stored.provenance is not None else None
        self._is_said = False

    def warn(self, item: pytest.Item) -> None:
        """Warn about another reference, and note it on an item that is about to be measured.

        If warnings are errors, each item of the suite is one. Raises what resolving the models
        raises.
        """
        made = self._other
        if made is None:
            return

        note(item, other_reference=str(made))
        if self._is_said:
            return
        warn_of_suite(self._path, self._sentence(made))
        self._is_said = True

    @cached_property
    def _current(self) -> ModelProvenance:
        now = self._session.pairs.identities(self._models)[0]
        return ModelProvenance(
            spec=now.spec, kind=now.kind, weights_sha256=now.weights_sha256, commit=now.commit
        )

    @cached_property
    def _other(self) -> ModelProvenance | None:
        """The suite's reference, if it is known and not the session's."""
        made = self._made_with
        if made is None or made.weights_sha256 is None or is_same_model(made, self._current):
            return None
        return made

    def _sentence(self, made: ModelProvenance) -> str:
        role = self._models.roles[0]
        is_of_search = self._session.is_own(self._path)
        anew = (
            "search this pair with --divergence-mode=search"
            if is_of_search
            else "measure the suite again with --divergence-update"
        )
        return (
            f"{self._session.shown(self._path)} was made with the reference {made}, "
            f"but {role} is {self._current}: its limits were measured against another model, so "
            f"they do not apply to this pair; give the suite's reference as {role}, or {anew}"
        )
