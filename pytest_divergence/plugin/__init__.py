"""Hooks and fixtures of the pytest plugin; each calls the file that does the work.

The files, in the order in which a session reaches them:

    options           a table of all options, and the values given for them
    hookspecs         the hooks that other plugins may implement
    settings_sources  settings made from the given values, each with its source
    session           the plan of a session (SessionPlan) and the state that it shares
    xdist             messages between controller and workers, and the worker of each test
    header            the lines of pytest's header
    extensions        additions by other plugins and conftests
    model_pairs       the pair that a suite or a test names
    loaded_pairs      the one pair in memory, and how it makes room for another
    search            the session's search: done here, or read back
    workers           the workers of a search that computes elsewhere
    progress_bar      the progress of a search or a command
    markers           the arguments of the marker `divergence`, checked
    collection        suites and cases as items and parameters
    reference_check   the warning for a suite that was made with another reference
    items             case, behaviour and search: measured in setup, judged in the call
    aggregate_items   items about all rows together
    replay            rows measured together and compared, and why a row cannot be
    text_replay       rows answered by both models, and the answers compared as texts
    text_items        items of a suite on a model that is known by its texts alone
    bounds            the limit of a row or an assertion, and when it is refused
    assertions        assert_bounded_kl
    update            suites measured again and rewritten
    notes             values that items leave on pytest's reports
    terminal          the summary, and commands to copy
    gaps              whether the session compared what it was asked to compare
    replay_report     the report of a replay
    github            annotations and step summary
    usage_errors      how an error ends a session or fails a test
    warning           DivergenceWarning, and how a suite issues it
    frames            releasing the models that caught errors keep alive
    once              a value computed on first use
    _compat           private API of pytest and pytest-xdist

pytest loads this file in every session, so its top imports only light modules. Heavy modules are
imported inside functions, when a session needs them; all other files import at their top. Suites
are collected without torch, because the code that measures is passed to them.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_divergence.core.file_names import is_on_hub, is_suite
from pytest_divergence.core.setting_names import spelled_by
from pytest_divergence.plugin import gaps, hookspecs, notes, options, xdist
from pytest_divergence.plugin.session import KEY, DivergenceSession, Makers, of

if TYPE_CHECKING:
    from pytest_divergence.core.cases import Case
    from pytest_divergence.core.suites import StoredSuite
    from pytest_divergence.discovery.run import SearchOutcome
    from pytest_divergence.discovery.soft_prompts.virtual_tokens import SoftPrompt
    from pytest_divergence.models.pair import ModelPair
    from pytest_divergence.plugin.loaded_pairs import Pairs
    from pytest_divergence.plugin.replay import SuiteReplay
    from pytest_divergence.plugin.settings_sources import SettingsWithSources
    from pytest_divergence.scoring.scorer import PromptScore

MARKER = (
    "divergence(max_kl=, models=, behaviour=, limit=, id=): set the bound of this test's "
    "assertions, the two models that assert_bounded_kl compares, and the cases that the test runs "
    "on: those of one behaviour, the most divergent few, or given ids"
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Register options and ini keys."""
    options.add_options(parser)


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Register our own hooks."""
    pluginmanager.add_hookspecs(hookspecs)


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config, args: list[str]) -> None:
    """Replace suites on the Hub, among the arguments, by copies in the project."""
    if not any(map(is_on_hub, args)):
        return
    from pytest_divergence.core.errors import DivergenceError
    from pytest_divergence.exports.hub import with_copies

    try:
        args[:] = with_copies(args, early_config.rootpath, early_config.invocation_params.dir)
    except DivergenceError as error:
        raise pytest.UsageError(str(error)) from error


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker, read the options, and let messages name settings by their flags."""
    naming = ExitStack()
    naming.enter_context(spelled_by(options.flag_of))
    config.add_cleanup(naming.close)
    config.addinivalue_line("markers", MARKER)
    gaps.listen(session_of(config))


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Say which models are compared, and how."""
    divergence = session_of(config)
    if divergence.plan.action == "nothing" or not (
        divergence.has_models or config.getini(options.PAIRS_INI)
    ):
        return []
    from pytest_divergence.plugin.header import header_lines

    return header_lines(divergence)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Decide what this session does; with pytest-xdist, search before the workers start."""
    divergence = session_of(session.config)
    divergence.check()
    if divergence.plan.process == "controller":
        _prepare(divergence)


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session: pytest.Session) -> None:
    """Search if the session asks for it, and add the cases found to its items."""
    divergence = session_of(session.config)
    if divergence.plan.process == "controller":
        return
    if divergence.plan.process == "alone":
        _prepare(divergence)
    session.config.args += divergence.more_arguments()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a worker of pytest-xdist what its controller found."""
    divergence = session_of(node.config)
    report_dir = divergence.outcome().report_dir if divergence.outcome else None
    xdist.tell_worker(node, suite=divergence.joining_suite, report_dir=report_dir)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep our items on one worker, so that only that one loads the models."""
    divergence = session_of(config)
    has_cases = divergence.has_models or bool(divergence.plan.suites)
    return xdist.scheduler(config, log, has_cases=has_cases)


@pytest.hookimpl(tryfirst=True)
def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Hide all of `.divergence/` from pytest but the suites that take part."""
    return session_of(config).hides(collection_path)


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Collect suites."""
    if not is_suite(file_path) or session_of(parent.config).plan.action == "nothing":
        return None
    from pytest_divergence.plugin.collection import SuiteFile

    plan, kind = session_of(parent.config).plan, SuiteFile
    if plan.is_rewriting and plan.process == "alone":
        from pytest_divergence.plugin.update import UpdatedSuite

        kind = UpdatedSuite
    suite: SuiteFile = kind.from_parent(parent, path=file_path)
    suite.make_replay = _replay
    return suite


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrize tests that use `divergence_case`."""
    if "divergence_case" in metafunc.fixturenames:
        from pytest_divergence.plugin.collection import parametrize

        parametrize(metafunc, session_of(metafunc.config))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """End the session with one clear error if our part of collection failed."""
    report = yield
    divergence = session_of(collector.config)
    if divergence.error is not None and divergence.plan.process != "worker":
        raise divergence.error
    return report


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    """Take note of a suite's items that will not run."""
    if items:
        gaps.note_deselected(session_of(items[0].config), items)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Note on a test's report whether it compared anything, and what it found."""
    report = yield
    gaps.mark(session_of(item.config), item, report)
    notes.send_entry(item, report)
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> None:
    """Refuse to rewrite a suite if only part of it would run."""
    divergence = session_of(session.config)
    if divergence.may_rewrite:
        from pytest_divergence.plugin import update

        update.check_selection(session, divergence)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Say what was found, where the report is, and how to run one case again."""
    divergence, reports = session_of(config), list(notes.final_reports(terminalreporter))
    is_ours = divergence.plan.is_asked or any(map(notes.is_ours, reports))
    if is_ours or divergence.report is not None or divergence.rewritten:
        from pytest_divergence.plugin import terminal

        terminal.write_summary(terminalreporter, divergence, reports)
    faults = [
        *([str(divergence.error)] if divergence.error is not None else []),
        *gaps.faults(divergence),
    ]
    if divergence.plan.is_annotating and (is_ours or divergence.report is not None or faults):
        from pytest_divergence.plugin import github

        github.write(terminalreporter, divergence, reports, faults)


@pytest.hookimpl(wrapper=True)
def pytest_sessionfinish(session: pytest.Session) -> Generator[None]:
    """Rewrite suites, fail if nothing was compared, and report to pytest-xdist's controller."""
    yield
    divergence = session_of(session.config)
    if divergence.may_rewrite:
        from pytest_divergence.plugin import update

        update.finish(session, divergence)
    gaps.finish(session, divergence)
    if divergence.plan.process == "worker":
        tally = gaps.tally_of(divergence)
        emptied, twins = tuple(tally.emptied), tuple(tally.twins)
        heard = xdist.Heard(divergence.report_dir, emptied, twins)
        xdist.tell_controller(session.config, heard)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Collect the results of a worker of pytest-xdist."""
    divergence, heard = session_of(node.config), xdist.heard_from_worker(node)
    gaps.tally_of(divergence).emptied |= set(heard.emptied)
    gaps.tally_of(divergence).twins |= set(heard.twins)
    if heard.report_dir is not None and divergence.report is None:
        from pytest_divergence.plugin.search import read_report

        read_report(divergence, heard.report_dir)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Say what was not compared, in the last lines."""
    gaps.write(session_of(config))


def session_of(config: pytest.Config) -> DivergenceSession:
    """Return the state of a session, made on first use; once pytest is configured, use `of`."""
    if KEY not in config.stash:
        config.stash[KEY] = DivergenceSession(config, Makers(_resolved, _pairs, _outcome))
    return config.stash[KEY]


def _prepare(divergence: DivergenceSession) -> None:
    """Search, or make sure that there is a suite to replay, if the session acts first."""
    divergence.require_models()
    if divergence.plan.acts_first or (
        divergence.plan.process == "controller" and divergence.plan.suites
    ):
        from pytest_divergence.plugin.search import prepare

        prepare(divergence)


def _resolved(config: pytest.Config) -> SettingsWithSources:
    from pytest_divergence.plugin.settings_sources import resolve

    return resolve(config)


def _pairs(divergence: DivergenceSession) -> Pairs:
    from pytest_divergence.plugin.loaded_pairs import Pairs

    return Pairs(
        divergence.config, lambda: divergence.resolved.settings, lambda text: divergence.say(text)
    )


def _replay(divergence: DivergenceSession, stored: StoredSuite) -> SuiteReplay:
    from pytest_divergence.plugin.replay import SuiteReplay

    return SuiteReplay(divergence, stored)


def _outcome(divergence: DivergenceSession) -> SearchOutcome:
    from pytest_divergence.plugin.search import outcome_of

    return outcome_of(divergence)


@pytest.fixture(scope="session")
def model_pair(pytestconfig: pytest.Config) -> ModelPair:
    """The session's two models, reference and candidate, loaded once."""
    from pytest_divergence.plugin.usage_errors import failures

    session = of(pytestconfig)
    with failures(session):
        return session.pair()


@pytest.fixture(scope="session")
def soft_prompts(pytestconfig: pytest.Config) -> list[SoftPrompt]:
    """The soft prompts that the session's search trained."""
    from pytest_divergence.discovery.soft_prompts.virtual_tokens import load_soft_prompts
    from pytest_divergence.plugin.collection import search_outcome
    from pytest_divergence.plugin.usage_errors import failures

    session = of(pytestconfig)
    with failures(session):
        return load_soft_prompts(search_outcome(session).key)


@pytest.fixture(scope="session")
def hard_prompts(pytestconfig: pytest.Config) -> list[str]:
    """The texts of the prompts on which the session's models differ."""
    from pytest_divergence.plugin.collection import session_cases
    from pytest_divergence.plugin.usage_errors import failures

    session = of(pytestconfig)
    with failures(session):
        return [found.case.text for found in session_cases(session)]


@pytest.fixture
def divergence_case(request: pytest.FixtureRequest) -> Case:
    """One case of the session; a test that uses this fixture runs once per case."""
    if not hasattr(request, "param"):
        pytest.fail(
            "divergence_case must be an argument of the test or of one of its fixtures; "
            "request.getfixturevalue() is too late to run the test once per case",
            pytrace=False,
        )
    from pytest_divergence.plugin.collection import CASE_SUITE, NoCase, SuiteCase

    given: SuiteCase | NoCase = request.param
    if isinstance(given, NoCase):
        pytest.fail(given.reason, pytrace=False)
    request.node.stash[CASE_SUITE] = given.suite
    return given.case


@pytest.fixture
def assert_bounded_kl(request: pytest.FixtureRequest) -> Callable[..., PromptScore]:
    """A function `(prompt, max_kl=None, metric=None)` that measures a prompt and asserts its KL."""

    def check(prompt: Any, max_kl: float | None = None, metric: str | None = None) -> PromptScore:
        from pytest_divergence.plugin.assertions import assert_bounded

        return assert_bounded(request, prompt, max_kl, metric)

    return check


@pytest.fixture
def _divergence_setup(request: pytest.FixtureRequest) -> Any:
    """Measure what a suite's item will judge; in setup a failure counts as an error."""
    request.addfinalizer(request.node.forget)
    try:
        request.node.measure(request)
    except BaseException as error:  # its frames hold the models until it is reported
        from pytest_divergence.plugin.frames import forget_frames

        request.addfinalizer(partial(forget_frames, error))  # noqa: PT021  # see above
        raise
    return request.node
