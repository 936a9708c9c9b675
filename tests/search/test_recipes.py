"""Recipes and compression searched for real: one teacher, every part through to the report."""

import pandas as pd
import pytest

from sharetune import results
from sharetune.results.page.report import write_report
from sharetune.search.run import run
from sharetune.search.study_file import validate
from sharetune.spaces.errors import ConfigError, ModelError
from tests.checkpoint import write_checkpoint, write_rows


def study(tmp_path, **space):
    write_rows(tmp_path / "train.csv", 60)
    write_rows(tmp_path / "test.csv", 30, seed=1)
    data = {
        "name": "recipes",
        "model": str(write_checkpoint(tmp_path / "model")),
        "task": {
            "name": "text-classification",
            "train": str(tmp_path / "train.csv"),
            "test": str(tmp_path / "test.csv"),
        },
        "executor": "local",
        "anchors": ["unshared"],
        "budget": {"trials": 5},
        "sampler": "random",
        "latency": {"rounds": 2},
        "tracking": "tensorboard",
        "space": space,
    }
    return validate(data, "study.yaml")


@pytest.mark.slow
def test_every_part_is_searched(tmp_path):
    recipe = {
        "steps": 4,
        "batch_size": 8,
        "max_length": 12,
        "distill": {"temperature": {"low": 1.0, "high": 4.0}, "hidden": {"choices": [0.0, 1.0]}},
        "adversary": {"choices": ["fgm", {"freelb": {"steps": 2}}]},
        "bank_lr_rule": {"choices": ["none", "sqrt", "readers"]},
    }
    compression = {"neurons": {"choices": [0.25, 0.5]}, "quantize": {"choices": [None, "int8"]}}
    plan = [{"layers": "0..3", "form": {"bank": {"ratio": 0.5}}}]
    config = study(tmp_path, recipe=recipe, compression=compression, plan=plan)
    out = run(config, out=tmp_path / "run")
    frame = results.load(out)
    assert list(frame["state"]) == ["COMPLETE"] * 5
    assert len(list((out / "cache" / "teachers").glob("[!.l]*"))) == 1
    drawn = frame[frame["anchor"].isna()]
    assert drawn["recipe.distill.temperature"].between(1, 4).all()
    assert set(drawn["compression.neurons"]) <= {0.25, 0.5}
    assert pd.to_numeric(drawn["parameters"]).max() < frame["parameters"][0]
    assert len(list((out / "tracking" / "tensorboard").iterdir())) == 5
    assert "calibration error" in write_report(out).read_text("utf-8")


def test_a_teacher_that_is_not_there_is_told_before_a_run_folder_is_made(tmp_path):
    config = study(
        tmp_path, recipe={"max_length": 8, "distill": {"choices": [None, {"teacher": "/nowhere"}]}}
    )
    with pytest.raises(ModelError, match="no such folder: /nowhere"):
        run(config, out=tmp_path / "run")
    assert not (tmp_path / "run" / "study.db").exists()


@pytest.mark.parametrize(
    ("exports", "quantize", "heads", "message"),
    [
        (
            "onnx",
            {"choices": [None, "dynamic-int8"]},
            0.0,
            "exports: the onnx format cannot hold 8-bit matrices, but space.compression allows "
            "quantize dynamic-int8",
        ),
        (
            ["shared", "dense"],
            None,
            {"low": 0.0, "high": 0.5},
            "exports: the dense format cannot hold layers with fewer heads or neurons, but "
            "space.compression allows heads 0.",
        ),
        ("onx", None, 0.0, "unknown export format: 'onx'"),
    ],
)
def test_compression_that_a_wanted_format_cannot_hold(tmp_path, exports, quantize, heads, message):
    config = study(tmp_path, compression={"quantize": quantize, "heads": heads})
    config = config.model_copy(
        update={"exports": (exports,) if isinstance(exports, str) else tuple(exports)}
    )
    with pytest.raises(ConfigError) as caught:
        run(config, out=tmp_path / "run")
    assert message in caught.value.message
    assert not (tmp_path / "run" / "study.db").exists()
