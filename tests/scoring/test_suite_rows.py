"""A stored case measured again, and the token view of it."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_divergence.core.cases import Case, Message
from pytest_divergence.core.errors import MeasurementError
from pytest_divergence.core.tokens import StoredTokens, prompt_digest
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.scoring.scorer import PromptScore, score_prompts
from pytest_divergence.scoring.suite_rows import replay_cases
from pytest_divergence.scoring.token_comparison import compare_tokens
from tests.models_in_memory import local, tiny_pair
from tests.replaying import replay_case

PROMPT = "How do I tie a knot?"
SIZES: Any = {"metric": "symmetric", "num_continuations": 2, "max_new_tokens": 6, "seed": 3}


@pytest.fixture(scope="module")
def first(pair: ModelPair) -> PromptScore:
    return score_prompts(pair, [PROMPT], **SIZES)[0]


def stored(score: PromptScore, **changes: Any) -> StoredTokens:
    fields = {
        "id": Case(input=PROMPT).id,
        "prompt_sha256": prompt_digest(score.prompt_ids),
        "reference": list(map(list, score.continuations.reference)),
        "candidate": list(map(list, score.continuations.candidate)),
    }
    return StoredTokens(**{**fields, **changes})


def test_replay_scores_the_stored_continuations(pair: ModelPair, first: PromptScore) -> None:
    again = replay_case(pair, Case(input=PROMPT), stored(first), **{**SIZES, "seed": 99})

    assert again.continuations == first.continuations
    assert again.measurement.value == pytest.approx(first.measurement.value, abs=1e-6)
    assert again.measurement.estimator == "stored"


def test_a_changed_template_or_system_prompt_is_an_error_that_names_the_case(
    pair: ModelPair, first: PromptScore
) -> None:
    other = pair.with_template("{% for m in messages %}User: {{ m.content }}{% endfor %} ")
    case = Case(input=PROMPT)

    with pytest.raises(MeasurementError, match=f"case {case.id}: the prompt's token ids differ"):
        replay_case(other, case, stored(first), **SIZES)
    models = local(pair.reference).model, local(pair.candidate).model
    other = ModelPair.from_models(*models, pair.chat.tokenizer, system_prompt="Be brief.")
    with pytest.raises(MeasurementError, match="or the system prompt has changed"):
        replay_case(other, case, stored(first), **SIZES)


def test_a_stored_id_outside_the_vocabulary_is_an_error(
    pair: ModelPair, first: PromptScore
) -> None:
    with pytest.raises(MeasurementError, match=r"stored token id 271 is outside .* of 271 tokens"):
        replay_case(pair, Case(input=PROMPT), stored(first, reference=[[5, 271]]), **SIZES)


def test_a_case_that_cannot_be_measured_keeps_no_other_from_it(
    pair: ModelPair, first: PromptScore
) -> None:
    """Also where only the forward pass shows it: no prompt is that long."""
    cases = [Case(input=text) for text in (PROMPT, "x" * 3000, "Write a poem about rain.")]
    tokens = {cases[0].id: stored(first)}
    sizes: Any = {name: value for name, value in SIZES.items() if name != "metric"}

    found = replay_cases(tiny_pair("gpt2"), cases, {}, metric_of=lambda case: "symmetric", **sizes)

    assert isinstance(found[cases[1].id], Exception)
    for case in (cases[0], cases[2]):
        alone = replay_cases(
            tiny_pair("gpt2"), [case], {}, metric_of=lambda case: "symmetric", **sizes
        )
        assert found[case.id] == alone[case.id]
    assert tokens  # stored and fresh cases go together
    mixed = replay_cases(pair, [cases[0], cases[2]], tokens, metric_of=lambda case: "js", **sizes)
    estimators = [
        one.measurement.estimator for one in mixed.values() if not isinstance(one, Exception)
    ]
    assert estimators == ["stored", "fresh"]


def test_a_conversation_is_replayed_with_all_its_turns(pair: ModelPair) -> None:
    turns = (
        Message(role="user", content="Hello"),
        Message(role="assistant", content="Hello to you"),
        Message(role="user", content=PROMPT),
    )

    conversation = replay_case(pair, Case(messages=turns), None, **SIZES)
    alone = replay_case(pair, Case(input=PROMPT), None, **SIZES)

    assert conversation.measurement.value != alone.measurement.value


def test_tokens_are_shown_as_they_are_written_and_average_to_the_measurement(
    pair: ModelPair, first: PromptScore
) -> None:
    only = first.continuations.candidate[0]

    view = compare_tokens(pair, PROMPT, only)

    assert [one.text for one in view] == [pair.chat.tokenizer.decode([i]) for i in only]
    for one in view:
        tops = [p for _, p in one.candidate_top]
        assert tops == sorted(tops, reverse=True)
        assert 0 < one.candidate_p <= tops[0] <= 1
        assert one.forward_kl > 0
    mean = sum(one.reverse_kl for one in view) / len(view)
    single = type(first.continuations)((only,), (only,))
    measured = score_prompts(pair, [PROMPT], continuations=[single])[0].measurement
    assert mean == pytest.approx(measured.reverse, abs=1e-5)
