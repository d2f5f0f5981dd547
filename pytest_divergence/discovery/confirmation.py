"""Confirmation: selected prompts measured on continuations that the search did not see.

The search kept what read highest, so its own values are too high; only these are exported.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pytest_divergence.core.behaviours import Behaviour
from pytest_divergence.core.cases import Case, Completions, Measurement, Origin
from pytest_divergence.core.report import TokenComparison
from pytest_divergence.core.tokens import StoredTokens
from pytest_divergence.discovery.behaviours.hypotheses import shown_behaviour
from pytest_divergence.discovery.engines.base import Ledger, Worker, WorkUnit
from pytest_divergence.discovery.progress import Listener
from pytest_divergence.discovery.selection import Selected
from pytest_divergence.models.decoding import row_seed
from pytest_divergence.models.fingerprints import text_digest
from pytest_divergence.scoring.cheap_scores import prompt_nlls
from pytest_divergence.scoring.suite_rows import CASE_STREAM, Sizes, measure_rows
from pytest_divergence.scoring.token_comparison import compare_tokens

CHUNK = 8
"""Prompts in one work unit."""


@dataclass(frozen=True)
class ConfirmedCase:
    """A case, and what the report shows of it besides."""

    case: Case
    selected: Selected
    candidate_nll: float
    """The prompt's negative log-likelihood under the candidate, nats per token."""
    stored: StoredTokens
    tokens: list[TokenComparison]


def confirm(
    ledger: Ledger,
    selected: Sequence[Selected],
    sizes: Sizes,
    listener: Listener,
    *,
    seed: int,
    behaviours: Sequence[Behaviour] = (),
) -> list[ConfirmedCase]:
    """Measure each selected prompt anew, some of them in one work unit.

    A case names the first of the `behaviours` that its answers show.
    """
    listener.progress("confirm", 0, len(selected))
    starts = range(0, len(selected), CHUNK)
    chunks = [_unit(selected[start : start + CHUNK], sizes, seed) for start in starts]
    confirmed: list[ConfirmedCase] = []
    for start, found in zip(starts, ledger.results(chunks), strict=True):
        chunk = selected[start : start + CHUNK]
        confirmed += [_as_case(one, row, behaviours) for one, row in zip(chunk, found, strict=True)]
        listener.progress("confirm", start + len(chunk), len(selected))
    return confirmed


def _unit(selected: Sequence[Selected], sizes: Sizes, seed: int) -> WorkUnit:
    texts = [one.scored.proposal.text for one in selected]
    name = f"confirm/{text_digest(json.dumps(texts))[:16]}"
    return WorkUnit(name, _measure_cases, {"texts": texts, "sizes": sizes, "seed": seed})


def _measure_cases(
    worker: Worker, *, texts: Sequence[str], sizes: Sizes, seed: int
) -> list[dict[str, Any]]:
    pair = worker.pair
    rows = [Case(input=text) for text in texts]
    with pair.reuse_prompts():
        # First, for it reads all positions of a prompt: what comes after goes on from its end.
        nlls = prompt_nlls(pair, pair.candidate, texts)
        found = measure_rows(pair, sizes, row_seed(seed, CASE_STREAM), rows)
        compared = [
            compare_tokens(pair, text, one.answer) for text, one in zip(texts, found, strict=True)
        ]
    return [
        {
            "measurement": one.measurement.model_dump(),
            "candidate_nll": nll,
            "stored": one.stored.model_dump(),
            "completions": [one.completions.reference, one.completions.candidate],
            "tokens": [each.model_dump() for each in tokens],
        }
        for one, nll, tokens in zip(found, nlls, compared, strict=True)
    ]


def _as_case(
    selected: Selected, found: dict[str, Any], behaviours: Sequence[Behaviour]
) -> ConfirmedCase:
    proposal = selected.scored.proposal
    reference, candidate = found["completions"]
    case = Case(
        input=proposal.text,
        behaviour=shown_behaviour(behaviours, proposal.text, candidate, reference),
        kl=Measurement(**found["measurement"]),
        completions=Completions(reference=reference, candidate=candidate),
        origin=Origin(
            strategy=proposal.strategy,
            seed=proposal.seed,
            search_kl=selected.scored.search_kl,
        ),
    )
    tokens = [TokenComparison(**one) for one in found["tokens"]]
    stored = StoredTokens(**found["stored"])
    return ConfirmedCase(case, selected, found["candidate_nll"], stored, tokens)
