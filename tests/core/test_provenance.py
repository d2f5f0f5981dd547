from __future__ import annotations

import json
from pathlib import Path

import pytest

from pytest_divergence.core.behaviours import Behaviour, TellingContinuation
from pytest_divergence.core.errors import SuiteError
from pytest_divergence.core.provenance import (
    Bound,
    ModelProvenance,
    NoiseFloor,
    Provenance,
    TypicalShift,
    load_provenance,
    write_provenance,
)

PROVENANCE = Provenance(
    tool_version="0.1.0",
    created="2026-01-02T03:04:05+00:00",
    key="0123abcd",
    reference=ModelProvenance(spec="org/base", kind="hub", commit="abc"),
    candidate=ModelProvenance(spec="./tuned", kind="folder", weights_sha256="def"),
    tokenizer_sha256="123",
    template_arguments={"enable_thinking": False},
    dtype="float32",
    device="cpu",
    noise_floor=NoiseFloor(value=1e-7, num_measurements=59),
    typical_shift=TypicalShift(mean=0.1, p99=0.3, max=0.4, num_controls=64),
    bound=Bound(value=0.6, parts={"noise_floor": 3e-7, "typical_shift": 0.6}, label="maximum"),
    nll_limit=6.5,
    behaviours=[
        Behaviour(
            id="behaviour-x-0123456789",
            name="x",
            content=True,
            telling=[TellingContinuation(prompt="p", text="x…", token_ids=[3], log_ratio=12.5)],
        )
    ],
)


def test_a_provenance_reads_back_and_holds_its_keys_in_this_order(tmp_path: Path) -> None:
    path = tmp_path / "s.provenance.json"
    write_provenance(path, PROVENANCE)
    assert load_provenance(path) == PROVENANCE
    keys = (
        "schema_version tool_version created key reference candidate tokenizer_sha256 "
        "template_sha256 template_arguments dtype device versions settings "
        "training_data_sha256 contexts_sha256 noise_floor typical_shift bound nll_limit behaviours "
        "rows num_rows effort source"
    )
    assert list(json.loads(path.read_text())) == keys.split()


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"schema_version": 2}, "schema_version is 2, but this pytest-divergence knows versions"),
        ({"bound": {"value": 1, "parts": {"x": "y"}}}, 'bound.parts.x is "y"; it should be a'),
    ],
)
def test_a_faulty_file_says_where(tmp_path: Path, change: dict[str, object], fault: str) -> None:
    path = tmp_path / "s.provenance.json"
    path.write_text(json.dumps({**PROVENANCE.model_dump(mode="json"), **change}))
    with pytest.raises(SuiteError) as caught:
        load_provenance(path)
    assert str(caught.value).startswith(f"{path}: {fault}")


def test_a_model_is_named_by_the_start_of_its_digest_or_commit() -> None:
    """An adapter's digest begins with its base's, and one that was trained again is another."""
    adapter = ModelProvenance(spec="out", kind="adapter", weights_sha256=f"{'a' * 64}+{'b' * 64}")
    assert str(adapter) == '"out" aaaaaaaa+bbbbbbbb'
    assert str(ModelProvenance(spec="a", kind="folder", weights_sha256="b" * 64)) == (
        '"a" bbbbbbbb'
    )
    assert str(ModelProvenance(spec="a/b", kind="hub", commit="c" * 40)) == '"a/b" cccccccc'
    assert str(ModelProvenance(spec="mine:x", kind="mine")) == '"mine:x"'
