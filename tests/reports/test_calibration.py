"""The table of a calibration: what it says, in 80 columns of plain text."""

from __future__ import annotations

from typing import Any

from pytest_divergence.core.calibration_record import CalibrationReport, InjectedNoise, Nuisance
from pytest_divergence.core.provenance import Bound, Effort, NoiseFloor, TypicalShift
from pytest_divergence.core.report import PairSummary
from pytest_divergence.reports.calibration import calibration_lines

TABLE = """\
reference  base
candidate  ft
float32 on cpu, sdpa attention, profile smoke
metric symmetric, nats per token

Noise: a model against itself                       mean         max           n
  noise floor                                               0.000001          60
    in a batch, alone, without a shared prefix, with a cache
  same weights, eager attention                    2e-12       6e-12          20
  same weights, bfloat16                        0.000150       0.001          20
  same weights, float16: not measured
    out of memory
  A bound is valid for one attention, dtype and device. If you replay a suite
  under another, keep the bound above 3 x that row's max.

Shift: the candidate on ordinary prompts            mean         max           n
  controls                                         0.200       0.400          64
  their 99th percentile                                        0.390

Bound                                                          0.600
  auto: nominal 5% limit for 40 prompts
  nominal 5% limit for 40 prompts                              0.600
  3 x noise floor                                           0.000003
  A search leaves out controls that show a confirmed behaviour, which may lower
  the bound. Use --max-kl to see what another bound catches, without new
  measurements.

Positive control: noise in all weights              mean         max  over bound
  0.1                                              0.200       0.300      0 of 2
  0.3                                              0.550       0.800      1 of 2
  smallest change caught: 0.3
  Size: standard deviation of the noise, relative to that of each weight matrix.
  Caught: in a replay with the reference plus noise as the candidate, at least
  one of the first 2 controls is over the bound.

Measured in 65 s, 34,567 forwarded tokens."""


def report(**changes: Any) -> CalibrationReport:
    values: dict[str, Any] = {
        "pair": PairSummary(
            reference="base",
            candidate="ft",
            dtype="float32",
            device="cpu",
            chat_template="reference",
        ),
        "attention": "sdpa",
        "metric": "symmetric",
        "profile": "smoke",
        "noise_floor": NoiseFloor(value=1e-6, num_measurements=60),
        "nuisances": [
            Nuisance(kind="attention", setting="eager", mean=2e-12, max=6e-12, num_measurements=20),
            Nuisance(
                kind="dtype", setting="bfloat16", mean=0.00015, max=0.0011, num_measurements=20
            ),
            Nuisance(kind="dtype", setting="float16", reason="out of memory"),
        ],
        "typical_shift": TypicalShift(mean=0.2, p99=0.39, max=0.4, num_controls=64),
        "bound": Bound(
            value=0.6,
            parts={"3 x noise floor": 3e-6, "nominal 5% limit for 40 prompts": 0.6},
            label="auto: nominal 5% limit for 40 prompts",
        ),
        "planted": [
            InjectedNoise(size=0.1, values=[0.1, 0.3], num_over=0),
            InjectedNoise(size=0.3, values=[0.3, 0.8], num_over=1),
        ],
        "planted_prompts": ["Why?", "How?"],
        "effort": Effort(tokens_forwarded=34_567, seconds=65.0),
        "is_cached": False,
    }
    return CalibrationReport(**{**values, **changes})


def shown(**changes: Any) -> str:
    return "\n".join(calibration_lines(report(**changes)))


def test_the_whole_table() -> None:
    assert shown() == TABLE


def test_a_gate_that_caught_nothing_says_so() -> None:
    text = shown(planted=[InjectedNoise(size=0.3, values=[0.1, 0.2])])

    assert "Nothing is caught: none of these changes makes a gate at this bound fail." in text
    assert "smallest change caught" not in text


def test_a_bound_that_was_given_is_not_said_to_change() -> None:
    given = Bound(value=0.5, parts={"max_kl": 0.5}, label="absolute: --divergence-max-kl")

    assert "absolute: --divergence-max-kl" in shown(bound=given)
    assert "A search leaves out" not in shown(bound=given)


def test_noise_in_another_metric_than_the_asserted_one_is_named() -> None:
    assert "metric js (of noise: symmetric), nats per token" in shown(metric="js").splitlines()


def test_few_measurements_are_called_few() -> None:
    text = shown(noise_floor=NoiseFloor(value=1e-6, num_measurements=30))

    assert "fewer than 59 measurements: the true floor may be higher" in text


def test_what_was_measured_before_is_said_to_be_read_back() -> None:
    assert shown(is_cached=True).endswith(
        "Saved results; measuring them took 65 s, 34,567 forwarded tokens."
    )


def test_names_and_reasons_stay_within_80_columns_and_on_their_line() -> None:
    pair = PairSummary(
        reference="models/" + "x" * 200,
        candidate="a\n::error::b",
        dtype="bfloat16",
        device="cuda:0",
        chat_template="none",
    )
    nuisance = Nuisance(kind="device", setting="cpu", reason="RuntimeError: " + "no kernel " * 20)
    lines = calibration_lines(report(pair=pair, nuisances=[nuisance]))

    assert max(map(len, lines)) <= 80
    assert not any(line.lstrip().startswith("::") for line in lines)
    assert "  same weights, cpu device: not measured" in lines
