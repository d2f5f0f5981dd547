"""A check that an untrusted regular expression can be matched against module names in time.

Python's engine tries all ways to match, so a pattern of twenty characters can run for years. The
check counts those ways from the text alone, and never too few.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_LENGTH = 200
MAX_WAYS = 65**4
"""Most ways to split a name: as many as four parts of any length have, seconds in all."""
NAME_LENGTH = 64
"""Typical length of a module's name."""
REPEAT = re.compile(r"([*+?]|\{(\d*)(,?)(\d*)\})[?+]?")
OPENING = re.compile(r"\((\?(P<\w+>|<?[=!]|[aiLmsux-]*:|>|#[^)]*))?")
CLASS = re.compile(r"\[\^?\]?(\\.|[^\]\\])*\]", re.DOTALL)


@dataclass
class _Group:
    """The content of an open bracket so far."""

    ways: int = 1
    is_varied: bool = False
    """Whether parts of it can match several lengths, or one text in several ways."""
    starts: tuple[str, ...] = ("",)
    """The beginning of each alternative; equal or open ones are tried one after the other."""

    def closed(self) -> _Group:
        """The group as a single part of the group around it."""
        is_choice = len(self.starts) > 1
        is_plain = len({*self.starts}) == len(self.starts) and all(
            start.isalnum() or start == "_" for start in self.starts
        )
        ways = self.ways * (1 if not is_choice or is_plain else len(self.starts))
        return _Group(ways, self.is_varied or is_choice)


def pattern_problem(pattern: str) -> str | None:
    """Problem of a pattern, as the end of a sentence; None if it may be matched."""
    if len(pattern) > MAX_LENGTH:
        return f"has {len(pattern)} characters, and the limit is {MAX_LENGTH}"
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        return f"is not a valid regular expression: {error}"
    groups, last, at = [_Group()], _Group(), 0
    while at < len(pattern):
        group, repeat = groups[-1], REPEAT.match(pattern, at)
        if repeat is not None:
            least, most = _bounds(repeat)
            if last.is_varied and most > 1:
                return "repeats a part that can be matched in several ways (nested quantifiers)"
            group.ways *= min(most, NAME_LENGTH) - min(least, NAME_LENGTH) + 1
            group.is_varied |= least != most
            last = _Group(is_varied=last.is_varied or least != most)
            at = repeat.end()
        elif opening := OPENING.match(pattern, at):
            _begin(group, "(")
            groups.append(_Group())
            at = opening.end()
        elif pattern[at] == ")" and len(groups) > 1:
            last = groups.pop().closed()
            groups[-1].ways *= last.ways
            groups[-1].is_varied |= last.is_varied
            at += 1
        elif pattern[at] == "|":
            group.starts += ("",)
            last, at = _Group(), at + 1
        else:
            end = _end_of_part(pattern, at)
            _begin(group, pattern[at:end])
            last, at = _Group(), end
    return "can be matched in too many ways" if groups[0].closed().ways > MAX_WAYS else None


def _begin(group: _Group, part: str) -> None:
    if not group.starts[-1]:
        group.starts = (*group.starts[:-1], part)


def _bounds(repeat: re.Match[str]) -> tuple[int, int]:
    """Least and most repeats that a quantifier allows."""
    sign, least, comma, most = repeat.groups()
    if sign in "*+?":
        return int(sign == "+"), 1 if sign == "?" else NAME_LENGTH
    low = int(least or 0)
    return low, low if not comma else int(most or NAME_LENGTH)


def _end_of_part(pattern: str, at: int) -> int:
    """Index after a character, an escape or a character class."""
    if pattern[at] == "[" and (found := CLASS.match(pattern, at)):
        return found.end()
    return min(at + (2 if pattern[at] == "\\" else 1), len(pattern))
