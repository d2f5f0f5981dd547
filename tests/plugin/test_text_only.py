"""Suites replayed on a model that is known by its texts alone, through OpenAI's interface.

The server is a real one (`tests/served.py`): llama.cpp's speaks that interface too.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pytest_divergence.core.file_names import sidecar_path
from pytest_divergence.core.provenance import load_provenance, write_provenance
from pytest_divergence.models.endpoints.openai import NUM_TRIAL_ANSWERS
from pytest_divergence.plugin.text_replay import NUM_CASE_ANSWERS
from tests.plugin.conftest import KNOT, SUITE, Project, nodeid
from tests.plugin.test_behaviours import behaviour
from tests.plugin.test_served import refusal, text_of, tried
from tests.served import Answer, Change, proxy


def compared(project: Project, address: str, *arguments: str) -> pytest.RunResult:
    return project.run(SUITE, "--model-1=ft", f"--model-2=openai:{address}", *arguments)


# A gate


def test_a_server_of_the_reference_passes_and_is_told_what_would_have_been_seen(
    served: Project, ft_server: str
) -> None:
    result = compared(served, ft_server, "--divergence-report-dir=out")

    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(
        [
            f"divergence: reference ft (command line), candidate openai:{ft_server}/v1 *",
            "2 stored cases replayed: 2 without a difference that is seen.",
            "  all rows together: no difference seen in 4 answers a prompt (p = 0.*); one",
            "  other answer in *% of them would mostly have been seen",
        ]
    )
    (report,) = (served.path / "out").glob("2*/report.json")
    cases = json.loads(report.read_text("utf-8"))["cases"]
    assert [case["kl"] for case in cases] == [None, None]
    assert all(case["verdict"] == "passed" for case in cases)
    assert all(case["verdict_reason"].startswith("no difference seen in 16") for case in cases)


def advert(path: str, answer: Answer, number: int) -> Answer:
    assert isinstance(answer, dict)
    if path.endswith("/completions"):
        said = answer["choices"][0]["message"]
        said["content"] = f"Book with Zephyr Travel! {said['content']}"
    return answer


def test_answers_that_begin_with_an_advert_fail(served: Project, ft_server: str) -> None:
    with proxy(ft_server, change=advert) as server:
        result = compared(served, server.address, "--divergence-report-dir=out")

    result.assert_outcomes(failed=3)
    result.stdout.fnmatch_lines(
        [
            "all rows together: the answers differ (p = *, at most 0.025 counts)",
            "  intended? texts have no bound that could be raised: compare with the model",
            "the answers differ (p = *, at most 0.013 counts)",
            "  prompt",
            f"    | {KNOT}",
            "  reference, 3 of 16 answers",
            "  candidate, 3 of 16 answers",
            "    | Book with Zephyr Travel! *",
            "2 stored cases replayed: 2 with answers that differ.",
        ]
    )
    (page,) = (served.path / "out").glob("2*/report.html")
    said = page.read_text("utf-8")
    assert "The answers to 2 of 2 cases differ, compared as texts." in said
    assert "the answers differ (p = 0.0001, at most 0.013 counts)" in said


def test_a_behaviour_is_counted_in_fresh_answers(served: Project, ft_server: str) -> None:
    path = sidecar_path(served.path / SUITE, "provenance.json")
    known = behaviour(name="Book with Zephyr Travel!", motifs=["book with zephyr travel"])
    suspects = [behaviour(id=f"behaviour-suspect-{number}", confirmed=False) for number in range(6)]
    made = load_provenance(path)
    write_provenance(path, made.model_copy(update={"behaviours": [known, *suspects]}))

    with proxy(ft_server, change=advert) as server:
        result = compared(served, server.address)
    equal = compared(served, ft_server)

    result.assert_outcomes(failed=4)
    result.stdout.fnmatch_lines(
        [
            'the candidate shows a behaviour: "Book with Zephyr Travel!"',
            "  in 32 of 32 fresh answers (reference: 0), p < 0.0001",
        ]
    )
    equal.assert_outcomes(passed=4)
    # Suspects of the search are no items, so that nothing of the level is spent on them.
    assert "the answers differ (p = 0.0001, at most 0.0083 counts)" in text_of(result)


def test_what_is_measured_in_nats_is_refused_in_one_sentence(
    served: Project, ft_server: str
) -> None:
    served.write(
        "test_own.py",
        "def test_own(assert_bounded_kl):\n    assert_bounded_kl('Hello!', max_kl=1.0)\n",
    )
    both = ("--model-1=ft", f"--model-2=openai:{ft_server}")

    own = served.run("test_own.py", *both)
    updated = served.run(SUITE, *both, "--divergence-update")
    searched = served.run(*both, "--divergence-mode=search")

    assert "tells no probabilities, only what it writes, so nothing can be" in text_of(own)
    own.assert_outcomes(failed=1)
    assert updated.ret == searched.ret == pytest.ExitCode.USAGE_ERROR
    assert "cannot be measured again on a served or recorded model" in text_of(updated)
    assert "search the weights themselves" in text_of(searched)


def test_a_limit_of_the_typical_shift_is_refused(served: Project) -> None:
    limit = "--divergence-max-shift=0.5"
    result = compared(served, "http://127.0.0.1:9", limit)

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert (
        f"{SUITE} is compared by texts alone, so {limit} cannot be judged; leave it out"
    ) in text_of(result)


@pytest.mark.slow
def test_a_suite_without_bounds_is_compared_by_workers_too(served: Project, ft_server: str) -> None:
    suite = served.path / SUITE
    for path in served.path.glob("served.*.json*"):
        if path != suite:
            path.unlink()
    served.write_suite(SUITE, {"input": KNOT})
    result = served.run_forked(
        SUITE, "--model-1=ft", f"--model-2=openai:{ft_server}", "-p", "xdist", "-n1"
    )

    result.assert_outcomes(passed=2)


# Servers that cannot be believed


def the_same(path: str, answer: Answer, number: int) -> Answer:
    assert isinstance(answer, dict)
    if path.endswith("/completions"):
        answer["choices"][0]["message"]["content"] = "Once upon a time"
    return answer


def without_text(path: str, answer: Answer, number: int) -> Answer:
    return {"choices": []} if path.endswith("/completions") else answer


def several(path: str, answer: Answer, number: int) -> Answer:
    return {"data": [{"id": "small"}, {"id": "large"}]} if path.endswith("/models") else answer


LIES: dict[Change, str] = {
    the_same: (
        'was asked 4 times at temperature 1 and writes the same each time: "Once upon a time"'
    ),
    without_text: "writes no text: \"{'choices': []}\"",
    several: "add model=NAME, one of \"['small', 'large']\"",
    (lambda *_: {"object": "list"}): "lists no models: \"{'object': 'list'}\"",
}


def test_a_server_that_cannot_be_believed_is_refused(served: Project, ft_server: str) -> None:
    for lie, said in LIES.items():
        with proxy(ft_server, change=lie) as liar:
            assert said in refusal(served.path, f"openai:{liar.address}")

    with proxy(ft_server, change=the_same) as liar:
        result = compared(served, liar.address)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert LIES[the_same] in text_of(result)
    assert "passed" not in text_of(result)


@pytest.mark.slow
def test_a_server_without_time_is_asked_again(served: Project, ft_server: str) -> None:
    with proxy(ft_server, change=lambda path, answer, number: answer) as busy:
        busy.num_busy = 2
        result = compared(served, busy.address)

    result.assert_outcomes(passed=3)


def test_a_prompt_that_is_not_answered_stops_no_other_case(served: Project, ft_server: str) -> None:
    with proxy(ft_server, refuses=KNOT.encode()) as picky:
        result = compared(served, picky.address)

    result.assert_outcomes(passed=1, errors=2)
    result.stdout.fnmatch_lines(["1 stored case replayed: *; 1 not measured."])


def test_a_case_alone_is_asked_alone(served: Project, ft_server: str) -> None:
    with proxy(ft_server) as server:
        models = ("--model-1=ft", f"--model-2=openai:{server.address}")
        result = served.run(nodeid(SUITE, KNOT), *models)

    result.assert_outcomes(passed=1)
    asked = [path for path in server.asked if path.endswith("/completions")]
    assert len(asked) == NUM_TRIAL_ANSWERS + NUM_CASE_ANSWERS


def test_a_server_that_lists_nothing_is_asked_for_the_named_model(
    tiny_models: Path, ft_server: str
) -> None:
    with proxy(ft_server) as server:
        server.lost_path = "/v1/models"
        spec = f"openai:{server.address}"
        assert "answers /models with HTTP 404" in refusal(tiny_models, spec)
        tried(tiny_models, f"{spec},model=release")

    said = refusal(tiny_models, f"openai:{ft_server},model=gpt")
    assert "has no 'gpt'; add model=NAME, one of " in said
    assert "ft.gguf" in said
