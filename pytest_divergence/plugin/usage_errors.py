"""Errors as people see them: at the end of the session, or as the failure of one test.

Knows how an error is worded. Does not know what may go wrong, nor how a broken bound is shown
(`pytest_divergence.reports.failures`).
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from pytest_divergence.core.cases import Case
from pytest_divergence.core.errors import DivergenceError, SuiteError
from pytest_divergence.core.files import DivergenceFolder, write_atomically
from pytest_divergence.core.redaction import (
    REDACTED,
    redacted_arguments,
    redacted_case,
    redacted_message,
    redacted_token,
)
from pytest_divergence.core.report import TokenComparison
from pytest_divergence.core.safe_text import printable, safe_line
from pytest_divergence.plugin.session import DivergenceSession

ERROR_FILE = "discovery-error.txt"


@contextmanager
def usage_errors(session: DivergenceSession) -> Iterator[None]:
    """Turn any error into one UsageError, which ends the session with exit code 4."""
    try:
        yield
    except pytest.exit.Exception:
        raise
    except pytest.UsageError as error:
        session.error = pytest.UsageError(error_text(session, error))
        raise session.error from error
    except DivergenceError as error:
        session.error = pytest.UsageError(error_text(session, error))
        raise session.error from error
    except Exception as error:
        session.error = _unexpected(session, error)
        raise session.error from error


@contextmanager
def failures(session: DivergenceSession) -> Iterator[None]:
    """Turn our errors into one sentence without a traceback: an error of one test."""
    try:
        yield
    except (DivergenceError, pytest.UsageError) as error:
        raise pytest.fail.Exception(error_text(session, error), pytrace=False) from None


def error_text(session: DivergenceSession, error: Exception) -> str:
    """Return an error's text, safe to print and with a path that people can use."""
    if isinstance(error, SuiteError):
        error = SuiteError(session.shown(Path(error.path)), error.line, error.reason)
    text = redacted_message(str(error)) if session.is_redacted else str(error)
    return printable(text)


def shown_case(
    session: DivergenceSession, case: Case, tokens: Sequence[TokenComparison]
) -> tuple[Case, Sequence[TokenComparison]]:
    """Return the case and tokens that a failure may show; redacted sessions show no texts."""
    if not session.is_redacted:
        return case, tokens
    return redacted_case(case), [redacted_token(token) for token in tokens]


def shown_settings(session: DivergenceSession) -> dict[str, object]:
    """Return the options that commands may repeat: all but those of the ini file."""
    shown: dict[str, object] = {**session.said}
    if session.is_redacted:
        arguments = redacted_arguments(session.resolved.settings.template_arg)
        hidden = {"system_prompt": REDACTED, "template_arg": arguments}
        shown |= {field: value for field, value in hidden.items() if field in shown}
    return shown


def _unexpected(session: DivergenceSession, error: Exception) -> pytest.UsageError:
    message = REDACTED if session.is_redacted else safe_line(str(error))
    reason = f"discovery failed: {type(error).__name__}: {message}"
    lines = traceback.format_exception(error)
    if session.is_redacted:  # the messages of an error and of its causes may quote a text
        lines = traceback.format_tb(error.__traceback__)
    try:
        report_dir = session.resolved.settings.report_dir
        folder = DivergenceFolder(session.root, report_dir=Path(report_dir) if report_dir else None)
        path = folder.reports / ERROR_FILE
        write_atomically(path, "".join(lines))
    except DivergenceError:
        return pytest.UsageError(reason)
    return pytest.UsageError(f"{reason}; the traceback is in {session.shown(path)}")
