"""Settings of a run, checked once, at construction.

Knows the values of each setting and the sizes of each profile. Does not know where a value came
from (`pytest_divergence.plugin.settings_sources`) nor how it is used.
"""

from __future__ import annotations

import json
import math
import re
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationInfo, field_validator

from pytest_divergence.core.setting_descriptions import (
    DESCRIPTIONS,
    AutoSwitch,
    DtypeName,
    EngineName,
    FailOn,
    Gate,
    Inconclusive,
    Mode,
    ProfileName,
)

MetricName = str
"""One of `BUILT_IN_METRICS`, or a name that a plugin adds."""

CAUSE_TOKENS = 1_000
"""Forwarded tokens, about, that minimising the causes of behaviours takes: up to 450 a behaviour on
small pairs."""
EXPLANATION_TOKENS = 1_800
"""Forwarded tokens, about, that follow when it is tried what prompts share: telling content from
style, natural prompts and telling answers; 1,100 to 2,900 on small pairs."""
SURPRISE_TOKENS = 1_700
"""Forwarded tokens, about, of the reference's surprise at leads: 1,100 to 2,200 on small pairs."""
NUM_TEST_ANSWERS = 4
"""Answers of each model to each prompt of a test over prompts."""
TEST_SHARE = 0.8
"""Tokens of a test as a share of the most it can take: answers end early, and decoys are on few
prompts. In six searches tests took 3,400 of 3,840 on average, and the decoy's 2,000."""


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
    num_long_answers: int = Field(default=0, ge=0)
    """Controls that are answered at length, to see what begins late in an answer."""
    long_length: int = Field(default=128, gt=0)
    """Tokens of these answers, at most."""
    num_behaviour_prompts: int = Field(ge=6)
    """Prompts on which a lead is tested, at most."""
    num_tested_leads: int = Field(gt=0)
    """Leads that are tested at the end of a search, at most; a decoy is tested besides."""
    condition_tokens: int = Field(default=0, ge=0)
    """Forwarded tokens, at most, that trying out what prompts share takes, all behaviours together;
    fewer than about 1,300 for one behaviour try nothing."""
    num_seeds: int = Field(gt=0)
    """Shipped seed prompts used, from the start of their file; of your own, those of one round."""
    num_contexts: int = Field(default=0, ge=0)
    """Shipped contexts under which behaviours are looked for, from the start of their file; those
    that the user gives come on top."""
    context_tokens: int = Field(default=0, ge=0)
    """Forwarded tokens, about, that finding leads under contexts takes, given ones too."""
    context_test_tokens: int = Field(default=0, ge=0)
    """Forwarded tokens, about, that tests and cases under contexts take at most."""
    num_cases: int = Field(gt=0)
    """Prompts to confirm and export."""
    num_continuations: int = Field(gt=0)
    """Sampled continuations of one prompt, from each model."""
    continuation_length: int = Field(gt=0)
    """Tokens of a continuation, at most, end of turn included."""
    thought_length: int = Field(default=0, ge=0)
    """Tokens of thoughts before an answer, at most; 0 unless thoughts are open."""
    search_length: int = Field(gt=0)
    """Tokens of the greedy continuations that the search scores."""
    prompt_length: int = Field(gt=0)
    """Tokens of a generated prompt, at most."""
    num_restarts: int = Field(ge=0)
    """Rounds of each strategy that generates, at most: for `soft_prompt`, soft prompts trained."""
    rounds_at_once: int = Field(default=1, gt=0)
    """Rounds of a search that are under way at a time: each is chosen without the results of those
    before it that are not taken over. An engine with as many workers computes them at once; the
    results do not depend on the number of workers."""
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
    soft_prompt_tokens: int = Field(default=0, ge=0)
    """Forwarded tokens that soft prompts and their texts get at least, if they have more to offer;
    a third of the search's, if that is more."""
    full_score_share: float = Field(gt=0, le=1)
    """Share of a round's proposals that get the full score after the first-token screen."""
    budget_tokens: int = Field(gt=0)
    """Forwarded tokens of a whole run, about. No round starts that is expected to leave too few of
    them to test leads, confirm cases and minimise causes, but for one of soft prompts that have not
    had `soft_prompt_tokens`: it is as small as what they lack. A round is expected to take what the
    strategy's last one took, the first of a strategy what the others took on average. Where
    calibration leaves less than `soft_prompt_tokens` of a profile's own budget, a search takes as
    many on top."""

    @property
    def tested_length(self) -> int:
        """Tokens of an answer to a test, at most: a late lead needs long ones."""
        return max(self.naming_length, self.long_length if self.num_long_answers else 0)

    @property
    def calibration_tokens(self) -> int:
        """Forwarded tokens that controls and naming take at least."""
        controls = self.num_shipped_controls + self.num_written_controls
        per_control = 6 * self.num_continuations * (self.thought_length + self.continuation_length)
        named = min(controls, self.num_naming_prompts)
        return controls * per_control + named * 4 * self.search_length

    def part_of_a_round(self, part: float) -> Profile:
        """Return this profile for a round with so many of its steps and texts; 1 is a whole one."""
        if part >= 1:
            return self
        sizes = {name: getattr(self, name) for name in ("num_steps", "num_proposals")}
        fewer = {name: max(1, math.ceil(part * size)) for name, size in sizes.items()}
        return self.model_copy(update=fewer)

    def judging_tokens(self, num_leads: int) -> int:
        """Return the forwarded tokens, about, that the tests of so many leads and a decoy take."""
        reply = self.thought_length + self.naming_length
        per_prompt = 2 * (self.prompt_length + NUM_TEST_ANSWERS * reply)
        per_test = round(TEST_SHARE * self.num_behaviour_prompts * per_prompt)
        return (min(num_leads, self.num_tested_leads) + 1) * per_test

    @property
    def case_tokens(self) -> int:
        """Forwarded tokens, about, that choosing and confirming cases takes."""
        prompt = 2 * self.prompt_length
        written = self.num_continuations * (self.thought_length + self.continuation_length)
        per_case = 2 * prompt + 6 * written + 4 * (self.thought_length + self.naming_length)
        return self.num_cases * per_case

    @property
    def reserved_tokens(self) -> int:
        """Forwarded tokens, about, that the work after the search takes at most."""
        return self.reserved_for(self.num_tested_leads)

    def reserved_for(self, num_leads: int) -> int:
        """Return the forwarded tokens, about, that the work after a search with these leads takes.

        It tests leads, minimises causes, tells content from style and confirms cases. What prompts
        share is tried with what all this leaves.
        """
        judging = self.judging_tokens(num_leads) + self.context_test_tokens
        return SURPRISE_TOKENS + judging + CAUSE_TOKENS + self.final_tokens

    @property
    def final_tokens(self) -> int:
        """Forwarded tokens, about, that follow once what prompts share was tried."""
        return EXPLANATION_TOKENS + self.case_tokens


SIZES: dict[str, tuple[float, float, float]] = {
    "num_shipped_controls": (48, 128, 192),
    "num_written_controls": (16, 128, 320),
    "num_naming_prompts": (48, 192, 384),
    "naming_length": (24, 24, 32),
    "num_long_answers": (0, 32, 64),
    "long_length": (128, 128, 256),
    "num_behaviour_prompts": (16, 24, 48),
    "num_tested_leads": (3, 5, 5),
    "condition_tokens": (4_000, 30_000, 120_000),
    "num_seeds": (40, 200, 240),
    "num_contexts": (0, 24, 24),
    "num_cases": (5, 20, 50),
    "num_continuations": (1, 4, 8),
    "continuation_length": (16, 32, 48),
    "search_length": (16, 16, 24),
    "prompt_length": (24, 32, 48),
    "num_restarts": (4, 4, 12),
    "rounds_at_once": (1, 1, 1),
    "num_virtual_tokens": (8, 8, 8),
    "num_steps": (20, 40, 120),
    "batch_size": (4, 8, 16),
    "max_text_tokens": (24, 48, 48),
    "num_elite": (16, 20, 32),
    "num_proposals": (32, 128, 512),
    "soft_prompt_tokens": (8_000, 8_000, 8_000),
    "full_score_share": (0.34, 0.5, 1.0),
    "budget_tokens": (50_000, 400_000, 30_000_000),
}
"""Sizes of smoke, default and thorough."""
PROFILES = {
    name: Profile.model_validate({"name": name, **{size: SIZES[size][column] for size in SIZES}})
    for column, name in enumerate(("smoke", "default", "thorough"))
}
THOUGHT_LENGTHS = {"smoke": 48, "default": 256, "thorough": 512}
"""Tokens of thoughts, at most, where thoughts are open, by profile."""

Nats = Annotated[float, Field(gt=0, allow_inf_nan=False)]
RULES = {description.field: description.rule for description in DESCRIPTIONS}
THINKING_SWITCHES = ("enable_thinking", "thinking")
"""Template arguments that open or close a model's thoughts."""
TAKEN_ARGUMENTS = {
    *("messages", "conversation", "tools", "documents", "chat_template", "add_generation_prompt"),
    *("continue_final_message", "tokenize", "padding", "truncation", "max_length", "return_dict"),
    *("return_tensors", "return_assistant_tokens_mask", "tokenizer_kwargs"),
    "sanitize_control_tokens",
}
"""Names that transformers itself gives to a template, or keeps for its own options."""
PATTERNS = {"budget": r"[1-9][0-9]*(_[0-9]+)*s?", "memory": r"[1-9][0-9]*(GB|MB)"}


class Settings(BaseModel):
    """One session's options; `DESCRIPTIONS` says what each means.

    A wrong value raises `pydantic.ValidationError` naming the field.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model_1: str | None = None
    model_2: str | None = None
    mode: Mode = "auto"
    profile: ProfileName = "auto"
    budget: str | None = None
    max_kl: Nats | Literal["auto"] = "auto"
    max_shift: Nats | None = None
    inconclusive: Inconclusive = "pass"
    metric: MetricName = "symmetric"
    gate: Gate = "natural"
    fail_on: FailOn = "content"
    seeds: str | None = None
    training_data: str | None = None
    contexts: str | None = None
    seed: int = 0
    num_cases: int | None = Field(default=None, gt=0)
    builtin_suite: AutoSwitch = "auto"
    chat_template: str = "reference"
    system_prompt: str | None = None
    template_arg: dict[str, JsonValue] = Field(default_factory=dict)
    device: str = "auto"
    dtype: DtypeName = "auto"
    report_dir: str | None = None
    github: AutoSwitch = "auto"
    memory: str | None = None
    engine: EngineName = "local"
    workers: int | None = Field(default=None, gt=0)
    worker_gpus: int | None = Field(default=None, ge=0)
    worker_timeout: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    redact: bool = False
    allow_same_model: bool = False
    update: bool = False
    fill: bool = False

    @field_validator(*PATTERNS)
    @classmethod
    def _has_a_unit(cls, value: str | None, info: ValidationInfo) -> str | None:
        name = info.field_name or ""
        if value is not None and not re.fullmatch(PATTERNS[name], value):
            raise ValueError(f"{name} must be {RULES[name]}")
        return value

    @field_validator("template_arg", mode="before")
    @classmethod
    def _has_names(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        found: dict[str, JsonValue] = {}
        for line in filter(str.strip, value.splitlines()):
            name, separator, text = (part.strip() for part in line.partition("="))
            if not separator or not name.isidentifier() or name in {*TAKEN_ARGUMENTS, *found}:
                raise ValueError(f"template_arg must be {RULES['template_arg']}")
            found[name] = _as_json(text)
        return found

    @property
    def opens_thoughts(self) -> bool:
        """Whether models are to think before they answer, if their template has thoughts."""
        return any(self.template_arg.get(name) is True for name in THINKING_SWITCHES)

    def resolved_profile(self, device_type: str) -> Profile:
        """Return the profile, with what the options override, for a `cpu` or `cuda` device.

        With open thoughts its budget grows as its replies do.
        """
        name = self.profile
        if name == "auto":
            name = "smoke" if device_type == "cpu" else "default"
        profile, changes = PROFILES[name], dict[str, int]()
        if self.opens_thoughts:
            thoughts, answer = THOUGHT_LENGTHS[name], profile.continuation_length
            changes["thought_length"] = thoughts
            for size in ("budget_tokens", "condition_tokens"):
                changes[size] = getattr(profile, size) * (thoughts + answer) // answer
        if self.num_cases is not None:
            changes["num_cases"] = self.num_cases
        if self.budget is not None and not self.budget.endswith("s"):
            changes["budget_tokens"] = int(self.budget)
        return profile.model_copy(update=changes)

    @property
    def budget_seconds(self) -> float | None:
        """Budget in seconds; None if it was given in tokens or not at all."""
        if self.budget is None or not self.budget.endswith("s"):
            return None
        return float(self.budget[:-1])

    @property
    def memory_bytes(self) -> int | None:
        """Bytes of memory that a search may use, if they were given."""
        if self.memory is None:
            return None
        return int(self.memory[:-2]) * (10**9 if self.memory.endswith("GB") else 10**6)


def _as_json(text: str) -> JsonValue:
    """Return a template argument's value: a JSON scalar, else the text itself."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        value: JsonValue = json.loads(text)
    except ValueError:
        return text
    is_unstorable = isinstance(value, float) and not math.isfinite(value)  # no JSON file holds it
    return text if is_unstorable or isinstance(value, (list, dict)) else value
