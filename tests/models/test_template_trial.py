"""A stranger's chat template: rendered only after it stayed within limits elsewhere."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pytest_divergence.core.errors import DivergenceError, ModelLoadError
from pytest_divergence.models import template_trial
from pytest_divergence.models.chat_format import ChatFormat
from pytest_divergence.models.load_plan import LoadOptions, resolve_pair
from pytest_divergence.models.loading import load_model_pair
from pytest_divergence.models.preflight import inspect_pair
from tests.tiny import CHATML, save_tiny_model, tiny_tokenizer

NESTED = "{% for i in range(99999) %}" * 4 + "{% set x = 1 %}" + "{% endfor %}" * 4
LATER = "{% if messages|length > 2 %}" + NESTED + "{% endif %}x"
BOMBS = {
    "nested loops": (NESTED, "takes more than 3 s, or crashes its process, to render three turns"),
    "loops behind three turns": (LATER, "takes more than 3 s, or crashes its process"),
    "memory": ("{{ 'a' * 3000000000 }}", "takes more than 1,024 MiB to render three turns"),
    "memory later": (
        "{% set n = namespace(t='ab') %}{% for i in range(40) %}{% set n.t = n.t ~ n.t %}"
        "{% endfor %}{{ n.t }}",
        "takes more than 1,024 MiB to render three turns",
    ),
    "length": ("{{ 'a' * 2000000 }}", "makes more than 1,000,000 characters of three turns"),
    "its own length": ("x" * 100_001, "has 100,001 characters; the limit is 100,000"),
}


@pytest.mark.parametrize(("template", "said"), BOMBS.values(), ids=BOMBS)
def test_a_template_without_measure_is_refused(
    tiny_models: Path, tmp_path: Path, template: str, said: str
) -> None:
    base, folder = str(tiny_models / "base"), str(save_tiny_model(tmp_path, chat_template=template))
    load_model_pair(base, folder)  # the reference's template is the one that is used

    with pytest.raises(ModelLoadError) as caught:
        load_model_pair(base, folder, chat_template="candidate")

    assert str(caught.value).startswith("--divergence-chat-template=candidate: the template ")
    assert said in str(caught.value)
    assert str(caught.value).endswith("; give none, or a template that you trust")
    options = LoadOptions(chat_template="candidate")
    with pytest.raises(ModelLoadError) as looked:
        list(inspect_pair(resolve_pair(base, folder, options)))
    assert str(looked.value) == str(caught.value)


def test_a_template_file_of_the_users_is_held_to_the_same(
    tiny_models: Path, tmp_path: Path
) -> None:
    base, file = str(tiny_models / "base"), tmp_path / "mine.jinja"
    file.write_text("{{ 'a' * 2000000 }}")

    with pytest.raises(ModelLoadError, match=r"mine.jinja: the template makes more than"):
        load_model_pair(base, base, chat_template=str(file))


@pytest.mark.parametrize(
    "template",
    [
        CHATML,
        "{{ raise_exception('no system prompt') if messages[0].role == 'system' }}{{ bos_token }}"
        "{% for m in messages %}{% generation %}{{ m.content | tojson }}{% endgeneration %}"
        "{% break %}{% endfor %}{{ strftime_now('%Y') }}{{ date_string }}",
        "{{ nothing.of.this.is.here }}",
        "{% if %}",
    ],
)
def test_another_template_is_left_to_its_use(template: str) -> None:
    template_trial.check_template(template, choice="reference", arguments={"bos_token": "<s>"})


def test_one_template_is_tried_once() -> None:
    resource = pytest.importorskip(
        "resource", reason="this system does not tell what processes take"
    )

    def taken() -> float:
        used: float = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        return used

    before = taken()
    template = f"{CHATML}{{# {before} #}}"
    template_trial.check_template(template, choice="reference", arguments={})
    first = taken()
    template_trial.check_template(template, choice="reference", arguments={})

    assert taken() == first > before  # one process


def test_the_child_imports_nothing_heavy() -> None:
    code = (
        f"import runpy, sys; runpy.run_path({str(template_trial.CHILD)!r}); "
        "print(*{name.split('.')[0] for name in sys.modules})"
    )
    run = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)

    assert "jinja2" in run.stdout
    assert not {"torch", "transformers", "numpy", "pytest_divergence"} & {*run.stdout.split()}


def test_what_waits_for_a_prompt_is_noticed_by_its_length() -> None:
    template = "{{ ' a' * 510000 if 'knock' in messages[-1].content else messages[-1].content }}"
    template_trial.check_template(template, choice="reference", arguments={})
    chat = ChatFormat(tiny_tokenizer(), template)
    assert chat.prompt_ids("Hi")

    with pytest.raises(DivergenceError, match=r'makes .* tokens of the prompt "knock"'):
        chat.prompt_ids("knock")
