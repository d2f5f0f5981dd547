"""Who may ask for workers, and what cannot go to them; no cluster is started here."""

from __future__ import annotations

import sys

import pytest

from tests.plugin.conftest import MODELS, Project

RAY = "--divergence-engine=ray"
CONFTEST = """\
def pytest_divergence_fingerprint(spec):
    return "mine" if spec == "ft" else None


def pytest_divergence_load_model(spec, role, device):
    return None
"""


def test_models_of_a_plugin_are_refused(project: Project) -> None:
    project.write("conftest.py", CONFTEST)

    result = project.run(*MODELS, RAY)

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert (
        "ERROR: --model-2=ft: models that a plugin loads live in this process alone, so "
        "--divergence-engine must be local for them; save the model in a folder to search it on "
        "several workers"
    ) in result.errlines


OF_USER = (
    RAY,
    "--divergence-workers=2",
    "--divergence-worker-gpus=1",
    "--divergence-worker-timeout=60",
)


def test_no_ini_file_asks_for_workers(project: Project) -> None:
    """Code goes to them, so a project that is only tried out must not name a cluster."""
    for option in OF_USER:
        name, _, value = option.partition("=")
        key = name[2:].replace("-", "_")
        project.write("pytest.ini", f"[pytest]\naddopts = {option}\n")

        result = project.run(*MODELS)

        assert result.ret == pytest.ExitCode.USAGE_ERROR
        assert (
            f"ERROR: {name} is in addopts, but no file of a project may set it; give it on the "
            f"command line, or set PYTEST_{key.upper()}"
        ) in result.errlines

        project.write("pytest.ini", f"[pytest]\n{key} = {value}\n")
        result = project.run("--divergence-mode=off", "-W", "default")
        result.stdout.fnmatch_lines([f"*PytestConfigWarning: Unknown config option: {key}"])


def test_what_workers_cannot_do_is_a_mistake(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    for option in OF_USER[1:]:
        assert (
            f"ERROR: {option.partition('=')[0]} is for the workers of a Ray cluster; give "
            "--divergence-engine=ray too, or leave it out"
        ) in project.run(*MODELS, option).errlines
    endless = "--divergence-worker-timeout=inf"
    assert (f"ERROR: {endless}: must be a number of seconds above 0, such as 600") in project.run(
        *MODELS, RAY, endless
    ).errlines

    monkeypatch.setitem(sys.modules, "ray", None)
    result = project.run(*MODELS, RAY)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert (
        "ERROR: --divergence-engine=ray needs Ray: pip install 'pytest-divergence[ray]'"
    ) in result.errlines
