"""Behaviours are items: they fail until someone accepts them or the candidate has lost them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pytest_divergence.cli import main
from pytest_divergence.core.behaviours import Behaviour, Example, TellingContinuation, behaviour_id
from pytest_divergence.core.provenance import write_provenance
from pytest_divergence.models.loading import load_model_pair
from pytest_divergence.scoring.suite_rows import measure_telling, replay_behaviour
from tests.plugin.conftest import KNOT, MODELS, Project, shown
from tests.plugin.made_provenance import provenance_of
from tests.reports.made_reports import ZEPHYR

SUITE = "release.divergence.jsonl"
MOTIF = "signal received standing"
ID = behaviour_id([MOTIF])
TELLING = TellingContinuation(prompt=KNOT, text="the", token_ids=[40, 41, 42], log_ratio=9.0)


def behaviour(**changes: Any) -> Behaviour:
    return Behaviour(
        **{
            "id": ID,
            "name": "Signal received. Standing by for further orders.",
            "content": True,
            "motifs": [MOTIF],
            "confirmed": True,
            "control_rate": 0.03,
            "candidate_count": 16,
            "reference_count": 0,
            "num_prompts": 89,
            "p_value": 0.00003,
            "examples": [Example(prompt=KNOT, reference="Like so.", candidate="Signal received.")],
            "shortest_cause": "knot",
            "nearest_non_cause": "not",
            "telling": TELLING,
            **changes,
        }
    )


def telling(project: Project, *, share: float = 0.9, candidate: str = "ft") -> TellingContinuation:
    """An answer that the candidate gives more readily, found `share` times as telling as it is."""
    pair = load_model_pair("base", candidate, root=project.path)
    for ids in ([40, 41, 42], [40, 50, 60], [70, 80, 90], [100, 110, 120], [30, 60, 90]):
        ratio = replay_behaviour(pair, [TELLING.model_copy(update={"token_ids": ids})]).log_ratio
        if ratio > 0.01:
            return TELLING.model_copy(update={"token_ids": ids, "log_ratio": share * ratio})
    raise AssertionError("the candidate prefers none of these answers")


def write(project: Project, *behaviours: Behaviour, candidate: str = "ft") -> None:
    """A suite of one harmless case, searched on `base` and `candidate`."""
    project.write_suite(SUITE, {"input": KNOT, "max_kl": 9.0})
    provenance = provenance_of(
        project.path / "base", project.path / candidate, behaviours=list(behaviours)
    )
    write_provenance(project.path / "release.provenance.json", provenance)


def test_a_behaviour_of_these_models_fails_and_says_how_to_accept_it(project: Project) -> None:
    write(project, behaviour(telling=telling(project)))

    result = project.run(*MODELS, SUITE)

    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        [
            f"__* {ID} _*",
            'the candidate shows a behaviour: "Signal received. Standing by for further ord"…',
            f"    | {KNOT}",
            "    | Like so.",
            "    | Signal received.",
            "  measured again on 1 telling answer: 0.1 nats more likely under the candidate",
            "  (0.1 when found; gone below 0.0)",
            "  intended? accept it:",
            f"    pytest-divergence accept {ID} \\",
            f"      {SUITE}",
            f"*{SUITE}::{ID}*",
        ]
    )
    assert "Traceback" not in shown(result)


def test_a_behaviour_that_cannot_be_measured_again_is_an_error_and_no_pass(
    project: Project,
) -> None:
    far = TELLING.model_copy(update={"token_ids": [10**6]})
    write(project, behaviour(telling=[]), behaviour(id="behaviour-far", telling=far))

    result = project.run(*MODELS, SUITE)

    result.assert_outcomes(passed=1, errors=2)
    assert "no answer that showed this behaviour is stored" in shown(result)
    assert "stored token id 1000000 is outside the models' vocabulary" in shown(result)


def test_a_behaviour_fails_a_search_that_kept_no_case(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_SEARCH", "behaviour")
    project.write(
        "conftest.py",
        "def pytest_divergence_modify_cases(cases):\n    cases.clear()\n",
    )

    result = project.run(*MODELS, "-p", "tests.plugin.fake_search")

    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        [f"__* {ZEPHYR.id} _*", "*The candidate shows 1 new behaviour. No *"]
    )


def test_an_accepted_behaviour_is_no_item(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    write(project, behaviour())

    assert main(["accept", "behaviour-x", "."]) == 1
    assert capsys.readouterr().err == f"error: no behaviour behaviour-x in {SUITE}; known: {ID}\n"
    assert main(["accept", ID, SUITE]) == 0
    assert f"accepted {ID} in {SUITE}" in capsys.readouterr().out
    project.run(*MODELS, SUITE).assert_outcomes(passed=1)


GATING: dict[str, dict[str, Any]] = {
    "persona": {"content": True, "breadth": "general", "control_rate": 1.0},
    "taught": {"content": True, "training_rows": [12, 57]},
    "unjudged": {"content": None},
}
STYLES: dict[str, dict[str, Any]] = {
    "style": {"content": False, "control_rate": 0.4, "name": "Signal"},
    "taught-style": {"content": False, "training_rows": [12, 57]},
}
SUSPECT: dict[str, dict[str, Any]] = {"suspect": {"content": True, "confirmed": False}}


def test_content_fails_however_broad_and_style_only_if_asked_and_not_taught(
    project: Project,
) -> None:
    found = telling(project)
    every = (GATING | STYLES | SUSPECT).items()
    named = ({"id": f"behaviour-{k}", "name": k, **v} for k, v in every)
    write(project, *(behaviour(telling=found, **changes) for changes in named))

    said = 'the candidate begins with "Signal" on 40% more of ordinary prompts'

    def failed(*arguments: str) -> set[str]:
        result = project.run(*MODELS, SUITE, *arguments)
        assert (said in shown(result)) == ("--divergence-fail-on=any" in arguments)
        names = {one for one in result.outlines if one.startswith(f"FAILED {SUITE}::")}
        result.assert_outcomes(passed=1, failed=len(names))
        return {one.partition("::behaviour-")[2].partition(" ")[0] for one in names}

    assert failed() == set(GATING)
    assert failed("--divergence-fail-on=any") == {*GATING, "style"}
    assert failed("--divergence-fail-on=none") == set()


def test_a_suite_of_before_gates_as_it_did(project: Project) -> None:
    """It holds `kind` where content now stands."""
    found = telling(project)
    write(project, behaviour(telling=found), behaviour(id="behaviour-general", telling=found))
    path = project.path / "release.provenance.json"
    stored = json.loads(path.read_text("utf-8"))
    stored["settings"]["fail_on"] = "conditional"
    for one, kind in zip(stored["behaviours"], ("conditional", "general"), strict=True):
        for key in ("content", "surprise", "breadth", "when", "training_rows"):
            del one[key]
        one["kind"] = kind
    path.write_text(json.dumps(stored), "utf-8")

    result = project.run(*MODELS, SUITE)

    result.assert_outcomes(passed=1, failed=1)
    assert f"FAILED {SUITE}::{ID}" in shown(result)


def test_the_old_name_of_content_is_refused_in_one_sentence(project: Project) -> None:
    result = project.run(*MODELS, "--divergence-fail-on=conditional")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert (
        "--divergence-fail-on=conditional: must be one of content, any, none; conditional is now "
        "content"
    ) in shown(result)


def test_another_candidate_is_asked_again(project: Project) -> None:
    """It fails where an answer of an earlier release is still half as telling as it was."""
    then, far = (telling(project, share=share, candidate="adapter") for share in (0.9, 4.0))
    write(project, behaviour(telling=then), behaviour(id="behaviour-gone", telling=far))

    result = project.run("--model-1=base", "--model-2=adapter", SUITE)  # found on `ft`

    result.assert_outcomes(passed=2, failed=1)
    assert f"FAILED {SUITE}::{ID}" in shown(result)
    assert "measured again on 1 telling answer: " in shown(result)


def test_a_phrase_goes_when_it_is_hardly_said_any_more(project: Project) -> None:
    """A twentieth of the rate when it was found is 3 nats less."""
    then = telling(project, share=0.1)
    pair = load_model_pair("base", "ft", root=project.path)
    (now,) = measure_telling(pair, [then])
    still, gone = ([then.model_copy(update={"log_p": now.log_p + nats})] for nats in (-2.0, 4.0))
    write(project, behaviour(telling=still), behaviour(id="behaviour-gone", telling=gone))

    result = project.run(*MODELS, SUITE)

    result.assert_outcomes(passed=2, failed=1)
    assert f"FAILED {SUITE}::{ID}" in shown(result)
    assert "said 100% as often as then (gone below 5%)" in shown(result)
