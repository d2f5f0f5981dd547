"""Confirmation: selected prompts measured on continuations that the search did not see.

The search kept what read highest, so its own values are too high; only these are exported.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from pytest_divergence.core.cases import Case, Completions, Measurement, Origin
from pytest_divergence.core.report import TokenComparison
from pytest_divergence.core.settings import Profile, Settings
from pytest_divergence.core.tokens import StoredTokens, prompt_digest
from pytest_divergence.discovery.progress import Listener
from pytest_divergence.discovery.selection import Selected
from pytest_divergence.discovery.units import WorkUnits
from pytest_divergence.models.decoding import row_seed
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.scoring.comparison import compare_tokens
from pytest_divergence.scoring.scorer import greedy_continuations, score_prompts

MIN_COMPLETION_LENGTH = 32
"""Tokens of a completion that people read."""


@dataclass(frozen=True)
class Confirmed:
    """A case, and what the report shows of it besides."""

    case: Case
    selected: Selected
    stored: StoredTokens
    tokens: list[TokenComparison]


def confirm(
    units: WorkUnits,
    selected: Sequence[Selected],
    settings: Settings,
    profile: Profile,
    listener: Listener,
) -> list[Confirmed]:
    """Measure each selected prompt anew; one work unit a prompt."""
    confirmed = []
    for index, one in enumerate(selected):
        listener.progress("confirm", index, len(selected))
        text = one.scored.proposal.text
        found = units.do(
            f"confirm/{one.scored.proposal.id}",
            partial(_measure, text, settings, profile),
        )
        confirmed.append(_as_case(one, found))
    listener.progress("confirm", len(selected), len(selected))
    return confirmed


def _measure(text: str, settings: Settings, profile: Profile, pair: ModelPair) -> dict[str, Any]:
    score = score_prompts(
        pair,
        [text],
        metric=settings.metric,
        num_continuations=profile.num_continuations,
        max_new_tokens=profile.continuation_length,
        seed=row_seed(settings.seed, "confirmation"),
    )[0]
    length = max(MIN_COMPLETION_LENGTH, profile.continuation_length)
    greedy = greedy_continuations(pair, [text], max_new_tokens=length)[0]
    return {
        "measurement": score.measurement.model_dump(),
        "prompt_sha256": prompt_digest(score.prompt_ids),
        "reference": score.continuations.reference,
        "candidate": score.continuations.candidate,
        "completions": [pair.chat.text(ids[0]) for ids in (greedy.reference, greedy.candidate)],
        "tokens": [one.model_dump() for one in compare_tokens(pair, text, greedy.candidate[0])],
    }


def _as_case(selected: Selected, found: dict[str, Any]) -> Confirmed:
    proposal = selected.scored.proposal
    reference, candidate = found["completions"]
    case = Case(
        input=proposal.text,
        kl=Measurement(**found["measurement"]),
        completions=Completions(reference=reference, candidate=candidate),
        origin=Origin(
            strategy=proposal.strategy,
            seed=proposal.seed,
            search_kl=selected.scored.search_kl,
        ),
    )
    stored = StoredTokens(
        id=case.id,
        prompt_sha256=found["prompt_sha256"],
        reference=found["reference"],
        candidate=found["candidate"],
    )
    return Confirmed(case, selected, stored, [TokenComparison(**one) for one in found["tokens"]])
