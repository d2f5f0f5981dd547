"""Which proposals are kept, and which texts are near each other."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_divergence.discovery.proposals import DistinctPrompts, Proposal, clean, is_near


def test_clean_keeps_each_prompt_once_and_in_order() -> None:
    texts = ["b", " ", "a", "b", "", "c"]
    known = Proposal("c", "earlier").id

    kept = clean([Proposal(text, "seeds") for text in texts], known=[known])

    assert [one.text for one in kept] == ["b", "a"]


@given(st.text(max_size=40))
@settings(deadline=None)
def test_a_prompt_is_near_itself_whatever_its_case_and_spacing(text: str) -> None:
    assert is_near(text, text)
    assert is_near(text, f"  {text}\n")


def test_near_prompts_differ_in_a_word_and_far_ones_in_most() -> None:
    first = "Write a short poem about the sea in winter"

    assert is_near(first, first + ".")
    assert not is_near(first, "List three rivers of Europe")
    assert not is_near("a", "b")


@given(st.lists(st.text(alphabet="ab c.", max_size=12), max_size=12))
def test_distinct_prompts_are_those_that_are_near_no_earlier_one(texts: list[str]) -> None:
    distinct = DistinctPrompts()
    chosen: list[str] = []
    for text in texts:
        is_new = not any(is_near(text, earlier) for earlier in chosen)
        assert distinct.add(text) == is_new
        chosen += [text] * is_new
