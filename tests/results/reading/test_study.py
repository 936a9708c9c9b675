import sqlite3
from pathlib import Path

import pandas as pd
import pytest
from optuna.trial import TrialState

from sharetune import results
from sharetune.results.page.trial_rows import columns, rows
from sharetune.results.reading.study import read_study
from sharetune.spaces import SharingPlan
from sharetune.spaces.errors import RunError
from sharetune.spaces.objectives import OBJECTIVES
from tests.results.conftest import complete, ended

FORM = {"ratio": 0.9, "ratio_low": 0.88, "ratio_high": 0.93}
LATENCY = {
    "forms": {
        "stored": {"median_ms": 12.0, "low_ms": 11.5, "high_ms": 12.5, **FORM},
        "materialised": {"median_ms": 11.0, "low_ms": 10.5, "high_ms": 11.5, **FORM},
    },
    "unshared_ms": 13.3,
    "batch_size": 1,
    "threads": 2,
}


def test_a_complete_trial_is_a_row_with_all_its_numbers(make_run):
    plan = SharingPlan.range(1, 4, 0.5)
    run = make_run(
        complete(0.9, 150.0, plan, anchor="half", per_class={"yes": {"support": 9}}),
        latency={0: LATENCY},
    )
    row = results.load(run).iloc[0]
    assert (row["number"], row["state"], row["anchor"]) == (0, "COMPLETE", "half")
    assert row["plan"] == "1..4 bank 0.5 attention+ffn from mean"
    assert (row["accuracy"], row["parameters"], row["bytes"]) == (0.9, 150.0, 600.0)
    assert (row["effective_ratio"], row["train_s"], row["total_s"]) == (0.25, 4.0, 5.5)
    assert (row["latency_ms"], row["latency_low_ms"], row["latency_high_ms"]) == (12.0, 11.5, 12.5)
    assert (row["latency_ratio"], row["latency_ratio_low"]) == (0.9, 0.88)
    assert (row["materialised_latency_ms"], row["latency_unshared_ms"]) == (11.0, 13.3)
    assert row["latency_conditions"] == {"batch_size": 1, "threads": 2}
    assert row["recipe.learning_rate"] == 5e-5
    assert row["values"] == (0.9, 150.0)
    assert row["candidate"]["plan"]["groups"][0]["layers"] == "1..4"
    assert row["per_class"] == {"yes": {"support": 9}}
    assert row["completed"] == pd.Timestamp("2026-01-01 12:00:09")


def test_exports_timed_in_their_runtimes_have_columns(make_run):
    one = {"median_ms": 5.0, "low_ms": 4.5, "high_ms": 5.5, **FORM, "unshared_ms": 6.0}
    found = {
        "runtimes": {
            "onnx": {"pass": one},
            "gguf-q8_0": {"prefill": one, "decode": one | {"median_ms": 2.0}},
        },
        "refused": {"albert": "no such layers"},
    }
    before = dict(one)
    forms = LATENCY["forms"] | {"onnx": before}
    old = LATENCY | {"forms": forms, "onnx_unshared_ms": before.pop("unshared_ms")}
    run = make_run(
        complete(0.9, 150.0),
        complete(0.9, 150.0),
        complete(0.9, 150.0),
        latency={0: LATENCY | found, 1: old},
    )
    frame = results.load(run)
    assert frame["onnx_latency_ms"].tolist()[:2] == [5.0, 5.0]
    assert frame["onnx_latency_unshared_ms"].tolist()[:2] == [6.0, 6.0]
    assert frame["gguf-q8_0_decode_latency_ms"].tolist()[0] == 2.0
    assert frame["gguf-q8_0_prefill_latency_ratio_high"].tolist()[0] == 0.93
    assert frame["gguf-q8_0_prefill_latency_ms"].isna().tolist() == [False, True, True]
    assert frame["onnx_latency_ms"].dtype == "float64"
    assert frame["latency_refused"].tolist()[0] == {"albert": "no such layers"}
    assert frame["latency_conditions"].tolist()[0] == {"batch_size": 1, "threads": 2}


def test_trials_without_a_result_say_why(make_run):
    error = {"kind": "OutOfMemory", "message": "no room", "traceback": "line 1"}
    run = make_run(
        complete(0.9, 150.0),
        complete(0.9, 150.0, same_as=0),
        ended(TrialState.PRUNED, reason="over budget", error=error),
        ended(TrialState.RUNNING),
    )
    frame = results.load(run)
    assert frame["state"].tolist() == ["COMPLETE", "COMPLETE", "PRUNED", "RUNNING"]
    assert frame["same_as"].tolist()[1] == 0
    assert frame["same_as"].isna().tolist() == [True, False, True, True]
    assert frame["reason"][2] == "over budget"
    assert (frame["error_kind"][2], frame["error_message"][2]) == ("OutOfMemory", "no room")
    assert frame["accuracy"].isna().tolist() == [False, False, True, True]


def test_a_study_without_attributes_or_trials_can_be_read(make_run):
    keys = ("objectives", "reference", "model", "circumstances", "config")
    study = read_study(make_run(**dict.fromkeys(keys)))
    assert [(o.name, o.direction) for o in study.objectives] == [
        ("value_0", "maximize"),
        ("value_1", "minimize"),
    ]
    assert (study.reference, study.model, len(study.frame)) == ({}, {}, 0)
    assert study.frame["accuracy"].tolist() == []


def test_an_unknown_objective_goes_by_its_name_and_the_study_s_direction(make_run):
    study = read_study(make_run(objectives=["accuracy", "carbon_g"]))
    assert (study.objectives[1].title, study.objectives[1].direction) == ("carbon g", "minimize")


def test_a_plan_of_another_version_is_shown_as_stored(make_run):
    trial = complete(0.9, 150.0) | {"candidate": {"plan": {"groups": [{"weird": 1}]}}}
    assert results.load(make_run(trial))["plan"][0] == '{"groups": [{"weird": 1}]}'


def test_a_missing_run_is_an_error_with_a_way_out(tmp_path: Path):
    with pytest.raises(RunError) as caught:
        results.load(tmp_path / "nowhere")
    assert "there is no" in caught.value.message
    assert caught.value.message.endswith("nowhere/study.db")
    assert "sharetune search" in caught.value.hint
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("content", [b"", b"not a database, only text" * 100])
def test_a_damaged_storage_is_an_error_and_stays_as_it_is(tmp_path: Path, content: bytes):
    storage = tmp_path / "study.db"
    storage.write_bytes(content)
    with pytest.raises(RunError, match="study.db"):
        results.load(tmp_path)
    assert storage.read_bytes() == content


def test_reading_leaves_the_storage_untouched(make_run):
    run = make_run(complete(0.9, 150.0))
    before = (run / "study.db").read_bytes()
    results.load(run)
    assert (run / "study.db").read_bytes() == before
    assert [path.name for path in run.iterdir()] == ["study.db"]


def test_a_study_can_be_read_while_a_search_holds_the_storage(make_run):
    run = make_run(complete(0.9, 150.0))
    writer = sqlite3.connect(run / "study.db")
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("UPDATE trials SET state = 'FAIL'")
    assert results.load(run)["state"].tolist() == ["COMPLETE"]
    writer.rollback()
    writer.close()


def test_an_objective_of_a_plugin_is_known_by_what_the_study_says_of_it(make_run):
    specs = [
        {"name": "scratch_bytes", "title": "scratch space", "direction": "minimize", "unit": "B"},
        {"name": "joules", "title": "energy", "direction": "minimize", "source": "quiet"},
        {"name": "accuracy", "title": "of an older version", "direction": "maximize"},
    ]
    measured = LATENCY | {"quiet": {"joules": 2.5}}
    run = make_run(
        complete(0.9, 150.0),
        complete(0.8, 150.0),
        objectives=["accuracy", "scratch_bytes"],
        objective_specs=specs,
        latency={0: measured},
    )
    study = read_study(run)
    assert [objective.title for objective in study.objectives] == ["accuracy", "scratch space"]
    assert (study.objectives[1].unit, study.objectives[1].source) == ("B", "exact")
    assert [o.name for o in study.quiet if o.name not in OBJECTIVES] == ["joules"]
    assert "peak_memory" in [o.name for o in study.quiet]
    assert study.frame["joules"].tolist()[0] == 2.5
    assert study.frame["joules"].isna().tolist() == [False, True]
    assert study.frame["latency_conditions"][0] == {"batch_size": 1, "threads": 2}
    assert trial_table(study)["energy"] == ["2.50", ""]


def test_an_objective_that_nobody_knows_counts_as_trained(make_run):
    study = read_study(make_run(objectives=["accuracy", "gain_of"]))
    assert (study.objectives[1].title, study.objectives[1].source) == ("gain of", "trained")


def trial_table(study):
    """The texts of each column of the report's table, by its heading."""
    shown = columns(study)
    texts = [[cell.text for cell in row] for row in rows(study, shown)]
    return {
        column.title: list(own) for column, own in zip(shown, zip(*texts, strict=True), strict=True)
    }
