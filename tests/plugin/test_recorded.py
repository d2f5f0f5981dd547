"""A suite whose reference was recorded: the gate needs the candidate alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from pytest_divergence.cli import main
from pytest_divergence.core.behaviours import TellingContinuation
from pytest_divergence.core.recorded_reference import RecordedRow, load_record
from pytest_divergence.core.regular_files import MAX_FILE_BYTES
from pytest_divergence.core.suites import read_suite
from pytest_divergence.models.loading import load_model_pair
from pytest_divergence.scoring.reference_record import write_record
from pytest_divergence.scoring.suite_rows import measure_telling
from tests.plugin.conftest import KNOT, POEM, SUITE, Project
from tests.plugin.test_served import cases_of, text_of
from tests.tiny import save_tiny_model

RECORD = "served.reference.json"
REPLAY = (SUITE, f"--model-1=recorded:{SUITE}", "-Wignore:aggregate")


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the record of the served suite is kept from the first test that made it."""
    return tmp_path_factory.mktemp("record") / RECORD


@pytest.fixture
def recorded(served: Project, record: Path, capsys: pytest.CaptureFixture[str]) -> Project:
    """A project with a recorded suite of `base` and `ft`, and without `base`."""
    if not record.exists():
        assert main(["record", SUITE, "--model-1=base"]) == 0
        shown = capsys.readouterr().out
        assert f"wrote 12 continuations to {RECORD} (" in shown
        assert f"replay it: pytest {SUITE} --model-1 recorded:{SUITE} --model-2 …" in shown
        shutil.copy(served.path / RECORD, record)
    shutil.copy(record, served.path / RECORD)
    shutil.rmtree(served.path / "base")
    return served


def test_the_gate_needs_the_candidate_alone(recorded: Project) -> None:
    result = recorded.run(*REPLAY, "--model-2=ft", "--divergence-report-dir=out")

    result.assert_outcomes(passed=3)
    assert "was made with the reference" not in text_of(result)  # by the digest of its weights
    stored = {row.id: row for row in read_suite(recorded.path / SUITE).suite.cases}
    for case in cases_of(recorded, "out"):
        made = stored[case["id"]].kl
        assert made is not None
        assert case["kl"]["value"] == pytest.approx(made.value, rel=1e-5)
        assert case["kl"]["evidence"] == "chosen"


def test_the_record_of_a_long_suite_is_read(recorded: Project) -> None:
    path = recorded.path / RECORD
    record = load_record(path)
    rows = dict(record.rows)
    rows["0" * 64] = RecordedRow(chosen="", head_ids="", head="A" * MAX_FILE_BYTES)
    write_record(recorded.path / SUITE, record.model_copy(update={"rows": rows}))
    assert path.stat().st_size > MAX_FILE_BYTES

    recorded.run(*REPLAY, "--model-2=ft").assert_outcomes(passed=3)

    assert main(["validate", SUITE]) == 0


def test_a_project_that_loads_models_of_its_own_is_not_asked_for_the_record(
    recorded: Project,
) -> None:
    recorded.write(
        "conftest.py",
        "def pytest_divergence_load_model(config, spec, role, device):\n"
        "    raise AssertionError(spec)\n",
    )

    recorded.run(*REPLAY, "--model-2=ft").assert_outcomes(passed=3)


def test_another_candidate_fails_with_its_new_answer(recorded: Project) -> None:
    save_tiny_model(recorded.path / "other", perturb=1.0, seed=3)

    result = recorded.run(*REPLAY, "--model-2=other")

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert "the stored value, plus the change of the chosen tokens' own value" in text_of(result)
    assert "prompt | How do I tie a knot? reference |" in text_of(result)


def save_sure_model(folder: Path, **changes: Any) -> None:
    """A tiny model that is as sure of its tokens as a trained one."""
    save_tiny_model(folder, **changes)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(8)
    model.save_pretrained(folder)


def test_a_candidate_that_no_longer_says_what_the_old_one_said_does_not_read_as_worse(
    project: Project,
) -> None:
    """The old candidate is another model altogether; the repaired one is near the reference."""
    save_sure_model(project.path / "base")
    save_sure_model(project.path / "planted", seed=5)
    save_sure_model(project.path / "repaired", perturb=0.3)
    project.write_suite(SUITE, {"input": KNOT}, {"input": POEM})
    project.run(SUITE, "--model-1=base", "--model-2=planted", "--divergence-fill")
    assert main(["record", SUITE, "--model-1=base"]) == 0

    result = project.run(*REPLAY, "--model-2=repaired", "--divergence-report-dir=out")
    project.run(SUITE, "--model-1=base", "--model-2=repaired", "--divergence-report-dir=whole")

    result.assert_outcomes(passed=3)
    for found, whole in zip(cases_of(project, "out"), cases_of(project, "whole"), strict=True):
        assert found["kl"]["evidence"] == "chosen"
        assert 0 < found["kl"]["value"] < whole["kl"]["value"]  # the old one's texts tell a part


def test_a_served_build_is_gated_without_any_weights(recorded: Project, ft_server: str) -> None:
    result = recorded.run(*REPLAY, f"--model-2=llamacpp:{ft_server},tokenizer=ft")

    result.assert_outcomes(passed=3)


def test_behaviours_are_recorded_too(
    project: Project, tiny_models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = [TellingContinuation(prompt=KNOT, text="x", token_ids=[40, 41, 42], log_ratio=1.0)]
    project.write_suite(SUITE, {"input": KNOT})
    project.run(SUITE, "--model-1=base", "--model-2=ft", "--divergence-fill")
    provenance = next(project.path.glob("*.provenance.json"))
    made = json.loads(provenance.read_text("utf-8"))
    behaviour = {
        "id": "behaviour-x-0123456789",
        "name": "says x",
        "breadth": "local",
        "telling": [each.model_dump(mode="json") for each in told],
    }
    provenance.write_text(json.dumps({**made, "behaviours": [behaviour]}))
    assert main(["record", SUITE, "--model-1=base"]) == 0

    pairs = [
        load_model_pair(reference, "ft", root=project.path)
        for reference in ("base", f"recorded:{SUITE}")
    ]

    first, second = (measure_telling(pair, told)[0] for pair in pairs)
    assert second == pytest.approx(first, abs=1e-5)


# What cannot stand for the reference


def test_what_is_no_record_of_the_reference_is_a_usage_error(project: Project) -> None:
    project.write_suite(SUITE, {"input": KNOT})
    make = f"make one with pytest-divergence record {SUITE} --model-1=…"
    refused = {
        (SUITE, f"--model-1=recorded:{SUITE}", "--model-2=ft", "--divergence-max-kl=1"): (
            f"the suite has no recorded reference, {RECORD}; {make}"
        ),
        ("--model-1=recorded:base", "--model-2=ft"): (
            "--model-1: recorded:base names no suite; write recorded:SUITE"
        ),
    }
    for arguments, sentence in refused.items():
        result = project.run(*arguments)
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        assert sentence in text_of(result)


def test_a_record_is_no_candidate(recorded: Project) -> None:
    result = recorded.run(SUITE, "--model-1=ft", f"--model-2=recorded:{SUITE}")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert f"--model-2=recorded:{SUITE} is a recorded reference; give it as --model-1" in (
        text_of(result)
    )


def test_a_record_that_was_changed_or_lacks_rows_passes_nothing(recorded: Project) -> None:
    path = recorded.path / RECORD
    record = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({**record, "rows": {}}))

    result = recorded.run(*REPLAY, "--model-2=ft")

    result.assert_outcomes(errors=3)
    assert "holds nothing of these tokens: the suite, its tokenizer or its chat template has" in (
        text_of(result)
    )

    for row in record["rows"].values():
        row["chosen"] = row["chosen"][4:]
    path.write_text(json.dumps(record))

    result = recorded.run(*REPLAY, "--model-2=ft")

    result.assert_outcomes(errors=3)
    assert f"--model-1 (recorded in {RECORD}) cannot be read: 16 numbers are not in it" in (
        text_of(result)
    )


def test_the_reference_may_stand_in_the_ini_file_or_the_environment(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    project.write_suite(SUITE, {"input": KNOT})
    project.run(SUITE, "--model-1=base", "--model-2=ft", "--divergence-fill")
    assert main(["record", SUITE]) == 1
    assert "--model-1 is missing; set it, PYTEST_DIVERGENCE_MODEL_1, or divergence_model_1 in" in (
        capsys.readouterr().err
    )

    monkeypatch.setenv("PYTEST_DIVERGENCE_MODEL_1", "base")
    assert main(["record", SUITE]) == 0
    recorded = json.loads((project.path / RECORD).read_text("utf-8"))["rows"]
    monkeypatch.delenv("PYTEST_DIVERGENCE_MODEL_1")
    project.write("pytest.ini", "[pytest]\ndivergence_model_1 = base\ndivergence_model_2 = ft\n")
    shutil.copytree(project.path, project.path / "below", ignore=shutil.ignore_patterns("[!s]*"))
    monkeypatch.chdir(project.path / "below")
    (project.path / "below" / RECORD).unlink()
    assert main(["record", SUITE]) == 0

    assert json.loads(Path(RECORD).read_text("utf-8"))["rows"] == recorded


def test_the_recorded_model_is_told_from_another(
    recorded: Project, tiny_models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["record", SUITE, "--model-1=ft"]) == 1
    message = " ".join(capsys.readouterr().err.split())
    assert 'is not the reference that served.divergence.jsonl was made with, "base" ' in message

    shutil.copytree(tiny_models / "base", recorded.path / "base")
    result = recorded.run(*REPLAY, "--model-2=base")
    assert "are the same model, so nothing could differ" in text_of(result)


def test_new_answers_of_a_recorded_reference_are_an_error(recorded: Project) -> None:
    recorded.write_suite("new.divergence.jsonl", {"input": "Something new", "max_kl": 1.0})

    result = recorded.run(
        "new.divergence.jsonl", f"--model-1=recorded:{SUITE}", "--model-2=ft", "-Wignore"
    )

    result.assert_outcomes(errors=1)
    assert "writes no answers, and this needs new ones; give the reference's weights" in (
        text_of(result)
    )
