"""Each setting in words, once: what it means, and which values it takes.

pytest registers an option for each of them in every session, so this imports nothing heavy. What
a value may be is checked in `pytest_divergence.core.settings`.
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
    """The value's name in `--help`; a switch has none."""
    help: str
    rule: str = ""
    """What a value must be, where not every text is one: ends the sentence that refuses it."""

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
        f"the reference, the trusted model: {_SPEC}, or a GGUF file; behind it, each after a "
        "comma, dtype=…, attn_implementation=…, revision=…, device=… or device_map=auto of this "
        "model alone",
        _SPEC,
    ),
    Description(
        "model_2",
        "SPEC",
        "the candidate, the model under test: like the reference, or a PEFT adapter's folder of "
        "model 1 (of another model with ,base=MODEL, as an adapter needs that is model 1)",
        _SPEC,
    ),
    _choice(
        "mode", Mode, "auto (default) replays given suites, replays in CI, and searches otherwise"
    ),
    _choice(
        "profile",
        ProfileName,
        "how long a search takes; auto (default) is smoke on a CPU, default on a GPU",
    ),
    Description(
        "budget",
        "BUDGET",
        "forwarded tokens (200000) after which a search ends, or seconds (300s, not reproducible); "
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
        "what too little evidence does to a suite's aggregate: pass (default), with a warning; or "
        "fail",
    ),
    Description(
        "metric",
        "METRIC",
        "divergence that is asserted: symmetric (default), forward, reverse, js or a plugin's own",
    ),
    _choice("gate", Gate, "natural (default) leaves out prompts that no one would write"),
    _choice(
        "fail_on",
        FailOn,
        "conditional (default): behaviours that only some prompts cause fail; any: new styles too",
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
        "whether the search's own cases join the session; auto (default): if no path is given",
    ),
    Description(
        "chat_template",
        "CHOICE|FILE",
        "reference (default), candidate, none or the path of a Jinja file; used for both models",
    ),
    Description(
        "system_prompt",
        "TEXT",
        "system turn before every prompt (default: what the template puts there)",
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
        "memory that a search may take, such as 30GB (default: what is free)",
        "a size, such as 30GB or 500MB",
    ),
    Description(
        "report_dir",
        "FOLDER",
        "where reports go (default: .divergence/reports); a replay writes one only if it is given",
    ),
    _choice(
        "github",
        AutoSwitch,
        "annotations and a step summary on GitHub; auto (default): where GITHUB_ACTIONS is true",
    ),
    _switch(
        "redact",
        "leave prompts and answers out of reports and failures: ids and numbers stay, and suites "
        "keep their texts",
    ),
    _switch(
        "allow_same_model",
        "one model on both sides is meant: without this, such a session fails in CI",
    ),
    _switch(
        "update",
        "after an intended change: measure the suites of this session afresh, and rewrite them",
    ),
    _switch(
        "fill",
        "complete rows written by hand: measure those without kl, and leave all others as they are",
    ),
)
"""In the order in which `--help` shows them."""
