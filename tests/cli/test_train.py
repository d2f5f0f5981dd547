"""`pytest-divergence train` and the example: what a user sees, what is left, and what goes on."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pytest_divergence import SoftPrompt
from pytest_divergence.cli import main
from pytest_divergence.core.files import CACHE_VARIABLE, file_lock
from pytest_divergence.discovery.soft_prompts import trainer as trainer_module
from pytest_divergence.discovery.soft_prompts import training as training_module
from pytest_divergence.discovery.soft_prompts import training_folder

EXAMPLE = Path(__file__).parents[2] / "examples" / "train_divergent_prompts.py"
QUICK = ("--num-written=8", "--num-prompts=3", "--max-new-tokens=6", "--num-soft-prompt-tokens=3")
JOURNAL = Path(".divergence", "journal", "training.jsonl")
FILES = ["divergent_dataset.jsonl", "divergent_dataset.pt", "soft_prompt.safetensors"]
Train = Callable[..., Any]


WORDS = (
    *("train", "--model-1=base", "--model-2=ft", "--train-file=train.jsonl"),
    *("--output-dir=out", "--num-epochs=2", "--batch-size=2", *QUICK),
)


def make_project(path: Path, tiny_models: Path) -> Path:
    """Models, five prompts to train on and two to validate on."""
    for name in ("base", "ft", "adapter"):
        (path / name).symlink_to(tiny_models / name)
    (path / "train.jsonl").write_text(
        '{"input": "How do I tie a knot?"}\n{"prompt": "Write a poem."}\n{"input": "2 + 2 ="}\n'
        '{"messages": [{"role": "user", "content": "Name a river."}]}\n{"input": "Hi"}\n'
    )
    (path / "val.txt").write_text("Why?\nWho was Ada?\n")
    return path


@pytest.fixture
def folder(tmp_path: Path, tiny_models: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's project."""
    monkeypatch.chdir(tmp_path)
    return make_project(tmp_path, tiny_models)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_models: Path) -> Path:
    """What the command leaves, made once."""
    project = make_project(tmp_path_factory.mktemp("finished"), tiny_models)
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(project)
        patched.setenv(CACHE_VARIABLE, str(tmp_path_factory.getbasetemp() / "cache"))
        assert main(WORDS) == 0
    return project / "out"


@pytest.fixture
def out(folder: Path, finished: Path) -> Path:
    """The output folder of an earlier, finished training."""
    return Path(shutil.copytree(finished, folder / "out"))


@pytest.fixture
def train(folder: Path, capsys: pytest.CaptureFixture[str]) -> Train:
    """The command, quick, with what it printed."""

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        named = {one.split("=")[0] for one in arguments}
        words = [one for one in WORDS if one.split("=")[0] not in named]
        code = main([*words, *arguments])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return run


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The steps that were taken, counted from 0 in each training."""
    taken: list[int] = []
    take_step = training_module._Training.take_step

    def count(run: Any, step: int) -> None:
        taken.append(step)
        take_step(run, step)

    monkeypatch.setattr(training_module._Training, "take_step", count)
    return taken


def files_in(folder: Path) -> dict[str, bytes]:
    """What lies in a folder for its user, by name."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def record(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "training.json").read_text("utf-8"))
    return found


@pytest.mark.slow
def test_the_example_trains_as_the_seed_describes(folder: Path) -> None:
    options = {
        "model-1": "base",
        "model-2": "ft",
        "train-file": "train.jsonl",
        "val-file": "val.txt",
        "output-dir": "out",
        "num-epochs": "3",
        "num-soft-prompt-tokens": "5",
        "learning-rate": "0.1",
        "batch-size": "2",
    }
    words = [word for name, value in options.items() for word in (f"--{name}", value)]

    done = subprocess.run(
        [sys.executable, str(EXAMPLE), *words, "--num-written=12", "--num-prompts=4"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    out = folder / "out"
    assert sorted(path.name for path in out.iterdir()) == [".divergence", *FILES, "training.json"]
    assert SoftPrompt.load(out / "soft_prompt.safetensors").num_virtual_tokens == 5
    rows = torch.load(out / "divergent_dataset.pt", weights_only=True)
    lines = (out / "divergent_dataset.jsonl").read_text("utf-8").splitlines()
    assert rows == [json.loads(line) for line in lines]
    assert len(rows) == 4
    found = record(out)
    assert found["status"] == "complete"
    assert found["settings"]["config"]["learning_rate"] == 0.1
    assert (found["num_texts"], found["num_validation_texts"], found["num_steps"]) == (5, 2, 9)
    assert len(found["training"]["loss"]) == len(found["gradient_norms"]) == 9
    assert len(found["training"]["validation"]) == 3 + 1  # before each epoch, and at the end
    assert done.stderr.splitlines() == [
        "divergence: loading the models",
        "divergence: 5 virtual tokens before the text, 9 steps (3 epochs) of 2 texts, 5 texts in "
        "all",
        "divergence: letting both models write prompts with it",
    ]


def test_the_summary_shows_what_came_of_it(train: Train, folder: Path) -> None:
    code, shown, _ = train()

    assert code == 0
    found = record(folder / "out")
    training, rows = found["training"], torch.load("out/divergent_dataset.pt", weights_only=True)
    loss, validation = training["loss"], training["validation"]
    assert shown.splitlines() == [
        f"loss        {loss[0]:.3f} -> {loss[-1]:.3f} in 6 steps",
        f"validation  {validation[0]:.3f} -> {validation[-1]:.3f}, 5 texts",
        f"D_soft      {training['d_soft']:.3f} nats at the first token, with the soft prompt",
        f"D_hard      {training['d_hard']:.3f} nats at the first token, mean of "
        f"{found['num_written']} prompts written with it",
        "",
        "the 3 most divergent of 3 prompts: nats per token, and above ordinary ones",
        *(prompt_line(row) for row in rows),
        "",
        "files",
        "  out/soft_prompt.safetensors",
        "  out/training.json",
        "  out/divergent_dataset.pt",
        "  out/divergent_dataset.jsonl",
    ]


def prompt_line(row: dict[str, Any]) -> str:
    from pytest_divergence.reports.text_blocks import quoted

    metrics = row["metrics"]
    numbers = f"  {metrics['kl_divergence']:7.3f} {metrics['effectiveness']:7.3f}  "
    return numbers + quoted(row["prompt"], 80 - len(numbers))


@pytest.mark.slow
def test_a_finished_training_is_not_done_again(
    train: Train, out: Path, steps: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def times() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in out.iterdir() if path.is_file()}

    before = times()
    for name in ("select_prompts", "measure_prompts"):
        monkeypatch.delattr(trainer_module.PairTrainer, name)

    code, shown, err = train()

    assert code == 0
    assert shown.startswith("loss        ")
    assert "letting both models write" not in err
    assert steps == []
    assert times() == before

    dataset = out / "divergent_dataset.pt"
    whole = dataset.read_bytes()
    dataset.unlink()
    assert train()[0] == 0
    assert steps == []
    assert dataset.read_bytes() == whole, "a lost dataset is written again"


def test_an_interrupted_training_goes_on_to_the_same_end(
    train: Train, folder: Path, steps: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped by Ctrl-C while a step is taken, behind a checkpoint."""
    train("--output-dir=unbroken", "--num-epochs=4")
    take_step = training_module._Training.take_step

    def stop(run: Any, step: int) -> None:
        if step == 11:
            raise KeyboardInterrupt
        take_step(run, step)

    with monkeypatch.context() as patched:
        patched.setattr(training_module._Training, "take_step", stop)
        code, _, err = train("--num-epochs=4")
    assert code == 130
    assert "interrupted; run the same command to continue" in err
    assert record(folder / "out")["status"] == "training"
    assert (folder / "out" / "training.checkpoint.safetensors").is_file()
    steps.clear()

    refused = train("--num-epochs=4", "--learning-rate=0.5")
    code, _, _ = train("--num-epochs=4")

    assert refused[0] == 1
    assert code == 0
    assert steps == [10, 11]
    assert files_in(folder / "out") == files_in(folder / "unbroken")
    assert not (folder / "out" / "training.checkpoint.safetensors").exists()


@pytest.mark.slow
def test_a_stage_that_is_stopped_is_the_only_one_that_is_done_again(
    train: Train, folder: Path, finished: Path, steps: list[int]
) -> None:
    def stop(*arguments: Any, **options: Any) -> Any:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(trainer_module.PairTrainer, "measure_prompts", stop)
        assert train()[0] == 130
    assert record(folder / "out")["status"] == "trained"
    steps.clear()

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(trainer_module.PairTrainer, "select_prompts", stop)  # that is done
        assert train()[0] == 0
    assert steps == []
    assert files_in(folder / "out") == files_in(finished)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        (("--learning-rate=0.5",), "config.learning_rate (was none, now 0.5)"),
        (("--model-2=adapter",), "model_2_weights_sha256 (was "),
        (("--val-file=val.txt",), "validation_texts_sha256 (was "),
        (("--min-metric=js=0",), "min_metrics.js (was none, now 0.0)"),
    ],
)
def test_other_settings_do_not_overwrite(
    train: Train, out: Path, changes: tuple[str, ...], named: str
) -> None:
    before = files_in(out)

    code, shown, err = train(*changes)

    assert (code, shown) == (1, "")
    assert f"error: out holds a training with other settings: {named}" in err
    assert "; choose another --output-dir, or replace it with --force" in err
    assert files_in(out) == before


@pytest.mark.slow
def test_another_template_argument_is_another_training(train: Train, folder: Path) -> None:
    (folder / "dated.jinja").write_text("{{ date_string }}{{ messages[0].content }}", "utf-8")
    assert train("--chat-template=dated.jinja")[0] == 0

    code, _, err = train(
        "--chat-template=dated.jinja", "--divergence-template-arg=date_string=24 Dec 2026"
    )

    assert code == 1
    assert 'other settings: template_arg.date_string (was none, now "24 Dec 2026"); choose' in err


def test_another_dataset_of_the_same_training_trains_nothing(
    train: Train, out: Path, steps: list[int]
) -> None:
    soft_prompt = (out / "soft_prompt.safetensors").read_bytes()

    code, _, _ = train("--num-generations=2", "--force")

    assert code == 0
    assert steps == []
    assert (out / "soft_prompt.safetensors").read_bytes() == soft_prompt
    rows = torch.load(out / "divergent_dataset.pt", weights_only=True)
    assert len(rows) == 6
    assert all("self_similarity" in row["metrics"] for row in rows)


def test_force_replaces_a_training(train: Train, out: Path, steps: list[int]) -> None:
    code, _, _ = train("--num-soft-prompt-tokens=2", "--force")

    assert code == 0
    assert steps == [0, 1, 2, 3, 4, 5]
    assert SoftPrompt.load(out / "soft_prompt.safetensors").num_virtual_tokens == 2


def test_files_of_unknown_origin_are_not_overwritten(train: Train, folder: Path) -> None:
    (folder / "out").mkdir()
    (folder / "out" / "divergent_dataset.pt").write_text("mine")

    code, _, err = train()

    assert code == 1
    assert err.splitlines()[-1] == (
        "error: out/divergent_dataset.pt exists, but no training.json says how it was made; "
        "choose another --output-dir, or replace it with --force"
    )
    assert (folder / "out" / "divergent_dataset.pt").read_text() == "mine"

    (folder / "a-file").write_text("mine")
    code, _, err = train("--output-dir=a-file")
    assert code == 1
    assert err.splitlines()[-1] == "error: cannot use the folder a-file: File exists"


def test_a_damaged_record_is_replaced_on_request_only(train: Train, out: Path) -> None:
    (out / "training.json").write_text("{")

    code, _, err = train()

    assert code == 1
    assert "error: out/training.json: not valid JSON: " in err
    assert err.endswith("; choose another --output-dir, or replace it with --force\n")
    assert train("--force")[0] == 0
    assert record(out)["status"] == "complete"


def test_a_folder_takes_one_training_at_a_time(
    train: Train, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files_in(out)
    monkeypatch.setattr(training_folder, "LOCK_SECONDS", 0.1)

    with file_lock((out / JOURNAL).with_suffix(".lock"), timeout=1):
        code, _, err = train("--learning-rate=0.5", "--force")

    assert code == 1
    assert "another process is training in this folder; waiting for it" in err
    assert files_in(out) == before


def test_a_torn_journal_costs_one_stage(
    train: Train, out: Path, finished: Path, steps: list[int]
) -> None:
    journal = out / JOURNAL
    journal.write_bytes(journal.read_bytes()[:-9])

    code, _, err = train()

    assert code == 0
    assert "divergence: out/.divergence/journal/training.jsonl: a torn tail of " in err
    assert "letting both models write" not in err
    assert steps == []
    assert (out / JOURNAL).read_bytes() == (finished / JOURNAL).read_bytes()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("bad.jsonl", '{"input": "a"}\n{"text": "b"}\n', "bad.jsonl:2: a seed is an object with"),
        ("bad.csv", 'input\n"a\n', "bad.csv:2: not valid CSV"),
        ("bad.txt", "\n", "bad.txt has no prompts; write one per line, or JSON Lines"),
        ("bad.txt", None, "--train-file=bad.txt cannot be read: "),
    ],
)
def test_a_bad_line_is_named(
    train: Train, folder: Path, name: str, content: str | None, message: str
) -> None:
    if content is not None:
        (folder / name).write_text(content)

    code, _, err = train(f"--train-file={name}")

    assert code == 1
    assert err.startswith(f"error: {message}")
    assert not (folder / "out").exists()


@pytest.mark.slow
def test_a_csv_file_and_the_shipped_prompts_can_be_trained_on(train: Train, folder: Path) -> None:
    (folder / "train.csv").write_text("id,prompt\n1,How do I tie a knot?\n2,Name a river.\n")

    code, _, _ = train("--train-file=train.csv", "--num-epochs=1", "--position=after")

    assert code == 0
    rows = torch.load("out/divergent_dataset.pt", weights_only=True)
    assert all(row["prompt"].startswith(("How do I tie", "Name a river")) for row in rows)

    words = ["--model-1=base", "--model-2=ft", "--output-dir=shipped", "--num-steps=2", *QUICK]
    assert main(["train", *words]) == 0
    assert 70 < record(folder / "shipped")["num_texts"] <= 240  # of short pieces, many are too long


def test_a_price_narrows_the_mixtures(train: Train, folder: Path) -> None:
    code, shown, _ = train("--kind=simplex", "--entropy-weight=5")

    assert code == 0
    found = record(folder / "out")
    entropies = found["entropies"]
    assert found["settings"]["config"]["entropy_weight"] == 5.0
    assert len(entropies) == found["num_steps"] == 6
    assert entropies[-1] < entropies[0]
    line = f"entropy     {entropies[0]:.3f} -> {entropies[-1]:.3f} nats, mean of the mixtures"
    assert line in shown.splitlines()


def test_growth_enough_ends_the_training_early(train: Train, folder: Path) -> None:
    code, shown, err = train("--stop-after-growth=0.0001", "--learning-rate=0.5")

    assert code == 0
    found = record(folder / "out")
    loss, num_steps = found["training"]["loss"], found["num_steps"]
    assert found["settings"]["config"]["stop_after_growth"] == 0.0001
    assert 1 < len(loss) < num_steps == 6
    assert loss[0] - loss[-1] >= 0.0001 > loss[0] - min(loss[:-1])
    assert err.splitlines()[1].startswith(
        "divergence: 3 virtual tokens before the text, at most 6 steps (2 "
    )
    assert shown.splitlines()[0] == (
        f"loss        {loss[0]:.3f} -> {loss[-1]:.3f} in {len(loss)} of 6 steps "
        "(stopped after enough growth)"
    )


def test_validation_texts_that_are_too_long_are_counted(train: Train) -> None:
    code, _, err = train("--max-text-tokens=30", "--num-epochs=1", "--val-file=train.jsonl")

    assert code == 0
    assert "left out 1 of 5 texts, longer than --max-text-tokens=30" in err
    assert "left out 1 of 5 validation texts, longer than --max-text-tokens=30" in err


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--batch-size=0", "argument --batch-size: 0 must be at least 1"),
        ("--learning-rate=nan", "argument --learning-rate: nan must be positive and finite"),
        ("--entropy-weight=-1", "argument --entropy-weight: -1 must be 0 or more"),
        ("--position=above", "argument --position: invalid choice: 'above'"),
        ("--min-metric=kl=1", "argument --min-metric: kl=1 must be NAME=VALUE; names are "),
        ("--num-steps=3", "argument --num-steps: not allowed with argument --num-epochs"),
    ],
)
def test_a_wrong_argument_is_refused_before_anything_is_loaded(
    train: Train, capsys: pytest.CaptureFixture[str], argument: str, message: str
) -> None:
    with pytest.raises(SystemExit) as stopped:
        train(argument)

    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_a_filter_that_nothing_passes_keeps_the_training(
    train: Train, out: Path, steps: list[int]
) -> None:
    code, _, err = train("--min-metric=kl_divergence=50", "--force")
    assert code == 1
    assert "error: none of 3 rows lies within min_metrics={'kl_divergence': 50.0}" in err
    assert record(out)["status"] == "trained"

    code, _, err = train("--min-metric=kl_divergence=0", "--force")
    assert code == 0
    assert steps == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("--entropy-weight=0.1",),
            "error: entropy_weight=0.1 needs kind='simplex', because kind='free' has no mixtures; "
            "use kind='simplex', or entropy_weight=0\n",
        ),
        (
            ("--temperature=0", "--num-generations=2"),
            "error: num_generations=2 at temperature=0 gives the same text every time",
        ),
    ],
)
def test_settings_that_do_not_go_together_are_refused_before_the_training(
    train: Train, folder: Path, words: tuple[str, ...], message: str
) -> None:
    code, _, err = train(*words)

    assert code == 1
    assert err.startswith(message)
    assert not (folder / "out" / "training.json").exists()
