"""`--divergence-redact`: a session whose output may be shown where its prompts may not."""

from __future__ import annotations

import pytest

from pytest_divergence.core import settings as settings_module
from pytest_divergence.core.cases import case_id
from pytest_divergence.core.report import load_report
from pytest_divergence.core.suites import load_suite
from pytest_divergence.plugin import search as session_search
from tests.discovery.test_run import PROFILE
from tests.plugin.conftest import KNOT, MODELS, POEM, Project, shown
from tests.tiny import CHATML

SUITE = "release.divergence.jsonl"


def test_a_failing_case_shows_its_numbers_and_no_text(project: Project) -> None:
    project.write_suite(SUITE, *({"input": one, "max_kl": 0.001} for one in (KNOT, POEM)))
    project.run(*MODELS, SUITE, "--divergence-fill").assert_outcomes(passed=2)
    replay = (*MODELS, SUITE, "-W", "default")

    open_ = project.run(*replay)
    hidden = project.run(*replay, "--divergence-redact")
    project.write(
        "test_own.py",
        f"def test_it(assert_bounded_kl): assert_bounded_kl({KNOT!r}, max_kl=1e-4)\n",
    )
    own = project.run(*MODELS, "test_own.py", "--divergence-redact")

    for result in (open_, hidden):
        result.assert_outcomes(failed=2, passed=1, warnings=1)
        result.stdout.fnmatch_lines([f"*{case_id(KNOT)}*"])
        result.stdout.re_match_lines([r".*KL \d\.\d+ nats/token > max_kl 0\.001.*"])
    assert KNOT in shown(open_)
    assert KNOT not in shown(hidden)
    assert POEM not in shown(hidden)
    own.assert_outcomes(failed=1)
    assert KNOT not in shown(own)
    own.stdout.re_match_lines([r".*KL \d\.\d+ nats/token > max_kl 0\.000.*"])
    hidden.stdout.fnmatch_lines(["  prompt", "    | [[]redacted[]]", "  reference"])


def test_a_command_that_runs_a_case_again_gives_no_text_to_the_template(project: Project) -> None:
    project.write("t.jinja", CHATML + "{{ persona }}{{ level }}")
    given = (
        "--divergence-chat-template=t.jinja",
        "--divergence-template-arg=persona=Captain Hook",
        "--divergence-template-arg=level=3",
    )
    project.write_suite(SUITE, {"input": KNOT, "max_kl": 0.001})
    project.run(*MODELS, *given, SUITE, "--divergence-fill").assert_outcomes(passed=1)
    replay = (*MODELS, *given, SUITE, "-W", "default", "--divergence-report-dir=out")

    open_ = " ".join(shown(project.run(*replay)).split())
    hidden = " ".join(shown(project.run(*replay, "--divergence-redact")).split())

    assert "persona=Captain Hook" in open_
    assert "persona=[redacted]" in hidden
    for text in (open_, hidden):
        assert "--divergence-template-arg level=3" in text
    *_, report = sorted(project.path.glob("out/2*"))
    for text in (hidden, *(path.read_text("utf-8") for path in report.iterdir())):
        assert "Captain" not in text


def test_an_unexpected_error_may_quote_a_text(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError(f"cannot read {KNOT}") from ValueError(KNOT)

    monkeypatch.setattr(session_search, "search", broken)
    for words in ((), ("--divergence-redact",)):
        result = project.run(*MODELS, *words)

        assert result.ret == pytest.ExitCode.USAGE_ERROR
        said = (project.path / ".divergence/reports/discovery-error.txt").read_text("utf-8")
        assert result.errlines[0].startswith("ERROR: discovery failed: RuntimeError: ")
        assert ", in broken" in said
        for text in (shown(result), said):
            assert (KNOT in text) == (not words)


def test_a_search_leaves_texts_in_its_suite_alone(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(settings_module.PROFILES, "smoke", PROFILE)
    strict = ("--divergence-gate=all", "--divergence-max-kl=0.0001", "--divergence-profile=smoke")

    result = project.run(*MODELS, *strict, "--divergence-redact")

    (report_path,) = project.path.glob(".divergence/reports/2*/report.json")
    report = load_report(report_path)
    (suite,) = project.path.glob(".divergence/suites/*.divergence.jsonl")
    rows = [one for one in suite.read_text("utf-8").splitlines() if '"control"' not in one]
    assert len(rows) == len(report.cases) > 0
    assert {one.text for one in report.cases} == {"[redacted]"}
    for one in report.cases:
        assert one.id in suite.read_text("utf-8")
        assert one.id in shown(result)
    output = [shown(result), *(path.read_text("utf-8") for path in report_path.parent.iterdir())]
    kept = load_suite(suite).cases
    texts = [one.text for one in kept]
    texts += [one.completions.candidate for one in kept if one.completions]
    texts = [text for text in texts if len(text) > 12]
    assert texts
    assert [text for text in texts if text in "\n".join(output)] == []
    assert "Prompts and answers were left out" in (report_path.parent / "report.html").read_text()
