"""A case: a prompt, its limit and what was measured on it. One row of a suite.

Knows the row's keys, their order, their rules and the id. Knows nothing of files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from pytest_divergence.core.evaluation_metrics import BUILT_IN_METRICS
from pytest_divergence.core.safe_text import safe_line, slug

SCHEMA_VERSION = 1
"""Version of every file that this release writes; older ones are read too."""


class Record(BaseModel):
    """A value that is checked when it is built, never changes, and knows all of its keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


def _known_version(version: int) -> int:
    if not 1 <= version <= SCHEMA_VERSION:
        raise ValueError(
            f"schema_version is {str(version)[:20]}, but this pytest-divergence knows versions up "
            f"to {SCHEMA_VERSION}; upgrade it: pip install --upgrade pytest-divergence"
        )
    return version


SchemaVersion = Annotated[
    int,
    Field(strict=True, json_schema_extra={"minimum": 1, "maximum": SCHEMA_VERSION}),
    AfterValidator(_known_version),
]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
PositiveNumber = Annotated[float, Field(strict=True, allow_inf_nan=False, gt=0)]
Count = Annotated[int, Field(strict=True, ge=0)]
SafeId = Annotated[str, Field(pattern="^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
"""A name that is harmless in terminals, HTML, file names and pytest ids."""

CONTROL_TAG = "control"
"""Tag of a suite's control rows: ordinary prompts, measured together and not one by one."""

NOT_ORDINARY_TAG = "not-ordinary"
"""Tag of a control row that shows a confirmed behaviour of content: it says nothing of the rest."""

NATS_PER_TOKEN = "nats/token"
"""Unit of every metric that names no other."""

FULL, CHOSEN, TEXT = "full", "chosen", "text"
"""Evidence: all probabilities at each position, those of the tokens there, or what is written."""

CATEGORY = "category"
"""Key of a case's metadata: the kind of difference that it shows, as a plugin names it."""

AnyCase = TypeVar("AnyCase", bound="Case")


class Message(Record):
    """One turn of a chat."""

    role: Literal["system", "user", "assistant"]
    content: str


class Measurement(Record):
    """Measurement of one prompt over its stored continuations, in nats per token.

    Only `value` and `sd` are in `unit`.
    """

    value: Number
    """The asserted number, in `metric`."""
    metric: str
    forward: Number
    """KL(reference || candidate)."""
    reverse: Number
    """KL(candidate || reference)."""
    js: Number
    """Jensen-Shannon divergence, at most ln 2."""
    sd: Number | None
    """Jackknifed standard deviation of `value` over continuations; None where there is only one."""
    max_token: Number
    """Largest divergence at one position."""
    num_tokens: Annotated[int, Field(strict=True, ge=1)]
    """Positions measured."""
    num_continuations: Annotated[int, Field(strict=True, ge=1)]
    """Continuations measured, from each model."""
    estimator: Literal["fresh", "stored"]
    """`fresh` continuations of both models, or `stored` ones that an earlier candidate wrote."""
    unit: str = NATS_PER_TOKEN
    """Unit of `value` and `sd`; left out of files where it is the usual one."""
    evidence: Annotated[str, Field(pattern="^(full|head:[1-9][0-9]*|chosen|text)$")] | None = None
    """Data known at each position: all probabilities, the K largest, that of the chosen token, or
    only the text; left out of files where it is unknown."""
    k3: Number | None = None
    """Value from the chosen tokens' probabilities alone (Schulman 2020, "Approximating KL
    divergence"); left out of files where it was not measured."""

    @property
    def quantity(self) -> str:
        """Name of the number for people: KL, JS, or the name of an added metric."""
        return quantity(self.metric)

    @model_serializer(mode="wrap")
    def _without_the_usual(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        row: dict[str, Any] = dump(self)
        usual = {"unit": NATS_PER_TOKEN, "evidence": None, "k3": None}
        return {key: value for key, value in row.items() if key not in usual or value != usual[key]}


class Completions(Record):
    """Each model's greedy answer, for people."""

    reference: str
    candidate: str


class Origin(Record):
    """Source of a prompt that a search found."""

    strategy: str
    seed: str | None = None
    """The seed prompt it started from."""
    search_kl: Number | None = None
    """Value during the search, in nats per token; `kl` is the confirmed value."""


class Case(Record):
    """A prompt with its limit and measurement. `input` (or `prompt`) or `messages` is required.

    `id` follows from the prompt; one that is given must agree.
    """

    schema_version: SchemaVersion = SCHEMA_VERSION
    id: str = ""
    """Slug and digest of the prompt."""
    input: str | None = None
    """The prompt, as one user turn."""
    messages: tuple[Message, ...] | None = None
    """The prompt as turns of a chat, in place of `input`."""
    max_kl: PositiveNumber | None = None
    """Asserted limit in nats per token; None takes the session's."""
    tags: tuple[str, ...] = ()
    """Free text, except for `control`: an ordinary prompt, measured with the other controls."""
    behaviour: SafeId | None = None
    """Id of the behaviour that the prompt shows."""
    kl: Measurement | None = None
    """Measurement; None in a row that has not been filled in."""
    completions: Completions | None = None
    origin: Origin | None = None
    template_arguments: dict[str, JsonValue] | None = None
    """Arguments of the chat template for this prompt, such as a date; part of the id."""
    metadata: dict[str, JsonValue] = Field(default_factory=dict)
    """Anything else that a user or a plugin wants to keep; it changes no verdict."""

    @model_validator(mode="before")
    @classmethod
    def _prompt_means_input(cls, row: Any) -> Any:
        if not isinstance(row, dict) or "prompt" not in row:
            return row
        if "input" in row:
            raise ValueError("both `input` and its alias `prompt` are given; keep one")
        return {"input" if key == "prompt" else key: value for key, value in row.items()}

    @field_validator("metadata", "template_arguments")
    @classmethod
    def _is_finite(cls, value: object, info: ValidationInfo) -> object:
        if not value:
            return value
        try:
            json.dumps(value, allow_nan=False)
        except ValueError:
            what = info.field_name
            raise ValueError(f"{what} holds NaN or infinity, which JSON cannot store") from None
        return value

    @model_validator(mode="after")
    def _is_one_prompt(self) -> Case:
        if (self.input is None) == (self.messages is None):
            given = "neither" if self.input is None else "both"
            raise ValueError(
                f"{given} of `input` and `messages` given; a case has exactly one: "
                "`input` (a string) or `messages` (a list of role and content)"
            )
        turns = self.turns
        _check_turns(turns)
        computed = self._id_of(turns)
        if "id" in self.model_fields_set and self.id != computed:
            raise ValueError(
                f"id is {safe_line(self.id)}, but this prompt's id is {safe_line(computed)}; "
                "leave `id` out and it is filled in"
            )
        object.__setattr__(self, "id", computed)  # frozen for everyone else
        return self

    def _id_of(self, turns: Sequence[Message]) -> str:
        return case_id(turns, self.template_arguments)

    @property
    def turns(self) -> tuple[Message, ...]:
        """The prompt as chat turns; an `input` is one user turn."""
        if self.messages is not None:
            return self.messages
        return (Message(role="user", content=self.input or ""),)

    @property
    def is_control(self) -> bool:
        """Whether it is an ordinary prompt that shows broad change, and not a test item."""
        return CONTROL_TAG in self.tags

    @property
    def is_ordinary(self) -> bool:
        """Whether it is a control that stands for ordinary prompts."""
        return self.is_control and NOT_ORDINARY_TAG not in self.tags

    @property
    def category(self) -> str | None:
        """The kind of difference that it shows, where a plugin has named it."""
        named = self.metadata.get(CATEGORY)
        return named if isinstance(named, str) else None

    @property
    def text(self) -> str:
        """The prompt for people: what the user says last."""
        return self.turns[-1].content

    def with_changes(self: AnyCase, **changes: Any) -> AnyCase:
        """Return a copy with `changes`, checked like a new case."""
        kept = {name: getattr(self, name) for name in self.model_fields_set if name != "id"}
        return type(self)(**{**kept, **changes})

    def to_row(self) -> dict[str, Any]:
        """Return the row as plain JSON values in key order; keys without a value are left out."""
        row = self.model_dump(mode="json")
        return {key: value for key, value in row.items() if value is not None}


def quantity(metric: str) -> str:
    """Return the name of a metric's numbers for people: KL, JS, or that of an added metric."""
    if metric == "js":  # at most ln 2, and about a quarter of KL: a limit in KL would pass it all
        return "JS"
    return "KL" if metric in BUILT_IN_METRICS else metric


def is_same_quantity(metric: str, other: str) -> bool:
    """Whether a limit in one metric can be compared with a number in the other."""
    return quantity(metric) == quantity(other)


def case_id(
    prompt: str | Sequence[Message], template_arguments: Mapping[str, JsonValue] | None = None
) -> str:
    """Return the id of a prompt: a slug for people and a digest of the exact text for machines.

    Never depends on rank, KL or models. A single user turn has the id of its text. Arguments of the
    chat template count as part of the prompt.
    """
    if not isinstance(prompt, str) and len(prompt) == 1 and prompt[0].role == "user":
        prompt = prompt[0].content
    if isinstance(prompt, str):
        text = exact = prompt
    else:
        text = prompt[-1].content
        exact = canonical_json([{"content": turn.content, "role": turn.role} for turn in prompt])
    if template_arguments:
        exact = f"{exact}\0{canonical_json(template_arguments)}"
    return f"{slug(text)}-{_digest(exact)}"


def canonical_json(value: object) -> str:
    """Return the canonical JSON text of a value, which digests are computed from."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:10]


def _check_turns(turns: Sequence[Message]) -> None:
    if not turns:
        raise ValueError("messages is empty; a case needs at least one user turn")
    if turns[-1].role != "user":
        raise ValueError(
            f"the last of messages has role {safe_line(turns[-1].role)}; it must be the user's, "
            "because the models answer it"
        )
    if not turns[-1].content:
        raise ValueError("the prompt is empty; a case needs text for the models to answer")
    if any(_has_lone_surrogate(turn.content) for turn in turns):
        raise ValueError("the prompt holds half a character (a lone surrogate), not valid text")


def _has_lone_surrogate(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False
