"""Which strategy has the next round, and when one that had no more to offer is asked again."""

from __future__ import annotations

import pickle
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

import pytest

from pytest_divergence.core.journal import Journal
from pytest_divergence.core.settings import PROFILES, Settings
from pytest_divergence.discovery import rounds as rounds_module
from pytest_divergence.discovery.behaviours.answers import AnsweredPrompts
from pytest_divergence.discovery.behaviours.hypotheses import Hypothesis
from pytest_divergence.discovery.behaviours.leads import Lead, Leads, SupportedLead
from pytest_divergence.discovery.engines.base import (
    Ledger,
    Spent,
    Take,
    UnitResult,
    Worker,
    WorkUnit,
)
from pytest_divergence.discovery.engines.in_process import InProcess
from pytest_divergence.discovery.progress import Silence
from pytest_divergence.discovery.proposals import Proposal
from pytest_divergence.discovery.round_units import score_proposals
from pytest_divergence.discovery.rounds import Search, SearchLog
from pytest_divergence.discovery.strategies.protocol import RoundTask, SearchContext, Strategy
from pytest_divergence.discovery.strategies.soft_prompt import SoftPromptStrategy
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.scoring.cheap_scores import screen
from pytest_divergence.scoring.continuations import greedy_continuations
from tests.models_in_memory import styled_pair, tiny_pair

PHRASE = Hypothesis("Signal received. Standing by.", ("signal received standing",))


@dataclass
class Aiming:
    """Has a question about each phrase that is suspected, one a round."""

    asked: list[str] = field(default_factory=list)
    rounds: list[int] = field(default_factory=list)

    def propose(self, pair: ModelPair, context: SearchContext) -> Sequence[Proposal]:
        self.rounds.append(context.round)
        new = [one.text for one in context.targets if one.text not in self.asked]
        self.asked += new[:1]
        return [Proposal(f"What is {text}?", "aiming") for text in new[:1]]


@dataclass
class Naming:
    """Proposes two prompts, and with the second a phrase becomes suspected."""

    leads: list[Lead]

    def propose(self, pair: ModelPair, context: SearchContext) -> Sequence[Proposal]:
        if context.round == 1:
            self.leads.append(Lead(PHRASE, 0))
        questions = ("Who are you?", "Where does bread come from?")
        return [Proposal(text, "naming") for text in questions[context.round :][:1]]


@dataclass
class Bench:
    """Runs the rounds of a search in a folder of its own; profile and bound may be others."""

    folder: Path
    pair: ModelPair = field(default_factory=tiny_pair)
    engine: type[InProcess] = InProcess
    found: SearchLog = field(default_factory=SearchLog)
    units: dict[str, int] = field(default_factory=dict)
    """Tokens of each computed unit."""

    def __post_init__(self) -> None:
        self.spent = Spent()
        self.leads = Leads(self.spent, AnsweredPrompts())

    def __call__(
        self,
        strategies: dict[str, Any],
        *,
        settings: Settings | None = None,
        bound: float = 1.0,
        **sizes: Any,
    ) -> SearchLog:
        profile = PROFILES["smoke"].model_copy(update=sizes)
        self.folder.mkdir(exist_ok=True)
        with Journal.open(self.folder / "journal.jsonl", key="k") as journal:
            search = Search(
                settings or Settings(),
                profile,
                ["Why is the sea salty?"],
                strategies,
                Silence(),
                self.leads,
                bound=bound,
            )
            search.run(self._ledger(journal), self.found)
        return self.found

    def _ledger(self, journal: Journal) -> Ledger:
        engine = self.engine(journal, lambda: self.pair, Silence(), self.folder)

        def note(unit: str, tokens: int, seconds: float) -> None:
            self.units[unit] = tokens

        return Ledger(engine, spent=self.spent, on_computed=note)


@dataclass
class Costly:
    """Reads its prompt in every round, as often as it may, and so costs about the same each time.

    Prompts that are like a known one are not scored.
    """

    times: int = 1

    def propose(self, pair: ModelPair, context: SearchContext) -> Sequence[Proposal]:
        text = f"{context.seed} {len(context.rounds)}: why is that so?"
        greedy_continuations(pair, [text] * self.times, max_new_tokens=8)
        return [Proposal(text, "costly")]


def spent_by(
    folder: Path,
    strategies: dict[str, Strategy],
    *,
    tokens: int,
    least: int,
    calibration: int = 0,
    is_users: bool = True,
) -> dict[str, list[int]]:
    """Forwarded tokens of each strategy's rounds in a search of so many, whose every find counts.

    `least` is the smallest share of soft prompts; the budget is the user's or the profile's own.
    """
    bench = Bench(folder)
    bench.spent.tokens_forwarded = calibration
    budget = PROFILES["smoke"].reserved_for(1) + tokens
    settings = Settings(budget=str(budget)) if is_users else None
    found = bench(
        strategies, settings=settings, bound=0.0, soft_prompt_tokens=least, budget_tokens=budget
    )
    return {name: [one.tokens_forwarded for one in rounds] for name, rounds in found.rounds.items()}


@pytest.mark.parametrize(
    ("tokens", "least", "share"),
    [(6_000, 500, 2_000), (2_500, 3_500, 2_500)],
)
def test_soft_prompts_get_their_share_though_others_find_more(
    tmp_path: Path, tokens: int, least: int, share: int
) -> None:
    """A third, or what the profile says if that is more; all of a budget that is smaller."""
    strategies: dict[str, Strategy] = {"cheap": Costly(1), "soft_prompt": Costly(10)}

    spent = spent_by(tmp_path, strategies, tokens=tokens, least=least)

    assert sum(spent["soft_prompt"]) >= share
    assert len(spent["cheap"]) > 1 or share == tokens
    assert sum(map(sum, spent.values())) <= tokens + max(spent["soft_prompt"])


@pytest.mark.parametrize("is_users", [True, False])
def test_a_profiles_own_budget_leaves_soft_prompts_their_least_whatever_calibration_took(
    tmp_path: Path, is_users: bool
) -> None:
    """Models that are read a row at a time take most of it; a budget that was asked for is kept."""
    strategies: dict[str, Strategy] = {"cheap": Costly(1), "soft_prompt": Costly(10)}

    spent = spent_by(
        tmp_path, strategies, tokens=6_000, least=3_500, calibration=6_000, is_users=is_users
    )

    assert sum(spent["soft_prompt"]) >= (0 if is_users else 3_500)
    assert (sum(map(sum, spent.values())) == 0) == is_users


def test_a_round_that_soft_prompts_are_owed_shrinks_to_what_is_left(tmp_path: Path) -> None:
    @dataclass
    class Sized:
        sizes: list[tuple[int, int]] = field(default_factory=list)

        def propose(self, pair: ModelPair, context: SearchContext) -> Sequence[Proposal]:
            profile = context.profile
            self.sizes.append((profile.num_steps, profile.num_proposals))
            text = f"{context.seed}: why is that so?"
            greedy_continuations(pair, [text] * profile.num_proposals, max_new_tokens=8)
            return [Proposal(text, "sized")]

    (whole,) = spent_by(tmp_path / "whole", {"soft_prompt": Sized()}, tokens=1, least=1)[
        "soft_prompt"
    ]
    sized, least = Sized(), whole + whole // 2

    spent = spent_by(tmp_path, {"soft_prompt": sized}, tokens=least, least=least)["soft_prompt"]

    assert sized.sizes == [(20, 32), (10, 16)]
    assert least <= sum(spent) <= 1.05 * least


def test_no_strategy_begins_with_less_left_than_the_others_took_for_a_round(
    tmp_path: Path,
) -> None:
    strategies: dict[str, Strategy] = {
        "first": Costly(10),
        "second": Costly(10),
        "third": Costly(10),
    }
    cost = max(spent_by(tmp_path, strategies, tokens=10_000, least=500)["first"])

    tokens = 2 * cost + cost // 2
    spent = spent_by(tmp_path / "short", strategies, tokens=tokens, least=500)

    assert tokens - cost < sum(map(sum, spent.values())) <= tokens


def test_a_strategy_that_rests_is_woken_by_a_new_phrase_to_aim_at(tmp_path: Path) -> None:
    bench, aiming = Bench(tmp_path), Aiming()

    found = bench({"aiming": aiming, "naming": Naming(bench.leads._open)})

    assert aiming.asked == [PHRASE.name]
    assert {name: one.num_proposals for name, one in found.strategies.items()} == {
        "aiming": 1,
        "naming": 2,
    }
    assert aiming.rounds == [0, 0, 1]  # nothing yet, then the phrase, then no other


def test_half_of_the_questions_about_a_phrase_are_answered_for_their_divergence(
    tmp_path: Path,
) -> None:
    """An answer may say a changed fact in its middle, and begin with other words."""
    texts = [f"Tell me about {word}." for word in ("boil", "water", "steam", "degrees", "sea")]
    aim = "It is said"

    class Asked:
        def propose(self, pair: ModelPair, context: SearchContext) -> Sequence[Proposal]:
            if context.rounds:
                return []
            return [Proposal(text, "asked", aim=aim, is_evidence=False) for text in texts]

    bench = Bench(tmp_path)
    screened = screen(bench.pair, texts, metric="symmetric", aim=aim)
    found = bench({"asked": Asked()})

    best = {
        max(zip(texts, screened, strict=True), key=lambda each: each[1].promise)[0],
        max(zip(texts, screened, strict=True), key=lambda each: each[1].first_token_kl)[0],
    }
    assert len(best) == len(found.scored) == 2
    assert {scored.proposal.text for scored in found.scored} == best
    evidence = bench.leads.evidence
    assert {row.prompt for row in evidence.probed} == best
    assert evidence.answered == []


@pytest.mark.parametrize("is_common", [False, True])
def test_under_a_new_style_what_all_answers_share_promises_nothing(
    tmp_path: Path, is_common: bool
) -> None:
    class Asking:
        def propose(self, pair: ModelPair, context: SearchContext) -> Sequence[Proposal]:
            return [Proposal("Tell me about tea.", "asking")] if not context.rounds else []

    bench = Bench(tmp_path, styled_pair())
    bench.leads.supported.append(SupportedLead(PHRASE, is_common))

    (scored,) = bench({"asking": Asking()}).scored

    assert (scored.first_token_kl < 1e-5) == is_common
    assert scored.search_kl > 0.1, "what is measured stays the divergence"


class Backwards(InProcess):
    """An engine whose units end in the wrong order: of those started, the last one first."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.open: list[Take] = []

    def start(self, unit: WorkUnit) -> Take:
        take = super().start(pickle.loads(pickle.dumps(unit)))
        self.open.append(take)

        def in_wrong_order() -> Any:
            for other in reversed(self.open):
                other()
            self.open.clear()
            return take()

        return in_wrong_order


@dataclass(frozen=True)
class Curious:
    """Asks about a number that few rounds before it can have known."""

    name: str

    def propose(self, pair: ModelPair, context: SearchContext) -> Sequence[Proposal]:
        if context.round > 1:
            return []
        hits = sum(past.num_hits for past in context.rounds)
        texts = [f"What is {len(context.best)} plus {hits}?", f"{self.name} {context.round}?"]
        return [Proposal(text, self.name, variant=str(context.round)) for text in texts]


def rounds_at_once(
    folder: Path, engine: type[InProcess], at_once: int
) -> tuple[SearchLog, list[str]]:
    """What a search finds with so many rounds under way, and the prompts that it scored."""
    strategies = {name: Curious(name) for name in ("one", "two", "three")}
    sizes: Any = {"rounds_at_once": at_once, "full_score_share": 1.0, "search_length": 2}
    found = Bench(folder, engine=engine)(strategies, bound=0.0, **sizes)
    return found, [scored.proposal.text for scored in found.scored]


def test_a_round_knows_those_taken_over_before_it_in_whatever_order_they_end(
    tmp_path: Path,
) -> None:
    _, one_by_one = rounds_at_once(tmp_path / "one", InProcess, 1)
    found, prompts = rounds_at_once(tmp_path / "three", InProcess, 3)
    other, others = rounds_at_once(tmp_path / "backwards", Backwards, 3)

    assert prompts == others
    assert found.rounds == other.rounds
    assert [len(rounds) for rounds in found.rounds.values()] == [2, 2, 2]
    assert sorted(one_by_one[:2]) == ["What is 0 plus 0?", "one 0?"]
    assert any(text.startswith("What is 2 plus ") for text in one_by_one[2:4])
    assert sorted(prompts[:2]) == ["What is 0 plus 0?", "one 0?"]
    assert prompts[2:4] == ["two 0?", "three 0?"], "asked while the first was under way"
    assert len(prompts) == len(set(prompts)), "what another round proposed too counts once"
    assert sum(each.num_proposals for each in found.strategies.values()) == len(prompts)


def test_the_scores_of_a_large_round_are_units_of_their_own_and_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else one worker would score hundreds of prompts while the others wait."""

    class Large:
        def propose(self, pair: ModelPair, context: SearchContext) -> Sequence[Proposal]:
            if context.rounds:
                return []
            return [Proposal(f"Why are {number} seas salty?", "large") for number in range(7)]

    def searched(name: str, *in_unit: int) -> tuple[SearchLog, int]:
        """What is found, and the tokens that its units took."""
        for kind, size in zip(("SCREENED", "SCORED"), in_unit, strict=True):
            monkeypatch.setattr(rounds_module, f"{kind}_IN_UNIT", size)
        bench = Bench(tmp_path / name)
        found = bench({"large": Large()}, full_score_share=0.7)
        assert sum(bench.units.values()) == bench.spent.tokens_by_kind["search: large"]
        kinds = {unit.rpartition("/")[0] for unit in bench.units} - {"search/large"}
        assert kinds == {f"search/large/0/{work}" for work in name.split(", ") if work}
        return found, sum(bench.units.values())

    whole, in_one = searched("", 7, 5)
    assert len(whole.scored) == 5
    for name, screened_in_unit in (("scores", 7), ("screens, scores", 4)):
        shared, spent = searched(name, screened_in_unit, 2)

        assert shared.strategies["large"].tokens_forwarded == spent
        assert spent > in_one, "prompts are read once more"
        for one, other in zip(whole.scored, shared.scored, strict=True):
            assert other.search_kl == pytest.approx(one.search_kl, abs=1e-5)
            assert other.first_token_kl == pytest.approx(one.first_token_kl, abs=1e-5)
            assert other.proposal == one.proposal
            assert (other.reference, other.candidate.text) == (one.reference, one.candidate.text)


def test_soft_prompts_under_way_together_are_of_different_kinds(tmp_path: Path) -> None:
    sizes: Any = {"rounds_at_once": 3, "num_restarts": 3, "num_steps": 1, "num_proposals": 2}

    found = Bench(tmp_path)({"soft_prompt": SoftPromptStrategy()}, **sizes)

    variants = [past.variant for past in found.rounds["soft_prompt"]]
    assert variants == ["free", "simplex", "free-long"]


class Shaky:
    """Fails twice, and then would have something to propose."""

    def propose(self, pair: ModelPair, context: SearchContext) -> Sequence[Proposal]:
        if context.round < 2:
            raise RuntimeError(f"no idea {context.round}")
        return [Proposal("What came later?", "shaky")]


class Unsure(Curious):
    """Cannot tell its variant."""

    def next_variant(self, task: RoundTask) -> str:
        raise LookupError("no variant")


def test_a_failed_strategy_is_reported_once_and_what_it_had_under_way_is_left_out(
    tmp_path: Path,
) -> None:
    """A later session would not know of it in the rounds of others, which were named without it."""

    strategies = {"shaky": Shaky(), "curious": Curious("curious"), "unsure": Unsure("unsure")}

    found = Bench(tmp_path)(strategies, rounds_at_once=9)

    assert [(error.where, error.message) for error in found.errors] == [
        ("strategy shaky", "RuntimeError: no idea 0"),
        ("strategy unsure", "LookupError: no variant"),
    ]
    assert found.failed == {"shaky": 0, "unsure": 0}
    assert found.strategies["shaky"].num_proposals == 0
    assert found.strategies["curious"].num_proposals > 0


class AtOnce(InProcess):
    """Begins each unit in a thread of its own, as workers do."""

    threads = ThreadPoolExecutor(4)

    def start(self, unit: WorkUnit) -> Take:
        if unit.name in self._journal:
            return super().start(unit)
        record = self.threads.submit(self._record, unit).result

        def taken() -> UnitResult:
            return UnitResult(unit.name, **self._journal.remember(unit.name, record), is_new=True)

        return taken


def twice_within(
    budget: str, folder: Path, strategy: Strategy, engine: type[InProcess]
) -> list[tuple[int, int]]:
    """Rounds, and units computed anew, of a search with one strategy, and of the same once more."""
    numbers = []
    for _ in range(2):
        bench = Bench(folder, engine=engine)
        rounds = bench({"slow": strategy}, settings=Settings(budget=budget)).rounds["slow"]
        assert all(past.tokens_forwarded for past in rounds)
        numbers.append((len(rounds), bench.spent.num_computed))
    return numbers


@pytest.mark.slow
def test_a_budget_in_seconds_counts_once_what_was_computed_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a repeated search of many workers would drop rounds that it has."""
    one_by_one = Lock()

    def slow_scores(
        worker: Worker, *, proposals: Sequence[Proposal], **sizes: Any
    ) -> list[dict[str, Any]]:
        time.sleep(len(proposals))
        with one_by_one:
            return score_proposals(worker, proposals=proposals, **sizes)

    class Four:
        def propose(self, pair: ModelPair, context: SearchContext) -> Sequence[Proposal]:
            about = "abcdefgh"[len(context.rounds)] * 9
            starts = ("Why is", "Translate into French:", "Write a poem on", "How many are")
            return [Proposal(f"{start} {about}", "four") for start in starts]

    monkeypatch.setattr(rounds_module, "SCORED_IN_UNIT", 1)
    monkeypatch.setattr(rounds_module, "score_proposals", slow_scores)
    profile = PROFILES["smoke"].model_copy(update={"full_score_share": 1.0, "search_length": 2})
    monkeypatch.setitem(PROFILES, "smoke", profile)

    first, again = twice_within("3s", tmp_path, Four(), AtOnce)

    assert first[1] >= 2 * 5, "a round and its four scores"
    assert again[0] >= first[0]
    assert again[1] <= 5, "seconds of units leave out what passes between them"


def test_a_budget_in_seconds_counts_what_an_earlier_session_took(tmp_path: Path) -> None:
    """Read back in an instant, the rounds would leave all of it to be spent again."""

    class Slow:
        def propose(self, pair: ModelPair, context: SearchContext) -> Sequence[Proposal]:
            time.sleep(1)
            return [Proposal(f"What is {len(context.rounds)}?", "slow")]

    first, again = twice_within("2s", tmp_path, Slow(), InProcess)

    assert first[0] == first[1] >= 1
    assert again[1] <= 1, "seconds of units leave out what passes between them"
