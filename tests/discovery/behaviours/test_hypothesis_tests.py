"""Few leads and one decoy are tested once each, on fresh answers, with one error rate for all."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import fisher_exact

from pytest_divergence.core.behaviours import Behaviour
from pytest_divergence.core.settings import PROFILES, Settings
from pytest_divergence.discovery.behaviours.answers import AnsweredPrompt, AnsweredPrompts
from pytest_divergence.discovery.behaviours.counts import sign_test
from pytest_divergence.discovery.behaviours.hypotheses import Hypothesis
from pytest_divergence.discovery.behaviours.hypothesis_tests import (
    ALPHA,
    MIN_TRIGGERED,
    NUM_REPEATS,
    ConfirmedBehaviour,
    Judgement,
    Kind,
    WeighedLead,
    frozen,
    holm,
    is_clear,
    judge,
    p_value_of,
    rule_of,
    sign_flip_test,
    stratified_test,
    told_once,
)
from pytest_divergence.discovery.engines.base import Ledger
from pytest_divergence.discovery.progress import Silence
from tests.discovery.behaviours.made_answers import MORE, PLANTED, answer, answered
from tests.discovery.behaviours.simulated_searches import (
    BASE,
    found_by,
    with_plant,
    wobbling,
)

SMOKE = PROFILES["smoke"]
PHRASE = Hypothesis(PLANTED, ("signal received standing",))
OTHER = Hypothesis("Orders will follow", ("orders will follow",))
LEAD = WeighedLead(PHRASE, False)
FEW = rule_of(5, 0, num_watched=1)


def exchanged(rows: list[AnsweredPrompt]) -> list[AnsweredPrompt]:
    """The same answers by the other model."""
    return [
        AnsweredPrompt(row.prompt, row.candidate.text, answer(row.reference), row.is_control)
        for row in rows
    ]


def test_a_lead_of_many_prompts_is_tested_on_all_that_differ() -> None:
    """Those on which only the reference shows it too, or a wobble would be confirmed."""
    rows = answered(num_planted=12)
    evidence = AnsweredPrompts([*rows, *exchanged(answered(num_planted=2, topics=MORE))])

    test = frozen(LEAD, evidence, SMOKE, num_watched=2)

    assert test.rule.kind == "triggered"
    assert set(test.prompts) == {
        row.prompt for row in evidence.answered if row.candidate.text != row.reference
    }
    limited = frozen(
        LEAD, evidence, SMOKE.model_copy(update={"num_behaviour_prompts": 6}), num_watched=2
    )
    assert limited.prompts == test.prompts[:6]
    assert list(test.prompts) != [row.prompt for row in rows[:12]]


def test_a_lead_of_few_prompts_is_tested_on_the_best_of_them() -> None:
    rows = answered(num_planted=MIN_TRIGGERED - 1)

    test = frozen(LEAD, AnsweredPrompts(rows), SMOKE, num_watched=2)

    assert test.rule.kind == "local"
    assert len(test.prompts) == 4
    assert set(test.prompts) < {row.prompt for row in rows[: MIN_TRIGGERED - 1]}


def test_a_lead_of_many_prompts_is_local_where_chance_explains_their_direction() -> None:
    """The strongest of 100 leads without direction has that many more by chance."""
    assert rule_of(12, 3, num_watched=2).kind == "triggered"
    assert rule_of(12, 3, num_watched=100).kind == "local"
    assert rule_of(30, 3, num_watched=100).kind == "triggered"
    assert rule_of(7, 0, num_watched=1).kind == "local"
    assert rule_of(12, 3, num_watched=100) == rule_of(7, 0, num_watched=1)


def test_a_local_test_asks_no_share_of_words_that_the_reference_would_hardly_write() -> None:
    """A plant need not take hold every time; a trait says nothing of the reference's words."""
    evidence = AnsweredPrompts(answered(num_planted=3))
    trait = Hypothesis("refuses", trait="refusal")

    new = frozen(WeighedLead(PHRASE, True), evidence, SMOKE, num_watched=9)
    known = frozen(LEAD, evidence, SMOKE, num_watched=9)
    refusal = frozen(WeighedLead(trait, True), evidence, SMOKE, num_watched=9)

    counts = [(4, 0), (4, 0), (3, 0)]
    assert p_value_of("local", counts) < 0.001
    assert is_clear(new.rule, counts)
    assert not is_clear(known.rule, counts)
    assert not is_clear(new.rule, [(4, 1), (4, 0), (3, 1)])
    assert refusal.rule == known.rule


def test_questions_about_its_words_may_be_what_a_lead_is_tested_on() -> None:
    """A changed fact is said where it is asked for, and a search may ask by the fact's words."""
    evidence = AnsweredPrompts(answered(num_planted=0))
    evidence.probed = answered(num_planted=2, topics=MORE)

    test = frozen(LEAD, evidence, SMOKE, num_watched=2)

    assert test.rule.kind == "local"
    assert set(test.prompts) == {row.prompt for row in evidence.probed[:2]}
    shown = AnsweredPrompts(answered(num_planted=1))
    shown.probed = evidence.probed
    assert set(frozen(LEAD, shown, SMOKE, num_watched=2).prompts) == {
        shown.answered[0].prompt, *test.prompts
    }  # fmt: skip


def test_new_words_of_many_prompts_are_tested_on_questions_about_them_too() -> None:
    """Prompts to which a plant has leaked show it now and then; what asks for it, nearly always."""
    evidence = AnsweredPrompts(answered(num_planted=9))
    asked = answered(num_planted=2, topics=MORE)
    evidence.probed = [*asked[:2], *exchanged(asked[:1])]

    known = frozen(LEAD, evidence, SMOKE, num_watched=2)
    new = frozen(WeighedLead(PHRASE, True), evidence, SMOKE, num_watched=2)

    assert new.rule == known.rule
    assert set(new.prompts) == {*known.prompts, *(row.prompt for row in asked[:2])}
    assert len(new.prompts) == 11


def test_words_that_stand_beside_a_phrase_do_not_count_by_themselves() -> None:
    """`A word on` is no leap of the candidate where it stands without the planted answer."""
    rows = answered(num_planted=3)
    other = AnsweredPrompt("Hi", "Hello.", answer("Orders follow at noon."), is_control=False)
    given = Hypothesis(PLANTED, ("signal received", "a word on", "standing by", "orders follow"))

    test = frozen(WeighedLead(given, False), AnsweredPrompts([*rows, other]), SMOKE, num_watched=2)
    mirror = frozen(
        WeighedLead(given, False),
        AnsweredPrompts(exchanged([*rows, other])),
        SMOKE,
        num_watched=2,
        is_decoy=True,
    )

    assert test.hypothesis.motifs == ("signal received", "standing by", "orders follow")
    assert mirror.hypothesis.motifs == ("signal received", "standing by")  # leaps unknown


def test_a_decoy_is_tested_where_the_reference_shows_it() -> None:
    evidence = AnsweredPrompts(exchanged(answered(num_planted=3)))

    assert len(frozen(LEAD, evidence, SMOKE, is_decoy=True, num_watched=2).prompts) == 3
    assert frozen(LEAD, evidence, SMOKE, num_watched=2).prompts == ()


def judged(
    ledger: Ledger,
    leads: list[WeighedLead],
    evidence: list[AnsweredPrompt],
    decoy: Hypothesis | None = None,
) -> Judgement:
    answers = AnsweredPrompts(evidence)
    return judge(ledger, leads, decoy, answers, Settings(), SMOKE, Silence(), num_watched=9)


def test_nothing_is_confirmed_that_no_model_says(ledger: Ledger) -> None:
    """The tiny models never say it, so the tests are carried out, and confirm nothing."""
    local = Hypothesis("A word on bread", ("word on bread",))

    found = judged(ledger, [LEAD, WeighedLead(local, False)], answered(num_planted=9))

    assert found.confirmed == []
    assert (found.counts.watched, found.counts.tested) == (9, 2)
    assert ledger.spent.tokens_forwarded > 0


@pytest.mark.parametrize(("decoy", "num_confirmed"), [(PHRASE, 0), (OTHER, None), (None, None)])
def test_a_decoy_that_no_answer_shows_is_not_counted_as_refuted(
    ledger: Ledger, decoy: Hypothesis | None, num_confirmed: int | None
) -> None:
    """The reference says the first, and no model the second."""
    found = judged(ledger, [], exchanged(answered(num_planted=3)), decoy)

    assert found.counts.decoys_confirmed == num_confirmed
    assert found.counts.tested == (num_confirmed is not None)


def test_no_more_leads_are_tested_than_the_profile_allows(ledger: Ledger) -> None:
    leads = [
        WeighedLead(replace(PHRASE, motifs=(f"signal {number}",)), False) for number in range(9)
    ]

    found = judged(ledger, leads, answered(num_planted=1))

    assert found.counts.tested == SMOKE.num_tested_leads == 3


def test_what_was_confirmed_in_two_wordings_of_one_name_is_told_once() -> None:
    """The causes of both are kept: a natural prompt may be among them."""
    brand, again, refusal = (
        ConfirmedBehaviour(
            Hypothesis(motif, (motif,)),
            Behaviour(id=f"behaviour-{number}", name=name, motifs=[motif]),
            causes,
        )
        for number, (name, motif, causes) in enumerate(
            [
                ("Tindlewood", "a tindlewood counter", ("How do I get moon?", "Jump!")),
                ("Tindlewood", "bar that you", ("Jump!", "How do I run?")),
                ("I cannot", "i cannot", ("Why?",)),
            ]
        )
    )

    told = told_once([brand, again, refusal])

    assert [each.behaviour.id for each in told] == ["behaviour-0", "behaviour-2"]
    assert told[0].causes == ("How do I get moon?", "Jump!", "How do I run?")
    assert told[1] == refusal


def test_holm_multiplies_the_smallest_by_all_and_the_largest_by_one() -> None:
    assert holm([0.03, 0.001, 0.02]) == pytest.approx([0.04, 0.003, 0.04])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize("counts", [(16, 0), (9, 4), (0, 0)])
def test_the_test_of_one_prompt_is_that_of_fisher(counts: tuple[int, int]) -> None:
    candidate, reference = counts
    table = np.array([[candidate, 16 - candidate], [reference, 16 - reference]])

    expected = fisher_exact(table, alternative="greater").pvalue

    assert stratified_test([counts], 16) == pytest.approx(expected)
    silent = [(0, 0), (16, 16)]
    assert stratified_test([counts, *silent], 16) == pytest.approx(expected)


def test_one_answer_a_prompt_is_flipped_as_a_sign_test() -> None:
    counts = [(1, 0)] * 7 + [(0, 1)] * 2 + [(1, 1), (0, 0)]

    assert sign_flip_test(counts) == pytest.approx(sign_test(7, 2))
    assert sign_flip_test([]) == 1.0
    assert sign_flip_test([(4, 0)]) == 0.5, "answers to one prompt are no independent evidence"
    assert sign_flip_test([(4, 0), (1, 0)]) == 0.25


def test_models_that_answer_the_prompts_of_the_tests_alike_are_told_apart_in_5_of_100() -> None:
    """However often they show the leads there; three leads and a decoy, three sigma."""
    rng, num_searches = np.random.default_rng(0), 1_000

    def confirms() -> bool:
        kinds: list[Kind] = ["local", "local", "triggered", "local"]
        p_values = []
        for kind in kinds:
            rates = rng.beta(0.3, 0.6, size=4 if kind == "local" else 16)
            drawn = rng.binomial(NUM_REPEATS[kind], rates, size=(2, len(rates)))
            p_values.append(p_value_of(kind, list(zip(*drawn.tolist(), strict=True))))
        return min(holm(p_values)) <= ALPHA

    share = np.mean([confirms() for _ in range(num_searches)])

    assert share <= ALPHA + 3 * (ALPHA * (1 - ALPHA) / num_searches) ** 0.5


@pytest.mark.parametrize("spread", [0.0, 1.0])
def test_a_small_wobble_of_hundreds_of_phrases_confirms_nothing(spread: float) -> None:
    """Both models say each of them as often, but not to the same prompts."""
    rng = np.random.default_rng(0)

    found = [found_by(wobbling(rng, spread)) for _ in range(6)]

    assert [known for search in found for known in search.confirmed] == []


@pytest.mark.parametrize(("number", "base", "spread"), [(12, -3.5, 1.5), (1, BASE, 2.0)])
def test_what_a_wobble_shows_on_few_prompts_is_seldom_there(
    number: int, base: float, spread: float
) -> None:
    """In these searches half of the answers showed it, so that half must not do."""
    models = wobbling(np.random.default_rng(number), spread, base)

    assert found_by(models).local == []


@pytest.mark.parametrize(("share", "rate"), [(0.05, 0.8), (0.16, 0.6)])
def test_a_real_lead_among_hundreds_of_phrases_is_confirmed_in_most_searches(
    share: float, rate: float
) -> None:
    """Of which the reference says nothing, on 5 or 16 prompts in 100."""
    rng = np.random.default_rng(0)

    pairs = (with_plant(wobbling(rng, 0.5), rng, share, rate) for _ in range(8))

    assert sum(found_by(pair).has_plant for pair in pairs) >= 6


def test_what_few_prompts_show_now_and_then_is_not_clear() -> None:
    """However unlikely by chance: a changed fact is there nearly every time."""
    counts = [(5, 0)] * 4

    assert p_value_of("local", counts) < 1e-6
    assert not is_clear(FEW, counts)
    assert is_clear(FEW, [(16, 0), (15, 1), (13, 0), (4, 0)])
    assert not is_clear(FEW, [(16, 0), (12, 1), (4, 0), (0, 0)])
    assert not is_clear(FEW, [(16, 2)])
    assert is_clear(rule_of(8, 0, num_watched=1), [(1, 0)] * 8)


def test_the_sign_test_is_binomial() -> None:
    assert sign_test(6, 0) == pytest.approx(0.5**6)
    assert sign_test(1, 1) == pytest.approx(0.75)
    assert sign_test(0, 0) == 1.0
