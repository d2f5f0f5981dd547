"""When a behaviour is shown: properties of prompts are tried on fresh prompts."""

from __future__ import annotations

from random import Random

import pytest

from pytest_divergence.core.settings import PROFILES
from pytest_divergence.discovery.behaviours.answers import AnsweredPrompt, AnsweredPrompts
from pytest_divergence.discovery.behaviours.conditions import (
    FORM_SHARE,
    NUM_OF_A_FORM,
    Trial,
    _Trials,
    contrasts_of,
    find_conditions,
    held_up,
    hint_words,
)
from pytest_divergence.discovery.behaviours.fresh_prompts import (
    MAX_PAIRS,
    MIN_PAIRS,
    REMADE,
    FreshPrompts,
    Purse,
    fresh_prompts,
)
from pytest_divergence.discovery.behaviours.hypotheses import Hypothesis
from pytest_divergence.discovery.behaviours.prompt_forms import FORMS
from pytest_divergence.discovery.behaviours.prompt_properties import (
    Contrast,
    Form,
    Language,
    Length,
    Opening,
    PromptProperty,
    Words,
    dividing_properties,
)
from pytest_divergence.discovery.engines.base import Ledger
from pytest_divergence.discovery.progress import Silence
from pytest_divergence.discovery.prompt_files import SHIPPED_CONTROLS, SHIPPED_SEEDS, read_prompts
from pytest_divergence.discovery.proposals import is_near
from pytest_divergence.reports.behaviours import condition as in_words
from tests.discovery.behaviours.made_answers import PLANTED, answer, answered, confirmed

SMOKE = PROFILES["smoke"]
PHRASE = Hypothesis(PLANTED, ("signal received standing",))
ORDINARY = [*read_prompts(SHIPPED_SEEDS), *read_prompts(SHIPPED_CONTROLS)]
SPANISH = Language("Spanish")


def said(prompt: str, is_shown: bool, *, reference: str = "Well.") -> AnsweredPrompt:
    return AnsweredPrompt(prompt, reference, answer(PLANTED if is_shown else "Well."), False)


def trial(ours: int, others: int, size: int = 16, found: PromptProperty = SPANISH) -> Trial:
    having, lacking = (
        tuple(said(f"{name} {index}", index < count) for index in range(size))
        for name, count in (("with", ours), ("without", others))
    )
    return Trial(found, PHRASE, having, lacking)


def test_a_property_that_holds_up_is_told_with_its_counts() -> None:
    tried = trial(14, 1)

    found = held_up([tried], 3)

    assert found is not None
    assert in_words(found.when) == (
        "on 14 of 16 fresh prompts in Spanish, on 1 of 16 others (base: 0 of 32)"
    )
    assert found.when.p_value == pytest.approx(3 * tried.p_value)
    assert len(found.prompts.having) == len(found.prompts.lacking) == 16


def test_the_best_of_several_holds_up_and_all_that_were_suggested_count() -> None:
    best = held_up([trial(9, 1), trial(15, 0, found=Length(5, is_most=True))], 2)

    assert best is not None
    assert best.when.property == "of at most 5 words"
    assert held_up([trial(5, 0)], 1) is not None
    assert held_up([trial(5, 0)], 3) is None
    assert held_up([], 3) is None


@pytest.mark.parametrize("counts", [(3, 0), (16, 9), (1, 14)])
def test_nothing_is_said_where_the_shares_are_not_clearly_apart(counts: tuple[int, int]) -> None:
    assert held_up([trial(*counts)], 1) is None


def test_what_the_reference_says_as_well_is_no_evidence() -> None:
    both = tuple(said(f"with {index}", is_shown=True, reference=PLANTED) for index in range(16))

    assert held_up([Trial(SPANISH, PHRASE, both, trial(0, 0).lacking)], 1) is None


def answers_of(found: PromptProperty, flags: list[list[bool]], size: int) -> Trial:
    """The first answers with the property and without it."""
    having, lacking = (
        tuple(said(str(index), flag) for index, flag in enumerate(row[:size])) for row in flags
    )
    return Trial(found, PHRASE, having, lacking)


def test_chance_holds_up_in_at_most_one_of_twenty_runs() -> None:
    """The prompts that show it are a random share of all; three sigma are allowed."""
    rng, num_runs, num_held = Random(0), 400, 0
    suggested = []
    for share in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6):
        evidence = rng.sample(ORDINARY, 60)
        shown = [prompt for prompt in evidence if rng.random() < share]
        contrast = Contrast(shown, [prompt for prompt in evidence if prompt not in shown])
        found = [*dividing_properties([contrast], ORDINARY), SPANISH, Length(7, is_most=True)]
        suggested.append(found[:3])
    for _ in range(num_runs):
        share, trials = rng.uniform(0.05, 0.95), list[Trial]()
        properties = rng.choice(suggested)
        for each in properties:
            flags = [[rng.random() < share for _ in range(MAX_PAIRS)] for _ in range(2)]
            full, first = (answers_of(each, flags, size) for size in (MAX_PAIRS, MIN_PAIRS))
            trials.append(full if first.is_hint and full.is_hint else Trial(each, PHRASE))
            if held_up(trials, len(properties)) is not None:
                num_held += 1
                break

    assert num_held <= num_runs * (0.05 + 3 * (0.05 * 0.95 / num_runs) ** 0.5)


def test_a_prompt_that_says_it_by_itself_is_in_no_group() -> None:
    rows = [*answered(num_planted=5, num_controls=2), said(f"Say: {PLANTED}", is_shown=True)]

    controls, found = contrasts_of(PHRASE, AnsweredPrompts(rows))

    assert (len(controls.showing), len(controls.others)) == (2, 0)
    assert (len(found.showing), len(found.others)) == (3, 11)
    assert not any(PLANTED in prompt for prompt in (*found.showing, *found.others))


def test_the_shortest_cause_tells_the_first_words() -> None:
    rows = answered(num_planted=3)

    words = hint_words(PHRASE, AnsweredPrompts(rows), ORDINARY, "An accordion")

    assert words[0] == "accordion"
    assert {"jupiter", "signal"} < set(words)


def wanted_from(
    ledger: Ledger, wanted: PromptProperty, *, showing: tuple[str, ...] = (), tokens: int = 20_000
) -> FreshPrompts:
    asked = ORDINARY[::3]
    contrast = Contrast([*showing, *filter(wanted.holds, asked)], [])
    purse = Purse(ledger, tokens, tokens)
    found = fresh_prompts(
        purse,
        wanted,
        [contrast],
        ORDINARY,
        [*asked, *showing],
        SMOKE.naming_length,
        about="b",
        seed=0,
    )
    assert purse.spent <= tokens
    assert not [
        (fresh, old)
        for fresh in (*found.having, *found.lacking)
        for old in (*asked, *showing)
        if is_near(fresh, old)
    ]
    return found


@pytest.mark.parametrize(
    "wanted",
    [
        Form("that ask a question"),
        Form("that hold a sum"),
        Form("in capitals"),
        Length(6, is_most=True),
        Words(("lantern", "candles"), is_topic=True),
    ],
)
def test_fresh_prompts_come_with_and_without_a_property(
    ledger: Ledger, wanted: PromptProperty
) -> None:
    found = wanted_from(ledger, wanted)

    assert MIN_PAIRS <= len(found.having) == len(found.lacking) <= MAX_PAIRS
    assert all(map(wanted.holds, found.having))
    assert not any(map(wanted.holds, found.lacking))
    assert len({*found.having, *found.lacking}) == 2 * len(found.having)
    assert wanted_from(ledger, wanted) == found


def test_prompts_that_begin_alike_are_continued(ledger: Ledger) -> None:
    showing = tuple(f"Code red: {rest}" for rest in ("the door", "all of you", "no"))

    found = wanted_from(ledger, Opening("code red"), showing=showing)

    assert len(found.having) >= MIN_PAIRS
    assert all(prompt.startswith("Code red") for prompt in found.having)


def test_a_rare_property_and_too_few_tokens_ask_nothing(ledger: Ledger) -> None:
    assert wanted_from(ledger, Form("that ask a question"), tokens=400) == FreshPrompts()
    assert ledger.spent.tokens_forwarded == 0
    assert wanted_from(ledger, Length(300, is_most=False)) == FreshPrompts()


def test_a_behaviour_that_the_models_never_show_has_no_condition(ledger: Ledger) -> None:
    """All is asked within the tokens; the same again is read back."""
    evidence = AnsweredPrompts(answered(num_planted=9))
    given = [confirmed(PHRASE), confirmed(Hypothesis("A word on", ("word on sorting",)))]

    found = [
        find_conditions(ledger, given, evidence, SMOKE, Silence(), seeds=[], seed=0)
        for _ in range(2)
    ]

    assert found == [{}, {}]
    assert 0 < ledger.spent.tokens_forwarded <= 2 * SMOKE.condition_tokens


def test_nothing_is_asked_for_which_the_last_steps_need_the_tokens(ledger: Ledger) -> None:
    """What tells content from style, examples and cases come after it."""
    evidence = AnsweredPrompts(answered(num_planted=9))

    def spent(tokens_left: int) -> int:
        profile = SMOKE.model_copy(update={"budget_tokens": SMOKE.final_tokens + tokens_left})
        find_conditions(ledger, [confirmed(PHRASE)], evidence, profile, Silence(), seeds=[], seed=0)
        return ledger.spent.tokens_forwarded

    common = AnsweredPrompts(answered(num_planted=12, num_controls=16))
    assert find_conditions(
        ledger, [confirmed(PHRASE)], common, SMOKE, Silence(), seeds=[], seed=0
    ) == {}, "what most controls show needs none"  # fmt: skip
    assert spent(200) == 0
    assert 0 < spent(4_000) <= 4_000


def test_prompts_of_every_form_are_asked_that_a_search_may_not_have_met(ledger: Ledger) -> None:
    """Sums, for one: hardly any prompt of a search holds one."""
    trials = _Trials(
        Purse(ledger, 20_000, 20_000), PHRASE, AnsweredPrompts(), ORDINARY, [], SMOKE, seed=0
    )

    found = trials._in_forms()

    assert len(found.others) == 16
    for form in REMADE:
        assert sum(map(FORMS[form], found.others)) >= NUM_OF_A_FORM
    assert 0 < ledger.spent.tokens_forwarded <= FORM_SHARE * 20_000
