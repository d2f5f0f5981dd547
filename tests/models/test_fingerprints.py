"""Digests of model folders: any changed byte shows."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from pytest_divergence.core.files import user_cache
from pytest_divergence.models.fingerprints import hub_commit, tokenizer_digest, weights_digest


@pytest.fixture
def folder(tiny_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYTEST_DIVERGENCE_CACHE", str(tmp_path / "cache"))
    return Path(shutil.copytree(tiny_models / "base", tmp_path / "model"))


def flip_last_byte(path: Path) -> None:
    """As a retraining does: same name, same size, same header."""
    with path.open("r+b") as file:
        file.seek(-1, 2)
        last = file.read(1)
        file.seek(-1, 2)
        file.write(bytes([last[0] ^ 1]))


def test_a_change_in_place_shows_though_its_time_was_set_back(folder: Path) -> None:
    """As `rsync --inplace --times` does: size, inode and time of the content stay as they were."""
    file = folder / "model.safetensors"
    before, was = weights_digest(folder), file.stat()

    flip_last_byte(file)
    os.utime(file, ns=(was.st_atime_ns, was.st_mtime_ns))

    now = file.stat()
    assert (now.st_size, now.st_mtime_ns, now.st_ino) == (was.st_size, was.st_mtime_ns, was.st_ino)
    assert weights_digest(folder) != before


def test_a_digest_follows_the_content_and_not_the_place(folder: Path, tiny_models: Path) -> None:
    before, tokenizer = weights_digest(folder), tokenizer_digest(folder)
    assert before == weights_digest(tiny_models / "base")

    flip_last_byte(folder / "tokenizer.json")
    assert weights_digest(folder) == before
    digests = [tokenizer, tokenizer_digest(folder)]
    (folder / "chat_template.jinja").write_text("changed")
    assert len({*digests, tokenizer_digest(folder)}) == 3

    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace('"rms_norm_eps": 1e-06', '"rms_norm_eps": 2'))
    assert (folder / "config.json").read_text() != text
    assert weights_digest(folder) != before


def test_a_second_digest_reads_the_memo(folder: Path) -> None:
    before = weights_digest(folder)
    for memo in user_cache("digests").iterdir():
        memo.write_text(json.dumps({"sha256": "another"}))

    assert weights_digest(folder) != before


def test_a_damaged_memo_or_an_unusable_cache_costs_time_not_correctness(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = weights_digest(folder)
    for damage in ("", "{", "[]", "{}"):
        for memo in user_cache("digests").iterdir():
            memo.write_text(damage)
        assert weights_digest(folder) == before
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PYTEST_DIVERGENCE_CACHE", str(tmp_path / "file" / "cache"))
    assert weights_digest(folder) == before


def test_a_commit_is_known_inside_a_hub_cache_only(tmp_path: Path) -> None:
    assert hub_commit(tmp_path / "models--a--b" / "snapshots" / "abc") == "abc"
    assert hub_commit(tmp_path) is None
