"""A session looks at its models once, and again where they have changed since.

That each is looked up and screened once: `tests/models/test_load_plan.py`.
"""

from __future__ import annotations

import json

from tests.plugin.conftest import KNOT, MODELS, POEM, Project, shown

CODE = "ft/config.json has fusion_config, which selects code"


def test_the_next_session_of_a_process_looks_again(project: Project) -> None:
    project.write("test_fixture.py", "def test_it(model_pair): assert model_pair.dtype\n")
    command = (*MODELS, "--divergence-mode=replay", "test_fixture.py")
    project.run(*command).assert_outcomes(passed=1)
    config = project.path / "ft" / "config.json"
    harmless = json.loads(config.read_text("utf-8"))
    config.write_text(json.dumps({**harmless, "fusion_config": {}}), "utf-8")

    assert CODE in shown(project.run(*command))


RETRAINED = """
import json, pathlib, pytest

@pytest.fixture(scope="session", autouse=True)
def retrained():
    config = pathlib.Path("ft/config.json")
    config.write_text(json.dumps({**json.loads(config.read_text()), **CHANGE}))
"""


def test_a_folder_that_changed_since_it_was_looked_at_is_screened_again(project: Project) -> None:
    suite = project.write_suite(
        "a.divergence.jsonl", {"input": KNOT, "max_kl": 9.0}, {"input": POEM, "max_kl": 9.0}
    )
    project.write("conftest.py", RETRAINED.replace("CHANGE", "{}"))
    project.run(*MODELS, str(suite)).assert_outcomes(passed=2)

    project.write("conftest.py", RETRAINED.replace("CHANGE", '{"fusion_config": {}}'))
    refused = project.run(*MODELS, str(suite))

    refused.assert_outcomes(errors=2)
    assert CODE in shown(refused)
