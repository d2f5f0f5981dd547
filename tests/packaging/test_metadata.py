"""What a release says of itself: one version, and no claim that is not tested."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]

from pytest_divergence import __version__
from tests.packaging.archives import tracked

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PROJECT = PYPROJECT["project"]
ALWAYS_IN_SDIST = {".gitignore", "LICENSE", "README.md", "pyproject.toml"}
"""What hatchling takes along without being told."""
VERSION_CLASSIFIER = re.compile(r"Programming Language :: Python :: (\d\.\d+)$")


def claimed_pythons() -> list[str]:
    return [found[1] for one in PROJECT["classifiers"] if (found := VERSION_CLASSIFIER.match(one))]


def test_the_version_is_written_in_the_package_and_cited_as_it_is() -> None:
    assert "version" not in PROJECT
    assert PROJECT["dynamic"] == ["version"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert citation["version"] == __version__
    assert citation["title"] == PROJECT["name"]
    assert citation["license"] == PROJECT["license"]


def test_the_changelog_begins_with_what_is_coming_or_with_this_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    newest = next(line for line in text.splitlines() if line.startswith("## "))

    assert newest == "## [Unreleased]" or newest.startswith(f"## [{__version__}] - 20")


def test_each_python_that_is_claimed_runs_the_tests() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text("utf-8"))
    tested = workflow["jobs"]["test"]["strategy"]["matrix"]["python-version"]

    assert claimed_pythons() == tested
    assert PROJECT["requires-python"] == f">={tested[0]}"


def test_pytest_knows_it_for_a_plugin() -> None:
    assert "Framework :: Pytest" in PROJECT["classifiers"]
    assert list(PROJECT["entry-points"]) == ["pytest11"]


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="an unpacked sdist is no git repository")
def test_the_sdist_takes_along_each_folder_and_file_of_the_repository() -> None:
    named = set(PYPROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["only-include"])

    assert {path.split("/")[0] for path in tracked()} - ALWAYS_IN_SDIST == named
