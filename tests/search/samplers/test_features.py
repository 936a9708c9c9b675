"""Candidates as numbers: what differs between two candidates differs between their features."""

import pytest

from sharetune.search.samplers.features import features
from sharetune.spaces.compression import Compression
from sharetune.spaces.plan import SharingPlan
from sharetune.spaces.recipe import Candidate, Recipe
from sharetune.spaces.stack_shape import StackShape

SHAPES = {"layers": StackShape(depth=6, heads=12, neurons=1536)}


def of_plan(*groups):
    plan = SharingPlan.model_validate({"groups": groups})
    return features(Candidate(plan=plan).bound(SHAPES), {})


def of_compression(**settings):
    return features(Candidate(compression=Compression(**settings)).bound(SHAPES), {})


def test_features_say_what_of_each_layer_is_shared():
    plan = SharingPlan.range(1, 2, 0.5)
    found = features(Candidate(plan=plan, recipe=Recipe(steps=7)).bound(SHAPES), {"flops": 3})
    assert (found["layers.1.attention"], found["layers.2.ffn"]) == (0.5, 0.5)
    assert not any(name.startswith("layers.3") for name in found)
    assert (found["recipe.steps"], found["exact.flops"]) == (7, 3)


@pytest.mark.parametrize(
    ("one", "other", "name", "values"),
    [
        ({"magnitude": 0.1}, {"magnitude": 0.9}, "compression.magnitude", (0.1, 0.9)),
        ({"heads": 0.25}, {"heads": 0.5}, "compression.heads", (0.25, 0.5)),
        (
            {"magnitude": 0.5, "recover": 0.1},
            {"magnitude": 0.5},
            "compression.recover",
            (0.1, None),
        ),
    ],
)
def test_features_tell_compressions_apart(one, other, name, values):
    assert tuple(of_compression(**settings).get(name) for settings in (one, other)) == values


def test_a_quantised_model_has_a_feature_that_others_lack():
    assert "compression.quantize" in of_compression(quantize="int8")
    assert "compression.quantize" not in of_compression()


def test_every_group_keeps_its_knobs_init_units_and_number_of_layers():
    found = of_plan(
        {"layers": "0..1", "form": {"lowrank": {"rank": 4}}, "init": "first"},
        {"layers": "2..4", "form": {"lowrank": {"rank": 16}}, "init": "last"},
    )
    assert (found["lowrank.rank"], found["lowrank.rank.1"]) == (4, 16)
    assert (found["groups.layers"], found["groups.layers.1"]) == (2, 3)
    assert found["init"] != found["init.1"]
    assert "units.1" in found


def test_two_groups_that_differ_in_the_first_one_s_rank_have_other_features():
    def ranked(rank):
        return of_plan(
            {"layers": "0..1", "form": {"lowrank": {"rank": rank}}},
            {"layers": "2..4", "form": {"lowrank": {"rank": 16}}},
        )

    assert ranked(4) != ranked(8)
