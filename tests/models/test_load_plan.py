"""What two specs mean is answered once, and can be sent to where the pair is loaded."""

from __future__ import annotations

import pickle
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from pytest_divergence.models import load_plan, side_plan
from pytest_divergence.models.folder_checks import screen_model_folder
from pytest_divergence.models.load_plan import LoadContext, LoadOptions, LoadPlan, resolve_pair
from pytest_divergence.models.loading import load_model_pair, load_pair

CPU = LoadOptions(device="cpu")


def plan_of(tiny_models: Path, reference: str, candidate: str) -> LoadPlan:
    return resolve_pair(str(tiny_models / reference), str(tiny_models / candidate), CPU)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (side_plan, "weights_digest"),
        (side_plan, "weights_bytes"),
        (load_plan, "placement"),
        (load_plan, "named_dtype"),
    ],
    ids=lambda given: given if isinstance(given, str) else "",
)
def test_what_is_computed_is_computed_once(
    tiny_models: Path, monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str
) -> None:
    calls: list[object] = []
    original = getattr(module, name)

    def counting(*given: Any, **options: Any) -> Any:
        calls.append(given)
        return original(*given, **options)

    monkeypatch.setattr(module, name, counting)
    plan = plan_of(tiny_models, "base", "ft")
    assert not calls

    first = plan.identities, plan.weights, plan.placements, plan.dtypes
    num_calls = len(calls)
    again = plan.identities, plan.weights, plan.placements, plan.dtypes

    assert first == again
    assert len(calls) == num_calls > 0


def test_a_model_on_both_sides_is_screened_once(
    tiny_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    screened: list[str] = []

    def counting(folder: Path, *, role: str) -> dict[str, Any]:
        screened.append(f"{role} {folder.name}")
        return screen_model_folder(folder, role=role)

    monkeypatch.setattr(load_plan, "screen_model_folder", counting)
    plan = plan_of(tiny_models, "base", "base")

    assert screened == ["--model-1 base"]
    assert plan.has_one_model


@pytest.mark.parametrize("candidate", ["ft", "adapter"])
def test_a_plan_that_was_sent_loads_the_same_pair(tiny_models: Path, candidate: str) -> None:
    plan = plan_of(tiny_models, "base", candidate)
    _ = plan.identities, plan.weights, plan.attentions

    sent: LoadPlan = pickle.loads(pickle.dumps(plan))
    pair = load_pair(sent, LoadContext())

    here = load_model_pair(*(str(tiny_models / name) for name in ("base", candidate)), device="cpu")
    assert (pair.reference_identity, pair.candidate_identity) == plan.identities
    assert pair.reference_identity == here.reference_identity
    assert pair.candidate_identity == here.candidate_identity
    assert pair.dtype == here.dtype
