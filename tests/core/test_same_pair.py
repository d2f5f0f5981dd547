"""What tells two models apart is shown where they are named."""

from __future__ import annotations

from pytest_divergence.core.provenance import ModelProvenance, model_name


def test_an_adapter_that_was_trained_again_is_named_differently() -> None:
    """Its digest begins with its base's."""
    before, after = (
        ModelProvenance(spec="out", kind="adapter", weights_sha256=f"{'a' * 64}+{one * 64}")
        for one in "bc"
    )
    assert model_name(before) == '"out" aaaaaaaa+bbbbbbbb'
    assert model_name(after) == '"out" aaaaaaaa+cccccccc'


def test_a_model_is_named_by_the_start_of_its_digest_or_commit() -> None:
    assert model_name(ModelProvenance(spec="a", kind="folder", weights_sha256="b" * 64)) == (
        '"a" bbbbbbbb'
    )
    assert model_name(ModelProvenance(spec="a/b", kind="hub", commit="c" * 40)) == '"a/b" cccccccc'
    assert model_name(ModelProvenance(spec="mine:x", kind="mine")) == '"mine:x"'
