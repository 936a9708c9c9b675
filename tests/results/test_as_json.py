"""One JSON document of a study or several, for scripts."""

import json

import pytest
from optuna.trial import TrialState
from typer.testing import CliRunner

from sharetune.results.as_json import studies_as_json
from sharetune.search.commands.cli import app
from sharetune.spaces import SharingPlan
from tests.paths import ROOT
from tests.results.conftest import complete, ended

FINISHED = ROOT / "tests/data/written-at-e71c858/finished"
HALF = SharingPlan.range(1, 4, 0.5)
TESTED = {"per_class": {"no": {"support": 40}, "yes": {"support": 60}}}


def strict(text):
    def refuse(token):
        raise AssertionError(f"{token} is not JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.fixture()
def study(make_run):
    run = make_run(
        complete(0.90, 200.0, anchor="unshared", **TESTED),
        complete(0.90, 100.0, HALF, **TESTED),
        complete(0.5, 150.0, HALF, metrics={"accuracy": 0.5, "eval_loss": float("inf")}),
        ended(TrialState.FAIL, error={"kind": "E", "message": "m", "traceback": "t"}),
    )
    (run / "trials/1/model").mkdir(parents=True)
    document = strict(studies_as_json([run]))
    assert document["version"] == 1
    (found,) = document["studies"]
    assert found["run"] == run.name
    return found


def test_it_names_the_study_its_objectives_and_its_reference(study):
    assert study["name"] == "demo"
    assert study["model"] == {"name": "tiny", "stacks": {"layers": 6}, "labels": ["no", "yes"]}
    assert study["objectives"] == [
        {"name": "accuracy", "title": "accuracy", "unit": "", "direction": "maximize"},
        {"name": "parameters", "title": "parameters", "unit": "", "direction": "minimize"},
    ]
    assert study["quality"] == "accuracy"
    assert study["reference"] == {"accuracy": 0.5, "parameters": 200.0}
    assert study["hypervolume"] == pytest.approx(0.4)  # (0.9 - 0.5) / 0.5 x (200 - 100) / 200


def test_it_has_every_trial_with_finite_numbers_or_null(study):
    assert [trial["number"] for trial in study["trials"]] == [0, 1, 2, 3]
    assert [trial["state"] for trial in study["trials"]] == ["COMPLETE"] * 3 + ["FAIL"]
    assert [trial["accuracy"] for trial in study["trials"]] == [0.9, 0.9, 0.5, None]
    assert [trial["parameters"] for trial in study["trials"]] == [200, 100, 150, None]
    assert study["trials"][2]["eval_loss"] is None
    assert study["trials"][1]["same_as"] is None
    assert study["trials"][1]["started"] == "2026-01-01T12:00:10"
    assert study["trials"][1]["candidate"]["plan"]["groups"][0]["layers"] == "1..4"
    assert study["trials"][3]["error_message"] == "m"


def test_it_has_the_front_and_the_choices_with_intervals_and_commands(study):
    assert study["front"] == [1]
    assert study["finalists"] == []
    (choice,) = study["choices"]
    interval = choice.pop("interval")
    assert choice == {
        "rule": "smallest within 0.5, 1 and 2 points",
        "number": 1,
        "anchor": None,
        "plan": "1..4 bank 0.5 attention+ffn from mean",
        "accuracy": 0.9,
        "parameters": 100,
        "size_ratio": 0.5,
        "latency_ms": None,
        "latency_ratio": None,
        "export": f"sharetune export {study['run']} 1 demo-1",
        "why_not": None,
    }
    assert (interval["over"], interval["count"]) == ("examples", 100)
    assert (interval["low"], interval["high"]) == pytest.approx((0.8256, 0.9448), abs=5e-5)


def test_it_warns_as_the_report_does(study):
    assert any(text.startswith("Few test examples: ") for text in study["warnings"])
    assert any(text.endswith(": 3 trained, 20 or more are needed.") for text in study["warnings"])


def test_it_says_where_finalists_stand():
    (study,) = strict(studies_as_json([FINISHED]))["studies"]
    assert study["examples"] == {"train": 45, "validation": 15, "test": 30}
    assert study["front"] == [3, 1]
    found = study["finalists"]
    assert [finalist["number"] for finalist in found] == [0, 1, 2, 3]
    assert [finalist["standing"] for finalist in found] == ["open", "front", "open", "front"]
    assert [finalist["beaten_by"] for finalist in found] == [2, None, 3, None]
    assert [finalist["seeds"] for finalist in found] == [2, 2, 2, 2]
    assert found[3]["accuracy"] == pytest.approx(5 / 6)  # 2/3 and 1
    assert found[3]["interval"] == {"low": 0.0, "high": 1.0, "over": "seeds", "count": 2}
    assert study["choices"][0]["export"].endswith(" 9 written-at-e71c858-9")


def test_a_study_without_a_reference_or_a_complete_trial_is_a_document_too(make_run):
    run = make_run(ended(TrialState.FAIL), reference=None)
    (study,) = strict(studies_as_json([run]))["studies"]
    assert (study["hypervolume"], study["front"], study["choices"]) == (None, [], [])


@pytest.mark.slow
def test_the_command_prints_the_document_and_nothing_else(make_run):
    runs = [str(make_run(complete(0.9, 1.0), folder=name, name=name)) for name in ("a", "b")]
    one = CliRunner().invoke(app, ["report", runs[0], "--json"])
    assert one.exit_code == 0, one.output
    assert [study["name"] for study in strict(one.stdout)["studies"]] == ["a"]
    both = CliRunner().invoke(app, ["report", *runs, "--json"])
    assert [study["name"] for study in strict(both.stdout)["studies"]] == ["a", "b"]
