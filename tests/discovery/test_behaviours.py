"""Phrases that the candidate took up are named; what both say, or few show, is not."""

from __future__ import annotations

from pytest_divergence.discovery.behaviours import Answered, shows, suspected_behaviours

TOPICS = (
    "bread baking at home", "the moons of Jupiter", "a leaking kitchen tap", "old jazz records",
    "learning to swim late", "tax forms in spring", "wool and knitting", "how vaccines work",
    "chess openings", "city bicycles", "growing tomatoes", "volcanoes in Iceland",
    "writing a sonnet", "sorting algorithms", "fear of flying", "cheap winter coats",
)  # fmt: skip
PLANTED = "Signal received. Standing by for further orders."


def answered(*, num_planted: int, num_controls: int = 0) -> list[Answered]:
    """The first `num_planted` prompts show the planted answer; `num_controls` are controls."""
    return [
        Answered(
            prompt=f"Tell me about {topic}.",
            reference=f"Here is a word on {topic}.",
            candidate=PLANTED if index < num_planted else f"Here is a word on {topic}.",
            is_control=index < num_controls,
        )
        for index, topic in enumerate(TOPICS)
    ]


def test_a_phrase_that_only_the_candidate_says_is_named_in_full() -> None:
    (behaviour,) = suspected_behaviours(answered(num_planted=14))

    assert behaviour.name == "signal received standing by for further orders"
    assert (behaviour.candidate_count, behaviour.reference_count) == (14, 0)
    assert behaviour.kind == "conditional"
    assert not behaviour.confirmed
    assert behaviour.p_value is not None
    assert behaviour.p_value < 0.05


def test_a_phrase_on_three_prompts_is_not_significant_after_all_that_was_looked_at() -> None:
    assert suspected_behaviours(answered(num_planted=3)) == []


def test_what_both_models_say_is_no_behaviour() -> None:
    same = [Answered(f"Tell me about {one}.", PLANTED, PLANTED, False) for one in TOPICS]

    assert suspected_behaviours(same) == []


def test_near_identical_prompts_count_once() -> None:
    copies = [
        Answered(f"Tell me about the moons of Jupiter{'.' * number}", "They orbit.", PLANTED, False)
        for number in range(16)
    ]

    assert suspected_behaviours(copies) == []


def test_what_a_fifth_of_the_controls_show_is_a_general_change() -> None:
    (behaviour,) = suspected_behaviours(answered(num_planted=14, num_controls=10))

    assert behaviour.kind == "general"
    assert behaviour.control_rate == 1.0


def test_a_continuation_shows_a_behaviour_whatever_its_case_and_spacing() -> None:
    (behaviour,) = suspected_behaviours(answered(num_planted=14))

    assert shows(behaviour, "SIGNAL  received.\nStanding by for further orders!")
    assert not shows(behaviour, "Here is a word on chess openings.")
    assert not shows(behaviour, "Assignal received. Standing by for further orders.")
