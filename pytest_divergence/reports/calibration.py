"""The table of `pytest-divergence calibrate`: plain lines of at most 80 columns.

Shows a `CalibrationReport`; measures and decides nothing.
"""

from __future__ import annotations

from pytest_divergence.core.calibration_record import CalibrationReport, InjectedNoise, Nuisance
from pytest_divergence.core.evaluation_metrics import BUILT_IN_METRICS
from pytest_divergence.core.quantities import number_of
from pytest_divergence.core.safe_text import printable_lines, visible
from pytest_divergence.core.verdicts import FLOOR_FACTOR
from pytest_divergence.reports.text_blocks import WIDTH, sentence, within
from pytest_divergence.reports.wording import bound_parts, duration, nats, spelled

NAME = 44
"""Width of a row's name; three numbers follow."""
NOISE_METRIC = "symmetric"
"""Metric of the noise, if the asserted metric is a built-in one."""
NUM_FOR_A_FLOOR = 59
"""Fewest measurements whose maximum covers 95 % of all at 95 % confidence."""


def calibration_lines(report: CalibrationReport) -> list[str]:
    """The whole table."""
    lines = [
        *_head(report),
        "",
        _row("Noise: a model against itself", "mean", "max", "n"),
        *_noise(report),
        "",
        _row("Shift: the candidate on ordinary prompts", "mean", "max", "n"),
        *_shift(report),
        "",
        *_bound(report),
        "",
        _row("Positive control: noise in all weights", "mean", "max", "over bound"),
        *_positive_control(report),
        "",
        *_effort(report),
    ]
    return printable_lines(lines)


def _head(report: CalibrationReport) -> list[str]:
    pair = report.pair
    is_other = report.metric in BUILT_IN_METRICS and report.metric != NOISE_METRIC
    noise = f" (of noise: {NOISE_METRIC})" if is_other else ""
    return [
        f"reference  {within(pair.reference, WIDTH - 11)}",
        f"candidate  {within(pair.candidate, WIDTH - 11)}",
        f"{pair.dtype} on {pair.device}, {report.attention} attention, profile {report.profile}",
        f"metric {report.metric}{noise}, {visible(spelled(report.unit))}",
    ]


def _noise(report: CalibrationReport) -> list[str]:
    floor = report.noise_floor
    lines = [
        _row("  noise floor", "", _floor(report), str(floor.num_measurements)),
        *sentence(
            "in a batch, alone, without a shared prefix, with a cache", width=WIDTH, indent="    "
        ),
    ]
    if floor.num_measurements < NUM_FOR_A_FLOOR:
        lines += sentence(
            f"fewer than {NUM_FOR_A_FLOOR} measurements: the true floor may be higher",
            width=WIDTH,
            indent="    ",
        )
    for nuisance in report.nuisances:
        lines += _nuisance(nuisance)
    if any(nuisance.max is not None for nuisance in report.nuisances):
        lines += sentence(
            "A bound is valid for one attention, dtype and device. If you replay a suite under "
            f"another, keep the bound above {FLOOR_FACTOR:g} x that row's max.",
            width=WIDTH,
            indent="  ",
        )
    return lines


def _floor(report: CalibrationReport) -> str:
    own = report.noise_floor.of(report.metric)
    return "not measured" if own is None else nats(own)


def _nuisance(nuisance: Nuisance) -> list[str]:
    kind = "" if nuisance.kind == "dtype" else f" {nuisance.kind}"
    name = f"  same weights, {nuisance.setting}{kind}"
    if nuisance.mean is None or nuisance.max is None:
        return [f"{name}: not measured", *_reason(nuisance.reason)]
    return [_row(name, nats(nuisance.mean), nats(nuisance.max), str(nuisance.num_measurements))]


def _shift(report: CalibrationReport) -> list[str]:
    shift = report.typical_shift
    return [
        _row("  controls", nats(shift.mean), nats(shift.max), str(shift.num_controls)),
        _row("  their 99th percentile", "", nats(shift.p99), ""),
    ]


def _bound(report: CalibrationReport) -> list[str]:
    lines = [_row("Bound", "", nats(report.bound.value), "")]
    lines += sentence(report.bound.label, width=WIDTH, indent="  ")
    if parts := bound_parts(report.bound):
        lines += [_row(f"  {name}", "", value, "") for name, value in parts]
        lines += sentence(
            "A search leaves out controls that show a confirmed behaviour, which may lower the "
            "bound. Use --max-kl to see what another bound catches, without new measurements.",
            width=WIDTH,
            indent="  ",
        )
    return lines


def _positive_control(report: CalibrationReport) -> list[str]:
    num_prompts = len(report.planted_prompts)
    lines = []
    for injected in report.planted:
        lines += _planted(injected, num_prompts)
    caught = report.smallest_caught
    if caught is None:
        lines += sentence(
            "Nothing is caught: none of these changes makes a gate at this bound fail.",
            width=WIDTH,
            indent="  ",
        )
    else:
        lines.append(f"  smallest change caught: {caught:g}")
    return lines + sentence(
        "Size: standard deviation of the noise, relative to that of each weight matrix. Caught: "
        "in a replay with the reference plus noise as the candidate, at least one of the first "
        f"{number_of(num_prompts, 'control')} is over the bound.",
        width=WIDTH,
        indent="  ",
    )


def _planted(injected: InjectedNoise, num_prompts: int) -> list[str]:
    name = f"  {injected.size:g}"
    if not injected.values:
        return [f"{name}: not measured", *_reason(injected.reason)]
    mean = sum(injected.values) / len(injected.values)
    over = f"{injected.num_over} of {num_prompts}"
    return [_row(name, nats(mean), nats(max(injected.values)), over)]


def _reason(reason: str | None) -> list[str]:
    return sentence(reason or "no reason given", width=WIDTH, indent="    ")


def _effort(report: CalibrationReport) -> list[str]:
    effort = report.effort
    took = f"{duration(effort.seconds)}, {number_of(effort.tokens_forwarded, 'forwarded token')}"
    if not report.is_cached:
        return sentence(f"Measured in {took}.", width=WIDTH)
    text = f"Saved results; measuring them took {took}."
    return sentence(text, width=WIDTH)


def _row(name: str, mean: str, largest: str, count: str) -> str:
    return f"{name:<{NAME}}{mean:>12}{largest:>12}{count:>12}".rstrip()
