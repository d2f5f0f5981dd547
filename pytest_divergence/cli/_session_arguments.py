"""Arguments and help of the commands that take settings of a session.

Passes settings on to pytest; does not know their rules, or those from the environment and ini file.
"""

from __future__ import annotations

import ast
import inspect
import math
from argparse import SUPPRESS, Action, ArgumentParser, ArgumentTypeError, Namespace, _ArgumentGroup
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

from pytest_divergence.core.evaluation_metrics import METRICS
from pytest_divergence.core.file_names import SUITE_SUFFIX
from pytest_divergence.discovery.soft_prompts import training_config
from pytest_divergence.discovery.soft_prompts.training_config import (
    TYPE_NAMES,
    DatasetPlan,
    FieldType,
    TrainingConfig,
    field_types,
)
from pytest_divergence.plugin.options import BY_FIELD, MODELS, given_twice

TEMPLATE = ("chat_template", "system_prompt", "template_arg")
"""Settings of what stands around a prompt."""
ENGINE = ("engine", "workers", "worker_gpus", "worker_timeout")
"""Settings of a search's own engine."""
MEASURED_PAIR = (*MODELS, "dtype", "device", "metric", *TEMPLATE)
"""Settings that a measurement of two models depends on."""
NUM_EPOCHS = 10
"""Epochs of a training, if neither epochs nor steps are given."""
TRAINING = TrainingConfig(num_epochs=NUM_EPOCHS, batch_size=4, max_text_tokens=64)
"""Defaults of `train`."""
NO_OPTIONS = {
    *("target_ids", "continuation_length", "validate_every", "checkpoint_every"),
    *("metric", "seed"),  # settings
    *("min_metrics", "max_metrics"),  # may be given several times
}
"""Fields of `TrainingConfig` and `DatasetPlan` without an option."""
OTHER_FLAGS = {"num_virtual_tokens": "--num-soft-prompt-tokens"}
TOLERANCE = 0.01
"""Loss of accuracy that counts as none for `damage`, unless another is given."""
ONLY_IN_PYTHON = {"log_ratio", "likelihood"}
"""Objectives that options cannot express."""


def _add_discover(parser: ArgumentParser) -> None:
    parser.description = (
        "Find prompts on which two models differ, like `pytest --model-1 … --model-2 …`, with the "
        "project's ini file, conftest.py and plugins. Writes the same suite, report and journal, "
        "but runs no tests. A finished search returns its saved results, and a stopped one "
        "continues. Exit code 0: the search is complete, whatever it found; 1: it failed, or is "
        "incomplete."
    )
    other = ("mode", "builtin_suite", "update", "fill", "github", "inconclusive", "max_shift")
    _add_settings(parser, _fields_without(*other, "allow_same_model"))
    parser.add_argument(
        "--anew", action="store_true", help="search again, even if the same search is saved"
    )
    parser.add_argument(
        "--json", action="store_true", help="print report.json instead of the summary"
    )
    parser.add_argument(
        "-v", "--verbose", action="count", default=0, help="show every case over the bound"
    )


def _add_replay(parser: ArgumentParser) -> None:
    parser.description = (
        "Replay suites on two models, without a search. This runs pytest on the suites only, with "
        "the project's ini file, conftest.py and plugins; output and exit code are pytest's. "
        "Models come from here, the environment or the ini file. For options of pytest, such as "
        "-n or --junitxml, run pytest on the suites, or set PYTEST_ADDOPTS."
    )
    parser.add_argument(
        "suites",
        metavar="SUITE",
        nargs="+",
        help=f"a *{SUITE_SUFFIX}, one of its cases as SUITE::ID, a folder of suites, or the "
        "suites of a dataset on the Hub, as hf:OWNER/NAME[@REVISION]",
    )
    other = ("mode", "budget", "seeds", "training_data", "contexts", "num_cases", "gate")
    _add_settings(parser, _fields_without(*other, *ENGINE, "builtin_suite"))


def _add_train(parser: ArgumentParser) -> None:
    parser.description = (
        "Train a soft prompt that drives two models apart, let both models write prompts with it, "
        "and save a dataset of the most divergent: soft_prompt.safetensors, training.json, "
        "divergent_dataset.pt and divergent_dataset.jsonl in one folder. If it is stopped, run "
        "the same command to continue from the journal in that folder's .divergence. A training "
        "with other settings is not overwritten. The project's ini file, conftest.py and plugins "
        "apply."
    )
    _add_files(parser)
    _add_fields(parser.add_argument_group("training"), TRAINING)
    dataset = parser.add_argument_group("dataset")
    _add_fields(dataset, DatasetPlan())
    _add_limits(dataset)
    _add_settings(parser, (*MEASURED_PAIR, "seed"))


def _add_files(parser: ArgumentParser) -> None:
    kinds = "text (one prompt a line), JSON Lines (input, prompt or messages) or CSV"
    parser.add_argument(
        "--train-file",
        type=Path,
        metavar="FILE",
        help=f"prompts to train on: {kinds}; default: the shipped ones",
    )
    parser.add_argument(
        "--val-file",
        type=Path,
        metavar="FILE",
        help="prompts to validate on; default: the training prompts",
    )
    parser.add_argument(
        "--output-dir", type=Path, metavar="FOLDER", required=True, help="where to write all files"
    )
    parser.add_argument(
        "--force", action="store_true", help="replace a training with other settings in that folder"
    )


def _add_fields(group: _ArgumentGroup, defaults: TrainingConfig | DatasetPlan) -> None:
    """Register an option for each field of a dataclass; its docstring is the help."""
    # Without arguments of its own, the group does not appear in the help.
    length = group.add_mutually_exclusive_group() if isinstance(defaults, TrainingConfig) else group
    for name, allowed in field_types(type(defaults)).items():
        if name in NO_OPTIONS:
            continue
        default = getattr(defaults, name)
        shown = "" if default is None or allowed.python is bool else f" (default {default})"
        metavar = "N" if allowed.python is int else "NUMBER"
        takes: dict[str, Any] = {"type": _read_as(allowed), "metavar": metavar}
        if allowed.python is bool:
            takes = {"action": "store_const", "const": True}
        elif allowed.choices:
            takes = {"choices": [word for word in allowed.choices if word not in ONLY_IN_PYTHON]}
        flag = OTHER_FLAGS.get(name, f"--{name.replace('_', '-')}")
        (length if name in ("num_epochs", "num_steps") else group).add_argument(
            flag, dest=name, help=_docstrings()[name] + shown, **takes
        )


def given_fields(given: Namespace, kind: type) -> dict[str, Any]:
    """Return the fields of a dataclass that the command line gives, by name."""
    names = field_types(kind).keys() - NO_OPTIONS
    return {name: getattr(given, name) for name in names if getattr(given, name) is not None}


@cache
def _docstrings() -> dict[str, str]:
    """Return the first paragraph below each field of the dataclasses, as one line of help."""
    module = ast.parse(inspect.getsource(training_config))
    classes = (node.body for node in module.body if isinstance(node, ast.ClassDef))
    found = {}
    for field, below in chain.from_iterable(map(pairwise, classes)):
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr):
            words = " ".join(ast.literal_eval(below.value).partition("\n\n")[0].split())
            words = words[0].lower() + words[1:].rstrip(".").replace("%", "%%")
            found[ast.unparse(field.target)] = words
    return found


def _read_as(allowed: FieldType) -> Callable[[str], Any]:
    """Return a parser of a field's argument that raises if the field's rule is broken."""

    def read(text: str) -> Any:
        try:
            value = allowed.python(text)
        except ValueError:
            raise ArgumentTypeError(f"{text} must be {TYPE_NAMES[allowed.python]}") from None
        if fault := allowed.fault(value):
            raise ArgumentTypeError(f"{text} {fault}")
        return value

    return read


def _add_limits(group: _ArgumentGroup) -> None:
    for name, side, example in (
        ("min", "least", "kl_divergence=0.5"),
        ("max", "most", "prompt_nll_1=6"),
    ):
        group.add_argument(
            f"--{name}-metric",
            type=_limit,
            metavar="NAME=VALUE",
            action="append",
            default=[],
            help=f"keep only rows with at {side} this value, for example {example}; can be "
            "repeated",
        )


def _add_calibrate(parser: ArgumentParser) -> None:
    parser.description = (
        "Measure how much two models differ when nothing is wrong, derive the bound, and add "
        "noise of known sizes to see which sizes a gate at that bound catches. Reuses saved "
        "measurements of a search of the same pair. The project's ini file, conftest.py and "
        "plugins apply."
    )
    _add_settings(parser, (*MEASURED_PAIR, "profile", "seed", "max_kl"))
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def _add_record(parser: ArgumentParser) -> None:
    parser.description = (
        "Measure what the reference of a suite tells of its continuations (the 64 most likely "
        "tokens, and the chosen one, at each position) and keep it beside the suite. A replay with "
        "--model-1 recorded:SUITE then needs the candidate alone. The project's ini file, "
        "conftest.py and plugins apply."
    )
    parser.add_argument(
        "suite", metavar="SUITE", type=Path, help=f"a *{SUITE_SUFFIX} with stored continuations"
    )
    _add_settings(parser, ("model_1", "dtype", "device", *TEMPLATE))


def _add_rank(parser: ArgumentParser) -> None:
    parser.description = (
        "Rank your own prompts by how much two models differ at the start of their answers. Both "
        "models read each prompt once, and write nothing but a few tokens. Each prompt is placed "
        "among ordinary prompts; nothing passes or fails, and the exit code is 0. The project's "
        "ini file, conftest.py and plugins apply."
    )
    parser.add_argument(
        "prompts",
        metavar="PROMPTS",
        help="text (one prompt a line), JSON Lines (input, prompt or messages), CSV, or "
        "hf:DATASET:COLUMN",
    )
    parser.add_argument(
        "--top",
        type=_at_least_one,
        metavar="N",
        default=20,
        help="prompts in the table and in the suite (default: %(default)s)",
    )
    parser.add_argument(
        "--json", action="store_true", help="print all prompts as JSON Lines instead of a table"
    )
    parser.add_argument(
        "--to-suite",
        type=Path,
        metavar="FILE",
        help=f"write the top prompts to a new *{SUITE_SUFFIX}, to be measured by --divergence-fill",
    )
    _add_settings(parser, (*MODELS, "dtype", "device", *TEMPLATE))


def _add_damage(parser: ArgumentParser) -> None:
    parser.description = (
        "Test whether the candidate is worse where the right answer is known. Both models read "
        "each item once. Answers lost and won are counted, and tested by the exact McNemar test; "
        "so is how surely right answers are preferred. What the items can find is said first. "
        "Exit code 0: no loss is shown, 1: it is worse. The project's ini file, conftest.py and "
        "plugins apply."
    )
    parser.add_argument(
        "items",
        metavar="ITEMS",
        type=Path,
        help="JSON Lines or CSV: input or prompt, answer, and optionally opening and choices",
    )
    parser.add_argument(
        "--tolerance",
        type=_share,
        metavar="SHARE",
        default=TOLERANCE,
        help="loss of accuracy that counts as none (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON, with every item")
    _add_settings(parser, (*MODELS, "dtype", "device", *TEMPLATE))


def _add_init(parser: ArgumentParser) -> None:
    parser.description = (
        "Set up the project in this folder: both models in its ini file (pytest.ini, "
        "pyproject.toml, tox.ini or setup.cfg, else a new pytest.ini), a conftest.py, and a GitHub "
        "workflow that replays a suite. Nothing existing is replaced; you see all changes before "
        "you confirm them. A second run changes nothing."
    )
    parser.add_argument(
        "--suite",
        default=f"tests/release{SUITE_SUFFIX}",
        help="the suite that the workflow replays (default: %(default)s)",
    )
    parser.add_argument("-y", "--yes", action="store_true", help="write without asking")
    _add_settings(parser, MODELS)


def _add_show_config(parser: ArgumentParser) -> None:
    parser.description = (
        "Print every setting that pytest and `discover` would use in this folder, and where its "
        "value comes from: the command line, an environment variable, the ini file, or the "
        "default, in this order of precedence. Settings given here count as the command line. "
        "Exit code 1: a value is wrong, and the last line says which."
    )
    _add_settings(parser, _fields_without())
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def _add_doctor(parser: ArgumentParser) -> None:
    parser.description = (
        "Check this machine: packages, device, memory and folders. If two models are set, here, in "
        "the environment or in the ini file, also check whether they would load and fit; this "
        "reads only their files, loads no weights and downloads nothing. How long a search takes "
        "is told from the pair's last one, or with --measure. Exit code 1: something is wrong."
    )
    fields = ("profile", "budget", "contexts", "num_cases", *TEMPLATE)
    _add_settings(parser, (*MODELS, *fields, "device", "dtype", "memory"))
    parser.add_argument(
        "--measure",
        action="store_true",
        help="load both models and measure their speed on this machine",
    )


def _add_settings(parser: ArgumentParser, fields: Sequence[str]) -> None:
    """Register the options of some fields of `Settings` by short name and by pytest's name."""
    group = parser.add_argument_group(
        "settings", "the same as pytest's; --divergence-… names work too"
    )
    for option in (BY_FIELD[field] for field in fields):
        shared: dict[str, Any] = {"dest": option.field, **option.argument}
        if option.field in MODELS:
            shared["action"] = _Once
        short = f"--{option.field.replace('_', '-')}"
        group.add_argument(short, **shared)
        group.add_argument(option.flag, **{**shared, "default": SUPPRESS, "help": SUPPRESS})
    parser.set_defaults(fields=fields)


class _Once(Action):
    """Stores a value, and refuses a second one: argparse would silently take the last."""

    def __call__(
        self,
        parser: ArgumentParser,
        namespace: Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """Store the value; refuse it if another one was given."""
        before = getattr(namespace, self.dest, None)
        if before not in (None, values):
            parser.error(given_twice(BY_FIELD[self.dest], before, values))
        setattr(namespace, self.dest, values)


def _fields_without(*fields: str) -> tuple[str, ...]:
    """All fields but those that have no meaning for a command."""
    return tuple(field for field in BY_FIELD if field not in fields)


def _at_least_one(text: str) -> int:
    """Return a count."""
    number = int(text)
    if number < 1:
        raise ArgumentTypeError(f"{text} must be at least 1")
    return number


def _share(text: str) -> float:
    """Return a share above 0 and below 1."""
    number = float(text)
    if not 0 < number < 1:
        raise ArgumentTypeError(f"{text} must be above 0 and below 1")
    return number


def _limit(text: str) -> tuple[str, float]:
    """Return a metric's name and a number."""
    name, separator, value = text.partition("=")
    if not separator or name not in METRICS:
        raise ArgumentTypeError(f"{text} must be NAME=VALUE; names are {', '.join(METRICS)}")
    number = float(value)
    if not math.isfinite(number):
        raise ArgumentTypeError(f"{text} must be a finite number")
    return name, number


ADD: Mapping[str, Callable[[ArgumentParser], None]] = {
    "discover": _add_discover,
    "replay": _add_replay,
    "train": _add_train,
    "calibrate": _add_calibrate,
    "record": _add_record,
    "rank": _add_rank,
    "damage": _add_damage,
    "init": _add_init,
    "show-config": _add_show_config,
    "doctor": _add_doctor,
}
"""Functions that add a command's arguments to its parser."""
