"""Several suites with different pairs in one session: which models each is measured on."""

from __future__ import annotations

import pytest

from pytest_divergence.core.cases import case_id
from pytest_divergence.plugin.model_pairs import Models, PairRules
from tests.plugin.conftest import KNOT, MODELS, POEM, Project, nodeid, shown
from tests.tiny import save_tiny_model

SAME, OTHER = "same.divergence.jsonl", "other.divergence.jsonl"
INI = """
[pytest]
divergence_pairs =
    tests/en/* = base base
    "tests/*" = base "ft"
"""
NEAR_ZERO, WIDE = {"input": KNOT, "max_kl": 1e-6}, {"input": KNOT, "max_kl": 9.0}
NARROW = {"input": POEM, "max_kl": 1e-6}


@pytest.fixture
def pairs(project: Project) -> Project:
    """A project in which `tests/en/` compares `base` with itself, and all other tests with `ft`."""
    project.pytester.makeini(INI)
    project.write_suite(f"tests/en/{SAME}", NEAR_ZERO)
    project.write_suite(f"tests/ft/{OTHER}", NARROW)
    return project


def test_each_suite_is_replayed_on_the_models_of_its_line(pairs: Project) -> None:
    result = pairs.run("-v", "tests")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        [
            "divergence: 2 pairs from divergence_pairs",
            f"{nodeid(f'tests/en/{SAME}', KNOT)} PASSED*",
            f"{nodeid(f'tests/ft/{OTHER}', POEM)} FAILED*",
            "  rerun:",
            f"    pytest {nodeid(f'tests/ft/{OTHER}', POEM)}",
            "2 stored cases replayed: 1 within the bound, 1 over it.",
        ]
    )
    assert "--model-1" not in shown(result)


def test_models_that_the_user_gives_come_before_the_lines(
    pairs: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = pairs.run("--model-1=base", "--model-2=base", "tests")
    result.assert_outcomes(passed=2)
    assert "divergence_pairs" not in shown(result)

    monkeypatch.setenv("PYTEST_DIVERGENCE_MODEL_1", "base")
    monkeypatch.setenv("PYTEST_DIVERGENCE_MODEL_2", "base")
    pairs.run("tests").assert_outcomes(passed=2)


def test_the_lines_come_before_the_ini_files_one_pair(pairs: Project) -> None:
    pairs.pytester.makeini(INI + "divergence_model_1 = base\ndivergence_model_2 = base\n")
    pairs.write_suite(f"elsewhere/{SAME}", NEAR_ZERO)
    result = pairs.run("-v", "tests", "elsewhere")
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(
        [
            "divergence: reference base (ini), candidate base (ini)",
            "divergence: 2 pairs from divergence_pairs",
            f"{nodeid(f'tests/ft/{OTHER}', POEM)} FAILED*",
            f"{nodeid(f'elsewhere/{SAME}', KNOT)} PASSED*",
        ]
    )


def test_a_suite_that_no_line_matches_needs_models(pairs: Project) -> None:
    pairs.write_suite(f"elsewhere/{SAME}", NEAR_ZERO)
    result = pairs.run("tests", "elsewhere")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert result.errlines[0] == (
        f"ERROR: replaying elsewhere/{SAME} needs two models; give --model-1 and --model-2"
    )


def test_folders_are_looked_for_beside_the_ini_file(
    pairs: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(pairs.path / "tests")
    rules = PairRules(pairs.pytester.parseconfigure("-p", "divergence", "en"))
    assert rules.models_for(pairs.path / "tests/en" / SAME) == Models("../base", "../base")
    assert rules.models_for(pairs.path / "tests/ft" / OTHER) == Models("../base", "../ft")
    assert rules.models_for(pairs.path / "elsewhere" / SAME) is None


def test_a_line_that_cannot_be_read_is_shown(project: Project) -> None:
    for line in ("tests/* base ft", "tests/* = base", "tests/* = 'base ft", "a b = base ft"):
        project.pytester.makeini(f"[pytest]\ndivergence_pairs = {line}\n")
        rules = PairRules(project.pytester.parseconfigure("-p", "divergence"))
        with pytest.raises(pytest.UsageError) as refused:
            rules.models_for(project.path / SAME)
        assert str(refused.value) == (
            f"divergence_pairs: the line {line!r} cannot be read; write GLOB = MODEL_1 "
            "MODEL_2, with quotes around names that contain spaces"
        )


def test_a_model_that_is_not_there_is_named_by_its_line(project: Project) -> None:
    project.pytester.makeini("[pytest]\ndivergence_pairs = * = base gone/../away\n")
    project.write_suite(SAME, NEAR_ZERO)
    result = project.run(SAME)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert result.errlines[0] == (
        "ERROR: model 2 of divergence_pairs: no folder 'gone/../away' here, and it is not a Hub id"
    )


def test_a_session_without_suites_reads_no_line(project: Project) -> None:
    project.pytester.makeini("[pytest]\ndivergence_pairs = nonsense\n")
    project.write("test_unit.py", "def test_addition(): assert 1 + 1 == 2\n")
    project.run().assert_outcomes(passed=1)


# One pair in memory

COUNTING = """
import gc

seen = []

def models():
    from transformers import PreTrainedModel
    # isinstance() would ask proxies among the objects what they are, and they warn
    return [one for one in gc.get_objects() if issubclass(type(one), PreTrainedModel)]

def pytest_runtest_logreport(report):
    if report.when != "setup":
        return
    names = {one.name_or_path.rsplit("/", 1)[-1] for one in models() if hasattr(one, "lm_head")}
    seen.append(",".join(sorted(names)))

def pytest_terminal_summary(terminalreporter):
    terminalreporter.write_line(f"in memory: {seen}")
"""


@pytest.mark.slow
def test_one_pair_is_in_memory_at_a_time(project: Project) -> None:
    """That of a fixture of the session makes room for those of suites, and comes back."""
    save_tiny_model(project.path / "third", perturb=0.2)
    project.pytester.makeini(
        "[pytest]\ndivergence_pairs =\n    1/* = ft third\n    2/* = base base\n"
        "    3/* = ft third\ndivergence_model_1 = ft\ndivergence_model_2 = ft\n"
    )
    project.write("conftest.py", COUNTING)
    for folder in "04":
        test = "def test_pair(model_pair): assert model_pair.reference\n"
        project.write(f"{folder}/test_{folder}.py", test)
    for folder in "123":  # failures and errors keep frames, and frames keep models
        project.write_suite(f"{folder}/a{folder}.divergence.jsonl", NARROW, WIDE)
    project.write(
        "2/a2.tokens.jsonl",
        '{"id": "how-do-i-tie-a-knot-07f0d731ce", "prompt_sha256": "'
        + "0" * 64
        + '", "reference": [[5]], "candidate": [[7]]}\n',
    )
    result = project.run_fresh("0", "1", "2", "3", "4")
    result.assert_outcomes(passed=5, failed=2, errors=1)
    both = ["ft,third"] * 2
    result.stdout.fnmatch_lines([f"in memory: {['ft', *both, 'base', 'base', *both, 'ft']}"])


# A conftest's own pair, and the marker

OWN_PAIR = """
import pytest
from pathlib import Path
from pytest_divergence import load_model_pair

@pytest.fixture(scope="session")
def model_pair():
    root = Path(__file__).parents[2]
    return load_model_pair(str(root / "base"), str(root / "base"))
"""


def test_a_folders_own_pair_comes_first(pairs: Project) -> None:
    pairs.write("tests/ft/conftest.py", OWN_PAIR)
    pairs.run("tests").assert_outcomes(passed=2)
    pairs.run(*MODELS, "tests/ft").assert_outcomes(passed=1)


MARKED = f"""
import pytest

pytestmark = pytest.mark.divergence(models=("base", "ft"))

def test_of_the_module(assert_bounded_kl):
    assert_bounded_kl({KNOT!r}, max_kl=1e-6)

@pytest.mark.divergence(models=["base", "base"])
class TestSame:
    def test_of_the_class(self, assert_bounded_kl):
        assert assert_bounded_kl({KNOT!r}, max_kl=1e-6).measurement.value < 1e-6

    @pytest.mark.divergence(models="base")
    def test_of_one_model(self, assert_bounded_kl):
        assert_bounded_kl({KNOT!r}, max_kl=1e-6)
"""


def test_a_marker_names_the_models_of_an_assertion(project: Project) -> None:
    project.write("tests/test_kl.py", MARKED)
    result = project.run("-v", "tests", "--model-1=base", "--model-2=adapter")
    result.assert_outcomes(passed=1, failed=2)
    result.stdout.fnmatch_lines(
        [
            "tests/test_kl.py::test_of_the_module FAILED*",
            "tests/test_kl.py::TestSame::test_of_the_class PASSED*",
            "KL 0.* nats/token > max_kl 0.000001",
            "*: the marker divergence(models='base') must name two models, reference and candidate",
        ]
    )


def test_a_searchs_bound_is_not_another_pairs(project: Project) -> None:
    project.write(
        "test_kl.py",
        "import pytest\n\n@pytest.mark.divergence(models=('base', 'base'))\n"
        f"def test_unbounded(assert_bounded_kl): assert_bounded_kl({KNOT!r})\n",
    )
    result = project.run(*MODELS, "test_kl.py")
    result.assert_outcomes(failed=1)
    assert "assert_bounded_kl has no bound; give max_kl=..., or --divergence-max-kl" in shown(
        result
    )


# pytest-xdist


@pytest.mark.slow
def test_one_worker_replays_the_suites_of_all_pairs(pairs: Project) -> None:
    result = pairs.run_forked("-p", "xdist", "-n2", "-v", "tests")
    result.assert_outcomes(passed=1, failed=1)
    assert "INTERNALERROR" not in shown(result)
    lines = [line for line in result.outlines if " PASSED " in line or " FAILED " in line]
    assert len({line.split()[0] for line in lines}) == 1


# A user's own tests

CASE_TEST = """
def test_case(divergence_case, assert_bounded_kl):
    assert_bounded_kl(divergence_case, max_kl=1e-6)
"""


def test_a_case_is_asserted_on_the_models_of_its_suite(pairs: Project) -> None:
    pairs.write("test_cases.py", CASE_TEST)
    pairs.write_suite(f"tests/en/{SAME}", NEAR_ZERO, NARROW)
    suites = (f"tests/ft/{OTHER}", f"tests/en/{SAME}")
    result = pairs.run("-v", "test_cases.py", *suites)
    result.assert_outcomes(passed=2 + 2, failed=1 + 1)
    other, same = f"test_cases.py::test_case[[]other-{case_id(POEM)}[]]", "test_cases.py::test_case"
    result.stdout.fnmatch_lines(  # the models of one suite, then those of the next
        [
            f"{other} FAILED*",
            f"{same}[[]{case_id(KNOT)}[]] PASSED*",
            f"{same}[[]same-{case_id(POEM)}[]] PASSED*",
            "KL 0.* nats/token > max_kl 0.000001",
            "  rerun:",
            f"    pytest 'test_cases.py::test_case[[]{case_id(POEM)}[]]' \\",
            f"      {nodeid(f'tests/ft/{OTHER}', POEM)}",
        ]
    )
    rerun = pairs.run(
        f"test_cases.py::test_case[{case_id(POEM)}]", nodeid(f"tests/ft/{OTHER}", POEM)
    )
    rerun.assert_outcomes(failed=2)


def test_a_prompt_is_asserted_on_the_models_of_the_tests_own_line(pairs: Project) -> None:
    asserting = f"def test_kl(assert_bounded_kl): assert_bounded_kl({POEM!r}, max_kl=1e-6)\n"
    for folder in ("en", "ft"):
        pairs.write(f"tests/{folder}/test_{folder}.py", asserting)
    result = pairs.run("-v", "tests/en/test_en.py", "tests/ft/test_ft.py")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        ["tests/en/test_en.py::test_kl PASSED*", "tests/ft/test_ft.py::test_kl FAILED*"]
    )
