"""A served model after --model-2: an address and options, none of which holds a secret."""

from __future__ import annotations

import pytest

from pytest_divergence.core.errors import ModelLoadError
from pytest_divergence.models.specs import check_served_locally, is_text_only, parse_spec

ROLE = "--model-2"
EXAMPLE = "as in llamacpp:http://127.0.0.1:8080"


def refusal(text: str) -> str:
    with pytest.raises(ModelLoadError) as caught:
        parse_spec(text, role=ROLE)
    return str(caught.value)


def test_an_address_and_its_options_are_read_and_shown() -> None:
    text = "llamacpp:https://gpu.example:8443,model=m,tokenizer=owner/base,key_env=KEY,timeout=5"
    spec = parse_spec(text, role=ROLE)

    assert (spec.kind, spec.location) == ("llamacpp", "https://gpu.example:8443")
    assert (spec.model, spec.tokenizer, spec.key_env) == ("m", "owner/base", "KEY")
    assert (spec.timeout, spec.is_remote) == (5.0, True)
    assert str(spec) == text


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:8080", "http://localhost:1", "http://[::1]:8080/"]
)
def test_a_server_on_this_machine_is_not_remote(address: str) -> None:
    spec = parse_spec(f"llamacpp:{address}", role=ROLE)

    assert spec.is_served
    assert not spec.is_remote


@pytest.mark.parametrize(
    "text", ["tgi:http://u:secret@h.example/v1", "sglang:https://h.example/v1?key=secret"]
)
def test_a_dialect_that_is_not_known_is_not_guessed(text: str) -> None:
    assert refusal(text) == (
        "--model-2 is a URL (host h.example); models are loaded from a Hub id such as owner/name "
        "or from a local folder, and a served one is named with what serves it: "
        "llamacpp:http://127.0.0.1:8080"
    )


@pytest.mark.parametrize(
    ("address", "rule"),
    [
        ("http://me:secret@h.example", "must hold no user or password (key_env names the variable"),
        ("http://h.example/secret", "must end after host and port"),
        ("http://h.example?key=secret", "must end after host and port"),
        ("http://h.example#secret", "must end after host and port"),
        ("ftp://h.example", "must begin with http:// or https:// and a host"),
        ("http://h.example:port", "must have a host, and a port that is a number"),
        ("http://h.exämple", "must have a host of plain letters"),
    ],
)
def test_an_address_is_scheme_host_and_port_alone(address: str, rule: str) -> None:
    message = refusal(f"llamacpp:{address}")

    assert "--model-2: the address after llamacpp: (host h.ex" in message
    assert rule in message
    assert EXAMPLE in message
    assert "secret" not in message


@pytest.mark.parametrize(
    ("address", "location"),
    [
        ("https://h.example", "https://h.example/v1"),
        ("https://h.example/", "https://h.example/v1"),
        ("https://h.example/openai/v1/", "https://h.example/openai/v1"),
    ],
)
def test_openais_interface_may_stand_under_a_path(address: str, location: str) -> None:
    spec = parse_spec(f"openai:{address},model=m", role=ROLE)

    assert (spec.kind, spec.location) == ("openai", location)
    assert str(spec) == f"openai:{location},model=m"
    assert is_text_only(f"openai:{address}")
    assert not is_text_only(f"llamacpp:{address}")


def test_a_path_holds_no_secret() -> None:
    message = refusal("openai:https://h.example/v1?key=secret")

    assert "must end after host and port" in message
    assert "as in openai:https://api.example.com/v1,model=NAME,key_env=API_KEY" in message
    assert "secret" not in message
    assert "must have a path of plain letters" in refusal("openai:https://h.example/v1/%2e;x")


def test_a_key_in_place_of_its_variable_is_refused_unseen() -> None:
    assert refusal("llamacpp:https://h.example,key_env=sk-abc123") == (
        "--model-2: key_env must be the name of an environment variable in capitals, such as "
        "LLAMACPP_KEY, never the key itself"
    )


def test_no_key_is_sent_unencrypted_to_another_machine() -> None:
    assert refusal("llamacpp:http://h.example,key_env=KEY") == (
        "--model-2: key_env=KEY would be sent unencrypted to host h.example; give an https address"
    )
    assert parse_spec("llamacpp:http://127.0.0.1:1,key_env=KEY", role=ROLE).key_env == "KEY"


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "soon", "99999"])
def test_a_timeout_is_a_number_of_seconds(seconds: str) -> None:
    assert refusal(f"llamacpp:http://127.0.0.1:1,timeout={seconds}") == (
        f"--model-2: timeout={seconds} must be a number of seconds above 0, and at most 3600"
    )


def test_options_of_loaded_models_are_not_those_of_served_ones() -> None:
    assert refusal("llamacpp:http://127.0.0.1:1,dtype=float32") == (
        "--model-2: 'dtype' is not an option of a spec, or has no value; write "
        "spec,model=…,tokenizer=…,key_env=…,timeout=…"
    )
    assert "'key_env' is not an option of a spec" in refusal("owner/name,key_env=KEY")


def test_a_file_names_no_server_on_another_machine() -> None:
    with pytest.raises(ModelLoadError) as caught:
        check_served_locally("llamacpp:https://gpu.example", name="divergence_model_2")

    assert str(caught.value) == (
        "divergence_model_2 names a server on another machine (host gpu.example), and a file may "
        "name only one on this machine; give the address on the command line or in the "
        "environment variable of the option"
    )
    check_served_locally("llamacpp:http://127.0.0.1:8080", name="divergence_model_2")
    check_served_locally("owner/name", name="divergence_model_2")
