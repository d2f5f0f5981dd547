"""One pytest session: whether it is ours, its settings, its pair and its search.

Everything is made on first use and kept: a session loads a pair once and searches once. Imports
nothing heavy before that.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_divergence import options, progress_display
from pytest_divergence.added import all_strategies, change_cases
from pytest_divergence.once import Once
from pytest_divergence.pairs import Models, Pairs, patient_warnings

if TYPE_CHECKING:
    from pytest_divergence.core.report import Report
    from pytest_divergence.discovery.cost import Memory
    from pytest_divergence.discovery.run import SearchOutcome
    from pytest_divergence.models.pair import ModelIdentity, ModelPair

SUITE_KEY, REPORT_KEY = "divergence_suite_path", "divergence_report_dir"
"""What pytest-xdist's controller sends to its workers, and they send back."""

LISTINGS = (
    "help",
    "version",
    "markers",
    "showfixtures",
    "show_fixtures_per_test",
    "cacheshow",
    "collectonly",
    "setupplan",
)
"""Options of pytest that list or plan; with none of them may a search start."""
REPEATED = (
    "max_kl",
    "max_shift",
    "inconclusive",
    "metric",
    "fail_on",
    "chat_template",
    "system_prompt",
    "device",
    "dtype",
    "seed",
)
"""Options that a command for one case repeats, besides the models."""
FOLDER = ".divergence"
"""Where a search of the session's own pair leaves what it finds."""
LOCK_SECONDS = 24 * 3600.0
ERROR_FILE = "discovery-error.txt"
NO_MODELS = "needs two models; give --model-1 and --model-2"


class DivergenceSession:
    """What the hooks, items and fixtures of one pytest session share."""

    def __init__(self, config: pytest.Config) -> None:
        """Read what was given; nothing is checked, imported or written yet."""
        self.config = config
        self.given = options.given(config)
        start = config.invocation_params.dir
        self.arguments = [start / str(one).partition("::")[0] for one in config.args]
        """Files and folders that the session was asked for, before our own suite joins."""
        self.is_used = False
        """Whether a test, a suite or a search asked for the models."""
        self.error: pytest.UsageError | None = None
        """What must end the session, where it was raised inside of collection."""
        self.report: Report | None = None
        """The search's, also where it was stopped."""
        self.report_dir: Path | None = None
        self.pairs = Pairs(config, lambda: self.resolved.settings, lambda text: self._say(text))
        self.outcome: Once[SearchOutcome] = Once(self._find_outcome)
        self._say: Callable[[str], None] = partial(progress_display.announce, config)

    # What kind of session this is

    @property
    def worker_input(self) -> dict[str, Any] | None:
        """What pytest-xdist's controller sent; None where this is not a worker."""
        return getattr(self.config, "workerinput", None)

    @property
    def is_controller(self) -> bool:
        """Whether pytest-xdist's workers run the tests; known from `pytest_sessionstart` on."""
        return self.config.pluginmanager.hasplugin("dsession")

    @property
    def is_listing(self) -> bool:
        """Whether pytest only shows something, so that nothing may be searched or loaded."""
        return any(getattr(self.config.option, name, False) for name in LISTINGS)

    @property
    def has_models(self) -> bool:
        """Whether both models are named."""
        return all(field in self.given for field in options.MODELS)

    @property
    def is_explicit(self) -> bool:
        """Whether this session, not only the project's ini file, names a model."""
        sources = {self.given[field].source for field in options.MODELS if field in self.given}
        return bool(sources - {options.INI})

    @property
    def is_asked(self) -> bool:
        """Whether this session, not only the ini file, names a model or asks for a search."""
        said = {field: one.value for field, one in self.given.items() if one.source != options.INI}
        return self.is_explicit or said.get("mode") == "search" or "shard" in said

    @property
    def has_paths(self) -> bool:
        """Whether the command line names files or folders."""
        return self.config.args_source is pytest.Config.ArgsSource.ARGS

    @property
    def is_off(self) -> bool:
        """Whether the user switched the plugin off."""
        return self.choice("mode") == "off"

    @property
    def updates(self) -> str | None:
        """`update` or `fill`, where suites are measured afresh and rewritten; else None."""
        asked = (field for field in ("update", "fill") if field in self.given)
        return next((one for one in asked if getattr(self.resolved.settings, one)), None)

    @property
    def is_redacted(self) -> bool:
        """Whether prompts and answers stay out of what people are shown."""
        return "redact" in self.given and self.resolved.settings.redact

    def choice(self, field: str) -> str:
        """An option's value as it was given, not yet checked; `auto` by default."""
        return self.given[field].value if field in self.given else "auto"

    # Settings

    @cached_property
    def resolved(self) -> options.Resolved:
        """Settings and their sources. Raises UsageError for a wrong value."""
        return options.resolve(self.config)

    @property
    def models(self) -> tuple[str, str]:
        """Both specs. Raises UsageError where they are missing."""
        settings = self.resolved.settings
        if settings.model_1 is None or settings.model_2 is None:
            raise pytest.UsageError(f"model_pair {NO_MODELS}")
        return settings.model_1, settings.model_2

    @property
    def number_bound(self) -> float | None:
        """The bound, where it was given as a number."""
        max_kl = self.resolved.settings.max_kl
        return None if max_kl == "auto" else max_kl

    @property
    def root(self) -> Path:
        """Where `.divergence/` goes: pytest's root folder, where it belongs to this project.

        pytest takes a model's folder behind `--model-2` for a test path when it looks for its root,
        before any plugin is asked; nothing may be written beside a stranger's model for that.
        """
        start, found = self.config.invocation_params.dir, self.config.rootpath
        is_ours = start == found or (found in start.parents and self.config.inipath is not None)
        return found if is_ours or self.has_paths else start

    @cached_property
    def own_suite(self) -> Path:
        """Where a search of this pair writes its suite."""
        from pytest_divergence.core.naming import suite_path

        return suite_path(self.root, *self.models)

    def check(self) -> None:
        """Refuse a wrong value at once, where this session itself asks for something."""
        options.check_both_models(self.given)
        if any(one.source != options.INI for one in self.given.values()):
            _ = self.resolved
        suites = [path for path in self.arguments if path.name.endswith(options.SUITE_SUFFIX)]
        if self.is_off and suites:
            raise pytest.UsageError(
                f"{self.shown(suites[0])} is given, but --divergence-mode=off; drop one of them"
            )

    # Words

    def shown(self, path: Path) -> str:
        """A path as people can use it: from the folder that pytest was started in."""
        try:
            return os.path.relpath(path, self.config.invocation_params.dir)
        except ValueError:  # another drive
            return str(path)

    def rerun(self, nodeid: str, *more: str) -> str:
        """The command that runs one test again, on the same models."""
        file, separator, test = nodeid.partition("::")
        words = ["pytest", self.shown(self.config.rootpath / file) + separator + test]
        for field in (*options.MODELS, *REPEATED):
            one = self.given.get(field)
            if one is not None and one.source != options.INI:
                words += [options.BY_FIELD[field].short_flag, one.value]
        return shlex.join([*words, *more])

    def update_command(self, nodeid: str) -> str | None:
        """The command that measures a test's suite anew; None for what the next search rewrites."""
        file = nodeid.partition("::")[0]
        return None if FOLDER in Path(file).parts else self.rerun(file, "--divergence-update")

    # Errors

    @contextmanager
    def usage_errors(self) -> Iterator[None]:
        """Whatever goes wrong becomes one UsageError, which ends the session with exit code 4."""
        from pytest_divergence.core.errors import DivergenceError

        try:
            yield
        except pytest.exit.Exception:
            raise
        except pytest.UsageError as error:
            self.error = error
            raise
        except DivergenceError as error:
            self.error = pytest.UsageError(self.message(error))
            raise self.error from error
        except Exception as error:
            self.error = self._unexpected(error)
            raise self.error from error

    @contextmanager
    def failures(self) -> Iterator[None]:
        """Whatever goes wrong becomes one sentence without a traceback: an error of one test."""
        from pytest_divergence.core.errors import DivergenceError

        try:
            yield
        except (DivergenceError, pytest.UsageError) as error:
            raise pytest.fail.Exception(self.message(error), pytrace=False) from None

    def message(self, error: Exception) -> str:
        """An error in words, with a path that people can use."""
        from pytest_divergence.core.errors import SuiteError
        from pytest_divergence.core.redacting import redacted_message

        if isinstance(error, SuiteError):
            error = SuiteError(self.shown(Path(error.path)), error.line, error.reason)
        return redacted_message(str(error)) if self.is_redacted else str(error)

    def _unexpected(self, error: Exception) -> pytest.UsageError:
        from pytest_divergence.core.errors import DivergenceError
        from pytest_divergence.core.safe_text import safe_line
        from pytest_divergence.core.store import write_atomically

        reason = f"discovery failed: {type(error).__name__}: {safe_line(str(error))}"
        try:
            path = self._folder.reports / ERROR_FILE
            write_atomically(path, "".join(traceback.format_exception(error)))
        except DivergenceError:
            return pytest.UsageError(reason)
        return pytest.UsageError(f"{reason}; the traceback is in {self.shown(path)}")

    @property
    def _folder(self) -> Any:
        from pytest_divergence.core.store import DivergenceFolder

        report_dir = self.resolved.settings.report_dir
        return DivergenceFolder(self.root, report_dir=Path(report_dir) if report_dir else None)

    @property
    def is_waiting(self) -> bool:
        """Whether this session's search waits for other shards; False where there was none."""
        return bool(self.outcome) and self.outcome().awaited is not None

    # The pair

    def models_for(self, path: Path) -> Models | None:
        """The models that a suite is replayed on; None: no one names any. Raises UsageError.

        The command line and the environment come before `divergence_pairs`, and that before the
        ini file's one pair.
        """
        found = self.models_of_line(path)
        return Models(*self.models) if found is None and self.has_models else found

    def models_of_line(self, path: Path) -> Models | None:
        """The models of the line of `divergence_pairs` that counts for a suite or a test's file.

        None where there is none, or where this session names a pair itself. Raises UsageError.
        """
        if self.is_explicit or FOLDER in path.parts:
            return None
        return self.pairs.rule_for(path)

    def pair(self, models: Models | None = None) -> ModelPair:
        """The session's pair, or another one: then the one before makes room for it."""
        self.is_used = True
        return self.pairs.load(models or Models(*self.models))

    def pair_for(self, request: pytest.FixtureRequest, models: Models | None = None) -> ModelPair:
        """The same for a running test."""
        self.is_used = True
        return self.pairs.for_test(request, models or Models(*self.models))

    def identities(self, models: Models | None = None) -> tuple[ModelIdentity, ModelIdentity]:
        """What the models of the session's pair, or of another one, are."""
        return self.pairs.identities(models or Models(*self.models))

    # The search

    def _find_outcome(self) -> SearchOutcome:
        """Search, or read back what the controller or another worker found."""
        self.is_used = True
        sent = (self.worker_input or {}).get(REPORT_KEY)
        with self.usage_errors():
            if sent:
                outcome = _read_back(Path(sent), self.own_suite)
            elif self.worker_input is not None:
                outcome = self._elected(str(self.worker_input["testrunuid"]))
            else:
                outcome = self._search(is_forced=self.resolved.settings.mode == "search")
        self.report, self.report_dir = outcome.report, outcome.report_dir
        return outcome

    def hear(self, worker_output: Mapping[str, str]) -> None:
        """Take note of the search of a worker, where the controller did none."""
        from pytest_divergence.core.errors import DivergenceError
        from pytest_divergence.core.report import load_report

        if self.report is None and REPORT_KEY in worker_output:
            self.report_dir = Path(worker_output[REPORT_KEY])
            with contextlib.suppress(DivergenceError):  # the tests' own results do not need it
                self.report = load_report(self.report_dir / "report.json")

    def _memory(self) -> Memory | None:
        """What a search takes; None where its models are in memory, or of unknown size."""
        models = Models(*self.models)
        return None if self.pairs.is_loaded(models) else self.pairs.memory(models)

    def _search(self, *, is_forced: bool) -> SearchOutcome:
        from pytest_divergence.discovery.cost import within_memory
        from pytest_divergence.discovery.run import search

        with progress_display.shown(self.config) as listener, patient_warnings():
            say, self._say = self._say, listener.say
            try:
                return search(
                    self.resolved.settings,
                    root=self.root,
                    load_pair=within_memory(self.pair, self._memory, listener),
                    listener=listener,
                    identity=self.pairs.run_identity(Models(*self.models)),
                    strategies=all_strategies(self.config),
                    modify_cases=partial(change_cases, self.config),
                    on_report=self._on_report,
                    is_forced=is_forced,
                )
            except KeyboardInterrupt:
                if self.is_controller and self.report_dir is not None:  # there is no summary
                    listener.say(
                        f"stopped; what was found so far is in {self.shown(self.report_dir)}, and "
                        "the same command goes on from there"
                    )
                raise
            finally:
                self._say = say

    def _elected(self, run: str) -> SearchOutcome:
        """The first worker that needs it searches; the others wait, and read its results."""
        from pytest_divergence.core.store import file_lock, write_atomically

        journal: Path = self._folder.journal
        stamp = journal / "last-search.json"
        with file_lock(
            journal / "last-search.lock",
            timeout=LOCK_SECONDS,
            on_wait=lambda _: self._say("another worker searches; waiting for it"),
        ):
            last = json.loads(stamp.read_text("utf-8")) if stamp.is_file() else {}
            if last.get("run") == run and last["error"]:
                raise pytest.UsageError(last["error"])
            if last.get("run") == run:
                return _read_back(Path(last["report_dir"]), self.own_suite)
            done: dict[str, str | None] = {"run": run, "error": None, "report_dir": None}
            try:
                with self.usage_errors():
                    outcome = self._search(is_forced=self.resolved.settings.mode == "search")
                done["report_dir"] = str(outcome.report_dir)
                return outcome
            except pytest.UsageError as error:
                done["error"] = str(error)
                raise
            finally:
                if done["error"] or done["report_dir"]:
                    write_atomically(stamp, json.dumps(done))

    def _on_report(self, report: Report, folder: Path) -> None:
        from pytest_divergence.reports import write_reports

        self.report, self.report_dir = report, folder
        write_reports(report, folder, suite=self.shown(self.own_suite))
        self.config.hook.pytest_divergence_report(config=self.config, report=report)


KEY = pytest.StashKey[DivergenceSession]()


def of(config: pytest.Config) -> DivergenceSession:
    """The state of a session, made on first use."""
    if KEY not in config.stash:
        config.stash[KEY] = DivergenceSession(config)
    return config.stash[KEY]


def _read_back(report_dir: Path, suite: Path) -> SearchOutcome:
    """What a search of another process left behind."""
    from pytest_divergence.core.provenance import load_provenance
    from pytest_divergence.core.report import load_report
    from pytest_divergence.core.suites import sidecar_path
    from pytest_divergence.discovery.run import SearchOutcome

    return SearchOutcome(
        report=load_report(report_dir / "report.json"),
        report_dir=report_dir,
        suite_path=suite,
        key=load_provenance(sidecar_path(suite, "provenance.json")).key,
        is_cached=True,
    )
