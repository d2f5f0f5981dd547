"""In what two searches differ is said in the words of the command line."""

from __future__ import annotations

import pytest

from pytest_divergence.core.settings import PROFILES, Settings
from pytest_divergence.core.unlike_runs import unlike
from pytest_divergence.discovery.identity import RunIdentity, in_words, run_parts
from pytest_divergence.discovery.strategies import built_in_strategies
from pytest_divergence.models.fingerprints import ModelIdentity
from pytest_divergence.options import BY_FIELD


@pytest.mark.parametrize(
    ("ours", "theirs", "words"),
    [
        (
            {"budget_seconds": "None"},
            {"budget_seconds": "30.0"},
            "--divergence-budget in seconds: not set, 30.0",
        ),
        ({"settings.seeds": "None", "x": "1"}, {"x": "1"}, ""),
        (
            {"settings.chat_template": "none", "x": "1"},
            {"settings.chat_template": "reference", "x": "1"},
            "--divergence-chat-template: none, reference",
        ),
        (
            {"profile.num_steps": "20", "versions.torch": "2.10.0"},
            {"profile.num_steps": "40", "versions.torch": "2.11.0"},
            "the profile's num steps: 20, 40; the version of torch: 2.10.0, 2.11.0",
        ),
        (
            {"identity.candidate.weights_sha256": "0" * 64},
            {"identity.candidate.weights_sha256": "1" * 64},
            f"the candidate's weights: {'0' * 24}…, {'1' * 24}…",
        ),
        (
            {"strategies.mine": "Mine"},
            {"strategies.other": "Other"},
            "the strategy mine: Mine, not set; the strategy other: not set, Other",
        ),
        ({"what": "a"}, {"what": "b"}, "what: a, b"),
    ],
)
def test_a_difference_is_told_by_the_name_that_users_know(
    ours: dict[str, str], theirs: dict[str, str], words: str
) -> None:
    assert unlike(ours, theirs) == words


def test_nothing_that_a_run_depends_on_is_told_by_an_inner_name() -> None:
    reference, candidate = (ModelIdentity(spec, "folder", spec * 64) for spec in "ab")
    about = in_words(
        run_parts(
            RunIdentity(reference, candidate, "0" * 64, "cpu", "1" * 64),
            Settings(model_1="a", model_2="b"),
            PROFILES["smoke"],
            prompts=[],
            strategies=built_in_strategies(),
        )
    )
    for name, value in about.items():
        words = unlike({name: value}, {name: f"not {value}"}).partition(":")[0]
        assert "." not in words
        assert "_" not in words or name.startswith("strategies.")
        if words.startswith("--"):
            assert words.split()[0] in {one.flag for one in BY_FIELD.values()}
