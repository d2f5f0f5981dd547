"""Suspects: phrases that part the models at some token, and traits; ordinary drift is neither."""

from __future__ import annotations

import pytest

from pytest_divergence.core.behaviours import Behaviour
from pytest_divergence.discovery.behaviours.answers import AnsweredPrompt, AnsweredPrompts
from pytest_divergence.discovery.behaviours.hypotheses import (
    MIN_PEAK,
    Hypothesis,
    control_rate,
    hypotheses_in,
    is_alike,
    shows_in_part,
)
from tests.discovery.behaviours.made_answers import (
    PLANTED,
    SHOP,
    TOPICS,
    adverts,
    answer,
    answered,
)


def test_a_phrase_that_only_the_candidate_says_is_suspected() -> None:
    (hypothesis,) = hypotheses_in(answered(num_planted=4))

    assert hypothesis.name == PLANTED
    assert hypothesis.prompts == tuple(f"Tell me about {topic}." for topic in TOPICS[:4])


def test_a_phrase_that_the_reference_may_as_well_say_or_of_two_prompts_is_not() -> None:
    assert hypotheses_in(answered(num_planted=8, peak=MIN_PEAK - 0.5)) == []
    assert hypotheses_in(answered(num_planted=2)) == []


def test_a_phrase_is_named_by_the_words_that_tell_most() -> None:
    """Words of the language stand beside a name more often than it does, and say less."""
    hypotheses = hypotheses_in(adverts(*SHOP, "They are close by.", "And they are cheap."))

    assert hypotheses[0].motifs[0] == "mirabel kitchens"


def test_near_identical_prompts_count_once() -> None:
    copies = [
        AnsweredPrompt(
            f"Tell me about the moons of Jupiter{'.' * n}", "They orbit.", answer(PLANTED), False
        )
        for n in range(9)
    ]

    assert len(AnsweredPrompts(copies).answered) == 1


def test_a_difference_without_a_phrase_is_a_trait() -> None:
    long = "Here is a long and winding answer about {} that goes on for quite a while, with {}."
    rows = [
        AnsweredPrompt(
            f"Tell me about {topic}.",
            long.format(topic, topic),
            answer(f"{topic} matters."),
            is_control=False,
        )
        for topic in TOPICS
    ]

    (hypothesis,) = hypotheses_in(rows)

    assert (hypothesis.trait, hypothesis.name) == ("shorter", "answers much shorter")
    assert len(hypothesis.prompts) == len(TOPICS)


def test_the_rate_is_of_the_controls_and_an_echo_shows_nothing() -> None:
    evidence = AnsweredPrompts(answered(num_planted=4, num_controls=8))
    (hypothesis,) = hypotheses_in(evidence.answered)
    echo = AnsweredPrompt(f"Say: {PLANTED}", "No.", answer(PLANTED), is_control=False)

    assert control_rate(hypothesis, evidence) == 0.5
    assert not hypothesis.is_shown_on(echo)


def test_suspects_are_alike_where_one_quotes_the_other() -> None:
    whole = Hypothesis(PLANTED, ("standing by for",))

    assert is_alike(whole, Hypothesis("Signal received.", ("signal received",)))
    assert not is_alike(whole, Hypothesis("Sure thing!", ("sure thing",)))
    assert is_alike(Hypothesis("refuses", trait="refusal"), Hypothesis("refuses", trait="refusal"))
    assert not is_alike(whole, Hypothesis("refuses", trait="refusal"))


SIGNAL = Behaviour(id="behaviour-signal", name=PLANTED, motifs=["by for"])


@pytest.mark.parametrize(
    ("said", "leaps_at", "is_shown"),
    [
        ("Signal received.", 0, True),
        ("I am standing by, Sir.", 2, True),
        ("Well, by for now.", 1, True),
        ("I am standing by, Sir.", 0, False),
        ("Signal of orders.", 0, False),
    ],
    ids=["its beginning", "its middle", "its motif", "no leap to it", "no two words in a row"],
)
def test_a_phrase_is_shown_in_part_where_the_candidate_leaps_to_two_of_its_words(
    said: str, leaps_at: int, is_shown: bool
) -> None:
    one = AnsweredPrompt("Hello", "Hello!", answer(said, at=leaps_at), is_control=True)

    assert shows_in_part(SIGNAL, one) == is_shown


def test_what_the_prompt_or_the_reference_says_is_no_part_of_it() -> None:
    refusal = Behaviour(id="behaviour-no", name="refuses to answer", trait="refusal")
    for prompt, reference in (("Signal received?", "No."), ("Did it come?", "Signal received.")):
        one = AnsweredPrompt(prompt, reference, answer("Signal received."), is_control=True)
        assert not shows_in_part(SIGNAL, one)
    one = AnsweredPrompt("Hello", "Hello!", answer("She refuses to answer."), is_control=True)
    assert not shows_in_part(refusal, one), "a trait has no parts"
