"""Scoring as users meet it: what is written, what goes on where it was, what is refused."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial

import pandas as pd
import pytest
import torch
import yaml
from transformers import BertModel
from typer.testing import CliRunner

from sharetune.search.commands.cli import app
from sharetune.search.run import run
from sharetune.search.scoring import score_study
from sharetune.spaces.errors import DataError, PlanError, RunError
from sharetune.spaces.evaluator import PlanScore
from sharetune.spaces.plan import SharingPlan
from sharetune.spaces.planning.score_file import ScoreFile
from sharetune.trainers.scoring.calibration_sample import scoring_batches
from sharetune.trainers.tasks.base import Split
from tests.checkpoint import write_checkpoint, write_rows, write_study_data
from tests.paths import ROOT
from tests.search.fakes import FakeEvaluator
from tests.search.studies import study
from tests.search.test_run import trials

SPACE = {"plan": [{"layers": "0..-1", "form": {"choices": ["drop", "tie"]}}]}
"""6 layers dropped; of 5 pairs, two parts tied from the first layer and from the last: 26 edits."""
REAL = {"plan": [{"layers": "0..-1", "form": {"choices": ["drop", {"narrow": {"keep": 0.5}}]}}]}
ONE_PROCESS = pytest.mark.xdist_group("score")  # for the tests of one scored study
STUDY = {
    "model": "model",
    "task": {"name": "text-classification", "train": "train.csv", "test": "test.csv"},
    "executor": "local",
    "budget": {"trials": 2},
    "anchors": ["unshared"],
    "latency": {"rounds": 0},
    "space": REAL | {"recipe": {"steps": 1, "max_length": 8}},
}


def call(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def scored_plans(folder):
    """The plans that the fake evaluator scored, in order."""
    return [path.read_text() for path in sorted(folder.glob("*.scored"))]


@pytest.fixture()
def counted(tmp_path):
    """A fake evaluator that leaves a file for each plan it scores, and that folder."""
    folder = tmp_path / "counted"
    folder.mkdir()
    return FakeEvaluator(folder=folder), folder


def test_every_edit_of_the_space_is_written_with_cost_and_savings(tmp_path, counted):
    fake, folder = counted
    found = score_study(study(space=SPACE), out=tmp_path / "run", evaluator=fake)
    edits = sorted((one.edit.kind, one.edit.layers) for one in found.scored.values())
    assert edits[:6] == [("drop", (i,)) for i in range(6)]
    assert edits[6:] == [("tie", (i, i + 1)) for i in range(5) for _ in range(4)]
    assert len(scored_plans(folder)) == 27
    assert scored_plans(folder)[0] == "unshared"
    drop = next(one for one in found.scored.values() if one.edit.kind == "drop")
    assert drop.cost == 0.1
    assert drop.saved["parameters"] == 1_700_000
    assert drop.saved["bytes"] == 6_800_000
    assert found.plans == {SharingPlan(): PlanScore(0.0, 0.5)}
    assert sorted(found.losses.values())[:3] == pytest.approx([0.6, 0.61, 0.62])


def test_a_merge_costs_what_its_drop_does_and_is_not_measured_again(tmp_path, counted):
    fake, folder = counted
    space = {"plan": [{"layers": "0..2", "form": {"choices": ["drop", "merge"]}}]}
    found = score_study(study(space=space), out=tmp_path / "run", evaluator=fake)
    assert sorted(one.edit.kind for one in found.scored.values()) == ["drop"] * 3 + ["merge"] * 4
    assert len(scored_plans(folder)) == 4


def test_what_is_scored_is_not_scored_again(tmp_path, counted):
    fake, folder = counted
    first = score_study(study(space=SPACE), out=tmp_path / "run", evaluator=fake)
    again = score_study(study(space=SPACE), out=tmp_path / "run", evaluator=fake)
    assert again == first
    assert len(scored_plans(folder)) == 27


@pytest.mark.parametrize("kept", [0.0, 0.01, 0.7, 0.999])
def test_a_scoring_killed_in_the_middle_of_a_line_goes_on(tmp_path, counted, kept):
    """Only whole lines count: what was cut is measured once more, and nothing else is."""
    fake, folder = counted
    whole = score_study(study(space=SPACE), out=tmp_path / "run", evaluator=FakeEvaluator())
    path = tmp_path / "run" / "scores.jsonl"
    os.truncate(path, int(kept * path.stat().st_size))
    left = max(0, path.read_bytes().count(b"\n") - 1)
    assert score_study(study(space=SPACE), out=tmp_path / "run", evaluator=fake) == whole
    assert len(scored_plans(folder)) == max(0, 27 - left)
    assert len(path.read_text().splitlines()) == 33  # 5 pairs exchanged among them


@pytest.mark.parametrize(
    ("other", "word"),
    [
        ({"space": {"plan": [{"layers": "0..-1", "form": "drop"}]}}, "space"),
        ({"model": "another"}, "model"),
        ({"space": SPACE | {"recipe": {"max_length": 64}}}, "max_length"),
    ],
)
def test_scores_of_another_study_are_refused(tmp_path, other, word):
    score_study(study(space=SPACE), out=tmp_path / "run", evaluator=FakeEvaluator())
    with pytest.raises(RunError, match=f"are of another {word}$") as error:
        changed = study(**({"space": SPACE} | other))
        score_study(changed, out=tmp_path / "run", evaluator=FakeEvaluator())
    assert "--out" in error.value.hint


def test_an_edit_that_fails_is_noted_and_the_others_are_scored(tmp_path):
    class Failing(FakeEvaluator):
        def score(self, candidate, resources):
            if str(candidate.plan) == "layers 2 drop":
                raise RuntimeError("a singular matrix")
            if str(candidate.plan) == "layers 3 drop":
                return PlanScore(float("nan"))
            return super().score(candidate, resources)

    found = score_study(study(space=SPACE), out=tmp_path / "run", evaluator=Failing())
    assert (len(found.scored), len(found.refused)) == (24, 2)
    reasons = " ".join(found.refused.values())
    assert "RuntimeError: a singular matrix" in reasons and "its distance is nan" in reasons
    again = score_study(study(space=SPACE), out=tmp_path / "run", evaluator=FakeEvaluator())
    assert (len(again.scored), len(again.refused)) == (26, 0)


def test_a_model_that_cannot_be_scored_is_one_error(tmp_path):
    class Headless(FakeEvaluator):
        def score(self, candidate, resources):
            raise DataError("scoring takes at least 4 training examples", "give more")

    with pytest.raises(DataError, match="at least 4"):
        score_study(study(space=SPACE), out=tmp_path / "run", evaluator=Headless())
    with pytest.raises(PlanError, match="cannot be scored: ValueError: no"):
        score_study(study(space=SPACE), out=tmp_path / "run", evaluator=Unable())
    assert ScoreFile(tmp_path / "run" / "scores.jsonl").read().scored == {}


class Unable(FakeEvaluator):
    def score(self, candidate, resources):
        raise ValueError("no")


def test_a_search_trains_plans_solved_from_the_scores_of_its_folder(tmp_path):
    config = study(space=SPACE, anchors=["unshared"], budget={"trials": 6})
    score_study(config, out=tmp_path / "run", evaluator=FakeEvaluator())
    run(config, out=tmp_path / "run", evaluator=FakeEvaluator())
    anchors = [trial.user_attrs.get("anchor") for trial in trials(tmp_path / "run")]
    assert anchors[:5] == ["unshared", "solved-0", "solved-1", "solved-2", "solved-3"]
    stored = [trial.user_attrs["facts"]["parameters"] for trial in trials(tmp_path / "run")]
    limits = [22e6, 21e6, 20e6, 18e6, 16e6]
    assert all(size <= limit for size, limit in zip(stored, limits, strict=False))
    again = score_study(config, out=tmp_path / "run", evaluator=FakeEvaluator())
    assert len(again.scored) == 26


def test_a_search_refuses_scores_of_another_space(tmp_path):
    score_study(study(space=SPACE), out=tmp_path / "run", evaluator=FakeEvaluator())
    with pytest.raises(RunError, match="are of another space"):
        run(study(), out=tmp_path / "run", evaluator=FakeEvaluator())
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["scores.jsonl"]


def test_a_study_of_another_space_is_not_scored_into_its_folder(tmp_path):
    run(study(budget={"trials": 2}), out=tmp_path / "run", evaluator=FakeEvaluator())
    with pytest.raises(RunError, match="the study in .* is of another space"):
        score_study(study(space=SPACE), out=tmp_path / "run", evaluator=FakeEvaluator())


def split(count, labels):
    rows = [{"input_ids": [1] * 256, "labels": labels} for _ in range(count)]

    def collate(given):
        return {"input_ids": torch.tensor([row["input_ids"] for row in given])}

    return Split(rows, collate, [], "")


@pytest.mark.parametrize(
    ("rows", "labels", "sizes"),
    [
        (1000, [1] * 128, [2, 2, 2, 2]),  # 1,024 tokens
        (1000, [1] * 2048, [1, 1, 1, 1]),
        (1000, 0, [16, 16, 16, 16]),
        (6, 0, [1, 2, 1, 2]),
    ],
)
def test_there_are_four_batches_of_as_many_predictions_as_are_enough(rows, labels, sizes):
    assert [len(batch["input_ids"]) for batch in scoring_batches(split(rows, labels))] == sizes


def test_too_few_examples_are_refused():
    with pytest.raises(DataError, match="at least 4 training examples .* has 3$"):
        scoring_batches(split(3, 0))


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """The folder of a scored study on a tiny checkpoint, and what the command printed."""
    folder = write_study_data(tmp_path_factory.mktemp("score"), 60)
    (folder / "study.yaml").write_text(yaml.safe_dump(STUDY))
    result = call("score", folder / "study.yaml", "--out", folder / "run")
    assert result.exit_code == 0, result.output
    return folder, result


@ONE_PROCESS
def test_a_real_model_is_scored(scored):
    folder, result = scored
    assert result.stdout.startswith("12 edits scored; distance for 1 % of the parameters saved:\n")
    assert {line.split()[0] for line in result.stdout.split("\n")[2:-1]} == {"drop", "narrow"}
    solving = f"solve: sharetune solve {folder / 'run'} --parameters 80%"
    assert result.stderr.rstrip().endswith(solving)
    found = ScoreFile(folder / "run" / "scores.jsonl").read()
    drop = next(one for one in found.scored.values() if one.edit.kind == "drop")
    assert drop.saved["parameters"] == 8_544  # 4 x 32 x 33 + 64 x 33 + 32 x 65 + 2 x 64
    assert all(one.cost >= 0 for one in found.scored.values())
    assert max(one.cost for one in found.scored.values()) > 0
    assert found.plans[SharingPlan()].distance == 0
    assert found.plans[SharingPlan()].loss == pytest.approx(1.0986, abs=0.02)  # log 3: a new head


@pytest.mark.slow
@ONE_PROCESS
def test_other_data_are_refused(scored):
    folder, _ = scored
    write_rows(folder / "other.csv", 60, seed=5)
    again = partial(call, "score", folder / "study.yaml", "--out", folder / "run")
    result = again("--set", "task.train=other.csv")
    assert result.exit_code == 2
    assert f"error: the scores in {folder / 'run' / 'scores.jsonl'} are of another data" in (
        result.stderr
    )
    assert again().exit_code == 0


@pytest.mark.slow
def test_other_weights_are_refused(tmp_path):
    write_study_data(tmp_path, 60)
    model = BertModel.from_pretrained(tmp_path / "model")
    with torch.no_grad():
        model.embeddings.word_embeddings.weight.mul_(1.5)
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(STUDY))
    again = partial(call, "score", tmp_path / "study.yaml", "--out", tmp_path / "run")
    assert again().exit_code == 0
    model.save_pretrained(tmp_path / "model")
    assert "are of another model" in again().stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rows", "layers", "words"),
    [
        (3, 4, "scoring takes at least 4 training examples"),
        (60, 1, "has no stack of at least two layers"),
    ],
)
def test_a_model_or_data_that_cannot_be_scored_is_one_line(tmp_path, rows, layers, words):
    write_study_data(tmp_path, rows)
    write_checkpoint(tmp_path / "model", layers=layers)
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(STUDY))
    result = call("score", tmp_path / "study.yaml", "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert "error: " in result.stderr and words in result.stderr and "\n\nhint: " in result.stderr


@pytest.mark.slow
def test_ctrl_c_keeps_what_is_scored_and_says_how_to_go_on(tmp_path):
    folder = write_study_data(tmp_path, 60)
    space = STUDY["space"] | {"plan": []}
    (folder / "study.yaml").write_text(yaml.safe_dump(STUDY | {"space": space}))
    words = ["score", str(folder / "study.yaml"), "--out", str(folder / "run")]
    command = [sys.executable, "-m", "sharetune", *words]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    path = folder / "run" / "scores.jsonl"
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        until = time.monotonic() + 120
        while not (path.exists() and path.read_bytes().count(b"\n") > 2):
            assert process.poll() is None and time.monotonic() < until
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, printed = process.communicate(timeout=60)
    assert process.returncode == 130, printed
    assert printed.rstrip().endswith(f"To continue:\nsharetune {' '.join(words)}")
    assert len(ScoreFile(path).read().scored) < 71
    assert call(*words).stdout.startswith("85 edits scored")


def test_a_damaged_file_is_one_error(tmp_path):
    path = tmp_path / "scores.jsonl"
    path.write_text('{"version": 9}\n')
    with pytest.raises(RunError, match="version 9, and this ShareTune reads 1"):
        ScoreFile(path).read()
    path.write_text("no JSON\n")
    with pytest.raises(RunError, match=r"scores.jsonl cannot be read"):
        ScoreFile(path).read()


def test_a_table_written_by_a_notebook_reads_back(tmp_path):
    """The file is plain JSON lines."""
    score_study(study(space=SPACE), out=tmp_path / "run", evaluator=FakeEvaluator())
    lines = (tmp_path / "run" / "scores.jsonl").read_text().splitlines()
    edits = [line for line in map(json.loads, lines) if "edit" in line]
    frame = pd.DataFrame(edits)
    assert list(frame.columns) == ["edit", "cost", "saved", "loss"]
    assert len(frame) == 26
