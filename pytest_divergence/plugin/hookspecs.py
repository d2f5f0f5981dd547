"""Hooks that other plugins and conftest files may implement.

They are called by `config.hook`, so they belong into plugins and the root folder's conftest.py. A
conftest that must also work under `-p no:divergence` marks them
`@pytest.hookimpl(optionalhook=True)`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import pytest

if TYPE_CHECKING:
    from pytest_divergence.core.cases import Case
    from pytest_divergence.core.report import Report
    from pytest_divergence.discovery.strategies.protocol import Strategy
    from pytest_divergence.models.pair import Metric
    from pytest_divergence.models.specs import LoadedModel


@pytest.hookspec(firstresult=True)
def pytest_divergence_load_model(
    config: pytest.Config, spec: str, role: Literal["reference", "candidate"], device: str
) -> LoadedModel | None:
    """Load a model that no built-in rule understands, such as `mine:anything`.

    `spec` is what the user wrote, options and all. Also called for each spec that
    `pytest_divergence_fingerprint` answers for; never for another folder or Hub id. The model must
    be a `PreTrainedModel` on `device`, of the pair's dtype. None: not yours. The first answer
    counts.
    """


@pytest.hookspec(firstresult=True)
def pytest_divergence_fingerprint(config: pytest.Config, spec: str) -> str | None:
    """Tell a model of yours from every other without loading it: a cache identity.

    It must change whenever weights, tokenizer or anything else that the model answers by do. Asked
    for every spec. None: not yours, or not known; then the weights are digested once they are
    loaded. The first answer counts.
    """


@pytest.hookspec
def pytest_divergence_strategies(config: pytest.Config) -> Mapping[str, Strategy]:  # type: ignore[empty-body]
    """Add strategies to the search, by name.

    All answers are merged; a name given twice ends the session with a usage error.
    """


@pytest.hookspec
def pytest_divergence_metrics(config: pytest.Config) -> Mapping[str, Metric]:  # type: ignore[empty-body]
    """Add metrics, by name: `--divergence-metric=NAME` asserts one, as do rows that name it.

    All answers are merged; a name given twice, or one of the built-in ones, ends the session with a
    usage error. Like `js`, an added metric is read on the continuations of both models.
    """


@pytest.hookspec(firstresult=True)
def pytest_divergence_categorise(config: pytest.Config, case: Case) -> str | None:
    """Name the kind of difference that a confirmed case shows, in one short line.

    It becomes the `category` in the exported case's `metadata`, and reports show it. None: no name.
    The first answer counts. Called before `pytest_divergence_modify_cases`.
    """


@pytest.hookspec
def pytest_divergence_modify_cases(config: pytest.Config, cases: list[Case]) -> None:
    """Change the confirmed cases in place, before they are sorted and written."""


@pytest.hookspec
def pytest_divergence_report(config: pytest.Config, report: Report) -> None:
    """Look at a search's report once it is written, also where the search was stopped.

    With pytest-xdist called in one process only.
    """
