"""Few leads and one decoy are tested once each, on fresh answers, with one error rate for all."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import fisher_exact

from pytest_divergence.core.settings import PROFILES, Profile, Settings
from pytest_divergence.discovery.behaviours.answers import AnsweredPrompt, AnsweredPrompts
from pytest_divergence.discovery.behaviours.counts import sign_test
from pytest_divergence.discovery.behaviours.hypotheses import Hypothesis
from pytest_divergence.discovery.behaviours.hypothesis_tests import (
    ALPHA,
    MIN_TRIGGERED,
    NUM_REPEATS,
    frozen,
    holm,
    judge,
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


def any_confirmed(num_leads: int, rng: np.random.Generator, profile: Profile) -> bool:
    """One search on two equal models: many leads are watched, and the best are tested."""
    watched = rng.binomial(40, 0.15, size=num_leads) - rng.binomial(40, 0.15, size=num_leads)
    tested = sorted(watched, reverse=True)[: profile.num_tested_leads]
    p_values = []
    for strength in [*tested, max(watched)]:  # the last is the decoy
        if strength >= MIN_TRIGGERED or rng.random() < 0.5:
            rate = rng.uniform(0.2, 0.8)
            shown = rng.binomial(profile.num_behaviour_prompts, rate)
            ours = rng.binomial(shown, 0.5)
            p_values.append(sign_test(int(ours), int(shown - ours)))
        else:
            rates = rng.uniform(0.05, 0.95, size=4)
            shown_by_both = rng.binomial(NUM_REPEATS, rates, size=(2, 4)).T
            counts = [(int(ours), int(theirs)) for ours, theirs in shown_by_both]
            p_values.append(stratified_test(counts, NUM_REPEATS))
    return min(holm(p_values)) <= ALPHA


@pytest.mark.parametrize("num_leads", [1, 3, 10, 30, 100])
def test_watching_more_leads_confirms_nothing_more(num_leads: int) -> None:
    """Of 1,000 searches on equal models at most 5 in 100 confirm anything (3 sigma allowed)."""
    rng = np.random.default_rng(num_leads)

    share = np.mean([any_confirmed(num_leads, rng, SMOKE) for _ in range(1000)])

    assert share <= ALPHA + 3 * (ALPHA * (1 - ALPHA) / 1000) ** 0.5


@pytest.mark.parametrize(
    ("candidate", "reference", "p_value"), [(0, 0, 1.0), (6, 0, 0.5**6), (1, 1, 0.75)]
)
def test_the_sign_test_is_binomial(candidate: int, reference: int, p_value: float) -> None:
    assert sign_test(candidate, reference) == pytest.approx(p_value)
