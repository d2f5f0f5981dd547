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
@pytest.mark.parametrize("kind", STRANGE)
def test_what_is_no_regular_file_is_not_read(tmp_path: Path, kind: str) -> None:
    STRANGE[kind](tmp_path / "x")

    with pytest.raises(OSError, match=f"it is {kind}, not a regular file"):
        read_regular(tmp_path / "x")


@pytest.mark.timeout(20)
def test_each_reader_says_that_a_file_is_none(tmp_path: Path) -> None:
    for name, read in READERS.items():
        make_fifo(tmp_path / name)
        with pytest.raises((SuiteError, SettingsError)) as caught:
            read(tmp_path / name)
        assert "cannot be read: it is a FIFO, not a regular file" in str(caught.value)


def test_a_huge_file_is_not_read_to_its_end(tmp_path: Path) -> None:
    (tmp_path / "x.txt").touch()
    os.truncate(tmp_path / "x.txt", 20 << 30)

    with pytest.raises(SettingsError, match="cannot be read: it is longer than 64 MiB"):
        read_seeds(str(tmp_path / "x.txt"))
    with pytest.raises(StoreError, match=r"x.txt is longer than 1024 MiB; remove it"):
        Journal.open(tmp_path / "x.txt", key="k")


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
def test_what_is_no_regular_file_of_ours_is_not_written(tmp_path: Path, writer: str) -> None:
    for kind, make in STRANGE.items():
        path = tmp_path / kind
        make(path)
        with pytest.raises(StoreError) as caught:
            WRITERS[writer](path)
        what = "a symbolic link" if kind == "a device" else kind
        assert f"{path}: it is {what}, not a regular file" in str(caught.value)
        assert os.path.lexists(path)

    for target in ("outside/kept", "outside/new", "itself"):
        (tmp_path / "itself").unlink(missing_ok=True)
        (tmp_path / "itself").symlink_to(target)
        with pytest.raises(StoreError, match="it is a symbolic link, not a regular file"):
            WRITERS[writer](tmp_path / "itself")

    if writer != "file":  # which is replaced, so its other name keeps what it has
        os.link(tmp_path / "outside/kept", tmp_path / "x")
        with pytest.raises(StoreError, match="it is a hard link, so another name leads to it too"):
            WRITERS[writer](tmp_path / "x")
    assert (tmp_path / "outside/kept").read_text() == PRECIOUS
    assert os.listdir(tmp_path / "outside") == ["kept"]


@pytest.mark.timeout(20)
@pytest.mark.parametrize("is_link", [True, False])
def test_latest_names_a_run_beside_it_or_nothing(tmp_path: Path, is_link: bool) -> None:
    reports = tmp_path / "reports"
    reports.mkdir()
    (tmp_path / "outside/report.json").write_text("{}")
    (reports / "run").symlink_to("../outside")

    for name in (str(tmp_path / "outside"), "../outside", "run", "latest", ".."):
        (reports / "latest").unlink(missing_ok=True)
        if is_link:
            (reports / "latest").symlink_to(name)
        else:
            (reports / "latest").write_text(name + "\n")
        for find in (latest_report_dir, lambda path: report_path(path / "latest")):
            with pytest.raises(StoreError, match=r"latest names .* not a run's folder beside it"):
                find(reports)
    (reports / "latest").unlink()
    make_fifo(reports / "latest")
    with pytest.raises(StoreError, match=r"cannot read .*latest: it is a FIFO"):
        latest_report_dir(reports)


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
