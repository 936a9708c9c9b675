"""Tasks of lm-evaluation-harness: its own command's numbers, as objectives, limits and columns."""

import json
import os
import random
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
import yaml
from typer.testing import CliRunner

from sharetune import load
from sharetune.search.commands.cli import app
from sharetune.search.config import StudyConfig
from sharetune.search.outcome import unreached
from sharetune.spaces import Candidate, SharingPlan
from sharetune.spaces.errors import ConfigError
from sharetune.spaces.harness import HarnessSettings, harness_numbers
from sharetune.spaces.objectives import OBJECTIVES
from sharetune.trainers.exports.base import export
from sharetune.trainers.loading import load_shared
from sharetune.trainers.tasks import harness as of_harness
from sharetune.trainers.tasks.harness import Harness
from tests.registries import forget_what_is_registered
from tests.trainers.conftest import evaluated, saved
from tests.trainers.tasks.test_tasks import RECIPE, WORDS, prepared, texts

CHOICE = {
    "task": "colours",
    "output_type": "multiple_choice",
    "doc_to_text": "{{text}}",
    "doc_to_choice": ["red", "blue", "green"],
    "doc_to_target": "{{label}}",
    "num_fewshot": 1,
    "fewshot_split": "test",
    "metric_list": [
        {"metric": "acc", "aggregation": "mean", "higher_is_better": True},
        {"metric": "acc_norm", "aggregation": "mean", "higher_is_better": True},
    ],
    "metadata": {"version": 2.0},
}
WRITING = {
    "task": "sayings",
    "output_type": "generate_until",
    "doc_to_text": "{{text}}",
    "doc_to_target": "{{answer}}",
    "generation_kwargs": {"until": ["three"], "max_gen_toks": 6, "do_sample": False},
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    "metadata": {"version": 1.0},
}
ROLLING = {
    "task": "passages",
    "output_type": "loglikelihood_rolling",
    "doc_to_text": "",
    "doc_to_target": "{{text}}",
    "metric_list": [{"metric": "byte_perplexity"}],
    "metadata": {"version": 1.0},
}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """A folder of three tasks over one local file."""
    folder = tmp_path_factory.mktemp("tasks")
    draw = random.Random(3)
    rows = [
        {"text": text, "label": draw.randrange(3), "answer": draw.choice(WORDS)}
        for text in texts(40, seed=5)
    ]
    data = folder / "test.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)))
    where = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}}}
    for task in (CHOICE, WRITING, ROLLING):
        text = yaml.safe_dump(task | where | {"test_split": "test"})
        (folder / f"{task['task']}.yaml").write_text(text)
    return folder


@pytest.fixture()
def registered(monkeypatch):
    """The registry as it was, after a test that registers objectives."""
    forget_what_is_registered(monkeypatch)


def command(model, tasks, names, out):
    """Run the harness's own command on a saved model; return the JSON that it writes."""
    options = ("--model", "hf", "--model_args", f"pretrained={model},dtype=float32")
    options += ("--tasks", ",".join(names), "--include_path", str(tasks), "--batch_size", "4")
    options += ("--output_path", str(out), "--log_samples", "--device", "cpu")
    subprocess.run(
        [sys.executable, "-m", "lm_eval", "run", *options],
        check=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )
    (file,) = out.rglob("results_*.json")
    return json.loads(file.read_text())


@pytest.mark.slow
def test_the_numbers_are_those_of_the_harness_s_own_command(tmp_path, tasks):
    pytest.importorskip("lm_eval")
    made = prepared(tmp_path, "text-generation", "llama")
    plan = SharingPlan.range(0, 2, 0.5)
    names = ("colours", "colours:acc_norm", "sayings", "passages")
    measuring = Harness(HarnessSettings(include=str(tasks), batch_size=4), names)
    wanted = Candidate(plan=plan, recipe=RECIPE).bound(made.stacks)
    found = evaluated(replace(made, harness=measuring), wanted, tmp_path / "run")
    export(load_shared(saved(tmp_path / "run")), tmp_path / "dense", "dense")
    made.task.task.reader(made.task.start).save_pretrained(tmp_path / "dense")
    told = command(tmp_path / "dense", tasks, ("colours", "sayings", "passages"), tmp_path / "out")

    results, metrics = told["results"], found.scores.metrics
    assert metrics["lm_eval:colours"] == results["colours"]["acc,none"]
    assert metrics["lm_eval:colours:acc_norm"] == results["colours"]["acc_norm,none"]
    assert metrics["lm_eval:sayings"] == results["sayings"]["exact_match,none"]
    assert metrics["lm_eval:passages"] == pytest.approx(results["passages"]["byte_perplexity,none"])
    assert 0 < metrics["lm_eval:colours"] < 1
    kept = found.circumstances["lm_eval"]
    assert (kept["batch_size"], kept["limit"]) == (4, None)
    assert kept["tasks"]["colours"]["version"] == 2.0
    assert [kept["tasks"][t]["num_fewshot"] for t in ("colours", "sayings")] == [1, 0]
    assert {name: kept["tasks"][name]["hash"] for name in kept["tasks"]} == told["task_hashes"]


@pytest.mark.slow
def test_measuring_changes_neither_the_model_nor_chance(tmp_path, tasks):
    pytest.importorskip("lm_eval")
    made = prepared(tmp_path, "text-generation", "llama")
    model, tokenizer = made.task.load(), made.task.task.reader(made.task.start)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.manual_seed(7)
    wanted = torch.rand(3)
    torch.manual_seed(7)
    Harness(HarnessSettings(include=str(tasks), limit=3), ("colours",)).measure(model, tokenizer)
    assert torch.equal(torch.rand(3), wanted)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.slow
def test_a_study_by_tasks_of_the_harness(tmp_path, tasks, registered):
    pytest.importorskip("lm_eval")
    made = prepared(tmp_path, "text-generation", "llama")
    study = {
        "model": made.task.model,
        "task": {"name": "text-generation", "train": made.task.task.train},
        "objectives": ["lm_eval:colours", "parameters"],
        "lm_eval": {"include": "tasks", "tasks": "passages", "limit": 8},
        "budget": {"trials": 4, "must_reach": {"lm_eval:sayings": 2.0}},
        "anchors": ["unshared", "tied"],
        "plans": [{"groups": [{"layers": "0..2"}]}, {"groups": [{"layers": "1..2"}]}],
        "space": {"recipe": {"steps": 2, "max_length": 24, "batch_size": 4}},
        "executor": "local",
        "early_stopping": {"rungs": [0.5]},
        "latency": {"rounds": 0},
    }
    (tmp_path / "tasks").symlink_to(tasks)
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    run = tmp_path / "run"
    result = CliRunner().invoke(app, ["search", str(tmp_path / "study.yaml"), "--out", str(run)])
    assert result.exit_code == 0, result.output
    frame = load(run).set_index("number")
    # no model answers twice as often right as there are questions; the unshared need not
    assert frame["state"].tolist() == ["COMPLETE", "PRUNED", "PRUNED", "PRUNED"]
    assert "lm_eval:sayings is 0.0, and the limit 2" in frame["reason"][1]
    assert frame["lm_eval:colours"].between(0, 1).all()
    assert (frame["lm_eval:passages"] > 1).all()
    assert "colours acc" in (run / "report.html").read_text("utf-8")
    other = ["search", str(tmp_path / "study.yaml"), "--out", str(run), "--resume"]
    result = CliRunner().invoke(app, [*other, "--set", "lm_eval.num_fewshot=0"])
    assert result.exit_code == 2
    assert "lm_eval.num_fewshot was None and is 0" in result.output


@pytest.mark.slow
def test_tasks_and_metrics_that_there_are_not(tasks, registered):
    pytest.importorskip("lm_eval")
    settings = HarnessSettings(include=str(tasks))
    of_harness.register_numbers(settings, ("passages",))
    assert OBJECTIVES["lm_eval:passages"].direction == "minimize"
    with pytest.raises(ConfigError, match="colours of lm-evaluation-harness has no metric 'bleu'"):
        of_harness.register_numbers(settings, ("colours:bleu",))


def test_without_the_harness_a_study_is_told_how_to_get_it(monkeypatch, registered):
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)
    of_harness._manager.cache_clear()
    data = {"name": "a", "model": "m", "task": {"name": "text-generation", "train": "t"}}
    data |= {"space": {}, "objectives": ["lm_eval:arc_easy", "parameters"]}
    with pytest.raises(ConfigError, match="tasks of lm-evaluation-harness need lm_eval") as caught:
        StudyConfig.model_validate(data)
    assert "pip install 'sharetune[lm-eval]'" in caught.value.hint


def test_the_numbers_that_a_study_names():
    named = ["perplexity", "lm_eval:arc_easy", "lm_eval:arc_easy:acc_norm", "lm_eval:arc_easy"]
    assert harness_numbers(named, ("boolq",)) == ("arc_easy", "arc_easy:acc_norm", "boolq")


def test_the_first_number_of_a_task_or_the_one_named():
    results = {"alias": "x", "acc,none": 0.5, "acc_stderr,none": 0.1, "acc_norm,none": 0.25}
    assert of_harness._value("x", results) == 0.5
    assert of_harness._value("x:acc_norm", results) == 0.25
    strict = {"exact_match,strict": 0.0, "exact_match,flexible": 1.0}
    assert of_harness._value("x:exact_match,flexible", strict) == 1.0
    with pytest.raises(ConfigError, match="gave no number f1"):
        of_harness._value("x:f1", results)


def test_what_a_model_must_reach():
    limits = {"accuracy": 0.5, "perplexity": 20.0}
    assert unreached({"accuracy": 0.5, "perplexity": 20.0}, limits) is None
    assert unreached({"accuracy": 0.4, "perplexity": 2.0}, limits) == (
        "accuracy is 0.4, and the limit 0.5"
    )
    assert "perplexity is 21.0" in unreached({"accuracy": 0.6, "perplexity": 21.0}, limits)
    assert "perplexity is nan" in unreached({"accuracy": 0.6, "perplexity": float("nan")}, limits)
