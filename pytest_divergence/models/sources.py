"""A Hub id becomes a local folder; nothing else of the project talks to a model hub."""

from __future__ import annotations

from pathlib import Path

from pytest_divergence.core.errors import ModelLoadError

WANTED = ["*.json", "*.safetensors", "*.model", "*.jinja", "*.txt"]


def hub_folder(hub_id: str, *, revision: str | None, role: str) -> Path:
    """Download (or find in the Hub cache) the safe files of one model.

    Raises `ModelLoadError` saying which it is: no such model, gated, or no connection.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=WANTED))
    except GatedRepoError as error:
        raise ModelLoadError(
            f"{role}: {hub_id} is gated; accept its terms on its Hub page, then log in with "
            "`hf auth login`"
        ) from error
    except RevisionNotFoundError as error:
        raise ModelLoadError(f"{role}: {hub_id} has no revision {revision!r}") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise ModelLoadError(
            f"{role}: there is no folder {hub_id!r} here and no model of that name on the Hub "
            "(a private one needs `hf auth login`)"
        ) from error
    except (LocalEntryNotFoundError, OSError) as error:
        raise ModelLoadError(
            f"{role}: there is no folder {hub_id!r} here, it is not in the Hub cache, and the Hub "
            "cannot be reached; give a local folder, or check the name and the connection"
        ) from error


def cached_hub_folder(hub_id: str, *, revision: str | None) -> Path | None:
    """The model's folder in the Hub cache, weights and all; None: it must be downloaded first."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(hub_id, revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None
    return folder if any(folder.glob("*.safetensors")) else None
