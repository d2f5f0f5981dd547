"""Options: where a value may come from, which one wins, and what a wrong one says."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import get_args

import pytest
from pydantic import ValidationError

from pytest_divergence.cli import main
from pytest_divergence.core.settings import Settings
from pytest_divergence.plugin import options, settings_sources
from tests.plugin.conftest import MODELS, Project, shown

OTHER_PLUGIN = """
def pytest_addoption(parser):
    parser.addoption("--model-1", dest="theirs")

def pytest_report_header(config):
    return f"theirs: {config.option.theirs}"
"""


Resolve = Callable[..., settings_sources.SettingsWithSources]


@pytest.fixture
def resolved(project: Project, monkeypatch: pytest.MonkeyPatch) -> Resolve:
    """Resolve a session's options from command line, environment and ini file."""

    def resolve(
        *arguments: str, environment: dict[str, str] | None = None, ini: str = ""
    ) -> settings_sources.SettingsWithSources:
        for name, value in (environment or {}).items():
            monkeypatch.setenv(name, value)
        project.pytester.makeini(f"[pytest]\n{ini}")
        return settings_sources.resolve(
            project.pytester.parseconfigure("-p", "divergence", *arguments)
        )

    return resolve


def test_the_table_names_every_setting_and_no_other() -> None:
    assert set(options.BY_FIELD) == set(Settings.model_fields)
    assert len(options.OPTIONS) == len(options.BY_FIELD)


def test_the_rule_of_an_option_says_what_its_setting_takes() -> None:
    for option in options.OPTIONS:
        annotation = Settings.model_fields[option.field].annotation
        choices = [choice for choice in get_args(annotation) if isinstance(choice, str)]
        if choices:
            assert option.metavar == "{" + ",".join(choices) + "}"
            assert option.rule.partition(";")[0] == f"one of {', '.join(choices)}"
        try:
            Settings(**{option.field: "no such value"})
        except ValidationError as error:
            refused = {fault["loc"][0] for fault in error.errors()}
            assert refused == {option.field}
            assert option.rule


def test_python_is_told_the_rule_too() -> None:
    for field in ("budget", "memory"):
        rule = f"{field} must be {options.BY_FIELD[field].rule}"
        with pytest.raises(ValidationError, match=rule):
            Settings(**{field: "5 minutes"})


def test_a_number_ends_in_a_digit() -> None:
    for budget in ("100_", "1__0", "300_s"):
        with pytest.raises(ValidationError, match="budget must be "):
            Settings(budget=budget)
    assert Settings(budget="200_000").resolved_profile("cpu").budget_tokens == 200_000


def test_a_number_that_no_file_can_store_stays_a_text() -> None:
    for text in ("NaN", "Infinity", "1e999"):
        given = {"template_arg": f"size={text}"}
        assert Settings.model_validate(given).template_arg == {"size": text}


def test_command_line_beats_environment_beats_ini_beats_default(
    resolved: Resolve,
) -> None:
    ini = "divergence_metric = js\n"
    environment = {"PYTEST_DIVERGENCE_METRIC": "forward"}
    found = resolved()
    assert (found.settings.metric, found.sources["metric"]) == ("symmetric", "default")
    found = resolved(ini=ini)
    assert (found.settings.metric, found.sources["metric"]) == ("js", "ini")
    found = resolved(ini=ini, environment=environment)
    assert found.settings.metric == "forward"
    assert found.sources["metric"] == "PYTEST_DIVERGENCE_METRIC"
    found = resolved("--divergence-metric=reverse", ini=ini, environment=environment)
    assert (found.settings.metric, found.sources["metric"]) == ("reverse", "command line")


def test_models_have_short_names_and_numbers_arrive_as_numbers(resolved: Resolve) -> None:
    numbers = ("--divergence-max-kl=0.5", "--divergence-seed=7", "--divergence-num-cases=3")
    for names in (("--model-1", "--model-2"), ("--divergence-model-1", "--divergence-model-2")):
        settings = resolved(names[0], "base", names[1], "ft", *numbers).settings
        assert (settings.model_1, settings.model_2) == ("base", "ft")
        assert (settings.max_kl, settings.seed, settings.num_cases) == (0.5, 7, 3)


def test_an_alias_that_another_plugin_owns_is_left_to_it(project: Project) -> None:
    project.write("other_plugin.py", OTHER_PLUGIN)
    project.pytester.syspathinsert()
    result = project.run("-p", "divergence", "--model-1=mine", plugin="other_plugin")
    result.stdout.fnmatch_lines(["theirs: mine"])


def test_aliases_can_be_switched_off(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_DIVERGENCE_NO_ALIASES", "1")
    result = project.run("--model-1=base")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*unrecognized arguments: --model-1=base"])


KL_RULE = "must be auto or a positive number of nats per token"
WRONG = {
    "--divergence-max-kl=nan": KL_RULE,
    "--divergence-max-kl=0": KL_RULE,
    "--divergence-max-kl=tiny": KL_RULE,
    "--divergence-max-shift=inf": "must be a positive number of nats per token",
    "--divergence-budget=5 minutes": (
        "must be a number of forwarded tokens, such as 200000, or of seconds, such as 300s"
    ),
    "--divergence-seed=x": "must be a whole number",
    "--divergence-num-cases=0": "must be a whole number of at least 1",
}


def test_a_wrong_value_is_refused_with_its_source_and_rule(
    project: Project, resolved: Resolve
) -> None:
    message = "--divergence-mode=serch: must be one of auto, search, replay, off"
    result = project.run("--divergence-mode=serch")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert result.errlines == [f"ERROR: {message}", ""]

    for argument, rule in WRONG.items():
        with pytest.raises(pytest.UsageError) as refused:
            resolved(argument)
        assert str(refused.value) == f"{argument}: {rule}"
    huge = "PYTEST_DIVERGENCE_PROFILE=huge: must be one of auto, smoke, default, thorough"
    with pytest.raises(pytest.UsageError, match=huge):
        resolved(environment={"PYTEST_DIVERGENCE_PROFILE": "huge"})


def test_a_wrong_value_in_the_ini_file_shows_once_the_models_are_asked_for(
    project: Project,
) -> None:
    project.pytester.makeini("[pytest]\ndivergence_gate = none\n")
    project.write("test_unit.py", "def test_addition(): assert 1 + 1 == 2\n")
    project.run().assert_outcomes(passed=1)
    result = project.run(*MODELS)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert result.errlines == [
        "ERROR: divergence_gate=none (ini file): must be one of natural, all",
        "",
    ]


def test_one_model_without_the_other(resolved: Resolve) -> None:
    for given, other, number in (("1=base", "2", "2"), ("2=ft", "1", "1")):
        with pytest.raises(pytest.UsageError) as refused:
            resolved(f"--model-{given}")
        assert str(refused.value) == (
            f"--model-{given} is given without --model-{other}; a comparison needs two models, so "
            f"give --model-{other} too (or PYTEST_DIVERGENCE_MODEL_{number}, or "
            f"divergence_model_{number} in the ini file)"
        )


TWICE = (
    "is given twice, as ft and adapter, but a session compares one pair; leave one of them out. To "
    "compare several candidates, run one session each, or give each a line of divergence_pairs in "
    "the ini file (conftest_templates/several_pairs)"
)


def test_two_candidates_are_not_taken_for_the_last_of_them(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    result = project.run("--model-1=base", "--model-2", "ft", "--model-2=adapter")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert result.errlines == [f"ERROR: --model-2 {TWICE}", ""]
    assert not (project.path / ".divergence").exists()

    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main(["discover", "--model-1=base", "--model-2=ft", "--divergence-model-2=adapter"])
    assert stopped.value.code == 2
    assert f"error: --model-2 {TWICE}\n" in capsys.readouterr().err


def test_a_model_may_be_said_again_and_others_come_before_addopts(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    addopts = f"{os.environ['PYTEST_ADDOPTS']} --model-2=adapter --divergence-max-kl=1"
    monkeypatch.setenv("PYTEST_ADDOPTS", addopts)
    result = project.run(
        *MODELS, *MODELS, "--divergence-max-kl=2", "--divergence-max-kl=3", "--collect-only"
    )

    result.stdout.fnmatch_lines(
        [
            "divergence: reference base (command line), candidate ft (command line)",
            "divergence: profile auto (default), bound 3 (command line), *",
        ]
    )


def test_a_flag_of_another_plugin_may_be_given_twice(project: Project) -> None:
    project.write(
        "theirs.py",
        "def pytest_addoption(parser): parser.addoption('--model-2', action='append')\n",
    )
    project.pytester.syspathinsert()
    words = ("--divergence-model-1=base", "--divergence-model-2=ft", "--model-2=x", "--model-2=y")
    result = project.run("-p", "divergence", *words, "--collect-only", plugin="theirs")

    result.stdout.fnmatch_lines(["divergence: reference base (*), candidate ft (*)"])


def test_the_header_shows_pair_profile_and_bound_with_their_sources(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.pytester.makeini("[pytest]\ndivergence_model_1 = base\ndivergence_max_kl = 0.5\n")
    monkeypatch.setenv("PYTEST_DIVERGENCE_PROFILE", "smoke")
    result = project.run("--model-2=ft", "--collect-only")
    result.stdout.fnmatch_lines(
        [
            "divergence: reference base (ini), candidate ft (command line)",
            "divergence: profile smoke (PYTEST_DIVERGENCE_PROFILE), bound 0.5 (ini), "
            "mode auto (default)",
        ],
        consecutive=True,
    )


def test_a_secret_in_a_spec_is_not_shown(project: Project) -> None:
    result = project.run("--model-1=https://me:t0ken@hub.test/m?key=t0ken", "--model-2=ft")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "t0ken" not in shown(result)
    assert result.errlines == [
        "ERROR: --model-1 is a URL (host hub.test); models are loaded from a Hub id such as "
        "owner/name or from a local folder, and a served one is named with what serves it: "
        "llamacpp:http://127.0.0.1:8080",
        "",
    ]


def test_a_path_in_the_ini_file_holds_from_every_folder(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.pytester.makeini("[pytest]\ndivergence_model_1 = base\ndivergence_model_2 = ft\n")
    below = project.pytester.mkdir("below")
    monkeypatch.chdir(below)
    settings = settings_sources.resolve(
        project.pytester.parseconfigure("-p", "divergence")
    ).settings
    assert (settings.model_1, settings.model_2) == ("../base", "../ft")


# Values of a TOML file


VALUES = """
divergence_max_kl = 0.5
divergence_seed = 0
divergence_redact = true
divergence_template_arg = ["today=1 May", "thinking=false"]
"""


@pytest.mark.parametrize("table", ["tool.pytest", "tool.pytest.ini_options"])
def test_a_toml_file_gives_numbers_booleans_and_lists(project: Project, table: str) -> None:
    if table == "tool.pytest" and pytest.version_tuple < (9,):
        pytest.skip("pytest reads [tool.pytest] from 9.0 on")
    project.pytester.makepyprojecttoml(f"[{table}]{VALUES}")
    found = settings_sources.resolve(project.pytester.parseconfigure("-p", "divergence")).settings

    assert (found.max_kl, found.seed, found.redact) == (0.5, 0, True)
    assert found.template_arg == {"today": "1 May", "thinking": False}
