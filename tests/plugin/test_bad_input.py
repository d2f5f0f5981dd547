"""Suites and models that do not fit: one clear error each, and everything else still runs."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from pytest_divergence.core.cases import case_id
from pytest_divergence.core.provenance import Provenance, load_provenance, write_provenance
from pytest_divergence.models.loading import load_model_pair
from tests.plugin.conftest import KNOT, MODELS, POEM, Project, nodeid, shown, stored_tokens
from tests.plugin.test_suites import KL, SUITE, write_matching_provenance
from tests.tiny import CHATML, save_tiny_model

KNOT_CASE, POEM_CASE = nodeid(SUITE, KNOT), nodeid(SUITE, POEM)
CASES = (KNOT_CASE, POEM_CASE)
OTHER = ("--model-1=base", "--model-2=adapter")
"""Not the pair that the suite was made with, so that its cases are measured."""


@pytest.fixture
def suite(project: Project) -> Project:
    """A project with a suite as a search of `base` and `ft` leaves it."""
    project.write_suite(
        SUITE, {"input": KNOT, "max_kl": 99.0, "kl": KL}, {"input": POEM, "max_kl": 99.0, "kl": KL}
    )
    write_matching_provenance(project)
    rows = [stored_tokens(prompt).model_dump(mode="json") for prompt in (KNOT, POEM)]
    project.write("regress.tokens.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    return project


def edit(project: Project, **changes: object) -> Provenance:
    """The suite's provenance, changed."""
    path = project.path / "regress.provenance.json"
    provenance = load_provenance(path).model_copy(update=changes)
    write_provenance(path, provenance)
    return provenance


def sentence(result: pytest.RunResult, start: str) -> str:
    return next(line for line in result.outlines if line.startswith(start))


# The tokenizer or template has changed


def save_other_template(project: Project) -> None:
    template = CHATML.replace("{% for", "You are terse.{% for", 1)
    for name in ("base", "ft"):
        shutil.rmtree(project.path / name)
    save_tiny_model(project.path / "base", chat_template=template)
    save_tiny_model(project.path / "ft", perturb=0.3, chat_template=template)


def test_a_suite_of_another_template_says_all_that_has_changed(suite: Project) -> None:
    pair = load_model_pair(str(suite.path / "base"), str(suite.path / "ft"))
    template = pair.chat.template_digest
    edit(suite, template_sha256=template, versions={}, settings={"system_prompt": "Be brief."})
    save_other_template(suite)
    save_tiny_model(suite.path / "ft", perturb=0.5, chat_template=CHATML)
    result = suite.run(*MODELS, "--divergence-system-prompt=Be verbose.", KNOT_CASE)
    result.assert_outcomes(errors=1)
    line = sentence(result, "case ")
    was = f"Changed since the suite was made: the chat template (was {str(template)[:8]}…, now "
    assert was in line
    assert "the tokenizer's files (was 00000000…, now " in line
    assert 'the system prompt (was "Be brief.", now "Be verbose.")' in line


# Files that are gone, cut or shorter


def test_measured_rows_without_their_tokens_file_are_not_measured_anew(suite: Project) -> None:
    (suite.path / "regress.tokens.jsonl").unlink()
    result = suite.run(*OTHER, *CASES)
    result.assert_outcomes(errors=2)
    assert sentence(result, f"case {case_id(KNOT)}: ") == (
        f"case {case_id(KNOT)}: there is no regress.tokens.jsonl. Its kl was measured on these "
        "continuations, and a value on others would not be comparable. Restore the file from the "
        "suite's source, or remove kl from the row to measure it on new continuations."
    )


def test_a_tokens_file_cut_between_rows_costs_the_cases_that_it_lost(suite: Project) -> None:
    path = suite.path / "regress.tokens.jsonl"
    path.write_text(path.read_text("utf-8").splitlines(keepends=True)[0], "utf-8")
    result = suite.run(*OTHER, *CASES)
    result.assert_outcomes(passed=1, errors=1)
    start = f"case {case_id(POEM)}: regress.tokens.jsonl lacks its continuations"
    assert sentence(result, start)


def test_a_tokens_file_cut_inside_a_row_ends_the_session(suite: Project) -> None:
    path = suite.path / "regress.tokens.jsonl"
    path.write_text(path.read_text("utf-8")[:-20], "utf-8")
    result = suite.run(*MODELS, SUITE)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert result.errlines[0].startswith("ERROR: regress.tokens.jsonl:2: not valid JSON: ")
    assert result.errlines[0].endswith("so the file may be cut off")


def test_rows_that_were_never_measured_are_measured_on_fresh_continuations(suite: Project) -> None:
    suite.write_suite(SUITE, {"input": KNOT, "max_kl": 99.0})
    (suite.path / "regress.tokens.jsonl").unlink()
    suite.run(*OTHER, SUITE).assert_outcomes(passed=1)
    (suite.path / "regress.provenance.json").unlink()
    suite.run(*OTHER, SUITE).assert_outcomes(passed=1)


def test_a_suite_cut_between_rows_is_refused_and_not_read_as_a_shorter_one(suite: Project) -> None:
    edit(suite, num_rows=2)
    path = suite.path / SUITE
    first, second = path.read_text("utf-8").splitlines(keepends=True)
    path.write_text(first, "utf-8")
    result = suite.run(*MODELS, SUITE)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert result.errlines[0] == (
        f"ERROR: {SUITE}: has 1 of the 2 rows that it was written with, so it may be cut off; "
        "restore it, or if you removed rows on purpose, set num_rows to 1 in "
        "regress.provenance.json"
    )
    edit(suite, num_rows=1)
    assert suite.run(*MODELS, KNOT_CASE).ret == pytest.ExitCode.OK
    path.write_text(first + second, "utf-8")  # rows may be added by hand
    before = {one: one.read_bytes() for one in suite.path.glob("regress.*")}
    assert suite.run(*MODELS, *CASES).ret == pytest.ExitCode.OK
    assert {one: one.read_bytes() for one in suite.path.glob("regress.*")} == before


# Models that break


def test_weights_that_are_no_numbers_are_an_error_and_never_a_pass(suite: Project) -> None:
    path = suite.path / "ft" / "model.safetensors"
    weights = load_file(path)
    weights["model.norm.weight"] = torch.full_like(weights["model.norm.weight"], float("nan"))
    save_file(weights, path, metadata={"format": "pt"})
    result = suite.run(*MODELS, *CASES)
    result.assert_outcomes(errors=2)
    assert "Traceback" not in shown(result)
    start = "the candidate returned logits that are not numbers (NaN or infinite)"
    assert sentence(result, start)


def test_a_prompt_that_is_too_long_for_a_model_costs_its_own_case_only(suite: Project) -> None:
    for name, perturb in (("base", 0.0), ("ft", 0.3)):
        shutil.rmtree(suite.path / name)
        save_tiny_model(suite.path / name, architecture="gpt2", perturb=perturb)
    for name in ("provenance.json", "tokens.jsonl"):
        (suite.path / f"regress.{name}").unlink()
    long = "knots " * 1500
    suite.write_suite(SUITE, *({"input": one, "max_kl": 99.0} for one in (KNOT, long, POEM)))
    result = suite.run(*MODELS, SUITE)
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines([f"ERROR {nodeid(SUITE, long)} - *"])
