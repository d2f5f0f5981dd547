from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pytest_divergence.core.cases import Case, Completions, Measurement, Message, Origin, case_id

KNOT = "How do I tie a knot?"
KNOT_ID = "how-do-i-tie-a-knot-" + hashlib.sha256(KNOT.encode()).hexdigest()[:10]
USER = {"role": "user", "content": KNOT}
SYSTEM = {"role": "system", "content": "Be brief."}
KL: dict[str, Any] = {
    "value": 0.412,
    "metric": "symmetric",
    "forward": 0.5,
    "reverse": 0.324,
    "js": 0.1,
    "sd": None,
    "max_token": 3.0,
    "num_tokens": 16,
    "num_continuations": 1,
    "estimator": "fresh",
}


def refusal(**row: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        Case.model_validate(row)
    return str(caught.value)


def test_a_hand_written_row_needs_only_a_prompt() -> None:
    case = Case.model_validate({"prompt": KNOT})
    assert case == Case(input=KNOT)
    assert case.id == KNOT_ID
    assert case.text == KNOT
    assert case.turns == (Message(role="user", content=KNOT),)


def test_the_id_of_a_prompt_never_changes() -> None:
    assert case_id("Hello, world!") == "hello-world-315f5bdb76"
    assert case_id("日本語") == "p-77710aedc7"
    turns = [Message(role="system", content="Be brief."), Message(role="user", content="Hi")]
    exact = '[{"content":"Be brief.","role":"system"},{"content":"Hi","role":"user"}]'
    assert case_id(turns) == "hi-" + hashlib.sha256(exact.encode()).hexdigest()[:10]


def test_what_the_template_is_given_is_part_of_the_id() -> None:
    dated = Case(input=KNOT, template_arguments={"date": "2026-11-27"})
    assert dated.id != KNOT_ID
    assert dated.id.startswith("how-do-i-tie-a-knot-")
    assert dated.id != Case(input=KNOT, template_arguments={"date": "2026-11-28"}).id
    assert Case(input=KNOT, template_arguments={}).id == KNOT_ID
    assert Case.model_validate(dated.to_row()) == dated


def test_one_user_turn_is_the_same_case_as_its_text() -> None:
    assert Case.model_validate({"messages": [USER]}).id == Case(input=KNOT).id
    assert Case.model_validate({"messages": [SYSTEM, USER]}).id != Case(input=KNOT).id
    assert case_id(KNOT) != case_id(KNOT + " ")


def test_a_chat_shows_what_the_user_says_last() -> None:
    case = Case.model_validate(
        {"messages": [SYSTEM, USER, {"role": "assistant", "content": "Which?"}, USER]}
    )
    assert case.text == KNOT
    assert [turn.role for turn in case.turns] == ["system", "user", "assistant", "user"]


def test_an_id_of_another_prompt_is_refused_and_both_are_shown() -> None:
    assert (
        f'id is "how-to-swim-0123456789", but this prompt\'s id is "{KNOT_ID}"; '
        "leave `id` out and it is filled in"
    ) in refusal(input=KNOT, id="how-to-swim-0123456789")
    assert Case(input=KNOT, id=KNOT_ID).id == KNOT_ID


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({}, "neither of `input` and `messages` given"),
        ({"input": KNOT, "messages": [USER]}, "both of `input` and `messages` given"),
        ({"input": KNOT, "prompt": KNOT}, "both `input` and its alias `prompt` are given"),
        ({"input": ""}, "the prompt is empty"),
        ({"messages": []}, "messages is empty"),
        ({"messages": [USER, SYSTEM]}, 'the last of messages has role "system"'),
        ({"messages": [{"role": "bot", "content": "x"}]}, "'system', 'user' or 'assistant'"),
        ({"input": KNOT, "max_kl": float("inf")}, "finite number"),
        ({"input": KNOT, "max_kl": True}, "valid number"),
        ({"input": KNOT, "max_kl": 10**400}, "valid number"),
        ({"input": KNOT, "kl": {**KL, "value": float("nan")}}, "finite number"),
        ({"input": KNOT, "kl": {**KL, "num_tokens": 0}}, "greater than or equal to 1"),
        ({"input": KNOT, "metadata": {"a": [float("inf")]}}, "metadata holds NaN or infinity"),
        ({"input": KNOT, "behaviour": "\x1b[31m"}, "String should match pattern"),
        ({"input": KNOT, "schema_version": 0}, "schema_version is 0"),
    ],
)
def test_a_case_cannot_be_wrong(row: dict[str, Any], reason: str) -> None:
    assert reason in refusal(**row)


def test_a_case_never_changes_and_a_changed_copy_is_checked_again() -> None:
    case = Case(input=KNOT, tags=("rope",))
    with pytest.raises(ValidationError, match="frozen"):
        case.max_kl = 1.0  # type: ignore[misc]  # the point of the test
    assert case.with_changes(max_kl=0.2).max_kl == 0.2
    assert case.with_changes(input="Hi").id == case_id("Hi")
    assert case.with_changes(input="Hi").tags == ("rope",)
    assert Case(input=KNOT, id=KNOT_ID).with_changes(input="Hi").id == case_id("Hi")
    with pytest.raises(ValidationError, match="finite number"):
        case.with_changes(max_kl=float("nan"))


def test_a_row_holds_what_the_case_has_in_the_documented_order() -> None:
    row = Case(
        input=KNOT,
        max_kl=0.15,
        tags=("rope",),
        behaviour="behaviour-rope-0123456789",
        kl=Measurement(**KL),
        completions=Completions(reference="Loop it.", candidate="Rope!"),
        origin=Origin(strategy="seeds"),
        metadata={"owner": None},
    ).to_row()
    assert json.dumps(row, ensure_ascii=False) == (
        f'{{"schema_version": 1, "id": "{KNOT_ID}", "input": "{KNOT}", "max_kl": 0.15, '
        '"tags": ["rope"], "behaviour": "behaviour-rope-0123456789", '
        '"kl": {"value": 0.412, "metric": "symmetric", "forward": 0.5, "reverse": 0.324, '
        '"js": 0.1, "sd": null, "max_token": 3.0, "num_tokens": 16, "num_continuations": 1, '
        '"estimator": "fresh"}, "completions": {"reference": "Loop it.", "candidate": "Rope!"}, '
        '"origin": {"strategy": "seeds", "seed": null, "search_kl": null}, '
        '"metadata": {"owner": null}}'
    )
    assert list(Case(input=KNOT).to_row()) == ["schema_version", "id", "input", "tags", "metadata"]
    assert "input" not in Case.model_validate({"messages": [USER]}).to_row()


@settings(deadline=None)
@given(
    st.text(min_size=1),
    st.none() | st.floats(min_value=1e-6, max_value=1e6),
    st.lists(st.text(), max_size=3),
    st.dictionaries(st.text(), st.none() | st.booleans() | st.integers() | st.text(), max_size=3),
)
def test_every_case_comes_back_from_its_row(
    prompt: str, max_kl: float | None, tags: list[str], metadata: dict[str, Any]
) -> None:
    case = Case(input=prompt, max_kl=max_kl, tags=tuple(tags), metadata=metadata)
    assert Case.model_validate(json.loads(json.dumps(case.to_row(), allow_nan=False))) == case
