"""Small projects to attack, on tiny models, and what a process in one of them did and left."""

from __future__ import annotations

import json
import resource
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pytest_divergence.cli import main as command_main
from pytest_divergence.core import settings as settings_module
from pytest_divergence.core.file_names import RECORD_SUFFIX
from pytest_divergence.core.files import latest_report_dir
from pytest_divergence.core.settings import Profile
from tests.attacks.faults import Fault, WatchedChanges
from tests.forked import Forked
from tests.tiny import save_tiny_adapter, save_tiny_model

ROOT = Path(__file__).parents[2]
PAIR = ("--model-1=base", "--model-2=ft")
OTHER_PAIR = ("--model-1=base", "--model-2=adapter")
SUITE = "tests/release.divergence.jsonl"
PROFILE = Profile(
    name="smoke",
    num_shipped_controls=4,
    num_written_controls=1,
    num_naming_prompts=4,
    naming_length=3,
    num_behaviour_prompts=6,
    num_tested_leads=2,
    num_seeds=4,
    num_cases=2,
    num_continuations=1,
    continuation_length=3,
    search_length=3,
    prompt_length=5,
    num_restarts=1,
    num_virtual_tokens=2,
    num_steps=2,
    batch_size=2,
    max_text_tokens=64,
    num_elite=2,
    num_proposals=3,
    full_score_share=0.5,
    budget_tokens=10**9,
)
"""The least that a search can be, so that hundreds of them can be disturbed."""
MODELS = ("base", "ft", "adapter")
CHANGES_WITH_TIME = {"seconds", "created", "run_id"}
SECONDS = 120
"""A process that takes so long hangs, also on a machine that is busy."""

Main = Callable[[], object]


@dataclass(frozen=True)
class Done:
    """A process that has ended."""

    code: int
    text: str
    """Both streams."""
    num_changes: int = 0
    """Of files in its place."""

    @property
    def is_green(self) -> bool:
        return self.code == 0

    @property
    def end(self) -> str:
        """How it ended, for people."""
        lines = [line for line in self.text.splitlines() if line.strip()]
        return f"exit {self.code}: {lines[-1][:300] if lines else 'without a word'}"

    @property
    def has_crashed(self) -> bool:
        """Whether someone sees the inside of the program in place of a sentence."""
        return "INTERNALERROR" in self.text or "Traceback (most recent call last)" in self.text


@dataclass(frozen=True)
class Limits:
    """What a process may take before it is ended."""

    seconds: int = SECONDS
    cpu_seconds: int = SECONDS
    more_bytes: int | None = None
    """Of memory, above what it has from the start."""

    def hold(self) -> None:
        """In the process itself."""
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(self.seconds)
        used = resource.getrusage(resource.RUSAGE_SELF)
        cpu = int(used.ru_utime + used.ru_stime) + self.cpu_seconds
        resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu + 5))
        if self.more_bytes is not None:
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            limit = pages * resource.getpagesize() + self.more_bytes
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


@dataclass(frozen=True)
class Place:
    """A project in a folder of its own, with a cache of its own beside it."""

    path: Path

    @property
    def project(self) -> Path:
        return self.path / "project"

    @property
    def suite(self) -> Path:
        """The committed one."""
        return self.project / SUITE

    def copy(self, target: Path) -> Place:
        """The same place elsewhere."""
        shutil.copytree(self.path, target, symlinks=True, dirs_exist_ok=True)
        return Place(target)

    def write(self, name: str, text: str | bytes) -> Path:
        path = self.project / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode("utf-8") if isinstance(text, str) else text)
        return path

    def start(
        self,
        main: Main,
        *,
        log: Path | None = None,
        fault: Fault | None = None,
        limits: Limits | None = None,
    ) -> Forked:
        """Begin a process in the project; with `log` its changes of files are noted."""

        def whole() -> object:
            (limits or Limits()).hold()
            settings_module.PROFILES["smoke"] = PROFILE
            if log is not None:
                WatchedChanges(self.path, log, fault).watch()
            return main()

        environment = {
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "PYTEST_DIVERGENCE_CACHE": str(self.path / "cache"),
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "80",
        }
        return Forked(whole, self.project, environment=environment)

    def run(self, main: Main, *, fault: Fault | None = None, limits: Limits | None = None) -> Done:
        """A process in the project, from its start to its end."""
        log = self.path.with_name(f"{self.path.name}.changes")
        done = self.start(main, log=log, fault=fault, limits=limits).wait()
        return Done(done.returncode, done.stdout + done.stderr, log.stat().st_size)


def session(*arguments: str) -> Main:
    """A pytest session, as the whole of a process."""
    words = ["-p", "divergence", "-p", "no:cacheprovider", "--tb=short", *arguments]
    return lambda: pytest.main(words)


def command(*words: str) -> Main:
    """`pytest-divergence WORDS`."""
    return lambda: command_main(list(words))


def make_models(folder: Path) -> Path:
    """`base`, `ft` and `adapter`, saved in a folder."""
    save_tiny_model(folder / "base")
    save_tiny_model(folder / "ft", perturb=0.3)
    save_tiny_adapter(folder / "base", folder / "adapter")
    return folder


def make_place(folder: Path, models: Path) -> Place:
    """A project with these models and nothing else."""
    project = folder / "project"
    project.mkdir(parents=True)
    (folder / "cache").mkdir()
    for model in MODELS:
        shutil.copytree(models / model, project / model)
    (project / "pytest.ini").write_text("[pytest]\n", "utf-8")
    return Place(folder)


def hand_written(*prompts: str, controls: int = 2) -> str:
    """A suite that no one has measured yet."""
    rows: list[dict[str, Any]] = [{"input": prompt} for prompt in prompts]
    rows += [{"input": f"Ordinary {number}", "tags": ["control"]} for number in range(controls)]
    return "".join(json.dumps(row) + "\n" for row in rows)


def three_files(suite: Path) -> dict[str, object]:
    """Suite, tokens and provenance as they lie there, but for times and costs."""
    stem = suite.name.removesuffix(".divergence.jsonl")
    names = (suite.name, f"{stem}.tokens.jsonl", f"{stem}.provenance.json")
    return {name: _content(suite.with_name(name)) for name in names}


def left_in(place: Place) -> dict[str, object]:
    """The files of the last run, by steady names, but for journals, locks and pages for people."""
    latest = latest_report_dir(place.project / ".divergence" / "reports")  # a link, or a file
    left = {}
    for path in sorted(place.path.rglob("*")):
        name = str(path.relative_to(place.path))
        if latest is not None and path.is_relative_to(latest):
            name = name.replace(latest.name, "RUN")
        elif {"reports", "digests", "journal", "__pycache__"} & set(path.parts):
            continue  # named after a time, or after what changes with each copy of a file
        if path.is_file() and not name.endswith((".lock", ".html", ".md", RECORD_SUFFIX)):
            left[name] = _content(path)
    return left


def strays_in(place: Place) -> list[str]:
    """What a writer that was ended leaves of its work."""
    return sorted(path.name for path in place.path.rglob("*.divergence-tmp"))


def _content(path: Path) -> object:
    if not path.is_file():
        return None
    data = path.read_bytes()
    if path.suffix != ".json":
        return data
    try:
        return _without_times(json.loads(data))
    except ValueError:
        return data


def _without_times(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_times(one) for one in value]
    if not isinstance(value, dict):
        return value
    kept = {k: _without_times(v) for k, v in value.items() if k not in CHANGES_WITH_TIME}
    if isinstance(kept.get("run"), dict):
        kept["run"].pop("id", None)
    return kept
