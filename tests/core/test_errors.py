from __future__ import annotations

import pickle

from pytest_divergence.core import errors
from pytest_divergence.core.errors import DivergenceError, SuiteError


def test_a_suite_error_reads_as_a_link_and_survives_the_way_from_a_worker_process() -> None:
    path = "knots.divergence.jsonl"
    error = pickle.loads(pickle.dumps(SuiteError(path, 7, "max_kl is -1")))
    assert str(error) == "knots.divergence.jsonl:7: max_kl is -1"
    assert (error.path, error.line, error.reason) == (path, 7, "max_kl is -1")
    assert str(SuiteError("knots.jsonl", None, "holds no case")) == "knots.jsonl: holds no case"


def test_one_base_catches_every_error_of_the_package() -> None:
    found = [one for one in vars(errors).values() if isinstance(one, type)]
    own = [one for one in found if one.__module__ == errors.__name__]
    assert len(own) > 8
    assert [one for one in own if not issubclass(one, DivergenceError)] == []
    assert issubclass(errors.TokenizerMismatchError, errors.ModelLoadError)
