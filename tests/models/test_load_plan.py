"""What two specs mean is answered once, and can be sent to where the pair is loaded."""

from __future__ import annotations

import json
import pickle
import shutil
import struct
from pathlib import Path

import torch
from safetensors.torch import load_file

from pytest_divergence.models.load_plan import LoadContext, LoadOptions, LoadPlan, resolve_pair
from pytest_divergence.models.loading import load_model_pair, load_pair


def test_a_plan_that_was_sent_loads_the_same_pair(tiny_models: Path) -> None:
    base, adapter = str(tiny_models / "base"), str(tiny_models / "adapter")
    plan = resolve_pair(base, adapter, LoadOptions(device="cpu"))
    _ = plan.identities, plan.weights, plan.attentions

    sent: LoadPlan = pickle.loads(pickle.dumps(plan))
    pair = load_pair(sent, LoadContext())

    here = load_model_pair(base, adapter, device="cpu")
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
    # A file that is not loaded makes no model large.
    mistral = with_large_file(small, tmp_path / "mistral", name="consolidated.safetensors")
    plan = resolve_pair(str(mistral), str(mistral), LoadOptions(device="meta"))
    assert plan.dtypes == (torch.float32, torch.float32)
