"""A setting's name in messages: a field for Python, an option for pytest and the command."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_divergence.cli import main
from pytest_divergence.core.errors import DivergenceError
from pytest_divergence.core.provenance import NoiseFloor
from pytest_divergence.core.setting_names import setting, spelled_by
from pytest_divergence.core.suites import write_suite
from pytest_divergence.core.verdicts import check_bound
from pytest_divergence.discovery.cost import Memory
from pytest_divergence.models.loading import load_model_pair
from pytest_divergence.plugin.options import NO_ALIASES_VARIABLE, flag_of
from pytest_divergence.reports.aggregates import raise_shift
from pytest_divergence.scoring.baseline import absolute_bound
from tests.core.made_suites import case

OPTION = re.compile(r"--(?:divergence|model)-")


@pytest.fixture
def _python() -> Iterator[None]:
    """As if no session of pytest were running: these tests are in one."""
    with spelled_by(str):
        yield


def test_a_flag_is_the_shortest_that_pytest_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [flag_of(field) for field in ("model_1", "max_kl")] == [
        "--model-1",
        "--divergence-max-kl",
    ]
    monkeypatch.setenv(NO_ALIASES_VARIABLE, "1")
    assert flag_of("model_1") == "--divergence-model-1"


@pytest.mark.usefixtures("_python")
def test_python_reads_fields(tiny_models: Path) -> None:
    base = str(tiny_models / "base")
    noise = NoiseFloor(value=0.0002, num_measurements=59)
    said = [
        error_of(lambda: check_bound(0.0005, noise, "symmetric", dtype="bfloat16")),
        absolute_bound(0.5).label,
        raise_shift(),
        error_of(lambda: load_model_pair(base, "./nowhere")),
        error_of(lambda: load_model_pair(base, base, device="nothing")),
        error_of(lambda: load_model_pair(base, base, chat_template="none.jinja")),
        error_of(Memory(1, 1, 1, "cpu", "float32").check),
    ]

    assert "(dtype)" in str(said[0])
    assert said[1:3] == ["absolute: max_kl", "raise max_shift"]
    assert str(said[3]).startswith("model_2: no folder './nowhere' here")
    assert str(said[4]).startswith("device=nothing is not usable here")
    assert str(said[5]).startswith("chat_template=none.jinja must be")
    assert "use dtype=bfloat16, a smaller profile or another device, or" in str(said[6])
    assert not OPTION.search("\n".join(map(str, said)))
    assert all(str(one).isprintable() for one in said)


@pytest.mark.slow
def test_a_process_without_pytest_reads_fields() -> None:
    code = (
        "from pytest_divergence.scoring.baseline import absolute_bound\n"
        "print(absolute_bound(0.5).label)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert run.stdout == "absolute: max_kl\n"


@pytest.mark.usefixtures("_python")
def test_the_command_names_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_suite(Path("bare.divergence.jsonl"), [case("Why?", 0.8)])

    code = main(["export", "--format=llm-comparator", "bare.divergence.jsonl"])

    assert code == 1
    assert "measure them with --divergence-fill" in capsys.readouterr().err
    assert setting("fill") == "fill"


@pytest.mark.usefixtures("_python")
def test_a_session_of_pytest_names_options_until_it_ends(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(model_pair): pass")

    result = pytester.runpytest_inprocess("--model-1=./nowhere", "--model-2=./nowhere")

    result.stderr.fnmatch_lines(["*--model-1: no folder './nowhere' here*"])
    assert setting("model_1") == "model_1"


def error_of(act: Callable[[], object]) -> str:
    with pytest.raises(DivergenceError) as caught:
        act()
    return str(caught.value)
