"""A suite after an intended change: its rows measured afresh, with new limits and provenance.

Knows what of a suite changes and what stays; does not know which session asked, nor when it may.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from pytest_divergence.core.behaviours import Behaviour
from pytest_divergence.core.cases import Case, Measurement, is_same_quantity
from pytest_divergence.core.evaluation_metrics import BUILT_IN_METRICS
from pytest_divergence.core.provenance import NoiseFloor, Provenance, TypicalShift, is_same_model
from pytest_divergence.core.setting_names import setting
from pytest_divergence.core.settings import MetricName
from pytest_divergence.core.suites import StoredSuite, check_same_pair
from pytest_divergence.core.tokens import StoredTokens
from pytest_divergence.core.verdicts import approved_limit
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.scoring.baseline import NUM_READINGS, measure_noise_floor, typical_shift
from pytest_divergence.scoring.suite_rows import (
    Remeasured,
    Sizes,
    case_prompt,
    measure_afresh,
    replay_behaviour,
)

MIN_NOISE_PROMPTS = 20
"""Fewer prompts say nothing of the noise floor."""
SAME = {"rel_tol": 1e-4, "abs_tol": 1e-6}
"""Tolerances for arithmetic: a row whose values move no further keeps its text."""


@dataclass(frozen=True)
class NewSuite:
    """Content of a suite to write."""

    rows: Mapping[str, Case]
    """Every row of the file by id, also those that stay."""
    tokens: Mapping[str, StoredTokens]
    provenance: Provenance
    failed: Mapping[str, Exception]
    """Errors of rows that could not be measured; with one of them nothing is written."""


def updated(
    pair: ModelPair,
    stored: StoredSuite,
    made: Provenance,
    sizes_of: Callable[[Case], Sizes],
    *,
    seed: int,
) -> NewSuite:
    """Measure every row afresh on `pair`; `made` says how, and replaces the old provenance.

    The bound stays, unless the metric is another quantity now, and so do the behaviours; those that
    the pair's candidate does not show are marked.
    """
    old = stored.provenance
    behaviours = (
        [_asked_again(pair, behaviour) for behaviour in old.behaviours] if old is not None else []
    )
    found = measure_afresh(pair, stored.suite.rows, sizes_of, seed=seed)
    floor = old.noise_floor if old is not None and _is_same_arithmetic(old, made) else None
    metric = _metric_of(found)
    if floor is None or floor.of(metric) is None:
        floor = _noise_floor(pair, stored.suite.rows, found, metric)
    rows = {
        row.id: _updated_row(row, found[row.id], stored.tokens.get(row.id), floor)
        for row in stored.suite.rows
    }
    kept = {
        row.id
        for row in stored.suite.rows
        if rows[row.id].kl == row.kl and _is_complete(stored.tokens.get(row.id))
    }
    shift = old.typical_shift if old is not None else None
    if any(row.id not in kept for row in stored.suite.controls) or not stored.suite.controls:
        shift = _shift(rows.values())
    changes: dict[str, object] = {
        "noise_floor": floor,
        "typical_shift": shift,
        "behaviours": behaviours,
    }
    if old is not None:
        was = stored.measured
        is_kept = was is None or is_same_quantity(was.metric, metric)
        changes |= {
            "bound": old.bound if is_kept else None,
            "nll_limit": old.nll_limit,
            "effort": old.effort,
            "training_data_sha256": old.training_data_sha256,
            "contexts_sha256": old.contexts_sha256,
            "source": old.source,
        }
    return _new(stored, rows, found, kept, made.model_copy(update=changes))


def filled(
    pair: ModelPair,
    stored: StoredSuite,
    made: Provenance,
    sizes_of: Callable[[Case], Sizes],
    *,
    seed: int,
) -> NewSuite:
    """Measure the rows without a measurement on `pair`; all others stay as they are.

    Raises SuiteError if the others were measured on another pair than `made` names.
    """
    check_same_pair(
        stored,
        made,
        relation="was measured on",
        if_other=f"name that pair, or measure all rows with {setting('update')}",
    )
    wanted = [row for row in stored.suite.rows if row.kl is None]
    found = measure_afresh(pair, wanted, sizes_of, seed=seed)
    provenance = stored.provenance
    if provenance is None:
        provenance = made.model_copy(
            update={"noise_floor": _noise_floor(pair, wanted, found, _metric_of(found))}
        )
    new = {row.id: _filled_row(row, found[row.id], provenance.noise_floor) for row in wanted}
    rows = {row.id: new.get(row.id, row) for row in stored.suite.rows}
    if stored.provenance is None:
        provenance = provenance.model_copy(update={"typical_shift": _shift(rows.values())})
    return _new(stored, rows, found, set(), provenance)


def _new(
    stored: StoredSuite,
    rows: Mapping[str, Case],
    found: Mapping[str, Remeasured | Exception],
    kept: set[str],
    provenance: Provenance,
) -> NewSuite:
    """Return the new suite; `kept` are rows whose measurement and continuations stay."""
    tokens = {
        id_: result.stored
        for id_, result in found.items()
        if isinstance(result, Remeasured) and id_ not in kept
    }
    failed = {id_: result for id_, result in found.items() if isinstance(result, Exception)}
    return NewSuite(rows, {**stored.tokens, **tokens}, provenance, failed)


def _updated_row(
    row: Case, found: Remeasured | Exception, stored: StoredTokens | None, floor: NoiseFloor | None
) -> Case:
    if isinstance(found, Exception):
        return row
    is_same = _ids_of(stored) == _ids_of(found.stored) and _reads_the_same(
        row.kl, found.measurement
    )
    kl = row.kl if is_same and row.kl is not None else found.measurement
    has_completions = not row.is_control or row.completions is not None
    return row.with_changes(
        kl=kl,
        completions=found.completions if has_completions else None,
        max_kl=_limit(kl, floor) if row.max_kl is not None else None,
    )


def _filled_row(row: Case, found: Remeasured | Exception, floor: NoiseFloor | None) -> Case:
    if isinstance(found, Exception):
        return row
    if row.is_control:
        return row.with_changes(kl=found.measurement)
    return row.with_changes(
        kl=found.measurement,
        completions=found.completions,
        max_kl=row.max_kl or _limit(found.measurement, floor),
    )


def _limit(measurement: Measurement, floor: NoiseFloor | None) -> float:
    return approved_limit(
        measurement.value, floor.of(measurement.metric) if floor is not None else None
    )


def _ids_of(stored: StoredTokens | None) -> StoredTokens | None:
    """Return continuations without their log-probabilities, which move with rounding."""
    return stored and stored.model_copy(update={"candidate_log_p": None})


def _is_complete(stored: StoredTokens | None) -> bool:
    """Whether nothing is missing that this version stores with continuations."""
    return stored is not None and stored.candidate_log_p is not None


def _reads_the_same(old: Measurement | None, new: Measurement) -> bool:
    if old is None or old.metric != new.metric or old.estimator != new.estimator:
        return False
    if old.k3 is None and new.k3 is not None:
        return False  # a row of before: it becomes one that a server can be compared with
    numbers = ("value", "forward", "reverse", "js", "max_token")
    return all(math.isclose(getattr(old, name), getattr(new, name), **SAME) for name in numbers)


def _asked_again(pair: ModelPair, behaviour: Behaviour) -> Behaviour:
    if not behaviour.telling:
        return behaviour
    is_absent = replay_behaviour(pair, behaviour.telling).is_gone
    return behaviour.model_copy(update={"absent": is_absent})


def _is_same_arithmetic(old: Provenance, made: Provenance) -> bool:
    is_same = is_same_model(old.reference, made.reference)
    return is_same and (old.dtype, old.device) == (made.dtype, made.device)


def _metric_of(found: Mapping[str, Remeasured | Exception]) -> MetricName:
    """Return the metric of most rows."""
    metrics = Counter(
        result.measurement.metric for result in found.values() if isinstance(result, Remeasured)
    )
    return metrics.most_common(1)[0][0] if metrics else BUILT_IN_METRICS[0]


def _noise_floor(
    pair: ModelPair,
    rows: Sequence[Case],
    found: Mapping[str, Remeasured | Exception],
    metric: MetricName,
) -> NoiseFloor | None:
    """Measure the noise floor on up to 59 prompts; None if there are too few of them."""
    measured = [
        (row, result.stored.candidate[0])
        for row in rows
        if isinstance(result := found[row.id], Remeasured)
    ][:NUM_READINGS]
    if len(measured) < MIN_NOISE_PROMPTS:
        return None
    prompts = [case_prompt(row) for row, _ in measured]
    return measure_noise_floor(pair, prompts, [ids for _, ids in measured], metric=metric)


def _shift(rows: Iterable[Case]) -> TypicalShift | None:
    values = [row.kl.value for row in rows if row.is_control and row.kl is not None]
    return typical_shift(values) if values else None
