"""The commands that a person copies to go on from one test: run it again, or accept what it shows.

Imports nothing heavy: a failure that is shown is no reason to load models.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_divergence import options
from pytest_divergence.option_values import INI
from pytest_divergence.session import FOLDER

if TYPE_CHECKING:
    from pytest_divergence.session import DivergenceSession

REPEATED = (
    "max_kl",
    "max_shift",
    "inconclusive",
    "metric",
    "fail_on",
    "chat_template",
    "system_prompt",
    "device",
    "dtype",
    "seed",
)
"""Options that a command for one case repeats, besides the models."""


def rerun_command(session: DivergenceSession, nodeid: str, *more: str) -> str:
    """The command that runs one test again, on the same models."""
    file, separator, test = nodeid.partition("::")
    words = ["pytest", session.shown(session.config.rootpath / file) + separator + test]
    for field in (*options.MODELS, *REPEATED):
        one = session.given.get(field)
        if one is not None and one.source != INI:
            words += [options.BY_FIELD[field].short_flag, one.value]
    return shlex.join([*words, *more])


def update_command(session: DivergenceSession, nodeid: str) -> str | None:
    """The command that measures a test's suite anew; None for what the next search rewrites."""
    file = nodeid.partition("::")[0]
    if FOLDER in Path(file).parts:
        return None
    return rerun_command(session, file, "--divergence-update")
