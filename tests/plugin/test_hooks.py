"""Other people's plugins: models, metrics and names of differences of their own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_divergence.core.cases import Case
from pytest_divergence.core.file_names import sidecar_path, suite_path
from pytest_divergence.core.settings import PROFILES
from pytest_divergence.plugin.extensions import added_metrics, change_cases
from tests.plugin.conftest import KNOT, MODELS, Project, properties, shown
from tests.plugin.test_search import TINY_SEARCH
from tests.tiny import save_tiny_model

SUITE = "regress.divergence.jsonl"
WIDE = {"input": KNOT, "max_kl": 9.0}

LOADING = """
from pathlib import Path

ROOT = Path(__file__).parent

def pytest_divergence_load_model(spec, role, device):
    if not spec.startswith("mine:"):
        return None
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from pytest_divergence import LoadedModel
    with (ROOT / "loads.log").open("a") as log:
        log.write(f"{spec} as {role} on {device}\\n")
    folder = ROOT / spec.removeprefix("mine:").partition("@")[0]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    return LoadedModel(model, AutoTokenizer.from_pretrained(folder))
"""
FINGERPRINT = """
def pytest_divergence_fingerprint(spec):
    if spec.startswith("mine:"):
        return (ROOT / "version.txt").read_text() + spec
"""
MINE = ("--model-1=base", "--model-2=mine:ft@3")
METRICS = """
import torch

class TotalVariation:
    def measure(self, reference_logits, candidate_logits):
        both = (one.softmax(-1) for one in (reference_logits, candidate_logits))
        return (next(both) - next(both)).abs().sum(-1) / 2

def pytest_divergence_metrics(config):
    return {"total_variation": TotalVariation()}
"""


@pytest.fixture
def _tiny_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PROFILES, "smoke", PROFILES["smoke"].model_copy(update=TINY_SEARCH))


def loads(project: Project) -> list[str]:
    log = project.path / "loads.log"
    return log.read_text("utf-8").splitlines() if log.exists() else []


def provenance(suite: Path) -> dict[str, Any]:
    text = sidecar_path(suite, "provenance.json").read_text("utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def kl_of(project: Project, *arguments: str) -> dict[str, str]:
    """What JUnit says of the suite's one case."""
    project.run(*arguments, "--junit-xml=junit.xml", SUITE)
    (found,) = properties(project.path / "junit.xml").values()
    return found


# Models


def test_a_plugin_loads_what_no_rule_understands(project: Project) -> None:
    project.write("conftest.py", LOADING)
    project.write_suite(SUITE, WIDE)
    named = kl_of(project, *MODELS)
    assert named["verdict"] == "passed"
    assert kl_of(project, *MINE) == named
    assert loads(project) == ["mine:ft@3 as candidate on cpu"]
    assert kl_of(project, "--model-1=mine:ft", "--model-2=mine:ft")["kl"] == "0.0"
    assert loads(project)[1:] == ["mine:ft as reference on cpu"]
    on_named = kl_of(project, "--model-1=base", "--model-2=adapter")
    assert on_named["verdict"] == "passed"
    assert kl_of(project, "--model-1=mine:base", "--model-2=adapter") == on_named


@pytest.mark.parametrize("has_fingerprint", [False, True])
@pytest.mark.usefixtures("_tiny_search")
def test_a_search_is_read_back_only_for_the_same_weights(
    project: Project, has_fingerprint: bool
) -> None:
    project.write("version.txt", "1")
    project.write("conftest.py", LOADING + (FINGERPRINT if has_fingerprint else ""))
    first = project.run(*MINE, "--divergence-max-kl=9")
    first.assert_outcomes(passed=3)
    suite = suite_path(project.path, *(one.split("=")[1] for one in MINE))
    before = provenance(suite)
    assert before["candidate"]["spec"] == "mine:ft@3"
    assert before["candidate"]["kind"] == "plugin"

    again = project.run(*MINE, "--divergence-max-kl=9")
    again.assert_outcomes(passed=3)
    # Without a fingerprint the weights in memory tell whether anything has changed.
    assert len(loads(project)) == (1 if has_fingerprint else 2)
    project.write("version.txt", "2")
    save_tiny_model(project.path / "ft", perturb=0.2)
    changed = project.run(*MINE, "--divergence-max-kl=9")
    changed.assert_outcomes(passed=3)
    now = provenance(suite)
    assert now["candidate"]["weights_sha256"] != before["candidate"]["weights_sha256"]
    assert now["key"] != before["key"]


ANSWERS = """
from transformers import AutoModelForCausalLM, AutoTokenizer
from pathlib import Path

def pytest_divergence_load_model(spec, role, device):
    from pytest_divergence import LoadedModel
    folder = Path(__file__).parent / "ft"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    small = {**model.config.to_dict(), "vocab_size": 200}
    return {
        "mine:text": lambda: "ft",
        "mine:none": lambda: LoadedModel(None, tokenizer),
        "mine:error": lambda: 1 / 0,
        "mine:unknown": lambda: None,
        "mine:bfloat16": lambda: LoadedModel(model.bfloat16(), tokenizer),
        "mine:meta": lambda: LoadedModel(model.to("meta"), tokenizer),
        "mine:small": lambda: LoadedModel(type(model)(type(model.config)(**small)), tokenizer),
    }[spec]()
"""
HOOK = "pytest_divergence_load_model (conftest.py)"
SECOND = "model 2 of the marker"
UNMEASURABLE = {
    "text": f"{HOOK} returned 'ft'; it must return LoadedModel(model, tokenizer), or None",
    "error": f'{HOOK} failed for mine:error: ZeroDivisionError: "division by zero"',
    "unknown": f"{SECOND}: no folder 'mine:unknown' here, and it is not a Hub id; nor does {HOOK} "
    "know it",
    "bfloat16": f"{SECOND} is loaded in bfloat16, but the pair is measured in float32; a pair has "
    "one dtype, so give --divergence-dtype=bfloat16 or load it in float32",
    "meta": f"{SECOND}: {HOOK} loaded the model on meta, but this session measures on cpu; load it "
    "on the device that the hook is given",
    "small": "the reference has 271 rows for tokens, the candidate 200, and the tokenizer names "
    "271; a divergence needs one vocabulary. Where a model was trained with fewer tokens, save "
    "its own tokenizer beside its weights",
}
NO_MODEL = (
    f"--model-2: the model of {HOOK} is a NoneType; it must be a PreTrainedModel of transformers, "
    "as in LoadedModel(model, tokenizer)"
)


def test_an_answer_that_cannot_be_measured_is_one_error(project: Project) -> None:
    project.write("conftest.py", ANSWERS)
    tests = (
        f"@pytest.mark.divergence(models=('base', 'mine:{name}'))\n"
        f"def test_{name}(assert_bounded_kl): assert_bounded_kl({KNOT!r}, max_kl=9.0)\n"
        for name in UNMEASURABLE
    )
    project.write("test_answers.py", "\n".join(["import pytest", *tests]))
    project.write_suite(SUITE, WIDE)
    none = ("--model-1=base", "--model-2=mine:none", "--divergence-dtype=float32")

    result = project.run(*none, SUITE, "test_answers.py")

    result.assert_outcomes(errors=1, failed=len(UNMEASURABLE))
    assert {NO_MODEL, *UNMEASURABLE.values()} <= set(result.outlines)
    assert "Traceback" not in shown(result)


def test_a_fingerprint_must_be_a_text(project: Project) -> None:
    project.write("conftest.py", "def pytest_divergence_fingerprint(spec): return 7\n")
    project.write_suite(SUITE, WIDE)
    result = project.run(*MODELS, SUITE)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert result.errlines[0] == (
        "ERROR: pytest_divergence_fingerprint (conftest.py) returned 7; it must return a "
        "non-empty text, or None"
    )


def test_a_spec_may_not_carry_a_password_to_a_plugin(project: Project) -> None:
    project.write("conftest.py", LOADING)
    result = project.run("--model-1=s3://me:t0ken@store/m", "--model-2=ft")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "t0ken" not in shown(result)


# Metrics


def test_a_users_test_names_a_plugins_metric(project: Project) -> None:
    project.write("conftest.py", METRICS)
    project.write(
        "test_kl.py",
        f"""
from pytest_divergence import score_prompts

def test_wide(assert_bounded_kl, model_pair):
    score = assert_bounded_kl({KNOT!r}, max_kl=1.0, metric="total_variation")
    assert score.measurement.metric == "total_variation"
    assert score.measurement.value != score.measurement.js
    (alone,) = score_prompts(
        model_pair, [{KNOT!r}], metric="total_variation", num_continuations=1, max_new_tokens=16
    )
    assert alone.measurement == score.measurement
""",
    )
    project.run(*MODELS, "test_kl.py").assert_outcomes(passed=1)


@pytest.mark.usefixtures("_tiny_search")
def test_a_metric_whose_code_has_changed_is_searched_anew(project: Project) -> None:
    arguments = (*MODELS, "--divergence-metric=total_variation", "--divergence-max-kl=0.9")
    keys = []
    for divisor in ("/ 2", "/ 2", "/ 3"):
        project.write("conftest.py", METRICS.replace("/ 2", divisor))
        project.run(*arguments).assert_outcomes(passed=3)
        keys.append(provenance(suite_path(project.path, "base", "ft"))["key"])
    assert keys[0] == keys[1] != keys[2]


UNIT_METRICS = METRICS.replace("Variation:\n", 'Variation:\n    unit = "chance/token"\n')


@pytest.mark.usefixtures("_tiny_search")
def test_a_metrics_own_unit_stands_beside_its_numbers(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.write("conftest.py", UNIT_METRICS)
    metric = ("--divergence-metric=total_variation", "--divergence-max-kl=0.001")
    result = project.run(*MODELS, *metric, "--divergence-max-shift=0.001", "-v")
    result.assert_outcomes(passed=1, failed=3)
    result.stdout.fnmatch_lines(
        [
            "mean total_variation of 6 ordinary prompts 0.* chance/token > max_shift 0.001",
            "total_variation 0.* chance/token > max_kl 0.001 (noise floor 0.*)",
            "    total_variation 0.* chance/token > max_kl 0.001",
            "bound: 0.001 chance/token, absolute: --divergence-max-kl",
            "noise floor: 0.* chance/token, the largest of *",
        ]
    )
    result.stdout.no_fnmatch_line("* nats/token*")
    latest = project.path / ".divergence/reports/latest"
    page, summary = ((latest / name).read_text("utf-8") for name in ("report.html", "summary.md"))
    assert "|Case|total_variation, chance/token|Bound|Verdict|" in summary
    assert "- bound: 0.001 chance/token" in summary
    assert "<b>0.001</b><span>bound, chance per token</span>" in page
    assert "<b>total_variation 0." in page
    assert "total_variation, chance per token (logarithmic)" in page

    suite = suite_path(project.path, "base", "ft")
    rows = [json.loads(line) for line in suite.read_text("utf-8").splitlines()]
    quantities = {(row["kl"]["metric"], row["kl"]["unit"]) for row in rows}
    assert quantities == {("total_variation", "chance/token")}
    assert all(0 < row["kl"]["value"] < 1 and row["kl"]["forward"] > 0 for row in rows)
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(project.path / "step.md"))
    shutil.copytree(suite.parent, project.path / "kept")
    arguments = ("--junit-xml=junit.xml", "--divergence-github=on", f"kept/{suite.name}")
    replay = project.run(*MODELS, *arguments)
    replay.stdout.fnmatch_lines(["  * total_variation 0.* chance/token > max_kl 0.001"])
    found = properties(project.path / "junit.xml")
    assert {found[row["id"]]["unit"] for row in rows if not row["tags"]} == {"chance/token"}
    table = (project.path / "step.md").read_text("utf-8").splitlines()
    assert "|Verdict|total_variation, chance/token|Bound|Test|" in table
    assert sum("|0.001|" in line for line in table) == 2

    project.write("conftest.py", "")
    gone = project.run(*MODELS, f"kept/{suite.name}", "-k", "not aggregate")
    gone.assert_outcomes(errors=2, deselected=1)
    assert (
        "metric='total_variation': must be one of symmetric, forward, reverse, js"
    ) in gone.outlines


def test_an_unknown_metric_is_refused_with_all_names(project: Project) -> None:
    project.write("conftest.py", METRICS)
    result = project.run(*MODELS, "--divergence-metric=total_variaton")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert result.errlines == [
        "ERROR: --divergence-metric=total_variaton: must be one of symmetric, forward, reverse, "
        "js, total_variation; did you mean total_variation?",
        "",
    ]


NO_NUMBERS = """
class Metric:
    def __init__(self, measure):
        self.measure = measure

def fail():
    raise KeyError("x")

def pytest_divergence_metrics(config):
    return {
        "wide": Metric(lambda one, other: other.log_softmax(-1)),
        "plain": Metric(lambda one, other: 0.0),
        "infinite": Metric(lambda one, other: other[..., 0] / 0),
        "broken": Metric(lambda one, other: fail()),
    }
"""
SHAPES = "for logits of shape (16, 271); it must return a tensor of shape (16,)"
NO_NUMBER = {
    "wide": f"returned (16, 271) {SHAPES}",
    "plain": f"returned float {SHAPES}",
    "infinite": "returned values that are not finite numbers; nothing was measured",
    "broken": "raised KeyError: 'x'",
}


def test_a_metric_without_a_number_is_an_error_and_no_verdict(project: Project) -> None:
    project.write("conftest.py", NO_NUMBERS)
    tests = (
        f"def test_{name}(assert_bounded_kl):\n"
        f"    assert_bounded_kl({KNOT!r}, max_kl=9.0, metric={name!r})\n"
        for name in NO_NUMBER
    )
    project.write("test_metrics.py", "\n".join(tests))
    project.write_suite(SUITE, WIDE)

    result = project.run(*MODELS, "--divergence-metric=infinite", SUITE, "test_metrics.py")

    result.assert_outcomes(errors=1, failed=len(NO_NUMBER))
    said = {f"the metric {name!r} {reason}" for name, reason in NO_NUMBER.items()}
    assert said <= set(result.outlines)


class Mine:
    """A metric with a unit of its own."""

    def __init__(self, unit: Any = "chance/token") -> None:
        self.unit = unit

    def measure(self, reference: Any, candidate: Any) -> Any:
        return reference[..., 0]


TAKEN = "which another metric already has; choose another name"
UNIT = "a unit for 'other' of 1 to 40 printable characters"


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"js": Mine()}, f"gives the name 'js', {TAKEN}"),
        ({"mine": Mine()}, f"gives the name 'mine', {TAKEN}"),
        (
            ["mine"],
            "(first, second) returned ['mine']; it must return a mapping of names to a metric",
        ),
        (
            {"mine too": Mine()},
            "'mine too'; it must return names of at most 64 letters, digits, '.', '_' and '-'",
        ),
        ({"other": Mine}, "it must return an object with the method measure for 'other'"),
        ({"other": Mine(7)}, f"7; it must return {UNIT}"),
        ({"other": Mine("a\nb")}, f"'a\\nb'; it must return {UNIT}"),
        ({"other": Mine("x" * 41)}, f"{'x' * 41}'; it must return {UNIT}"),
    ],
)
def test_names_types_and_units_of_metrics_are_checked(
    project: Project, answer: Any, message: str
) -> None:
    config = project.pytester.parseconfig("-p", "divergence")
    for name, given in (("first", {"mine": Mine()}), ("second", answer)):
        plugin = SimpleNamespace(pytest_divergence_metrics=lambda given=given: given)
        config.pluginmanager.register(plugin, name)

    with pytest.raises(pytest.UsageError) as caught:
        added_metrics(config)

    assert str(caught.value).startswith("pytest_divergence_metrics ")
    assert str(caught.value).endswith(message)


# Names of differences

CATEGORY = """
def pytest_divergence_categorise(config, case):
    return ANSWER

def pytest_divergence_modify_cases(cases):
    assert [case.category for case in cases] == [ANSWER] * len(cases)
"""


@pytest.mark.usefixtures("_tiny_search")
def test_a_plugin_names_the_kind_of_difference(project: Project) -> None:
    project.write("conftest.py", CATEGORY.replace("ANSWER", "'babbles <b>'"))
    result = project.run(*MODELS, "--divergence-max-kl=0.001")
    result.assert_outcomes(passed=1, failed=2)
    assert '  category: "babbles <b>"' in result.outlines
    rows = suite_path(project.path, "base", "ft").read_text("utf-8").splitlines()
    cases = [row for row in map(json.loads, rows) if "control" not in row["tags"]]
    assert [row["metadata"] for row in cases] == [{"category": "babbles <b>"}] * 2
    latest: Path = project.path / ".divergence/reports/latest"
    assert "<dt>Category</dt><dd>babbles &lt;b&gt;</dd>" in (latest / "report.html").read_text()
    assert "Category: `babbles <b>`" in (latest / "summary.md").read_text("utf-8")
    report = json.loads((latest / "report.json").read_text("utf-8"))
    assert {one["metadata"]["category"] for one in report["cases"]} == {"babbles <b>"}


def test_a_category_is_one_line(project: Project) -> None:
    config = project.pytester.parseconfig("-p", "divergence")
    plugin = SimpleNamespace(pytest_divergence_categorise=lambda: "two\nlines")
    config.pluginmanager.register(plugin, "mine")
    with pytest.raises(pytest.UsageError) as caught:
        change_cases(config, [Case(input=KNOT)])
    assert str(caught.value) == (
        "pytest_divergence_categorise (mine) returned 'two\\nlines'; it must return one line of at "
        "most 80 characters, or None"
    )


# Any hook


def test_a_plugin_in_a_module_of_its_own_works_as_a_conftest_does(project: Project) -> None:
    """One of the folder that is run, too."""
    project.write("tv_plugin.py", METRICS)
    project.pytester.syspathinsert()
    project.write_suite(f"tests/{SUITE}", WIDE)
    asked = (*MODELS, "--divergence-metric=total_variation", "tests")
    project.run(*asked, "-p", "tv_plugin").assert_outcomes(passed=1)
    project.write("tests/conftest.py", METRICS)
    project.run(*asked).assert_outcomes(passed=1)
