"""The pytest plugin: hooks and fixtures, each handing on to what it is about.

pytest loads this module in every session, so it imports nothing but pytest and our own light
modules; what a session does not ask for does not happen.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_divergence.core.setting_names import spelled_by
from pytest_divergence.plugin import (
    collection,
    gaps,
    header,
    hookspecs,
    notes,
    options,
    search,
    session,
    terminal,
    update,
    xdist,
)
from pytest_divergence.plugin.model_pairs import forget_frames
from pytest_divergence.plugin.session import REPORT_KEY, more_arguments, of
from pytest_divergence.plugin.usage_errors import failures

if TYPE_CHECKING:
    from pytest_divergence.core.cases import Case
    from pytest_divergence.discovery.soft_prompts.virtual_tokens import SoftPrompt
    from pytest_divergence.models.pair import ModelPair
    from pytest_divergence.scoring.scorer import PromptScore


MARKER = (
    "divergence(max_kl=, models=, behaviour=, limit=, id=): bound of this test's assertions, the "
    "two models that assert_bounded_kl compares, and which cases the test takes: of one behaviour, "
    "the most divergent few, or by id"
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Register options and ini keys."""
    options.add_options(parser)
    parser.addini(options.PAIRS_INI, options.PAIRS_INI_HELP, type="linelist", default=[])


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Register our own hooks."""
    pluginmanager.add_hookspecs(hookspecs)


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker, and read what was given; messages name settings by their flags."""
    naming = ExitStack()
    naming.enter_context(spelled_by(options.flag_of))
    config.add_cleanup(naming.close)
    config.addinivalue_line("markers", MARKER)
    of(config)


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Say which models are compared, and how."""
    return header.header_lines(of(config))


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Refuse wrong values; with pytest-xdist, search before the workers start."""
    ours = of(session.config)
    ours.check()
    update.refuse(ours)
    if ours.is_controller:
        search.prepare(ours)


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session: pytest.Session) -> None:
    """Search where the session asks for it, and let the cases found join its items."""
    ours = of(session.config)
    if ours.is_controller:
        return
    if ours.worker_input is None:
        search.prepare(ours)
    session.config.args += more_arguments(ours)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a worker of pytest-xdist what its controller found: strings only, no paths."""
    node.workerinput.update(xdist.for_workers(of(node.config)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep our items on one worker, so that only that one loads the models."""
    return xdist.scheduler(config, log)


@pytest.hookimpl(tryfirst=True)
def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Of `.divergence/`, show pytest only the suites that take part."""
    return session.is_hidden(collection_path, config)


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Collect suites."""
    if not file_path.name.endswith(options.SUITE_SUFFIX) or of(parent.config).is_off:
        return None
    from pytest_divergence.plugin.collection import SuiteFile

    return SuiteFile.from_parent(parent, path=file_path)


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give tests that take `divergence_case` the cases."""
    if "divergence_case" in metafunc.fixturenames:
        collection.parametrize(metafunc, of(metafunc.config))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """End the session with one clear error where our part of collection failed."""
    report = yield
    ours = of(collector.config)
    if ours.error is not None and ours.worker_input is None:
        raise ours.error
    return report


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    """Take note of a suite's items that will not run."""
    if items:
        gaps.note_deselected(of(items[0].config), items)


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> None:
    """Refuse to rewrite a suite of which only a part would run."""
    update.check_selection(session, of(session.config))


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, exitstatus: int, config: pytest.Config
) -> None:
    """Say what was found, where the report is, and how to run one case again."""
    from pytest_divergence.plugin import github, replay_report

    ours = of(config)
    terminal.write_summary(
        terminalreporter,
        ours,
        exitstatus,
        more=[*update.summary_lines(ours), *replay_report.write(ours, exitstatus)],
    )
    gaps.write(terminalreporter, ours)
    github.write(terminalreporter, ours, list(notes.final_reports(terminalreporter)))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Rewrite suites, and tell pytest-xdist's controller where a search left its report."""
    ours = of(session.config)
    update.finish(session, ours)
    gaps.finish(session, ours)
    if ours.worker_input is not None:
        from pytest_divergence.plugin import replay_report

        replay_report.send(ours, session.config.workeroutput)  # type: ignore[attr-defined]
    if ours.worker_input is not None and ours.report_dir is not None:
        session.config.workeroutput[REPORT_KEY] = str(ours.report_dir)  # type: ignore[attr-defined]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Hear from a worker of pytest-xdist."""
    from pytest_divergence.plugin import replay_report, search

    ours, output = of(node.config), getattr(node, "workeroutput", {})
    search.hear(ours, output)
    replay_report.hear(ours, output)
    gaps.hear(ours, output)


@pytest.fixture(scope="session")
def model_pair(pytestconfig: pytest.Config) -> ModelPair:
    """The two models of the session, loaded once: reference and candidate."""
    session = of(pytestconfig)
    with failures(session):
        return session.pair()


@pytest.fixture(scope="session")
def soft_prompts(pytestconfig: pytest.Config) -> list[SoftPrompt]:
    """The soft prompts that the session's search trained."""
    from pytest_divergence.discovery.soft_prompts.virtual_tokens import load_soft_prompts

    session = of(pytestconfig)
    with failures(session):
        return load_soft_prompts(search.search_outcome(session).key)


@pytest.fixture(scope="session")
def hard_prompts(pytestconfig: pytest.Config) -> list[str]:
    """The prompts, as text, on which the session's models were found to differ."""
    session = of(pytestconfig)
    with failures(session):
        return [one.case.text for one in collection.session_cases(session)]


@pytest.fixture
def divergence_case(request: pytest.FixtureRequest) -> Case:
    """One case of the session; a test that takes it runs once for each."""
    if not hasattr(request, "param"):
        pytest.fail(
            "divergence_case must be an argument of the test or of one of its fixtures; "
            "request.getfixturevalue() comes too late to run the test once for each case",
            pytrace=False,
        )
    given: collection.SuiteCase | collection.NoCase = request.param
    if isinstance(given, collection.NoCase):
        pytest.fail(given.reason, pytrace=False)
    request.node.stash[collection.CASE_SUITE] = given.suite
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
    """Measure what a suite's item will judge: in setup, where failing is an error."""
    request.addfinalizer(request.node.forget)
    try:
        request.node.measure(request)
    except BaseException as error:  # its frames hold the models, until it has been reported
        request.addfinalizer(partial(forget_frames, error))  # noqa: PT021  # see above
        raise
    return request.node
