"""From a prompt to token ids, and from ids to text: the chat format that both models share.

Knows one tokenizer and one template; does not know the models. Control tokens that a
prompt contains as text stay text.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from typing import Any, cast

from transformers import PreTrainedTokenizerBase

from pytest_divergence.core.cases import Message
from pytest_divergence.core.errors import DivergenceError, ModelLoadError
from pytest_divergence.core.regular_files import read_regular_text
from pytest_divergence.core.safe_text import safe_line
from pytest_divergence.core.setting_names import setting
from pytest_divergence.core.settings import THINKING_SWITCHES
from pytest_divergence.models.fingerprints import text_digest
from pytest_divergence.models.template_trial import MAX_RENDERED, check_template
from pytest_divergence.models.thoughts import Replies, Thoughts, find_thoughts, text_after_reply
from pytest_divergence.models.tokenizers import Vocabulary, decoded, template_of

Prompt = str | Sequence[Message]

PROBES = ("alpha", "7 omega?")
"""Contents so unlike that all that their renderings share comes from the template."""
FROZEN_ARGUMENTS = {"date_string": "01 Jan 2026"}
"""Template arguments held fixed: some templates print today's date, which would change prompts."""
FROZEN_CLOCK = (
    "{%- macro strftime_now(form) -%}{{ form"
    + "".join(
        f" | replace('%{code}', '{datetime(2026, 1, 1).strftime(f'%{code}')}')"
        for code in "YymdjBbAaHIMSp"
    )
    + " }}{%- endmacro %}\n"
)
"""Start of a template that asks for the time by itself: it is the first second of 2026."""


@dataclass(frozen=True)
class ChatFormat:
    """Format of a prompt for both models; without a template, plain text to continue."""

    tokenizer: PreTrainedTokenizerBase
    template: str | None
    system_prompt: str | None = None
    stop_ids: frozenset[int] = frozenset()
    """Tokens that end a turn."""
    arguments: Mapping[str, Any] = field(default_factory=lambda: dict(FROZEN_ARGUMENTS))
    """Template arguments, the same on every day and machine."""
    thought_length: int = 0
    """Tokens of thoughts before an answer, at most, if thoughts are open."""

    def prompt_ids(self, prompt: Prompt) -> list[int]:
        """Ids of the whole prompt, ready for the response's first token.

        Unless thoughts are open, that is the answer's first token.

        Raises `DivergenceError` if the template refuses the messages, or if the installed
        transformers cannot keep control tokens inside a prompt as text.
        """
        return [*self.template_ids(prompt), *self._prefill_ids]

    def template_ids(self, prompt: Prompt) -> list[int]:
        """Ids that the template makes of a prompt, without what closes thoughts behind it.

        A server that renders the same messages makes these, but for the date. Raises
        `DivergenceError` as `prompt_ids` does.
        """
        turns = [Message(role="user", content=prompt)] if isinstance(prompt, str) else list(prompt)
        if self.template is None:
            return self._plain_ids(turns)
        if self.system_prompt is not None and turns[0].role != "system":
            turns.insert(0, Message(role="system", content=self.system_prompt))
        return self._rendered_ids(turns)

    @property
    def asks_for_time(self) -> bool:
        """Whether the template asks for the time by itself."""
        return "strftime_now" in (self.template or "")

    @cached_property
    def thoughts(self) -> Thoughts | None:
        """Marks of thoughts in replies; None if the template has none."""
        if self.template is None:
            return None
        try:
            return find_thoughts(self._text, self.template, self.arguments)
        except Exception:  # a template may refuse any conversation; prompts show that soon enough
            return None

    @cached_property
    def end_of_turn(self) -> int | None:
        """Id of the control token that the template writes after a reply; None if it writes none.

        A base whose end of text is another token may name it nowhere else.
        """
        if self.template is None:
            return None
        try:
            after = text_after_reply(self._text, self.all_arguments)
        except Exception:  # a template may refuse a past reply
            return None
        control = self._control_tokens
        ids = self.tokenizer.encode(after, add_special_tokens=False)
        return next((token_id for token_id in ids if token_id in control), None)

    @cached_property
    def open_replies(self) -> Replies | None:
        """Reader of replies with thoughts; None unless thoughts are open."""
        thoughts = self.thoughts
        return Replies(self.tokenizer, thoughts) if thoughts and thoughts.is_open else None

    @cached_property
    def user_opening(self) -> tuple[int, ...]:
        """Ids before the user's text: the same for every single-turn prompt."""
        first, second = (self.prompt_ids(probe) for probe in PROBES)
        return tuple(first[: _num_shared(first, second)])

    @property
    def shared_prefix(self) -> tuple[int, ...]:
        """The opening without its last id, which stays with each row to predict the user's text."""
        return self.user_opening[:-1]

    @cached_property
    def user_suffix(self) -> tuple[int, ...]:
        """Ids between the user's text and the response's first token."""
        first, second = (self.prompt_ids(probe)[::-1] for probe in PROBES)
        return tuple(first[: _num_shared(first, second)][::-1])

    def split(self, prompt_ids: Sequence[int]) -> tuple[tuple[int, ...], list[int]]:
        """The shared prefix and the rest, or an empty prefix if the ids do not begin with it."""
        prefix = self.shared_prefix
        if len(prompt_ids) > len(prefix) and tuple(prompt_ids[: len(prefix)]) == prefix:
            return prefix, list(prompt_ids[len(prefix) :])
        return (), list(prompt_ids)

    def text(self, token_ids: Sequence[int]) -> str:
        """Readable text of a continuation, special tokens left out.

        If thoughts are open, they and the answer follow labels (`pytest_divergence.core.replies`).
        """
        if self.open_replies is not None:
            return self.open_replies.text(token_ids)
        return decoded(self.tokenizer, token_ids)

    def user_text(self, token_ids: Sequence[int]) -> str:
        """Readable text of a user's turn, special tokens left out: nothing in it is a thought."""
        return decoded(self.tokenizer, token_ids)

    def has_control_tokens(self, text: str) -> bool:
        """Whether the text contains a special token as text."""
        return any(token in text for token in self._control_tokens.values())

    @property
    def template_digest(self) -> str | None:
        """sha256 of the template's text; None without one."""
        if self.template is None:
            return None
        return text_digest(self.template)

    def _plain_ids(self, turns: Sequence[Message]) -> list[int]:
        parts = [turn.content for turn in turns]
        if self.system_prompt is not None:
            parts.insert(0, self.system_prompt)
        text = "\n\n".join(parts)
        ids = self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
        start = self.tokenizer.bos_token_id
        # A model must see at least one token before the first that it predicts.
        if start is None and not ids:
            start = self.tokenizer.eos_token_id
        return ([start] if start is not None else []) + list(ids)

    def _rendered_ids(self, turns: Sequence[Message]) -> list[int]:
        options: dict[str, Any] = {}
        if "sanitize_control_tokens" in _parameters(self.tokenizer.apply_chat_template):
            options["sanitize_control_tokens"] = True
        else:
            self._refuse_control_tokens(turns)
        try:
            ids = self.tokenizer.apply_chat_template(
                [turn.model_dump() for turn in turns],
                chat_template=self._timeless_template,
                add_generation_prompt=True,
                return_dict=False,
                **options,
                **self.all_arguments,
            )
        except Exception as error:  # jinja2 and the template itself raise anything
            raise DivergenceError(
                f"the chat template refuses the prompt {safe_line(turns[-1].content)}: "
                f"{safe_line(str(error))}"
            ) from error
        if len(ids) > MAX_RENDERED:  # a token is a character at least
            raise DivergenceError(
                f"the chat template makes {len(ids):,} tokens of the prompt "
                f"{safe_line(turns[-1].content)}, and the limit is {MAX_RENDERED:,}; give "
                f"another {setting('chat_template')}"
            )
        return cast("list[int]", ids)

    @cached_property
    def _control_tokens(self) -> Mapping[int, str]:
        """Texts of the tokenizer's control tokens by id.

        `all_special_tokens` holds those alone that have a role, such as the end of a text.
        """
        added = self.tokenizer.added_tokens_decoder
        return {token_id: token.content for token_id, token in added.items() if token.special}

    @cached_property
    def _timeless_template(self) -> str:
        return f"{FROZEN_CLOCK if self.asks_for_time else ''}{self.template or ''}"

    @property
    def given_arguments(self) -> dict[str, Any]:
        """Arguments of the template as a user gives them, without those that are held fixed."""
        fixed = FROZEN_ARGUMENTS.items()
        return {name: value for name, value in self.arguments.items() if (name, value) not in fixed}

    @property
    def all_arguments(self) -> dict[str, Any]:
        """All arguments of the template, also those that open or close thoughts."""
        closing = self.thoughts.arguments if self.thoughts is not None else {}
        return {**self.arguments, **closing}

    @cached_property
    def _prefill_ids(self) -> list[int]:
        text = self.thoughts.prefill if self.thoughts is not None else ""
        return list(self.tokenizer.encode(text, add_special_tokens=False)) if text else []

    def _text(
        self, messages: list[dict[str, str]], is_prompt: bool, arguments: Mapping[str, Any]
    ) -> str:
        return cast(
            "str",
            self.tokenizer.apply_chat_template(
                messages,
                chat_template=self._timeless_template,
                add_generation_prompt=is_prompt,
                tokenize=False,
                **arguments,
            ),
        )

    def _refuse_control_tokens(self, turns: Sequence[Message]) -> None:
        for turn in turns:
            if self.has_control_tokens(turn.content):
                raise DivergenceError(
                    f"the prompt {safe_line(turn.content)} contains one of the tokenizer's control "
                    "tokens as text, and the installed transformers would read it as the real "
                    "one; remove it, or install a newer transformers"
                )


def choose_template(
    choice: str,
    tokenizer: PreTrainedTokenizerBase,
    other: PreTrainedTokenizerBase | None,
    say: Callable[[str], None],
    arguments: Mapping[str, Any] = FROZEN_ARGUMENTS,
) -> str | None:
    """The chat template that both models share.

    Raises `ModelLoadError` for a file that is not readable, and for a template that takes too much
    time, memory or text in a trial.
    """
    template = _chosen_template(choice, tokenizer, other, say)
    if template is not None:
        special = {"add_generation_prompt": True, "tools": None, **tokenizer.special_tokens_map}
        check_template(template, choice=choice, arguments={**special, **arguments})
    return template


def template_owner(
    choice: str, reference: PreTrainedTokenizerBase, candidate: PreTrainedTokenizerBase | None
) -> PreTrainedTokenizerBase | None:
    """The tokenizer whose chat template is chosen; None for a file, and where there is none.

    Raises `ModelLoadError` for several templates of which none is the default.
    """
    both = {"reference": (reference, candidate), "candidate": (candidate, reference)}
    having = (each for each in both.get(choice, ()) if each is not None)
    return next(filter(template_of, having), None)


def check_takes_text(chat: ChatFormat, choice: str) -> None:
    """Raise `ModelLoadError` if the template leaves out what the user says.

    `choice` is the user's value of the option.
    """
    try:
        first, second = map(chat.template_ids, PROBES)
    except DivergenceError:  # a template may refuse any conversation; prompts show that soon enough
        return
    if first == second:
        raise ModelLoadError(
            f"{setting('chat_template')}={choice}: the template leaves out the user's text; it may "
            "want a list of parts in its place, so give another template, or none"
        )


def check_marks_are_shared(chat: ChatFormat, vocabulary: Vocabulary | None) -> None:
    """Raise `ModelLoadError` if the template writes a token that one model has no row for."""
    if vocabulary is None:
        return
    try:
        written = {*chat.user_opening, *chat.user_suffix}
    except DivergenceError:  # a template may refuse any conversation; prompts show that soon enough
        return
    if lacking := sorted(id_ for id_ in written if id_ >= vocabulary.num_shared):
        token = decoded(chat.tokenizer, lacking[:1], keep_special=True)
        raise ModelLoadError(
            f"the chat template writes the token {safe_line(token)}, and one of the models has no "
            f"row for it; give a {setting('chat_template')} that both models can read, or none"
        )


def check_system_prompt(chat: ChatFormat, choice: str) -> None:
    """Raise `ModelLoadError` if the template refuses or ignores the system prompt.

    `choice` is the user's value of the option.
    """
    if chat.template is None or chat.system_prompt is None:
        return
    without = replace(chat, system_prompt=None).prompt_ids(PROBES[0])
    try:
        ignored, reason = chat.prompt_ids(PROBES[0]) == without, ""
    except DivergenceError as error:
        ignored, reason = False, f" ({error.__cause__})"
    if ignored or reason:
        does = "leaves out" if ignored else "refuses"
        raise ModelLoadError(
            f"{setting('chat_template')}={choice}: the template {does} a system turn"
            f"{safe_line(reason)[1:-1]}, and {setting('system_prompt')} is given; leave it out, "
            "begin the prompts with its text, or give a template that takes one"
        )


def check_arguments(chat: ChatFormat, given: Mapping[str, Any]) -> None:
    """Raise `ModelLoadError` for an argument that the template does not read.

    The names that open and close thoughts are read here if the template has thoughts at all.
    """
    template = chat.template or ""
    read = THINKING_SWITCHES if chat.thoughts is not None else ()
    for name in given:
        if name in read or re.search(rf"\b{re.escape(name)}\b", template):
            continue
        reads = "has no thoughts" if name in THINKING_SWITCHES else "does not read it"
        why = f"the chat template {reads}" if template else "prompts are plain text, not a template"
        raise ModelLoadError(
            f"{setting('template_arg')}={name}=…: {why}; leave it out, check its spelling, or give "
            f"another {setting('chat_template')}"
        )


def thoughts_note(chat: ChatFormat) -> str | None:
    """The note on what is measured of replies with thoughts; None for a template without any."""
    thoughts, switch = chat.thoughts, THINKING_SWITCHES[0]
    if thoughts is None:
        return None
    if thoughts.is_open:
        return f"thoughts are open: up to {chat.thought_length} tokens of them before each answer"
    if thoughts.is_left:
        return (
            "the chat template leaves it to the models whether they think first; "
            f"{setting('template_arg')} {switch}=false closes thoughts, and =true measures them "
            "and answers"
        )
    return (
        f"thoughts are closed ({thoughts.way}): only answers are measured; "
        f"{setting('template_arg')} {switch}=true measures both"
    )


def _chosen_template(
    choice: str,
    tokenizer: PreTrainedTokenizerBase,
    other: PreTrainedTokenizerBase | None,
    say: Callable[[str], None],
) -> str | None:
    if choice == "none":
        return None
    if choice in ("reference", "candidate"):
        owner = template_owner(choice, tokenizer, other)
        if choice == "reference" and owner not in (None, tokenizer):
            say("the reference has no chat template; the candidate's is used for both")
        return template_of(owner) if owner is not None else None
    try:
        return read_regular_text(choice)
    except OSError as error:
        raise ModelLoadError(
            f"{setting('chat_template')}={choice} must be reference, candidate, none or a "
            f"readable Jinja file: {error.strerror}"
        ) from error


def _parameters(function: Callable[..., object]) -> Mapping[str, object]:
    return inspect.signature(function).parameters


def _num_shared(first: Sequence[int], second: Sequence[int]) -> int:
    """Length of the longest common beginning."""
    shared = 0
    for left, right in zip(first, second, strict=False):
        if left != right:
            break
        shared += 1
    return shared
