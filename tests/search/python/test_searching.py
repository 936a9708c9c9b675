"""Searching from Python: live models and data, a metric of one's own, and the run that results."""

import json

import pandas as pd
import pytest
import torch
from datasets import Dataset, DatasetDict
from torch.utils.data import Dataset as TorchDataset
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
)

import sharetune
from sharetune import Run
from sharetune.search.python.searching import _completed
from sharetune.search.study_file import validate
from sharetune.spaces.errors import ConfigError, DataError, ModelError, RunError
from tests.checkpoint import write_checkpoint, write_rows

SMALL = {
    "space": {"plan": [{"layers": "0..-1"}], "recipe": {"steps": 2, "max_length": 8}},
    "budget": 2,
    "executor": "local",
    "anchors": ["unshared"],
    "latency": {"rounds": 0},
}


def right_and_wrong(prediction):
    right = (prediction.predictions.argmax(-1) == prediction.label_ids).mean()
    return {"right": right, "wrong_error": 1 - right}


def fails(prediction):
    return {"score": prediction.nothing}


def returns_a_list(prediction):
    return [1.0]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("python")
    write_checkpoint(folder / "model")
    write_rows(folder / "train.csv", 60)
    write_rows(folder / "test.csv", 30, seed=1)
    return folder


@pytest.fixture(scope="module")
def frames(home):
    return {name: pd.read_csv(home / f"{name}.csv") for name in ("train", "test")}


@pytest.fixture(scope="module")
def model(home):
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_pretrained(home / "model", num_labels=3)


@pytest.fixture(scope="module")
def searched(home, frames, model):
    """A run of a live model, frames and a metric, and the numbers of the trials it told of."""
    told = []
    run = sharetune.search(
        model,
        frames,
        metric=right_and_wrong,
        callbacks=[lambda trial: told.append(trial.number)],
        out=home / "run",
        **SMALL,
    )
    return run, told


@pytest.mark.slow
def test_a_metric_s_numbers_become_objectives(searched):
    run, told = searched
    assert told == [0, 1]
    assert [o.name for o in run.study.objectives] == ["right", "parameters", "flops"]
    assert [o.direction for o in run.study.objectives] == ["maximize", "minimize", "minimize"]
    trials = run.trials
    assert (trials["right"] + trials["wrong_error"]).tolist() == [1.0, 1.0]
    assert trials["right"].tolist() == pytest.approx(trials["accuracy"].tolist())
    config = json.loads(json.dumps(run.study.config))
    assert config["metric"] == {
        "function": "tests.search.python.test_searching:right_and_wrong",
        "numbers": {"right": "maximize", "wrong_error": "minimize"},
    }


@pytest.mark.slow
def test_what_was_live_lies_in_the_run_folder_as_files(searched):
    run, _ = searched
    inputs = {path.name for path in (run.path / "inputs").iterdir()}
    assert inputs == {"model", "train.parquet", "test.parquet"}
    assert (run.path / "inputs/model/tokenizer.json").exists()
    weights = AutoModelForSequenceClassification.from_pretrained(run.path / "inputs/model")
    assert weights.config.num_labels == 3


@pytest.mark.slow
def test_a_run_says_what_was_found(searched, tmp_path, capsys):
    run, _ = searched
    assert list(run.front.columns) == ["number", "anchor", "plan", "right", "parameters", "flops"]
    best = run.best(within=100)
    assert (best.number, run.trial(1).number) == (1, 1)
    assert str(best.plan) == "layers 0..3 tie attention+ffn from mean"
    assert set(best.numbers) == {"right", "parameters", "flops"}
    assert best.load().num_parameters() == best.numbers["parameters"]
    assert best.export(tmp_path / "out").difference == 0
    assert (tmp_path / "out/tokenizer.json").exists()
    assert run.report() == run.path / "report.html"
    assert capsys.readouterr().err == f"report: {run.path / 'report.html'}\n"
    first = ["number", "state", "anchor", "right", "parameters", "flops", "plan", "reason"]
    columns = list(run.trials.columns)
    assert columns[:8] == first and columns[10:] == sorted(columns[10:])
    assert set(columns) == set(run.study.frame.columns)
    assert "right" in repr(run) and "trial 1: right" in repr(best)
    with pytest.raises(RunError, match="no trial 7"):
        run.trial(7)
    with pytest.raises(RunError, match="no study in"):
        Run(tmp_path)


@pytest.mark.slow
def test_a_run_shows_itself_in_a_notebook(searched):
    run, _ = searched
    shown = run._repr_html_()
    assert "Plotly.newPlot" in shown and "<svg" in shown and "smallest within" in shown
    assert "http://" not in shown.split("Plotly.newPlot")[1].replace("http://www.w3.org", "")
    assert "<svg" in run.trial(1)._repr_html_()


@pytest.mark.slow
def test_a_run_is_resumed_with_the_same_objects_only(searched, frames, model):
    run, _ = searched
    asked = SMALL | {"out": run.path, "resume": True, "metric": right_and_wrong}
    assert len(sharetune.search(model, frames, **asked).trials) == 2
    with pytest.raises(RunError, match="the model or the data are not those") as caught:
        sharetune.search(model, frames | {"test": frames["test"].head(9)}, **asked)
    assert caught.value.hint == "give the same ones, or start a new run with out="
    others = {
        "space.plan had 1 and has 2 entries; space.recipe.steps was 2 and is 3": {
            "space": {
                "plan": [{"layers": "0..1"}, {"layers": "2..3"}],
                "recipe": {"steps": 3, "max_length": 8},
            }
        },
        "anchors was ['unshared'] and is ['unshared', 'tied']": {"anchors": ["unshared", "tied"]},
        "task.name was 'text-classification' and is 'token-classification'": {
            "task": "token-classification"
        },
    }
    for message, change in others.items():
        with pytest.raises(RunError) as caught:
            sharetune.search(model, frames, **(asked | change))
        started = f"the study is not the one that {run.path} was started with: "
        assert caught.value.message == started + message
        assert caught.value.hint == (
            f"give the values of the run, which are in {run.path}/study.yaml, or start a new run "
            "with out="
        )
    with pytest.raises(RunError, match="exists already") as caught:
        sharetune.search(model, frames, **(asked | {"resume": False}))
    assert caught.value.hint.startswith("continue it with resume=True")


@pytest.mark.slow
def test_a_data_set_dict_and_a_folder(home, frames, tmp_path):
    data = DatasetDict({"train": Dataset.from_pandas(frames["train"]),
                        "validation": Dataset.from_pandas(frames["test"])})  # fmt: skip
    asked = SMALL | {"budget": 1, "objectives": ["macro_f1", "parameters"]}
    run = sharetune.search(
        str(home / "model"), data, task="text-classification", out=tmp_path / "run", **asked
    )
    assert run.study.rows == {"train": 60, "test": 30}
    assert run.study.config["task"]["test"] == str(tmp_path / "run/inputs/test")
    assert run.best().number == 0


class Pairs(TorchDataset):
    """Token ids and a label, as a tuple."""

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return self.rows

    def __getitem__(self, number):
        return torch.tensor([2, 4 + number % 3 * 4, 3]), number % 3


def together(pairs):
    ids, labels = zip(*pairs, strict=True)
    return {"input_ids": torch.stack(ids), "labels": torch.stack(labels)}


@pytest.mark.slow
def test_two_torch_data_sets_with_a_collate_function(home, model, tmp_path):
    run = sharetune.search(
        model,
        (Pairs(48), Pairs(12)),
        collate=together,
        metric=right_and_wrong,
        objectives={"right": "maximize", "parameters": "minimize"},
        out=tmp_path / "run",
        **(SMALL | {"space": {"recipe": {"epochs": 40, "learning_rate": 0.003, "max_length": 8}}}),
        plans=["albert-all"],
    )
    assert run.study.config["task"]["name"] == "tensors"
    assert run.trials["right"].max() == 1.0  # the label follows from the token
    assert run.trials["eval_loss"].min() < 0.5


@pytest.mark.slow
def test_a_trained_head_keeps_its_labels(frames, tmp_path):
    names = ["sky", "sea", "food"]  # not sorted
    config = BertConfig(
        vocab_size=19, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=64, max_position_embeddings=32,
        id2label=dict(enumerate(names)), label2id={name: i for i, name in enumerate(names)},
    )  # fmt: skip
    model = BertForSequenceClassification(config)
    tokenizer = AutoTokenizer.from_pretrained(write_checkpoint(tmp_path / "model"))
    asked = SMALL | {"budget": 1}
    run = sharetune.search(model, frames, tokenizer=tokenizer, out=tmp_path / "run", **asked)
    assert run.study.model["labels"] == names


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"metric": fails}, ConfigError, "the metric fails failed: AttributeError"),
        ({"metric": returns_a_list}, ConfigError, "must return numbers by name, but returned list"),
        ({"spaces": {}}, ConfigError, r"search\(\): spaces: unknown key"),
        ({"budget": -1}, ConfigError, "budget.trials"),
        ({"objectives": {"accuracy": "minimize"}}, ConfigError, "accuracy is an objective that is"),
        ({"collate": together}, ConfigError, "makes its own batches"),
        ({"task": "text-clasification"}, ConfigError, "unknown task"),
        ({"data": {"training": 1}}, DataError, "data need a split train"),
        ({"data": 3}, DataError, "a split is a frame"),
        ({"model": torch.nn.Linear(2, 2)}, ModelError, "but got Linear"),
        ({"model": "./nothing"}, ModelError, "no such folder: ./nothing"),
        (
            {"task": {"name": "text-classification", "text": "body"}},
            DataError,
            "^the train frame has no text column: looked for 'body', and the table has 'text', 'l",
        ),
        ({"data": None}, ConfigError, "search needs a model and data, or a study file"),
    ],
)
def test_a_mistake_is_one_sentence(model, frames, tmp_path, arguments, error, message):
    given = {"model": model, "data": frames, "out": tmp_path / "run"} | SMALL | arguments
    with pytest.raises(error, match=message) as caught:
        sharetune.search(given.pop("model"), given.pop("data"), **given)
    assert caught.value.hint and "\n" not in caught.value.message
    assert not (tmp_path / "run/study.db").exists()


@pytest.mark.slow
def test_a_metric_of_a_notebook_is_asked_for_where_it_is_not_known(searched):
    run, _ = searched
    config = dict(run.study.config)
    config["metric"] = config["metric"] | {"function": "__main__:nowhere"}
    from sharetune.search.starting import real_evaluator
    from sharetune.spaces.run_folder import RunFolder

    with pytest.raises(ConfigError, match="the function __main__:nowhere is not known") as caught:
        real_evaluator(validate(config, "study"), RunFolder(run.path))
    assert "sharetune.search(..., resume=True)" in caught.value.hint


def test_a_space_without_plans_has_the_proposed_ones():
    proposed = {"plan": [{"form": "tie"}], "recipe": {"max_length": 32, "steps": 50}}
    completed = _completed({"recipe": {"steps": 12}}, proposed)
    assert completed == {"plan": [{"form": "tie"}], "recipe": {"max_length": 32, "steps": 12}}
    own = {"plan": [], "recipe": {"max_length": 8}}
    assert _completed(own, proposed) == own


def test_a_study_file_gives_a_run(home, tmp_path):
    study = tmp_path / "study.yaml"
    study.write_text(json.dumps({
        "model": str(home / "model"), "executor": "local", "latency": {"rounds": 0},
        "task": {"name": "text-classification", "train": str(home / "train.csv")},
        "budget": {"trials": 2}, "space": SMALL["space"],
    }))  # fmt: skip
    run = sharetune.search(study, overrides=["budget.trials=1"], out=tmp_path / "run")
    assert len(run.trials) == 1
    assert (tmp_path / "run").samefile(run)


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_a_metric_travels_to_ray_workers(model, frames, tmp_path):
    scale = 2.0

    def doubled(prediction):
        return {"doubled": scale * float((prediction.label_ids >= 0).mean())}

    asked = SMALL | {"executor": "ray", "resources": {"workers": 1}, "budget": 1}
    run = sharetune.search(model, frames, metric=doubled, out=tmp_path / "run", **asked)
    assert run.trials["doubled"].tolist() == [2.0]


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_a_metric_that_cannot_travel_is_refused(model, frames, tmp_path):
    file = (tmp_path / "log").open("w")

    def logged(prediction):
        file.write("called\n")
        return {"logged": 1.0}

    asked = SMALL | {"executor": "ray", "resources": {"workers": 1}, "budget": 1}
    with pytest.raises(RunError, match="functions cannot be sent to Ray workers"):
        sharetune.search(model, frames, metric=logged, out=tmp_path / "run", **asked)
