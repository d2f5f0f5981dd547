"""Hooks that other plugins and conftest files may implement.

They are called through `config.hook`, so implement them in plugins or in the root folder's
conftest.py. A conftest that must also work under `-p no:divergence` marks them
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

    `spec` is what the user wrote, options included. Also called for each spec that
    `pytest_divergence_fingerprint` answers for, but never for other folders or Hub ids. The model
    must be a `PreTrainedModel` on `device`, of the pair's dtype. None: not your model. The first
    answer counts.
    """


@pytest.hookspec(firstresult=True)
def pytest_divergence_fingerprint(config: pytest.Config, spec: str) -> str | None:
    """Return a cache identity of your model, without loading it.

    It must change whenever the weights, the tokenizer or anything else that affects the answers
    changes. Called for every spec. None: not your model, or not known; then the weights are
    digested once they are loaded. The first answer counts.
    """


@pytest.hookspec
def pytest_divergence_strategies(config: pytest.Config) -> Mapping[str, Strategy]:  # type: ignore[empty-body]
    """Add strategies to the search, by name.

    All answers are merged; a name given twice ends the session with a usage error.
    """


@pytest.hookspec
def pytest_divergence_metrics(config: pytest.Config) -> Mapping[str, Metric]:  # type: ignore[empty-body]
    """Add metrics, by name: `--divergence-metric=NAME` asserts one, as do rows that name it.

    All answers are merged; a name given twice, or a built-in one, ends the session with a usage
    error. Like `js`, an added metric is measured on the continuations of both models.
    """


@pytest.hookspec(firstresult=True)
def pytest_divergence_categorise(config: pytest.Config, case: Case) -> str | None:
    """Name the kind of difference that a confirmed case shows, in one short line.

    It becomes `category` in the exported case's `metadata`, and reports show it. None: no name. The
    first answer counts. Called before `pytest_divergence_modify_cases`.
    """


@pytest.hookspec
def pytest_divergence_modify_cases(config: pytest.Config, cases: list[Case]) -> None:
    """Change the confirmed cases in place, before they are sorted and written."""


@pytest.hookspec
def pytest_divergence_report(config: pytest.Config, report: Report) -> None:
    """Receive a report once it is written: a search's, even if it was stopped, or a replay's.

    `report.run.mode` tells which: `search` or `replay`. A replay writes a report for each pair, and
    only with `--divergence-report-dir`. With pytest-xdist, called in one process only.
    """
