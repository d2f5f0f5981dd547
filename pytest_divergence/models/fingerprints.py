"""Digests that identify a model, so that a stored number is never used for another model.

Names, sizes and headers stay equal across retrainings, so whole files are hashed; a memo by path
and state of a file makes that cheap the second time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from pytest_divergence.core.errors import ModelLoadError, StoreError
from pytest_divergence.core.files import user_cache, write_atomically
from pytest_divergence.core.regular_files import open_regular
from pytest_divergence.models.folder_files import TEMPLATES

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tekken.json",
    "chat_template.jinja",
)
BESIDE_TOKENIZER = (
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.json",
    "generation_config.json",  # says which tokens end an answer
)
"""Files that change how text is read or ends, but are not a tokenizer by themselves."""
FileState = tuple[int, int, int, int]
"""Size, times of content and inode, and inode number."""


@dataclass(frozen=True)
class ModelIdentity:
    """Identity of one model of a pair: shown to people, and digested for caches."""

    spec: str
    kind: str
    weights_sha256: str
    commit: str | None = None


def weights_digest(folder: Path) -> str:
    """sha256 over all safetensors files of a folder and the config beside them."""
    files = sorted(folder.glob("*.safetensors"))
    files += [p for p in (folder / "config.json", folder / "adapter_config.json") if p.is_file()]
    return _combined(files)


def tokenizer_digest(folder: Path) -> str:
    """sha256 over the tokenizer's files, among them chat templates and what ends an answer."""
    names = (*TOKENIZER_FILES, *BESIDE_TOKENIZER)
    files = [folder / name for name in names if (folder / name).is_file()]
    return _combined([*files, *sorted((folder / TEMPLATES).glob("*.jinja"))])


def file_state(path: Path) -> FileState:
    """State of a file by which a change shows, without reading it.

    Includes the inode's change time: a program that writes in place can set the content's time
    back, as `rsync --inplace --times` does, but not the inode's.
    """
    found = path.stat()
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


def file_digest(path: Path) -> str:
    """sha256 of a file's content, remembered in the user cache. Raises `ModelLoadError`."""
    identity = "|".join(map(str, (path.resolve(), *file_state(path))))
    name = hashlib.sha256(identity.encode()).hexdigest()[:32]
    with contextlib.suppress(StoreError, OSError, ValueError, KeyError, TypeError):
        memo = user_cache("digests") / name
        return json.loads(memo.read_text("utf-8"))["sha256"]  # type: ignore[no-any-return]
    try:
        with open_regular(path) as stream:
            digest = hashlib.file_digest(stream, "sha256")
    except OSError as error:
        raise ModelLoadError(f"{path} cannot be read: {error.strerror or error}") from None
    with contextlib.suppress(StoreError):  # an unwritable cache costs time, never correctness
        memo = user_cache("digests") / name
        write_atomically(memo, json.dumps({"file": path.name, "sha256": digest.hexdigest()}))
    return digest.hexdigest()


def text_digest(text: str) -> str:
    """sha256 of a text, in hex."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def hub_commit(folder: Path) -> str | None:
    """The commit of a folder inside the Hub cache, else None."""
    return folder.name if folder.parent.name == "snapshots" else None


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder holds a tokenizer: checkpoints of a training often have none."""
    return any((folder / name).is_file() for name in TOKENIZER_FILES)


def _combined(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.name}\0{file_digest(path)}\n".encode())
    return digest.hexdigest()
