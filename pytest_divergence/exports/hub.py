"""Suites as datasets on the Hub: fetched as data alone, and pushed with a dataset card.

What is fetched is copied into the project, so that pytest finds the project's own settings, and its
provenance names the commit. No code of a dataset is read, let alone run. Knows the Hub; does not
know what a card says.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    DatasetCardData,
    HfApi,
    snapshot_download,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from pytest_divergence.core.errors import SettingsError, StoreError
from pytest_divergence.core.file_names import (
    PROVENANCE,
    SUITE_SUFFIX,
    TOKENS,
    from_here,
    is_on_hub,
    is_suite,
    on_hub,
    sidecar_path,
    suite_beside,
    suite_files,
)
from pytest_divergence.core.files import DivergenceFolder, make_folder, write_together
from pytest_divergence.core.json_files import document_data
from pytest_divergence.core.provenance import load_provenance
from pytest_divergence.core.regular_files import read_regular, read_regular_text
from pytest_divergence.core.safe_text import safe_line
from pytest_divergence.exports.features import columns

CARD = "README.md"
MARK = "<!-- made by pytest-divergence push; without this line it is never replaced -->"
"""Line of a card that a later push may replace."""
PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,200}", re.ASCII)
"""Pattern of the names of files that are fetched: none leads elsewhere, none is hidden."""
FETCHED = (SUITE_SUFFIX, f".{TOKENS}", f".{PROVENANCE}")
"""Endings of the names of files that are fetched."""
SHORT = 12
"""Digits of a commit in a folder's name."""


class Fetched(NamedTuple):
    """Copies of the suites of one dataset."""

    suites: list[Path]
    source: str
    """The dataset, pinned: `hf:owner/name@COMMIT`."""


class Upload(NamedTuple):
    """The files of a push."""

    dataset: str
    files: Mapping[str, bytes]
    """Content by name on the Hub, the card among them."""
    deleted: Sequence[str]
    """Names of the dataset's files that are of another suite, or of this one as it was."""

    @property
    def card(self) -> str:
        """Text of the dataset card."""
        return self.files[CARD].decode("utf-8")


def fetch(given: str, root: Path) -> Fetched:
    """Copy the suites that `hf:owner/name[@revision]` names into the project at `root`.

    The Hub's cache is used if there is no connection. Raises `SettingsError` where there is no such
    dataset, revision or suite, `SuiteError` for a provenance that cannot be read, and `StoreError`.
    """
    named = on_hub(given)
    if named is None:
        raise SettingsError(f"{given} must be hf:owner/name or hf:owner/name@revision")
    dataset = named["dataset"]
    folder = _snapshot(dataset, named["revision"])
    source = f"hf:{dataset}@{folder.name}"
    suites = sorted(path for path in folder.iterdir() if is_suite(path) and _is_plain(path))
    if not suites:
        raise SettingsError(
            f"{source} holds no *{SUITE_SUFFIX} in its root; push one with pytest-divergence push"
        )
    place = f"{dataset.replace('/', '--')}-{folder.name[:SHORT]}"
    target = make_folder(DivergenceFolder(root).hub / place, within=root)
    for suite in suites:
        write_together(_copies(suite, target, source))
    return Fetched([target / suite.name for suite in suites], source)


def with_copies(arguments: Sequence[str], root: Path, folder: Path) -> list[str]:
    """Return pytest's arguments with suites on the Hub replaced by their copies.

    `folder` is the one that paths are relative to. Raises as `fetch` does.
    """
    replaced = []
    for argument in arguments:
        if not is_on_hub(argument):
            replaced.append(argument)
            continue
        name, separator, item = argument.partition("::")
        suites = fetch(name, root).suites
        if separator and len(suites) > 1:
            raise SettingsError(
                f"{name} holds {len(suites)} suites, so {argument} does not tell which; run all, "
                "with -k"
            )
        replaced += [f"{os.path.relpath(suite, folder)}{separator}{item}" for suite in suites]
    return replaced


def prepare(suite: Path, dataset: str, text: str) -> Upload:
    """Return what a push of a suite would change: its files, a card with `text`, and old files.

    Raises `SettingsError` if datasets, which tells the columns, is not installed, and for a name
    that is not `owner/name`; `StoreError` with the Hub's reason.
    """
    if not is_on_hub(f"hf:{dataset}") or "@" in dataset or "::" in dataset:
        raise SettingsError(f"{safe_line(dataset)} must be owner/name")
    if not _is_plain(suite):
        raise SettingsError(
            f"the name of {suite} must be of letters, digits, `.`, `_` and `-`; rename it"
        )
    files = {
        path.name: read_regular(path) for path in reversed(suite_files(suite)) if path.exists()
    }
    files[CARD] = f"---\n{_metadata(suite, files)}\n---\n{MARK}\n\n{text}".encode()
    return Upload(dataset, files, _deleted(dataset, files))


def push(upload: Upload, *, is_private: bool) -> str:
    """Make the dataset if it is missing, change all files at once, and return the commit's address.

    A card that someone else wrote stays. Raises `StoreError` with the Hub's reason.
    """
    api, dataset = HfApi(), upload.dataset
    with _hub_errors(f"{dataset} was not pushed"):
        api.create_repo(dataset, repo_type="dataset", private=is_private or None, exist_ok=True)
        kept = {CARD} if _has_own_card(api, dataset) else set[str]()
        commit = api.create_commit(
            dataset,
            repo_type="dataset",
            operations=[
                *(
                    CommitOperationAdd(name, data)
                    for name, data in upload.files.items()
                    if name not in kept
                ),
                *(CommitOperationDelete(name) for name in upload.deleted),
            ],
            commit_message="Suite of pytest-divergence",
        )
    return str(commit.commit_url)


def _deleted(dataset: str, files: Mapping[str, bytes]) -> list[str]:
    """Return the names of a dataset's files, in its root, of suites that are not among `files`."""
    with _hub_errors(f"the files of {dataset} cannot be listed"):
        try:
            found = HfApi().list_repo_files(dataset, repo_type="dataset")
        except RepositoryNotFoundError:
            return []
    suites = {name for name in (*found, *files) if is_suite(name)}
    return [
        name
        for name in found
        if str(suite_beside(Path(name))) in suites and name not in files and "/" not in name
    ]


@contextmanager
def _hub_errors(problem: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # of whichever HTTP client the Hub's library uses
        raise StoreError(
            f"{problem}: {safe_line(str(error), 400)}; check the connection, log in with "
            "`hf auth login`, and check that you may write there"
        ) from error


def _snapshot(dataset: str, revision: str | None) -> Path:
    """Return the folder, named by its commit, with the data files of a dataset."""
    patterns = [f"*{ending}" for ending in FETCHED]
    try:
        return Path(
            snapshot_download(
                dataset, repo_type="dataset", revision=revision, allow_patterns=patterns
            )
        )
    except GatedRepoError as error:
        raise SettingsError(
            f"hf:{dataset} is gated; accept its terms on its Hub page, then log in with "
            "`hf auth login`"
        ) from error
    except RevisionNotFoundError as error:
        raise SettingsError(f"hf:{dataset} has no revision {revision}") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise SettingsError(
            f"there is no dataset {dataset} on the Hub (a private one needs `hf auth login`)"
        ) from error
    except (LocalEntryNotFoundError, OSError) as error:
        raise SettingsError(
            f"hf:{dataset} is not in the Hub cache, and the Hub cannot be reached; check the "
            "connection, HF_ENDPOINT and HF_HUB_OFFLINE"
        ) from error


def _copies(suite: Path, target: Path, source: str) -> dict[Path, bytes]:
    """Return the content of each file of a fetched suite; its provenance names the source."""
    copies = {}
    for path in suite_files(suite):
        if not path.exists():
            continue
        copies[target / path.name] = (
            document_data(path, load_provenance(path).model_copy(update={"source": source}))
            if path == sidecar_path(suite, PROVENANCE)
            else _content(path)
        )
    return copies


def _content(path: Path) -> bytes:
    try:
        return read_regular(path)
    except OSError as error:
        raise StoreError(f"cannot read {from_here(path)}: {error.strerror}") from error


def _is_plain(path: Path) -> bool:
    return PLAIN_NAME.fullmatch(path.name) is not None


def _metadata(suite: Path, files: Mapping[str, bytes]) -> str:
    """Return the front matter of a card: what the dataset viewer and `load_dataset` read."""
    kinds: dict[str, Any] = {"suite": suite.name}
    if (tokens := sidecar_path(suite, TOKENS).name) in files:
        kinds["tokens"] = tokens
    card = DatasetCardData(
        tags=["pytest-divergence"],
        configs=[
            {
                "config_name": kind,
                "data_files": [{"split": "test", "path": name}],
                **({"default": True} if kind == "suite" else {}),
            }
            for kind, name in kinds.items()
        ],
        dataset_info=[{"config_name": kind, **_columns(kind)} for kind in kinds],
    )
    return card.to_yaml()


def _columns(kind: Any) -> dict[str, Any]:
    from datasets import DatasetInfo

    found: dict[str, Any] = DatasetInfo(features=columns(kind))._to_yaml_dict()  # noqa: SLF001
    return found


def _has_own_card(api: HfApi, dataset: str) -> bool:
    """Whether a dataset has a card that no push has made."""
    try:
        path = api.hf_hub_download(dataset, CARD, repo_type="dataset")
    except LocalEntryNotFoundError:  # the Hub did not answer, which says nothing of a card
        raise
    except EntryNotFoundError:
        return False
    return MARK not in read_regular_text(path)
