"""Other people's plugins: models, metrics and names of differences of their own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pytest_divergence.core.file_names import sidecar_path, suite_path
from pytest_divergence.core.settings import PROFILES
from tests.plugin.conftest import KNOT, MODELS, Project, properties, shown
from tests.plugin.test_search import TINY_SEARCH
from tests.tiny import save_tiny_model

SUITE = "regress.divergence.jsonl"
WIDE, NARROW = {"input": KNOT, "max_kl": 9.0}, {"input": KNOT, "max_kl": 1e-6}

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
    text = (project.path / "junit.xml").read_text("utf-8")
    names = ("divergence_verdict", "divergence_kl", "divergence_metric")
    parts = {name: text.partition(f'name="{name}" value="')[2] for name in names}
    return {name: rest.partition('"')[0] for name, rest in parts.items()}


# Models


def test_a_plugin_loads_what_no_rule_understands(project: Project) -> None:
    project.write("conftest.py", LOADING)
    project.write_suite(SUITE, WIDE)
    named = kl_of(project, *MODELS)
    assert named["divergence_verdict"] == "passed"
    assert kl_of(project, *MINE) == named
    assert loads(project) == ["mine:ft@3 as candidate on cpu"]
    assert kl_of(project, "--model-1=mine:ft", "--model-2=mine:ft")["divergence_kl"] == "0.0"
    assert loads(project)[1:] == ["mine:ft as reference on cpu"]


def test_an_adapter_stands_on_a_plugins_model(project: Project) -> None:
    project.write("conftest.py", LOADING)
    project.write_suite(SUITE, WIDE)
    named = kl_of(project, "--model-1=base", "--model-2=adapter")
    assert named["divergence_verdict"] == "passed"
    assert kl_of(project, "--model-1=mine:base", "--model-2=adapter") == named


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


def load(answer: str) -> str:
    """A conftest whose hook gives one answer, with torch at hand."""
    return f"""
from transformers import AutoModelForCausalLM, AutoTokenizer
from pathlib import Path

def pytest_divergence_load_model(spec, role, device):
    from pytest_divergence import LoadedModel
    folder = Path(__file__).parent / "ft"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    return {answer}
"""


HOOK = "pytest_divergence_load_model (conftest.py)"
TAKEN = "which another metric already has; choose another name"


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (
            "'ft'",
            f"{HOOK} returned 'ft'; it must return LoadedModel(model, tokenizer), or None",
        ),
        (
            "LoadedModel(None, tokenizer)",
            f"--model-2: the model of {HOOK} is a NoneType; it must be a PreTrainedModel of "
            "transformers, as in LoadedModel(model, tokenizer)",
        ),
        ("1 / 0", f'{HOOK} failed for mine:x: ZeroDivisionError: "division by zero"'),
        (
            "None",
            f"--model-2: no folder 'mine:x' here, and it is not a Hub id; nor does {HOOK} know it",
        ),
        (
            "LoadedModel(model.bfloat16(), tokenizer)",
            "--model-2 is loaded in bfloat16, but the pair is measured in float32; a pair has one "
            "dtype, so give --divergence-dtype=bfloat16 or load it in float32",
        ),
        (
            "LoadedModel(model.to('meta'), tokenizer)",
            f"--model-2: {HOOK} loaded the model on meta, but this session measures on cpu; load "
            "it on the device that the hook is given",
        ),
        (
            "LoadedModel(type(model)(type(model.config)(**{**model.config.to_dict(), "
            "'vocab_size': 200})), tokenizer)",
            "the reference has 271 rows for tokens, the candidate 200, and the tokenizer names "
            "271; a divergence needs one vocabulary. Where a model was trained with fewer tokens, "
            "save its own tokenizer beside its weights",
        ),
    ],
)
def test_an_answer_that_cannot_be_measured_is_one_error(
    project: Project, answer: str, message: str
) -> None:
    project.write("conftest.py", load(answer))
    project.write_suite(SUITE, WIDE)
    result = project.run("--model-1=base", "--model-2=mine:x", "--divergence-dtype=float32", SUITE)
    result.assert_outcomes(errors=1)
    assert message in result.outlines
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


def test_a_plugins_metric_is_asserted_by_name(project: Project) -> None:
    project.write("conftest.py", METRICS)
    project.write_suite(SUITE, WIDE)
    found = kl_of(project, *MODELS, "--divergence-metric=total_variation")
    assert found["divergence_metric"] == "total_variation"
    assert 0.0 < float(found["divergence_kl"]) < 1.0
    same = kl_of(project, "--model-1=base", "--model-2=base", "--divergence-metric=total_variation")
    assert float(same["divergence_kl"]) == 0.0


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

def test_unknown(assert_bounded_kl):
    assert_bounded_kl({KNOT!r}, max_kl=1.0, metric="total")
""",
    )
    result = project.run(*MODELS, "test_kl.py")
    result.assert_outcomes(passed=1, failed=1)
    assert (
        "metric='total': must be one of symmetric, forward, reverse, js, total_variation"
    ) in result.outlines


@pytest.mark.usefixtures("_tiny_search")
def test_a_search_in_a_plugins_metric_writes_its_name_into_the_rows(project: Project) -> None:
    project.write("conftest.py", METRICS)
    arguments = (*MODELS, "--divergence-metric=total_variation", "--divergence-max-kl=0.9")
    project.run(*arguments).assert_outcomes(passed=3)
    suite = suite_path(project.path, "base", "ft")
    rows = [json.loads(line) for line in suite.read_text("utf-8").splitlines()]
    assert {row["kl"]["metric"] for row in rows} == {"total_variation"}
    assert all(0 < row["kl"]["value"] < 1 and row["kl"]["forward"] > 0 for row in rows)

    for kind in ("divergence.jsonl", "tokens.jsonl", "provenance.json"):
        project.write(f"kept/kept.{kind}", sidecar_path(suite, kind).read_text("utf-8"))
    project.run(*MODELS, "kept", "-k", "not aggregate").assert_outcomes(passed=2, deselected=1)
    project.write("conftest.py", "")
    gone = project.run(*MODELS, "kept", "-k", "not aggregate")
    gone.assert_outcomes(errors=2, deselected=1)
    assert (
        "metric='total_variation': must be one of symmetric, forward, reverse, js"
    ) in gone.outlines


@pytest.mark.usefixtures("_tiny_search")
def test_a_metric_whose_code_has_changed_is_searched_anew(project: Project) -> None:
    arguments = (*MODELS, "--divergence-metric=total_variation", "--divergence-max-kl=0.9")
    keys = []
    for divisor in ("/ 2", "/ 2", "/ 3"):
        project.write("conftest.py", METRICS.replace("/ 2", divisor))
        project.run(*arguments).assert_outcomes(passed=3)
        keys.append(provenance(suite_path(project.path, "base", "ft"))["key"])
    assert keys[0] == keys[1] != keys[2]


STRATEGY = """
from pytest_divergence import Proposal

class Ours:
    def propose(self, pair, context):
        return [] if context.round else [Proposal("Name a river.", "ours")]

def pytest_divergence_strategies():
    return {"ours": Ours()}
"""


@pytest.mark.usefixtures("_tiny_search")
def test_a_strategy_whose_code_has_changed_searches_anew(project: Project) -> None:
    keys = []
    for text in ("a river", "a river", "two rivers"):
        project.write("conftest.py", STRATEGY.replace("a river", text))
        project.run(*MODELS, "--divergence-max-kl=0.9")
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
    latest = project.path / ".divergence/reports/latest"
    page, summary = ((latest / name).read_text("utf-8") for name in ("report.html", "summary.md"))
    assert "|Case|total_variation, chance/token|Bound|Verdict|" in summary
    assert "- bound: 0.001 chance/token" in summary
    assert "<b>0.001</b><span>bound, chance per token</span>" in page
    assert "<b>total_variation 0." in page
    assert "total_variation, chance per token (logarithmic)" in page

    suite = suite_path(project.path, "base", "ft")
    rows = [json.loads(line) for line in suite.read_text("utf-8").splitlines()]
    assert {row["kl"]["unit"] for row in rows} == {"chance/token"}
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


@pytest.mark.parametrize("unit", ["7", "''", "'a\\nb'", "'x' * 41"])
def test_a_unit_must_be_a_short_text(project: Project, unit: str) -> None:
    project.write("conftest.py", UNIT_METRICS.replace('"chance/token"', unit))
    project.write_suite(SUITE, WIDE)
    result = project.run(*MODELS, "--divergence-metric=total_variation", SUITE)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert result.errlines[0].endswith(
        "it must return a unit for 'total_variation' of 1 to 40 printable characters"
    )


def test_an_unknown_metric_is_refused_with_all_names(project: Project) -> None:
    project.write("conftest.py", METRICS)
    result = project.run(*MODELS, "--divergence-metric=total_variaton")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert result.errlines == [
        "ERROR: --divergence-metric=total_variaton: must be one of symmetric, forward, reverse, "
        "js, total_variation; did you mean total_variation?",
        "",
    ]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "return candidate_logits.log_softmax(-1)",
            "the metric 'mine' returned (16, 271) for logits of shape (16, 271); it must return "
            "a tensor of shape (16,)",
        ),
        (
            "return 0.0",
            "the metric 'mine' returned float for logits of shape (16, 271); it must return a "
            "tensor of shape (16,)",
        ),
        (
            "return candidate_logits[..., 0] / 0",
            "the metric 'mine' returned values that are not finite numbers; nothing was measured",
        ),
        (
            "raise KeyError('x')",
            "the metric 'mine' raised KeyError: 'x'",
        ),
    ],
)
def test_a_metric_without_a_number_is_an_error_not_a_failure(
    project: Project, body: str, message: str
) -> None:
    project.write(
        "conftest.py",
        f"""
class Mine:
    def measure(self, reference_logits, candidate_logits):
        {body}

def pytest_divergence_metrics(config):
    return {{"mine": Mine()}}
""",
    )
    project.write_suite(SUITE, WIDE)
    result = project.run(*MODELS, "--divergence-metric=mine", SUITE)
    result.assert_outcomes(errors=1)
    assert message in result.outlines


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("{'js': Mine()}", f"gives the name 'js', {TAKEN}"),
        (
            "{'mine': Mine()}",
            f"gives the name 'mine', {TAKEN}",
        ),
        (
            "['mine']",
            "(conftest.py, one_more) returned ['mine']; it must return a mapping of names to a "
            "metric",
        ),
        (
            "{'mine too': Mine()}",
            "(conftest.py, one_more) returned 'mine too'; it must return names of at most 64 "
            "letters, digits, '.', '_' and '-'",
        ),
        (
            "{'other': Mine}",
            "(conftest.py, one_more) returned <class 'conftest.Mine'>; it must return an object "
            "with the method measure for 'other'",
        ),
    ],
)
def test_names_and_types_of_metrics_are_checked(
    project: Project, answer: str, message: str
) -> None:
    mine = "class Mine:\n    def measure(self, reference, candidate): return reference[..., 0]\n\n"
    hook = "def pytest_divergence_metrics(config): return "
    project.write("conftest.py", f"{mine}{hook}{answer}\n")
    project.write("one_more.py", f"{mine}{hook}{{'mine': Mine()}}\n")
    project.pytester.syspathinsert()
    result = project.run(*MODELS, "-p", "one_more", "--divergence-metric=mine")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert result.errlines[0] == f"ERROR: pytest_divergence_metrics {message}"


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


@pytest.mark.usefixtures("_tiny_search")
def test_a_category_is_one_line(project: Project) -> None:
    project.write("conftest.py", CATEGORY.replace("ANSWER", "'two\\nlines'"))
    result = project.run(*MODELS)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert result.errlines[0] == (
        "ERROR: pytest_divergence_categorise (conftest.py) returned 'two\\nlines'; it must return "
        "one line of at most 80 characters, or None"
    )


# Any hook


def test_a_plugin_in_a_module_of_its_own_works_as_a_conftest_does(project: Project) -> None:
    project.write("tv_plugin.py", METRICS)
    project.pytester.syspathinsert()
    project.write_suite(SUITE, WIDE)
    result = project.run(*MODELS, "-p", "tv_plugin", "--divergence-metric=total_variation", SUITE)
    result.assert_outcomes(passed=1)


def test_a_conftest_of_the_folder_that_is_run_counts(project: Project) -> None:
    project.write("tests/conftest.py", METRICS)
    project.write_suite(f"tests/{SUITE}", WIDE)
    result = project.run(*MODELS, "--divergence-metric=total_variation", "tests")
    result.assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("hook", "message"),
    [
        ("def pytest_divergence_metrics(confg): return {}", "Argument(s) {'confg'} are declared"),
        ("def pytest_divergence_metric(config): return {}", "unknown hook"),
    ],
)
def test_a_typo_fails_loudly(project: Project, hook: str, message: str) -> None:
    project.write("conftest.py", hook)
    project.write("test_unit.py", "def test_addition(): assert 1 + 1 == 2\n")
    result = project.run()
    assert result.ret != pytest.ExitCode.OK
    assert message in shown(result)


def test_an_optional_hook_is_no_trouble_without_the_plugin(project: Project) -> None:
    project.write(
        "conftest.py",
        "import pytest\n\n@pytest.hookimpl(optionalhook=True)\n"
        "def pytest_divergence_metrics(config): return {}\n",
    )
    project.write("test_unit.py", "def test_addition(): assert 1 + 1 == 2\n")
    project.run(plugin="no:divergence").assert_outcomes(passed=1)
    project.run().assert_outcomes(passed=1)
