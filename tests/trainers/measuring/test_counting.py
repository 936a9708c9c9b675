"""What is counted without building a model equals what is counted on the built one."""

import copy
import random
from dataclasses import replace
from functools import cache

import pytest
import torch

from sharetune.search.samplers.features import Drawer
from sharetune.spaces import SharingPlan
from sharetune.spaces.compression import Compression
from sharetune.spaces.errors import PlanError
from sharetune.spaces.space import Space
from sharetune.trainers.measuring.counting import Counting
from sharetune.trainers.models.structure import stack_shapes
from tests.families import FAMILIES, inputs_of, tiny
from tests.trainers.models.test_contract import CASES, groups_of, nearness

PLAIN, INT8 = Compression(), Compression(quantize="int8")
QUICK = {("bert", "bank"), ("gpt2", "basis"), ("gpt-neox", "reuse")}
EIGHT_BITS = {"bert", "gpt2", "t5", "vit"}


@cache
def counting_of(family):
    with torch.device("meta"):
        auto, config = FAMILIES[family]
        model = auto.from_config(copy.deepcopy(config), attn_implementation="eager").eval()
    return Counting(model, {n: t[:1].to("meta") for n, t in inputs_of(tiny(family)).items()})


def is_quick(family, form, assignment):
    """Three pairs, two of families that fuse q, k and v."""
    return assignment == "one" and (family, form) in QUICK


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id="-".join(case), marks=[] if is_quick(*case) else pytest.mark.slow)
        for case in CASES
    ],
)
def test_counted_is_what_is_built(case):
    family = case[0]
    counting = counting_of(family)
    shapes = {
        name: replace(shape, similarity=nearness(shape.depth))
        for name, shape in stack_shapes(counting.unshared).items()
    }
    plan = SharingPlan.model_validate({"groups": groups_of(shapes, case)}).bound(shapes)
    for compression in (PLAIN, INT8) if family in EIGHT_BITS else (PLAIN,):
        assert counting.facts(plan, compression) == counting.built(plan, compression)


def space(**group):
    """Up to two groups of any layers, run once or twice."""
    template = {
        "layers": {"within": "0..-1", "min": 2},
        "count": {"low": 1, "high": 2},
        "assign": {"choices": ["one", {"cycle": 2}, {"sequence": 2}]},
        "init": {"choices": ["mean", 0]},
        "times": {"choices": [1, 2]},
        "order": {"choices": ["block", "layer"]},
    }
    return Space.model_validate({"plan": [template | group]})


FORMED = space(
    parts={"choices": [["attention", "ffn"], ["attention"], ["ffn"]]},
    form={
        "choices": [
            "tie",
            "drop",
            {"bank": {"ratio": {"low": 0.1, "high": 0.9, "step": 0.2}}},
            {"basis": {"rank": {"low": 4, "high": 64, "step": 20}}},
            {"lowrank": {"rank": 3, "diagonal": True}},
        ]
    },
)
MIXED = space(parts=["attention"], form={"lowrank": {"rank": 0, "heads": True}})
TIED_WHOLE = space(parts=["attention", "ffn", "norms", "biases"], form="tie")


CUT = space(
    layers={"within": "0..-1", "min": 1},
    parts={"choices": [["attention", "ffn"], ["attention"], ["ffn"]]},
    count={"low": 2, "high": 3},
    form={
        "choices": [
            "merge",
            {"narrow": {"keep": {"low": 0.2, "high": 0.8, "step": 0.3}}},
            {"bank": {"ratio": 0.5}},
            {"basis": {"rank": 8}},
        ]
    },
    init={"choices": ["mean", "first", "last"]},
    assign="one",
    times=1,
)


@pytest.mark.parametrize("family", ["bert", pytest.param("llama", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("drawn_from", "draws"),
    [
        pytest.param(FORMED, 14, marks=pytest.mark.slow),
        pytest.param(MIXED, 3, marks=pytest.mark.slow),
        (CUT, 4),
        pytest.param(TIED_WHOLE, 4, marks=pytest.mark.slow),
    ],
)
def test_any_draw_is_counted_as_it_is_built(family, drawn_from, draws):
    counting = counting_of(family)
    shapes = stack_shapes(counting.unshared)
    refused = 0
    for seed in range(draws):
        plan = drawn_from.suggest(Drawer(random.Random(seed)), shapes).plan
        try:
            expected = counting.built(plan)
        except PlanError as error:
            refused += 1
            with pytest.raises(PlanError) as counted:
                counting.facts(plan)
            assert counted.value.message == error.message
        else:
            assert counting.facts(plan) == expected
    assert refused <= draws / 3
