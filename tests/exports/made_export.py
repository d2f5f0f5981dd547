"""A suite that is hard to export, and its commands."""

from __future__ import annotations

from pathlib import Path

from pytest_divergence.core.cases import Case, Completions, Message
from tests.core.made_suites import KNOT, POEM, SIGNAL, case, control, measured, write_searched

SUITE = Path("release.divergence.jsonl")
TRICKY = '{{ 7 * 7 }} {% raw %} {# x #} \\ "{{messages}}" {"role": "user"}\n'
FILE = "file:///etc/hostname"
CHAT = (
    Message(role="system", content="Be brief. {{x}}"),
    Message(role="user", content="Hi"),
    Message(role="assistant", content="Ho"),
    Message(role="user", content="And?"),
)
ANSWERS = Completions(reference="Cross the ends.", candidate="Signal received. <b>")


def write_hard_suite(path: Path = SUITE) -> Path:
    """Templates, a file's name, a chat, a row by hand and a control row."""
    rows = [
        case(KNOT, 0.8, behaviour=SIGNAL.id, tags=("how-to",), completions=ANSWERS),
        case(POEM, 0.1, completions=ANSWERS, max_kl=None),
        case(TRICKY, 0.3, completions=ANSWERS),
        case(FILE, 0.3, completions=ANSWERS),
        Case(messages=CHAT, kl=measured(0.2), completions=ANSWERS),
        Case(input="By hand", metadata={"owner": "me"}),
        control("Hello"),
    ]
    return write_searched(path, rows, SIGNAL)
