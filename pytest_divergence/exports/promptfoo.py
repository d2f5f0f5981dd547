r"""A configuration of promptfoo without providers: one prompt, and a test for each case.

Format: promptfoo.dev/docs/configuration/reference. A prompt is handed over as the JSON of its chat
turns, which chat providers take as such. Braces in it are written `\u007b` and `\u007d`, because
promptfoo expands templates in variables too; and no variable begins with `file://`, which it would
read as a file. A suite holds text that a search found, or that someone else wrote, and it must
reach the models unchanged.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from pytest_divergence.core.cases import Case
from pytest_divergence.core.json_files import strict_dumps
from pytest_divergence.core.suites import StoredSuite
from pytest_divergence.exports.chosen_cases import Exported, cases_of

SUFFIXES = (".json", ".yaml", ".yml")
"""JSON is YAML; promptfoo refuses other names."""
VARIABLE = "messages"
NOT_IN_YAML = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
"""Characters that JSON may hold unescaped, but YAML may not, or takes for the end of a line."""


def exported(suites: Sequence[StoredSuite]) -> Exported:
    """Return the configuration, without assertions, because none of promptfoo's is about nats."""
    tests = [_test(case) for case in cases_of(suites)]
    configuration = {
        "description": f"{len(tests)} cases of pytest-divergence",
        "prompts": [f"{{{{{VARIABLE}}}}}"],
        "tests": tests,
    }
    text = NOT_IN_YAML.sub(
        lambda found: rf"\u{ord(found[0]):04x}", strict_dumps(configuration, indent=2)
    )
    return Exported(text + "\n", len(tests))


def _test(case: Case) -> dict[str, Any]:
    known = {
        "id": case.id,
        "behaviour": case.behaviour,
        "metric": case.kl and case.kl.metric,
        "kl": case.kl and case.kl.value,
        "max_kl": case.max_kl,
    }
    return {
        "description": case.id,
        "vars": {VARIABLE: _turns(case)},
        "metadata": {key: value for key, value in known.items() if value is not None},
    }


def _turns(case: Case) -> str:
    """Return the chat turns as JSON without a brace in a string, so that it holds no template."""
    turns = (
        f'{{"role": "{turn.role}", "content": {_inert(strict_dumps(turn.content))}}}'
        for turn in case.turns
    )
    return f"[{', '.join(turns)}]"


def _inert(text: str) -> str:
    return text.replace("{", r"\u007b").replace("}", r"\u007d")
