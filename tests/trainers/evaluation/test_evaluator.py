"""One candidate, trained and measured for real, on a tiny checkpoint."""

import math
import pickle
from dataclasses import replace

import pytest
import torch

from sharetune.spaces import Recipe, SharingPlan
from sharetune.spaces.compression import Compression
from sharetune.spaces.distillation import Distillation
from sharetune.spaces.errors import (
    CandidateFault,
    DataError,
    ModelError,
    OutOfMemory,
    StoppedAtRung,
)
from sharetune.spaces.stack_shape import StackShape
from sharetune.trainers import load_shared
from sharetune.trainers.evaluation.evaluator import CandidateEvaluator
from sharetune.trainers.measuring.sizes import parameters
from sharetune.trainers.tasks.base import read_task
from sharetune.trainers.tasks.prediction import predict
from sharetune.trainers.training.trainer import CandidateTrainer, optimiser_steps
from tests.trainers.conftest import candidate, evaluated, latency, saved


def test_what_a_prepared_evaluator_knows_travels_to_workers(evaluator):
    evaluator.sizes(candidate(evaluator))  # fills caches, which are left behind
    for known in (evaluator, pickle.loads(pickle.dumps(evaluator))):
        assert known.labels == ("food", "sea", "sky")
        assert known.rows == {"train": 90, "test": 30}
        assert known.stacks == {"layers": StackShape(depth=4, heads=4, neurons=64)}
    assert len(pickle.dumps(evaluator)) < 2000


def test_a_candidate_learns_and_its_saved_model_is_the_measured_one(evaluator, tmp_path):
    shared = candidate(evaluator, SharingPlan.range(1, 2, 0.5))
    found = evaluated(evaluator, shared, tmp_path / "model")
    assert found.scores.metrics["accuracy"] > 0.6
    assert found.curve[-1][1] < 0.9 * found.curve[0][1]
    assert sum(map(sum, found.scores.confusion)) == 30
    assert set(found.scores.per_class) == {"food", "sea", "sky"}
    assert found.circumstances["steps"] == 60

    _, test = evaluator.task.splits(12, None)
    logits = predict(load_shared(saved(tmp_path / "model")), data=test.rows, collate=test.collate)
    accuracy = (logits.argmax(-1) == torch.tensor(test.labels)).float().mean().item()
    assert accuracy == found.scores.metrics["accuracy"]


@pytest.mark.slow
def test_the_same_seed_gives_the_same_numbers(evaluator, tmp_path):
    twice = [
        evaluated(evaluator, candidate(evaluator, steps=5), tmp_path / str(i)) for i in range(2)
    ]
    other = evaluated(evaluator, candidate(evaluator, steps=5, seed=1), tmp_path / "2")
    assert twice[0].scores.metrics == twice[1].scores.metrics
    assert twice[0].curve == twice[1].curve != other.curve


@pytest.mark.parametrize(
    ("until", "apart"), [(0.5, True), pytest.param(1.0, False, marks=pytest.mark.slow)]
)
def test_layers_go_apart_from_the_step_on_that_unties_them(evaluator, tmp_path, until, apart):
    plan = SharingPlan.range(1, 2, 0.5)
    untied = candidate(evaluator, plan, steps=6, soften="untie", soften_until=until)
    evaluated(evaluator, untied, tmp_path)
    one, two = (
        layer.output.dense.private.weight
        for layer in load_shared(saved(tmp_path)).bert.encoder.layer[1:3]
    )
    assert torch.equal(one, two) != apart


@pytest.mark.slow
def test_measuring_at_rungs_changes_nothing_and_stopping_stops(evaluator, tmp_path):
    seen = []

    def note(rung, metrics):
        seen.append((rung, metrics["step"]))
        return True

    shared = candidate(evaluator, SharingPlan.range(1, 2, 0.5), steps=20)
    plain = evaluated(evaluator, shared, tmp_path / "0")
    rungs = {"rungs": (0.1, 0.25, 0.5), "report": note}
    measured = evaluated(evaluator, shared, tmp_path / "1", **rungs)
    assert seen == [(0, 2), (1, 5), (2, 10)]
    assert (plain.scores.metrics, plain.curve) == (measured.scores.metrics, measured.curve)

    with pytest.raises(StoppedAtRung, match="stopped at rung 1, step 5"):
        only_first = {"rungs": (0.1, 0.25, 0.5), "report": lambda rung, _: rung < 1}
        evaluated(evaluator, shared, tmp_path / "2", **only_first)
    assert not (tmp_path / "2").exists()


@pytest.mark.slow
def test_batches_in_parts_train_the_same_and_memory_that_runs_out_is_told(
    evaluator, tmp_path, monkeypatch
):
    shared = candidate(evaluator, SharingPlan.range(1, 2, 0.5), steps=5, batch_size=8)
    whole = evaluated(evaluator, shared, tmp_path / "0")
    parts = evaluated(evaluator, shared, tmp_path / "1", accumulation=2)
    assert "accumulation" not in whole.circumstances
    assert parts.circumstances["accumulation"] == 2
    losses = [[point[1] for point in found.curve] for found in (whole, parts)]
    assert losses[0] == pytest.approx(losses[1], abs=0.05)  # dropout masks differ

    def exhausted(*_, **__):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("sharetune.trainers.training.trainer.CandidateTrainer.train", exhausted)
    with pytest.raises(OutOfMemory, match="can't allocate memory"):
        evaluated(evaluator, shared, tmp_path / "2")


@pytest.mark.slow
def test_training_on_after_pruning_has_its_batches_in_parts_too(evaluator, tmp_path, monkeypatch):
    sizes, step = [], CandidateTrainer.training_step

    def noted(self, model, inputs, *more):
        sizes.append(len(inputs["labels"]))
        return step(self, model, inputs, *more)

    monkeypatch.setattr(CandidateTrainer, "training_step", noted)
    pruned = candidate(evaluator, SharingPlan(), steps=2, batch_size=8).model_copy(
        update={"compression": Compression(magnitude=0.5, recover=1.0)}
    )
    evaluated(evaluator, pruned, tmp_path, accumulation=2)
    assert sizes == [4] * 2 * (2 + 2)


def test_exact_numbers_are_those_of_the_trained_model(evaluator, tmp_path):
    tied = candidate(evaluator, SharingPlan.range(0, 3, 1.0), steps=1)
    exact = evaluator.sizes(tied)
    evaluated(evaluator, tied, tmp_path)
    model = load_shared(saved(tmp_path))
    assert exact["parameters"] == sum(p.numel() for p in model.parameters())
    assert exact["bytes"] == (saved(tmp_path) / "model.safetensors").stat().st_size


def test_a_loss_that_is_no_number_is_the_candidates_fault(evaluator, tmp_path):
    with pytest.raises(CandidateFault, match="the loss is nan at step"):
        evaluated(evaluator, candidate(evaluator, learning_rate=1e30, steps=10), tmp_path)


@pytest.mark.slow
def test_l2_on_shared_weights_shrinks_the_bank(evaluator, tmp_path):
    plan = SharingPlan.range(1, 2, 1.0)
    norms = []
    for strength in (0.0, 1.0):
        trained = candidate(evaluator, plan, bank_l2=strength)
        evaluated(evaluator, trained, tmp_path / str(strength))
        bank = load_shared(saved(tmp_path / str(strength))).banks.parameters()
        norms.append(math.sqrt(sum(p.square().sum().item() for p in bank)))
    assert norms[1] < 0.5 * norms[0]


@pytest.mark.slow
def test_regularisation_goes_through_a_training(evaluator, tmp_path):
    changes = {
        "bank_l2_start": 1e-3,
        "bank_lr_rule": "sqrt",
        "layer_lr_decay": 0.9,
        "head_lr_scale": 2.0,
        "dropout": 0.0,
        "label_smoothing": 0.1,
        "patience": 3,
    }
    regular = candidate(evaluator, SharingPlan.range(1, 2, 0.5), **changes)
    found = evaluated(evaluator, regular, tmp_path / "model")
    assert found.scores.metrics["accuracy"] > 0.6
    # smoothed by 0.1 over three classes, no cross entropy is below 0.29
    assert found.curve[-1][1] > 0.29


@pytest.mark.parametrize(
    ("recipe", "examples", "steps"),
    [
        (Recipe(steps=7), 1000, 7),
        (Recipe(epochs=2, batch_size=16), 100, 14),
        (Recipe(epochs=0.5, batch_size=16), 100, 4),
    ],
)
def test_steps_of_a_recipe(recipe, examples, steps):
    assert optimiser_steps(recipe, range(examples)) == steps


@pytest.mark.slow
def test_a_trained_model_is_measured_in_other_number_formats_too(evaluator, tmp_path):
    in_formats = replace(evaluator, number_formats=("int8", "int4"))
    wanted = candidate(evaluator, SharingPlan.range(0, 3, 1.0), steps=20)
    measured = evaluated(in_formats, wanted, tmp_path)
    found = measured.by_format
    assert list(found) == ["int8", "int4", "as trained"]
    assert found["as trained"] == measured.scores.metrics
    moved = {
        name: abs(found[name]["eval_loss"] - found["as trained"]["eval_loss"]) for name in found
    }
    assert 0 < moved["int8"] < moved["int4"]
    assert measured.written()["by_format"] == found
    # the kept weights are those of the training
    assert load_shared(saved(tmp_path)).sharing.compression == Compression()
    small = wanted.model_copy(update={"compression": Compression(quantize="int8")})
    assert evaluated(in_formats, small, tmp_path / "small").by_format == {}


@pytest.mark.slow
def test_latency_is_measured_against_the_unshared_model(evaluator, tmp_path):
    dropped = candidate(evaluator, SharingPlan.drop([0, 1, 2]), steps=1)
    evaluated(evaluator, dropped, tmp_path)
    found = latency(evaluator, saved(tmp_path), threads=1, rounds=20, throughput=4)
    stored = found["forms"]["stored"]
    assert stored["low_ms"] <= stored["median_ms"] <= stored["high_ms"]
    assert stored["ratio_low"] <= stored["ratio"] <= stored["ratio_high"] < 0.8
    assert found["unshared_ms"] > stored["median_ms"]
    assert found["throughput"]["batch_size"] == 4 and isinstance(found["drift"], float)
    assert set(found["throughput"]["forms"]) == {"stored", "materialised"}


@pytest.mark.slow
def test_latency_in_a_runtime_is_against_the_unshared_model_there(evaluator, tmp_path):
    dropped = candidate(evaluator, SharingPlan.drop([0, 1, 2]), steps=1)
    evaluated(evaluator, dropped, tmp_path)
    forms = ("onnx", "code", "gguf")
    found = latency(evaluator, saved(tmp_path), threads=1, rounds=20, forms=forms)
    assert list(found["runtimes"]) == ["onnx", "code"]
    for uses in found["runtimes"].values():
        assert list(uses) == ["pass"]
        assert (
            uses["pass"]["ratio_low"] <= uses["pass"]["ratio"] <= uses["pass"]["ratio_high"] < 0.9
        )
        assert uses["pass"]["median_ms"] < uses["pass"]["unshared_ms"]
    # tiny layers: what PyTorch spends on each of its calls is most of its time
    onnx = found["runtimes"]["onnx"]["pass"]
    assert onnx["median_ms"] < found["forms"]["stored"]["median_ms"]
    assert onnx["unshared_ms"] < found["unshared_ms"]
    assert found["timed_by"] == "wall clock"
    assert list(found["refused"]) == ["gguf"]
    assert "llama.cpp" in found["refused"]["gguf"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("text,label\na,x\nb,x\n", "has one class only: 'x'"),
        ("text,label\na,x\n,y\n", "has 1 rows without text, the first at row 2"),
        ("words,label\na,x\n", "no text column"),
        ("text,topic\na,x\n", "no label column"),
    ],
)
def test_data_that_does_not_fit(evaluator, tmp_path, rows, message):
    path = tmp_path / "train.csv"
    path.write_text(rows)
    task = read_task({"name": "text-classification", "train": str(path), "test": str(path)})
    with pytest.raises(DataError, match=message):
        CandidateEvaluator.prepare(evaluator.task.model, task, tmp_path / "cache", 12)


def test_a_label_that_training_never_saw(evaluator, tmp_path):
    (tmp_path / "train.csv").write_text("text,label\na,x\nb,y\n")
    (tmp_path / "test.csv").write_text("text,label\na,z\n")
    paths = {split: str(tmp_path / f"{split}.csv") for split in ("train", "test")}
    task = read_task({"name": "text-classification", **paths})
    with pytest.raises(DataError, match=r"test.csv has labels that .*train.csv lacks: 'z'"):
        CandidateEvaluator.prepare(evaluator.task.model, task, tmp_path / "cache", 12)


def test_a_fifth_is_held_out_where_no_test_split_is_given(evaluator, tmp_path):
    task = read_task({"name": "text-classification", "train": evaluator.task.task.train})
    assert CandidateEvaluator.prepare(evaluator.task.model, task, tmp_path, 12).rows == {
        "train": 72,
        "test": 18,
    }


@pytest.mark.parametrize("name", ["no-such-org/no-such-model", "./missing-folder"])
def test_a_model_that_is_not_there(evaluator, tmp_path, name):
    with pytest.raises(ModelError, match="missing-folder|cannot load model 'no-such-org"):
        CandidateEvaluator.prepare(name, evaluator.task.task, tmp_path, 12)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"layer_lr_decay": 0.9},
        {"distill": Distillation(hidden=1.0)},
        {"distill": Distillation(relations=1.0)},
        {"compression": Compression(magnitude=0.3)},
        {"compression": Compression(heads=0.5, neurons=0.5, quantize="int8")},
    ],
    ids=str,
)
def test_what_looks_at_the_layers_looks_at_the_one_that_is_left(evaluator, tmp_path, changes):
    plan = SharingPlan.model_validate({"groups": [{"layers": "1..3", "form": "drop"}]})
    recipe = {name: value for name, value in changes.items() if name != "compression"}
    wanted = candidate(evaluator, plan, steps=3, **recipe).model_copy(
        update={name: value for name, value in changes.items() if name == "compression"}
    )
    found = evaluated(evaluator, wanted, tmp_path)
    assert math.isfinite(found.scores.metrics["accuracy"])
    assert parameters([load_shared(saved(tmp_path))]) == evaluator.sizes(wanted)["parameters"]
