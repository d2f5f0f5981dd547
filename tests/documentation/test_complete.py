"""All that the package offers is documented, and all that the documentation names is there."""

from __future__ import annotations

import argparse
import ast
import re
from functools import cache
from pathlib import Path

import pytest

import pytest_divergence
from docs.site import files, pages, sessions, settings
from docs.site.links import LINK, ROOT, published
from docs.site.package import PACKAGE
from pytest_divergence import cli
from pytest_divergence.core.json_schemas import RECORDS
from pytest_divergence.plugin.options import OPTIONS, PAIRS_INI

WRITTEN = sorted(
    path
    for path in (ROOT / "docs").rglob("*.md")
    if path.parent.name not in ("reference", "project")
)
READ = [*WRITTEN, *(ROOT / name for name in published())]
"""Every page that someone wrote: in the site, or beside the code."""


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def made() -> dict[str, str]:
    """Every page that is made from the code, by its place in `docs/`."""
    return pages.pages()


@cache
def reference() -> dict[str, str]:
    """The pages of the reference, by name."""
    return {
        name.removeprefix("reference/").removesuffix(".md"): text
        for name, text in made().items()
        if name.startswith("reference/")
    }


def option_names() -> set[str]:
    """Every name of an option of pytest that is ours."""
    return {name for one in OPTIONS for name in (one.flag, one.alias, one.synonym) if name}


def variables() -> set[str]:
    return {one.variable for one in OPTIONS} | {name for name, _ in settings.own_variables()}


def ini_keys() -> set[str]:
    return {one.ini for one in OPTIONS if not one.is_of_user} | {PAIRS_INI}


@cache
def command_options(name: str) -> set[str]:
    parser = argparse.ArgumentParser(prog=name)
    cli.add_arguments(name, parser)
    return {word for action in parser._actions for word in action.option_strings}


def test_every_option_ini_key_and_variable_is_documented() -> None:
    assert {name for name in option_names() if f"`{name}" not in reference()["options"]} == set()
    section = reference()["options"].partition("## `--divergence-template-arg`")[2]
    assert "Default: `none`." in section.partition("\n## ")[0]
    assert "Undefined" not in reference()["options"]

    assert {key for key in ini_keys() if f"`{key}`" not in reference()["ini"]} == set()
    missing = {one for one in variables() if f"`{one}`" not in reference()["environment"]}
    assert missing == set()


def test_every_variable_in_the_code_is_known_here() -> None:
    text = "\n".join(path.read_text("utf-8") for path in PACKAGE.rglob("*.py"))
    spelt = set(re.findall(r'"(PYTEST_DIVERGENCE_[A-Z0-9_]+)"', text))

    assert spelt <= variables()


def defined_fixtures() -> set[str]:
    """The fixtures that the plugin's source defines for others."""
    functions = ast.parse((PACKAGE / "plugin" / "__init__.py").read_text("utf-8")).body
    return {
        one.name
        for one in functions
        if isinstance(one, ast.FunctionDef)
        and any("pytest.fixture" in ast.unparse(mark) for mark in one.decorator_list)
        and not one.name.startswith("_")
    }


def test_every_fixture_hook_and_command_is_documented(pytestconfig: pytest.Config) -> None:
    hooks = {name for name in vars(pytestconfig.hook) if name.startswith("pytest_divergence_")}

    assert {name for name, _ in sessions.fixtures()} == defined_fixtures()
    assert all(f"## {name}\n" in reference()["fixtures"] for name in defined_fixtures())
    assert {name for name, _ in sessions.hooks()} == hooks
    assert all(f"## {name}\n" in reference()["hooks"] for name in hooks)
    assert all(f"## pytest-divergence {name}\n" in reference()["commands"] for name in cli.COMMANDS)
    assert "@pytest.mark.divergence(max_kl=, models=" in reference()["fixtures"]


def test_every_file_of_the_package_is_documented() -> None:
    there = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }

    page = reference()["package"]
    assert {name for name in there if f"| `{name}` | " not in page} == set()
    assert [line for line in page.splitlines() if len(line) > 300 or line.endswith(" - |")] == []


def test_every_public_name_and_key_is_documented() -> None:
    assert all(f"## {name}\n" in reference()["python"] for name in pytest_divergence.__all__)
    for one in files.FORMATS:
        keys = {f"| `{key}` | " for key in RECORDS[one.page].model_fields}
        assert all(key in reference()[one.page] for key in keys)


def test_all_that_a_page_names_exists() -> None:
    hooks = {name for name, _ in sessions.hooks()}
    fields = "|".join(sorted((one.field for one in OPTIONS), key=len, reverse=True))
    wrong = {}
    for page in READ:
        text = page.read_text("utf-8")
        flags = set(re.findall(r"--divergence-[a-z0-9]+(?:-[a-z0-9]+)*", text))
        spelt = set(re.findall(r"PYTEST_DIVERGENCE_[A-Z0-9_]*[A-Z0-9]", text))
        keys = set(re.findall(rf"\bdivergence_(?:{fields}|pairs)\b", text))
        mentioned = set(re.findall(r"\bpytest_divergence_[a-z_]+[a-z]\b", text))
        wrong[named(page)] = (
            flags - option_names()
            | spelt - variables() - {"PYTEST_DIVERGENCE_MODEL"}
            | keys - ini_keys()
            | mentioned - hooks
        )

    assert {page: names for page, names in wrong.items() if names} == {}


def test_commands_that_a_page_names_take_what_it_gives_them() -> None:
    wrong = []
    for page in READ:
        text = re.sub(r"\\\n\s*", " ", page.read_text("utf-8"))
        for line in re.findall(r"(?<![\w'\[/-])pytest-divergence ([a-z][a-z-]*[^`\n]*)", text):
            name = line.split()[0]
            if name not in cli.COMMANDS:
                in_code = re.search(rf"(?:`|\$ )pytest-divergence {name}\b", text)
                wrong += [f"{named(page)}: there is no command {name}"] if in_code else []
                continue
            options = set(re.findall(r"(?<!\S)(--[a-z][a-z0-9-]*)", line.split(" && ")[0]))
            if not options <= command_options(name):
                wrong.append(f"{named(page)}: pytest-divergence {line}")

    assert wrong == []


def test_relative_links_lead_to_files() -> None:
    generated = {f"docs/{name}" for name in made()}
    links = [
        (page, target, (page.parent / target).resolve())
        for page in READ
        for _, _, target, _ in LINK.findall(page.read_text("utf-8"))
    ]

    wrong = [
        f"{named(page)} links to {target}"
        for page, target, path in links
        if not path.exists() and named(path) not in generated
    ]
    assert wrong == []
    assert len(links) > len(READ)


def test_each_test_that_the_security_page_names_is_there() -> None:
    page = (ROOT / "docs/explanation/security.md").read_text("utf-8")
    paths = re.findall(r"`(tests/[\w/]+\.py)`", page)
    assert paths
    assert [path for path in paths if not (ROOT / path).is_file()] == []
