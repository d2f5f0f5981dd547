"""The beginning of a script whose process is killed at one of its system calls."""

from __future__ import annotations

DYING = """
import os, sys
calls = int(sys.argv[2])
def dying(real):
    def call(*arguments, **options):
        global calls
        calls -= 1
        if calls < 0:
            os._exit(9)
        return real(*arguments, **options)
    return call
def die_in(*names):
    for name in names:
        setattr(os, name, dying(getattr(os, name)))
"""
"""Its second argument is the number of calls that it survives, of those that `die_in` names."""
