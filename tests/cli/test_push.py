"""A suite goes to the Hub and comes back: pushed, replayed and promoted by its name there."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_divergence import suite_features
from pytest_divergence.cli import main
from pytest_divergence.core.cases import case_id
from pytest_divergence.core.provenance import load_provenance, write_provenance
from pytest_divergence.core.suites import read_suite
from pytest_divergence.exports.hub import MARK
from tests.core.made_suites import KNOT, SURE, case, write_searched
from tests.hub import DatasetHub, serving, use
from tests.plugin.conftest import MODELS, Project, shown

datasets = pytest.importorskip("datasets")  # here: it cannot be imported twice
NAME = "owner/release"
SUITE = Path("tests/release.divergence.jsonl")
NAMES = ["release.divergence.jsonl", "release.provenance.json", "release.tokens.jsonl"]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DatasetHub]:
    with serving() as hub:
        use(hub.address, str(tmp_path / "hub-cache"), monkeypatch)
        yield hub


@pytest.fixture
def suite(project: Project) -> Path:
    """A suite of one case that was measured on `base` and `ft`."""
    project.write_suite(str(SUITE), {"input": KNOT, "max_kl": 9.0})
    project.run(*MODELS, str(SUITE), "--divergence-fill").assert_outcomes(passed=1)
    return SUITE


def test_a_suite_is_pushed_and_replayed_from_the_hub(
    hub: DatasetHub, project: Project, suite: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["push", str(suite), NAME]) == 0

    said = capsys.readouterr().out
    commit = hub.head(NAME)
    assert sorted(hub.files(NAME)) == [".gitattributes", "README.md", *NAMES]
    for name in NAMES:
        assert hub.files(NAME)[name] == suite.with_name(name).read_bytes()
    assert hub.private == {NAME: False}
    assert f"pushed: {hub.address}/datasets/{NAME}/commit/{commit}\n" in said
    assert "Prompts, answers and model names in it can be read by all who" in said

    result = project.run(f"hf:{NAME}", *MODELS, "-v", "-W", "default")

    result.assert_outcomes(passed=2, warnings=1)
    copy = f".divergence/hub/owner--release-{commit[:12]}/release.divergence.jsonl"
    result.stdout.fnmatch_lines([f"{copy}::{case_id(KNOT)} PASSED*"])
    pinned = load_provenance(Path(copy).with_name("release.provenance.json"))
    assert pinned.source == f"hf:{NAME}@{commit}"
    assert (project.path / ".divergence/.gitignore").read_text() == "*\n"

    assert main(["replay", f"hf:{NAME}@{commit}::{case_id(KNOT)}", *MODELS]) == 0


def test_a_pinned_revision_stays_and_an_unpinned_one_moves(
    hub: DatasetHub, project: Project, suite: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["push", str(suite), NAME])
    before = hub.head(NAME)
    row = json.loads(suite.read_text("utf-8")) | {"max_kl": 0.001}
    hub.commit(NAME, {"release.divergence.jsonl": (json.dumps(row) + "\n").encode()})
    capsys.readouterr()

    assert main(["diff", f"hf:{NAME}@{before}", f"hf:{NAME}"]) == 1

    shown = capsys.readouterr()
    assert f"hf:{NAME} is hf:{NAME}@{hub.head(NAME)}\n" in shown.err
    assert "max_kl" in shown.out
    project.run(f"hf:{NAME}@{before}", *MODELS, "-k", "knot").assert_outcomes(
        passed=1, deselected=1
    )
    project.run(f"hf:{NAME}", *MODELS, "-k", "knot").assert_outcomes(failed=1, deselected=1)


def test_the_hub_s_cache_serves_without_a_connection(
    hub: DatasetHub,
    project: Project,
    suite: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    main(["push", str(suite), NAME])
    project.run(f"hf:{NAME}", *MODELS, "-k", "knot").assert_outcomes(passed=1, deselected=1)

    use("http://127.0.0.1:9", str(tmp_path / "hub-cache"), monkeypatch)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    project.run(f"hf:{NAME}", *MODELS, "-k", "knot").assert_outcomes(passed=1, deselected=1)


def test_a_promoted_suite_remembers_where_it_is_from(
    hub: DatasetHub, project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    searched = write_searched(project.path / "found.divergence.jsonl", [case(KNOT, 0.8)])
    assert main(["push", str(searched), NAME]) == 0

    assert main(["promote", f"hf:{NAME}", "tests/mine.divergence.jsonl"]) == 0

    stored = read_suite(project.path / "tests/mine.divergence.jsonl")
    assert stored.provenance is not None
    assert stored.provenance.source == f"hf:{NAME}@{hub.head(NAME)}"
    capsys.readouterr()
    assert main(["accept", "behaviour-x", f"hf:{NAME}"]) == 1
    assert capsys.readouterr().err == (
        f"error: hf:{NAME} is a suite on the Hub, and its copies here are replaced; promote it "
        "into a suite of your own, and accept there\n"
    )


def test_a_dry_run_shows_all_and_pushes_nothing(
    hub: DatasetHub, suite: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["push", str(suite), NAME, "--dry-run", "--private"]) == 0

    said = capsys.readouterr().out
    assert said.startswith(f"would be pushed to the dataset {NAME}, from tests:\n")
    for name in NAMES:
        size = f"{suite.with_name(name).stat().st_size:,} bytes"
        assert re.search(rf"^  {name} +{size}$", said, re.MULTILINE)
    assert "A dataset that is made for it is private.\n" in said
    assert f"\n{MARK}\n\n# release.divergence.jsonl\n" in said
    assert "configs:\n- config_name: suite\n" in said
    assert hub.told == []
    assert hub.commits == {}


def test_a_private_dataset_is_made_private_and_a_written_card_stays(
    hub: DatasetHub, suite: Path
) -> None:
    assert main(["push", str(suite), NAME, "--private"]) == 0
    assert hub.private == {NAME: True}
    first = hub.files(NAME)["README.md"]

    assert main(["push", str(suite), NAME]) == 0
    assert hub.files(NAME)["README.md"] == first
    hub.commit(NAME, {"README.md": b"# Mine\n"})
    assert main(["push", str(suite), NAME]) == 0
    assert hub.files(NAME)["README.md"] == b"# Mine\n"


def test_a_dataset_holds_the_suite_that_was_pushed_last_and_nothing_of_one_before(
    hub: DatasetHub,
    project: Project,
    suite: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    old = ["old.divergence.jsonl", "old.reference.json", "release.reference.json"]
    code = {"conftest.py": b"raise SystemExit('code ran')\n", "pytest.ini": b"[pytest]\n"}
    others = {"notes.md": b"Mine\n", "archive/old.divergence.jsonl": b"{}\n", **code}
    hub.commit(NAME, dict.fromkeys(old, b"{}\n") | others)
    before = hub.files(NAME)

    assert main(["push", str(suite), NAME, "--dry-run"]) == 0
    said = capsys.readouterr().out
    for name in old:
        assert re.search(rf"^  {re.escape(name)} +deleted$", said, re.MULTILINE)
    assert said.count(" deleted\n") == len(old)
    assert hub.files(NAME) == before

    assert main(["push", str(suite), NAME]) == 0
    assert sorted(hub.files(NAME)) == sorted(["README.md", *NAMES, *others])
    project.run(f"hf:{NAME}", *MODELS, "-k", "knot").assert_outcomes(passed=1, deselected=1)
    for kept in (tmp_path / "hub-cache", project.path / ".divergence/hub"):
        fetched = {each.name for each in kept.glob("**/*")}
        assert fetched & {*NAMES} == {*NAMES}
        assert not fetched & code.keys(), "nothing but data is fetched"


def test_datasets_reads_what_was_pushed(
    hub: DatasetHub, suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    main(["push", str(suite), NAME])
    folder = tmp_path / "downloaded"
    folder.mkdir()
    for name, data in hub.files(NAME).items():
        (folder / name).write_bytes(data)

    rows: Any = datasets.load_dataset(str(folder), split="test")
    tokens: Any = datasets.load_dataset(str(folder), "tokens", split="test")

    stored = read_suite(suite)
    assert [row["input"] for row in rows] == [KNOT]
    value = json.loads(suite.read_text("utf-8"))["kl"]["value"]
    assert rows[0]["kl"]["value"] == pytest.approx(value, rel=1e-8)
    assert rows.features == suite_features()
    assert tokens[0]["candidate"] == [list(ids) for ids in stored.tokens[case_id(KNOT)].candidate]


def test_a_model_s_words_do_nothing_in_a_card(
    hub: DatasetHub, project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    hostile = "</details><script>x</script>\n# Free money\n---\n![](https://example.org/i.png)"
    searched = write_searched(project.path / "found.divergence.jsonl", [case(KNOT, 0.8)])
    path = project.path / "found.provenance.json"
    made = load_provenance(path)
    behaviour = SURE.model_copy(update={"name": hostile, "phrase": hostile, "motifs": [hostile]})
    spec = made.candidate.model_copy(update={"spec": "a`b](https://example.org)"})
    write_provenance(path, made.model_copy(update={"behaviours": [behaviour], "candidate": spec}))

    assert main(["push", str(searched), NAME]) == 0

    card = hub.files(NAME)["README.md"].decode()
    outside = re.sub(r"^(```+).*?^\1$", "", card, flags=re.DOTALL | re.MULTILINE)
    outside = re.sub(r"(`+)[^`].*?[^`]\1", "", outside)
    assert card.count("\n---\n") == 1
    for part in ("<script", "Free money", "example.org"):
        assert part in card
        assert part not in outside


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (
            "hf:owner/nothing",
            "there is no dataset owner/nothing on the Hub (a private one needs `hf",
        ),
        ("hf:owner/other@v1", "hf:owner/other has no revision v1"),
        ("hf:owner/other", "holds no *.divergence.jsonl in its root; push one with"),
    ],
)
def test_what_is_not_there_is_named(
    given: str, reason: str, hub: DatasetHub, project: Project
) -> None:
    hub.commit("owner/other", {"data.csv": b"a,b\n", "sub/x.divergence.jsonl": b"{}\n"})

    result = project.run(given, *MODELS)

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert reason in shown(result)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["forbidden/release"], "forbidden/release was not pushed: "),
        (["release"], '"release" must be owner/name'),
    ],
)
def test_a_push_that_fails_says_why(
    words: list[str], reason: str, hub: DatasetHub, suite: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["push", str(suite), *words]) == 1
    assert capsys.readouterr().err.startswith(f"error: {reason}")
    assert hub.commits == {}
