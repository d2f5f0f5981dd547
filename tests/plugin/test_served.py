"""Suites replayed on a model that a llama.cpp server runs, and on servers that cannot be believed.

The server is a real one (`tests/served.py`), with the tiny models as GGUF files.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_divergence import load_model_pair
from pytest_divergence.core.behaviours import TellingContinuation
from pytest_divergence.core.cases import Case
from pytest_divergence.core.errors import DivergenceError
from pytest_divergence.core.suites import read_suite
from pytest_divergence.models.load_plan import LoadOptions
from pytest_divergence.models.loading import PairRecipe, try_out_served
from pytest_divergence.scoring.suite_rows import measure_telling, replay_behaviour
from tests.plugin.conftest import KNOT, POEM, SUITE, Project
from tests.served import Answer, Change, Proxy, llama_server, proxy


def replayed(project: Project, candidate: str, *arguments: str) -> pytest.RunResult:
    return project.run(
        SUITE, "--model-1=base", f"--model-2=llamacpp:{candidate}", "-Wignore:aggregate", *arguments
    )


def tried(folder: Path, candidate: str, *, reference: str = "base") -> Any:
    """The readings of a trial of a served candidate, as a session makes it before it loads."""
    return try_out_served(PairRecipe(reference, candidate, LoadOptions(), folder).plan())


def refusal(folder: Path, candidate: str, **other: str) -> str:
    """Why a served candidate is refused, which is a session's usage error."""
    with pytest.raises(DivergenceError) as refused:
        tried(folder, candidate, **other)
    return str(refused.value)


def text_of(result: pytest.RunResult) -> str:
    """All that a session shows, on one line."""
    return " ".join(" ".join([*result.outlines, *result.errlines]).split())


def cases_of(project: Project, folder: str) -> list[dict[str, Any]]:
    """The cases of the report that a session wrote."""
    path = project.path / folder / "latest" / "report.json"
    cases: list[dict[str, Any]] = json.loads(path.read_text("utf-8"))["cases"]
    return cases


# A gate


def test_a_suite_made_on_local_weights_gates_the_served_build(
    served: Project, ft_server: str
) -> None:
    result = replayed(served, ft_server, "--divergence-report-dir=out")

    result.assert_outcomes(passed=3, warnings=0)
    result.stdout.fnmatch_lines(
        [
            f"divergence: reference base (command line), candidate llamacpp:{ft_server} *",
            "divergence: trying the server: its tokenizer, its template, and the same tokens again",
            "2 stored cases replayed: 2 within the bound.",
            "*::aggregate inconclusive: KL by chosen tokens is 1.00 x the stored values, *",
        ]
    )
    stored = {row.id: row for row in read_suite(served.path / SUITE).suite.cases}
    for case in cases_of(served, "out"):
        made = stored[case["id"]].kl
        assert made is not None
        assert (made.evidence, case["kl"]["evidence"]) == ("full", "chosen")
        assert case["kl"]["value"] == pytest.approx(made.value, rel=0.01)
        assert case["kl"]["k3"] == pytest.approx(made.k3, rel=0.01)


def test_another_model_behind_the_same_address_fails(
    served: Project, ft_server: str, gguf_models: Path
) -> None:
    with (
        llama_server(gguf_models / "other.gguf") as other,
        proxy(ft_server) as front,
    ):
        replayed(served, front.address).assert_outcomes(passed=3)
        front.target = other
        result = replayed(served, front.address, "--divergence-max-shift=0.5")

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(failed=3, passed=1)
    result.stdout.fnmatch_lines(["KL * nats/token > max_kl *"])
    assert "the stored value, plus the change of the chosen tokens' own value, which is" in text_of(
        result
    )
    assert "they differ most at token" in text_of(result)
    assert "--divergence-update" not in text_of(result)  # it cannot be measured on a server


def test_two_servers_of_one_model_differ_by_no_more_than_three_floors(
    project: Project, base_server: str, gguf_models: Path
) -> None:
    """With no weights here at all: the tokenizer is the one that the spec names."""
    project.write_suite(SUITE, {"input": KNOT}, {"input": POEM})
    with llama_server(gguf_models / "base.gguf") as twin:
        result = project.run(
            SUITE,
            f"--model-1=llamacpp:{base_server},tokenizer=base",
            f"--model-2=llamacpp:{twin}",
            "--divergence-max-kl=3e-6",
            "--divergence-report-dir=out",
        )

    result.assert_outcomes(passed=2)
    assert "same model" not in text_of(result)  # as far as anyone can tell from here
    for case in cases_of(project, "out"):
        assert 0 <= case["kl"]["value"] <= 3e-6
        assert case["kl"]["evidence"] == "head:64"


def test_the_reference_may_be_the_served_model(served: Project, base_server: str) -> None:
    result = served.run(SUITE, f"--model-1=llamacpp:{base_server}", "--model-2=ft", "-Wdefault")

    result.assert_outcomes(passed=3, warnings=2)
    assert "was made with the reference" in text_of(result)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "lost", "sentence"),
    [
        (
            ".divergence.",
            ("k3", "evidence"),
            "which do not compare: its row holds no value of the chosen tokens alone (k3)",
        ),
        (
            ".tokens.",
            ("candidate_log_p",),
            "its stored continuations have no candidate_log_p, as those of suites of before",
        ),
    ],
    ids=["values", "continuations"],
)
def test_a_suite_of_before_is_not_compared_with_a_server(
    served: Project, ft_server: str, kind: str, lost: tuple[str, ...], sentence: str
) -> None:
    """It holds no values of the chosen tokens, or not how likely their writer found them."""
    path = served.path / SUITE.replace(".divergence.", kind)
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    for row in rows:
        for key in lost:
            del row.get("kl", row)[key]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    provenance = next(served.path.glob("*.provenance.json"))
    made = json.loads(provenance.read_text("utf-8"))
    provenance.write_text(json.dumps({**made, "rows": None, "num_rows": len(rows)}))

    result = replayed(served, ft_server)

    result.assert_outcomes(errors=3)
    assert sentence in text_of(result)
    served.run(SUITE, "--model-1=base", "--model-2=ft", "--divergence-update", "-Wignore")
    replayed(served, ft_server).assert_outcomes(passed=3)  # as the message says


def test_a_users_own_test_measures_on_a_server(project: Project, ft_server: str) -> None:
    """The server writes its own answers, sampled from its whole distribution."""
    project.write(
        "test_own.py",
        "def test_knot(assert_bounded_kl):\n"
        "    score = assert_bounded_kl('How do I tie a knot?', max_kl=5.0)\n"
        "    assert score.measurement.evidence == 'head:64'\n"
        "    assert 0.01 < score.measurement.value < 2.0\n",
    )

    result = project.run(
        "test_own.py", "--model-1=base", f"--model-2=llamacpp:{ft_server}", "-Wignore"
    )

    result.assert_outcomes(passed=1)


def test_a_behaviour_is_replayed_on_a_server_as_on_the_weights(
    gguf_models: Path, tiny_models: Path, ft_server: str
) -> None:
    told = [
        TellingContinuation(
            prompt=KNOT, text="x", token_ids=[40, 41, 42, 2], log_ratio=1.0, start=1
        ),
        TellingContinuation(prompt=POEM, text="y", token_ids=[200, 210], log_ratio=1.0, log_p=-9.0),
    ]
    local, served = (
        load_model_pair(str(tiny_models / "base"), spec)
        for spec in (str(tiny_models / "ft"), f"llamacpp:{ft_server}")
    )

    for ours, theirs in zip(
        measure_telling(local, told), measure_telling(served, told), strict=True
    ):
        assert theirs == pytest.approx(ours, abs=2e-3)
    assert replay_behaviour(served, told).log_ratio == pytest.approx(
        replay_behaviour(local, told).log_ratio, abs=2e-3
    )


# Servers that cannot be believed


def head_of(answer: Answer) -> list[dict[str, Any]]:
    """The likeliest tokens in a server's answer; none if it was asked for something else."""
    told = answer.get("completion_probabilities") if isinstance(answer, dict) else None
    head: list[dict[str, Any]] = told[0]["top_logprobs"] if told else []
    return head


def of_head(change: Callable[[list[dict[str, Any]]], object]) -> Change:
    """A lie that changes the likeliest tokens, wherever there are any."""

    def lie(path: str, answer: Answer, number: int) -> Answer:
        if head := head_of(answer):
            change(head)
        return answer

    return lie


def cut(head: list[dict[str, Any]]) -> None:
    del head[20:]


def too_likely(head: list[dict[str, Any]]) -> None:
    for item in head:
        item["logprob"] = min(0.0, item["logprob"] + 3.0)


def another_token(path: str, answer: Answer, number: int) -> Answer:
    if head_of(answer):
        assert isinstance(answer, dict)
        answer["completion_probabilities"][0]["id"] += 1
    return answer


def fewer_ids_read(path: str, answer: Answer, number: int) -> Answer:
    if isinstance(answer, dict) and "tokens_evaluated" in answer:
        answer["tokens_evaluated"] -= 1
    return answer


def shifted(amount: Callable[[int], float]) -> Change:
    """A lie that lowers all values by what depends on how much was asked before."""

    def lie(path: str, answer: Answer, number: int) -> Answer:
        if head := head_of(answer):
            assert isinstance(answer, dict)
            for item in (answer["completion_probabilities"][0], *head):
                item["logprob"] -= amount(number)
        return answer

    return lie


def no_probabilities(path: str, answer: Answer, number: int) -> Answer:
    if isinstance(answer, dict):
        answer.pop("completion_probabilities", None)
    return answer


def other_ids(path: str, answer: Answer, number: int) -> Answer:
    if path == "/tokenize" and isinstance(answer, dict):
        answer["tokens"] = [id_ + 1 for id_ in answer["tokens"]]
    return answer


def other_template(path: str, answer: Answer, number: int) -> Answer:
    if path == "/props" and isinstance(answer, dict):
        answer["chat_template"] = "{{ messages[0].content }}"
    if path == "/apply-template" and isinstance(answer, dict):
        answer["prompt"] = "### User: How do I tie a knot?"
    return answer


def no_model(path: str, answer: Answer, number: int) -> Answer:
    return {"object": "list", "data": []} if path == "/v1/models" else answer


cut_heads = of_head(cut)
LIES: dict[Change, str] = {
    cut_heads: "tells 20 of the 64 most likely tokens that it was asked for",
    of_head(list.reverse): "tells the most likely tokens out of order: [-",
    of_head(lambda head: head[0].update(logprob=float("nan"))): (
        "answers /completion with what is not JSON"
    ),
    of_head(lambda head: head[0].update(logprob=None)): (
        "tells what is no log-probability, a number up to 0: ["
    ),
    of_head(too_likely): "which is more than 1",
    another_token: "was asked about token",
    fewer_ids_read: "ids and has read",
    shifted(lambda number: 0.05 * number): (  # as behind a faulty cache
        "its values depend on the order of questions, so nothing can be judged on them"
    ),
    no_probabilities: "tells no log-probabilities: ",
    other_ids: "has another tokenizer than the pair: it splits",
    other_template: 'has another chat template than the pair: it makes "### User: How do I tie',
    no_model: "does not say what it runs at /props and /v1/models, as a llama.cpp server does",
}


def test_a_server_that_cannot_be_right_is_refused_with_its_own_answer(
    served: Project, ft_server: str
) -> None:
    for lie, sentence in LIES.items():
        with proxy(ft_server, change=lie) as front:
            said = refusal(served.path, f"llamacpp:{front.address}")
        assert sentence in said
        assert said.startswith(f"--model-2 (llamacpp:{front.address}) ")

    with proxy(ft_server, change=cut_heads) as front:
        result = replayed(served, front.address)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert LIES[cut_heads] in text_of(result)
    assert "passed" not in text_of(result)


BAD_WAYS: dict[str, tuple[dict[str, Any], str]] = {
    "redirect": (
        {"redirects_to": "http://127.0.0.1:1/"},
        "answers /props with a redirect (HTTP 302), and none is followed; give the address that it "
        "leads to",
    ),
    "html": ({"raw": b"<html>hello</html>"}, 'answers /props with what is not JSON: "<html>hello'),
    "deep": ({"raw": b"[" * 100_000}, 'answers /props with what is not JSON: "[[[['),
    "refusal": (
        {"raw": b'{"error": "loading model"}', "status": 503},
        'answers /props with HTTP 503: "{"error": "loading model"}"',
    ),
    "endless": ({"raw": b" " * (65 * 2**20)}, "answers /props with more than 64 MiB"),
}


def test_what_is_no_answer_is_refused(tiny_models: Path, ft_server: str) -> None:
    for ways, sentence in BAD_WAYS.values():
        with proxy(ft_server, **ways) as front:
            assert sentence in refusal(tiny_models, f"llamacpp:{front.address}")
        assert front.asked in ([], ["/props"])


def test_a_server_that_stalls_or_is_not_there_is_not_waited_for(
    tiny_models: Path, ft_server: str
) -> None:
    with proxy(ft_server, stalls=2.0) as front:
        late = refusal(tiny_models, f"llamacpp:{front.address},timeout=0.3")
    gone = refusal(tiny_models, "llamacpp:http://127.0.0.1:9")

    more = "add timeout=SECONDS to the spec if it is only slow"
    assert f"did not answer /props within 0.3 s; {more}" in late
    assert gone.startswith("--model-2 (llamacpp:http://127.0.0.1:9) cannot be asked for /props")
    assert "is the server running?" in gone


def test_a_server_that_lies_only_after_its_trial_passes_nothing(
    served: Project, ft_server: str
) -> None:
    def later(path: str, answer: Answer, number: int) -> Answer:
        return cut_heads(path, answer, number) if number > 100 else answer

    with proxy(ft_server, change=later) as front:
        result = replayed(served, front.address)

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(errors=3)
    assert "tells 20 of the 64 most likely tokens" in text_of(result)


# Keys, and who may name a server


@pytest.fixture
def keyed(ft_server: str) -> Iterator[Proxy]:
    with proxy(ft_server, needs_key="s3cret-0123") as front:
        yield front


def test_a_key_comes_from_the_environment_and_is_nowhere_shown_or_kept(
    served: Project, keyed: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMA_KEY", "s3cret-0123")

    result = replayed(
        served, f"{keyed.address},key_env=LLAMA_KEY", "--divergence-report-dir=out", "-vv"
    )

    result.assert_outcomes(passed=3)
    assert "s3cret" not in text_of(result)
    for path in served.path.rglob("*"):
        assert not path.is_file() or b"s3cret" not in path.read_bytes(), path


def test_a_wrong_key_that_a_server_repeats_is_not_shown(
    tiny_models: Path, keyed: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = f"llamacpp:{keyed.address},key_env=LLAMA_KEY"
    assert refusal(tiny_models, spec) == (
        "--model-2: key_env=LLAMA_KEY, but the environment variable LLAMA_KEY holds no key; set "
        "it, or leave key_env out"
    )

    monkeypatch.setenv("LLAMA_KEY", "wr0ng-key")
    said = refusal(tiny_models, spec)
    assert "answers /props with HTTP 401" in said
    assert "wr0ng" not in said


REMOTE = "llamacpp:https://gpu.example"
FILES = {
    "ini": f"divergence_model_1 = base\ndivergence_model_2 = {REMOTE}",
    "addopts": f"addopts = --model-1=base --model-2={REMOTE}",
    "pairs": f"divergence_pairs =\n    *.divergence.jsonl = base {REMOTE}",
}


def test_a_file_of_the_project_names_a_server_on_this_machine_alone(
    served: Project, ft_server: str
) -> None:
    for lines in FILES.values():
        served.pytester.makeini(f"[pytest]\n{lines}\n")
        result = served.run(SUITE)
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        assert "names a server on another machine (host gpu.example)" in text_of(result)

    served.pytester.makeini(
        f"[pytest]\ndivergence_model_1 = base\ndivergence_model_2 = llamacpp:{ft_server}\n"
    )
    served.run(SUITE, "-Wignore").assert_outcomes(passed=3)


def test_a_marker_names_no_server_elsewhere(project: Project) -> None:
    project.write(
        "test_own.py",
        "import pytest\n"
        f"@pytest.mark.divergence(models=('base', '{REMOTE}'))\n"
        "def test_knot(assert_bounded_kl):\n"
        "    assert_bounded_kl('Hello', max_kl=1.0)\n",
    )

    result = project.run("test_own.py", "-Wignore")

    result.assert_outcomes(failed=1)
    assert "model 2 of the marker names a server on another machine" in text_of(result)


def test_a_server_that_runs_another_model_than_the_named_one_is_refused(
    tiny_models: Path, ft_server: str
) -> None:
    def released(path: str, answer: Answer, number: int) -> Answer:
        if path == "/v1/models" and isinstance(answer, dict):
            answer["data"][0]["id"] = "release-7"
        return answer

    with proxy(ft_server, change=released) as front:
        spec = f"llamacpp:{front.address},model=release-"
        assert tried(tiny_models, f"{spec}7")
        assert "has no model 'release-8'; it has \"['release-7']\"" in refusal(
            tiny_models, f"{spec}8"
        )


# What a pair lacks


def test_two_servers_need_a_tokenizer(tiny_models: Path, ft_server: str) -> None:
    spec = f"llamacpp:{ft_server}"
    assert refusal(tiny_models, spec, reference=spec).startswith(
        "--model-1 and --model-2 are both served, so their tokenizer is not known; add "
        "tokenizer=MODEL to the first"
    )


def test_an_adapter_beside_a_served_base_needs_weights_of_its_own(
    served: Project, base_server: str
) -> None:
    result = served.run(SUITE, f"--model-1=llamacpp:{base_server}", "--model-2=adapter")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "so its weights are not here; add the base to the adapter: ADAPTER,base=MODEL" in (
        text_of(result)
    )
    result = served.run(
        SUITE, f"--model-1=llamacpp:{base_server}", f"--model-2=adapter,base=llamacpp:{base_server}"
    )
    assert "--model-2, base is served, and an adapter runs on weights that are here" in (
        text_of(result)
    )
    result = served.run(
        SUITE, f"--model-1=llamacpp:{base_server}", "--model-2=adapter,base=base", "-Wignore"
    )
    result.assert_outcomes(passed=1, failed=2)


# What a server does not tell enough for


def test_a_suite_is_not_measured_again_on_a_server(served: Project, ft_server: str) -> None:
    before = (served.path / SUITE).read_bytes()

    for option in ("--divergence-update", "--divergence-fill"):
        result = replayed(served, ft_server, option)

        assert result.ret == pytest.ExitCode.USAGE_ERROR
        assert f"{SUITE} cannot be measured again on a served or recorded model" in text_of(result)
        assert (served.path / SUITE).read_bytes() == before


def test_a_bound_within_the_servers_noise_is_refused(served: Project, ft_server: str) -> None:
    path = served.path / SUITE
    lines = path.read_text("utf-8").splitlines()
    rows = [Case(**json.loads(line)) for line in lines]
    rows = [row if row.is_control else row.with_changes(max_kl=0.001) for row in rows]
    path.write_text("".join(json.dumps(row.to_row()) + "\n" for row in rows))

    with proxy(ft_server, change=shifted(lambda number: 0.08 * (number % 3))) as front:
        result = replayed(served, front.address)

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert re.search(
        r"max_kl=0\.001 is within the noise: .* differs from itself by up to 0\.0",
        (text_of(result)),
    )
