"""A suite written on one machine replays on another whose CPU knows other instructions.

Emulated: torch and its libraries are told to use older instructions than this CPU has, in a
process of their own, since they look once. On a CPU that has no newer ones all are alike.
"""

from __future__ import annotations

import pytest

from pytest_divergence import load_model_pair, score_prompts
from pytest_divergence.core.cases import Case
from pytest_divergence.core.file_names import sidecar_path
from pytest_divergence.core.suites import write_suite
from pytest_divergence.scoring.scorer import stored_tokens as stored_tokens_of
from tests.plugin.conftest import KNOT, MODELS, POEM, Project, properties
from tests.tokens_writing import write_tokens

SUITE = "regress.divergence.jsonl"
TOLERANCE = 1e-4
"""Nats per token, in float32."""
OLDER = {
    "ATEN_CPU_CAPABILITY": "default",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
}


@pytest.fixture
def values(project: Project) -> dict[str, float]:
    """Of a suite that is written beside the models, on this CPU."""
    pair = load_model_pair(str(project.path / "base"), str(project.path / "ft"))
    scores = score_prompts(pair, [KNOT, POEM])
    cases = [Case(input=str(one.prompt), max_kl=9.0) for one in scores]
    suite = project.path / SUITE
    write_suite(suite, cases)
    rows = [stored_tokens_of(case.id, one) for case, one in zip(cases, scores, strict=True)]
    write_tokens(sidecar_path(suite, "tokens.jsonl"), rows)
    return {case.id: one.measurement.value for case, one in zip(cases, scores, strict=True)}


@pytest.mark.slow
def test_a_suite_reads_the_same_under_other_instructions(
    project: Project, monkeypatch: pytest.MonkeyPatch, values: dict[str, float]
) -> None:
    project.write(
        "conftest.py",
        "import torch\n\n\ndef pytest_report_header():\n"
        "    return torch.backends.cpu.get_cpu_capability()\n",
    )
    for variable, value in OLDER.items():
        monkeypatch.setenv(variable, value)

    result = project.run_fresh(*MODELS, SUITE, "--junit-xml=junit.xml")

    assert result.ret == pytest.ExitCode.OK
    assert "DEFAULT" in result.outlines, "the emulation is heard"
    left = properties(project.path / "junit.xml")
    found = {name: float(one["kl"]) for name, one in left.items()}
    assert found == pytest.approx(values, rel=0, abs=TOLERANCE)
