"""What `pytest-divergence calibrate` found, as one plain value: the record behind its table."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, computed_field

from pytest_divergence.core.cases import (
    NATS_PER_TOKEN,
    SCHEMA_VERSION,
    Count,
    Number,
    Record,
    SchemaVersion,
)
from pytest_divergence.core.provenance import Bound, Effort, NoiseFloor, TypicalShift
from pytest_divergence.core.report import PairSummary

NuisanceKind = Literal["attention", "dtype", "device"]


class Nuisance(Record):
    """The reference against itself under a setting that a user may choose, in the noise's unit."""

    kind: NuisanceKind
    setting: str
    """The other one: `eager`, `bfloat16`, `cpu`."""
    mean: Number | None = None
    max: Number | None = None
    num_measurements: Count = 0
    reason: str | None = None
    """Why it could not be measured, safe to show."""


class InjectedNoise(Record):
    """The reference against itself under weight noise of one size."""

    size: Number
    """Standard deviation of the noise, relative to each weight matrix's own."""
    values: list[Number] = Field(default_factory=list)
    """What each prompt's replay reads, in the metric's unit."""
    num_over: Count = 0
    """Prompts over the bound."""
    reason: str | None = None
    """Why it could not be measured, safe to show."""

    @property
    def is_caught(self) -> bool:
        """Whether a gate on these prompts fails: at least one is over the bound."""
        return self.num_over > 0


class CalibrationReport(Record):
    """Noise, shift and bound of one pair, and whether a gate at that bound can fail."""

    schema_version: SchemaVersion = SCHEMA_VERSION
    pair: PairSummary
    attention: str
    metric: str
    unit: str = NATS_PER_TOKEN
    """The metric's."""
    profile: str
    noise_floor: NoiseFloor
    nuisances: list[Nuisance]
    typical_shift: TypicalShift
    bound: Bound
    planted: list[InjectedNoise]
    """The smallest size first."""
    planted_prompts: list[str]
    effort: Effort
    """Of all that the table shows, also what an earlier run measured."""
    is_cached: bool
    """All of it had been measured before."""

    @computed_field  # type: ignore[prop-decorator]
    @property
    def smallest_caught(self) -> float | None:
        """The smallest planted size that the bound catches; None where it catches none."""
        return next((one.size for one in self.planted if one.is_caught), None)
