"""`pytest-divergence export`: cases in the format of another tool."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from pytest_divergence.cli._output import complain, give, say
from pytest_divergence.cli._project import suites_meant
from pytest_divergence.core.errors import SettingsError
from pytest_divergence.core.file_names import is_suite, suite_beside
from pytest_divergence.core.files import check_inside, write_atomically
from pytest_divergence.core.promotion import make_folder_of
from pytest_divergence.core.suites import read_suite
from pytest_divergence.exports import inspect_samples, llm_comparator, promptfoo

TOOLS = {"inspect": inspect_samples, "promptfoo": promptfoo, "llm-comparator": llm_comparator}
"""Modules that write each format."""


def run(given: Namespace) -> int:
    """Export, and name the cases that are left out."""
    tool = TOOLS[given.format]
    if given.output is not None and given.output.suffix not in tool.SUFFIXES:
        raise SettingsError(
            f"--output={given.output} must end in {' or '.join(tool.SUFFIXES)}, or "
            f"{given.format} cannot read it"
        )
    if given.output is not None and is_suite(suite_beside(given.output)):
        raise SettingsError(
            f"--output={given.output} is a name of a suite's files, which an export must not "
            "overwrite or look like; give another name"
        )
    suites = [read_suite(path) for path in suites_meant(given.suites)]
    if not suites:
        raise SettingsError(f"there is no suite in {', '.join(map(str, given.suites))}; name one")
    exported = tool.exported(suites)
    if exported.left_out:
        ids = ", ".join(case.id for case in exported.left_out)
        complain(f"left out because the models' answers are missing: {ids}")
    if given.output is None:
        give(exported.text)
    else:
        check_inside(given.output.parent, within=Path.cwd())
        make_folder_of(given.output)
        write_atomically(given.output, exported.text)
        say(f"wrote {given.output}, cases: {exported.num_cases}")
    return 0
