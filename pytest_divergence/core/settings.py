"""What a run is asked to do, checked once, at construction.

Knows the options' meanings and the sizes of each profile; does not know where a value came from
(`pytest_divergence.plugin.settings_sources`) nor how it is carried out.
"""

from __future__ import annotations

import re
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from pytest_divergence.core.evaluation_metrics import BUILT_IN_METRICS as BUILT_IN_METRICS

Mode = Literal["auto", "search", "replay", "off"]
ProfileName = Literal["auto", "smoke", "default", "thorough"]
MetricName = str
"""One of `BUILT_IN_METRICS`, or a name that a plugin adds."""

CAUSE_TOKENS = 3_000
"""Forwarded tokens that minimising the causes of behaviours takes, about."""


class Profile(BaseModel):
    """The sizes of one search. Tokens are forwarded tokens, both models counted."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    num_shipped_controls: int = Field(gt=0)
    """Controls taken from the shipped file, from its start."""
    num_written_controls: int = Field(ge=0)
    """Controls that the reference writes, unguided."""
    num_naming_prompts: int = Field(gt=0)
    """Controls that are answered from amplified logits, to name what changed."""
    naming_length: int = Field(gt=0)
    """Tokens of the answers on which a suspected behaviour is tested."""
    num_behaviour_prompts: int = Field(ge=6)
    """Prompts on which a suspected behaviour is tested, at most."""
    num_seeds: int = Field(gt=0)
    """Seed prompts used, from the start of their file."""
    num_cases: int = Field(gt=0)
    """Prompts to confirm and export."""
    num_continuations: int = Field(gt=0)
    """Sampled continuations of one prompt, from each model."""
    continuation_length: int = Field(gt=0)
    """Tokens of a continuation, at most, end of turn included."""
    search_length: int = Field(gt=0)
    """Tokens of the greedy continuations that the search scores."""
    prompt_length: int = Field(gt=0)
    """Tokens of a generated prompt, at most."""
    num_restarts: int = Field(ge=0)
    """Rounds of each strategy that generates, at most: for `soft_prompt`, soft prompts trained."""
    num_virtual_tokens: int = Field(gt=0)
    """Length of each soft prompt."""
    num_steps: int = Field(gt=0)
    """Optimiser steps of one soft prompt."""
    batch_size: int = Field(gt=0)
    """Seed prompts in one training step."""
    max_text_tokens: int = Field(gt=0)
    """Longer seed prompts are not trained on."""
    num_elite: int = Field(gt=0)
    """Best prompts that an elite-fitted soft prompt is fitted to."""
    num_proposals: int = Field(gt=0)
    """Prompts each generating strategy writes per restart or round."""
    full_score_share: float = Field(gt=0, le=1)
    """Share of a round's proposals that get the full score after the first-token screen."""
    budget_tokens: int = Field(gt=0)
    """Forwarded tokens of a whole run, about: no round of the search starts that leaves too few of
    them to confirm cases and minimise causes, but a strategy's first round costs what it costs, and
    what is suspected at the very end is tested all the same: up to 13 % more were measured."""

    @property
    def calibration_tokens(self) -> int:
        """Forwarded tokens that controls and naming take at least."""
        controls = self.num_shipped_controls + self.num_written_controls
        per_control = 6 * self.num_continuations * self.continuation_length
        named = min(controls, self.num_naming_prompts)
        return controls * per_control + named * 2 * self.search_length

    @property
    def reserved_tokens(self) -> int:
        """Forwarded tokens that confirming cases and minimising causes may take."""
        prompt = 2 * self.prompt_length
        written = self.num_continuations * self.continuation_length
        per_case = 2 * prompt + 6 * written + 4 * self.naming_length
        return self.num_cases * per_case + CAUSE_TOKENS


PROFILES: dict[str, Profile] = {
    profile.name: profile
    for profile in (
        Profile(
            name="smoke",
            num_shipped_controls=48,
            num_written_controls=16,
            num_naming_prompts=48,
            naming_length=24,
            num_behaviour_prompts=16,
            num_seeds=40,
            num_cases=5,
            num_continuations=1,
            continuation_length=16,
            search_length=16,
            prompt_length=24,
            num_restarts=4,
            num_virtual_tokens=8,
            num_steps=20,
            batch_size=4,
            max_text_tokens=24,
            num_elite=16,
            num_proposals=32,
            full_score_share=0.34,
            budget_tokens=40_000,
        ),
        Profile(
            name="default",
            num_shipped_controls=128,
            num_written_controls=128,
            num_naming_prompts=192,
            naming_length=24,
            num_behaviour_prompts=24,
            num_seeds=200,
            num_cases=20,
            num_continuations=4,
            continuation_length=32,
            search_length=16,
            prompt_length=32,
            num_restarts=4,
            num_virtual_tokens=8,
            num_steps=40,
            batch_size=8,
            max_text_tokens=48,
            num_elite=20,
            num_proposals=128,
            full_score_share=0.5,
            budget_tokens=400_000,
        ),
        Profile(
            name="thorough",
            num_shipped_controls=192,
            num_written_controls=320,
            num_naming_prompts=384,
            naming_length=32,
            num_behaviour_prompts=48,
            num_seeds=240,
            num_cases=50,
            num_continuations=8,
            continuation_length=48,
            search_length=24,
            prompt_length=48,
            num_restarts=12,
            num_virtual_tokens=8,
            num_steps=120,
            batch_size=16,
            max_text_tokens=48,
            num_elite=32,
            num_proposals=512,
            full_score_share=1.0,
            budget_tokens=30_000_000,
        ),
    )
}


class Settings(BaseModel):
    """One session's options. A wrong value raises `pydantic.ValidationError` naming the field."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model_1: str | None = None
    """Spec of the reference, the trusted model."""
    model_2: str | None = None
    """Spec of the candidate, the model under test."""
    mode: Mode = "auto"
    """`auto` replays given suites, replays in CI, searches otherwise."""
    profile: ProfileName = "auto"
    """Sizes of a search; `auto` is smoke on a CPU and default on a GPU."""
    budget: str | None = None
    """Forwarded tokens (`200000`) or seconds (`300s`, not reproducible); default: the profile's."""
    max_kl: float | Literal["auto"] = "auto"
    """Asserted limit in nats per token, or `auto`: from noise floor and typical shift."""
    max_shift: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Limit of the mean divergence on ordinary prompts, nats per token; default: none."""
    inconclusive: Literal["pass", "fail"] = "pass"
    """What a suite's aggregate does where the evidence is too little: pass with a warning."""
    metric: MetricName = "symmetric"
    """Which divergence is asserted."""
    gate: Literal["natural", "all"] = "natural"
    """`natural` reports prompts that no one would write apart, without asserting them."""
    fail_on: Literal["conditional", "any", "none"] = "conditional"
    """Which confirmed behaviours fail: those of some prompts, also new styles, or none."""
    seeds: str | None = None
    """File of seed prompts (text, JSON Lines, CSV) or `hf:DATASET:COLUMN`; default: shipped."""
    seed: int = 0
    """Random seed of the run."""
    num_cases: int | None = Field(default=None, gt=0)
    """Cases to export; default: the profile's."""
    builtin_suite: Literal["auto", "on", "off"] = "auto"
    """Whether the search's own suite joins the session's items."""
    chat_template: str = "reference"
    """`reference`, `candidate`, `none`, or the path of a Jinja file."""
    system_prompt: str | None = None
    """System turn of every prompt; default: what the template puts there by itself."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda`, `cuda:1`, `mps`."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """One dtype for both models; `auto` is float32 on a CPU and for small models."""
    report_dir: str | None = None
    """Folder for the reports of runs; default: `.divergence/reports`, and none of replays."""
    github: Literal["auto", "on", "off"] = "auto"
    """Whether failures become annotations on GitHub, and a step summary: `auto` on its runners."""
    memory: str | None = None
    """Memory that a search may take, such as `30GB`; default: what is free."""
    redact: bool = False
    """Leave prompts and answers out of reports, terminal and logs; suites keep theirs."""
    allow_same_model: bool = False
    """One model on both sides is meant: it fails no session in CI."""
    update: bool = False
    """Measure the suites of the session afresh, and rewrite them."""
    fill: bool = False
    """Measure the rows that have no measurement, and leave the others."""

    @field_validator("max_kl")
    @classmethod
    def _max_kl_is_positive(cls, value: float | str) -> float | str:
        if isinstance(value, float) and not 0 < value < float("inf"):
            raise ValueError("max_kl must be a positive number of nats per token, or 'auto'")
        return value

    @field_validator("budget")
    @classmethod
    def _budget_has_a_unit(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[1-9][0-9_]*s?", value):
            raise ValueError(
                "budget must be forwarded tokens, such as 200000, or seconds, such as 300s"
            )
        return value

    @field_validator("memory")
    @classmethod
    def _memory_has_a_unit(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[1-9][0-9]*(GB|MB)", value):
            raise ValueError("memory must be a size, such as 30GB or 500MB")
        return value

    def resolved_profile(self, device_type: str) -> Profile:
        """The profile with the options that override parts of it, on a `cpu` or `cuda` device."""
        name = self.profile
        if name == "auto":
            name = "smoke" if device_type == "cpu" else "default"
        changes: dict[str, int] = {}
        if self.num_cases is not None:
            changes["num_cases"] = self.num_cases
        if self.budget is not None and not self.budget.endswith("s"):
            changes["budget_tokens"] = int(self.budget)
        return PROFILES[name].model_copy(update=changes)

    @property
    def budget_seconds(self) -> float | None:
        """The budget, where it was given in seconds."""
        if self.budget is None or not self.budget.endswith("s"):
            return None
        return float(self.budget[:-1])

    @property
    def memory_bytes(self) -> int | None:
        """The memory that a search may take, where it was given."""
        if self.memory is None:
            return None
        return int(self.memory[:-2]) * (10**9 if self.memory.endswith("GB") else 10**6)
