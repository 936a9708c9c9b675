"""Owner maps against the literature's pictures."""

import pytest

from sharetune.spaces import SharingPlan
from sharetune.spaces.assignments import ASSIGNMENTS, Assignment, most_alike
from sharetune.spaces.errors import PlanError
from sharetune.spaces.stack_shape import StackShape


@pytest.mark.parametrize(
    ("assignment", "layers", "owners"),
    [
        (Assignment(), 4, (0, 0, 0, 0)),
        (Assignment("sequence", 3), 6, (0, 0, 1, 1, 2, 2)),
        (Assignment("sequence", 2), 5, (0, 0, 0, 1, 1)),
        (Assignment("cycle", 3), 6, (0, 1, 2, 0, 1, 2)),
        (Assignment("cycle_rev", 3), 6, (0, 1, 2, 2, 1, 0)),
        (Assignment("cycle_rev", 3), 7, (0, 1, 2, 0, 1, 2, 2)),
        (Assignment("cycle_rev", 2), 6, (0, 1, 0, 1, 1, 0)),
        (Assignment("repeat", 2), 5, (0, 0, 1, 1, 2)),
        (Assignment("owners", (5, 3, 5, 3)), 4, (0, 1, 0, 1)),
    ],
)
def test_owner_map(assignment, layers, owners):
    assert assignment.owners(layers) == owners


def test_a_new_assignment_is_usable_at_once(monkeypatch):
    monkeypatch.setattr(ASSIGNMENTS, "_entries", dict(ASSIGNMENTS._entries))

    @ASSIGNMENTS.register("ends")
    def ends(n_layers, _):
        """the first and the last layer share, the others do not"""
        return [0, *range(1, n_layers - 1), 0]

    plan = SharingPlan.from_yaml("groups: [{layers: 0..5, assign: ends}]")
    assert plan == SharingPlan.from_yaml("groups: [{layers: [0, 5]}]")


ALIKE = (
    (1.0, 0.9, 0.2, 0.1),
    (0.9, 1.0, 0.3, 0.2),
    (0.2, 0.3, 1.0, 0.4),
    (0.1, 0.2, 0.4, 1.0),
)


@pytest.mark.parametrize(
    ("banks", "owners"), [(4, (0, 1, 2, 3)), (3, (0, 0, 2, 3)), (2, (0, 0, 2, 2)), (1, (0,) * 4)]
)
def test_layers_that_are_alike_share(banks, owners):
    assert most_alike(ALIKE, banks) == owners


def test_similarity_settles_a_plan_when_it_is_bound():
    plan = SharingPlan.from_yaml("groups: [{layers: 0..3, assign: {similar: 2}}]")
    shape = StackShape(depth=4, heads=4, neurons=64, similarity=ALIKE)
    by_hand = SharingPlan.from_yaml("groups: [{layers: [0, 1]}, {layers: [2, 3]}]")
    assert plan.bound({"layers": shape}) == by_hand.bound({"layers": shape})
    with pytest.raises(PlanError, match="not known before the model's layers are compared"):
        plan.bound({"layers": StackShape(depth=4, heads=4, neurons=64)})
