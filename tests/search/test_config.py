"""Studies: what is refused, with its place in the file."""

import pytest

from sharetune.search.study_file import load_config
from sharetune.spaces.errors import ConfigError
from tests.search.studies import GOOD, write_study_file


def test_a_plan_may_be_the_name_of_a_preset(tmp_path):
    ffn = {"groups": [{"layers": "all", "parts": ["ffn", "biases"], "form": "tie"}]}
    named, written = load_config(
        write_study_file(tmp_path, GOOD | {"plans": ["albert-ffn", ffn]})
    ).plans
    assert named == written
    with pytest.raises(ConfigError, match="unknown preset: 'albert-fnn'"):
        load_config(write_study_file(tmp_path, GOOD | {"plans": ["albert-fnn"]}))


@pytest.mark.parametrize(
    ("written", "forms"),
    [
        ({"forms": ["onnx", "gguf-q8_0"]}, ("onnx", "gguf-q8_0")),
        ({"forms": "openvino"}, ("openvino",)),
        ({"onnx": True, "rounds": 3}, ("onnx",)),  # as studies had it before
        ({"onnx": False}, ()),
    ],
    ids=str,
)
def test_the_formats_that_are_timed(tmp_path, written, forms):
    config = load_config(write_study_file(tmp_path, GOOD | {"latency": written}))
    assert config.latency.forms == forms
    assert "onnx" not in config.latency.model_dump()


@pytest.mark.parametrize(
    ("change", "message", "hint"),
    [
        ({"modle": 1}, "modle: unknown key", "did you mean 'model'?"),
        ({"budget": {"trails": 1}}, "budget.trails: unknown key", "did you mean 'trials'?"),
        ({"budget": {"trials": 0}}, "budget.trials: input should be greater", ""),
        ({"objectives": ["acuracy"]}, "unknown objective: 'acuracy'", "did you mean 'accuracy'?"),
        ({"objectives": ["accuracy", "latency_ms"]}, "on a quiet device", "search with flops"),
        ({"anchors": ["untied"]}, "unknown anchor: 'untied'", "available"),
        ({"space": {"recipe": {"lr": 1}}}, "unknown key in recipe: 'lr'", "available"),
        ({"space": {"plan": [{"layers": "1..4", "ration": 1}]}}, "unknown key", "available"),
        (
            {"sampler": "tpee"},
            "sampler: unknown sampler: 'tpee'",
            "did you mean 'tpe'? available: auto",
        ),
        (
            {"space": {"recipe": {"soften": "unty"}}},
            "recipe.soften: unknown schedule: 'unty'",
            "did you mean 'untie'? available: interpolate, replace, pull, untie",
        ),
        (
            {"space": {"recipe": {"bank_lr_rule": "sqr"}}},
            "recipe.bank_lr_rule: unknown learning rate rule: 'sqr'",
            "did you mean 'sqrt'? available: none, sqrt, readers",
        ),
        (
            {"space": {"recipe": {"distill": {"schedule": "faling"}}}},
            "recipe.distill.schedule: unknown distillation schedule: 'faling'",
            "did you mean 'falling'? available: constant, falling",
        ),
        (
            {"space": {"compression": {"quantize": "int-8"}}},
            "compression.quantize: unknown quantisation: 'int-8'",
            "did you mean 'int8'? available: int8, dynamic-int8",
        ),
        (
            {"plans": [{"groups": [{"layers": "1..4", "units": "fist"}]}]},
            "unknown choice of units: 'fist'",
            "did you mean 'first'? available: first, best-match, importance",
        ),
        ({"plugins": "no_such"}, "there is no plugin 'no_such'", "put no_such.py beside"),
        ({"resources_per_trial": {"workers": 2}}, "unknown key", "did you mean 'resources'?"),
        (
            {"resources": {"gpu": 2}},
            "a worker uses one GPU at most, but got gpu=2",
            "write resources: {workers_per_trial: 2, gpu: 1}",
        ),
        (
            {"resources": {"gpu": 0.5, "workers_per_trial": 2}},
            "workers of one trial cannot share a GPU, but got gpu=0.5 and workers_per_trial=2",
            "write gpu: 1, or leave workers_per_trial out",
        ),
        (
            {"resources": {"shard": True}},
            "shard divides a trial among its workers, but workers_per_trial is 1",
            "write resources: {workers_per_trial: 2, shard: true}",
        ),
        (
            {"executor": "local", "resources": {"workers_per_trial": 2}},
            "executor: local is one process, but resources.workers_per_trial is 2",
            "leave executor out, or workers_per_trial",
        ),
        ({"plans": [{"groups": [{"layers": "4..1"}]}]}, "`first <= last` must hold", ""),
    ],
)
def test_mistakes(tmp_path, change, message, hint):
    with pytest.raises(ConfigError) as caught:
        load_config(write_study_file(tmp_path, GOOD | change))
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_all_mistakes_are_listed_at_once(tmp_path):
    with pytest.raises(ConfigError) as caught:
        load_config(
            write_study_file(tmp_path, GOOD | {"modle": 1, "budget": {"trials": 0}, "seed": -1})
        )
    for place in ("modle", "budget.trials", "seed"):
        assert place in caught.value.message
