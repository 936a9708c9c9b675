"""A study file that was written for a model and data is one that runs."""

from dataclasses import replace

import pytest
import yaml
from typer.testing import CliRunner

from sharetune.search import gpus
from sharetune.search.commands import init
from sharetune.search.commands.cli import app
from sharetune.search.commands.init import Proposal, Size, judged_in, write_study
from sharetune.search.study_file import load_config
from sharetune.spaces.errors import ConfigError
from sharetune.spaces.pace import Pace
from sharetune.trainers.evaluation import evaluator
from sharetune.trainers.tasks.base import TASKS
from tests.checkpoint import write_checkpoint, write_rows
from tests.trainers.tasks.test_tasks import configured, prepared, tones


def call(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.mark.slow
def test_a_written_study_runs(tmp_path):
    model = write_checkpoint(tmp_path / "model", layers=6)
    data = write_rows(tmp_path / "rows.csv", 60)
    out = tmp_path / "studies" / "first.yaml"
    out.parent.mkdir()
    asked = ("--task", "text-classification", "--model", model, "--data", data, "--out", out)
    made = call("init", *asked)
    assert made.exit_code == 0, made.output
    written = yaml.safe_load(out.read_text())
    assert made.stdout == out.read_text()
    assert written["model"] == "../model"
    assert written["objectives"] == ["accuracy", "parameters", "flops"]
    # layers 0 and 5 of six stay as they are; five words a text make at most 16 tokens
    assert written["plans"] == [{"groups": [{"layers": "1..4", "form": {"bank": {"ratio": 0.7}}}]}]
    assert written["space"]["recipe"]["max_length"] == 16
    assert written["space"]["recipe"]["steps"] == 50
    small = ("--set", "executor=local", "--set", "budget.trials=2", "--set", "latency.rounds=0")
    small += ("--set", "space.recipe.steps=1", "--out", tmp_path / "run")
    result = call("search", out, *small)
    assert result.exit_code == 0, result.output
    assert "exists already" in call("init", *asked).output


@pytest.mark.slow
def test_a_group_for_each_stack(tmp_path):
    model, task = configured(tmp_path, "translation", "t5")
    out = tmp_path / "study.yaml"
    result = call(
        "init", "--task", "translation", "--model", model, "--data", task.train,
        "--out", out,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "trained from scratch" in result.stdout
    config = load_config(out)
    # plans tie both stacks at once
    assert [{g.stack for g in plan.groups} for plan in config.plans] == [
        {"decoder", "encoder"}
    ] * len(config.plans)
    assert config.plans
    assert [t.stack for t in config.space.plan] == ["encoder", "decoder"]
    assert config.objectives[0] == "bleu"


@pytest.mark.slow
def test_from_scratch_layers_are_tied_in_cycles_and_looped(tmp_path):
    model, task = configured(tmp_path, "image-classification", "vit")
    out = tmp_path / "study.yaml"
    write_study({"name": task.name, "train": task.train}, model, out)
    config = load_config(out)
    (template,) = config.space.plan
    assert template.form == "tie"
    assert {"one", "sequence"} <= {
        each if isinstance(each, str) else next(iter(each)) for each in template.assign["choices"]
    }
    assert template.times == {"choices": [1, 2]}
    assert config.space.recipe["steps"] == 400  # the least from random weights
    assert config.space.recipe["bank_lr_rule"] == "sqrt"
    assert config.anchors == ("unshared", "tied", "drop-to-one", "drop-third", "drop-half")


def test_a_pretrained_model_is_cut_before_it_is_shared(tmp_path):
    model = write_checkpoint(tmp_path / "model", layers=6)
    data = write_rows(tmp_path / "rows.csv", 60)
    out = tmp_path / "study.yaml"
    write_study({"name": "text-classification", "train": str(data)}, str(model), out)
    config = load_config(out)
    (template,) = config.space.plan
    assert "bank_lr_rule" not in config.space.recipe
    assert "drop-to-one" not in config.anchors
    forms = [
        each if isinstance(each, str) else next(iter(each)) for each in template.form["choices"]
    ]
    assert forms == ["narrow", "drop", "merge", "lowrank", "bank"]


@pytest.mark.slow
def test_what_a_model_cannot_have_is_not_proposed(tmp_path):
    """T5's position biases count on every head, and its first layers cannot be looped."""
    model, task = configured(tmp_path, "translation", "t5")
    out = tmp_path / "study.yaml"
    write_study({"name": "translation", "train": task.train}, model, out)
    assert all(template.times == 1 for template in load_config(out).space.plan)


FITTING = {
    "translation": ("bart", 16),  # five words a text
    "text-generation": ("gpt2", 40),  # what the model reads
    "image-classification": ("vit", 128),
    "question-answering": ("bert", 16),
    "next-item-recommendation": ("gpt2", 40),
    "token-classification": ("bert", 16),
    "text-classification": ("bert", 16),
    "audio-classification": ("hubert", 1600),  # recordings of a second
    "automatic-speech-recognition": ("whisper-second", 16000),
}


KEYS = {
    "text-classification": {"regression": True},
    "automatic-speech-recognition": {"resample": True},  # 1,600 samples a second, Whisper's 16,000
}


def test_every_task_is_known_here():
    assert {*FITTING, "tensors"} == set(TASKS)  # whose examples are a model's inputs


QUICK = ("translation",)
"""Tasks that the quick suite writes a study for: one whose model has two stacks."""


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name not in QUICK)) for name in FITTING],
)
def test_a_study_for_every_task(tmp_path, name):
    family, length = FITTING[name]
    keys = KEYS.get(name, {})
    model, task = configured(tmp_path, name, family, **keys)
    out = tmp_path / "study.yaml"
    overrides = tuple(f"task.{key}={value}" for key, value in keys.items())
    write_study({"name": name, "train": task.train}, model, out, overrides)
    config = load_config(out)
    assert config.objectives[0] == task.metrics[0]
    assert config.space.recipe["max_length"] == length


def test_keys_of_the_task(tmp_path):
    model, task = configured(tmp_path, "text-classification", "bert")
    asked = ("init", "--task", "text-classification", "--model", model)
    asked += ("--data", task.train, "--out", tmp_path / "study.yaml")
    result = call(*asked, "--set", "budget.trials=3")
    assert "error: init sets keys of task, but got budget" in result.output
    result = call(*asked, "--set", "task.pair=pair", "--set", "task.regression=true")
    assert result.exit_code == 0, result.output
    keys = load_config(tmp_path / "study.yaml").task
    assert (keys["pair"], keys["regression"]) == ("pair", True)
    assert "objectives: [spearman, parameters, flops]" in result.output


@pytest.mark.slow
def test_recordings_of_another_sampling_rate(tmp_path):
    made = prepared(tmp_path, "audio-classification", "hubert", 1600)
    data = tones(tmp_path / "other", rate=800)
    asked = ("init", "--task", "audio-classification", "--model", made.task.start, "--data", data)
    asked += ("--out", tmp_path / "study.yaml")
    result = call(*asked)
    assert result.exit_code == 2
    assert "the recordings have 800 samples a second, and the model reads 1600" in result.output
    assert call(*asked, "--set", "task.resample=true").exit_code == 0


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("translation", "error: no target column|error: .* a translation reads two"),
        ("image-classification", "rows.csv has no image column"),
        ("sumarization", "error: unknown task: 'sumarization'"),
    ],
)
def test_data_of_another_task(tmp_path, task, message):
    import re

    model = write_checkpoint(tmp_path / "model")
    data = tmp_path / "rows.csv"
    data.write_text("text,label,more\na,b,c\n")
    result = call(
        "init", "--task", task, "--model", model, "--data", data, "--out", tmp_path / "s.yaml"
    )
    assert result.exit_code == 2
    assert re.search(message, result.output)
    assert "hint: " in result.output


PACE = Pace(load_s=1.0, step_s=2.0, judge_s=0.2, memory=0, judged=90)


@pytest.mark.parametrize(
    ("hours", "size"),
    [
        (4.0, Size(100, 50, 16, 20)),  # ends sooner
        (0.5, Size(18, 50, 16, 18)),
        (0.25, Size(10, 44, 16, 9)),
        (0.1, Size(10, 23, 8, 3)),  # half the batch, so that there are steps enough
        (0.05, Size(10, 3, 4, 3)),
    ],
)
def test_trials_and_steps_that_fit_into_hours(hours, size):
    # 60 % of the time of two workers; 20 s besides the steps of a trial; 0.2 s for each model's use
    assert Size(24, 50).fitting(hours, PACE, workers=2) == size
    seconds = size.trials * (20.0 + size.steps * 2.0 * size.batch / 16)
    assert seconds <= 0.6 * 2 * 3600 * hours


@pytest.mark.parametrize(
    ("hours", "judged"),
    [
        (0.5, 90),  # a trial has 216 s, of which measuring may take 54
        (0.1, 54),  # 10.8 s
        (0.05, 50),  # 27 by time, too few to tell models apart
    ],
)
def test_measuring_takes_a_quarter_of_a_trial_at_most(hours, judged):
    assert judged_in(hours, PACE, workers=2) == judged


def test_what_is_not_held_out_is_trained_on():
    pace = replace(PACE, examples=360)
    assert pace.measured_on(0.3) == replace(PACE, examples=423, judged=27)
    assert pace.measured_on(1e-6).judged == 1


def test_few_hours_hold_fewer_examples_out(tmp_path, monkeypatch):
    """As if a test example took 54 s: of a fifth of 200 rows, 40, 20 fit, which are 7 a label."""
    measured, slow = evaluator.rehearse, {"judge_s": 54.0, "step_s": 1.0, "load_s": 0.0}
    monkeypatch.setattr(evaluator, "rehearse", lambda *given: replace(measured(*given), **slow))
    monkeypatch.setattr(gpus, "processor_cores", lambda: 2)
    monkeypatch.setattr(init, "LEAST_JUDGED", 10)
    model, data = write_checkpoint(tmp_path / "model"), write_rows(tmp_path / "rows.csv", 200)
    asked = ("--task", "text-classification", "--model", model, "--data", data)
    result = call("init", *asked, "--out", tmp_path / "study.yaml", "--hours", "10")
    assert result.exit_code == 0, result.output
    assert "# 179 training and 21 test examples" in result.stdout
    assert load_config(tmp_path / "study.yaml").task["test"] == 0.1


def test_a_smaller_batch_takes_less_time_and_less_of_what_batches_hold():
    pace = Pace(load_s=1.0, step_s=2.0, judge_s=0.2, memory=5_700, held=2_900)
    assert pace.of_batch(0.25) == Pace(1.0, 0.5, 0.2, memory=3_600, held=2_900)
    assert pace.of_batch(1.0) == pace


@pytest.mark.parametrize(
    ("size", "hours", "warned"),
    [
        (Size(10, 19, 4), 0.1, ["give about 0.8 hours"]),  # 76 of 640 examples
        (Size(10, 50, 4), 0.1, []),  # as many steps as `init` proposes at least
        (Size(24, 19, 4), None, []),
    ],
)
def test_a_trial_that_sees_few_examples_is_warned_of(size, hours, warned):
    texts = list(Proposal({}, size, 640, hours).too_short())
    assert len(texts) == len(warned)
    assert all(text.endswith(end) for text, end in zip(texts, warned, strict=True))


def test_hours_in_which_nothing_is_trained():
    with pytest.raises(ConfigError, match=r"10 trials take more than 0\.04 hours") as error:
        Size(24, 50).fitting(0.04, PACE, workers=2)
    assert error.value.hint.startswith("give at least 0.1 hours")


def test_a_study_of_given_hours(tmp_path):
    model, data = write_checkpoint(tmp_path / "model"), write_rows(tmp_path / "rows.csv", 60)
    asked = ("--task", "text-classification", "--model", model, "--data", data)
    result = call("init", *asked, "--out", tmp_path / "study.yaml", "--hours", "0.5")
    assert result.exit_code == 0, result.output
    assert "a trial takes about" in result.stderr and "of memory" in result.stderr
    config = load_config(tmp_path / "study.yaml")
    assert config.budget.wall_hours == 0.5
    assert config.budget.trials == 100  # a tiny model's trials end sooner
