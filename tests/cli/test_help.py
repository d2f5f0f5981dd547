"""What the command answers before it does anything, and how fast."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pytest_divergence import __version__
from pytest_divergence.cli import COMMANDS, main

HELP = """\
usage: pytest-divergence [-h] [-V] COMMAND ...

Find prompts on which two language models differ, and manage the suites.

positional arguments:
  COMMAND
    demo         search a real pair with a planted difference, in minutes
    discover     find prompts on which two models differ
    replay       replay suites on two models, with pytest
    train        train a soft prompt and save a dataset of divergent prompts
    report       rewrite a run's report pages, or compare two runs
    review       decide on a run's findings, one at a time: accept, keep, skip
    promote      copy cases from a search into a suite that you commit
    record       keep what a suite's reference tells, to gate without it
    accept       mark a behaviour as intended, so that it no longer fails
    diff         compare two suites, or the reports of two runs
    validate     list the lines of a suite that cannot be read
    export       write cases for Inspect, promptfoo or LLM Comparator
    push         push a suite to the Hub, as a dataset with a card
    schema       print the JSON Schema of a kind of file
    calibrate    measure a pair's noise and typical shift, and what its bound
                 catches
    rank         order your own prompts by how much two models differ on them
    damage       test whether a model has lost answers that are known
    init         set up a project: ini file, conftest.py and GitHub workflow
    show-config  print every setting, and where its value comes from
    doctor       check this machine, and whether a pair would load and fit

options:
  -h, --help     show this help message and exit
  -V, --version  show program's version number and exit

Run pytest-divergence COMMAND --help for more.
"""


def answer(*words: str) -> int:
    """The exit code with which argparse ends the command."""
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.mark.parametrize("name", COMMANDS)
def test_a_commands_help_fits_a_terminal(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert answer(name, "--help") == 0

    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"usage: pytest-divergence {name} [-h]")
    usage_ends = lines.index("")
    assert max(map(len, lines[usage_ends:])) <= 80
    assert lines[usage_ends + 1][0].isupper(), "what the command does stands below its usage"


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    assert answer("--version") == 0
    assert capsys.readouterr().out == f"pytest-divergence {__version__}\n"


@pytest.mark.parametrize("words", [(), ("discver",), ("promote", "latest")])
def test_a_wrong_command_line_exits_with_two(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert answer(*words) == 2
    assert capsys.readouterr().err.startswith("usage: pytest-divergence")


def test_help_imports_nothing_but_the_standard_library() -> None:
    code = (
        "import sys; from pytest_divergence.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "roots = {name.partition('.')[0] for name in sys.modules} - {'__main__'}\n"
        "print(roots - sys.stdlib_module_names, file=sys.stderr)\n"
    )
    run = subprocess.run(
        [sys.executable, "-S", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert run.stdout == HELP
    assert run.stderr == "{'pytest_divergence'}\n"


def test_nothing_heavy_is_imported_to_answer_what_is_asked_or_wrong() -> None:
    wrong = [
        ["train", "--output-dir=out", "--min-metric=kl=1"],
        ["discover", "--model-1=a", "--model-1=b"],
        ["export", "--format=csv"],
        ["promote", "latest"],
    ]
    code = (
        "import sys; from pytest_divergence.cli import main\n"
        f"for words in {[*([name, '--help'] for name in COMMANDS), *wrong]}:\n"
        "    try: main(words)\n"
        "    except SystemExit: pass\n"
        "    else: raise AssertionError(f'{words} is run')\n"
        "    heavy = {'torch', 'transformers', 'numpy', 'scipy', 'pydantic'} & {*sys.modules}\n"
        "    assert not heavy, f'{words} imports {heavy}'\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
