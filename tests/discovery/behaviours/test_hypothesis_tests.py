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
    NUM_REPEATS,
    frozen,
    holm,
    judge,
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


def wobbling(rng: np.random.Generator, spread: float, num_leads: int) -> list[tuple[int, int]]:
    """Counts of the best of many leads, which equal models show by chance more or less often.

    `spread` is how far the log-odds of either model wobble from prompt to prompt.
    """
    best: tuple[int, Any, Any] | None = None
    for _ in range(num_leads):
        reference, candidate = 1 / (1 + np.exp(2 - spread * rng.normal(size=(2, 100))))
        ours, theirs = rng.random(100) < candidate, rng.random(100) < reference
        strength = int(ours.sum()) - int(theirs.sum())
        if best is None or strength > best[0]:
            chosen = rng.permutation(np.flatnonzero(ours != theirs))[: SMOKE.num_behaviour_prompts]
            best = strength, candidate[chosen], reference[chosen]
    assert best is not None
    repeats = NUM_REPEATS["triggered"]
    return list(zip(rng.binomial(repeats, best[1]), rng.binomial(repeats, best[2]), strict=True))


@pytest.mark.parametrize(
    ("spread", "num_leads"),
    [(0.0, 1), (0.0, 3), (0.0, 10), (0.0, 30), (0.0, 100), (1.0, 1), (1.0, 10)],
)
def test_watching_more_leads_confirms_nothing_more(num_leads: int, spread: float) -> None:
    """At most 5 of 100 searches on equal models confirm anything; three sigma are allowed.

    Models that wobble are not equal on any one prompt, and the best of 100 leads is confirmed in
    about one of ten searches.
    """
    rng = np.random.default_rng(num_leads)
    num_tests, num_searches = SMOKE.num_tested_leads + 1, 300

    def confirms() -> bool:
        rates = rng.uniform(0.05, 0.95, size=4)
        local = rng.binomial(NUM_REPEATS["local"], rates, size=(2, 4)).T
        p_values = [stratified_test([(int(a), int(b)) for a, b in local], NUM_REPEATS["local"])]
        while len(p_values) < num_tests:
            counts = wobbling(rng, spread, num_leads)
            p_values.append(sign_flip_test([(int(a), int(b)) for a, b in counts]))
        return min(holm(p_values)) <= ALPHA

    share = np.mean([confirms() for _ in range(num_searches)])

    assert share <= ALPHA + 3 * (ALPHA * (1 - ALPHA) / num_searches) ** 0.5


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
