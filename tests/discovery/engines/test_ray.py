"""A search on a real Ray cluster of this machine, with up to four workers of one thread.

All in one file, so that pytest-xdist gives one process the only cluster.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_divergence.core import settings as settings_module
from pytest_divergence.core.errors import EngineError, SettingsError
from pytest_divergence.core.file_names import sidecar_path
from pytest_divergence.core.journal import Journal
from pytest_divergence.core.provenance import load_provenance
from pytest_divergence.core.report import load_report
from pytest_divergence.core.settings import Settings
from pytest_divergence.discovery import rounds as rounds_module
from pytest_divergence.discovery.engines import ray as engine_module
from pytest_divergence.discovery.engines.base import Worker, WorkUnit
from pytest_divergence.discovery.engines.pair_worker import Reply
from pytest_divergence.discovery.engines.ray import RayEngine, RayPool
from pytest_divergence.discovery.engines.ray_cluster import (
    RayOptions,
    by_value,
    connect,
    own_sigterm,
)
from pytest_divergence.discovery.engines.worker_checks import check_alike, check_memory
from pytest_divergence.discovery.progress import Silence
from pytest_divergence.discovery.proposals import Proposal
from pytest_divergence.discovery.run import SearchOutcome, search
from pytest_divergence.discovery.strategies.built_in import built_in_strategies
from pytest_divergence.discovery.strategies.protocol import SearchContext, Strategy
from pytest_divergence.models.load_plan import LoadOptions
from pytest_divergence.models.loading import PairRecipe
from pytest_divergence.models.pair import ModelPair
from tests.discovery.test_run import PROFILE

ray = pytest.importorskip("ray")
cluster_utils = pytest.importorskip("ray.cluster_utils")
pytestmark = pytest.mark.timeout(300)
CLUSTER = {
    "address": "local",
    "num_cpus": 6,
    "include_dashboard": False,
    "log_to_driver": False,
    "object_store_memory": 80 * 2**20,
    "_node_ip_address": "127.0.0.1",
}
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",  # for machines that do other work too
    # Ray notices sooner that a node is gone.
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_failure_threshold": "2",
}
SMALL = PROFILE.model_copy(update={"num_shipped_controls": 4})
FULL_NODE = {
    # Ray's monitor kills whatever begins on a node that has less memory left than this.
    "RAY_memory_usage_threshold": "0.001",
    "RAY_memory_monitor_refresh_ms": "100",
}


@dataclass
class Heard(Silence):
    """A listener that keeps what is said."""

    said: list[str] = field(default_factory=list)

    def say(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture(scope="module")
def settings(tiny_models: Path) -> Settings:
    models = {"model_1": str(tiny_models / "base"), "model_2": str(tiny_models / "ft")}
    return Settings(**models, profile="smoke", gate="all", engine="ray")


@pytest.fixture(scope="module")
def recipe(tiny_models: Path) -> PairRecipe:
    return PairRecipe("base", "ft", LoadOptions(), root=tiny_models)


@pytest.fixture(scope="module")
def heard() -> Heard:
    return Heard()


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The file of the token that joins the cluster."""
    home = tmp_path_factory.mktemp("home")
    before = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))  # where Ray keeps a token
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        ray.init(**CLUSTER)
        signal.signal(signal.SIGTERM, before)
        yield home / ".ray" / "auth_token"
        ray.shutdown()
        signal.signal(signal.SIGTERM, before)


@pytest.fixture
def cluster(token: Path) -> Iterator[Any]:
    """The cluster as one to which nodes can be added."""
    cluster = cluster_utils.Cluster()
    cluster.head_node = ray._private.worker._global_node
    yield cluster
    for node in list(cluster.worker_nodes):
        cluster.remove_node(node, allow_graceful=False)


def new_node(cluster: Any) -> Any:
    """Add a node with room for one worker."""
    num_nodes = len(ray.nodes())
    with own_sigterm():
        node = cluster.add_node(wait=False, object_store_memory=CLUSTER["object_store_memory"])
    wait_until(lambda: len(ray.nodes()) > num_nodes)
    return node


@pytest.fixture(scope="module", params=[4], ids=lambda number: f"{number}_workers")
def pool(
    request: pytest.FixtureRequest,
    token: Path,
    recipe: PairRecipe,
    settings: Settings,
    heard: Heard,
) -> Iterator[RayPool]:
    """So many workers, each a process that loads both models: two by day, four at night."""
    options = RayOptions.of(settings, must_give_gpus=False)
    options = replace(options, num_workers=request.param)
    with (
        by_value(Path(__file__).parent),
        RayPool(options, recipe, settings, heard) as pool,
    ):
        yield pool


@dataclass
class Bench:
    """Runs searches here and on workers, with so many rounds at once."""

    folder: Path
    settings: Settings
    pair: ModelPair
    patch: pytest.MonkeyPatch

    def __call__(
        self,
        name: str,
        at_once: int,
        pool: RayPool | None = None,
        strategies: Mapping[str, Strategy] | None = None,
        **options: Any,
    ) -> SearchOutcome:
        profile = SMALL.model_copy(update={"rounds_at_once": at_once})
        self.patch.setitem(settings_module.PROFILES, "smoke", profile)
        self.patch.setattr(rounds_module, "SCREENED_IN_UNIT", 3)  # so that scores are shared out
        self.patch.setattr(rounds_module, "SCORED_IN_UNIT", 2)
        self.patch.setenv("PYTEST_DIVERGENCE_CACHE", str(self.folder / name / "cache"))
        on_ray: dict[str, Any] = {}
        if pool is not None:
            on_ray = {"engine": partial(RayEngine, pool), "identity": pool.identity}
        asked = {"engine": "local"} if pool is None else {"workers": len(pool.workers)}
        return search(
            self.settings.model_copy(update=asked),
            root=self.folder / name,
            load_pair=lambda: self.pair,
            strategies=strategies,
            **{"listener": Silence(), **on_ray, **options},
        )


@pytest.fixture(scope="module")
def pair(recipe: PairRecipe) -> ModelPair:
    return recipe.load()


@pytest.fixture
def bench(
    settings: Settings, pair: ModelPair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Bench:
    return Bench(tmp_path, settings, pair, monkeypatch)


@pytest.fixture(scope="module")
def three_at_once(
    settings: Settings, pair: ModelPair, tmp_path_factory: pytest.TempPathFactory
) -> list[bytes]:
    """The files of a search in this process with three rounds at once."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("three")
        return files_of(Bench(folder, settings, pair, patch)("here", 3))


def files_of(outcome: SearchOutcome) -> list[bytes]:
    """Suite, tokens, provenance without times, and the names of the soft prompts."""
    suite = outcome.suite_path
    made = load_provenance(sidecar_path(suite, "provenance.json"))
    effort = made.effort.model_copy(update={"seconds": 0.0})
    made = made.model_copy(update={"effort": effort, "created": ""})
    cache = suite.parents[2] / "cache"
    heavy = sorted(path.name for path in cache.rglob("*.safetensors"))
    return [
        suite.read_bytes(),
        sidecar_path(suite, "tokens.jsonl").read_bytes(),
        made.model_dump_json().encode(),
        " ".join(heavy).encode(),
    ]


@contextmanager
def only(pool: RayPool, number: int) -> Iterator[RayPool]:
    """A pool of which only so many workers may be used."""
    others, pool._free[number:] = pool._free[number:], []
    yield pool
    pool._free += others


def forget_units(pool: RayPool) -> None:
    """Let no unit of a search that was stopped come to its journal, as where its pool ends too."""
    pool._queue.clear()
    for _, flight in pool._calls.values():
        if flight is not None:
            flight.on_reply = lambda reply: None


@pytest.mark.parametrize("pool", [2], indirect=True)
def test_workers_find_what_one_process_finds(pool: RayPool, bench: Bench, heard: Heard) -> None:
    here = files_of(bench("here", 1))
    there = files_of(bench("there", 1, pool))

    assert there == here
    assert b"restart-1-free.safetensors" in here[-1]
    (line,) = [text for text in heard.said if text.startswith("ray, ")]
    assert line.startswith("ray, 2 workers on 1 host (")
    assert " CPU with " in line
    assert len({facts.pid for facts in pool.workers} | {os.getpid()}) == 3


@pytest.mark.slow
def test_the_number_of_workers_changes_nothing(
    pool: RayPool, bench: Bench, three_at_once: list[bytes]
) -> None:
    """Of four, see what is after Ctrl-C."""
    with only(pool, 2):
        assert files_of(bench("there", 3, pool)) == three_at_once


@dataclass(frozen=True)
class Mortal:
    """A method whose process is killed the first time."""

    flag: Path

    def propose(self, pair: ModelPair, context: SearchContext) -> Sequence[Proposal]:
        if context.round:
            return []
        if not self.flag.exists():
            self.flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return [Proposal("Why did it stop?", "mortal"), Proposal("Who began again?", "mortal")]


class UnmakableError(Exception):
    """An error that no other process can make again."""

    def __init__(self, one: str, other: str) -> None:
        super().__init__(f"{one} and {other}")


class Failing:
    """A method that always fails."""

    def propose(self, pair: ModelPair, context: SearchContext) -> Sequence[Proposal]:
        raise UnmakableError("no prompt", "no idea")


class Pathlike:
    """A method whose proposals hold what plain JSON cannot."""

    def propose(self, pair: ModelPair, context: SearchContext) -> Sequence[Proposal]:
        seed: Any = Path("rows.csv")
        return [] if context.round else [Proposal("What is in the row?", "pathlike", seed)]


@pytest.mark.slow
def test_a_killed_workers_unit_begins_again_and_failing_methods_are_reported(
    pool: RayPool, bench: Bench, heard: Heard, tmp_path: Path
) -> None:
    more: dict[str, Strategy] = {
        "mortal": Mortal(tmp_path / "flag"),
        "failing": Failing(),
        "pathlike": Pathlike(),
    }
    strategies = {**built_in_strategies(), **more}
    there = bench("there", 3, pool, strategies)
    here = bench("here", 3, None, strategies)

    assert files_of(there) == files_of(here)
    (lost,) = [text for text in heard.said if "was lost in" in text]
    assert "was lost in search/mortal/0, which begins again: " in lost
    failed, unsaved = there.report.errors
    assert str(failed.message) == "UnmakableError: no prompt and no idea"
    assert unsaved.where == "strategy pathlike"
    assert "returned a value that plain JSON cannot hold" in str(unsaved.message)
    assert there.report.errors == here.report.errors


@pytest.mark.slow
def test_after_ctrl_c_the_same_search_goes_on(
    pool: RayPool, bench: Bench, three_at_once: list[bytes]
) -> None:
    class Impatient(Silence):
        num_seen = 0

        def progress(self, phase: str, done: int, total: int) -> None:
            self.num_seen += phase.startswith("search: ")
            if self.num_seen == 3:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench("there", 3, pool, listener=Impatient())
    forget_units(pool)

    assert files_of(bench("there", 3, pool)) == three_at_once


@pytest.mark.slow
def test_workers_that_compute_otherwise_are_refused(pool: RayPool, heard: Heard) -> None:
    one, other = pool.workers[:2]
    newer = replace(other, host="far", versions={**other.versions, "transformers": "9.9.9"})
    with pytest.raises(
        SettingsError,
        match=r"do not compute alike: transformers is .* on .* and 9\.9\.9 on far; give all",
    ):
        check_alike([one, newer])
    with pytest.raises(SettingsError, match=r"the device is CPU with .* and NVIDIA H100 on far"):
        check_alike([one, replace(other, host="far", device="NVIDIA H100")])
    everywhere = {**one.versions, "torch": "0.1"}
    with pytest.raises(SettingsError, match=r"torch is 0\.1 on .* on this process"):
        check_alike([replace(one, versions=everywhere), replace(other, versions=everywhere)])

    assert one.memory is not None
    room = replace(one.memory, free=one.memory.needed * 3 // 2)
    check_memory([replace(one, memory=room)], heard)
    with pytest.raises(
        SettingsError, match=r"^2 workers on .*; or ask for fewer with --divergence-workers$"
    ):
        check_memory([replace(one, memory=room), replace(other, memory=room)], heard)


def raise_error(worker: Worker) -> None:
    raise UnmakableError("this", "that")


@pytest.mark.slow
def test_a_units_error_comes_back_with_its_name_text_and_place(
    pool: RayPool, tmp_path: Path
) -> None:
    with Journal.open(tmp_path / "journal.jsonl", key="k") as journal:
        engine = RayEngine(pool, journal, tmp_path)
        with pytest.raises(Exception, match="this and that") as caught:
            engine.start(WorkUnit("fails", raise_error))()

        assert (caught.type.__name__, str(caught.value)) == ("UnmakableError", "this and that")
        assert "in raise_error" in caught.value.__notes__[0]
        assert "fails" not in journal
        with pytest.raises(TypeError, match="lock"):
            engine.start(WorkUnit("locked", raise_error, {"lock": threading.Lock()}))()


@pytest.mark.slow
def test_a_worker_that_begins_again_on_other_hardware_ends_the_search(pool: RayPool) -> None:
    """No strategy is to blame, and what was computed before must not be mixed with it."""
    actor = pool._actors[0]
    other = replace(actor.facts, device="NVIDIA A100")

    with pytest.raises(EngineError, match=r"began again on .*: the workers do not compute alike"):
        pool._is_back(actor, Reply(other))

    assert actor.facts != other


CONFTEST = """\
from dataclasses import dataclass

from pytest_divergence.discovery.proposals import Proposal

WORDS = "Why", "Who", "When"


class Twice:
    def measure(self, reference_logits, candidate_logits):
        first, second = (each.log_softmax(-1) for each in (reference_logits, candidate_logits))
        return 2 * (first.exp() * (first - second)).sum(-1)


class Asking:
    def propose(self, pair, context):
        return [] if context.round else [Proposal(f"{word} is it so?", "asking") for word in WORDS]


def pytest_divergence_metrics(config):
    return {"twice": Twice()}


def pytest_divergence_strategies(config):
    return {"asking": Asking()}
"""
OPTIONS = (
    "--model-1=base",
    "--model-2=ft",
    "--divergence-workers=2",
    "--divergence-metric=twice",
    "--divergence-budget=100000",
    "--divergence-num-cases=1",
    "--divergence-gate=all",
    "--divergence-seeds=seeds.txt",
)


@pytest.mark.slow
def test_a_session_that_is_killed_or_ended_goes_on_with_the_same_command(
    pool: RayPool,
    token: Path,
    pytester: pytest.Pytester,
    tiny_models: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Killed with a cluster of its own, then ended by SIGTERM while it uses another.

    Ray's own handler would end it otherwise, if it had not been taken back. Strategy and metric
    stand in a conftest.py, which no worker could import.
    """
    for model in ("base", "ft"):
        shutil.copytree(tiny_models / model, pytester.path / model)
    pytester.makeconftest(CONFTEST)
    seeds = "\n".join(f"Why is {word} so?" for word in ("tea", "ice", "fog", "mud", "sea", "hay"))
    (pytester.path / "seeds.txt").write_text(seeds, "utf-8")
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    monkeypatch.setenv("RAY_ADDRESS", ray.get_runtime_context().gcs_address)
    monkeypatch.setenv("STORY", str(pytester.path))
    command = ["-p", "divergence", "-p", "no:cacheprovider", "-W", "error", *OPTIONS]

    own = [*command, "--divergence-engine=ray:local"]
    assert num_units_before(signal.SIGKILL, own, pytester.path) > 2
    wait_until(lambda: not processes_with(f"STORY={pytester.path}"))
    command.append("--divergence-engine=ray")
    before = num_units_before(signal.SIGTERM, command, pytester.path)
    result = pytester.runpytest_inprocess(*command)

    result.stdout.fnmatch_lines(
        [
            "divergence: profile auto (default), *, engine ray (command line), workers 2 *",
            "divergence: ray, 2 workers on 1 host (*), CPU with *",
            "search: * prompts scored, *",
        ]
    )
    assert before < num_units(pytester.path)
    report = load_report(pytester.path / ".divergence/reports/latest/report.json")
    proposals = {strategy.name: strategy.num_proposals for strategy in report.strategies}
    assert (report.run.status, proposals["asking"]) == ("complete", 3)


def num_units_before(end: signal.Signals, command: Sequence[str], folder: Path) -> int:
    """Run a session until it has computed three more units, end it, and count those kept."""
    kept = num_units(folder)
    session = subprocess.Popen(
        [sys.executable, "-m", "pytest", *command], cwd=folder, stdout=subprocess.DEVNULL
    )
    wait_until(lambda: num_units(folder) > kept + 2 or session.poll() is not None)
    session.send_signal(end)
    assert session.wait() == -end
    return num_units(folder)


def processes_with(variable: str) -> list[str]:
    """Ids of the processes with a variable in their environment, but for this one."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if variable.encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append(folder.name)
    return found


def num_units(root: Path) -> int:
    """Units in the journals of a project."""
    return sum(max(0, path.read_bytes().count(b"\n") - 1) for path in journals(root))


def journals(root: Path) -> list[Path]:
    return sorted(root.glob(".divergence/journal/*.jsonl"))


def wait_until(is_so: Callable[[], bool], seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.05)


@dataclass(frozen=True)
class Deadly:
    """A method whose process is killed each time, as for want of memory, while a file is there."""

    flag: Path

    def propose(self, pair: ModelPair, context: SearchContext) -> Sequence[Proposal]:
        if self.flag.exists():
            os.kill(os.getpid(), signal.SIGKILL)
        return [] if context.round else [Proposal("Who is it?", "deadly")]


@pytest.mark.slow
def test_a_unit_that_no_worker_survives_is_an_error_and_the_same_search_goes_on(
    pool: RayPool, bench: Bench, heard: Heard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flag = tmp_path / "flag"
    strategies = {**built_in_strategies(), "deadly": Deadly(flag)}
    monkeypatch.setattr(engine_module, "MAX_DEATHS", 1)
    flag.touch()

    with pytest.raises(
        EngineError,
        match=r"^search/deadly/0 was begun 2 times, and each time its worker was lost, the last on "
        r".*; run the same command to continue$",
    ):
        bench("there", 3, pool, strategies)
    forget_units(pool)

    (told,) = [text for text in heard.said if "search/deadly/0" in text]
    assert re.match(r"a worker on \S+ was lost in search/deadly/0, which begins again: ", told)
    stopped = load_report(tmp_path / "there/.divergence/reports/latest/report.json")
    assert (stopped.run.status, stopped.errors[0].where) == ("incomplete", "EngineError")
    kept = [path.read_bytes() for path in journals(tmp_path / "there")]

    flag.unlink()
    there = files_of(bench("there", 3, pool, strategies))

    now = [path.read_bytes() for path in journals(tmp_path / "there")]
    assert all(after.startswith(before) for before, after in zip(kept, now, strict=True))
    assert files_of(bench("here", 3, None, strategies)) == there


@dataclass(frozen=True)
class Bound:
    """A method whose process never ends on one node, and waits elsewhere until a file is there."""

    name: str
    node: str
    here: Path
    go_on: Path

    def propose(self, pair: ModelPair, context: SearchContext) -> Sequence[Proposal]:
        if context.round:
            return []
        if ray.get_runtime_context().get_node_id() == self.node:
            self.here.touch()
            time.sleep(600)
        wait_until(self.go_on.exists)
        return [Proposal(f"Where is the {self.name} one?", self.name)]


class Seat:
    """Takes a CPU and does nothing."""


@pytest.fixture
def one_left(pool: RayPool) -> Iterator[None]:
    """A cluster with one CPU free besides the pool's, so that a second worker goes elsewhere."""
    seat = ray.remote(num_cpus=1)(Seat).remote()
    ray.get(seat.__ray_ready__.remote())
    yield
    ray.kill(seat)


@pytest.mark.slow
@pytest.mark.usefixtures("one_left")
def test_a_lost_node_and_a_full_one_cost_time_alone(
    pool: RayPool,
    cluster: Any,
    recipe: PairRecipe,
    settings: Settings,
    bench: Bench,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The worker of a node that is lost begins again on another, whose memory is used up.

    Ray's own monitor of memory kills it there, as often as it is begun, and the other worker does
    what is left.
    """
    here, go_on = tmp_path / "is-there", tmp_path / "go-on"

    class Waiting(Heard):
        def say(self, text: str) -> None:
            super().say(text)
            if "does not come back" in text:
                go_on.touch()

    heard = Waiting()
    node = new_node(cluster)
    strategies = {name: Bound(name, node.node_id, here, go_on) for name in ("left", "right")}
    options = RayOptions.of(settings.model_copy(update={"workers": 2}), must_give_gpus=False)
    with RayPool(options, recipe, settings, heard) as others, ThreadPoolExecutor(1) as thread:
        searching = thread.submit(bench, "there", 3, others, strategies)
        wait_until(lambda: here.exists() or searching.done())
        for name, value in FULL_NODE.items():
            monkeypatch.setenv(name, value)
        new_node(cluster)
        cluster.remove_node(node, allow_graceful=False)
        there = files_of(searching.result(120))
        num_left = len(others.workers)

    assert files_of(bench("here", 3, None, strategies)) == there
    assert num_left == 1
    lost, gone = (text for text in heard.said if text.startswith("a worker on "))
    assert re.fullmatch(
        r"a worker on \S+ was lost in search/(left|right)/0, which begins again: .*", lost
    )
    assert re.fullmatch(
        r"a worker on \S+ does not come back, 1 worker is left: .* running low on memory.*", gone
    )


@pytest.mark.slow
def test_a_wait_for_room_is_told_and_has_an_end(
    pool: RayPool,
    recipe: PairRecipe,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    heard = Heard()
    asked = settings.model_copy(update={"workers": 99, "worker_timeout": 2.0})
    monkeypatch.setattr(engine_module, "PATIENCE", 0.5)
    options = RayOptions.of(asked, must_give_gpus=False)
    room = r"Ray has \d CPUs and 0 GPUs free"

    with (
        pytest.raises(EngineError, match=rf"^no room for \d\d more workers after 2 s: {room}"),
        RayPool(options, recipe, asked, heard),
    ):
        pass

    (told,) = heard.said
    assert re.match(rf"waiting for \d\d more workers, which may be starting; {room}", told)


def wait(worker: Worker, *, name: str, go_on: Path) -> None:
    worker.listener.progress(name, 0, 2)
    wait_until(go_on.exists)


@pytest.mark.slow
def test_units_are_computed_at_once_and_the_progress_of_each_is_seen(
    pool: RayPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = tmp_path / "go-on"

    class Watching(Silence):
        def progress(self, phase: str, done: int, total: int) -> None:
            if (phase, done, total) == ("left 0/2 | right 0/2; busy", 2, 4):
                go_on.touch()

    monkeypatch.setattr(pool, "_listener", Watching())
    with Journal.open(tmp_path / "journal.jsonl", key="k") as journal:
        engine = RayEngine(pool, journal, tmp_path)
        units = [WorkUnit(each, wait, {"name": each, "go_on": go_on}) for each in ("left", "right")]
        for take in [engine.start(unit) for unit in units]:
            take()  # which returns only once both were seen at work


def sleep(worker: Worker, *, seconds: float) -> None:
    time.sleep(seconds)


@pytest.mark.slow
def test_the_wait_for_models_is_none_for_room(
    pool: RayPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that fetches or hashes a model has its place: it tells of itself once it is done."""
    monkeypatch.setattr(pool, "_wait", engine_module._Wait(1.0))
    with Journal.open(tmp_path / "journal.jsonl", key="k") as journal:
        engine = RayEngine(pool, journal, tmp_path)
        units = [WorkUnit(f"sleeps/{each}", sleep, {"seconds": 3.0}) for each in "ab"]
        takes = [engine.start(unit) for unit in units]

        facts = list(pool._all_facts(pool._handles))

        assert len({each.pid for each in facts}) == 4  # of all: one may have begun again before
        for take in takes:
            take()


class NoCluster(SimpleNamespace):
    """Ray where no cluster answers; the real one takes a quarter of an hour to say so."""

    exceptions = ray.exceptions

    def is_initialized(self) -> bool:
        return False

    def init(self, *, address: str, **_: object) -> None:
        self.asked.append(address)
        if address == "auto":
            raise ConnectionError("Failed to connect to Ray cluster at 10.0.0.1:6379")


@pytest.mark.parametrize("named", ["", "10.0.0.1:6379"])
def test_only_where_no_cluster_is_named_does_this_machine_take_its_place(
    monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    """A job of a batch system would otherwise search on the login node for days."""
    monkeypatch.setenv("RAY_ADDRESS", named)
    without = NoCluster(asked=[])
    options = RayOptions(is_own=False, num_workers=1, gpus=None, must_give_gpus=False, timeout=None)
    if named:
        with pytest.raises(SettingsError, match=r"no Ray cluster can be used: Failed to connect"):
            connect(without, options)
    else:
        assert connect(without, options)

    assert without.asked == (["auto"] if named else ["auto", "local"])
