"""Which families of models are measured, and how: from the zoo that the tests measure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

from docs.site.markdown import code, table

RECORDS = Path(__file__).parents[2] / "tests" / "zoo" / "families.json"
"""Written by `python -m tests.zoo.records`, compared with what comes true by `tests/zoo`."""
Record = dict[str, str]
SUBJECT = re.compile(r"^the (reference|candidate)(, an? \w+,| \([^)]*\)) |^model_\d: \S+ ")
"""How a message begins that speaks of one model."""
END = re.compile(r"it (?:raises (\w+)|\w+ from plain passes)")
"""What ends a way of reading: an error, or numbers."""
OTHER_NUMBERS = "other numbers"


def families_page() -> str:
    """Return the page of model families, by what becomes of them."""
    recorded = json.loads(RECORDS.read_text("utf-8"))
    families: dict[str, Record] = recorded["families"]
    version = recorded["transformers"]
    works, slower, refused = (
        {name: record for name, record in families.items() if record["outcome"] == outcome}
        for outcome in ("works", "slower path", "refused")
    )
    without = {
        name: record for name, record in families.items() if "without_soft_prompts" in record
    }
    return f"""# Model families

The tests build each of the {len(families)} types of causal language models in transformers
{version} small, with random weights, and measure it: greedy answers and divergences equal those of
plain forward passes, one row at a time and without a cache, to 10⁻⁵ nats per token, or to ten times
what rounding makes plain passes differ by. The names are those of `model_type` in a model's
`config.json`. How a model is read is tried out when it is loaded, so a family that is missing here
may work too.

## Read in batches

{len(works)} families: {_names(works)}.

## Read by a slower path

{len(slower)} families are read more slowly, because faster ways give other numbers than plain
passes or end in an error of transformers. A line says so when such a model is loaded.

{table(("how it is read", "what ends the faster ways", "families"), _ways(slower))}
## Refused

{table(("why", "families"), _reasons(refused, "reason"))}
## Without soft prompts

These are measured, but no soft prompt can be trained for them; the other strategies of a search
work.

{table(("why", "families"), _reasons(without, "without_soft_prompts"))}"""


def _ways(families: dict[str, Record]) -> list[tuple[str, str, str]]:
    """Return each way of reading, what ends the faster ones, and whose it is."""
    ways: dict[tuple[str, str], list[str]] = {}
    for name, record in families.items():
        how, _, why = SUBJECT.sub("", record["reason"]).partition(", which is slower: ")
        ends = {code(error) if error else OTHER_NUMBERS for error in END.findall(why)}
        ways.setdefault((how.removeprefix("is read "), ", ".join(sorted(ends))), []).append(name)
    return [(how, why, _names(names)) for (how, why), names in sorted(ways.items())]


def _names(families: Iterable[str]) -> str:
    return ", ".join(map(code, families))


def _reasons(families: dict[str, Record], key: str) -> list[tuple[str, str]]:
    """Return each reason, and whose it is."""
    reasons: dict[str, list[str]] = {}
    for name, record in families.items():
        reasons.setdefault(SUBJECT.sub("", record[key]), []).append(name)
    return [(reason, _names(names)) for reason, names in reasons.items()]
