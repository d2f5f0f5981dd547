"""What may stand after --model-1, and what is shown of it."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_divergence.core.errors import ModelLoadError
from pytest_divergence.models.specs import parse_spec

ROLE = "--model-1"


def refusal(text: str, root: Path | None = None) -> str:
    with pytest.raises(ModelLoadError) as caught:
        parse_spec(text, role=ROLE, root=root)
    return str(caught.value)


def test_a_spec_is_a_folder_an_adapter_a_hub_id_or_a_demo_with_options(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora" / "adapter_config.json").write_text("{}")

    folder, adapter = (parse_spec(name, role=ROLE, root=tmp_path) for name in ("mine", "lora"))
    assert (folder.kind, folder.path) == ("folder", tmp_path / "mine")
    assert adapter.kind == "adapter"
    for name in ("gpt2", "owner/name", "owner/name-1.5_B"):
        assert parse_spec(name, role=ROLE).kind == "hub"
    demo = parse_spec("demo:smollm2-135m", role=ROLE)
    assert (demo.kind, demo.location, str(demo)) == ("demo", "smollm2-135m", "demo:smollm2-135m")
    spec = parse_spec(" owner/name , dtype=bfloat16,revision=main", role=ROLE)
    assert (spec.location, spec.dtype, spec.revision) == ("owner/name", "bfloat16", "main")
    assert str(spec) == "owner/name,dtype=bfloat16,revision=main"


@pytest.mark.parametrize("name", ["lr=1e-4,bs=8/checkpoint-5", "a,dtype=float32", "a,b=c,d"])
def test_a_folder_whose_name_holds_commas_is_found(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir(parents=True)

    bare, with_option = (
        parse_spec(text, role=ROLE, root=tmp_path) for text in (name, f"{name},dtype=bfloat16")
    )

    assert (bare.kind, bare.path, bare.dtype) == ("folder", tmp_path / name, None)
    assert (with_option.path, with_option.dtype) == (tmp_path / name, "bfloat16")


def test_a_folder_has_no_revision(tmp_path: Path) -> None:
    """Where a folder is called like the Hub id that was meant, it would be taken in its place."""
    (tmp_path / "mine").mkdir()

    assert refusal("mine,revision=v2", tmp_path) == (
        f"--model-1: revision=v2 is for a Hub id, and {tmp_path / 'mine'} is not one; leave it out"
    )


def test_nothing_and_a_file_are_no_models(tmp_path: Path) -> None:
    assert refusal("  ") == "--model-1 is empty; give a Hub id, a local folder or demo:NAME"
    (tmp_path / "m.safetensors").write_text("")

    assert refusal("m.safetensors", tmp_path) == (
        "--model-1 is the file 'm.safetensors'; give the folder that holds config.json and the "
        "safetensors"
    )


@pytest.mark.parametrize("text", ["./missing", "a/b/c", "/no/such", "~nosuchuser/model", "a b"])
def test_what_is_neither_folder_nor_hub_id_is_refused(text: str) -> None:
    assert refusal(text) == f"--model-1: no folder {text!r} here, and it is not a Hub id"
    for strange in ("a/b/" + "x" * 5000, "a\0b"):  # no file system takes these
        assert "not a Hub id" in refusal(strange)


@pytest.mark.parametrize("text", ["name,speed=9", "name,dtype", "name,revision="])
def test_an_unknown_option_is_named(text: str) -> None:
    key = text.split(",")[1].split("=")[0]

    assert refusal(text) == (
        f"--model-1: {key!r} is not an option of a spec, or has no value; write "
        "spec,dtype=…,attn_implementation=…,revision=…,device=…,device_map=…,base=…"
    )


SECRET = "s3cr3tT0ken"


@pytest.mark.parametrize(
    "text",
    [
        f"https://user:{SECRET}@hub.example/owner/name",
        f"https://user:a,{SECRET}@hub.example/owner/name",
        f"https://hub.example/owner/name?token={SECRET}",
        f"https://hub.example/owner/name,token={SECRET}",
        f"https://[{SECRET}/owner",
        f"owner/name,token={SECRET}",
        f"user:{SECRET}@hub.example/owner/name",
    ],
)
def test_a_secret_in_a_spec_is_never_shown(text: str) -> None:
    assert SECRET not in refusal(text)


def test_a_url_is_refused_with_its_host() -> None:
    assert refusal("https://me:pw@hub.example/owner/name") == (
        "--model-1 is a URL (host hub.example); models are loaded from a Hub id such as "
        "owner/name or from a local folder, and a served one is named with what serves it: "
        "llamacpp:http://127.0.0.1:8080"
    )
    for text in ("A://@\x08", "https://\x1b[2J/m", "x://a\u202eb/m"):
        assert refusal(text).isprintable()


@given(st.text(max_size=40))
@settings(deadline=None)
def test_any_text_is_a_spec_or_a_load_error(text: str) -> None:
    with contextlib.suppress(ModelLoadError):
        assert parse_spec(text, role=ROLE).location
