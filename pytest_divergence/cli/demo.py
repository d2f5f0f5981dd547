"""`pytest-divergence demo`: a search of a real pair, in a project that it makes."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import pytest

from pytest_divergence.cli._arguments import DEMO_FOLDER
from pytest_divergence.cli._output import say, say_lines
from pytest_divergence.cli._project import in_project
from pytest_divergence.cli.discover import exit_code, searched
from pytest_divergence.core.errors import SettingsError
from pytest_divergence.core.files import make_folder, write_together
from pytest_divergence.models.sources import DEMO, DEMO_ADAPTER
from pytest_divergence.models.specs import DEMO_PREFIX
from pytest_divergence.plugin.options import BY_FIELD
from pytest_divergence.reports.text_blocks import WIDTH, sentence
from pytest_divergence.reports.wording import failed, rerun_command, unaccepted

MODELS = {"model_1": DEMO_PREFIX + DEMO, "model_2": DEMO_PREFIX + DEMO_ADAPTER}
SETTINGS = {**MODELS, "profile": "smoke"}
INI = "pytest.ini"


def run(given: Namespace) -> int:
    """Search in a folder of its own, and print what to do next, the report last."""
    folder = _project()
    say_lines(
        sentence(
            f"Searching SmolLM2-135M-Instruct and an adapter of it, trained to advertise a made-up "
            f"travel agency. The search doesn't know that. Results go to {DEMO_FOLDER}.",
            width=WIDTH,
        )
    )
    # On the command line too, where they win over the environment.
    words = [f"{BY_FIELD[field].flag}={value}" for field, value in SETTINGS.items()]
    return in_project([*words, "--divergence-mode=auto", str(folder)], _demonstrate)


def _project() -> Path:
    """Return the demo's project, made on first use, with an ini file, so that no other applies.

    Raises SettingsError where the folder is someone else's, StoreError where it cannot be made.
    """
    folder = make_folder(Path.cwd() / DEMO_FOLDER, within=Path.cwd())
    ini = folder / INI
    if not ini.exists():
        if any(folder.iterdir()):
            raise SettingsError(
                f"{DEMO_FOLDER} is there already and has no {INI}, so it is not a demo's; rename "
                "it, or run the demo elsewhere"
            )
        lines = [f"{BY_FIELD[field].ini} = {value}\n" for field, value in SETTINGS.items()]
        text = "".join(["[pytest]\n", *lines])
        write_together({ini: text.encode("utf-8"), folder / ".gitignore": b"*\n"})
    return folder


def _demonstrate(config: pytest.Config) -> int:
    session = searched(config)
    report, reports = session.report, session.report_dir
    code = exit_code(session)
    if code or report is None or reports is None:
        return code
    say("")
    if failed(report) or unaccepted(report):
        say("The models differ, as they should: as tests, this fails with exit code 1.")
        say(f"  cd {DEMO_FOLDER} && {rerun_command(None, MODELS)}")
    say("Decide on the findings, one at a time:")
    say(f"  cd {DEMO_FOLDER} && pytest-divergence review latest")
    say("Open the report in a browser:")
    say(f"  {(reports / 'report.html').resolve().as_uri()}")
    return code
