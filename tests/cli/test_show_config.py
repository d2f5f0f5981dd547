"""`pytest-divergence show-config`: what would hold in this folder, and why."""

from __future__ import annotations

import json

import pytest

from pytest_divergence.cli import main
from pytest_divergence.plugin.options import OPTIONS
from tests.plugin.conftest import Project

INI = """\
[pytest]
divergence_model_1 = base
divergence_model_2 = ft
divergence_metric = js
divergence_pairs =
    tests/lora/* = base adapter
"""
TABLE = """\
ini file        tox.ini
results         .divergence

model-1         base                          ini
model-2         an-adapter/of/the-customer-support-team,dtype=float32  command line
mode            auto                          default
"""


@pytest.fixture
def configured(project: Project) -> Project:
    """A project with settings in its ini file."""
    project.pytester.makeini(INI)
    return project


def rows(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, tuple[str | None, str]]:
    """Value and source by name."""
    assert main(["show-config", "--json", *words]) == 0
    found = json.loads(capsys.readouterr().out)
    return {one["name"]: (one["value"], one["source"]) for one in found}


def test_the_table_says_where_each_value_comes_from(
    configured: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    candidate = "an-adapter/of/the-customer-support-team,dtype=float32"
    (configured.path / "an-adapter/of/the-customer-support-team").mkdir(parents=True)

    assert main(["show-config", "--model-2", candidate]) == 0

    shown = capsys.readouterr()
    assert shown.out.startswith(TABLE)
    assert shown.out.endswith("\npairs           tests/lora/* = base adapter   ini\n")
    assert not shown.err
    assert not (configured.path / ".divergence").exists()


def test_command_line_before_environment_before_ini_before_default(
    configured: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert rows(capsys)["metric"] == ("js", "ini")

    monkeypatch.setenv("PYTEST_DIVERGENCE_METRIC", "forward")
    assert rows(capsys)["metric"] == ("forward", "PYTEST_DIVERGENCE_METRIC")

    assert rows(capsys, "--metric=reverse")["metric"] == ("reverse", "command line")
    assert rows(capsys)["gate"] == ("natural", "default")
    assert rows(capsys)["num-cases"] == (None, "default")
    assert rows(capsys, "--update")["update"] == ("true", "command line")
    names = [option.field.replace("_", "-") for option in OPTIONS]
    assert list(rows(capsys)) == [*names, "pairs"], "every setting is shown"


def test_addopts_count_as_the_command_line(
    configured: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTEST_ADDOPTS", "--divergence-profile=thorough")

    assert rows(capsys)["profile"] == ("thorough", "command line")
    assert rows(capsys, "--profile=smoke")["profile"] == ("smoke", "command line")


def test_a_wrong_value_is_shown_with_the_rest_and_refused_last(
    configured: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTEST_DIVERGENCE_PROFILE", "smok")

    assert main(["show-config"]) == 1

    shown = capsys.readouterr()
    assert (
        "\nprofile         smok                          PYTEST_DIVERGENCE_PROFILE\n" in shown.out
    )
    assert shown.err == (
        "error: PYTEST_DIVERGENCE_PROFILE=smok: must be one of auto, smoke, default, thorough\n"
    )


def test_what_may_hold_a_password_is_not_shown(
    configured: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["show-config", "--model-2=https://me:secret@models.example/new"]) == 1

    shown = capsys.readouterr()
    assert "\nmodel-2         [a URL]                       command line\n" in shown.out
    assert "secret" not in shown.out + shown.err
