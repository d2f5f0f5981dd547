"""A run without its texts: for reports that leave the house while prompts and answers may not.

Ids, verdicts, numbers, kinds, counts, and names of strategies, models and settings stay. An id
begins with a few letters of its prompt or motif; it stays, because it is the test's name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import JsonValue

from pytest_divergence.core.behaviours import Behaviour, Example
from pytest_divergence.core.cases import AnyCase, Completions
from pytest_divergence.core.contexts import Context
from pytest_divergence.core.report import Report, ReportCase, RunError, TokenComparison

REDACTED = "[redacted]"


def redacted(report: Report) -> Report:
    """Return the report without the texts of prompts, answers, behaviours and errors."""
    settings = dict(report.settings)
    if settings.get("system_prompt"):
        settings["system_prompt"] = REDACTED
    if isinstance(arguments := settings.get("template_arg"), dict):
        settings["template_arg"] = redacted_arguments(arguments)
    return report.model_copy(
        update={
            "settings": settings,
            "cases": [redacted_case(case) for case in report.cases],
            "behaviours": [redacted_behaviour(behaviour) for behaviour in report.behaviours],
            "errors": [_redacted_error(error) for error in report.errors],
        }
    )


def redacted_arguments(arguments: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """Return a template's arguments with numbers and switches alone."""
    return {
        name: value if isinstance(value, int | float | None) else REDACTED
        for name, value in arguments.items()
    }


def redacted_case(case: AnyCase) -> AnyCase:
    """Return the case with its id and numbers, and without its texts."""
    changes: dict[str, Any] = {
        "metadata": {},
        "completions": case.completions and Completions(reference=REDACTED, candidate=REDACTED),
        "origin": case.origin and case.origin.model_copy(update={"seed": None}),
    }
    if case.messages is None:
        changes["input"] = REDACTED
    else:
        hidden = (turn.model_copy(update={"content": REDACTED}) for turn in case.messages)
        changes["messages"] = tuple(hidden)
    if isinstance(case, ReportCase):
        changes["redacted"] = True
        changes["tokens"] = [redacted_token(token) for token in case.tokens]
    return case.model_copy(update=changes)


def redacted_token(token: TokenComparison) -> TokenComparison:
    """Return the position with its numbers alone."""
    return token.model_copy(update={"text": REDACTED, "reference_top": [], "candidate_top": []})


def redacted_behaviour(behaviour: Behaviour) -> Behaviour:
    """Return the behaviour with its counts and properties; a trait is our wording, and stays."""
    hidden = Example(prompt=REDACTED, reference=REDACTED, candidate=REDACTED)
    is_ours = behaviour.trait is not None and not behaviour.motifs
    natural = behaviour.natural_example
    return behaviour.model_copy(
        update={
            "name": behaviour.name if is_ours else REDACTED,
            "phrase": behaviour.phrase and REDACTED,
            "natural_example": natural and natural.model_copy(update=hidden.model_dump()),
            "motifs": [],
            "examples": [hidden for _ in behaviour.examples],
            "shortest_cause": behaviour.shortest_cause and REDACTED,
            "nearest_non_cause": behaviour.nearest_non_cause and REDACTED,
            "when": behaviour.when and behaviour.when.model_copy(update={"property": REDACTED}),
            "context": behaviour.context and _redacted_context(behaviour.context),
            "training_words": behaviour.training_words and [REDACTED],
            "telling": [
                told.model_copy(update={"prompt": REDACTED, "text": REDACTED, "token_ids": []})
                for told in behaviour.telling
            ],
        }
    )


def _redacted_context(context: Context) -> Context:
    """Return the context with the roles of its turns alone."""
    hidden = (turn.model_copy(update={"content": REDACTED}) for turn in context.messages)
    before = context.before and REDACTED
    return Context(name=REDACTED, messages=tuple(hidden), before=before)


def redacted_message(text: str) -> str:
    """Return an error message without the texts that it quotes in quotation marks."""
    return re.sub('".*"', f'"{REDACTED}"', text, flags=re.DOTALL)


def _redacted_error(error: RunError) -> RunError:
    """Return the kind of error alone: a message may quote what could not be measured."""
    kind = re.match(r"\w+(?=: )", error.message)
    return RunError(where=error.where, message=f"{kind[0]}: {REDACTED}" if kind else REDACTED)
