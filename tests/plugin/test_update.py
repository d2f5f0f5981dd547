"""A suite after an intended change: measured again and rewritten, as a whole or not at all."""

from __future__ import annotations

import json
import re
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pytest_divergence.core.behaviours import Behaviour, TellingContinuation, behaviour_id
from pytest_divergence.core.cases import case_id
from pytest_divergence.core.json_files import strict_dumps
from pytest_divergence.core.provenance import Bound
from pytest_divergence.core.suites import StoredSuite, read_suite, write_stored
from pytest_divergence.core.verdicts import approved_limit
from pytest_divergence.models.loading import load_model_pair
from pytest_divergence.scoring.suite_rows import replay_behaviour
from tests.core.made_suites import texts
from tests.plugin.conftest import KNOT, MODELS, POEM, Project, nodeid, shown
from tests.tiny import save_tiny_model

SUITE = "tests/release.divergence.jsonl"
UPDATE, FILL = "--divergence-update", "--divergence-fill"
OTHERS = ("--model-1=base", "--model-2=adapter")
CONTROLS = [f"Ordinary prompt number {number}" for number in range(3)]


def path_of(project: Project) -> Path:
    return project.path / SUITE


def stored(project: Project) -> StoredSuite:
    return read_suite(path_of(project))


def lines(project: Project) -> list[bytes]:
    return path_of(project).read_bytes().splitlines()


@pytest.fixture
def suite(project: Project) -> Project:
    """A project with a suite of two cases and three controls, measured on `base` and `ft`."""
    controls = [{"input": prompt, "tags": ["control"]} for prompt in CONTROLS]
    project.write_suite(SUITE, {"input": KNOT}, {"input": POEM}, *controls)
    filled = project.run(*MODELS, SUITE, FILL)
    filled.assert_outcomes(passed=2)
    return project


def rows_of(project: Project) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines(project)]


def edit(project: Project, *rows: dict[str, Any]) -> None:
    """The suite with rows that someone has edited."""
    path_of(project).write_text("".join(strict_dumps(row) + "\n" for row in rows), "utf-8")


def replay(project: Project, *arguments: str) -> pytest.RunResult:
    """A replay; that the aggregate says too little about so few rows is no error here."""
    return project.run(*arguments, SUITE, "-W", "default")


def refused(project: Project, *arguments: str) -> str:
    """What a session says that must not write."""
    before = texts(project.path / "tests")
    result = project.run(*arguments)
    assert texts(project.path / "tests") == before
    assert result.ret != pytest.ExitCode.OK
    return shown(result)


def usage_error(project: Project, *arguments: str) -> str:
    """The one sentence of a session that is refused before it starts."""
    before = texts(project.path / "tests")
    result = project.run(*arguments)
    assert texts(project.path / "tests") == before
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    return next(line for line in result.errlines if line.startswith("ERROR: ")).removeprefix(
        "ERROR: "
    )


# Updating


def test_an_update_measures_every_row_on_the_new_candidate(suite: Project) -> None:
    """Where the suite is from stays, and a row without a limit of its own gets none."""
    before = stored(suite)
    assert before.provenance is not None
    origin = {
        "training_data_sha256": "a" * 64,
        "contexts_sha256": "b" * 64,
        "source": "hf:owner/release@0123abcd",
    }
    rows = [
        row.with_changes(max_kl=None) if row.id == case_id(POEM) else row
        for row in before.suite.rows
    ]
    made = before.provenance.model_copy(update=origin)
    write_stored(path_of(suite), rows, before.tokens.values(), made)

    result = suite.run(*OTHERS, SUITE, UPDATE, "-rP")

    after = stored(suite)
    result.assert_outcomes(passed=2)
    assert result.ret == pytest.ExitCode.OK
    result.stdout.re_match_lines(
        [
            r"-+ Captured divergence call -+",
            r"updated: KL \d\.\d{3} -> \d\.\d{3}, max_kl \d\.\d{3} -> \d\.\d{3}$",
            r"=+ divergence =+",
            rf"{SUITE} rewritten, 2 cases measured:",
            rf"  {case_id(KNOT)} updated: KL \d.*, max_kl \d.*",
            rf"  {case_id(POEM)} updated: KL \d.*, max_kl none -> none",
        ]
    )
    assert [row.id for row in after.suite.rows] == sorted(row.id for row in before.suite.rows)
    for old, new in zip(before.suite.rows, after.suite.rows, strict=True):
        assert old.kl is not None
        assert new.kl is not None
        assert old.kl.value != new.kl.value
        assert new.kl.estimator == "fresh"
        assert before.tokens[old.id].reference == after.tokens[new.id].reference
        assert before.tokens[old.id].candidate != after.tokens[new.id].candidate
        assert new.is_control or new.completions is not None
    (knot,) = (row for row in after.suite.cases if row.id == case_id(KNOT))
    assert knot.kl is not None
    assert knot.max_kl == approved_limit(knot.kl.value, None)
    assert after.provenance is not None
    assert after.provenance.reference == before.provenance.reference
    assert after.provenance.candidate.spec == "adapter"
    assert after.provenance.typical_shift != before.provenance.typical_shift
    assert {name: getattr(after.provenance, name) for name in origin} == origin
    replay(suite, *OTHERS, "--divergence-max-kl=9").assert_outcomes(passed=3, warnings=1)


def test_an_update_of_one_value_changes_one_line(suite: Project) -> None:
    """Rows written by hand and in another order too keep their text, byte for byte."""
    rows = rows_of(suite)
    by_hand = [
        json.dumps({key: row[key] for key in reversed(row)}, separators=(",", ":")).encode()
        for row in rows
    ]
    (poem,) = (at for at, row in enumerate(rows) if row["id"] == case_id(POEM))
    was = by_hand[poem]
    by_hand[poem] = was.replace(f'"max_kl":{rows[poem]["max_kl"]}'.encode(), b'"max_kl":7.0')
    assert by_hand[poem] != was
    path_of(suite).write_bytes(b"\n".join(by_hand) + b"\n")

    suite.run(*MODELS, SUITE, UPDATE).assert_outcomes(passed=2)

    after = lines(suite)
    changed = [at for at, (a, b) in enumerate(zip(by_hand, after, strict=True)) if a != b]
    assert changed == [poem]
    assert json.loads(after[poem]) == rows[poem]
    order = ["schema_version", "id", "input", "max_kl", "tags", "kl", "completions", "metadata"]
    keys = list(json.loads(after[poem]))
    assert keys == [key for key in order if key in keys]
    suite.run(*MODELS, SUITE, UPDATE).assert_outcomes(passed=2)
    assert lines(suite) == after, "without a change no line changes"


def test_a_behaviour_that_is_gone_waits_for_a_later_candidate(suite: Project) -> None:
    """It is neither failed for a candidate that does not show it, nor forgotten."""
    shown_by = {
        name: partial(replay_behaviour, load_model_pair("base", name, root=suite.path))
        for name in ("ft", "adapter")
    }
    for ids in ([40, 41], [41, 40], [50, 60], [60, 50], [70, 80], [80, 70]):
        telling = TellingContinuation(prompt=KNOT, text="x", token_ids=ids, log_ratio=1.0)
        ratios = {name: ratio([telling]).log_ratio for name, ratio in shown_by.items()}
        if ratios["adapter"] < ratios["ft"]:
            break
    assert ratios["adapter"] < ratios["ft"]
    telling = telling.model_copy(update={"log_ratio": ratios["adapter"] + ratios["ft"]})
    behaviour = Behaviour(
        id=behaviour_id(["signal"]),
        name="signal",
        content=True,
        motifs=["signal"],
        confirmed=True,
        telling=[telling],
    )
    before = stored(suite)
    assert before.provenance is not None
    provenance = before.provenance.model_copy(update={"behaviours": [behaviour]})
    write_stored(path_of(suite), before.suite.rows, before.tokens.values(), provenance)
    replay(suite, *MODELS).assert_outcomes(passed=3, failed=1, warnings=1)

    suite.run(*OTHERS, SUITE, UPDATE).assert_outcomes(passed=3)

    after = stored(suite).provenance
    assert after is not None
    assert [one.absent for one in after.behaviours] == [True]
    replay(suite, *OTHERS).assert_outcomes(passed=4, warnings=1)


def test_what_will_fail_after_an_update_is_said_at_once(suite: Project) -> None:
    """The suite's own bound stays: no candidate raises the bar for ordinary prompts itself."""
    before = stored(suite)
    assert before.provenance is not None
    provenance = before.provenance.model_copy(update={"bound": Bound(value=0.0001)})
    knot, *rows = (
        row.with_changes(max_kl=None) if row.id == case_id(KNOT) else row
        for row in sorted(before.suite.rows, key=lambda row: row.id != case_id(KNOT))
    )
    write_stored(path_of(suite), [knot, *rows], before.tokens.values(), provenance)

    result = suite.run(*OTHERS, SUITE, UPDATE, "--divergence-max-shift=0.001")

    assert result.ret == pytest.ExitCode.OK
    start = result.outlines.index(
        f"{SUITE} will fail on this pair, because an update does not change these limits:"
    )
    said = " ".join(" ".join(result.outlines[start + 1 : -1]).split())
    value = r"\d\.\d{3}"
    assert re.fullmatch(
        r"aggregate: 3 of 3 control rows \(100%\) over the bound of 0\.000100 nats/token "
        r"\(insufficient: a pass needs 32 rows\); intended\? search this pair and promote into a "
        rf"new suite shift: mean KL of 3 ordinary prompts {value} nats/token > max_shift 0\.001; "
        rf"intended\? raise --divergence-max-shift {case_id(KNOT)}: KL {value} nats/token > max_kl "
        r"0\.000100, the suite's; intended\? give the row its own max_kl",
        said,
    ), said

    replayed = replay(suite, *OTHERS, "--divergence-max-shift=0.001")
    replayed.assert_outcomes(passed=1, failed=3)
    replayed.stdout.fnmatch_lines(
        [
            "100% of controls over the bound > 5%",
            "  intended? an update does not change this bound; search this pair and promote",
            "  into a new suite",
        ]
    )
    assert "measure the suite again" not in shown(replayed).partition("_ shift _")[0]

    known = stored(suite)
    assert known.provenance is not None
    rows = [
        row.with_changes(tags=("control", "not-ordinary")) if row.is_control else row
        for row in known.suite.rows
    ]
    write_stored(path_of(suite), rows, known.tokens.values(), known.provenance)
    again = suite.run(*OTHERS, SUITE, UPDATE)
    assert "control rows" not in shown(again), "those that show a behaviour fail nothing"


# When an update may not be


def test_nothing_is_rewritten_in_ci(suite: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    for flag, name in ((UPDATE, UPDATE), (FILL, FILL), ("--divergence-update-new-only", FILL)):
        assert usage_error(suite, *MODELS, SUITE, flag) == (
            f"{name} rewrites suites, and this is CI (the environment variable CI is set); run it "
            "on your own machine, check the diff, and commit it"
        )


def test_a_part_of_a_suite_is_refused(suite: Project) -> None:
    for arguments in ((SUITE, "-k", "poem"), (nodeid(SUITE, POEM),)):
        assert usage_error(suite, *OTHERS, *arguments, UPDATE) == (
            f"{UPDATE} rewrites whole files, but this session leaves out 1 of 2 cases of {SUITE}, "
            f"the first is {case_id(KNOT)}; do not give -k, -m, --lf, --deselect or node ids"
        )


def test_what_makes_no_sense_together_is_refused(suite: Project) -> None:
    suite.write("unit/test_a.py", "def test_yes():\n    pass\n")
    own = suite.path / ".divergence" / "suites"
    shutil.copytree(suite.path / "tests", own)

    for arguments, words in (
        ((SUITE, UPDATE, "--divergence-mode=search"), "this session searches"),
        ((SUITE, UPDATE, "--divergence-builtin-suite=on"), "this session searches"),
        ((SUITE, UPDATE, FILL), f"{UPDATE} and {FILL} contradict each other; give one of them"),
        (
            ("unit", UPDATE),
            f"{UPDATE} found no suite; name one, or a folder with *.divergence.jsonl in it",
        ),
        (
            (f"{own.relative_to(suite.path)}/release.divergence.jsonl", UPDATE),
            "belongs to a search, which replaces it; promote its cases",
        ),
        (
            (SUITE, UPDATE, "-p", "xdist", "-n2"),
            f"{UPDATE} rewrites whole suites, so it cannot be split among workers; leave out -n",
        ),
    ):
        assert words in usage_error(suite, *MODELS, *arguments)


def test_a_skipped_case_fails_the_session(suite: Project) -> None:
    suite.write(
        "tests/conftest.py",
        "import pytest\n@pytest.fixture(autouse=True)\ndef no(request):\n"
        "    if 'poem' in request.node.name:\n        pytest.skip('not today')\n",
    )

    said = refused(suite, *OTHERS, SUITE, UPDATE)

    reason = f"1 of 2 cases did not finish, the first is {case_id(POEM)}."
    assert f"{SUITE} stays as it was: {reason}" in said


def test_a_control_row_that_cannot_be_measured_fails_the_session(project: Project) -> None:
    """It is longer than the models can read."""
    for name, change in (("gpt", 0.0), ("gpt-ft", 0.3)):
        save_tiny_model(project.path / name, architecture="gpt2", perturb=change)
    project.write_suite(SUITE, {"input": KNOT}, {"input": "x" * 5000, "tags": ["control"]})

    said = refused(project, "--model-1=gpt", "--model-2=gpt-ft", SUITE, FILL)

    assert "1 passed" in said
    assert f"{SUITE} stays as it was: control row xxx" in said


def test_a_listing_updates_nothing_and_the_environment_without_a_path_does(
    suite: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes before the ini file, and a session without a path searches nothing."""
    before = texts(suite.path / "tests")
    suite.run(*OTHERS, SUITE, UPDATE, "--collect-only")
    assert texts(suite.path / "tests") == before
    suite.pytester.makeini("[pytest]\ndivergence_update = no\n")
    monkeypatch.setenv("PYTEST_DIVERGENCE_UPDATE", "1")

    suite.run(*OTHERS).assert_outcomes(passed=2)

    assert texts(suite.path / "tests") != before
    assert not (suite.path / ".divergence").exists()


def test_a_suite_that_changed_meanwhile_is_left_alone(suite: Project) -> None:
    suite.write(
        "tests/conftest.py",
        "import pathlib, pytest\n"
        "@pytest.fixture(autouse=True, scope='session')\ndef edit():\n    yield\n"
        f"    path = pathlib.Path({SUITE!r})\n"
        '    path.write_text(path.read_text() + \'{"input": "Me too?"}\\n\')\n',
    )

    result = suite.run(*OTHERS, SUITE, UPDATE)

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert "has changed since it was read, so it was not overwritten" in shown(result)
    assert len(lines(suite)) == 6


# Filling


def test_rows_written_by_hand_are_completed(project: Project) -> None:
    project.write_suite(SUITE, {"prompt": KNOT}, {"input": POEM, "max_kl": 0.5})

    result = project.run(*MODELS, SUITE, FILL)

    result.assert_outcomes(passed=2)
    filled = stored(project)
    knot, poem = filled.suite.cases
    assert (knot.text, poem.text) == (KNOT, POEM)
    assert knot.kl is not None
    assert poem.kl is not None
    assert knot.max_kl == approved_limit(knot.kl.value, None)
    assert poem.max_kl == 0.5, "a limit that people wrote stays"
    assert knot.completions is not None
    assert set(filled.tokens) == {case_id(KNOT), case_id(POEM)}
    assert filled.provenance is not None
    assert filled.provenance.noise_floor is None, "two prompts say nothing about the noise"
    assert json.loads(lines(project)[0])["id"] == case_id(KNOT)
    result.stdout.re_match_lines([rf"  {case_id(KNOT)} updated: KL none -> \d.*, max_kl none -> "])

    replay(project, *MODELS).assert_outcomes(passed=3, warnings=1)
    save_tiny_model(project.path / "far", perturb=2.0)
    replay(project, MODELS[0], "--model-2=far").assert_outcomes(passed=1, failed=2, warnings=1)


def test_what_is_measured_stays_byte_for_byte_and_nothing_is_mixed(suite: Project) -> None:
    """A suite that grows: by nothing, by a control row, and by a case."""
    whole = texts(suite.path / "tests")
    nothing_new = suite.run(*MODELS, SUITE, FILL)
    assert f"{SUITE}: every case already has a kl; nothing to fill." in shown(nothing_new)
    assert texts(suite.path / "tests") == whole

    measured, tokens = rows_of(suite), stored(suite).tokens
    edit(suite, *measured, {"input": "One more ordinary prompt", "tags": ["control"]})
    said = refused(suite, *MODELS, SUITE, FILL)
    assert f"{SUITE} stays as it was: only control rows have no kl" in said

    edit(suite, *measured, {"input": "What goes into a soup?"})
    said = refused(suite, *OTHERS, SUITE, FILL).replace("\n", " ")
    assert "was measured on another pair: the candidate (was " in said
    assert "; name that pair, or measure all rows with --divergence-update" in said

    provenance = suite.path / "tests" / "release.provenance.json"
    provenance.rename(suite.path / "aside")
    said = refused(suite, *MODELS, SUITE, FILL).replace("\n", " ")
    assert "5 of its rows have a kl" in said
    assert "but release.provenance.json is missing" in said
    (suite.path / "aside").rename(provenance)

    suite.run(*MODELS, SUITE, FILL).assert_outcomes(passed=3)

    before, after = set(whole[Path(SUITE).name].splitlines()), lines(suite)
    assert before < set(after)
    assert len(after) == len(before) + 1
    assert tokens.items() <= stored(suite).tokens.items()


def test_twenty_prompts_are_enough_for_a_noise_floor(project: Project) -> None:
    project.write_suite(SUITE, *({"input": f"Prompt number {number}"} for number in range(20)))

    project.run(*MODELS, SUITE, FILL).assert_outcomes(passed=20)

    filled = stored(project)
    assert filled.provenance is not None
    assert filled.provenance.noise_floor is not None
    assert filled.provenance.noise_floor.num_measurements == 59


def test_a_project_with_its_own_models_is_filled_too(project: Project) -> None:
    project.write_suite(SUITE, {"input": KNOT})
    project.write(
        "tests/conftest.py",
        "import pytest\nfrom pytest_divergence import load_model_pair\n"
        "@pytest.fixture(scope='session')\n"
        "def model_pair():\n    return load_model_pair('base', 'ft')\n",
    )

    project.run(SUITE, FILL).assert_outcomes(passed=1)

    assert stored(project).provenance is not None
