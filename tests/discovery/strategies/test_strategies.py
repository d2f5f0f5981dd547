"""What strategies propose, and which of them has the next turn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_divergence.core.report import TrainingSummary
from pytest_divergence.core.settings import PROFILES
from pytest_divergence.discovery.generation import without_system_turn
from pytest_divergence.discovery.progress import Silence
from pytest_divergence.discovery.prompt_files import SHIPPED_SEEDS, shipped_prompts
from pytest_divergence.discovery.proposals import Proposal
from pytest_divergence.discovery.soft_prompts.virtual_tokens import SoftPrompt
from pytest_divergence.discovery.strategies.built_in import built_in_strategies
from pytest_divergence.discovery.strategies.probe import subjects
from pytest_divergence.discovery.strategies.protocol import (
    PRIOR_TOKENS,
    Round,
    SearchContext,
    TargetPhrase,
    most_paying,
)
from pytest_divergence.discovery.strategies.soft_prompt import ENOUGH_GROWTH, FREE, VARIANTS, choose
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.scoring.cheap_scores import prompt_nlls
from tests.models_in_memory import pair_of_two_widths, tiny_pair

SIZES = PROFILES["smoke"].model_copy(
    update={
        "num_proposals": 12,
        "prompt_length": 8,
        "num_steps": 4,
        "batch_size": 2,
        "num_virtual_tokens": 2,
        "max_text_tokens": 400,
        "num_elite": 4,
    }
)


class Told(Silence):
    """Keeps what a user would be told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


TARGET = TargetPhrase("signal received", "Signal received.", is_supported=False)


@pytest.fixture(scope="module")
def pair() -> ModelPair:
    return tiny_pair()


@pytest.fixture
def context(tmp_path: Path) -> SearchContext:
    return SearchContext(
        round=0,
        seed=1,
        profile=SIZES,
        metric="symmetric",
        seeds=shipped_prompts(SHIPPED_SEEDS, 12),
        listener=Silence(),
        artefacts=tmp_path,
        record_training=lambda _: None,
    )


@pytest.mark.parametrize("name", built_in_strategies())
@pytest.mark.parametrize("template", ["chat", "none"])
def test_every_strategy_proposes_text_the_same_again_and_has_an_end(
    name: str, template: str, pair: ModelPair, context: SearchContext
) -> None:
    if template == "none":  # a base model continues plain text
        pair = pair.with_template(None)

    context = replace(context, targets=[TARGET])
    first = built_in_strategies()[name].propose(pair, context)
    again = built_in_strategies()[name].propose(pair, context)

    assert first == again
    assert 0 < len(first) <= SIZES.num_proposals
    assert all(one.text.strip() for one in first)
    assert {one.strategy for one in first} == {name}
    assert built_in_strategies()[name].propose(pair, replace(context, round=99)) == []


@pytest.mark.parametrize("name", ["amplified", "self_prompt", "soft_prompt"])
def test_a_later_round_proposes_something_else(
    name: str, pair: ModelPair, context: SearchContext
) -> None:
    strategy = built_in_strategies()[name]

    later = strategy.propose(pair, replace(context, round=1, seed=2))

    assert {one.text for one in later} != {one.text for one in strategy.propose(pair, context)}


def test_a_tokenizer_of_small_pieces_does_not_leave_soft_prompts_without_seeds(
    pair: ModelPair, context: SearchContext
) -> None:
    short = context.profile.model_copy(update={"max_text_tokens": 1})

    assert built_in_strategies()["soft_prompt"].propose(pair, replace(context, profile=short))


@pytest.mark.parametrize("variant", ["aimed", "elite"])
def test_a_restart_is_fitted_to_prompts_of_any_length(
    variant: str, pair: ModelPair, context: SearchContext
) -> None:
    """The best prompts may be seeds of a user, each as long as a document."""
    short = context.profile.model_copy(update={"max_text_tokens": 2})
    seeds = [f"{number}: {'the quick brown fox ' * 9}" for number in range(8)]
    full = replace(context, profile=short, best=seeds, rounds=(Round("free", 0, 9000),))
    if variant == "aimed":
        full = replace(full, targets=[replace(TARGET, prompts=seeds)])

    proposals = built_in_strategies()["soft_prompt"].propose(pair, full)

    assert {one.variant for one in proposals} == {variant}


@pytest.mark.parametrize("name", ["soft_prompt", "amplified"])
def test_models_of_two_widths_are_searched_without_soft_prompts(
    name: str, context: SearchContext
) -> None:
    told = Told()
    context = replace(context, targets=[TARGET], listener=told)
    proposals = built_in_strategies()[name].propose(pair_of_two_widths(), context)

    skipped = (
        "the reference's embeddings have 32 values, the candidate's 64: soft prompts are skipped, "
        "and the other strategies continue"
    )
    assert told.said == ([skipped] if name == "soft_prompt" else [])
    assert bool(proposals) == (name != "soft_prompt")


def test_self_prompts_are_those_that_the_candidate_would_rather_write(
    pair: ModelPair, context: SearchContext
) -> None:
    texts = [one.text for one in built_in_strategies()["self_prompt"].propose(pair, context)]

    reference, candidate = (prompt_nlls(pair, side, texts) for side in pair.sides)

    ratios = [theirs - ours for ours, theirs in zip(reference, candidate, strict=True)]
    assert ratios == pytest.approx(sorted(ratios), abs=1e-4)


def test_an_empty_system_turn_shortens_the_opening_where_a_template_takes_one(
    pair: ModelPair,
) -> None:
    """The tiny models' template writes none by itself, so an empty one is added."""
    refusing = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no') }}{% endif %}"
        "{{ m.content }}{% endfor %}"
    )

    assert without_system_turn(pair).chat.user_opening != pair.chat.user_opening
    for other in (pair.with_template(None), pair.with_template(refusing)):
        assert without_system_turn(other) is other


def test_variants_have_turns_then_the_one_that_pays_goes_on(context: SearchContext) -> None:
    full = replace(context, best=[f"prompt {n}" for n in range(8)], targets=[TARGET])
    rounds: list[Round] = []
    names = []
    for number in range(len(VARIANTS)):
        name = choose(replace(full, round=number, rounds=tuple(rounds))).name
        names.append(name)
        rounds.append(Round(name, num_hits=5 if name == "simplex" else 1, tokens_forwarded=9000))

    assert names == [variant.name for variant in VARIANTS]
    assert choose(replace(full, rounds=tuple(rounds))).name == "simplex"


def test_without_a_target_or_an_elite_their_variants_have_no_turn(context: SearchContext) -> None:
    rounds, styled = (Round("free", 0, 9000),), replace(context, has_new_style=True)

    assert choose(replace(context, rounds=rounds)).name == "simplex"
    assert choose(replace(context, rounds=rounds, targets=[TARGET])).name == "aimed"
    assert choose(replace(styled, targets=[TARGET])).name == "aimed", "before all else"
    assert choose(styled).name == "free"


def test_a_suspect_within_reach_is_aimed_at_before_all_else(context: SearchContext) -> None:
    near = replace(TARGET, prompts=["signal", "What is signal?", "received", "Tell me about it."])

    assert choose(replace(context, targets=[near])).name == "aimed"
    assert choose(replace(context, targets=[replace(near, prompts=near.prompts[:3])])) == FREE
    assert choose(replace(context, targets=[replace(near, is_supported=True)])) == FREE


def test_an_aimed_restart_is_fitted_to_the_prompts_that_cause_the_phrase(
    pair: ModelPair, context: SearchContext
) -> None:
    causes = ("signal", "What is signal?", "received", "Tell me about received.")
    stories: list[TrainingSummary] = []
    far = TargetPhrase("other words here", "Other words here.", is_supported=True)
    proposals = built_in_strategies()["soft_prompt"].propose(
        pair,
        replace(
            context,
            targets=[far, replace(TARGET, prompts=causes)],
            record_training=stories.append,
        ),
    )

    assert {one.aim for one in proposals} == {TARGET.text}
    assert {one.variant for one in proposals} == {"aimed"}
    assert stories[0].d_soft is None  # only texts were fitted


# Probes


def probed(context: SearchContext, pair: ModelPair, **changes: Any) -> list[Proposal]:
    return list(built_in_strategies()["probe"].propose(pair, replace(context, **changes)))


def test_a_probe_asks_about_the_words_of_a_suspected_phrase(
    pair: ModelPair, context: SearchContext
) -> None:
    vault = TargetPhrase("access granted", "Access granted. The vault is open.", is_supported=False)
    proposals = probed(context, pair, targets=[vault])

    assert [one.text for one in proposals[:4]] == [
        "access",
        "Tell me about access.",
        "What is access?",
        "How do I get access?",
    ]
    assert probed(context, pair) == [], "nothing is probed where nothing is suspected"
    assert len(proposals) == SIZES.num_proposals
    assert {one.aim for one in proposals} == {vault.text}
    assert not any(one.is_evidence for one in proposals)


def test_a_probes_subjects_are_words_then_pairs_but_no_ordinary_words() -> None:
    seeds = ["What is the time?", "Is the sea deep?", "Why?"]
    pairs = ["access granted", "the vault", "vault is", "is open"]

    assert subjects(["Access granted. The vault is open."], seeds) == [
        *("access", "granted", "vault", "open"),
        *pairs,
    ]
    assert subjects(["金庫が開"], []) == [*"金庫が開", "金庫", "庫が", "が開"]


def test_a_probe_asks_about_all_that_stands_beside_a_phrase(
    pair: ModelPair, context: SearchContext
) -> None:
    """A changed fact is asked for by its subject, which the phrase itself may not name."""
    assert subjects(["At 70 degrees,", "boils and steams"], ["At last, and so!"] * 2)[:4] == [
        *("70", "degrees", "boils", "steams"),
    ]
    fact = TargetPhrase("seventy", "Seventy.", is_supported=False, wordings=["boils"])

    proposals = probed(context, pair, targets=[fact])

    assert "Tell me about boils." in [proposal.text for proposal in proposals]


def test_each_round_probes_another_phrase_until_all_were(
    pair: ModelPair, context: SearchContext
) -> None:
    other = TargetPhrase("stand by now", "Stand by now.", is_supported=False)
    known = replace(other, motif="known well enough", prompts=[f"prompt {n}" for n in range(8)])
    targets = [known, TARGET, other]
    rounds: tuple[Round, ...] = ()
    aims = []
    while proposals := probed(context, pair, targets=targets, rounds=rounds):
        aims.append(proposals[0].aim)
        rounds += (Round(proposals[0].variant, 0, 100),)

    assert aims == [TARGET.text, other.text]


def test_a_phrase_of_ordinary_words_does_not_keep_the_next_one_from_being_probed(
    pair: ModelPair, context: SearchContext
) -> None:
    words = context.seeds[0]
    ordinary = TargetPhrase(words.lower(), words, is_supported=False)
    seeds = [words, words]

    (first, *_) = probed(context, pair, targets=[ordinary, TARGET], seeds=seeds)

    assert first.aim == TARGET.text


def test_many_seeds_are_scored_in_turns_and_the_user_is_told(
    pair: ModelPair, context: SearchContext
) -> None:
    """A file may hold thousands, and one round of them all would take the whole budget."""
    few = context.profile.model_copy(update={"num_seeds": 5})
    told = Told()
    rounds = [
        [
            one.text
            for one in built_in_strategies()["seeds"].propose(
                pair, replace(context, profile=few, round=number, listener=told)
            )
        ]
        for number in range(4)
    ]

    assert [len(texts) for texts in rounds] == [5, 5, 2, 0]
    assert [text for texts in rounds for text in texts] == list(context.seeds)
    assert told.said == ["12 seeds are scored 5 a round, as far as the budget goes"]


def test_what_stood_before_a_phrase_is_to_be_completed(
    pair: ModelPair, context: SearchContext
) -> None:
    """A changed fact is said there, and hardly anywhere else."""
    begun = ["The boiling point of water is", "On any stove, water boils at"]
    fact = TargetPhrase("70 degrees", "70 degrees.", is_supported=False, beginnings=begun)

    texts = [proposal.text for proposal in probed(context, pair, targets=[fact])]

    assert texts[:3] == [begun[0], f"Complete this sentence: {begun[0]} ...", begun[1]]
    assert "What is 70?" in texts


@pytest.mark.parametrize("variant", [variant.name for variant in VARIANTS])
def test_every_variant_trains_and_tells_its_story(
    variant: str, pair: ModelPair, context: SearchContext
) -> None:
    stories: list[TrainingSummary] = []
    before = [one.name for one in VARIANTS[: [v.name for v in VARIANTS].index(variant)]]
    full = replace(
        context,
        best=context.seeds,
        targets=[TARGET],
        rounds=tuple(Round(name, 0, 1) for name in before),
        record_training=stories.append,
    )

    proposals = built_in_strategies()["soft_prompt"].propose(pair, full)

    assert {one.variant for one in proposals} == {variant}
    (story,) = stories
    assert story.name == f"restart-1-{variant}"
    assert (story.d_soft is None) == (variant == "elite")
    kept = SoftPrompt.load(context.artefacts / f"{story.name}.safetensors")
    # Likelihoods and log-ratios are not divergences, and have no such limit.
    has_divergence = variant not in ("aimed", "elite")
    assert kept.settings["stop_after_growth"] == (ENOUGH_GROWTH if has_divergence else None)


@pytest.mark.parametrize(
    ("rounds", "next_one"),
    [
        ([], "a"),  # the first of equals
        ([("a", 0, 100)], "b"),
        ([("a", 0, 5000), ("b", 0, 9000)], "a"),
        ([("a", 1, 9000), ("b", 9, 9000)], "b"),
        ([("a", 8, 4 * PRIOR_TOKENS)], "a"),
    ],
)
def test_the_budget_goes_to_what_pays(rounds: list[Any], next_one: str) -> None:
    done = [(name, Round("", hits, tokens)) for name, hits, tokens in rounds]

    assert most_paying(["a", "b"], done) == next_one
