"""A 16-bit checkpoint is trained in float32, stored in 16 bits, and measured as it is stored."""

import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModel,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    T5Config,
    T5ForConditionalGeneration,
)

from sharetune.spaces import SharingPlan
from sharetune.spaces.compression import Compression
from sharetune.spaces.errors import CandidateFault
from sharetune.trainers import load_shared
from sharetune.trainers.evaluation.evaluator import CandidateEvaluator
from sharetune.trainers.measuring.sizes import saved_bytes
from sharetune.trainers.models.dtypes import cast_
from sharetune.trainers.models.pretrained import skeleton
from sharetune.trainers.tasks.prediction import predict
from tests.trainers.conftest import candidate, evaluated, saved

WIDE, HALF = torch.float32, torch.bfloat16


@pytest.fixture(scope="module")
def narrow(evaluator, tmp_path_factory):
    """The evaluator of the same checkpoint, saved in 16 bits."""
    return of_dtype(evaluator, tmp_path_factory.mktemp("bfloat16"), HALF)


def of_dtype(evaluator, folder, dtype):
    shutil.copytree(evaluator.task.model, folder / "model")
    model = AutoModel.from_pretrained(folder / "model", dtype=dtype)
    model.save_pretrained(folder / "model")
    return CandidateEvaluator.prepare(
        str(folder / "model"), evaluator.task.task, folder / "cache", 12
    )


def test_weights_in_training_are_float32(narrow):
    assert {p.dtype for p in narrow.task.load().parameters()} == {WIDE}
    assert {p.dtype for p in narrow.task.load_as_saved().parameters()} == {HALF}


@pytest.mark.slow
@pytest.mark.parametrize(
    "plan", [SharingPlan(), SharingPlan.range(1, 2, 0.5)], ids=["unshared", "shared"]
)
def test_equal_settings_give_equal_results_whatever_the_dtype(evaluator, narrow, plan, tmp_path):
    settings = {"steps": 30, "learning_rate": 1e-3}
    wide = evaluated(evaluator, candidate(evaluator, plan, **settings), tmp_path / "wide")
    half = evaluated(narrow, candidate(narrow, plan, **settings), tmp_path / "half")
    for one, other in zip(wide.curve, half.curve, strict=True):
        assert one == pytest.approx(other, abs=0.01)
    assert half.circumstances["dtype"] == wide.circumstances["dtype"] == "float32"
    assert half.circumstances["saved_dtype"] == "bfloat16"
    assert wide.circumstances["saved_dtype"] == "float32"


@pytest.mark.parametrize(
    "compression",
    [pytest.param(Compression(), marks=pytest.mark.slow), Compression(quantize="int8")],
    ids=str,
)
@pytest.mark.parametrize(
    "plan",
    [pytest.param(SharingPlan(), marks=pytest.mark.slow), SharingPlan.range(1, 2, 0.5)],
    ids=["unshared", "shared"],
)
def test_the_stored_file_has_the_saved_dtype_and_the_counted_bytes(
    narrow, plan, compression, tmp_path
):
    wanted = candidate(narrow, plan, steps=2).model_copy(update={"compression": compression})
    found = evaluated(narrow, wanted, tmp_path)
    file = saved(tmp_path) / "model.safetensors"
    assert file.stat().st_size == narrow.sizes(wanted)["bytes"]
    floats = {t.dtype for t in load_file(file).values() if t.is_floating_point()}
    assert floats == {HALF}
    auto = AutoModelForSequenceClassification.from_pretrained(saved(tmp_path))
    assert auto.dtype == HALF
    _, test = narrow.task.splits(12, None)
    logits = predict(cast_(auto, WIDE), data=test.rows, collate=test.collate)
    accuracy = (logits.argmax(-1) == torch.tensor(test.labels)).float().mean().item()
    assert accuracy == found.scores.metrics["accuracy"]


def test_latency_is_that_of_the_dtype_users_run(narrow, tmp_path):
    evaluated(narrow, candidate(narrow, SharingPlan.range(1, 2, 0.5), steps=1), tmp_path)
    assert load_shared(saved(tmp_path)).dtype == narrow._untrained(candidate(narrow)).dtype == HALF


def test_what_a_family_needs_in_float32_stays_so_and_is_counted_so(tmp_path):
    sizes = {"d_model": 16, "d_kv": 4, "d_ff": 32, "num_layers": 2, "num_heads": 2}
    model = T5ForConditionalGeneration(T5Config(vocab_size=40, **sizes))
    cast_(model, torch.float16).save_pretrained(tmp_path)
    kept = {n for n, t in load_file(tmp_path / "model.safetensors").items() if t.dtype == WIDE}
    assert kept == {name for name, _ in model.named_parameters() if name.endswith("wo.weight")}
    shell = skeleton(AutoModelForSeq2SeqLM, str(tmp_path))
    assert saved_bytes(shell) == (tmp_path / "model.safetensors").stat().st_size


def test_a_weight_that_16_bits_cannot_hold_is_the_candidates_fault(narrow):
    model = narrow.task.load()
    model.classifier.bias.data[0] = 1e6
    with pytest.raises(CandidateFault, match="classifier.bias holds weights that are too large"):
        cast_(model, torch.float16)
