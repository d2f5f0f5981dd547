"""One case replayed, for tests that want its numbers or its error."""

from __future__ import annotations

from typing import Any

from pytest_divergence.core.cases import Case
from pytest_divergence.core.settings import MetricName
from pytest_divergence.core.tokens import StoredTokens
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.scoring.suite_rows import ReplayedCase, replay_cases


def replay_case(
    pair: ModelPair, case: Case, stored: StoredTokens | None, *, metric: MetricName, **sizes: Any
) -> ReplayedCase:
    tokens = {} if stored is None else {case.id: stored}
    found = replay_cases(pair, [case], tokens, metric_of=lambda _: metric, **sizes)[case.id]
    if isinstance(found, Exception):
        raise found
    return found
