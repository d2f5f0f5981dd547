"""In what two runs of a search differ, in words that their users know: options, models, versions.

Knows the dotted names under which a journal keeps what its run depends on. They are others' text
too: nothing of them reaches a terminal as it is.
"""

from __future__ import annotations

import re

from pytest_divergence.core.journal_lines import About
from pytest_divergence.core.safe_text import safe_line

NUM_SHOWN = 3
"""Differences of two runs that a message names."""
MAX_SHOWN = 24
"""Characters of a value in it."""
UNSET = "not set"
NAMES = {
    "budget_seconds": "--divergence-budget in seconds",
    "profile.budget_tokens": "--divergence-budget in tokens",
    "profile.name": "--divergence-profile",
    "profile.num_cases": "--divergence-num-cases",
    "prompts": "the seeds and controls",
    "template": "the file of --divergence-chat-template",
    "identity.tokenizer_sha256": "the tokenizer",
    "identity.metric_sha256": "the code of the metric",
    "identity.device": "the device",
}
PATTERNS = (
    (r"settings\.(\w+)", lambda name: f"--divergence-{name.replace('_', '-')}"),
    (r"profile\.(\w+)", lambda name: f"the profile's {name.replace('_', ' ')}"),
    (r"identity\.(reference|candidate)\.weights_sha256", "the {}'s weights".format),
    (r"identity\.(reference|candidate)\.\w+", "the {}".format),
    (r"versions\.([\w-]+)", "the version of {}".format),
    (r"strategies\.(\w+)", "the strategy {}".format),
)
"""For all names of a kind."""


def unlike(ours: About, theirs: About) -> str:
    """In what two runs differ: `--divergence-seed: 0, 1`, the first few; empty where not known."""
    if not (ours and theirs):
        return ""
    names = [
        name for name in sorted({*ours, *theirs}) if _value(ours, name) != _value(theirs, name)
    ]
    shown = [
        f"{_in_words(name)}: {_brief(_value(ours, name))}, {_brief(_value(theirs, name))}"
        for name in names[:NUM_SHOWN]
    ]
    return "; ".join(shown + ([f"{len(names) - NUM_SHOWN} more"] if names[NUM_SHOWN:] else []))


def in_sight(text: str) -> str:
    """Without what moves a terminal: others' files say it, and have names of their own."""
    return safe_line(text, len(text))[1:-1]


def _in_words(name: str) -> str:
    if name in NAMES:
        return NAMES[name]
    for pattern, words in PATTERNS:
        if found := re.fullmatch(pattern, name, flags=re.ASCII):
            return words(found[1])
    return in_sight(name)


def _value(about: About, name: str) -> str:
    value = about.get(name, "None")
    return UNSET if value == "None" else value  # a run keeps the text of each value


def _brief(value: str) -> str:
    return in_sight(value[:MAX_SHOWN]) + ("…" if value[MAX_SHOWN:] else "")
