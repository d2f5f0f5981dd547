"""Names of settings in messages: the field, or the spelling that the user at hand gives it by.

The plugin and the command set, for as long as they run, how a user spells a setting; callers from
Python write fields, and read fields. Does not know which settings there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Spelling = Callable[[str], str]
_spellings: list[Spelling] = [str]
"""The last one applies: a session may run inside another."""


def setting(field: str) -> str:
    """Return the name of a field's setting, for the inside of a message."""
    return _spellings[-1](field)


@contextmanager
def spelled_by(spelling: Spelling) -> Iterator[None]:
    """Make every message that is worded meanwhile name settings as `spelling` does."""
    _spellings.append(spelling)
    try:
        yield
    finally:
        _spellings.pop()
