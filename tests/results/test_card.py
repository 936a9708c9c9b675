"""What the model card says of a study, whatever its task measures."""

import yaml
from huggingface_hub import ModelCard

from sharetune.results.card import ExportText, model_card
from sharetune.results.reading import attributes as record
from sharetune.results.reading.study import read_study
from sharetune.spaces import SharingPlan
from tests.results.conftest import complete, write_run

HALF = SharingPlan.range(1, 4, 0.5)
TASK = {"name": "text-generation", "train": "/home/someone/train.csv", "test": None}


def test_every_metric_of_the_task_is_told_against_the_unshared_model(tmp_path):
    first = {"metrics": {"perplexity": 40.0, "eval_loss": 3.689}}
    second = {"metrics": {"perplexity": 40.4, "eval_loss": 3.699}}
    run = write_run(
        tmp_path / "run",
        complete(40.0, 200.0, anchor="unshared", **first) | {"values": [40.0, 200.0]},
        complete(40.4, 150.0, HALF, **second) | {"values": [40.4, 150.0]},
        objectives=["perplexity", "parameters"],
        directions=["minimize", "minimize"],
        config={"name": "demo", "model": "gpt2", "task": TASK},
    )
    card = model_card(read_study(run), 1, HALF, ExportText("shared", "load()"))
    card = card.replace("\N{NARROW NO-BREAK SPACE}", " ")
    assert "| perplexity | 40.4 | 40 | +0.4 | 1.01× |" in card
    assert "| evaluation loss | 3.70 nats | 3.69 nats | +0.01 nats | 1.00× |" in card
    assert "| parameters | 150 | 200 | −50 | 0.75× |" in card
    assert "| accuracy |" not in card
    assert "someone" not in card and "train: train.csv" in card


EVIL = "\x1b[2Jx: y\n---\n`rm`"


def test_names_are_text_in_the_card_and_its_metadata(tmp_path):
    run = write_run(
        tmp_path / "run",
        complete(0.9, 200.0, HALF) | {"values": [0.9, 200.0]},
        name=f"study {EVIL}",
        config={"name": "demo", "model": f"org/{EVIL}", "task": TASK | {"extra": "```\n# owned"}},
    )
    card = model_card(read_study(run), 0, HALF, ExportText("shared", "load()"))
    head, body = card.removeprefix("---\n").split("---\n", 1)
    assert yaml.safe_load(head)["base_model"] == f"org/{EVIL}"
    assert "\x1b" not in card and "`rm`" not in body.split("## Training")[0]
    assert card.count("```") == 10


def test_metrics_are_told_as_the_hub_reads_them(tmp_path):
    more = {record.PER_CLASS: {"a": {"support": 400}}, "metrics": {"accuracy": 0.9}}
    run = write_run(
        tmp_path / "run",
        complete(0.9, 150.0, HALF, **more),
        config={"name": "demo", "model": "org/base", "task": {"name": "text-classification"}},
    )
    card = ModelCard(model_card(read_study(run), 0, HALF, ExportText("code", "load()")))
    assert card.data.library_name == "transformers"
    assert card.data.base_model == "org/base"
    (result,) = card.data.eval_results
    assert (result.task_type, result.metric_type) == ("text-classification", "accuracy")
    assert result.metric_value == 0.9
    assert result.metric_name.replace("\N{NARROW NO-BREAK SPACE}", " ") == (
        "accuracy (95 % interval 86.7 % to 92.6 %)"
    )


def test_parts_that_no_plan_changes_are_named_below_the_drawing(tmp_path):
    run = write_run(
        tmp_path / "run",
        complete(0.9, 200.0, HALF),
        config={"name": "demo", "model": "mixture", "task": TASK},
        model={"name": "mixture", "stacks": {"layers": 6}, "lacking": {"layers": ["ffn"]}},
    )
    card = model_card(read_study(run), 0, HALF, ExportText("shared", "load()"))
    assert "\n```\n\nNo plan shares or narrows the ffn of stack 'layers', whose matrices " in card
