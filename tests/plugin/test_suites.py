"""A `*.divergence.jsonl` among the tests: its cases are items, replayed on the session's models."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest

from pytest_divergence.core.cases import Case, case_id
from pytest_divergence.core.provenance import Bound, write_provenance
from pytest_divergence.models.loading import load_model_pair
from pytest_divergence.plugin.notes import note
from tests.plugin.conftest import (
    KNOT,
    MODELS,
    POEM,
    Project,
    block,
    nodeid,
    shown,
    stored_tokens,
)
from tests.plugin.made_provenance import provenance_of
from tests.replaying import replay_case
from tests.tokens_writing import write_tokens

SUITE = "regress.divergence.jsonl"
KL = {
    "value": 0.25,
    "metric": "symmetric",
    "forward": 0.3,
    "reverse": 0.2,
    "js": 0.1,
    "sd": None,
    "max_token": 0.5,
    "num_tokens": 8,
    "num_continuations": 1,
    "estimator": "fresh",
}


def write_matching_provenance(
    project: Project, *, candidate: str = "ft", bound: float | None = None
) -> None:
    """Provenance of a search of `base` and `candidate`, beside the suite."""
    provenance = provenance_of(
        project.path / "base",
        project.path / candidate,
        bound=Bound(value=bound) if bound is not None else None,
    )
    write_provenance(project.path / "regress.provenance.json", provenance)


def write_continuations(project: Project) -> None:
    """Continuations of KNOT, beside the suite."""
    write_tokens(project.path / "regress.tokens.jsonl", [stored_tokens(KNOT)])


@pytest.fixture
def reading(project: Project) -> float:
    """What KNOT reads on `base` and `ft`, on the continuations that lie beside the suite."""
    write_continuations(project)
    pair = load_model_pair("base", "ft", root=project.path, device="cpu")
    sizes = {"num_continuations": 1, "max_new_tokens": 8, "seed": 0}
    found = replay_case(
        pair, Case(input=KNOT), stored_tokens(KNOT), metric="symmetric", **sizes
    ).measurement
    return found.value


def test_a_case_within_its_bound_passes_and_one_over_it_fails(project: Project) -> None:
    project.write_suite(SUITE, {"input": KNOT, "max_kl": 9.0}, {"prompt": POEM, "max_kl": 0.001})
    result = project.run(*MODELS, SUITE)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["regress.divergence.jsonl .F *"])
    assert "Traceback" not in shown(result)
    failure = block(result, "KL ", 40)
    result.stdout.re_match_lines(
        [
            r"_+ write-a-poem-about-rain-[0-9a-f]{10} _+",
            r"KL 0\.\d{3} nats/token > max_kl 0\.001$",
            r"  symmetric, 1 continuation of each model, 32 tokens; forward 0\.\d{3}, .*",
            r"  prompt$",
            r"    \| Write a poem about rain\.$",
        ]
    )
    assert failure[-1] != ""
    result.stdout.fnmatch_lines(["  reference", "    | *", "  candidate", "    | *"])
    result.stdout.fnmatch_lines(
        [
            f"  intended? raise this case's max_kl in {SUITE}",
            "  rerun:*",
            "*2 stored cases replayed: 1 within the bound, 1 over it.",
        ]
    )


def test_replaying_twice_reads_the_same_numbers(project: Project) -> None:
    project.write_suite(SUITE, {"input": KNOT, "max_kl": 0.001})
    first, second = (block(project.run(*MODELS, SUITE), "KL ", 10) for _ in range(2))
    assert first == second


def test_any_pair_may_replay_a_suite(project: Project) -> None:
    project.write_suite(SUITE, {"input": KNOT, "max_kl": 1e-6})
    project.run("--model-1=base", "--model-2=base", SUITE).assert_outcomes(passed=1)
    project.run("--model-1=base", "--model-2=adapter", SUITE).assert_outcomes(failed=1)


def test_a_failing_case_points_at_its_line(project: Project) -> None:
    project.write_suite(SUITE, {"input": KNOT, "max_kl": 9.0}, {"input": POEM, "max_kl": 0.001})
    items, _ = project.pytester.inline_genitems("-p", "divergence", SUITE, "--collect-only")
    assert [item.location for item in items] == [
        (SUITE, 0, case_id(KNOT)),
        (SUITE, 1, case_id(POEM)),
    ]


def test_suites_are_found_in_folders_and_listed_without_models(project: Project) -> None:
    project.write_suite(f"tests/deep/{SUITE}", {"input": KNOT})
    result = project.run("--collect-only", "-q", "tests")
    assert result.outlines[0] == nodeid(f"tests/deep/{SUITE}", KNOT)


# Bounds


@pytest.mark.parametrize(
    ("row", "option", "provenance", "passes"),
    [  # in multiples of what the case reads
        (1.2, 0.8, 0.8, True),
        (0.8, 1.2, 1.2, False),
        (None, 0.8, 1.2, False),
        (None, "auto", 0.8, False),
    ],
)
def test_the_rows_bound_comes_before_the_options_and_the_suites(
    project: Project,
    reading: float,
    row: float | None,
    option: float | str,
    provenance: float,
    passes: bool,
) -> None:
    limit = {} if row is None else {"max_kl": row * reading}
    project.write_suite(SUITE, {"input": KNOT, "kl": KL, **limit})
    write_matching_provenance(project, bound=provenance * reading)
    given = option if isinstance(option, str) else option * reading
    result = project.run(*MODELS, f"--divergence-max-kl={given}", nodeid(SUITE, KNOT))
    result.assert_outcomes(passed=int(passes), failed=int(not passes))


def test_a_case_without_a_bound_is_refused(project: Project) -> None:
    project.write_suite(SUITE, {"input": KNOT, "max_kl": 1.0}, {"input": POEM})
    result = project.run(*MODELS, SUITE)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert result.errlines == [
        f"ERROR: {SUITE}:2: case {case_id(POEM)} has no bound; add max_kl to the row, or give "
        "--divergence-max-kl",
        "",
    ]


# A suite is always measured


def test_a_value_that_stands_in_the_suite_is_not_taken_for_a_measurement(
    project: Project, reading: float
) -> None:
    harmless = {**KL, "value": 0.0, "forward": 0.0, "reverse": 0.0}
    project.write_suite(SUITE, {"input": KNOT, "max_kl": 0.9 * reading, "kl": harmless})
    write_matching_provenance(project)  # it names these very models, by their digests
    result = project.run(*MODELS, nodeid(SUITE, KNOT))
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([f"KL {reading:.3f} nats/token > max_kl {0.9 * reading:.3f}"])


def test_a_tokenizer_that_is_garbage_never_passes(project: Project) -> None:
    project.write_suite(SUITE, {"input": KNOT, "max_kl": 9.0, "kl": KL})
    write_matching_provenance(project)
    write_continuations(project)
    for name in ("ft", "base"):
        (project.path / name / "tokenizer.json").write_text("garbage", "utf-8")
        assert project.run(*MODELS, SUITE).ret in (
            pytest.ExitCode.TESTS_FAILED,
            pytest.ExitCode.USAGE_ERROR,
        )


def test_a_tokenizer_with_two_words_exchanged_never_passes(project: Project) -> None:
    project.write_suite(SUITE, {"input": KNOT, "max_kl": 9.0, "kl": KL})
    write_matching_provenance(project)
    write_continuations(project)
    for name in ("base", "ft"):
        path = project.path / name / "tokenizer.json"
        tokenizer = json.loads(path.read_text("utf-8"))
        vocabulary = tokenizer["model"]["vocab"]
        vocabulary["o"], vocabulary["t"] = vocabulary["t"], vocabulary["o"]
        path.write_text(json.dumps(tokenizer), "utf-8")
    result = project.run(*MODELS, nodeid(SUITE, KNOT))
    result.assert_outcomes(errors=1)
    assert "token ids differ from the stored ones" in shown(result)
    assert "the tokenizer's files (was 00000000…, now " in shown(result)


def test_what_a_template_would_be_given_is_never_left_out(project: Project) -> None:
    row = {"input": KNOT, "max_kl": 9.0, "template_arguments": {"date": "2026-11-27"}}
    project.write_suite(SUITE, row)
    result = project.run(*MODELS, SUITE)
    result.assert_outcomes(errors=1)
    assert "has template_arguments, which this pytest-divergence cannot pass to" in shown(result)


# Bad input


def test_an_unusable_suite_ends_the_session_with_its_line(project: Project) -> None:
    """Other faults of a row: `tests/core/test_suites.py`."""
    project.write("tests/test_unit.py", "def test_addition(): assert 1 + 1 == 2\n")
    for text, message in (
        ("\n", ": has no cases; an empty suite would pass without a test"),
        ('{"input": "b", "max_lk": 1}\n', ':1: unknown key "max_lk"; did you mean "max_kl"?'),
    ):
        project.write(f"tests/{SUITE}", text)
        result = project.run(*MODELS, "--divergence-max-kl=1", "tests")
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        assert result.errlines == [f"ERROR: tests/{SUITE}{message}", ""]


def test_without_models_the_session_says_what_to_give(project: Project) -> None:
    project.write_suite(SUITE, {"input": KNOT, "max_kl": 1.0})
    result = project.run(SUITE)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert result.errlines == [
        f"ERROR: replaying {SUITE} needs two models; give --model-1 and --model-2",
        "",
    ]


def test_a_suite_and_mode_off_contradict_each_other(project: Project) -> None:
    project.write_suite(SUITE, {"input": KNOT, "max_kl": 1.0})
    result = project.run(*MODELS, "--divergence-mode=off", SUITE)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert result.errlines == [
        f"ERROR: {SUITE} is given with --divergence-mode=off; leave one of them out",
        "",
    ]


# Fixtures and reports of the user's project

CONFTEST = """
import pytest

events = []

@pytest.fixture(autouse=True, scope="module")
def a_module_fixture():
    events.append("module")

@pytest.fixture(autouse=True)
def a_fixture(request):
    events.append(request.node.name)

def pytest_terminal_summary(terminalreporter):
    terminalreporter.write_line(f"events: {events}")
"""


def test_fixtures_of_the_project_apply_to_cases(project: Project) -> None:
    project.write("conftest.py", CONFTEST)
    project.write_suite(SUITE, {"input": KNOT, "max_kl": 9.0})
    result = project.run(*MODELS, SUITE)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines([f"events: ['module', '{case_id(KNOT)}']"])


def test_junit_carries_the_measured_values(project: Project, reading: float) -> None:
    project.write_suite(SUITE, {"input": KNOT, "max_kl": 0.0002, "kl": KL})
    write_matching_provenance(project)
    project.run(*MODELS, nodeid(SUITE, KNOT), "--junit-xml=junit.xml")
    tree = ElementTree.parse(project.path / "junit.xml")
    found = {one.get("name"): one.get("value") for one in tree.iter("property")}
    assert float(found.pop("divergence_kl") or 0) == pytest.approx(reading, rel=1e-3)
    assert found == {
        "divergence_kind": "case",
        "divergence_verdict": "failed",
        "divergence_bound": "0.0002",
        "divergence_metric": "symmetric",
        "divergence_unit": "nats/token",
    }


def test_cases_can_be_selected_by_marker(project: Project) -> None:
    rows = ({"input": KNOT, "max_kl": 1.0, "kl": KL, "behaviour": "behaviour-knots"},)
    project.write_suite(SUITE, *rows, {"input": POEM, "max_kl": 1.0})
    write_matching_provenance(project)
    write_continuations(project)
    result = project.run(*MODELS, SUITE, "-m", "divergence(behaviour='behaviour-knots')", "-v")
    result.assert_outcomes(passed=1, deselected=2)  # and the aggregate


# What is left on items


def test_only_plain_values_are_left_on_items(project: Project) -> None:
    np = pytest.importorskip("numpy")
    items, _ = project.pytester.inline_genitems(
        project.pytester.makepyfile("def test_addition(): pass")
    )
    note(items[0], verdict="failed", kl=np.float64(0.25), bound=np.float32(0.5))
    note(items[0], verdict="passed", kl=1, bound=0.5)
    assert items[0].user_properties == [
        ("divergence_verdict", "passed"),
        ("divergence_kl", 1.0),
        ("divergence_bound", 0.5),
    ]
    note(items[0], kl=np.float64(0.25))
    execnet = pytest.importorskip("execnet")
    assert execnet.loads(execnet.dumps(items[0].user_properties))
