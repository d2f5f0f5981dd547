"""Why a row cannot be measured as it was: continuations are gone, or its prompt reads otherwise.

Knows what a suite's files say of the session's pair. Does not know how a row is measured
(`pytest_divergence.scoring.replay`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from pytest_divergence.core.errors import MeasurementError, PromptIdsError
from pytest_divergence.core.safe_text import safe_line
from pytest_divergence.core.suites import sidecar_path

if TYPE_CHECKING:
    from pytest_divergence.core.cases import Case
    from pytest_divergence.core.provenance import Provenance
    from pytest_divergence.core.stored import StoredSuite
    from pytest_divergence.models.pair import ModelPair
    from pytest_divergence.session import DivergenceSession


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
    from pytest_divergence.discovery.identity import versions

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
