"""Cases that are exported, and the result of an export. Knows no format."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_divergence.core.cases import Case
from pytest_divergence.core.errors import SuiteError
from pytest_divergence.core.suites import StoredSuite


@dataclass(frozen=True)
class Exported:
    """Text of a file, with the cases that are and are not in it."""

    text: str
    num_cases: int
    left_out: tuple[Case, ...] = ()
    """Cases that the format cannot hold."""


def cases_of(suites: Sequence[StoredSuite]) -> Iterator[Case]:
    """Yield the cases of all suites, without control rows.

    Raises SuiteError for a prompt in two suites: the other tools need distinct ids too.
    """
    found: dict[str, StoredSuite] = {}
    for stored in suites:
        for case in stored.suite.cases:
            if case.id in found:
                first = found[case.id].suite
                line = stored.suite.lines[case.id]
                raise SuiteError(
                    stored.suite.path,
                    line,
                    f"case {case.id} is also in {first.path}:{first.lines[case.id]}; "
                    "export one suite at a time",
                )
            found[case.id] = stored
            yield case


def details_of(case: Case) -> dict[str, Any]:
    """Return the keys of a case besides its prompt, as a suite has them."""
    prompt = ("schema_version", "id", "input", "messages")
    return {key: value for key, value in case.to_row().items() if key not in prompt}
