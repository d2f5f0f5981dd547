"""Findings of one run as one plain value: `report.json`.

Knows the record, its file, and the suite that it is about. Every view of a run (terminal, HTML,
Markdown) shows a `Report`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, JsonValue, field_validator

from pytest_divergence.core.behaviours import Behaviour, Rate
from pytest_divergence.core.cases import (
    NATS_PER_TOKEN,
    SCHEMA_VERSION,
    Case,
    Count,
    Message,
    Number,
    Record,
    SafeId,
    SchemaVersion,
)
from pytest_divergence.core.errors import SettingsError
from pytest_divergence.core.file_names import (
    FOLDER,
    LATEST,
    REPORT,
    AnyPath,
    from_here,
    suite_path,
)
from pytest_divergence.core.files import latest_report_dir
from pytest_divergence.core.json_files import load_document, write_document
from pytest_divergence.core.provenance import Bound, Effort, NoiseFloor, TypicalShift
from pytest_divergence.core.token_statistics import TokenStatistics

Verdict = Literal["passed", "failed", "error", "inconclusive"]


class Run(Record):
    """Identity and status of a run."""

    id: SafeId
    mode: str
    status: Literal["complete", "incomplete"]
    """`incomplete`: stopped by an error, a signal or a time limit."""
    reason: str = ""
    """Reason why it is incomplete, if it is not an error: a clause, `the user interrupted it`."""


class PairSummary(Record):
    """The two models, and how both were run."""

    reference: str
    """Spec, without secrets."""
    candidate: str
    dtype: str
    device: str
    chat_template: str
    """Source of the template that both use: reference, candidate, none, or a path."""


class ShiftDistribution(TypicalShift):
    """The typical shift with each control's value, for a histogram."""

    values: list[Number] = Field(default_factory=list)

    def summary(self) -> TypicalShift:
        """Return the shift without the values."""
        return TypicalShift(**self.model_dump(exclude={"values"}))


class Calibration(Record):
    """Parts that the bound was made from; None for a part that was not measured."""

    unit: str = NATS_PER_TOKEN
    """Unit of bound and typical shift: the metric's."""
    noise_floor: NoiseFloor | None = None
    typical_shift: ShiftDistribution | None = None
    bound: Bound | None = None
    token_statistics: TokenStatistics | None = None
    """Divergence at single tokens of the controls' continuations; null in earlier versions."""


class TokenComparison(Record):
    """One position of a continuation, as both models see it."""

    text: str
    """The token that was written there."""
    forward_kl: Number
    reverse_kl: Number
    reference_p: Number
    """The reference's probability of that token."""
    candidate_p: Number
    reference_top: list[tuple[str, Number]] = Field(default_factory=list)
    """The reference's likeliest tokens and their probabilities."""
    candidate_top: list[tuple[str, Number]] = Field(default_factory=list)


class ReportCase(Case):
    """A suite row with its verdict."""

    verdict: Verdict
    verdict_reason: str = ""
    excess: Number | None = None
    """Effectiveness: how far the confirmed value is above the typical shift, nats per token."""
    prompt_nll: Number | None = None
    """The prompt's negative log-likelihood under the reference, nats per token."""
    candidate_prompt_nll: Number | None = None
    """Negative log-likelihood under the candidate; perplexity is the exponential of either."""
    off_distribution: bool = False
    """Whether nobody would write it; then it is reported separately and not asserted."""
    tokens: list[TokenComparison] = Field(default_factory=list)
    redacted: bool = False
    """Whether its texts were left out, so that its id cannot be computed from them."""

    def _id_of(self, turns: Sequence[Message]) -> str:
        is_kept = self.redacted and re.fullmatch("[a-z0-9-]{1,40}", self.id)
        return self.id if is_kept else super()._id_of(turns)


class Check(Record):
    """An item of a replay that is not a case: all rows together, or a behaviour."""

    name: str
    """Its node id."""
    verdict: Verdict
    """`failed` too where the item is inconclusive and that fails."""
    sentence: str
    """The numbers behind the verdict, or why there is none."""


class StrategySummary(Record):
    """Contribution of one strategy."""

    name: str
    num_proposals: Count = 0
    num_scored: Count = 0
    num_selected: Count = 0
    num_hits: Count = 0
    """Scored proposals over the provisional bound, or that showed a behaviour."""
    tokens_forwarded: Count = 0
    """Forwarded tokens of its rounds, scoring included."""
    seconds: Number = 0.0


class TrainingSummary(Record):
    """One restart of soft-prompt training."""

    name: str
    loss: list[Number] = Field(default_factory=list)
    """One value a step: minus the mean objective of its texts."""
    validation: list[Number] = Field(default_factory=list)
    """The mean objective of the validation texts, from before the first step to after the last."""
    d_soft: Number | None = None
    """Divergence with the soft prompt itself: reported, decides nothing."""
    d_hard: Number | None = None
    """Divergence on the text prompts that it led to."""


class CurvePoint(Record):
    """Progress of the search after some amount of work."""

    strategy: str = ""
    """Strategy whose round led to this point."""
    prompts_scored: Count
    tokens_forwarded: Count
    best_kl: Number
    """Largest KL that any strategy had found."""
    strategy_best_kl: Number | None = None
    """Largest KL that this strategy had found; None in reports of earlier versions."""
    num_hits: Count | None = None
    """This strategy's hits so far."""


class RunError(Record):
    """Something that failed, whether or not it stopped the run."""

    where: str
    message: str


class CaseSet(Record):
    """The cases as a set: how diverse they are, and how far the search overestimated them."""

    distinct_1: Rate
    """Different words over all words."""
    distinct_2: Rate
    """Different pairs of words over all pairs (Li et al. 2016, arXiv:1510.03055)."""
    self_similarity: Rate
    """Mean Jaccard similarity of two cases' character 4-grams; 0 where there is one case."""
    shrinkage: Number | None = None
    """Mean confirmed value over mean search value: a search favours what it overestimates."""


class Difference(Record):
    """One type of difference between two models' answers, counted over distinct prompts."""

    name: str
    """Name of the trait: `refuses`."""
    explanation: str
    """Rule that recognises the trait."""
    candidate_count: Count
    """Prompts on which only the candidate's answer shows it."""
    reference_count: Count
    """Prompts on which only the reference's does."""
    num_prompts: Count
    p_value: Rate | None
    """Two-sided sign test, Bonferroni-corrected for the number of types that are tested; null where
    phrases are counted that were chosen in the same answers."""


class FirstFound(Record):
    """Work until a first behaviour or lead was found."""

    seconds: Number
    """Seconds of work since the run began, without loading the models."""
    tokens_forwarded: Count


class Leads(Record):
    """Leads that were watched during the search, and those tested at its end."""

    watched: Count
    tested: Count
    level: Rate
    """Level of the tests together: how often they confirm anything, at most, where both models
    answer the prompts of the tests alike."""
    decoys_confirmed: Count | None
    """Confirmed leads that come from exchanging the models; null if none could be tested."""


class PowerPoint(Record):
    """Share of named leads that tests confirm."""

    share: Rate
    """Share of the candidate's answers, to the prompts of a test, that show the lead."""
    power: Rate


class Report(Record):
    """One run, complete enough for every view of it."""

    schema_version: SchemaVersion = SCHEMA_VERSION
    run: Run
    pair: PairSummary
    settings: dict[str, JsonValue] = Field(default_factory=dict)
    calibration: Calibration = Calibration()
    verdict_counts: dict[Verdict, Count] = Field(default_factory=dict)
    behaviours: list[Behaviour] = Field(default_factory=list)
    cases: list[ReportCase] = Field(default_factory=list)
    checks: list[Check] = Field(default_factory=list)
    """A replay's other items; a behaviour that fails is in `behaviours` instead. Empty in a search
    and in earlier versions."""
    strategies: list[StrategySummary] = Field(default_factory=list)
    training: list[TrainingSummary] = Field(default_factory=list)
    search_curve: list[CurvePoint] = Field(default_factory=list)
    differences: list[Difference] = Field(default_factory=list)
    """Types of difference among the search's answers, the most frequent first."""
    case_set: CaseSet | None = None
    first_behaviour: FirstFound | None = None
    """Work until the first behaviour was confirmed."""
    first_lead: FirstFound | None = None
    """Work until the first lead was named, whatever became of it."""
    leads: Leads | None = None
    power: list[PowerPoint] | None = None
    """Power of the test over prompts, with Holm's correction; null if leads were not tested."""
    errors: list[RunError] = Field(default_factory=list)
    effort: Effort = Effort()

    @field_validator("settings")
    @classmethod
    def _reads_conditional(cls, settings: dict[str, JsonValue]) -> dict[str, JsonValue]:
        """Read the `fail_on` of earlier versions: what they called conditional is now content."""
        is_old = settings.get("fail_on") == "conditional"
        return {**settings, "fail_on": "content"} if is_old else settings

    @property
    def has_cases(self) -> bool:
        """Whether a case is tested: one that is not off distribution."""
        return any(not case.off_distribution for case in self.cases)


def load_report(path: AnyPath) -> Report:
    """Read a `report.json`. Raises SuiteError if it cannot be used."""
    return load_document(path, Report)


def write_report(path: AnyPath, report: Report) -> None:
    """Write a `report.json`: old or new, never half. Raises StoreError."""
    write_document(path, report)


def report_path(given: Path) -> Path | None:
    """Return the report.json that a path means: the file, its folder, or a folder's `latest`.

    Returns None for another file. Raises SettingsError where nothing is there, StoreError where
    `latest` leads elsewhere.
    """
    if given.name == LATEST and (given.is_symlink() or not given.is_dir()):
        folder = latest_report_dir(given.parent)
        if folder is None:
            raise SettingsError(f"{LATEST}: no run in {given.parent} yet; name a suite")
        return folder / REPORT
    if given.is_dir():
        if not (given / REPORT).is_file():
            raise SettingsError(f"{given} holds no {REPORT}; name the folder of one run, or latest")
        return given / REPORT
    if not given.exists():
        raise SettingsError(
            f"{given} does not exist; name a suite, or the folder of a run's report"
        )
    return given if given.name == REPORT else None


def suite_of(report: Report, path: Path, root_of: Callable[[], Path]) -> Path:
    """Return the path of the suite that the search of a report, read from `path`, wrote.

    The result is relative to the working directory. `root_of` returns the project of a report that
    lies outside its `.divergence`. Raises SettingsError if the suite is gone.
    """
    project = next((up.parent for up in path.resolve().parents if up.name == FOLDER), None)
    specs = (
        str(report.settings.get(name) or spec)
        for name, spec in (("model_1", report.pair.reference), ("model_2", report.pair.candidate))
    )
    suite = from_here(suite_path(project or root_of(), *specs))
    if not suite.is_file():
        raise SettingsError(f"the suite of run {report.run.id} no longer exists: {suite}")
    return suite
