"""What is no regular file is refused at once, and nothing is written through a link."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_divergence.core.errors import SettingsError, StoreError, SuiteError
from pytest_divergence.core.files import (
    DivergenceFolder,
    file_lock,
    latest_report_dir,
    make_folder,
    write_atomically,
)
from pytest_divergence.core.journal import Journal
from pytest_divergence.core.json_files import load_document
from pytest_divergence.core.provenance import load_provenance
from pytest_divergence.core.regular_files import append_at_once, read_regular, read_regular_text
from pytest_divergence.core.report import load_report, report_path
from pytest_divergence.core.suites import load_suite
from pytest_divergence.core.tokens import load_tokens
from pytest_divergence.core.training_record import TrainingRecord
from pytest_divergence.discovery.contexts.context_files import read_contexts
from pytest_divergence.discovery.prompt_files import read_prompts, read_seeds
from pytest_divergence.discovery.training_data import read_training_data

PRECIOUS = "precious\n"


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def make_directory(path: Path) -> None:
    path.mkdir()


def make_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(os.path.relpath(path))  # the name of a socket has at most 107 bytes


STRANGE = {
    "a FIFO": make_fifo,
    "a directory": make_directory,
    "a device": make_device,
    "a socket": make_socket,
}
READERS: dict[str, Callable[[Path], object]] = {
    "x.divergence.jsonl": load_suite,
    "x.tokens.jsonl": load_tokens,
    "x.provenance.json": load_provenance,
    "report.json": load_report,
    "training.json": lambda path: load_document(path, TrainingRecord),
    "seeds.jsonl": read_prompts,
    "seeds.csv": read_prompts,
    "seeds.txt": lambda path: read_seeds(str(path)),
    "train.jsonl": read_training_data,
    "train.csv": read_training_data,
    "contexts.txt": read_contexts,
}


@pytest.fixture(autouse=True)
def _in_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/kept").write_text(PRECIOUS)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("kind", STRANGE)
def test_what_is_no_regular_file_is_not_read(tmp_path: Path, name: str, kind: str) -> None:
    STRANGE[kind](tmp_path / name)

    with pytest.raises((SuiteError, SettingsError)) as caught:
        READERS[name](tmp_path / name)
    assert f"cannot be read: it is {kind}, not a regular file" in str(caught.value)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", [name for name in READERS if name.startswith(("seeds", "train."))])
def test_a_huge_file_of_prompts_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    os.truncate(tmp_path / name, 20 << 30)

    with pytest.raises(SettingsError, match="cannot be read: it is longer than 64 MiB"):
        READERS[name](tmp_path / name)


def test_a_link_to_a_regular_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("outside/kept")

    assert read_regular(tmp_path / "link") == PRECIOUS.encode()


def test_a_name_that_is_no_path_is_an_error_like_any_other() -> None:
    for name in ("a\x00b", "a\ud800b"):
        with pytest.raises(SettingsError) as caught:
            read_seeds(name)
        assert str(caught.value).endswith("cannot be read: it is not a path")
        assert str(caught.value).isprintable()
        with pytest.raises(StoreError, match=r"cannot make the folder .*: it is not a path"):
            make_folder(Path(name), within=Path())


def test_text_has_plain_line_ends_and_no_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"\xef\xbb\xbfa\r\nb\rc\n")
    (tmp_path / "latin").write_bytes(b"caf\xe9")

    assert read_regular_text(tmp_path / "x") == "a\nb\nc\n"
    with pytest.raises(OSError, match="it is not UTF-8"):
        read_regular_text(tmp_path / "latin")


WRITERS: dict[str, Callable[[Path], object]] = {
    "file": lambda path: write_atomically(path, "new"),
    "journal": lambda path: Journal.open(path, key="k"),
    "lock": lambda path: file_lock(path, timeout=0).__enter__(),
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("kind", STRANGE)
def test_what_is_no_regular_file_is_not_written(tmp_path: Path, writer: str, kind: str) -> None:
    path = tmp_path / "x"
    STRANGE[kind](path)
    before = path.lstat()

    with pytest.raises(StoreError) as caught:
        WRITERS[writer](path)
    what = "a symbolic link" if kind == "a device" else kind
    assert f"{path}: it is {what}, not a regular file" in str(caught.value)
    assert path.lstat().st_ino == before.st_ino


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("target", ["outside/kept", "outside/new", "x"])
def test_a_link_is_not_written_through(tmp_path: Path, writer: str, target: str) -> None:
    (tmp_path / "x").symlink_to(target)

    with pytest.raises(StoreError, match="it is a symbolic link, not a regular file"):
        WRITERS[writer](tmp_path / "x")
    assert (tmp_path / "outside/kept").read_text() == PRECIOUS
    assert os.listdir(tmp_path / "outside") == ["kept"]


@pytest.mark.parametrize("writer", ["journal", "lock"])
def test_a_file_that_lies_elsewhere_too_is_left_alone(tmp_path: Path, writer: str) -> None:
    os.link(tmp_path / "outside/kept", tmp_path / "x")

    with pytest.raises(StoreError, match="it is a hard link, so another name leads to it too"):
        WRITERS[writer](tmp_path / "x")
    assert (tmp_path / "outside/kept").read_text() == PRECIOUS


def test_a_huge_journal_is_refused_and_not_read(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    os.truncate(tmp_path / "x", 20 << 30)

    with pytest.raises(StoreError, match="x is longer than 1024 MiB; remove it"):
        Journal.open(tmp_path / "x", key="k")


@pytest.mark.parametrize("is_link", [True, False])
@pytest.mark.parametrize(
    "name", ["{outside}", "../outside", "outside/../../outside", "latest", ".."]
)
def test_latest_names_a_run_beside_it_or_nothing(tmp_path: Path, name: str, is_link: bool) -> None:
    reports = tmp_path / "reports"
    reports.mkdir()
    (tmp_path / "outside/report.json").write_text("{}")
    name = name.format(outside=tmp_path / "outside")
    if is_link:
        (reports / "latest").symlink_to(name)
    else:
        (reports / "latest").write_text(name + "\n")

    for find in (latest_report_dir, lambda path: report_path(path / "latest")):
        with pytest.raises(StoreError, match=r"latest names .* not a run's folder beside it"):
            find(reports)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", ["a FIFO", "a socket"])
def test_latest_is_read_where_it_is_a_file(tmp_path: Path, kind: str) -> None:
    STRANGE[kind](tmp_path / "latest")

    with pytest.raises(StoreError, match=f"cannot read .*latest: it is {kind}"):
        latest_report_dir(tmp_path)


def test_a_run_that_is_a_link_is_not_the_last_one(tmp_path: Path) -> None:
    (tmp_path / "run").symlink_to("outside")
    (tmp_path / "latest").symlink_to("run")

    with pytest.raises(StoreError, match="which is not a run's folder beside it"):
        latest_report_dir(tmp_path)


def test_a_report_folder_inside_the_project_stays_there(tmp_path: Path) -> None:
    root = tmp_path / "project"
    root.mkdir()
    (root / "out").symlink_to(tmp_path / "outside")
    (root / "here").mkdir()
    (root / "inside").symlink_to("here")

    for place in (root / "out", root / "out/deeper"):
        with pytest.raises(StoreError, match=r"leads out of .*project through a symbolic link"):
            _ = DivergenceFolder(root, report_dir=place).reports
    assert os.listdir(tmp_path / "outside") == ["kept"]
    assert DivergenceFolder(root, report_dir=root / "inside/run").reports.is_dir()


@pytest.mark.timeout(20)
def test_nothing_waits_for_a_reader(tmp_path: Path) -> None:
    make_fifo(tmp_path / "x")

    with pytest.raises(OSError, match="No such device or address"):
        append_at_once(tmp_path / "x", b"text")
    reader = os.open(tmp_path / "x", os.O_RDONLY | os.O_NONBLOCK)
    append_at_once(tmp_path / "x", b"text")
    assert os.read(reader, 10) == b"text"
    with pytest.raises(OSError):  # noqa: PT011  # what the system says of a full pipe
        append_at_once(tmp_path / "x", b"x" * (1 << 20))
    os.close(reader)
