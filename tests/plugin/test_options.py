"""Options: where a value may come from, which one wins, and what a wrong one says."""

from __future__ import annotations

import os
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


@pytest.fixture
def resolved(project: Project, monkeypatch: pytest.MonkeyPatch) -> object:
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


@pytest.mark.parametrize("option", options.OPTIONS, ids=lambda option: option.field)
def test_the_choices_shown_are_those_that_settings_take(option: options.Option) -> None:
    annotation = Settings.model_fields[option.field].annotation
    choices = [choice for choice in get_args(annotation) if isinstance(choice, str)]
    if choices:
        assert option.metavar == "{" + ",".join(choices) + "}"
        assert option.rule.partition(";")[0] == f"one of {', '.join(choices)}"


@pytest.mark.parametrize("option", options.OPTIONS, ids=lambda option: option.field)
def test_a_setting_that_refuses_a_text_has_a_rule_that_says_what_it_takes(
    option: options.Option,
) -> None:
    try:
        Settings(**{option.field: "no such value"})
    except ValidationError as error:
        refused = [fault["loc"][0] for fault in error.errors()]
        assert set(refused) == {option.field}
        assert option.rule


@pytest.mark.parametrize("field", ["budget", "memory"])
def test_python_is_told_the_rule_too(field: str) -> None:
    with pytest.raises(ValidationError, match=f"{field} must be {options.BY_FIELD[field].rule}"):
        Settings(**{field: "5 minutes"})


@pytest.mark.parametrize("budget", ["100_", "1__0", "300_s"])
def test_a_number_ends_in_a_digit(budget: str) -> None:
    with pytest.raises(ValidationError, match="budget must be "):
        Settings(budget=budget)
    assert Settings(budget="200_000").resolved_profile("cpu").budget_tokens == 200_000


@pytest.mark.parametrize("text", ["NaN", "Infinity", "1e999"])
def test_a_number_that_no_file_can_store_stays_a_text(text: str) -> None:
    given = {"template_arg": f"size={text}"}
    assert Settings.model_validate(given).template_arg == {"size": text}


def test_command_line_beats_environment_beats_ini_beats_default(resolved) -> None:  # type: ignore[no-untyped-def]
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


def test_numbers_arrive_as_numbers(resolved) -> None:  # type: ignore[no-untyped-def]
    settings = resolved(
        "--divergence-max-kl=0.5", "--divergence-seed=7", "--divergence-num-cases=3"
    ).settings
    assert (settings.max_kl, settings.seed, settings.num_cases) == (0.5, 7, 3)


@pytest.mark.parametrize("names", [("--model-1", "--model-2"), options.MODELS])
def test_the_short_names_of_the_models_are_aliases(resolved, names) -> None:  # type: ignore[no-untyped-def]
    flags = [n if n.startswith("--") else f"--divergence-{n.replace('_', '-')}" for n in names]
    settings = resolved(flags[0], "base", flags[1], "ft").settings
    assert (settings.model_1, settings.model_2) == ("base", "ft")


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


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        (
            "--divergence-mode=serch",
            "--divergence-mode=serch: must be one of auto, search, replay, off",
        ),
        (
            "--divergence-max-kl=nan",
            "--divergence-max-kl=nan: must be auto or a positive number of nats per token",
        ),
        (
            "--divergence-max-kl=0",
            "--divergence-max-kl=0: must be auto or a positive number of nats per token",
        ),
        (
            "--divergence-max-kl=tiny",
            "--divergence-max-kl=tiny: must be auto or a positive number of nats per token",
        ),
        (
            "--divergence-max-shift=inf",
            "--divergence-max-shift=inf: must be a positive number of nats per token",
        ),
        (
            "--divergence-max-shift=0",
            "--divergence-max-shift=0: must be a positive number of nats per token",
        ),
        (
            "--divergence-inconclusive=warn",
            "--divergence-inconclusive=warn: must be one of pass, fail",
        ),
        (
            "--divergence-budget=5 minutes",
            "--divergence-budget=5 minutes: must be a number of forwarded tokens, such as 200000, "
            "or of seconds, such as 300s",
        ),
        ("--divergence-seed=x", "--divergence-seed=x: must be a whole number"),
        (
            "--divergence-num-cases=0",
            "--divergence-num-cases=0: must be a whole number of at least 1",
        ),
        (
            "--divergence-dtype=float8",
            "--divergence-dtype=float8: must be one of auto, float32, bfloat16, float16",
        ),
    ],
)
def test_a_wrong_value_on_the_command_line(project: Project, argument: str, message: str) -> None:
    result = project.run(argument)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert result.errlines == [f"ERROR: {message}", ""]


def test_a_wrong_value_in_the_environment(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTEST_DIVERGENCE_PROFILE", "huge")
    result = project.run()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert result.errlines == [
        "ERROR: PYTEST_DIVERGENCE_PROFILE=huge: must be one of auto, smoke, default, thorough",
        "",
    ]


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


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        (
            "--model-1=base",
            "--model-1=base is given without --model-2; a comparison needs two models, so give "
            "--model-2 too (or PYTEST_DIVERGENCE_MODEL_2, or divergence_model_2 in the ini file)",
        ),
        (
            "--model-2=ft",
            "--model-2=ft is given without --model-1; a comparison needs two models, so give "
            "--model-1 too (or PYTEST_DIVERGENCE_MODEL_1, or divergence_model_1 in the ini file)",
        ),
    ],
)
def test_one_model_without_the_other(project: Project, argument: str, message: str) -> None:
    result = project.run(argument)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert result.errlines == [f"ERROR: {message}", ""]


TWICE = (
    "is given twice, as ft and adapter, but a session compares one pair; leave one of them out. To "
    "compare several candidates, run one session each, or give each a line of divergence_pairs in "
    "the ini file (conftest_templates/several_pairs)"
)


@pytest.mark.parametrize(
    "second", [("--model-2=adapter",), ("--divergence-model-2", "adapter")], ids=["alias", "full"]
)
def test_two_candidates_are_not_taken_for_the_last_of_them(
    project: Project, second: tuple[str, ...]
) -> None:
    result = project.run("--model-1=base", "--model-2", "ft", *second)

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert result.errlines == [f"ERROR: --model-2 {TWICE}", ""]
    assert not (project.path / ".divergence").exists()


def test_two_candidates_are_refused_by_commands_too(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
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


def test_the_second_model_may_join_one_of_the_ini_file(project: Project) -> None:
    project.pytester.makeini("[pytest]\ndivergence_model_1 = base\n")
    result = project.run("--model-2=ft", "--collect-only")
    result.stdout.fnmatch_lines(["divergence: reference base (ini), candidate ft (command line)"])


def test_the_header_shows_pair_profile_and_bound_with_their_sources(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.pytester.makeini("[pytest]\ndivergence_max_kl = 0.5\n")
    monkeypatch.setenv("PYTEST_DIVERGENCE_PROFILE", "smoke")
    result = project.run(*MODELS, "--collect-only")
    result.stdout.fnmatch_lines(
        [
            "divergence: reference base (command line), candidate ft (command line)",
            "divergence: profile smoke (PYTEST_DIVERGENCE_PROFILE), bound 0.5 (ini), "
            "mode auto (default)",
        ],
        consecutive=True,
    )


def test_the_header_says_that_a_model_is_compared_with_itself(project: Project) -> None:
    result = project.run("--model-1=base", "--model-2=./base/", "--collect-only")
    result.stdout.fnmatch_lines(["divergence: the same model twice, so nothing should differ"])


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
    project.write("test_unit.py", "def test_unit(): pass\n")
    project.write(
        "conftest.py",
        "import pytest\n"
        "from pytest_divergence.plugin import session_of\n"
        "@pytest.fixture(autouse=True)\n"
        "def shown(request):\n"
        "    found = session_of(request.config).resolved.settings\n"
        "    print(found.max_kl, found.seed, found.redact, found.template_arg)\n",
    )

    result = project.run("-s")

    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*0.5 0 True {'today': '1 May', 'thinking': False}*"])
