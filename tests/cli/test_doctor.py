"""`pytest-divergence doctor`: what it tells of a machine and a pair, from files alone."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, LlamaConfig

from pytest_divergence.cli import main
from pytest_divergence.cli.doctor import package_findings
from pytest_divergence.core.file_names import suite_path
from pytest_divergence.core.findings import Finding
from pytest_divergence.core.settings import PROFILES
from pytest_divergence.discovery.contexts.context_costs import context_costs
from pytest_divergence.discovery.contexts.context_files import read_contexts
from tests.models.test_self_check import openai_gpt
from tests.models.test_text_models import save
from tests.models_in_memory import tiny_config, tiny_model
from tests.plugin.conftest import MODELS, Project
from tests.plugin.test_search import TINY_SEARCH
from tests.tiny import save_tiny_model, tiny_tokenizer

SIZES = re.compile(r"\b[\d,.]+ (MB|GB)\b")
Doctor = Callable[..., list[str]]


@pytest.fixture
def doctor(project: Project, capsys: pytest.CaptureFixture[str]) -> Doctor:
    """What the command prints of a pair: findings, one a line, unwrapped, sizes left out."""

    def run(*words: str, code: int = 0) -> list[str]:
        capsys.readouterr()
        assert main(["doctor", *words]) == code
        shown = capsys.readouterr()
        assert not shown.err
        # A path is never cut.
        assert all(len(line) <= 80 or line.count("/") > 1 for line in shown.out.splitlines())
        lines = shown.out.replace("\n      ", " ").splitlines()
        return [SIZES.sub("N", line) for line in lines]

    return run


def of_pair(lines: list[str]) -> list[str]:
    """Without what is about the machine."""
    start = next(i for i, line in enumerate(lines) if line.startswith("ok    results: "))
    return lines[start + 1 :]


def test_a_served_model_is_asked_what_it_is(
    project: Project, doctor: Doctor, ft_server: str
) -> None:
    lines = of_pair(doctor("--model-1=base", f"--model-2=llamacpp:{ft_server}"))

    assert " ".join(" ".join(lines).split()).endswith(
        f"--model-2 llamacpp:{ft_server} answers: it knows 271 tokens, and tells 64 at a position; "
        "a session tries it out first"
    )


def test_the_machine_is_described_without_a_trace(
    project: Project, doctor: Doctor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setenv("PYTEST_DIVERGENCE_CACHE", str(cache))

    lines = doctor()

    assert lines[0].startswith("ok    pytest-divergence ")
    assert re.fullmatch(r"ok    packages: filelock [\d.]+, .* transformers [\d.]+", lines[1])
    assert re.fullmatch(r"ok    httpx [\d.]+, for served models", lines[4])
    assert "ok    device: cpu, 1 of " in lines[5]
    assert lines[6].startswith(
        f"ok    cache: {cache}, does not exist yet; set PYTEST_DIVERGENCE_CACHE to move"
    )
    assert lines[7:] == [
        "ok    results: .divergence, does not exist yet",
        "note  no models are set: add --model-1 and --model-2 to check a pair too",
    ]
    assert not cache.exists()
    assert not (project.path / ".divergence").exists()


def test_a_pair_that_fits_is_told_from_its_files(
    project: Project, doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(AutoModelForCausalLM, "from_pretrained")  # no weights are loaded

    assert of_pair(doctor(*MODELS)) == [
        "ok    --model-1 base: model, 35,936 parameters",
        "ok    --model-2 ft: model, 35,936 parameters",
        "ok    tokenizer: the same for both, 271 tokens",
        'ok    chat template: reference; "How do I tie a knot?" is 36 tokens',
        "ok    vocabulary: 271 rows in both models",
        "ok    a search needs about N of memory, of N free on cpu",
        "note  the time of a search is unknown before the first one; use --measure; profile smoke, "
        "at most 50,000 forwarded tokens",
    ]

    file = project.write("contexts.txt", "Be kind.\nBe brief.\n")
    smoke = PROFILES["smoke"]
    cost = sum(context_costs(read_contexts(file), smoke))
    assert of_pair(doctor(*MODELS, "--contexts=contexts.txt"))[-1].endswith(
        f"at most {smoke.budget_tokens + cost:,} forwarded tokens"
    )


def test_an_adapter_is_held_against_its_base(
    project: Project, doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(AutoModelForCausalLM, "from_pretrained")
    named = json.loads((project.path / "adapter/adapter_config.json").read_text("utf-8"))

    lines = of_pair(doctor("--model-1=base", "--model-2=adapter"))

    base = named["base_model_name_or_path"]
    assert lines[1] == "ok    --model-2 adapter: adapter, 448 parameters"
    assert lines[4] == f'ok    the adapter fits base; it names "{base}" as its base'

    save_tiny_model(project.path / "other", architecture="gpt2")
    lines = doctor("--model-1=other", "--model-2=adapter", code=1)
    assert lines[-1].startswith("FAIL  --model-2: the adapter ")
    assert "does not fit --model-1 other" in lines[-1]


def test_rows_that_no_tokenizer_names_are_told_from_files(project: Project, doctor: Doctor) -> None:
    model = AutoModelForCausalLM.from_pretrained(project.path / "ft")
    model.resize_token_embeddings(320)
    model.save_pretrained(project.path / "padded")

    lines = of_pair(doctor("--model-1=base", "--model-2=padded"))

    assert lines[4:7] == [
        "note  --model-2 has no tokenizer of its own, so the reference's is used",
        "ok    vocabulary: 271 shared tokens, of 271 rows and 320",
        "note  --model-2 has 320 rows for tokens, and the tokenizer names 271: the other 49 count "
        "as padding and are not compared; if they are added tokens, save the tokenizer that names "
        "them beside the weights",
    ]


def _other_tokenizer(folder: Path) -> None:
    tokenizer: Any = tiny_tokenizer()
    tokenizer.backend_tokenizer.pre_tokenizer.add_prefix_space = True
    tokenizer.save_pretrained(folder)


def _pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _cut(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def _bad_template(folder: Path) -> None:
    (folder.parent / "base" / "chat_template.jinja").write_text("{{ raise_exception('no') }}")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            _other_tokenizer,
            "--model-1 and --model-2 have different tokenizers: they split",
        ),
        (_pickled, "holds only pickled weights (pytorch_model.bin); pickles can run code"),
        (_cut, "/ft cannot be loaded: model.safetensors: SafetensorError"),
        (_bad_template, "the chat template refuses the prompt"),
    ],
)
def test_what_would_not_load_fails_in_the_words_of_loading(
    project: Project, doctor: Doctor, damage: Callable[[Path], None], message: str
) -> None:
    damage(project.path / "ft")

    lines = doctor(*MODELS, code=1)

    assert lines[-1].startswith("FAIL  ")
    assert message in lines[-1]
    session = project.run(*MODELS, "--divergence-mode=search")
    assert session.ret == pytest.ExitCode.USAGE_ERROR
    assert message in session.errlines[0]


def test_models_of_two_widths_are_told_before_they_are_loaded(
    project: Project, doctor: Doctor
) -> None:
    for name, width in (("narrow", 32), ("wide", 64)):
        save(tiny_model(config=tiny_config(LlamaConfig, hidden_size=width)), project.path / name)

    lines = of_pair(doctor("--model-1=narrow", "--model-2=wide"))

    assert (
        "note  the reference's embeddings have 32 values, the candidate's 64: soft prompts are "
        "left out"
    ) in lines


def test_too_little_memory_fails_with_the_way_out(doctor: Doctor) -> None:
    lines = doctor(*MODELS, "--memory=1MB", code=1)

    assert lines[-1].startswith("FAIL  searching these models takes about N of memory on cpu")
    assert (
        "but only N is allowed by --divergence-memory; use --divergence-dtype=bfloat16" in lines[-1]
    )


def test_what_is_not_here_is_not_fetched(doctor: Doctor) -> None:
    assert of_pair(doctor("--model-1=base", "--model-2=owner/new,revision=main")) == [
        "ok    --model-1 base: model, 35,936 parameters",
        "note  --model-2 owner/new,revision=main is not in the Hub cache; the first session "
        "downloads it",
    ]
    assert of_pair(doctor("--model-1=demo:smollm2-135m", "--model-2=adapter"))[0] == (
        "note  --model-1 demo:smollm2-135m is not ready yet; the first session prepares it, in "
        "about half a minute"
    )


def test_a_plugins_model_is_left_to_the_session(project: Project, doctor: Doctor) -> None:
    project.write(
        "conftest.py",
        "def pytest_divergence_fingerprint(config, spec):\n"
        "    return spec if spec.startswith('mine:') else None\n",
    )

    assert of_pair(doctor("--model-1=base", "--model-2=mine:new"))[1:] == [
        "note  --model-2 mine:new is loaded by a plugin, so only a session can tell"
    ]


@pytest.mark.slow
def test_minutes_come_from_the_last_search_or_are_measured(
    project: Project, doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = of_pair(doctor(*MODELS, "--measure", "--budget=30000"))[-1]
    assert re.fullmatch(
        r"ok    a search takes about \d+ s: profile smoke, at most 30,000 forwarded tokens, "
        r"[\d,]+ a second measured now",
        measured,
    )

    smoke = PROFILES["smoke"].model_copy(update=TINY_SEARCH)
    monkeypatch.setitem(PROFILES, "smoke", smoke)
    project.run(*MODELS)
    provenance = suite_path(project.path, "base", "ft").with_suffix("").with_suffix("")
    effort = json.loads(Path(f"{provenance}.provenance.json").read_text("utf-8"))["effort"]
    speed = effort["tokens_forwarded"] / effort["seconds"]

    remembered = of_pair(doctor(*MODELS))[-1]

    assert remembered.endswith(f"50,000 forwarded tokens, {speed:,.0f} a second in its last search")


def test_what_loading_alone_shows_is_a_finding_too(project: Project, doctor: Doctor) -> None:
    save(tiny_model(config=openai_gpt()), project.path / "gpt")

    lines = of_pair(doctor("--model-1=gpt", "--model-2=gpt", "--measure"))

    assert "note  both are the same model, so nothing should differ" in lines
    assert "note  OpenAIGPTLMHeadModel has no sdpa attention, so eager attention is used" in lines
    (slower,) = (line for line in lines if "is slower" in line)
    assert slower.startswith("note  the reference, a OpenAIGPTLMHeadModel, is read a row at a time")


@pytest.mark.usefixtures("project")
def test_a_wrong_option_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--model-1=base"]) == 1

    assert capsys.readouterr().err.startswith(
        "error: --model-1=base is given without --model-2; a comparison needs two"
    )


def test_a_device_that_is_not_there_fails(doctor: Doctor) -> None:
    lines = doctor("--device=cuda:7", code=1)

    assert any(line.startswith("FAIL  --divergence-device=cuda:7 is not usable") for line in lines)


def test_packages_that_are_missing_or_old_fail_with_the_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    needed = ["torch>=999.0", "no-such-package>=1", "peft>=1; extra == 'peft'"]
    monkeypatch.setattr(metadata, "requires", lambda name: needed)

    found = [one for one in package_findings() if one.level == "fail"]

    version = metadata.version("torch")
    assert found == [
        Finding("fail", f"torch is {version}; run: pip install 'torch>=999.0'"),
        Finding("fail", "no-such-package is not installed; run: pip install 'no-such-package>=1'"),
    ]


def test_without_torch_the_packages_are_still_told(tmp_path: Path) -> None:
    code = (
        "import builtins, sys\n"
        "plain = builtins.__import__\n"
        "def without(name, *others, **more):\n"
        "    if name.split('.')[0] == 'torch':\n"
        "        raise ModuleNotFoundError('No module named torch')\n"
        "    return plain(name, *others, **more)\n"
        "builtins.__import__ = without\n"
        "from pytest_divergence.cli import main\n"
        "main(['doctor'])"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )

    assert done.stdout.startswith("ok    pytest-divergence ")
    assert "packages: " in done.stdout
    assert "torch" in done.stderr
