"""Effects of contexts on a pair: those under which the models part far more than under others.

Both models answer a few controls briefly under each context, and plainly. Contexts change how far
any two models part, and prompts do too, so both are taken out: what is left of a context alone is
compared with the others (median polish, Tukey 1977). Does not know what the models say.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pytest_divergence.core.contexts import Context
from pytest_divergence.core.errors import DivergenceError, SettingsError
from pytest_divergence.core.safe_text import safe_line
from pytest_divergence.core.setting_names import setting
from pytest_divergence.discovery.contexts.context_files import Contexts
from pytest_divergence.discovery.engines.base import Ledger, Worker, WorkUnit
from pytest_divergence.discovery.progress import Listener
from pytest_divergence.models.chat_format import Prompt
from pytest_divergence.scoring.scorer import score_greedily

NUM_PROMPTS = 12
"""Controls that are asked under each context."""
LENGTH = 4
"""Tokens of their answers."""
MIN_STANDING = 4.0
"""Robust standard deviations above the other contexts at which one stands out."""
MIN_SPREAD = 0.05
"""Least standard deviation that is believed, in ln nats per token: contexts that read alike to a
twentieth do not make a sixth remarkable."""
NORMAL_MAD = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation."""
MAX_KEPT = 3
"""Contexts under which leads are looked for, at most."""
FEW = 8
"""Contexts; of fewer, the spread says nothing."""
MAX_SWEEPS = 20


class MedianPolish(NamedTuple):
    """Parts of a table: each entry is overall + row + column + residual."""

    overall: float
    rows: NDArray[np.float64]
    columns: NDArray[np.float64]
    residuals: NDArray[np.float64]


def median_polish(table: NDArray[np.float64]) -> MedianPolish:
    """Part a table into its overall level, rows, columns and a rest (Tukey 1977).

    Sweeps the medians of columns, then of rows, out until nothing is left to sweep. Rows and
    columns have the median 0. What is added to a column changes nothing else, and a strange entry
    in few no row.
    """
    rest, overall = np.array(table, dtype=np.float64), 0.0
    rows, columns = np.zeros(rest.shape[0]), np.zeros(rest.shape[1])
    for _ in range(MAX_SWEEPS):
        by_column = np.median(rest, axis=0)
        rest, columns = rest - by_column, columns + by_column
        by_row = np.median(rest, axis=1)
        rest, rows = rest - by_row[:, None], rows + by_row
        for effects in (rows, columns):
            level = float(np.median(effects))
            effects -= level
            overall += level
        if max(np.abs(by_row).max(), np.abs(by_column).max()) < 1e-12:
            break
    return MedianPolish(overall, rows, columns, rest)


def standings(effects: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return each effect in robust standard deviations of all: a / (1.4826 MAD(a))."""
    mad = float(np.median(np.abs(effects - np.median(effects))))
    return effects / max(NORMAL_MAD * mad, MIN_SPREAD)


def chosen(contexts: Contexts, effects: NDArray[np.float64]) -> list[Context]:
    """Return the contexts under which leads are looked for, the strongest first, at most three.

    `effects` are those of all contexts in order, and of the plain prompt last. Of a file, up to
    three contexts are always among them; so are the strongest where there are few in all.
    """
    ranked = sorted(
        zip(contexts.all, effects[:-1], standings(effects)[:-1], strict=True),
        key=lambda each: (-each[1], each[0].canonical),
    )
    own = contexts.given if len(contexts.given) <= MAX_KEPT else ()
    is_few = len(contexts.all) < FEW
    kept = [context for context, _, _ in ranked if context in own]
    kept += [
        context
        for context, _, standing in ranked
        if context not in own and (is_few or standing > MIN_STANDING)
    ]
    return kept[:MAX_KEPT]


def standing_out(
    ledger: Ledger,
    contexts: Contexts,
    texts: Sequence[str],
    noise_floor: float,
    listener: Listener,
) -> list[Context]:
    """Measure the pair under each context, a work unit each; return the contexts to look into.

    `texts` are controls. Divergences below the noise floor count as that. A context that the chat
    template refuses is left out, with a line; raises `SettingsError` if it is of the user's file.
    """
    asked = [*contexts.all, None]
    units = [_unit(context, texts[:NUM_PROMPTS]) for context in asked]
    rows, left = [], list[Context]()
    refused = ""
    for number, (context, found) in enumerate(zip(asked, ledger.results(units), strict=True)):
        listener.progress("look at contexts", number + 1, len(asked))
        if found["divergences"] is not None:
            rows.append([math.log(max(value, noise_floor)) for value in found["divergences"]])
            left += [] if context is None else [context]
            continue
        refused = found["refusal"]
        if context is not None and context in contexts.given:
            raise SettingsError(
                f"{setting('contexts')}: the chat template refuses {safe_line(context.name)}: "
                f"{refused}; leave it out, or give another {setting('chat_template')}"
            )
    if refused:
        number = len(contexts.all) - len(left)
        listener.say(
            f"{number} of {len(contexts.all)} contexts are left out, because the chat template "
            f"refuses them: {refused}"
        )
    usable = Contexts(contexts.given, tuple(each for each in left if each not in contexts.given))
    return chosen(usable, median_polish(np.array(rows)).rows) if left else []


def _unit(context: Context | None, texts: Sequence[str]) -> WorkUnit:
    prompts: list[Prompt] = [text if context is None else context.prompt(text) for text in texts]
    return WorkUnit.of("contexts/effect", _measure, prompts=prompts)


def _measure(worker: Worker, *, prompts: Sequence[Prompt]) -> dict[str, object]:
    """Return the symmetric divergence of each prompt, or why the template refuses the first."""
    try:
        worker.pair.chat.prompt_ids(prompts[0])
    except DivergenceError as error:
        return {"divergences": None, "refusal": safe_line(str(error.__cause__ or error))[1:-1]}
    scores = score_greedily(worker.pair, prompts, max_new_tokens=LENGTH)
    values = [(each.measurement.forward + each.measurement.reverse) / 2 for each in scores]
    return {"divergences": values, "refusal": None}
