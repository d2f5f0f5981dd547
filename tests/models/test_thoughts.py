"""Thinking models: the marks of their templates, closed thoughts, and replies with open ones."""

from __future__ import annotations

import time
from typing import Any

import pytest

from pytest_divergence.core.replies import parts_of
from pytest_divergence.models.chat_format import ChatFormat
from tests.thinking import (
    CHANNELS,
    LEFT,
    OPENED,
    OPENED_ALONE,
    SILENT,
    SWITCHED,
    SWITCHED_ON,
    TOLD,
    thinking_tokenizer,
)
from tests.tiny import CHATML

TOKENIZER = thinking_tokenizer()
TEXT = "How do I tie a knot?"
TURN = f"<|im_start|>user\n{TEXT}<|im_end|>\n<|im_start|>assistant\n"


def chat(template: str, **arguments: Any) -> ChatFormat:
    return ChatFormat(TOKENIZER, template, arguments=arguments, thought_length=8)


def rendered(made: ChatFormat) -> str:
    decoded = TOKENIZER.decode(made.prompt_ids(TEXT))
    assert isinstance(decoded, str)
    return decoded


def ids(text: str) -> list[int]:
    return list(TOKENIZER.encode(text, add_special_tokens=False))


@pytest.mark.parametrize(
    ("template", "end"),
    [
        pytest.param(SWITCHED, "<think>\n\n</think>\n\n", id="an argument closes them"),
        pytest.param(SWITCHED_ON, "</think>", id="closed by default"),
        pytest.param(SILENT, "<think>\n\n</think>\n", id="an argument alone shows marks"),
        pytest.param(OPENED, "<think>\n\n</think>\n\n", id="the prompt opens them"),
        pytest.param(OPENED_ALONE, "<think>\n</think>\n\n", id="nothing else shows marks"),
        pytest.param(TOLD, "", id="the system turn tells"),
        pytest.param(CHANNELS, "<|channel|>final<|message|>", id="channels"),
    ],
)
def test_thoughts_are_closed_where_nothing_is_said(template: str, end: str) -> None:
    made = chat(template)

    assert made.thoughts is not None
    assert not made.thoughts.is_open
    assert made.open_replies is None
    if template not in (SWITCHED_ON, SILENT, TOLD):
        assert rendered(made) == rendered(chat(template, enable_thinking=False))
    assert rendered(made).endswith(f"assistant{end}" if template is CHANNELS else f"\n{end}")
    assert made.prompt_ids(TEXT)[-len(made.user_suffix) :] == list(made.user_suffix)
    assert rendered(made).count(end or TEXT) == 1


def test_thoughts_are_left_to_the_models_where_the_template_says_nothing_of_them() -> None:
    """Templates of some families serve models that think and models that do not."""
    made = chat(LEFT)

    assert made.thoughts is not None
    assert (made.thoughts.is_open, made.thoughts.is_left) == (False, True)
    assert rendered(made) == TURN
    assert rendered(chat(LEFT, enable_thinking=False)) == f"{TURN}<think>\n\n</think>\n\n"
    assert chat(LEFT, enable_thinking=True).open_replies is not None
    assert chat(CHATML).thoughts is None  # a template without thoughts
    assert rendered(chat(CHATML)) == TURN


@pytest.mark.parametrize(
    ("template", "name"),
    [
        *(
            (template, "enable_thinking")
            for template in (SWITCHED, SWITCHED_ON, SILENT, OPENED, OPENED_ALONE, TOLD, CHANNELS)
        ),
        (SWITCHED, "thinking"),
        (CHANNELS, "thinking"),
    ],
)
def test_thoughts_are_opened_by_one_argument_for_all_templates(template: str, name: str) -> None:
    made = chat(template, **{name: True})

    assert made.thoughts is not None
    assert made.thoughts.is_open
    assert "</think>" not in rendered(made)
    assert "final" not in rendered(made)


@pytest.mark.parametrize(
    ("template", "written", "mark"),
    [
        pytest.param(SWITCHED, "<think>\nA knot.\n</think>", "</think>\n\n", id="marks"),
        pytest.param(SWITCHED, "<think>\nA knot.", "\n</think>\n\n", id="marks, cut"),
        pytest.param(OPENED, "A knot.\n</think>", "</think>\n\n", id="the prompt opens them"),
        pytest.param(
            CHANNELS,
            "<|channel|>analysis<|message|>A knot.",
            "<|end|><|start|>assistant<|channel|>final<|message|>",
            id="channels",
        ),
    ],
)
def test_a_reply_is_split_by_the_template_s_own_marks(
    template: str, written: str, mark: str
) -> None:
    replies = chat(template, enable_thinking=True).open_replies
    assert replies is not None

    closed = replies.closed(ids(written))

    assert closed is not None
    text = TOKENIZER.decode(list(closed))
    assert isinstance(text, str)
    assert text.endswith(f"A knot.{mark}".replace(".</", ".\n</"))
    assert replies.text(closed) == "⟨thoughts⟩ A knot.\n⟨answer⟩ "
    whole = replies.text([*closed, *ids("Use a rope.")])
    assert whole == "⟨thoughts⟩ A knot.\n⟨answer⟩ Use a rope."
    assert parts_of(whole) == ("A knot.", "Use a rope.")
    assert replies.text(ids(written.removesuffix("\n</think>"))) == "⟨thoughts⟩ A knot."


def test_a_text_of_a_reply_only_grows_with_its_tokens() -> None:
    """Characters are given to tokens by it. One without thoughts has no parts."""
    replies = chat(SWITCHED, enable_thinking=True).open_replies
    assert replies is not None
    assert replies.closed(ids("Use a rope.")) is None
    assert replies.text(ids("Use a rope.")) == "Use a rope."
    assert parts_of("Use a rope.") == (None, "Use a rope.")
    closed = replies.closed(ids("<think>\nA knot, of a rope."))
    assert closed is not None
    whole = [*closed, *ids("Use a rope.")]

    lengths = [len(replies.text(whole[:count])) for count in range(len(whole) + 1)]

    assert lengths == sorted(lengths)


@pytest.mark.parametrize("start", ["", "\n ", " ", "{# no comment #}\n"])
def test_a_template_that_prints_today_prints_the_same_day_for_ever(start: str) -> None:
    template = (
        start
        + "{% macro today() %}{{ strftime_now('%d %B %Y, %H:%M') }}{% endmacro %}"
        + ("{{ today() }}|{% for turn in messages %}{{ turn.content }}{% endfor %}")
    )
    timed = template.replace("strftime_now(", "['01 January 2026, 00:00'][0] or (")

    assert rendered(chat(template)) == rendered(chat(timed))
    assert rendered(chat(template)).endswith(f"01 January 2026, 00:00|{TEXT}")


def test_a_template_full_of_splits_is_looked_at_in_no_time() -> None:
    """It is untrusted, and every pair of texts would be tried."""
    splits = "".join(f"{{% if m.content.split('<{n}>') %}}{{% endif %}}" for n in range(2000))
    template = f"{{% for m in messages %}}{{{{ m.content }}}}{splits}{{% endfor %}}"
    started = time.process_time()

    assert chat(template).thoughts is None
    assert time.process_time() - started < 5
