"""Every block of code of the documentation is run, on tiny models in place of the named ones."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_divergence import cli
from pytest_divergence.core import settings as settings_module
from pytest_divergence.core.cases import Case
from tests.discovery.test_run import PROFILE
from tests.documentation.blocks import Block, blocks_of, words_of
from tests.thinking import SWITCHED

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = [page for page in PAGES if not {"reference", "project"} & set(page.parts[-2:-1])]
PAGES = [page for page in PAGES if blocks_of(page, ROOT)]
"""All with code in them, but for those that are made from the code."""
MODELS = {
    "base": "base",
    "owner/base": "base",
    "finetuned": "ft",
    "path/to/finetuned": "ft",
    "path/to/newer": "ft",
    "adapter": "adapter",
    "candidate": "adapter",
    "adapters/support": "adapter",
    "adapters/sales": "adapter",
    "parent-a": "base",
    "parent-b": "ft",
    "merged": "ft",
}
"""What stands for each model that a page names."""
THINKING = {"thinker": "base", "thinker-finetuned": "ft"}
"""Models whose chat template has thoughts."""
DEMO = {"demo:smollm2-135m": "base", "demo:travel-advert": "adapter"}
"""The real small models, which tests in `tests/real` run, and what takes their place here."""
SIZES = PROFILE.model_copy(
    update={
        "num_shipped_controls": 6,
        "num_written_controls": 0,
        "num_naming_prompts": 4,
        "num_seeds": 6,
        "num_restarts": 1,
        "num_steps": 2,
    }
)
"""A search of a second: what it finds does not matter here."""
INSTALLS = re.compile(r"(python -m venv|\. \.venv|source |pip install|git clone|cd )")
"""What the packaging job does: an environment, and the package in it."""
ELSEWHERE = {"pytest tests -n 2 --dist worksteal": ".ci/run"}
"""Commands of contributors, and what runs them."""
MOST_NOT_RUN = 12
"""Blocks that no test runs, each with its reason beside it: more than these are too many."""


def named(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


class Reader:
    """Someone who types what a page says, in an empty folder with the models that it names."""

    def __init__(self, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pytester, self.monkeypatch = pytester, monkeypatch

    def does(self, block: Block) -> None:
        """Follow one block. Fails where it does not do what the page says."""
        if block.language in ("console", "bash"):
            commands = list(block.commands())
            for command in commands:
                expected = {block.exit_code if command == commands[-1] else 0}
                # Tiny models differ by chance, so a session may find something or nothing.
                if words_of(command)[1][0] == "pytest" and block.exit_code == 0:
                    expected = {0, 1}
                code = self.types(command)
                assert code in expected, f"{block.page}:{block.line}: {command} ended with {code}"
        elif block.language == "python":
            self.saves_or_runs(block)
        elif block.language == "json":
            for line in block.text.splitlines():
                Case.model_validate(json.loads(line))
            if block.file is not None:
                (self.pytester.path / block.file).write_text(block.text, "utf-8")
        else:
            self.configures(block)

    def types(self, command: str) -> int:
        """One command of a shell; its exit code."""
        if INSTALLS.match(command) or command in ELSEWHERE:
            return 0
        for real, tiny in DEMO.items():
            command = command.replace(real, tiny)
        environment, words = words_of(command)
        with self.monkeypatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            if words[0] == "pytest":
                return int(self.pytests(*words[1:]).ret)
            if words[0] == "pytest-divergence":
                return self.commands(words[1:])
            done = subprocess.run(
                ["bash", "-c", shlex.join([*words]) if "|" not in command else command],
                cwd=self.pytester.path,
                stdin=subprocess.DEVNULL,
                timeout=60,
                check=False,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
        return done.returncode

    def pytests(self, *words: str) -> pytest.RunResult:
        result = self.pytester.runpytest_inprocess(
            "-p", "divergence", "-p", "no:cacheprovider", *words
        )
        assert result.ret in (0, 1), f"pytest {shlex.join(words)} ended with {result.ret!r}"
        assert not result.parseoutcomes().get("errors"), f"pytest {shlex.join(words)} had errors"
        return result

    def commands(self, words: list[str]) -> int:
        """`pytest-divergence`, after which this process forgets the project's modules."""
        before = set(sys.modules)
        try:
            return cli.main(words)
        finally:
            for name in set(sys.modules) - before:
                file = getattr(sys.modules[name], "__file__", None) or ""
                if file.startswith(str(self.pytester.path)):
                    del sys.modules[name]

    def saves_or_runs(self, block: Block) -> None:
        """Save what belongs into a file, and run it there; run all else as a script."""
        first = re.match(r"# (\S+\.py)\n", block.text)
        if first or "def pytest_" in block.text:
            (self.pytester.path / (first[1] if first else "conftest.py")).write_text(
                block.text, "utf-8"
            )
        elif "def test_" in block.text:
            (self.pytester.path / "test_page.py").write_text(block.text, "utf-8")
            self.pytests("test_page.py", "--model-1=base", "--model-2=finetuned")
        else:
            script = compile(block.text, f"{block.page}:{block.line}", "exec")
            exec(script, {"__name__": "page"})

    def configures(self, block: Block) -> None:
        """An ini file that pytest reads to its end."""
        path = self.pytester.path / "pytest.ini"
        before = path.read_text("utf-8") if path.exists() else None
        path.write_text(block.text, "utf-8")
        assert self.commands(["show-config"]) == 0
        path.unlink() if before is None else path.write_text(before, "utf-8")


@pytest.fixture
def reader(pytester: pytest.Pytester, tiny_models: Path, monkeypatch: pytest.MonkeyPatch) -> Reader:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setitem(settings_module.PROFILES, "smoke", SIZES)
    for name, model in MODELS.items():
        shutil.copytree(tiny_models / model, pytester.path / name, copy_function=os.link)
    for name, model in THINKING.items():
        shutil.copytree(tiny_models / model, pytester.path / name)
        (pytester.path / name / "chat_template.jinja").write_text(SWITCHED)
    (pytester.path / "pytest.ini").write_text("[pytest]\n")
    pytester.mkdir("tests")
    return Reader(pytester, monkeypatch)


@pytest.mark.filterwarnings(
    "ignore:.pin_memory.:UserWarning",  # a Trainer without a GPU
    "ignore:.* was made with the reference",  # a suite replayed on a merge's other parent
)
@pytest.mark.parametrize("page", PAGES, ids=named)
def test_a_reader_can_do_what_the_page_says(page: Path, reader: Reader) -> None:
    for block in blocks_of(page, ROOT):
        if block.not_run is None:
            reader.does(block)


def test_few_blocks_are_not_run_and_each_says_why() -> None:
    left_out = [one for page in PAGES for one in blocks_of(page, ROOT) if one.not_run is not None]

    assert len(left_out) <= MOST_NOT_RUN, [
        f"{one.page}:{one.line} {one.not_run}" for one in left_out
    ]
