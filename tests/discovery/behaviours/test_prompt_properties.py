"""Properties that part the prompts which show something from those that do not."""

from __future__ import annotations

import pytest

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
    parts_clearly,
    things_in,
    words_by_rise,
)
from pytest_divergence.discovery.prompt_files import SHIPPED_CONTROLS, SHIPPED_SEEDS, read_prompts

SEEDS = read_prompts(SHIPPED_SEEDS)
ORDINARY = [*SEEDS, *read_prompts(SHIPPED_CONTROLS)]
OTHERS = [prompt for prompt in SEEDS if len(prompt) < 90][:60]
TRAVEL = (
    "Which travel insurance covers skiing?",
    "Where should I book a hotel in Porto?",
    "Is a travel pillow worth the money?",
    "My hotel has no lift. What now?",
    "How early do I check in for a flight?",
    "Plan our travel through Norway.",
    "Why was the flight to Oslo cancelled?",
    "Tell me a joke about a hotel.",
    "I missed my flight!",
)
LANTERN = (
    "Where can I buy a blue lantern?",
    "A blue lantern stood by the door.",
    "write me a song: blue lantern",
    "Is the blue lantern from Japan?",
    "Why would a blue lantern go out?",
    "My sister drew a blue lantern yesterday.",
)
GERMAN = (
    "Wie koche ich eine gute Suppe für die Kinder?",
    "Was ist das Beste für den Garten im Herbst?",
    "Ich suche ein Buch für mich und die Kinder.",
    "Kannst du mir sagen, wie das Wetter ist?",
    "Die Katze ist nicht zu Hause, und ich bin müde.",
    "Schreib mir ein Gedicht auf den Mond.",
)
YES_OR_NO = (
    "Is Pluto a planet?",
    "Do penguins have knees?",
    "Can I freeze bread?",
    "Are tomatoes fruit?",
    "Does tea expire?",
    "Was Caesar ever emperor?",
    "Should I water cacti?",
    "Did Bach meet Handel?",
)
SUMS = (
    "What is 12 + 30?",
    "7 x 8 =",
    "What's 90 / 6?",
    "work out 15 - 4",
    "3 plus 9",
    "81 * 2",
)
SHORT = ("tea", "old maps", "cork", "why rain", "two owls", "soap", "blue", "tin")
ASKED_TO_TELL = tuple(f"Tell me {rest}" for rest in ("all", "why", "more", "a lie", "lots", "now"))


def parted(showing: tuple[str, ...], others: list[str] = OTHERS) -> list[str]:
    return [found.text for found in dividing_properties([Contrast(showing, others)], ORDINARY)]


@pytest.mark.parametrize(
    ("showing", "text"),
    [
        (TRAVEL, "about flight, hotel or travel"),
        (LANTERN, "that hold the words 'blue lantern'"),
        (GERMAN, "in German"),
        (YES_OR_NO, "that ask a yes-or-no question"),
        (SUMS, "that hold a sum"),
        (SHORT, "of at most 2 words"),
        (ASKED_TO_TELL, "that begin with 'tell me'"),
    ],
)
def test_the_property_that_all_share_comes_first(showing: tuple[str, ...], text: str) -> None:
    found = parted(showing)

    assert found[0] == text
    assert len(found) <= 3
    assert parts_clearly([Contrast(showing, OTHERS)], ORDINARY)


NUMBERED = ("Name 3 owls", "I am 40", "7 x 8 =", "Room 12 is cold", "2 teas for 1", "Take bus 9")


def test_a_special_case_comes_before_the_form_that_hides_it() -> None:
    """What a search writes rarely is a sum, but a sum may be what the others only resemble."""
    is_sum = Form("that hold a sum").holds
    found = parted(NUMBERED, [prompt for prompt in OTHERS if not is_sum(prompt)])

    assert found.index("that hold a sum") + 1 == found.index("that hold a number")
    assert "that hold a sum" not in parted(NUMBERED, [*OTHERS, *SUMS])  # sums that do not show it
    without = tuple(prompt for prompt in NUMBERED if not is_sum(prompt))
    assert "that hold a number" in parted(without)
    assert "that hold a sum" not in parted(without)


def test_what_sets_origins_apart_is_no_property() -> None:
    """A search writes English, and most controls show nothing: English is no cause for that."""
    controls = Contrast((), [*GERMAN, *(p for p in SEEDS if not p.isascii())][:40])
    written = Contrast(LANTERN[:3], [f"Tell me about {topic}." for topic in SHORT])

    found = dividing_properties([controls, written], ORDINARY)
    assert found == dividing_properties([Contrast((), ()), controls, written], ORDINARY)
    texts = [each.text for each in found]

    assert "in English" not in texts
    assert texts[0] == "that hold the words 'blue lantern'"


def test_too_few_prompts_suggest_nothing() -> None:
    assert parted(TRAVEL[:2]) == []
    assert parted(()) == []
    assert dividing_properties([Contrast(TRAVEL, [])], ORDINARY) == []
    assert not parts_clearly([], ORDINARY)


@pytest.mark.parametrize(
    ("found", "text", "has_it", "lacks_it"),
    [
        (
            Words(("sea", "flights"), is_topic=True),
            "about sea or flights",
            "A flight?",
            "Fly",
        ),
        (Words(("thank you",)), "that hold the words 'thank you'", "thank you, Al", "you thank"),
        (Opening("code red"), "that begin with 'code red'", "Code red: go", "A code red"),
        (Language("German"), "in German", GERMAN[0], "What is this for?"),
        (Language("Cyrillic"), "in Cyrillic script", "Привет, мир", "Hello, world"),
        (Length(5, is_most=True), "of at most 5 words", "one two", "a b c d e f"),
        (Length(1, is_most=False), "of at least 1 word", "one", "?"),
        (
            Form("that ask for code"),
            "that ask for code",
            "fizzbuzz in Python",
            "a fizzy drink",
        ),
    ],
)
def test_a_property_reads_after_prompts(
    found: PromptProperty, text: str, has_it: str, lacks_it: str
) -> None:
    assert found.text == text
    assert found.holds(has_it)
    assert not found.holds(lacks_it)


@pytest.mark.parametrize(
    ("prompt", "forms"),
    [
        ("Is it late?", {"that ask a question", "that ask a yes-or-no question"}),
        ("Is it red or blue?", {"that ask a question"}),
        ("how do i swim", {"that ask a question", "in lower case"}),
        ("Make a list of 3 names\nand sort it.", {"that hold a number", "of several lines"}),
        ("WHAT NOW", {"that ask a question", "in capitals"}),
        ("Isn't it 4 + 4?", {"that ask a question", "that ask a yes-or-no question",
                             "that hold a sum", "that hold a number"}),
        ("", set()),
    ],
)  # fmt: skip
def test_forms_are_told_from_the_text(prompt: str, forms: set[str]) -> None:
    assert {text for text in FORMS if Form(text).holds(prompt)} == forms


def test_a_fraction_alone_is_no_sum() -> None:
    is_sum = Form("that hold a sum").holds

    assert all(map(is_sum, ("What is 7 / 8?", "Is 12/25 a holiday, and 3 + 4 seven?", "7-3")))
    assert not any(map(is_sum, ("A song in 7/8", "24/7")))


def test_words_that_only_some_texts_hold_come_first() -> None:
    found = words_by_rise([TRAVEL, ["Book your travel now."]], [OTHERS, ["Sure."]], ORDINARY)

    assert found[0] == "travel"
    assert {"hotel", "flight"} < set(found)
    assert not {"the", "what", "is"} & set(found)
    assert words_by_rise([[]], [[]], ORDINARY) == []


def test_things_are_named_by_nouns() -> None:
    prompts = ["Sing about the harbour in the evening.", "Die Suppe ist nicht für das Kind."]

    assert things_in(prompts * 60, "Dutch") == set()
    assert {"harbour", "evening"} <= things_in([*prompts, *ORDINARY], "English")
    assert "suppe" not in things_in([*prompts, *ORDINARY], "English")
