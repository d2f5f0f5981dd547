"""Fixtures, marker, hooks and exit codes of a session."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from docs.site.markdown import block, table
from pytest_divergence import cli, plugin
from pytest_divergence.plugin import hookspecs

SESSION_CODES = {
    pytest.ExitCode.OK: "every selected test passed, and nothing that you asked for was left out",
    pytest.ExitCode.TESTS_FAILED: (
        "a case is over its bound, a behaviour is there that nobody accepted, a suite moved as a "
        "whole, something could not be measured, a search did not finish, both sides were the same "
        "model in CI, or nothing was compared: the last line says why"
    ),
    pytest.ExitCode.INTERRUPTED: (
        "stopped by Ctrl-C; run the same command to continue, without `--divergence-mode=search`"
    ),
    pytest.ExitCode.INTERNAL_ERROR: "a fault inside pytest or a plugin; please report it",
    pytest.ExitCode.USAGE_ERROR: (
        "nothing could be tested: a wrong option, a model that cannot be loaded, a faulty suite, "
        "no suite in CI, a bound inside the noise"
    ),
    pytest.ExitCode.NO_TESTS_COLLECTED: "pytest found nothing to run",
}
COMMAND_CODES = {
    0: "done",
    1: (
        "the command failed; one sentence on stderr says why (`diff`: something differs; "
        "`damage`: the candidate is worse; `validate`: a suite has faults, listed on stdout)"
    ),
    2: "the arguments are wrong (`diff`: one side cannot be read)",
    cli.INTERRUPTED: "stopped by Ctrl-C",
}


def fixtures() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Yield the name and function of each public fixture."""
    for name, value in vars(plugin).items():
        if hasattr(value, "_fixture_function") and not name.startswith("_"):
            yield name, value._fixture_function


def hooks() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Yield the name and specification of each hook."""
    for name, value in vars(hookspecs).items():
        if name.startswith("pytest_divergence_"):
            yield name, value


def fixtures_page() -> str:
    """Return the page of fixtures and marker, from their docstrings."""
    parts = [
        "# Fixtures and marker\n\nFixtures for your own tests, and the marker that controls them.\n"
    ]
    for name, function in fixtures():
        scope = getattr(plugin, name)._fixture_function_marker.scope
        returns = inspect.signature(function).return_annotation
        parts.append(
            f"## {name}\n\n{inspect.getdoc(function)}\n\nScope: {scope}. Value: `{returns}`.\n"
        )
    signature, meaning = plugin.MARKER.split("): ", 1)
    parts.append(f"## divergence\n\nThe marker `@pytest.mark.{signature})`: {meaning}.\n")
    return "\n".join(parts)


def hooks_page() -> str:
    """Return the page of hooks, with signature and docstring."""
    parts = [f"# Hooks\n\n{inspect.getdoc(hookspecs)}\n"]
    for name, function in hooks():
        is_first = function.pytest_spec["firstresult"]  # type: ignore[attr-defined]
        counts = "The first answer that is not None counts." if is_first else "All answers count."
        parts.append(
            f"## {name}\n\n{block(_signature(name, function), 'python')}\n"
            f"{inspect.getdoc(function)}\n\n{counts}\n"
        )
    return "\n".join(parts)


def _signature(name: str, function: Callable[..., Any]) -> str:
    signature = inspect.signature(function)
    arguments = ", ".join(map(str, signature.parameters.values()))
    return f"def {name}({arguments}) -> {signature.return_annotation}: ...".replace("'", "")


def exit_codes_page() -> str:
    """Return the page of exit codes, of a session and of the command."""
    sessions = [(f"{int(code)}", meaning) for code, meaning in SESSION_CODES.items()]
    commands = [(f"{code}", meaning) for code, meaning in COMMAND_CODES.items()]
    return (
        "# Exit codes\n\nExit code 1 of a search means that differences were found, not that the "
        "tool broke.\n\n## pytest, and pytest-divergence replay\n\n"
        f"{table(('code', 'meaning'), sessions)}\n"
        "## Other commands\n\n`discover` exits with 0 whatever it finds.\n\n"
        f"{table(('code', 'meaning'), commands)}"
    )
