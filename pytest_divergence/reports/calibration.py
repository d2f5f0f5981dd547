"""The table of `pytest-divergence calibrate`: plain lines of at most 80 columns.

Shows a `CalibrationReport`; measures and decides nothing.
"""

from __future__ import annotations

from pytest_divergence.core.calibration_record import CalibrationReport, InjectedNoise, Nuisance
from pytest_divergence.core.quantities import number_of
from pytest_divergence.core.safe_text import printable_lines, visible
from pytest_divergence.core.settings import BUILT_IN_METRICS
from pytest_divergence.core.verdicts import FLOOR_FACTOR
from pytest_divergence.reports.text_blocks import WIDTH, sentence, within
from pytest_divergence.reports.wording import bound_parts, duration, nats, spelled

NAME = 44
"""Columns of a row's name; three numbers follow."""
NOISE_METRIC = "symmetric"
"""What noise is measured in where a built-in metric is asserted."""
NUM_FOR_A_FLOOR = 59
"""Measurements from which a maximum covers 95 % of all at 95 % confidence."""


def calibration_lines(report: CalibrationReport) -> list[str]:
    """The whole table."""
    lines = [
        *_head(report),
        "",
        _row("Noise: the reference against itself", "mean", "max", "n"),
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
        *sentence("batch, alone, unshared prefix, cache", width=WIDTH, indent="    "),
    ]
    if floor.num_measurements < NUM_FOR_A_FLOOR:
        lines += sentence(
            f"fewer than {NUM_FOR_A_FLOOR} measurements: the true floor may be higher",
            width=WIDTH,
            indent="    ",
        )
    for one in report.nuisances:
        lines += _nuisance(one)
    if any(one.max is not None for one in report.nuisances):
        lines += sentence(
            "A bound holds for one attention, dtype and device; where a suite is replayed under "
            f"another, keep it above {FLOOR_FACTOR:g} x that row's max.",
            width=WIDTH,
            indent="  ",
        )
    return lines


def _floor(report: CalibrationReport) -> str:
    own = report.noise_floor.of(report.metric)
    return "not measured" if own is None else nats(own)


def _nuisance(one: Nuisance) -> list[str]:
    name = f"  same weights, {one.setting} {'' if one.kind == 'dtype' else one.kind}".rstrip()
    if one.mean is None or one.max is None:
        return [f"{name}: not measured", *_reason(one.reason)]
    return [_row(name, nats(one.mean), nats(one.max), str(one.num_measurements))]


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
            "A search leaves out the controls that show a confirmed behaviour, which may lower "
            "it; --max-kl tells what another bound catches, and measures nothing again.",
            width=WIDTH,
            indent="  ",
        )
    return lines


def _positive_control(report: CalibrationReport) -> list[str]:
    num_prompts = len(report.planted_prompts)
    lines = []
    for one in report.planted:
        lines += _planted(one, num_prompts)
    caught = report.smallest_caught
    if caught is None:
        lines += sentence(
            "None of it is caught: a gate at this bound has not been seen to fail.",
            width=WIDTH,
            indent="  ",
        )
    else:
        lines.append(f"  smallest change caught: {caught:g}")
    return lines + sentence(
        "Size: standard deviation of the noise, relative to that of each weight matrix. Caught: "
        "with the reference plus noise as the candidate, a replay of the first "
        f"{number_of(num_prompts, 'control')} has at least one over the bound.",
        width=WIDTH,
        indent="  ",
    )


def _planted(one: InjectedNoise, num_prompts: int) -> list[str]:
    name = f"  {one.size:g}"
    if not one.values:
        return [f"{name}: not measured", *_reason(one.reason)]
    mean = sum(one.values) / len(one.values)
    over = f"{one.num_over} of {num_prompts}"
    return [_row(name, nats(mean), nats(max(one.values)), over)]


def _reason(reason: str | None) -> list[str]:
    return sentence(reason or "no reason given", width=WIDTH, indent="    ")


def _effort(report: CalibrationReport) -> list[str]:
    effort = report.effort
    took = f"{duration(effort.seconds)}, {number_of(effort.tokens_forwarded, 'forwarded token')}"
    if not report.is_cached:
        return sentence(f"Measured in {took}.", width=WIDTH)
    text = f"Read back, nothing was measured anew; it had taken {took}."
    return sentence(text, width=WIDTH)


def _row(name: str, mean: str, largest: str, count: str) -> str:
    return f"{name:<{NAME}}{mean:>12}{largest:>12}{count:>12}".rstrip()
