"""The search proper: strategies propose in rounds, proposals are screened and scored.

One round of one strategy is one work unit. A strategy that fails is reported and the others go on.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pytest_divergence.core.errors import ModelLoadError, StoreError
from pytest_divergence.core.report import (
    CurvePoint,
    RunError,
    StrategySummary,
    TrainingSummary,
)
from pytest_divergence.core.settings import Profile, Settings
from pytest_divergence.discovery.progress import Listener
from pytest_divergence.discovery.proposals import Proposal, clean
from pytest_divergence.discovery.strategies import SearchContext, Strategy
from pytest_divergence.discovery.units import WorkUnits
from pytest_divergence.models.decoding import row_seed
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.scoring.scorer import first_token_scores, score_greedily


@dataclass(frozen=True)
class ScoredProposal:
    """A proposal with the search's own reading of it, in nats per token."""

    proposal: Proposal
    first_token_kl: float
    search_kl: float
    reference_completion: str
    candidate_completion: str


@dataclass
class SearchResult:
    """All that the search found, before anything is confirmed."""

    scored: list[ScoredProposal] = field(default_factory=list)
    strategies: dict[str, StrategySummary] = field(default_factory=dict)
    training: list[TrainingSummary] = field(default_factory=list)
    curve: list[CurvePoint] = field(default_factory=list)
    errors: list[RunError] = field(default_factory=list)
    known: set[str] = field(default_factory=set)
    """Ids of all proposals so far."""

    @property
    def best(self) -> list[ScoredProposal]:
        """Scored proposals, the largest search divergence first."""
        return sorted(self.scored, key=lambda one: (-one.search_kl, one.proposal.id))


@dataclass(frozen=True)
class Search:
    """What a search needs besides the models."""

    settings: Settings
    profile: Profile
    seeds: Sequence[str]
    strategies: Mapping[str, Strategy]
    artefacts: Path
    listener: Listener

    def run(self, units: WorkUnits, result: SearchResult) -> None:
        """Fill `result` round by round, so that an interruption keeps what is there."""
        deadline = self.settings.budget_seconds
        started = time.monotonic()
        for name, strategy in self.strategies.items():
            result.strategies[name] = StrategySummary(name=name)
            for number in range(self.profile.num_restarts + 1):
                is_late = deadline is not None and time.monotonic() - started > deadline
                if is_late or units.tokens_forwarded >= self.profile.budget_tokens:
                    return
                if not self._one_round(units, result, name, strategy, number):
                    break

    def _one_round(
        self,
        units: WorkUnits,
        result: SearchResult,
        name: str,
        strategy: Strategy,
        number: int,
    ) -> bool:
        """Run, or read back, one round; False where the strategy has no more to offer."""
        self.listener.progress(f"search: {name}", number, number + 1)
        seconds = units.seconds
        try:
            found = units.do(
                f"search/{name}/{number}",
                lambda pair: self._propose_and_score(pair, strategy, name, number, result.known),
            )
        except (ModelLoadError, StoreError):  # no fault of the strategy: nothing can go on
            raise
        except Exception as error:  # a third party's strategy may raise anything
            message = f"{type(error).__name__}: {error}"
            result.errors.append(RunError(where=f"strategy {name}", message=message))
            return False
        self._take_over(found, result, name, units, seconds)
        return bool(found["num_proposals"])

    def _propose_and_score(
        self, pair: ModelPair, strategy: Strategy, name: str, number: int, known: set[str]
    ) -> dict[str, Any]:
        training: list[TrainingSummary] = []
        context = SearchContext(
            round=number,
            seed=row_seed(self.settings.seed, name, number),
            profile=self.profile,
            metric=self.settings.metric,
            seeds=self.seeds,
            listener=self.listener,
            artefacts=self.artefacts,
            record_training=training.append,
        )
        offered = strategy.propose(pair, context)
        proposals = [
            one for one in clean(offered, known) if not pair.chat.has_control_tokens(one.text)
        ]
        phase = f"score {len(proposals)} proposals of {name}"
        self.listener.progress(phase, 0, 2)
        scored = self._scored(pair, proposals)
        return {
            "num_proposals": len(proposals),
            "ids": [one.id for one in proposals],
            "scored": [asdict(one) for one in scored],
            "training": [one.model_dump() for one in training],
        }

    def _scored(self, pair: ModelPair, proposals: Sequence[Proposal]) -> list[ScoredProposal]:
        """The first-token score of all, then the full score of the best share of them."""
        texts = [one.text for one in proposals]
        first = first_token_scores(pair, texts, metric=self.settings.metric)
        order = sorted(range(len(texts)), key=lambda index: -first[index])
        chosen = order[: math.ceil(self.profile.full_score_share * len(texts))]
        scores = score_greedily(
            pair,
            [texts[index] for index in chosen],
            metric=self.settings.metric,
            max_new_tokens=self.profile.search_length,
        )
        return [
            ScoredProposal(
                proposal=proposals[index],
                first_token_kl=first[index],
                search_kl=score.measurement.value,
                reference_completion=pair.chat.text(score.continuations.reference[0]),
                candidate_completion=pair.chat.text(score.continuations.candidate[0]),
            )
            for index, score in zip(chosen, scores, strict=True)
        ]

    def _take_over(
        self,
        found: dict[str, Any],
        result: SearchResult,
        name: str,
        units: WorkUnits,
        seconds_before: float,
    ) -> None:
        for row in found["scored"]:
            result.scored.append(ScoredProposal(**{**row, "proposal": Proposal(**row["proposal"])}))
        result.training += [TrainingSummary(**one) for one in found["training"]]
        result.known.update(found["ids"])
        units.prompts_scored += found["num_proposals"]
        before = result.strategies[name]
        result.strategies[name] = StrategySummary(
            name=name,
            num_proposals=before.num_proposals + found["num_proposals"],
            num_scored=before.num_scored + len(found["scored"]),
            seconds=before.seconds + units.seconds - seconds_before,
        )
        result.curve.append(
            CurvePoint(
                prompts_scored=units.prompts_scored,
                tokens_forwarded=units.tokens_forwarded,
                best_kl=max((one.search_kl for one in result.scored), default=0.0),
            )
        )
