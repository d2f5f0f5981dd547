"""What the numbers of a suite depend on, as the record that stands beside it."""

from __future__ import annotations

from datetime import UTC, datetime

from pytest_divergence.core.provenance import ModelProvenance, Provenance
from pytest_divergence.core.settings import Settings
from pytest_divergence.discovery.identity import RunIdentity, versions
from pytest_divergence.models.chat import FROZEN_ARGUMENTS
from pytest_divergence.models.fingerprints import ModelIdentity

NOT_OF_A_SUITE = {"update", "fill", "redact"}
"""Settings of how a session went about it: the same suite comes of any of them."""


def provenance_of(
    identity: RunIdentity,
    settings: Settings,
    *,
    key: str,
    dtype: str,
    template_sha256: str | None,
) -> Provenance:
    """The record of these models and settings, as of now; measured parts are still to come."""
    return Provenance(
        tool_version=versions()["pytest-divergence"],
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        key=key,
        reference=_model(identity.reference),
        candidate=_model(identity.candidate),
        tokenizer_sha256=identity.tokenizer_sha256,
        template_sha256=template_sha256,
        template_arguments=dict(FROZEN_ARGUMENTS),
        dtype=dtype,
        device=identity.device,
        versions=versions(),
        settings=settings.model_dump(mode="json", exclude=NOT_OF_A_SUITE),
    )


def _model(identity: ModelIdentity) -> ModelProvenance:
    return ModelProvenance(
        spec=identity.spec,
        kind=identity.kind,
        weights_sha256=identity.weights_sha256,
        commit=identity.commit,
    )
