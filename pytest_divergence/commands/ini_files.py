"""Settings that are added to the ini file which a project has, without damage to it.

A few lines are put in, and the result is read again: unless the new settings read as they were
meant, and all else reads as before, there is no result. Does not write anything.
"""

from __future__ import annotations

import copy
import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import iniconfig  # pytest reads ini files with it

from pytest_divergence.core.errors import SettingsError

COMMENT = "# what pytest-divergence compares: the reference and the candidate"
PYPROJECT_TABLES = ("tool.pytest", "tool.pytest.ini_options")
"""pytest 9 knows the first one too, and a project has one of them."""


def settings_in(path: Path) -> dict[str, Any]:
    """pytest's settings in a file; none where it has no such section, or is not there."""
    return dict(_at(_parsed(path, _text(path)), _section(path, _text(path))))


def with_settings(path: Path, settings: Mapping[str, str]) -> str:
    """The text of the file with these settings in pytest's section, which is made where missing.

    Raises SettingsError, with the lines to add by hand, where that cannot be done safely.
    """
    text = _text(path)
    section = _section(path, text)
    lines = [COMMENT, *(_line(path, key, value) for key, value in settings.items())]
    changed = _inserted(text, section, lines)
    expected = _with(_parsed(path, text), section, settings)
    if _parsed_or_none(path, changed) != expected:
        by_hand = "\n".join(f"  {line}" for line in [f"[{section}]", *lines[1:]])
        raise SettingsError(
            f"{path.name} cannot be changed without a risk to what is in it; add these lines by "
            f"hand, then run this again:\n{by_hand}"
        )
    return changed


def _text(path: Path) -> str:
    """The file as it is, line ends included; empty where it is not there."""
    try:
        return path.read_bytes().decode("utf-8") if path.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path.name} cannot be read as UTF-8: {error}") from error


def _section(path: Path, text: str) -> str:
    if path.suffix != ".toml":
        return "tool:pytest" if path.name == "setup.cfg" else "pytest"
    if path.name != "pyproject.toml":
        return "pytest"
    native, compatible = PYPROJECT_TABLES
    table = _at(_parsed(path, text), native)
    return native if table.keys() - {"ini_options"} else compatible


def _line(path: Path, key: str, value: str) -> str:
    shown = json.dumps(value, ensure_ascii=False) if path.suffix == ".toml" else value
    return f"{key} = {shown}"


def _inserted(text: str, section: str, lines: list[str]) -> str:
    """`lines` under the section's heading, or under a new heading at the end."""
    newline = "\r\n" if "\r\n" in text else "\n"
    if text and not text.endswith("\n"):
        text += newline
    added = newline.join(lines) + newline
    heading = re.search(rf"^\[{re.escape(section)}\][^\r\n]*\r?\n", text, re.MULTILINE)
    if heading is not None:
        return text[: heading.end()] + added + text[heading.end() :]
    return f"{text}{newline if text else ''}[{section}]{newline}{added}"


def _parsed(path: Path, text: str) -> dict[str, Any]:
    try:
        return _read(path, text)
    except (tomllib.TOMLDecodeError, iniconfig.ParseError) as error:
        raise SettingsError(f"{path.name} cannot be read: {error}") from error


def _parsed_or_none(path: Path, text: str) -> dict[str, Any] | None:
    try:
        return _read(path, text)
    except (tomllib.TOMLDecodeError, iniconfig.ParseError):
        return None


def _read(path: Path, text: str) -> dict[str, Any]:
    if path.suffix == ".toml":
        return tomllib.loads(text)
    return {one.name: dict(one.items()) for one in iniconfig.IniConfig(path.name, data=text)}


def _at(parsed: Mapping[str, Any], section: str) -> Mapping[str, Any]:
    """The table of a section: nested in TOML, flat in an ini file."""
    if section in parsed:
        return parsed[section]  # type: ignore[no-any-return]
    found: Any = parsed
    for part in section.split("."):
        found = found.get(part, {}) if isinstance(found, Mapping) else {}
    return found if isinstance(found, Mapping) else {}


def _with(parsed: dict[str, Any], section: str, settings: Mapping[str, str]) -> dict[str, Any]:
    changed = copy.deepcopy(parsed)
    table = changed
    for part in section.split("."):
        table = table.setdefault(part, {})
    table.update(settings)
    return changed
