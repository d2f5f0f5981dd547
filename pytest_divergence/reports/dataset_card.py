"""The text of a suite's dataset card, in Markdown.

Prompts and answers are in the files, not in the card; what a model wrote appears in fences alone.
"""

from __future__ import annotations

from collections.abc import Iterator

from pytest_divergence.core.cases import quantity
from pytest_divergence.core.provenance import Provenance
from pytest_divergence.core.quantities import number_of
from pytest_divergence.core.setting_names import setting
from pytest_divergence.core.suites import StoredSuite
from pytest_divergence.reports.markdown_text import code, page, plain
from pytest_divergence.reports.text_blocks import fenced
from pytest_divergence.reports.wording import nats

MAX_BEHAVIOURS = 20
"""Behaviours that a card names; the provenance has all."""


def card_text(stored: StoredSuite, dataset: str) -> str:
    """Return the card below its front matter: what the suite holds, and how it is replayed."""
    return page(_lines(stored, dataset))


def _lines(stored: StoredSuite, dataset: str) -> Iterator[str]:
    suite, made = stored.suite, stored.provenance
    yield f"# {plain(suite.path.name)}"
    yield ""
    yield (
        "Prompts on which two language models differ, as tests that bound how much: a suite of "
        "pytest-divergence."
    )
    yield ""
    cases = number_of(len(suite.cases), "case")
    yield f"- {cases}, and {number_of(len(suite.controls), 'ordinary prompt')} to see broad change"
    if (measured := stored.measured) is not None:
        yield f"- measured in {plain(quantity(measured.metric))}, {plain(measured.unit)}"
    if made is not None:
        yield from _pair(made)
    yield ""
    yield "Replay it on two models of yours:"
    yield ""
    models = f"{setting('model_1')} REFERENCE {setting('model_2')} CANDIDATE"
    yield from fenced(f"pytest hf:{dataset} {models}")
    yield "Rows and their columns:"
    yield ""
    yield from fenced(f'datasets.load_dataset("{dataset}", "suite", split="test")')
    if made is not None:
        yield from _behaviours(made)


def _pair(made: Provenance) -> Iterator[str]:
    yield f"- reference: {code(str(made.reference))}"
    yield f"- candidate: {code(str(made.candidate))}"
    if made.bound is not None:
        yield f"- bound: {nats(made.bound.value)}"
    yield f"- made with pytest-divergence {plain(made.tool_version)}, {plain(made.created)}"


def _behaviours(made: Provenance) -> Iterator[str]:
    confirmed = [behaviour for behaviour in made.behaviours if behaviour.confirmed]
    if confirmed:
        yield "## Behaviours of the candidate"
        yield ""
    for behaviour in confirmed[:MAX_BEHAVIOURS]:
        yield f"{code(behaviour.id)}{', accepted' if behaviour.accepted else ''}:"
        yield ""
        yield from fenced(behaviour.title)
