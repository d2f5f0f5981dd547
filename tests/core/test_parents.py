"""A merge between its parents: which it follows, and what neither of them does."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from pytest_divergence import cli
from pytest_divergence.core.behaviours import Behaviour
from pytest_divergence.core.comparison import side_of_run
from pytest_divergence.core.errors import SettingsError
from pytest_divergence.core.json_files import strict_loads
from pytest_divergence.core.parents import between_parents
from pytest_divergence.core.provenance import Bound
from pytest_divergence.core.report import (
    Calibration,
    PairSummary,
    Report,
    ReportCase,
    Run,
    write_report,
)
from tests.core.made_suites import KNOT, POEM, SIGNAL, SOUP, SURE, measured

RIVER = "Name a river."


def run_of(parent: str, *behaviours: Behaviour, bound: float = 0.5, **kls: float) -> Report:
    """A run of `merged` with a parent as the reference; `kls` are by the name of the prompt."""
    prompts = {"knot": KNOT, "poem": POEM, "soup": SOUP, "river": RIVER}
    return Report(
        run=Run(id="1", mode="replay", status="complete"),
        pair=PairSummary(
            reference=parent,
            candidate="merged",
            dtype="float32",
            device="cpu",
            chat_template="reference",
        ),
        settings={},
        calibration=Calibration(bound=Bound(value=bound)),
        behaviours=list(behaviours),
        cases=[
            ReportCase(input=prompts[name], kl=measured(kl), max_kl=1.25 * kl, verdict="passed")
            for name, kl in kls.items()
        ],
    )


A = run_of("tuned-a", SIGNAL, SURE, knot=0.9, poem=0.1, soup=2.0, river=0.2)
B = run_of("tuned-b", SIGNAL, bound=0.4, knot=0.1, poem=0.6, soup=0.7)


def test_the_command_prints_it_and_its_exit_code_says_whether_all_is_explained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, report in (("a", A), ("b", B), ("calm", run_of("tuned-c", knot=0.2, poem=0.1))):
        Path(name).mkdir()
        write_report(Path(name) / "report.json", report)

    assert cli.main(["diff", "--parents", "a", "b"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "merge     merged",
        "parent A  tuned-a",
        "parent B  tuned-b",
        "",
        "3 prompts against both parents: 1 like neither parent, 1 like A, 1 like B",
        "1 prompt not judged: against one parent only, or without a bound",
        "",
        "like neither parent:",
        '  A 2.000 > 0.500   B 0.700 > 0.400   "What goes into a soup?"',
        "",
        "like A:",
        '  A 0.100 <= 0.500   B 0.600 > 0.400   "Write a poem about rain."',
        "",
        "like B:",
        '  A 0.900 > 0.500   B 0.100 <= 0.400   "How do I tie a knot?"',
        "",
        "behaviours of the merge that neither parent shows:",
        '  "Signal received."',
        f"    {SIGNAL.id}",
    ]
    assert cli.main(["diff", "--parents", "b", "calm", "--json"]) == 0
    shown: Any = strict_loads(capsys.readouterr().out)
    assert [row["follows"] for row in shown["prompts"]] == ["second", "both"]
    assert cli.main(["diff", "--parents", "a", "a"]) == 2
    assert 'both runs have the reference "tuned-a"' in capsys.readouterr().err


def test_runs_that_tell_nothing_of_parents_are_refused() -> None:
    first, second = side_of_run(A), side_of_run(B)
    for other, why in (
        (dataclasses.replace(second, candidate="else"), 'two candidates, "merged" and "else"'),
        (dataclasses.replace(second, metric="js"), "measure symmetric and js"),
        (dataclasses.replace(second, cases={}), "no prompt was measured in both runs"),
    ):
        with pytest.raises(SettingsError, match=why):
            between_parents(first, other)
