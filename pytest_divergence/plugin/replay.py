"""A suite's rows, measured on the session's models: many in one pass, when the first is asked for.

Knows which rows go together and what a measured row can still be asked. Does not know what an item
asserts, nor how a row is scored (`pytest_divergence.scoring.suite_rows`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Protocol

import pytest

from pytest_divergence.core.cases import Case, Completions, Measurement
from pytest_divergence.core.errors import MeasurementError, PromptIdsError
from pytest_divergence.core.file_names import sidecar_path
from pytest_divergence.core.provenance import ModelProvenance, Provenance, is_same_model, model_name
from pytest_divergence.core.report import TokenComparison
from pytest_divergence.core.safe_text import safe_line
from pytest_divergence.core.suites import StoredSuite
from pytest_divergence.discovery.plan import versions
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.plugin.bounds import answers_of, metric_for, sizes_for
from pytest_divergence.plugin.model_pairs import forget_frames
from pytest_divergence.plugin.notes import note
from pytest_divergence.plugin.options import Models
from pytest_divergence.plugin.session import FOLDER, DivergenceSession
from pytest_divergence.plugin.usage_errors import warn_of_suite
from pytest_divergence.scoring.suite_rows import ReplayedCase, case_prompt, replay_cases
from pytest_divergence.scoring.token_comparison import compare_tokens

if TYPE_CHECKING:
    from pathlib import Path


ROWS_TOGETHER = 32
"""A session that stops at the first failure has measured at most so many rows for nothing."""


class Measured(Protocol):
    """What an item judges; the rest costs forward passes, and only failures ask for it."""

    pair: ModelPair | None
    """The models that it was measured on; None: it was not, in this session."""

    @property
    def measurement(self) -> Measurement:
        """The divergences."""

    def tokens(self) -> Sequence[TokenComparison]:
        """Both models at each token of the candidate's answer."""

    def completions(self) -> Completions | None:
        """What both models answer."""


class Carried:
    """A value that a search measured on these very models."""

    def __init__(self, case: Case, tokens: Sequence[TokenComparison]) -> None:
        """`tokens` are the report's, where there is one."""
        assert case.kl is not None  # what has no value is not carried
        self.measurement = case.kl
        self.pair: ModelPair | None = None
        self._case, self._tokens = case, tokens

    def tokens(self) -> Sequence[TokenComparison]:
        """The search's own."""
        return self._tokens

    def completions(self) -> Completions | None:
        """The suite's own."""
        return self._case.completions


class Replayed:
    """A value measured in this session."""

    def __init__(
        self, session: DivergenceSession, pair: ModelPair, case: Case, found: ReplayedCase
    ) -> None:
        """`found` is the row as it was measured on `pair`."""
        self.measurement = found.measurement
        self.pair: ModelPair | None = pair
        self._session, self._pair, self._case = session, pair, case

    def tokens(self) -> Sequence[TokenComparison]:
        """Compared anew."""
        return compare_tokens(self._pair, case_prompt(self._case), self._answers[1])

    def completions(self) -> Completions:
        """Written anew: a suite's own may be another candidate's."""
        return self._answers[0]

    @cached_property
    def _answers(self) -> tuple[Completions, tuple[int, ...]]:
        length = sizes_for(self._session, self._pair)["max_new_tokens"]
        return answers_of(self._pair, self._case, length)


class SuiteReplay:
    """The rows of one suite in one session."""

    def __init__(self, session: DivergenceSession, stored: StoredSuite) -> None:
        """Measure nothing yet."""
        self.stored = stored
        self._session = session
        self._found: dict[str, ReplayedCase | Exception] = {}

    def of(self, pair: ModelPair, row: Case, *, wanted: Sequence[Case] = ()) -> Replayed:
        """The row's measurement; some of `wanted`, which holds rows to come, are measured with it.

        Raises what measuring this row raised.
        """
        if row.id not in self._found:
            self._measure(pair, row, wanted)
        found = self._found[row.id]
        if isinstance(found, Exception):
            raise found
        return Replayed(self._session, pair, row, found)

    def _measure(self, pair: ModelPair, row: Case, wanted: Sequence[Case]) -> None:
        others = [one for one in wanted if one.id not in self._found and one.id != row.id]
        rows = [row, *others[: ROWS_TOGETHER - 1]]
        lost = lost_rows(self._session, self.stored, rows)
        found_now = replay_cases(
            pair,
            [one for one in rows if one.id not in lost],
            self.stored.tokens,
            metric_of=partial(metric_for, self._session),
            **sizes_for(self._session, pair),
        )
        for id_, found in found_now.items():
            if isinstance(found, Exception):
                found_now[id_] = explained(self._session, self.stored, pair, found)
        self._found |= {**found_now, **lost}
        for found in self._found.values():
            if isinstance(found, Exception):  # kept until the session's end, and the pair is not
                forget_frames(found)


def lost_rows(
    session: DivergenceSession, stored: StoredSuite, rows: Sequence[Case]
) -> dict[str, Exception]:
    """The measured rows whose continuations are gone, by id: fresh ones would not compare.

    A suite without provenance was written by hand, so that nothing was ever stored.
    """
    if stored.provenance is None:
        return {}
    path = sidecar_path(stored.suite.path, "tokens.jsonl")
    name = session.shown(path)
    why = f"{name} does not hold its continuations" if path.is_file() else f"there is no {name}"
    return {
        row.id: MeasurementError(
            f"case {row.id}: {why}, on which its kl was measured, and a value on others would not "
            "compare. Restore that file from where the suite comes from, or remove kl from the "
            "row: then it is measured on fresh ones."
        )
        for row in rows
        if row.kl is not None and row.id not in stored.tokens
    }


def explained(
    session: DivergenceSession, stored: StoredSuite, pair: ModelPair, fault: Exception
) -> Exception:
    """`fault`, with what has changed since the suite was made, where the prompt's ids have."""
    if not isinstance(fault, PromptIdsError) or stored.provenance is None:
        return fault
    changed = list(_changed(session, stored.provenance, pair))
    if not changed:
        return fault
    return PromptIdsError(f"{fault} Changed since the suite was made: {'; '.join(changed)}.")


def _changed(session: DivergenceSession, provenance: Provenance, pair: ModelPair) -> Iterator[str]:
    identity, settings = session.pairs.identity_of(pair), session.resolved.settings
    library = "transformers"
    parts: dict[str, tuple[object, object]] = {
        "the chat template": (provenance.template_sha256, pair.chat.template_digest),
        "the tokenizer's files": (provenance.tokenizer_sha256, identity.tokenizer_sha256),
        "the system prompt": (provenance.settings.get("system_prompt"), settings.system_prompt),
        library: (provenance.versions.get(library, versions()[library]), versions()[library]),
    }
    for name, (then, now) in parts.items():
        if then != now:
            yield f"{name} (then {_shown(then)}, now {_shown(now)})"


def _shown(value: object) -> str:
    text = str(value)
    is_digest = len(text) == 64 and " " not in text
    return "none" if value is None else f"{text[:8]}…" if is_digest else safe_line(text, 60)


class ReferenceCheck:
    """Compares the reference that a suite was made with to the session's, and warns once."""

    def __init__(self, session: DivergenceSession, stored: StoredSuite, models: Models) -> None:
        """Compare nothing yet."""
        self._session, self._models = session, models
        self._path: Path = stored.suite.path
        self._made_with = stored.provenance.reference if stored.provenance is not None else None
        self._is_said = False

    def warn(self, item: pytest.Item) -> None:
        """Note on an item that is about to be measured what its suite was made with, and warn.

        Where warnings are errors, so is each item of the suite. Raises what resolving the models
        raises.
        """
        made = self._other
        if made is None:
            return

        note(item, other_reference=model_name(made))
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
        """The suite's reference, where it is known and is not the session's."""
        made = self._made_with
        if made is None or made.weights_sha256 is None or is_same_model(made, self._current):
            return None
        return made

    def _sentence(self, made: ModelProvenance) -> str:
        role = self._models.roles[0]
        is_of_search = FOLDER in self._path.parts
        anew = (
            "search this pair with --divergence-mode=search"
            if is_of_search
            else "measure the suite anew with --divergence-update"
        )
        return (
            f"{self._session.shown(self._path)} was made with the reference {model_name(made)}, "
            f"and {role} is {model_name(self._current)}: its limits were measured against another "
            "model, so they do not tell whether this pair is within them; give the suite's "
            f"reference as {role}, or {anew}"
        )
