"""Errors of this package, and the wording of a fault in a record.

A message names the thing, shows the value, states the rule and gives the next step.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Sequence
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any, get_args

from pytest_divergence.core.safe_text import safe_line, visible

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError


MAX_REASON = 500
"""Characters that a message says of one value, at most."""


class DivergenceError(Exception):
    """Base of every error that this package raises on purpose."""


class SettingsError(DivergenceError):
    """Options that contradict each other, or ask for what this machine cannot do."""


class ModelLoadError(DivergenceError):
    """A model, adapter or tokenizer that cannot, or must not, be loaded."""


class TokenizerMismatchError(ModelLoadError):
    """Two models whose token ids do not mean the same text."""


class NonFiniteLogitsError(DivergenceError):
    """A model returned NaN or infinite logits, so there is no divergence."""


class NoGradientError(DivergenceError):
    """No gradient, or one that is not finite, reached the soft prompt."""


class MeasurementError(DivergenceError):
    """A divergence that could not be measured. It never counts as a pass."""


class PromptIdsError(MeasurementError):
    """A prompt whose token ids are no longer those that its continuations belong to."""


class EngineError(DivergenceError):
    """An engine that lost its workers, or a unit that no worker survives."""


class StoreError(DivergenceError):
    """A folder or file that cannot be written or locked."""


class SuiteError(DivergenceError):
    """A suite, or another file of this plugin, that cannot be used."""

    def __init__(self, path: str | PathLike[str], line: int | None, reason: str) -> None:
        """`line` counts from 1; None means the whole file."""
        super().__init__(path, line, reason)
        self.path = fspath(path)
        self.line = line
        self.reason = reason

    def __str__(self) -> str:
        """Return `path:line: reason`, which editors and CI turn into a link."""
        path = visible(self.path)
        where = path if self.line is None else f"{path}:{self.line}"
        return f"{where}: {self.reason}"


def first_fault(error: ValidationError, model: type[BaseModel]) -> str:
    """Return the first fault that pydantic found in a `model` as a sentence: key, value, rule."""
    fault = error.errors(include_url=False)[0]
    key = safe_line(".".join(str(part) for part in fault["loc"]), 80).replace('"', "")
    if fault["type"] == "value_error":
        reason = _cut(str(fault["ctx"]["error"]))
        return reason if reason.startswith(key) else f"{key}: {reason}"
    if fault["type"] == "missing":
        return f"{key} is missing"
    if fault["type"] == "extra_forbidden":
        return _unknown_key(str(fault["loc"][-1]), _keys_at(model, fault["loc"][:-1]))
    rule = _cut(fault["msg"].replace("Input should", "it should"))
    return f"{key or 'the value'} is {_shown(fault['input'])}; {rule}"


def one_of(name: str, known: Sequence[str]) -> str:
    """Return the rule for a name, with the known name that was probably meant."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"must be one of {', '.join(known)}" + (f"; did you mean {close[0]}?" if close else "")


def _unknown_key(key: str, known: list[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {safe_line(close[0])}?" if close else f"known are {', '.join(known)}"
    return f"unknown key {safe_line(key, 60)}; {hint}"


def _keys_at(model: Any, place: tuple[int | str, ...]) -> list[str]:
    """Return the keys of the record at `place` inside a `model`."""
    for name in (part for part in place if part in model.model_fields):
        model = next(_records_in(model.model_fields[name].annotation), model)
    return list(model.model_fields)


def _records_in(annotation: Any) -> Iterator[Any]:
    if hasattr(annotation, "model_fields"):
        yield annotation
    for part in get_args(annotation):
        yield from _records_in(part)


def _cut(reason: str) -> str:
    """Return `reason`, cut: it may quote a file, which may be endless."""
    return reason if len(reason) <= MAX_REASON else f"{reason[:MAX_REASON]} …"


def _shown(value: object) -> str:
    if isinstance(value, str):
        return safe_line(value, 60)
    return safe_line(json.dumps(value, default=repr), 60).strip('"')
