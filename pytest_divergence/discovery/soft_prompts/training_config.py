"""Settings of a training and of the dataset after it: every choice, its default, its rule.

The first paragraph below a field is its option's help. Imports nothing heavy, since `--help` needs
it; does not know models.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import NoneType
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from pytest_divergence.core.errors import SettingsError
from pytest_divergence.core.evaluation_metrics import BUILT_IN_METRICS

Kind = Literal["free", "simplex"]
Objective = Literal["first_token", "continuation", "log_ratio", "likelihood"]
Position = Literal["before", "inside", "after"]
DEFAULT_LEARNING_RATES = {"free": 1e-2, "simplex": 0.3}
DEFAULT_NUM_STEPS = 60


class Rule(NamedTuple):
    """A condition that a number must meet."""

    text: str
    holds: Callable[[float], bool]


Count = Annotated[int, Rule("at least 1", lambda value: value >= 1)]
Positive = Annotated[float, Rule("positive and finite", lambda value: 0 < value < math.inf)]
NotNegative = Annotated[float, Rule("0 or more and finite", lambda value: 0 <= value < math.inf)]


TYPE_NAMES = {int: "a whole number", float: "a number", bool: "True or False", str: "text"}


class FieldType(NamedTuple):
    """The type of a field and the values that it allows."""

    python: Any
    """`int`, `float`, `bool`, `str` or another type."""
    choices: tuple[str, ...] = ()
    """The words allowed; empty if any value of the type will do."""
    rule: Rule | None = None
    is_optional: bool = False
    """Whether it may be None."""

    def fault(self, value: Any) -> str | None:
        """Return the rule that a value breaks, as in `must be at least 1`, or None."""
        if value is None and self.is_optional:
            return None
        if self.choices and value not in self.choices:
            return f"must be one of {', '.join(self.choices)}"
        if self.python in TYPE_NAMES and not self._is_of_type(value):
            return f"must be {TYPE_NAMES[self.python]}"
        if self.rule is not None and not self.rule.holds(value):
            return f"must be {self.rule.text}"
        return None

    def _is_of_type(self, value: Any) -> bool:
        """Whether it is a value of the type; an int may stand for a float, a bool for neither."""
        if isinstance(value, bool):
            return self.python is bool
        return isinstance(value, int | float if self.python is float else self.python)


def field_types(kind: type) -> Mapping[str, FieldType]:
    """Return the types of a dataclass's fields, by name."""
    hints = get_type_hints(kind, include_extras=True)
    return {name: _field_type(hint) for name, hint in hints.items()}


def _field_type(hint: Any) -> FieldType:
    if NoneType in get_args(hint):
        inner = next(part for part in get_args(hint) if part is not NoneType)
        return _field_type(inner)._replace(is_optional=True)
    if get_origin(hint) is Literal:
        return FieldType(str, choices=get_args(hint))
    if get_origin(hint) is Annotated:
        python, rule = get_args(hint)
        return FieldType(python, rule=rule)
    return FieldType(hint)


def _check_fields(config: TrainingConfig | DatasetPlan) -> None:
    """Raise `SettingsError` for a value that its field's type does not allow."""
    for name, allowed in field_types(type(config)).items():
        value = getattr(config, name)
        if fault := allowed.fault(value):
            raise SettingsError(f"{name}={reprlib.repr(value)} {fault}")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Settings for training one soft prompt. Raises `SettingsError` for a value that cannot work.

    A training is as long as `num_steps` or `num_epochs` says: give one of them, or neither.
    """

    kind: Kind = "free"
    """Free vectors, or a simplex: each virtual token is a mixture of real token embeddings."""
    num_virtual_tokens: Count = 8
    """Length of the soft prompt."""
    position: Position = "before"
    """Place of the soft prompt in a user's turn: before the text, inside it (after the first half
    of its tokens), or after it."""
    num_steps: Count | None = None
    """Optimiser steps, each on newly drawn texts, instead of passes.

    The default is 60 if `num_epochs` is not given."""
    num_epochs: Count | None = None
    """Passes over the texts, each of ceil(texts / batch size) steps, so that each text is used once
    a pass."""
    stop_after_growth: Positive | None = None
    """Stop once a step's divergence exceeds that of the first step by so many nats; by default a
    training takes all its steps. A search uses 6.

    Beyond a few nats a first token's divergence grows by leaving real text: in measurements that
    found hardly more, for more tokens. Other objectives are compared in their own unit."""
    batch_size: Count = 16
    """Texts in one step; the last step of a pass takes what is left."""
    learning_rate: Positive | None = None
    """Learning rate of Adam; the default is 0.01 for free vectors and 0.3 for the mixture logits of
    a simplex. With 0.0001 they hardly move."""
    objective: Objective = "first_token"
    """The divergence to maximise: that of the answer's first token, or that of a short
    continuation.

    In Python also `log_ratio` of `target_ids` after the text (nats per token), or `likelihood` of
    the text after the soft prompt under the reference (nats per token)."""
    target_ids: tuple[int, ...] = ()
    """The wanted answer of `log_ratio`."""
    continuation_length: Count = 4
    """Tokens of the candidate's greedy answer over which `continuation` averages."""
    metric: str = "symmetric"
    """A built-in divergence, in nats: an added metric need not have a gradient."""
    entropy_weight: NotNegative = 0.0
    """For a simplex: the price of a nat of the mixtures' mean entropy at the last step, in nats of
    the objective; it grows linearly from 0 at the first. It narrows mixtures to single tokens, and
    found less when measured."""
    max_text_tokens: Count = 32
    """Longer texts are left out: a step costs their length.

    The end of the chat template's opening and what closes the user's turn count."""
    gradient_checkpointing: bool = False
    """Compute each layer a second time in the backward pass instead of keeping its activations:
    less memory, for about a third more time.

    The chat template's opening is then forwarded with each text."""
    validate_every: Count = 10
    """Steps between two values of the validation curve."""
    checkpoint_every: Count = 10
    """Steps between two checkpoints, where a checkpoint file is given."""
    seed: int = 0
    """Random seed of initialisation and batches."""

    def __post_init__(self) -> None:
        _check_fields(self)
        if self.metric not in BUILT_IN_METRICS:
            raise SettingsError(
                f"metric={reprlib.repr(self.metric)} must be one of {', '.join(BUILT_IN_METRICS)}"
            )
        if (self.objective == "log_ratio") != bool(self.target_ids):
            raise SettingsError(
                "target_ids and objective='log_ratio' go together; give both or neither"
            )
        if self.objective == "likelihood" and self.position == "after":
            raise SettingsError(
                "objective='likelihood' fits the text after the soft prompt, and with "
                "position='after' there is none; use position='before' or 'inside'"
            )
        if self.num_steps is not None and self.num_epochs is not None:
            raise SettingsError(
                f"num_steps={self.num_steps} and num_epochs={self.num_epochs} both set the "
                "length of the training; give only one"
            )
        if self.entropy_weight and self.kind != "simplex":
            raise SettingsError(
                f"entropy_weight={self.entropy_weight} needs kind='simplex', because "
                f"kind={self.kind!r} has no mixtures; use kind='simplex', or entropy_weight=0"
            )

    @property
    def resolved_learning_rate(self) -> float:
        """Return the learning rate, or the kind's default."""
        if self.learning_rate is None:
            return DEFAULT_LEARNING_RATES[self.kind]
        return self.learning_rate

    def entropy_price(self, step: int, num_steps: int) -> float:
        """Return the price per nat of entropy in one of `num_steps` steps, counted from 0.

        Linear from 0 to `entropy_weight`, so that mixtures explore before they narrow.
        """
        return self.entropy_weight * step / max(1, num_steps - 1)

    def steps_per_epoch(self, num_texts: int) -> int:
        """Count the steps that see each of `num_texts` texts once."""
        return math.ceil(num_texts / self.batch_size)

    def total_steps(self, num_texts: int) -> int:
        """Count the optimiser steps of a training on `num_texts` texts."""
        if self.num_epochs is None:
            return self.num_steps or DEFAULT_NUM_STEPS
        return self.num_epochs * self.steps_per_epoch(num_texts)


@dataclass(frozen=True, kw_only=True)
class DatasetPlan:
    """Settings of the dataset that is written after a training. Raises `SettingsError`."""

    num_prompts: Count = 16
    """Prompts to keep: the most divergent, no two alike."""
    num_written: Count = 64
    """Prompts that both models write, from which these are chosen."""
    num_generations: Count = 1
    """Texts that each model writes on a prompt."""
    max_new_tokens: Count = 32
    """Longest text, in tokens."""
    temperature: NotNegative = 1.0
    """Temperature at which these texts are sampled; 0 takes the most likely text."""
    min_metrics: Mapping[str, float] = field(default_factory=dict)
    """Smallest values of rows that are kept, by metric."""
    max_metrics: Mapping[str, float] = field(default_factory=dict)
    """Largest values of rows that are kept, by metric."""

    def __post_init__(self) -> None:
        _check_fields(self)
