"""Descriptions of all settings: their meaning, and the values that they take.

pytest registers an option for each in every session, so this imports nothing heavy. Values are
checked in `pytest_divergence.core.settings`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

Mode = Literal["auto", "search", "replay", "off"]
ProfileName = Literal["auto", "smoke", "default", "thorough"]
Inconclusive = Literal["pass", "fail"]
Gate = Literal["natural", "all"]
FailOn = Literal["content", "any", "none"]
AutoSwitch = Literal["auto", "on", "off"]
EngineName = Literal["local", "ray", "ray:local"]
DtypeName = Literal["auto", "float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class Description:
    """The description of a field of `Settings`."""

    field: str
    metavar: str
    """The value's name in `--help`; empty for a switch."""
    help: str
    rule: str = ""
    """End of the sentence that refuses a value; empty if any text is allowed."""
    is_repeatable: bool = False
    """Whether it may be given several times; elsewhere its values are lines of one text."""
    is_of_user: bool = False
    """Whether only the user at hand may give it, and no file of a project."""

    @property
    def is_switch(self) -> bool:
        """Whether it is given without a value on the command line."""
        return not self.metavar


def _choice(
    field: str, literal: Any, help_text: str, *, note: str = "", is_of_user: bool = False
) -> Description:
    choices = get_args(literal)
    metavar = "{" + ",".join(choices) + "}"
    rule = f"one of {', '.join(choices)}{note}"
    return Description(field, metavar, help_text, rule, is_of_user=is_of_user)


def _switch(field: str, help_text: str) -> Description:
    return Description(field, "", help_text, "true or false")


_SPEC = "a Hub id, a local folder or demo:NAME"
DESCRIPTIONS = (
    Description(
        "model_1",
        "SPEC",
        f"the reference, the trusted model: {_SPEC}, a GGUF file, llamacpp:http://HOST:PORT or "
        "vllm:http://HOST:PORT, which a server runs, or for a replay openai:https://HOST or "
        "recorded:SUITE; after commas, options for this model only: dtype=…, "
        "attn_implementation=…, revision=…, device=… or device_map=auto; for a served one model=…, "
        "tokenizer=…, key_env=… and timeout=…",
        _SPEC,
    ),
    Description(
        "model_2",
        "SPEC",
        "the candidate, the model under test: like the reference, or the folder of a PEFT adapter "
        "for model 1 (for another model add ,base=MODEL, which an adapter as model 1 always needs)",
        _SPEC,
    ),
    _choice(
        "mode", Mode, "auto (default): replay if you name a suite, and always in CI; else search"
    ),
    _choice(
        "profile",
        ProfileName,
        "how much a search does; auto (default) is smoke on a CPU, default on a GPU",
    ),
    Description(
        "budget",
        "BUDGET",
        "end a search after this many forwarded tokens (200000) or seconds (300s, not "
        "reproducible); default: set by the profile",
        "a number of forwarded tokens, such as 200000, or of seconds, such as 300s",
    ),
    Description(
        "max_kl",
        "NATS",
        "limit on a case's divergence in nats per token; auto (default) derives it from the models",
        "auto or a positive number of nats per token",
    ),
    Description(
        "max_shift",
        "NATS",
        "limit on the mean divergence of ordinary prompts, in nats per token (default: none)",
        "a positive number of nats per token",
    ),
    _choice(
        "inconclusive",
        Inconclusive,
        "result of a suite's aggregate if there is too little evidence: pass (default), with a "
        "warning, or fail",
    ),
    Description(
        "metric",
        "METRIC",
        "divergence to assert: symmetric (default), forward, reverse, js or a plugin's metric",
    ),
    _choice("gate", Gate, "unnatural prompts: natural (default) leaves them out, all keeps them"),
    _choice(
        "fail_on",
        FailOn,
        "behaviours that fail: content (default), what is said; any, style too, unless "
        "training-data explains it; none",
        note="; conditional is now content",
    ),
    Description(
        "seeds",
        "FILE",
        "prompts to start from: text, JSON Lines, CSV or hf:DATASET:COLUMN (default: built-in)",
    ),
    Description(
        "training_data",
        "FILE",
        "prompts and responses that the candidate was trained on, as JSON Lines, JSON list or CSV: "
        "behaviours name the rows that teach them, and some prompts become seeds",
    ),
    Description(
        "contexts",
        "FILE",
        "system texts and earlier turns under which to look for behaviours too: text with one "
        "system text a line, or JSON Lines (default: a built-in grid from profile default on)",
    ),
    Description("seed", "N", "random seed of the run (default: 0)", "a whole number"),
    Description(
        "num_cases",
        "N",
        "cases to export (default: set by the profile)",
        "a whole number of at least 1",
    ),
    _choice(
        "builtin_suite",
        AutoSwitch,
        "run the cases of the pair's search in this session; auto (default): if you give no path",
    ),
    Description(
        "chat_template",
        "CHOICE|FILE",
        "template of both models: reference (default), candidate, none or path of a Jinja file",
    ),
    Description(
        "system_prompt",
        "TEXT",
        "system prompt before every prompt (default: the chat template's)",
    ),
    Description(
        "template_arg",
        "NAME=VALUE",
        "argument of the chat template; may be repeated. enable_thinking=true has models think "
        "before they answer, and measures thoughts too (default: thoughts are closed)",
        "NAME=VALUE with a name that the chat template reads, each name once, such as "
        "enable_thinking=false",
        is_repeatable=True,
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
    _choice(
        "engine",
        EngineName,
        "where a search computes: local (default), this process; ray, the workers of the Ray "
        "cluster of RAY_ADDRESS or of this machine, which is started if there is none; ray:local, "
        "a cluster on this machine that is started in any case. No ini file may set it",
        is_of_user=True,
    ),
    Description(
        "workers",
        "N",
        "workers of a Ray cluster, each with a copy of both models (default: as many as it has "
        "GPUs for, or CPUs where it has no GPU). No ini file may set it",
        "a whole number of at least 1",
        is_of_user=True,
    ),
    Description(
        "worker_gpus",
        "N",
        "GPUs of each worker of a Ray cluster (default: 1 where there are any); needed where a "
        "model's own spec gives device= or device_map=. No ini file may set it",
        "a whole number of at least 0",
        is_of_user=True,
    ),
    Description(
        "worker_timeout",
        "SECONDS",
        "seconds, at most, that a search waits where a Ray cluster has no room for its workers, "
        "before it ends with an error (default: no limit). No ini file may set it",
        "a number of seconds above 0, such as 600",
        is_of_user=True,
    ),
    Description(
        "report_dir",
        "FOLDER",
        "folder for reports (default: .divergence/reports); a replay writes a report "
        "only with this option",
    ),
    _choice(
        "github",
        AutoSwitch,
        "annotations and a step summary on GitHub; auto (default): if GITHUB_ACTIONS is true",
    ),
    _switch(
        "redact",
        "keep prompts and answers out of reports and failures; ids and numbers stay, and suites "
        "keep their texts",
    ),
    _switch(
        "allow_same_model",
        "allow the same model on both sides; without this, such a session fails in CI",
    ),
    _switch(
        "update",
        "after an intended change: measure this session's suites again, and rewrite them",
    ),
    _switch(
        "fill",
        "complete rows written by hand: measure rows without kl, and leave all others as they are",
    ),
)
"""All descriptions, in the order of `--help`."""
