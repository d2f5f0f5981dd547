"""Digests of a suite's rows, which tell whether its three files belong together.

A suite's provenance holds a digest of each row's prompt, kl and completions, and one of its
continuations. Limits, tags and metadata are the user's to edit, and rows may be added by hand.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from pytest_divergence.core.cases import Case, canonical_json
from pytest_divergence.core.errors import SuiteError
from pytest_divergence.core.file_names import PROVENANCE, TOKENS, sidecar_path
from pytest_divergence.core.provenance import Provenance
from pytest_divergence.core.setting_names import setting
from pytest_divergence.core.tokens import StoredTokens

MEASURED = {"kl", "completions"}
"""Keys of a row's measurement; the prompt is in its id."""


def row_digests(row: Case, tokens: StoredTokens | None) -> str:
    """Return the digests of a row and of its continuations, if it has any, joined."""
    turns = [turn.model_dump() for turn in row.turns]
    measured = row.model_dump(mode="json", include=MEASURED, exclude_none=True)
    parts = [_digest([row.id, turns, measured])]
    if tokens is not None:
        parts.append(_digest(tokens.model_dump(mode="json")))
    return "-".join(parts)


def check_rows(
    path: Path,
    rows: Sequence[Case],
    tokens: Mapping[str, StoredTokens],
    provenance: Provenance | None,
) -> None:
    """Refuse a suite that is not the one its provenance was written with.

    Raises SuiteError for a missing, changed or unknown row, and for rows with a kl and no
    provenance.
    """
    beside = sidecar_path(path, PROVENANCE).name
    measured = [row for row in rows if row.kl is not None]
    if provenance is None:
        if measured:
            raise SuiteError(
                path,
                None,
                f"{len(measured)} of its rows have a kl (first: {measured[0].id}), but {beside} is "
                "missing, which holds the bound, the behaviours and all else that was measured; "
                "restore it, or remove kl from the rows and measure them with "
                f"{setting('fill')}",
            )
        return
    if provenance.rows is None:
        _check_number(path, len(rows), provenance.num_rows, beside)
        return
    ids = {row.id for row in rows}
    if lacking := [id_ for id_ in provenance.rows if id_ not in ids]:
        raise SuiteError(
            path,
            None,
            f"lacks {len(lacking)} of the {len(provenance.rows)} rows that it was written with "
            f"(first: {lacking[0]}), so it may be cut off; restore it, or if you removed rows on "
            f"purpose, remove their lines from rows in {beside} too",
        )
    for row in rows:
        written = provenance.rows.get(row.id)
        if written is None and row.kl is None:
            continue  # written by hand since
        if (found := row_digests(row, tokens.get(row.id))) != written:
            raise SuiteError(path, None, _changed(path, row, found, written))


def _changed(path: Path, row: Case, found: str, written: str | None) -> str:
    names = [sidecar_path(path, kind).name for kind in (PROVENANCE, TOKENS)]
    if written is None:
        what = f"row {row.id} has a kl that {names[0]} does not know"
    elif found.split("-")[0] != written.split("-")[0]:
        what = f"row {row.id} has changed since {names[0]} was written, in its kl or its "
        what += "completions"
    else:
        what = f"the continuations of row {row.id} in {names[1]} have changed since {names[0]} "
        what += "was written"
    return (
        f"{what}, so the files do not belong together; restore all three from one commit, or "
        f"remove kl from the row and its line from rows in {names[0]}, and measure it with "
        f"{setting('fill')}"
    )


def _check_number(path: Path, there: int, written: int | None, beside: str) -> None:
    """Refuse an older suite with fewer rows than it was written with."""
    if written is not None and there < written:
        raise SuiteError(
            path,
            None,
            f"has {there} of the {written} rows that it was written with, so it may be cut off; "
            f"restore it, or if you removed rows on purpose, set num_rows to {there} in {beside}",
        )


def _digest(value: object) -> str:
    exact = canonical_json(value).encode("utf-8", "surrogatepass")
    return hashlib.sha256(exact).hexdigest()[:16]
