"""Each setting in words, once: its meaning and the values that it takes.

pytest registers an option for each of them in every session, so this imports nothing heavy. Values
are checked in `pytest_divergence.core.settings`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

Mode = Literal["auto", "search", "replay", "off"]
ProfileName = Literal["auto", "smoke", "default", "thorough"]
Inconclusive = Literal["pass", "fail"]
Gate = Literal["natural", "all"]
FailOn = Literal["conditional", "any", "none"]
AutoSwitch = Literal["auto", "on", "off"]
DtypeName = Literal["auto", "float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class Description:
    """A field of `Settings` in words."""

    field: str
    metavar: str
    """Name of the value in `--help`; a switch has none."""
    help: str
    rule: str = ""
    """Values allowed, if not every text is; ends the sentence that refuses a value."""

    @property
    def is_switch(self) -> bool:
        """Whether it is given without a value on the command line."""
        return not self.metavar


def _choice(field: str, literal: Any, help_text: str) -> Description:
    choices = get_args(literal)
    metavar = "{" + ",".join(choices) + "}"
    return Description(field, metavar, help_text, f"one of {', '.join(choices)}")


def _switch(field: str, help_text: str) -> Description:
    return Description(field, "", help_text, "true or false")


_SPEC = "a Hub id, a local folder or demo:NAME"
DESCRIPTIONS = (
    Description(
        "model_1",
        "SPEC",
        f"the reference, the model you trust: {_SPEC}, or a GGUF file; add dtype=…, "
        "attn_implementation=…, revision=…, device=… or device_map=auto after commas, for this "
        "model only",
        _SPEC,
    ),
    Description(
        "model_2",
        "SPEC",
        "the candidate, the model under test: a spec like model 1, or the folder of a PEFT adapter "
        "for model 1; an adapter for another model, or one given as model 1, needs ,base=MODEL",
        _SPEC,
    ),
    _choice(
        "mode", Mode, "auto (default) replays if you give suites or run in CI, and else searches"
    ),
    _choice(
        "profile",
        ProfileName,
        "size of a search; auto (default) is smoke on a CPU, default on a GPU",
    ),
    Description(
        "budget",
        "BUDGET",
        "limit of a search, in forwarded tokens (200000) or seconds (300s, not reproducible); "
        "default: the profile's",
        "a number of forwarded tokens, such as 200000, or of seconds, such as 300s",
    ),
    Description(
        "max_kl",
        "NATS",
        "asserted limit in nats per token; auto (default) derives it from both models",
        "auto or a positive number of nats per token",
    ),
    Description(
        "max_shift",
        "NATS",
        "limit of the mean divergence on ordinary prompts, in nats per token (default: none)",
        "a positive number of nats per token",
    ),
    _choice(
        "inconclusive",
        Inconclusive,
        "result of a suite's aggregate test if there is too little evidence: pass (default), with "
        "a warning, or fail",
    ),
    Description(
        "metric",
        "METRIC",
        "divergence to assert: symmetric (default), forward, reverse, js or a plugin's metric",
    ),
    _choice("gate", Gate, "natural (default) leaves out prompts that nobody would write"),
    _choice(
        "fail_on",
        FailOn,
        "conditional (default) fails on behaviours that only some prompts trigger; any: on new "
        "styles too",
    ),
    Description(
        "seeds",
        "FILE",
        "prompts to start from: text, JSON Lines, CSV or hf:DATASET:COLUMN (default: shipped ones)",
    ),
    Description("seed", "N", "random seed of the run (default: 0)", "a whole number"),
    Description(
        "num_cases", "N", "cases to export (default: the profile's)", "a whole number of at least 1"
    ),
    _choice(
        "builtin_suite",
        AutoSwitch,
        "test the cases that the search finds; auto (default): if you give no path",
    ),
    Description(
        "chat_template",
        "CHOICE|FILE",
        "template for both models: reference (default), candidate, none or a Jinja file",
    ),
    Description(
        "system_prompt",
        "TEXT",
        "system message before every prompt (default: the template's own)",
    ),
    Description("device", "DEVICE", "auto (default), cpu, cuda, cuda:1, mps"),
    _choice(
        "dtype",
        DtypeName,
        "number format of both models; auto (default) is float32 on a CPU and for small models",
    ),
    Description(
        "memory",
        "SIZE",
        "memory that a search may use, such as 30GB (default: all that is free)",
        "a size, such as 30GB or 500MB",
    ),
    Description(
        "report_dir",
        "FOLDER",
        "folder for reports (default: .divergence/reports); a replay writes one only if you set "
        "this",
    ),
    _choice(
        "github",
        AutoSwitch,
        "annotations and a step summary on GitHub; auto (default): if GITHUB_ACTIONS is true",
    ),
    _switch(
        "redact",
        "leave prompts and answers out of reports and failures; ids and numbers stay, and suites "
        "keep their texts",
    ),
    _switch(
        "allow_same_model",
        "compare a model with itself on purpose; without this, CI fails such a session",
    ),
    _switch(
        "update",
        "after an intended change: measure this session's suites again and rewrite them",
    ),
    _switch(
        "fill",
        "complete rows written by hand: measure those without kl and leave all others alone",
    ),
)
"""All descriptions, in the order of `--help`."""
