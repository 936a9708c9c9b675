"""Exact numbers of others: one registered function, in every way of counting."""

import pytest

from sharetune.spaces import SharingPlan
from sharetune.spaces.compression import Compression
from sharetune.spaces.objectives import OBJECTIVES, Objective
from sharetune.trainers.measuring.exact import EXACT
from sharetune.trainers.models.structure import stack_shapes
from tests.registries import forget_what_is_registered
from tests.trainers.measuring.test_counting import counting_of


@pytest.fixture(autouse=True)
def one_more(monkeypatch):
    """Two numbers more: one of the plan alone, one of the model as it is stored."""
    forget_what_is_registered(monkeypatch)
    for name in ("layers_run", "tensors"):
        OBJECTIVES.register(name)(Objective(name, name, "minimize"))

    @EXACT.register("layers_run")
    def layers_run(sized):
        """layers that one pass runs"""
        shapes = stack_shapes(sized.unshared)
        return sum(len(sized.plan.order(name, shape.depth)) for name, shape in shapes.items())

    @EXACT.register("tensors")
    def tensors(sized):
        """tensors of the model"""
        return len(list(sized.model.parameters()))


@pytest.mark.parametrize(
    ("compression", "tensors"),
    [({}, 89), ({"quantize": "int8"}, 123), ({"heads": 0.5}, 89)],
)
def test_a_registered_number_is_counted_and_built_alike(compression, tensors):
    counting = counting_of("bert")
    plan = SharingPlan.drop((1,)).bound(stack_shapes(counting.unshared))
    found = counting.facts(plan, Compression(**compression))
    assert (found["layers_run"], found["tensors"]) == (5, tensors)
    assert counting.built(plan, Compression(**compression)) == found
