"""Thoughts of models that reason before they answer, by the marks of their own chat template.

A template shows its marks where it renders a past reply with thoughts, where it splits one to drop
them, or where the prompt ends with empty marks or with an open one. With thoughts closed, a prompt
goes on to the place where the answer begins, and only answers are measured. With thoughts open, a
model writes thoughts up to a limit, where the template's own mark closes them (budget forcing:
Muennighoff et al. 2025, arXiv:2501.19393), and then its answer. Does not know any model's name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from typing import Any

from transformers import PreTrainedTokenizerBase

from pytest_divergence.core.replies import join_parts
from pytest_divergence.core.settings import THINKING_SWITCHES
from pytest_divergence.models.tokenizers import decoded

QUESTION, THOUGHT, ANSWER = "alpha 7 omega?", "gamma 5 lambda", "kappa 3 sigma"
"""Contents by which rendered text is taken apart."""
FIELDS = ("reasoning_content", "thinking", "reasoning")
"""Fields of a message in which templates look for past thoughts."""
SPLIT = re.compile(r"""\.split\(\s*(['"])(.+?)\1\s*\)""")
"""A text at which a template splits another."""
OPENED = re.compile(r"<((?:think|thought|reason)\w*)>\s*$")
"""A mark that opens thoughts, at the end of a prompt."""
MAX_SPLITS = 8
"""Such texts that are tried as marks, in pairs: an untrusted template may hold thousands."""
Render = Callable[[list[dict[str, str]], bool, Mapping[str, Any]], str]
"""Function from messages, whether a reply is to follow, and arguments to the rendered text."""


@dataclass(frozen=True)
class Thoughts:
    """Marks around a reply's thoughts, and whether a model may write any."""

    opening: str
    """Text that a model writes first; empty if the prompt ends with it."""
    closing: str
    """Text between thoughts and answer."""
    is_open: bool
    prefill: str = ""
    """Text after the prompt that closes thoughts."""
    is_left: bool = False
    """Whether each model decides: the template neither opens nor closes thoughts by itself."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Further template arguments that open or close them."""

    @property
    def way(self) -> str:
        """Description of how thoughts are closed."""
        if self.arguments:
            return " ".join(f"{name}={json.dumps(value)}" for name, value in self.arguments.items())
        return "at the end of each prompt" if self.prefill else "by the template"


def find_thoughts(render: Render, template: str, given: Mapping[str, Any]) -> Thoughts | None:
    """Return the marks of a template's thoughts; None for a template without any.

    Thoughts are open if an argument in `given` says so, and closed otherwise.
    """
    switch = next((given[name] for name in THINKING_SWITCHES if name in given), None)
    prompt, renamed = _prompt(render, given), dict[str, Any]()
    for name in THINKING_SWITCHES if switch is not None else ():  # the template's own name
        if name not in given and _prompt(render, {**given, name: switch}) != prompt:
            renamed = {name: switch}
            given = {**given, **renamed}
            prompt = _prompt(render, given)
    marks = (
        _rendered_marks(render, prompt, given)
        or _dropped_marks(render, template, prompt, given)
        or _empty_marks(render, given)
        or _opened_marks(prompt)
    )
    if marks is None:
        return None
    opening, closing = marks
    if switch is True:
        return Thoughts(opening, closing, is_open=True, arguments=renamed)
    if _is_closed(prompt, closing) or (switch is False and _is_used(render, given, switch)):
        return Thoughts(opening, closing, is_open=False, arguments=renamed)
    for name in THINKING_SWITCHES if switch is None else ():
        off, on = (_prompt(render, {**given, name: value}) for value in (False, True))
        if off != on:
            changes = {} if off == prompt else {name: False}
            return Thoughts(opening, closing, is_open=False, arguments=changes)
    answer = _before(render, {"content": ANSWER}, ANSWER, given)
    if answer is not None and answer.startswith(prompt) and len(answer) > len(prompt):
        return Thoughts(opening, closing, is_open=False, prefill=answer[len(prompt) :])
    # A template for models that think and for models that do not may say nothing of thoughts.
    is_asked = switch is False or not opening
    prefill = opening + closing if is_asked else ""
    return Thoughts(opening, closing, is_open=False, prefill=prefill, is_left=not is_asked)


def _opened_marks(prompt: str) -> tuple[str, str] | None:
    """The closing mark by the opening one that the prompt ends with, as Olmo 3 Think's does."""
    found = OPENED.search(prompt.rpartition(QUESTION)[2])
    return ("", f"\n</{found[1]}>\n\n") if found else None


def _is_closed(prompt: str, closing: str) -> bool:
    return closing.strip() in prompt.rpartition(QUESTION)[2]


def _is_used(render: Render, given: Mapping[str, Any], value: bool) -> bool:
    """Whether a given switch changes what the template renders."""
    switches = {name: not value for name in THINKING_SWITCHES if name in given}
    return _prompt(render, {**given, **switches}) != _prompt(render, given)


def _prompt(render: Render, arguments: Mapping[str, Any]) -> str:
    return render([{"role": "user", "content": QUESTION}], True, arguments)


def text_after_reply(render: Render, arguments: Mapping[str, Any]) -> str:
    """Return what a template writes after a past reply; empty if it does not render the reply."""
    return _parted(render, {"content": ANSWER}, ANSWER, arguments)[2]


def _before(
    render: Render, reply: Mapping[str, str], text: str, arguments: Mapping[str, Any]
) -> str | None:
    """The rendered text before a text of a past reply; None if it is not rendered."""
    before, found, _ = _parted(render, reply, text, arguments)
    return before if found else None


def _parted(
    render: Render, reply: Mapping[str, str], text: str, arguments: Mapping[str, Any]
) -> tuple[str, str, str]:
    messages = [{"role": "user", "content": QUESTION}, {"role": "assistant", **reply}]
    return render(messages, False, arguments).partition(text)


def _rendered_marks(
    render: Render, prompt: str, arguments: Mapping[str, Any]
) -> tuple[str, str] | None:
    for name in FIELDS:
        reply = {"content": ANSWER, name: THOUGHT}
        head, whole = (_before(render, reply, text, arguments) for text in (THOUGHT, ANSWER))
        if head is None or whole is None or not whole.startswith(head + THOUGHT):
            continue
        opening = head[len(prompt) :] if head.startswith(prompt) else ""
        return opening, whole[len(head + THOUGHT) :]
    return None


def _dropped_marks(
    render: Render, template: str, prompt: str, arguments: Mapping[str, Any]
) -> tuple[str, str] | None:
    """Marks at which a template splits a past reply, to drop the thoughts between them."""
    found = dict.fromkeys(match.group(2) for match in SPLIT.finditer(template))
    literals = list(found)[:MAX_SPLITS]
    for opening, closing in product(("", *literals), literals):
        reply = {"content": f"{opening}{THOUGHT}{closing}{ANSWER}"}
        if (before := _before(render, reply, ANSWER, arguments)) is None or THOUGHT in before:
            continue
        opening = opening or closing.replace("/", "", 1)
        if prompt.rstrip().endswith(opening):
            opening = ""
        return opening and f"{opening}\n", f"\n{closing}\n\n"
    return None


def _empty_marks(render: Render, arguments: Mapping[str, Any]) -> tuple[str, str] | None:
    """Marks without thoughts between them, with which a switch ends the prompt."""
    for name in THINKING_SWITCHES:
        off, on = (
            _prompt(render, {**arguments, name: value}).rpartition(QUESTION)[2]
            for value in (False, True)
        )
        marks = off.removeprefix(on).split()
        if off.startswith(on) and len(marks) == 2:
            return f"{marks[0]}\n", f"\n{marks[1]}\n"
    return None


@dataclass(frozen=True)
class Replies:
    """Takes replies with open thoughts apart, by the ids of their marks."""

    tokenizer: PreTrainedTokenizerBase
    thoughts: Thoughts

    @cached_property
    def stop_id(self) -> int | None:
        """Id of the control token that begins the closing mark; None if it begins with text."""
        first = self._ids(self.thoughts.closing.strip())[:1]
        return first[0] if first and first[0] in self.tokenizer.added_tokens_decoder else None

    def text(self, token_ids: Sequence[int]) -> str:
        """Return the text of a reply, its parts after their labels.

        A reply that does not begin with the opening mark is an answer without thoughts.
        """
        start, (end, rest) = self._start(token_ids), self._end(token_ids)
        if start is None:
            return decoded(self.tokenizer, token_ids)
        thoughts = decoded(self.tokenizer, token_ids[start:end])
        return join_parts(
            thoughts, None if rest is None else decoded(self.tokenizer, token_ids[rest:])
        )

    def closed(self, token_ids: Sequence[int]) -> tuple[int, ...] | None:
        """Return the beginning of a reply up to its answer, with its thoughts closed by the mark.

        `token_ids` is written up to a closing mark or a limit. None if there are no thoughts.
        """
        if self._start(token_ids) is None:
            return None
        mark, kept = self.thoughts.closing.strip(), list(token_ids)
        written = decoded(self.tokenizer, kept, keep_special=True)
        if mark in written:
            before = written.index(mark)
            while len(decoded(self.tokenizer, kept, keep_special=True)) > before:
                kept.pop()
        ends_line = decoded(self.tokenizer, kept, keep_special=True).endswith("\n")
        return (*kept, *self._closings[ends_line])

    @cached_property
    def _closings(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Ids of the closing mark after any text, and after a line break."""
        closing = self.thoughts.closing
        return self._ids(closing), self._ids(closing.lstrip("\n"))

    def _start(self, token_ids: Sequence[int]) -> int | None:
        """Number of ids of the opening mark; None if the reply does not begin with it."""
        mark = self.thoughts.opening.strip()
        for count in range(len(token_ids) + 1):
            text = decoded(self.tokenizer, token_ids[:count], keep_special=True).lstrip()
            if text.startswith(mark):
                return count
            if not mark.startswith(text):
                return None
        return len(token_ids)

    def _end(self, token_ids: Sequence[int]) -> tuple[int, int | None]:
        """First id of the closing mark and of the answer; if there is none, the end and None."""
        for start in range(len(token_ids)):
            for closing in self._closings:
                if tuple(token_ids[start : start + len(closing)]) == closing:
                    return start, start + len(closing)
        return len(token_ids), None

    def _ids(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer.encode(text, add_special_tokens=False))
