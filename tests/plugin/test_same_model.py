"""One model on both sides: said in every verbosity, and no pass in CI unless it is meant."""

from __future__ import annotations

import shutil

import pytest

from tests.plugin.conftest import KNOT, Project, shown
from tests.tiny import save_tiny_model

SUITE = "regress.divergence.jsonl"
COPIED = ("--model-1=base", "--model-2=copy")
ITSELF = "base is compared with itself, so nothing could differ"
COPY = "base and copy are the same model, so nothing could differ"
ALLOW = "--divergence-allow-same-model"
FAILS = f"name another candidate, or, if you mean this, add {ALLOW}"
PAIR_TEST = "def test_pair(model_pair): assert model_pair.candidate is not None\n"


@pytest.fixture
def suite(project: Project) -> Project:
    """A suite that any candidate passes, and a copy of the reference."""
    project.write_suite(SUITE, {"input": KNOT, "max_kl": 99.0})
    shutil.copytree(project.path / "base", project.path / "copy")
    return project


@pytest.fixture
def in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a CI service."""
    monkeypatch.setenv("CI", "true")


def last(result: pytest.RunResult) -> str:
    return [one for one in result.outlines if one][-1]


def test_elsewhere_it_is_said_in_every_verbosity(suite: Project) -> None:
    for quiet in ("-v", "-qq", "--no-summary"):
        result = suite.run("--model-1=base", "--model-2=base", SUITE, quiet)
        assert result.ret == pytest.ExitCode.OK
        assert last(result) == f"divergence: warning: {ITSELF}; this fails in CI without {ALLOW}"


def test_the_header_says_so_too(suite: Project) -> None:
    result = suite.run("--model-1=base", "--model-2=./base/", "--collect-only")
    result.stdout.fnmatch_lines(["divergence: the same model twice, so nothing should differ"])


def test_a_copy_is_the_same_model_and_fails_in_ci(
    suite: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = suite.run(*COPIED, SUITE, "-q")
    assert result.ret == pytest.ExitCode.OK
    assert last(result) == f"divergence: warning: {COPY}; this fails in CI without {ALLOW}"

    monkeypatch.setenv("CI", "true")
    result = suite.run(*COPIED, SUITE, "-q")
    result.assert_outcomes(passed=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert last(result) == f"divergence: {COPY}; {FAILS}"

    result = suite.run(*COPIED, SUITE, "-q", ALLOW)
    assert result.ret == pytest.ExitCode.OK
    assert last(result) == f"divergence: {COPY}"


def test_models_of_the_ini_file_and_of_its_pairs_too(suite: Project, in_ci: None) -> None:
    suite.pytester.makeini("[pytest]\ndivergence_model_1 = base\ndivergence_model_2 = base\n")
    assert last(suite.run(SUITE, "-q")) == f"divergence: {ITSELF}; {FAILS}"
    suite.pytester.makeini("[pytest]\ndivergence_pairs =\n    *regress* = base copy\n")
    paired = suite.run(SUITE, "-q")
    assert paired.ret == pytest.ExitCode.TESTS_FAILED
    assert last(paired) == f"divergence: {COPY}; {FAILS}"


def test_a_test_of_the_pair_too(suite: Project, in_ci: None) -> None:
    suite.write("test_pair.py", PAIR_TEST)
    result = suite.run(*COPIED, "test_pair.py", "-q")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert last(result) == f"divergence: {COPY}; {FAILS}"


@pytest.mark.slow
def test_workers_say_it_once(suite: Project, in_ci: None) -> None:
    result = suite.run_forked(*COPIED, "-p", "xdist", "-n2", SUITE, "-q")
    result.assert_outcomes(passed=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert shown(result).count(COPY) == 1
    assert last(result) == f"divergence: {COPY}; {FAILS}"


def test_other_options_or_another_template_make_another_model(suite: Project, in_ci: None) -> None:
    shutil.rmtree(suite.path / "copy")
    template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    save_tiny_model(suite.path / "copy", chat_template=template)
    for candidate in ("base,dtype=bfloat16", "copy"):
        result = suite.run("--model-1=base", f"--model-2={candidate}", SUITE, "-q")
        assert result.ret == pytest.ExitCode.OK
        assert "could differ" not in shown(result)


def test_a_checkpoint_without_its_tokenizer_is_the_same_model(suite: Project, in_ci: None) -> None:
    for path in (*(suite.path / "copy").glob("tokenizer*"), *(suite.path / "copy").glob("*.jinja")):
        path.unlink()
    result = suite.run(*COPIED, SUITE, "-q")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert last(result) == f"divergence: {COPY}; {FAILS}"


def test_a_suite_that_is_updated_keeps_no_word_of_it(suite: Project) -> None:
    suite.run(*COPIED, SUITE, "--divergence-update", ALLOW, "-W", "default")
    provenance = (suite.path / "regress.provenance.json").read_text("utf-8")
    assert "allow_same_model" not in provenance
