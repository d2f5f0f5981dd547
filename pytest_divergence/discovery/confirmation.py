"""Confirmation: selected prompts measured on continuations that the search did not see.

The search kept the highest values, so they are too high; only the values from here are exported.
"""

from __future__ import annotations

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
from pytest_divergence.models.chat_format import Prompt
from pytest_divergence.models.decoding import row_seed
from pytest_divergence.scoring.cheap_scores import prompt_nlls
from pytest_divergence.scoring.suite_rows import CASE_STREAM, Sizes, case_prompt, measure_rows
from pytest_divergence.scoring.token_comparison import compare_tokens

CHUNK = 5
"""Prompts in one work unit: 20 cases are two units for each of two workers."""


@dataclass(frozen=True)
class ConfirmedCase:
    """A case with what only the report shows of it."""

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

    A case names the first of the `behaviours` under its context that its answers show.
    """
    listener.progress("confirm", 0, len(selected))
    starts = range(0, len(selected), CHUNK)
    chunks = [_unit(selected[start : start + CHUNK], sizes, seed) for start in starts]
    confirmed: list[ConfirmedCase] = []
    for start, found in zip(starts, ledger.results(chunks), strict=True):
        chunk = selected[start : start + CHUNK]
        confirmed += [
            _as_case(chosen, row, behaviours) for chosen, row in zip(chunk, found, strict=True)
        ]
        listener.progress("confirm", start + len(chunk), len(selected))
    return confirmed


def _unit(selected: Sequence[Selected], sizes: Sizes, seed: int) -> WorkUnit:
    prompts = [chosen.prompt for chosen in selected]
    rows = [Case(**_as_given(prompt)) for prompt in prompts]
    return WorkUnit.of("confirm", _measure_cases, rows=rows, sizes=sizes, seed=seed)


def _as_given(prompt: Prompt) -> dict[str, Any]:
    """Return the field of a case that holds a prompt: `input` where it is a user's turn alone."""
    if isinstance(prompt, str):
        return {"input": prompt}
    return {"messages": prompt} if len(prompt) > 1 else {"input": prompt[0].content}


def _measure_cases(
    worker: Worker, *, rows: Sequence[Case], sizes: Sizes, seed: int
) -> list[dict[str, Any]]:
    pair = worker.pair
    prompts = [case_prompt(row) for row in rows]
    with pair.reuse_prompts():
        # First, because it reads every position of a prompt; the rest continues from its end.
        nlls = prompt_nlls(pair, pair.candidate, prompts)
        found = measure_rows(pair, sizes, row_seed(seed, CASE_STREAM), rows)
        compared = [
            compare_tokens(pair, prompt, row.answer)
            for prompt, row in zip(prompts, found, strict=True)
        ]
    return [
        {
            "measurement": row.measurement.model_dump(),
            "candidate_nll": nll,
            "stored": row.stored.model_dump(),
            "completions": [row.completions.reference, row.completions.candidate],
            "tokens": [token.model_dump() for token in tokens],
        }
        for row, nll, tokens in zip(found, nlls, compared, strict=True)
    ]


def _as_case(
    selected: Selected, found: dict[str, Any], behaviours: Sequence[Behaviour]
) -> ConfirmedCase:
    proposal = selected.scored.proposal
    reference, candidate = found["completions"]
    alike = [each for each in behaviours if each.context == selected.context]
    case = Case(
        **_as_given(selected.prompt),
        behaviour=shown_behaviour(alike, proposal.text, candidate, reference),
        kl=Measurement(**found["measurement"]),
        completions=Completions(reference=reference, candidate=candidate),
        origin=Origin(
            strategy=proposal.strategy,
            seed=proposal.seed,
            search_kl=selected.scored.search_kl,
        ),
    )
    tokens = [TokenComparison(**token) for token in found["tokens"]]
    stored = StoredTokens(**found["stored"])
    return ConfirmedCase(case, selected, found["candidate_nll"], stored, tokens)
