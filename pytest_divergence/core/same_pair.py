"""Whether two provenances speak of the same models, read and prompted in the same way."""

from __future__ import annotations

from pytest_divergence.core.errors import SuiteError
from pytest_divergence.core.provenance import ModelProvenance, Provenance
from pytest_divergence.core.safe_text import safe_line
from pytest_divergence.core.stored import StoredSuite


def check_same_pair(
    stored: StoredSuite, provenance: Provenance, *, relation: str, if_unknown: str, if_other: str
) -> None:
    """Refuse a suite whose rows were not measured on the pair of `provenance`.

    `relation` is the suite's to its own pair, in words; the last two say what to do. Raises
    SuiteError.
    """
    path = stored.suite.path
    if stored.provenance is None:
        if any(row.kl is not None for row in stored.suite.rows):
            raise SuiteError(
                path,
                None,
                "has measured rows but no provenance, so nothing says which models they were "
                f"measured on; {if_unknown}",
            )
    elif different := parting(stored.provenance, provenance):
        raise SuiteError(
            path,
            None,
            f"{relation} another pair: different are {'; '.join(different)}; {if_other}",
        )


def parting(ours: Provenance, theirs: Provenance) -> list[str]:
    """What differs, each as `the candidate ("ft", weights 01234567…, and not "ft", …)`."""
    parts = {
        "the reference": _models(ours.reference, theirs.reference),
        "the candidate": _models(ours.candidate, theirs.candidate),
        "the tokenizer": (ours.tokenizer_sha256, theirs.tokenizer_sha256),
        "the chat template": (ours.template_sha256, theirs.template_sha256),
        "the template's arguments": (ours.template_arguments, theirs.template_arguments),
        "the system prompt": tuple(one.settings.get("system_prompt") for one in (ours, theirs)),
    }
    return [
        f"{name} ({_shown(first)}, and not {_shown(second)})"
        for name, (first, second) in parts.items()
        if first != second
    ]


def is_same_model(ours: ModelProvenance, theirs: ModelProvenance) -> bool:
    """By the weights; else by the commit; else, where neither is known, by the spec."""
    for name in ("weights_sha256", "commit"):
        first, second = getattr(ours, name), getattr(theirs, name)
        if first is not None and second is not None:
            return bool(first == second)
    return ours.spec == theirs.spec


def model_name(model: ModelProvenance) -> str:
    """A model for people: its spec, and the start of what tells its weights apart."""
    digest = model.weights_sha256 or model.commit or ""
    parts = (part[:8] for part in digest.split("+"))  # of an adapter: its base's, and its own
    return f"{safe_line(model.spec)} {'+'.join(parts)}".rstrip()


def _models(ours: ModelProvenance, theirs: ModelProvenance) -> tuple[object, object]:
    return (None, None) if is_same_model(ours, theirs) else (ours, theirs)


def _shown(value: object) -> str:
    if isinstance(value, ModelProvenance):
        return model_name(value)
    return "none" if value is None else safe_line(str(value), 40)
