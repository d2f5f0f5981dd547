"""What a message calls a setting: its field, or what the user at hand writes to give it.

The plugin and the command say for as long as they run how a user spells a setting; whoever calls
the package from Python gives fields, and reads fields. Does not know which settings there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Spelling = Callable[[str], str]
_spellings: list[Spelling] = [str]
"""The last one holds: a session may run inside of another."""


def setting(field: str) -> str:
    """The setting of a field, for the inside of a message."""
    return _spellings[-1](field)


@contextmanager
def spelled_by(spelling: Spelling) -> Iterator[None]:
    """Every message that is worded meanwhile names settings as `spelling` does."""
    _spellings.append(spelling)
    try:
        yield
    finally:
        _spellings.pop()
