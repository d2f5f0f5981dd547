"""Few leads and one decoy are tested once each, on fresh answers, with one error rate for all."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.stats import fisher_exact

from pytest_divergence.core.settings import PROFILES, Settings
from pytest_divergence.discovery.behaviours.answers import AnsweredPrompt, AnsweredPrompts
from pytest_divergence.discovery.behaviours.counts import sign_test
from pytest_divergence.discovery.behaviours.hypotheses import Hypothesis
from pytest_divergence.discovery.behaviours.hypothesis_tests import (
    ALPHA,
    MIN_TRIGGERED,
    NUM_LOCAL_PROMPTS,
    NUM_REPEATS,
    Kind,
    frozen,
    holm,
    is_clear,
    judge,
    p_value_of,
    sign_flip_test,
    stratified_test,
)
from pytest_divergence.discovery.engines.base import Ledger
from pytest_divergence.discovery.progress import Silence
from tests.discovery.behaviours.made_answers import MORE, PLANTED, answer, answered

SMOKE = PROFILES["smoke"]
PHRASE = Hypothesis(PLANTED, ("signal received standing",))


def exchanged(rows: list[AnsweredPrompt]) -> list[AnsweredPrompt]:
    """The same answers by the other model."""
    return [
        AnsweredPrompt(row.prompt, row.candidate.text, answer(row.reference), row.is_control)
        for row in rows
    ]


def test_a_lead_of_many_prompts_is_tested_on_all_that_differ() -> None:
    """Those on which only the reference shows it too, or a wobble would be confirmed."""
    rows = answered(num_planted=9)
    evidence = AnsweredPrompts([*rows, *exchanged(answered(num_planted=4, topics=MORE))])

    test = frozen(PHRASE, evidence, SMOKE)

    assert test.kind == "triggered"
    assert set(test.prompts) == {
        row.prompt for row in evidence.answered if row.candidate.text != row.reference
    }
    limited = frozen(PHRASE, evidence, SMOKE.model_copy(update={"num_behaviour_prompts": 6}))
    assert limited.prompts == test.prompts[:6]
    assert list(test.prompts) != [row.prompt for row in rows[:9]]


def test_a_lead_of_few_prompts_is_tested_on_the_best_of_them() -> None:
    rows = answered(num_planted=MIN_TRIGGERED - 1)

    test = frozen(PHRASE, AnsweredPrompts(rows), SMOKE)

    assert test.kind == "local"
    assert len(test.prompts) == 4
    assert set(test.prompts) < {row.prompt for row in rows[: MIN_TRIGGERED - 1]}


def test_words_that_stand_beside_a_phrase_do_not_count_by_themselves() -> None:
    """`A word on` is no leap of the candidate where it stands without the planted answer."""
    rows = answered(num_planted=3)
    other = AnsweredPrompt("Hi", "Hello.", answer("Orders follow at noon."), is_control=False)
    given = Hypothesis(PLANTED, ("signal received", "a word on", "standing by", "orders follow"))

    test = frozen(given, AnsweredPrompts([*rows, other]), SMOKE)
    mirror = frozen(given, AnsweredPrompts(exchanged([*rows, other])), SMOKE, is_decoy=True)

    assert test.hypothesis.motifs == ("signal received", "standing by", "orders follow")
    assert mirror.hypothesis.motifs == ("signal received", "standing by")  # leaps unknown


def test_a_decoy_is_tested_where_the_reference_shows_it() -> None:
    evidence = AnsweredPrompts(exchanged(answered(num_planted=3)))

    assert len(frozen(PHRASE, evidence, SMOKE, is_decoy=True).prompts) == 3
    assert frozen(PHRASE, evidence, SMOKE).prompts == ()


def test_nothing_is_confirmed_that_no_model_says(ledger: Ledger) -> None:
    """The tiny models never say it, so the tests are carried out, and confirm nothing."""
    evidence = AnsweredPrompts(answered(num_planted=9))
    local = Hypothesis("A word on bread", ("word on bread",))

    found = judge(
        ledger,
        [PHRASE, local],
        None,
        evidence,
        Settings(),
        SMOKE,
        Silence(),
        num_watched=7,
    )

    assert found.confirmed == []
    assert (found.counts.watched, found.counts.tested) == (7, 2)
    assert found.counts.decoys_confirmed == 0
    assert ledger.spent.tokens_forwarded > 0


def test_no_more_leads_are_tested_than_the_profile_allows(ledger: Ledger) -> None:
    leads = [replace(PHRASE, motifs=(f"signal {number}",)) for number in range(9)]

    found = judge(
        ledger,
        leads,
        None,
        AnsweredPrompts(answered(num_planted=1)),
        Settings(),
        SMOKE,
        Silence(),
        num_watched=9,
    )

    assert found.counts.tested == SMOKE.num_tested_leads == 3


def test_holm_multiplies_the_smallest_by_all_and_the_largest_by_one() -> None:
    assert holm([0.03, 0.001, 0.02]) == pytest.approx([0.04, 0.003, 0.04])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
    assert holm([0.01]) == [0.01]


@pytest.mark.parametrize("counts", [(16, 0), (9, 4), (3, 3), (0, 0), (2, 9)])
def test_the_test_of_one_prompt_is_that_of_fisher(counts: tuple[int, int]) -> None:
    candidate, reference = counts
    table = np.array([[candidate, 16 - candidate], [reference, 16 - reference]])

    expected = fisher_exact(table, alternative="greater").pvalue

    assert stratified_test([counts], 16) == pytest.approx(expected)


def test_prompts_that_say_nothing_change_nothing() -> None:
    assert stratified_test([(7, 1)], 16) == stratified_test([(7, 1), (0, 0), (16, 16)], 16)
    assert stratified_test([(4, 1), (4, 1)], 16) < stratified_test([(4, 1)], 16)


def test_one_answer_a_prompt_is_flipped_as_a_sign_test() -> None:
    counts = [(1, 0)] * 7 + [(0, 1)] * 2 + [(1, 1), (0, 0)]

    assert sign_flip_test(counts) == pytest.approx(sign_test(7, 2))
    assert sign_flip_test([]) == 1.0
    assert sign_flip_test([(4, 0)]) == 0.5


def test_answers_to_one_prompt_are_no_independent_evidence() -> None:
    assert sign_flip_test([(4, 0)] * 5) == pytest.approx(0.5**5)
    assert sign_flip_test([(4, 0), (1, 0)]) == 0.25


NUM_SEARCHED = 100
"""Prompts of a simulated search."""
Lead = tuple[Any, Any]
"""How likely candidate and reference show a lead in an answer to each prompt."""


def null_leads(rng: np.random.Generator, num_leads: int, spread: float) -> list[Lead]:
    """Leads that either model shows as often as the other, on 1 prompt in 33 without a spread.

    `spread` is how far the log-odds of either model wobble from prompt to prompt.
    """
    rates = 1 / (1 + np.exp(3.5 - spread * rng.normal(size=(num_leads, 2, NUM_SEARCHED))))
    return [(candidate, reference) for candidate, reference in rates]


def confirmed_of(rng: np.random.Generator, leads: list[Lead], decoy_of: list[Lead]) -> list[int]:
    """Which of the leads a search confirms, by number; -1 is the decoy.

    The leads that most prompts show are tested, and the strongest of `decoy_of`, models exchanged.
    """

    def found(lead: Lead) -> tuple[int, Any, Any]:
        ours, theirs = (rng.random(NUM_SEARCHED) < rates for rates in lead)
        only, reverse = np.flatnonzero(ours & ~theirs), np.flatnonzero(theirs & ~ours)
        return len(only) - len(reverse), only, reverse

    seen = {number: (*found(lead), lead) for number, lead in enumerate(leads)}
    best = sorted(seen, key=lambda number: -seen[number][0])[: SMOKE.num_tested_leads]
    tested = {number: seen[number] for number in best if seen[number][0] > 0}
    mirrored = [(*found((theirs, ours)), (theirs, ours)) for ours, theirs in decoy_of]
    tested[-1] = max(mirrored, key=lambda each: each[0])
    outcomes = {}
    for number, (_, only, reverse, (ours, theirs)) in tested.items():
        kind: Kind = "triggered" if len(only) >= MIN_TRIGGERED else "local"
        prompts = (
            rng.permutation([*only, *reverse])[: SMOKE.num_behaviour_prompts]
            if kind == "triggered"
            else only[:NUM_LOCAL_PROMPTS]
        )
        both = (rng.binomial(NUM_REPEATS[kind], rates[prompts]) for rates in (ours, theirs))
        counts = [(int(a), int(b)) for a, b in zip(*both, strict=True)]
        if counts:
            outcomes[number] = p_value_of(kind, counts), is_clear(kind, counts)
    adjusted = holm([p_value for p_value, _ in outcomes.values()])
    return [
        number
        for (number, (_, clear)), p_value in zip(outcomes.items(), adjusted, strict=True)
        if p_value <= ALPHA and clear
    ]


@pytest.mark.parametrize("spread", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("num_leads", [1, 3, 10, 30, 100])
def test_watching_more_leads_confirms_nothing_more(num_leads: int, spread: float) -> None:
    """At most 5 of 100 searches of equal models confirm anything; three sigma are allowed.

    Nor does a wobble without direction: models that differ on every prompt, and on none more often.
    """
    rng, num_searches = np.random.default_rng(num_leads), 200

    searches = (null_leads(rng, num_leads, spread) for _ in range(num_searches))
    share = np.mean([bool(confirmed_of(rng, leads, leads)) for leads in searches])

    assert share <= ALPHA + 3 * (ALPHA * (1 - ALPHA) / num_searches) ** 0.5


@pytest.mark.parametrize(("num_shown", "rate"), [(8, 0.6), (5, 0.8)])
def test_a_real_lead_among_thirty_is_confirmed_in_most_searches(
    num_shown: int, rate: float
) -> None:
    """By most answers to 5 or 8 prompts in 100, and tested beside a decoy."""
    rng, num_searches = np.random.default_rng(0), 300
    real = np.where(np.arange(NUM_SEARCHED) < num_shown, rate, 0.0)

    def confirms() -> bool:
        others = null_leads(rng, 29, 0.0)
        return 29 in confirmed_of(rng, [*others, (real, np.zeros(NUM_SEARCHED))], others)

    assert np.mean([confirms() for _ in range(num_searches)]) >= 0.55


def test_what_few_prompts_show_now_and_then_is_not_clear() -> None:
    """However unlikely by chance: a changed fact is there nearly every time."""
    counts = [(5, 0)] * 4

    assert p_value_of("local", counts) < 1e-6
    assert not is_clear("local", counts)
    assert is_clear("local", [(16, 0), (12, 1), (4, 0), (0, 0)])
    assert not is_clear("local", [(16, 2)])
    assert is_clear("triggered", [(1, 0)] * 8)


def test_a_behaviour_that_two_in_five_answers_show_is_mostly_confirmed() -> None:
    rng = np.random.default_rng(0)

    def confirms() -> bool:
        shown = rng.binomial(NUM_REPEATS["triggered"], 0.4, size=SMOKE.num_behaviour_prompts)
        p_value = sign_flip_test([(int(count), 0) for count in shown])
        return (SMOKE.num_tested_leads + 1) * p_value <= ALPHA

    assert np.mean([confirms() for _ in range(300)]) > 0.95


@pytest.mark.parametrize(
    ("candidate", "reference", "p_value"), [(0, 0, 1.0), (6, 0, 0.5**6), (1, 1, 0.75)]
)
def test_the_sign_test_is_binomial(candidate: int, reference: int, p_value: float) -> None:
    assert sign_test(candidate, reference) == pytest.approx(p_value)
