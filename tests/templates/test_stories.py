"""Each template as a user would run it: once where it passes, once where it has to fail."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_model
from transformers import AutoModelForCausalLM

from pytest_divergence.cli import main
from pytest_divergence.core.file_names import suite_path
from tests.plugin.conftest import KNOT, POEM, Project, nodeid, properties, shown
from tests.templates.conftest import Copy, change_weight, round_weights
from tests.tiny import save_tiny_adapter

SUITE = "tests/release.divergence.jsonl"
NORM = "model.norm.weight"
"""What makes a model too sure of every token where it is scaled."""
MATRIX = "model.layers.1.mlp.down_proj.weight"
"""What makes a model say something else where it is scaled."""


def outcomes(result: pytest.RunResult) -> dict[str, str]:
    """By test: how it went, with -v."""
    lines = [line.rsplit(" ", 2) for line in result.outlines if "::" in line and "%]" in line]
    return {test.removesuffix(" "): word for test, word, _ in (_split(one) for one in lines)}


def _split(words: list[str]) -> tuple[str, str, str]:
    test, _, rest = " ".join(words).partition(" PASSED")
    if not rest:
        test, _, rest = " ".join(words).partition(" FAILED")
        return test, "failed", rest
    return test, "passed", rest


def rows_of(project: Project, candidate: str) -> list[dict[str, Any]]:
    """The cases of the suite that a search has left, without its control rows."""
    text = suite_path(project.path, "base", candidate).read_text("utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    return [row for row in rows if "control" not in row["tags"]]


def test_minimal_names_what_differs(searched: Copy) -> None:
    project = searched("minimal")
    named = [row["metadata"] for row in rows_of(project, "ft")]
    assert named == [{"category": "the candidate says less than half as much"}] * 2

    result = project.run("--divergence-builtin-suite=on", "--divergence-max-kl=0.001")
    result.assert_outcomes(passed=1, failed=2)
    result.stdout.fnmatch_lines(['  category: "the candidate says less than half as much"'])


def test_ci_gate_replays_last_and_cannot_be_taken_away(
    searched: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = searched("ci_gate")
    (project.path / "tests").mkdir()
    assert main(["promote", "latest", SUITE]) == 0
    project.write("tests/unit/test_unit.py", "def test_addition(): assert 1 + 1 == 2\n")
    monkeypatch.setenv("CI", "true")
    whole = project.run("-v")
    whole.assert_outcomes(passed=1 + 1 + 2)
    assert next(iter(outcomes(whole))) == "tests/unit/test_unit.py::test_addition"

    change_weight(project.path / "base", project.path / "ft", NORM, 8.0)
    damaged = project.run()
    damaged.assert_outcomes(passed=1, failed=1 + 2)
    damaged.stdout.fnmatch_lines(["2 stored cases replayed: 2 over the bound."])

    for file in project.path.glob("tests/release.*"):
        file.unlink()
    gone = project.run()
    assert gone.ret == pytest.ExitCode.USAGE_ERROR
    assert gone.errlines[0] == (
        f"ERROR: {SUITE} was not collected, so nothing was gated; restore it, or name the tests to "
        "run without it and add --divergence-mode=off"
    )
    assert project.run("tests/unit", "--divergence-mode=off").ret == pytest.ExitCode.OK


@pytest.mark.slow
def test_ci_gate_misses_its_suite_among_workers_too(
    copied: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The session's own process collects nothing there, and a worker cannot end the session."""
    project = copied("ci_gate")
    project.write("tests/unit/test_unit.py", "def test_addition(): assert 1 + 1 == 2\n")
    monkeypatch.setenv("CI", "true")
    workers = ("-p", "xdist", "-n1")

    gone = project.run_forked(*workers)
    assert gone.ret == pytest.ExitCode.USAGE_ERROR
    assert [line for line in gone.errlines if line] == [
        f"ERROR: {SUITE} was not collected, so nothing was gated; restore it, or name the tests to "
        "run without it and add --divergence-mode=off"
    ]
    assert "passed" not in shown(gone)
    without = project.run_forked(*workers, "tests/unit", "--divergence-mode=off")
    assert without.ret == pytest.ExitCode.OK

    project.write_suite(SUITE, {"input": KNOT, "max_kl": 50.0})
    project.run_forked(*workers).assert_outcomes(passed=2)


def test_lora_release_asks_for_an_effect_and_for_no_side_effect(copied: Copy) -> None:
    project = copied("lora_release")
    project.run().assert_outcomes(passed=4)

    save_tiny_adapter(project.path / "base", project.path / "adapter", scale=0.0)
    untrained = project.run()
    untrained.assert_outcomes(passed=3, failed=1)
    assert "E       AssertionError: the adapter changes its subject by 0.000 nats/token" in (
        untrained.outlines
    )

    save_tiny_adapter(project.path / "base", project.path / "adapter", scale=0.6)
    broad = project.run()
    broad.assert_outcomes(passed=1, failed=3)
    broad.stdout.fnmatch_lines(["KL * nats/token > max_kl 0.500"])


def test_lora_release_gives_its_subject_a_bound_of_its_own(copied: Copy) -> None:
    project = copied("lora_release")
    subject = ["How do I get a refund?", "Is my invoice paid?", "Stop the subscription.", "Refund!"]
    project.write("seeds.txt", "\n".join([*subject, "What is rain?"]))
    options = ["--seeds=seeds.txt", "--num-cases=20", "--gate=all", "--max-kl=4"]
    assert main(["discover", *options]) == 0
    rows = rows_of(project, "adapter")
    tagged = [row for row in rows if "in-scope" in row["tags"]]
    assert (
        {row["input"] for row in tagged} == {row["input"] for row in rows} & set(subject) != set()
    )
    assert {row["max_kl"] for row in tagged} == {5.0}
    assert {row["max_kl"] < 5.0 for row in rows if row not in tagged} == {True}


def test_quantisation_check_passes_eight_bits_and_no_broken_scale(copied: Copy) -> None:
    project = copied("quantisation_check")
    round_weights(project.path / "base", project.path / "int8", levels=127)
    project.run().assert_outcomes(passed=3)

    change_weight(project.path / "int8", project.path / "int8", MATRIX, 50.0)
    broken = project.run()
    broken.assert_outcomes(failed=3)
    assert f"E       AssertionError: assert not {{'{KNOT}': " in shown(broken)


def test_several_pairs_have_models_and_bounds_of_their_own(copied: Copy) -> None:
    project = copied("several_pairs")
    round_weights(project.path / "base", project.path / "int8", levels=127)
    project.write_suite("tests/lora/support.divergence.jsonl", {"input": KNOT, "max_kl": 1.0})
    project.write_suite("tests/quantised/int8.divergence.jsonl", {"input": POEM, "max_kl": 0.1})
    project.run("tests").assert_outcomes(passed=6)

    change_weight(project.path / "int8", project.path / "int8", NORM, 8.0)
    result = project.run("-v", "tests")
    result.assert_outcomes(passed=3, failed=3)
    failed = {test.partition("[")[0] for test, how in outcomes(result).items() if how == "failed"}
    assert failed == {
        nodeid("tests/quantised/int8.divergence.jsonl", POEM),
        "tests/quantised/test_int8.py::test_answers_as_before",
    }
    result.stdout.fnmatch_lines(["KL * nats/token > max_kl 0.100"])
    project.run("tests/lora").assert_outcomes(passed=3)


CHECKPOINT = "runs/7/step-400.safetensors"


def save_checkpoint(folder: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    save_model(AutoModelForCausalLM.from_pretrained(folder, dtype="float32"), str(target))


def test_custom_loader_reads_what_a_training_left(copied: Copy) -> None:
    project = copied("custom_loader")
    (project.path / "tests").mkdir()
    project.write_suite(SUITE, {"input": KNOT, "max_kl": 1.0})
    save_checkpoint(project.path / "ft", project.path / CHECKPOINT)
    base, junit = "--model-1=base", "--junit-xml=junit.xml"
    found = []
    for spec in ("ft", f"checkpoint:{CHECKPOINT}"):
        project.run(base, f"--model-2={spec}", junit, SUITE).assert_outcomes(passed=1)
        found.append(properties(project.path / "junit.xml"))
    assert found[0] == found[1]

    change_weight(project.path / "base", project.path / "ft", NORM, 8.0)
    save_checkpoint(project.path / "ft", project.path / CHECKPOINT)
    later = project.run(base, f"--model-2=checkpoint:{CHECKPOINT}", SUITE)
    later.assert_outcomes(failed=1)
    gone = project.run(base, "--model-2=checkpoint:runs/8/step-1.safetensors", SUITE)
    assert gone.ret == pytest.ExitCode.USAGE_ERROR
    assert gone.errlines[0] == "ERROR: there is no checkpoint runs/8/step-1.safetensors"


def test_custom_loader_tells_checkpoints_of_one_name_apart(copied: Copy) -> None:
    project = copied("custom_loader")
    save_checkpoint(project.path / "ft", project.path / CHECKPOINT)
    from pytest_divergence.plugin.extensions import PluginModels

    config = project.pytester.parseconfigure("-p", "divergence")
    models = PluginModels.of(config)
    assert models is not None
    first = models.fingerprint(f"checkpoint:{CHECKPOINT}")
    save_checkpoint(project.path / "base", project.path / CHECKPOINT)
    assert models.fingerprint(f"checkpoint:{CHECKPOINT}") != first
    assert models.fingerprint("ft") is None


def test_custom_strategy_and_metric_join_the_search(copied: Copy) -> None:
    project = copied("custom_strategy_and_metric")
    metric = ("--divergence-metric=changed_tokens", "--divergence-max-kl=0.1")
    result = project.run("--model-1=base", "--model-2=ft", *metric)
    result.assert_outcomes(passed=1, failed=2)
    result.stdout.fnmatch_lines(["changed_tokens 0.* changes/token > max_kl 0.100 *"])
    report = json.loads((project.path / ".divergence/reports/latest/report.json").read_text())
    (reframed,) = (one for one in report["strategies"] if one["name"] == "reframed")
    assert reframed["num_scored"] > 0

    project.write_suite(SUITE.partition("/")[2], {"input": KNOT, "max_kl": 0.1})
    same = project.run("--model-1=base", "--model-2=base", *metric[:1], SUITE.partition("/")[2])
    same.assert_outcomes(passed=1)
