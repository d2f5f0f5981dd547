"""What two specs mean is answered once, and can be sent to where the pair is loaded."""

from __future__ import annotations

import json
import pickle
import shutil
import struct
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

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


def with_large_file(folder: Path, to: Path, *, name: str = "model.safetensors") -> Path:
    """A copy with a file of as many tensors, and 5 GiB that the disk doesn't hold."""
    shutil.copytree(folder, to)
    weights = load_file(folder / "model.safetensors")
    ends = [5 * 2**30 + 4 * number for number in range(len(weights))]
    starts = [0, *ends]
    header = json.dumps(
        {
            key: {"dtype": "F32", "shape": [(end - start) // 4], "data_offsets": [start, end]}
            for key, start, end in zip(weights, starts, ends, strict=False)
        }
    ).encode()
    with (to / name).open("wb") as stream:
        stream.write(struct.pack("<Q", len(header)) + header)
        stream.truncate(8 + len(header) + ends[-1])
    return to


def test_both_models_are_loaded_in_bfloat16_where_the_larger_one_is(
    tiny_models: Path, tmp_path: Path
) -> None:
    """Of two dtypes, rounding would be measured instead of the models."""
    small = tiny_models / "base"
    large = with_large_file(small, tmp_path / "large")

    for model_1, model_2 in ((small, large), (large, small)):
        plan = resolve_pair(str(model_1), str(model_2), LoadOptions(device="meta"))
        assert plan.dtypes == (torch.bfloat16, torch.bfloat16)


def test_a_file_that_is_not_loaded_does_not_make_a_model_large(
    tiny_models: Path, tmp_path: Path
) -> None:
    folder = with_large_file(
        tiny_models / "base", tmp_path / "mistral", name="consolidated.safetensors"
    )
    plan = resolve_pair(str(folder), str(folder), LoadOptions(device="meta"))
    assert plan.dtypes == (torch.float32, torch.float32)
