from __future__ import annotations

import errno
import os
import sys
import threading
import time
from pathlib import Path

import pytest

from pytest_divergence.core.errors import StoreError
from pytest_divergence.core.files import (
    DivergenceFolder,
    file_lock,
    latest_report_dir,
    sweep_strays,
    user_cache,
    user_cache_path,
    write_atomically,
)
from tests.core.dying_calls import is_killed_at


def test_a_file_is_replaced_as_a_whole_and_keeps_its_permissions(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_atomically(path, "old\n")
    (tmp_path / "any").touch()
    assert path.stat().st_mode == (tmp_path / "any").stat().st_mode
    path.chmod(0o640)
    write_atomically(path, "né\n")
    assert path.read_bytes() == b"n\xc3\xa9\n"
    write_atomically(path, b"\x00")
    assert path.read_bytes() == b"\x00"
    assert path.stat().st_mode & 0o777 == 0o640
    assert sorted(os.listdir(tmp_path)) == ["any", "x.json"]


def test_a_writer_killed_between_any_two_steps_leaves_old_or_new(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    seen = set()
    for call in range(20):
        path.write_text("old")
        is_killed = is_killed_at(call, lambda: write_atomically(path, "new " * 10_000))
        seen.add(path.read_text())
        if not is_killed:
            break
    assert not is_killed
    assert seen == {"old", "new " * 10_000}
    assert sweep_strays(tmp_path) == []
    assert sweep_strays(tmp_path, max_age=-1)
    assert os.listdir(tmp_path) == ["x.json"]


def test_what_a_killed_writer_left_goes_with_the_next_write_beside_it(tmp_path: Path) -> None:
    folder = DivergenceFolder(tmp_path)
    first = folder.new_report_dir("one")
    stray, young = (first / f".gone.json.{name}.divergence-tmp" for name in ("1", "2"))
    then = time.time() - 7200

    def leave() -> None:
        for path in (stray, young, first / ".other"):
            path.touch()
        os.utime(stray, (then, then))

    leave()
    write_atomically(first / "x.json", "new")
    assert sorted(os.listdir(first)) == [young.name, ".other", "x.json"]
    leave()
    folder.new_report_dir("two")
    assert sorted(os.listdir(first)) == [young.name, ".other", "x.json"]


@pytest.mark.skipif(os.name != "posix", reason="needs pwd")
def test_without_a_home_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pwd = pytest.importorskip("pwd")

    def unknown(number: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {number}")

    for name in ("HOME", "PYTEST_DIVERGENCE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    with pytest.raises(StoreError, match=r"no cache folder \(.*\); set PYTEST_"):
        user_cache_path()


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_full_disk_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "x.json"
    path.write_text("old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, step, full)
    with pytest.raises(StoreError) as caught:
        write_atomically(path, "new")
    assert str(caught.value) == f"cannot write {path}: No space left on device"
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["x.json"]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError) as caught:
        write_atomically(tmp_path / "no" / "x.json", "new")
    assert str(caught.value) == f"cannot write {tmp_path}/no/x.json: No such file or directory"


def test_the_folder_appears_on_use_only_and_git_ignores_it(tmp_path: Path) -> None:
    folder = DivergenceFolder(tmp_path)
    assert os.listdir(tmp_path) == []
    assert folder.suites == tmp_path / ".divergence" / "suites"
    assert folder.journal == tmp_path / ".divergence" / "journal"
    assert folder.reports == tmp_path / ".divergence" / "reports"
    assert all(path.is_dir() for path in (folder.suites, folder.journal, folder.reports))
    assert (tmp_path / ".divergence" / ".gitignore").read_text() == "*\n"


def test_latest_follows_the_last_run_and_a_taken_name_gets_a_number(tmp_path: Path) -> None:
    folder = DivergenceFolder(tmp_path)
    assert latest_report_dir(folder.reports) is None
    for name in ("run", "run-2", "run-3"):
        made = folder.new_report_dir("run")
        assert made.name == name
        assert latest_report_dir(folder.reports) == made
        assert os.readlink(folder.reports / "latest") == name
    assert sorted(os.listdir(folder.reports)) == ["latest", "run", "run-2", "run-3"]


def test_latest_is_a_file_where_links_are_not_to_be_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    folder = DivergenceFolder(tmp_path)
    folder.new_report_dir("first")
    monkeypatch.setattr(os, "symlink", refused)
    second = folder.new_report_dir("second")
    assert (folder.reports / "latest").read_text() == "second\n"
    assert latest_report_dir(folder.reports) == second


@pytest.mark.parametrize("name", ["latest", "../out", "/etc", "", "-x"])
def test_a_name_cannot_leave_its_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(StoreError, match="cannot name a folder here; use letters, digits"):
        DivergenceFolder(tmp_path).new_report_dir(name)


def test_reports_go_where_the_option_says(tmp_path: Path) -> None:
    folder = DivergenceFolder(tmp_path / "project", report_dir=tmp_path / "a" / "b")
    assert folder.new_report_dir("run") == tmp_path / "a" / "b" / "run"
    assert not (tmp_path / "project").exists()


def test_a_folder_that_is_in_the_way_is_named(tmp_path: Path) -> None:
    for name in ("elsewhere", "project", "out/latest"):
        (tmp_path / name).mkdir(parents=True)
    with pytest.raises(StoreError, match="latest is a folder, not the pointer to the last run"):
        DivergenceFolder(tmp_path, report_dir=tmp_path / "out").new_report_dir("run")
    assert os.listdir(tmp_path / "out") == ["latest"]

    (tmp_path / "project" / ".divergence").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match=r"suites leads out of .*project through a symbolic link"):
        _ = DivergenceFolder(tmp_path / "project").suites
    assert os.listdir(tmp_path / "elsewhere") == []

    (tmp_path / "file").touch()
    with pytest.raises(StoreError) as caught:
        _ = DivergenceFolder(tmp_path / "file").journal
    assert str(caught.value) == (
        f"cannot make the folder {tmp_path}/file/.divergence/journal: Not a directory"
    )


@pytest.mark.skipif(sys.platform != "linux", reason="the folder's place differs by system")
def test_the_user_cache_is_the_systems_or_the_variables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTEST_DIVERGENCE_CACHE", str(tmp_path / "cache"))
    assert user_cache("weights", "abc") == tmp_path / "cache" / "weights" / "abc"
    assert user_cache("weights", "abc").is_dir()
    with pytest.raises(StoreError, match=r'"\.\./x" cannot name a folder here'):
        user_cache("../x")
    monkeypatch.delenv("PYTEST_DIVERGENCE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert user_cache() == tmp_path / "pytest-divergence"


def test_a_held_lock_says_so_then_gives_up(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    waited: list[Path] = []
    errors: list[StoreError] = []

    def take() -> None:
        try:
            with file_lock(path, timeout=0.05, on_wait=waited.append):
                pass
        except StoreError as error:
            errors.append(error)

    with file_lock(path, timeout=0, on_wait=waited.append):
        assert waited == [], "a free lock is taken without a word"
        other = threading.Thread(target=take)
        other.start()
        other.join()
    assert waited == [path]
    assert [str(error) for error in errors] == [
        f"another process still holds {path} after 0.05 s; wait for it to finish, or stop it"
    ]
    with file_lock(path, timeout=0):
        pass


def test_a_lock_in_a_missing_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "x.lock"
    with (
        pytest.raises(StoreError, match=r"cannot lock .*file/x\.lock: "),
        file_lock(path, timeout=0),
    ):
        pass
