from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from pytest_divergence.core import errors
from pytest_divergence.core.errors import DivergenceError, SuiteError


def test_a_suite_error_reads_as_a_link_to_the_line() -> None:
    error = SuiteError(Path("knots.divergence.jsonl"), 7, "max_kl is -1")
    assert str(error) == "knots.divergence.jsonl:7: max_kl is -1"
    assert (error.path, error.line, error.reason) == ("knots.divergence.jsonl", 7, "max_kl is -1")


def test_a_suite_error_about_a_whole_file_names_no_line() -> None:
    assert str(SuiteError("knots.jsonl", None, "holds no case")) == "knots.jsonl: holds no case"


def test_a_suite_error_survives_the_way_from_a_worker_process() -> None:
    error = pickle.loads(pickle.dumps(SuiteError("knots.jsonl", 3, "not UTF-8")))
    assert str(error) == "knots.jsonl:3: not UTF-8"


@pytest.mark.parametrize(
    "name",
    [
        "SettingsError",
        "ModelLoadError",
        "TokenizerMismatchError",
        "NonFiniteLogitsError",
        "NoGradientError",
        "MeasurementError",
        "StoreError",
        "SuiteError",
    ],
)
def test_one_base_catches_every_error_of_the_package(name: str) -> None:
    assert issubclass(getattr(errors, name), DivergenceError)


def test_a_tokenizer_mismatch_is_a_load_error() -> None:
    assert issubclass(errors.TokenizerMismatchError, errors.ModelLoadError)
