"""Owner maps against the literature's pictures."""

import pytest

from spaces.assignments import ASSIGNMENTS, Assignment


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
    from spaces import SharingPlan

    @ASSIGNMENTS.register("ends")
    def ends(n_layers, _):
        """the first and the last layer share, the others do not"""
        return [0, *range(1, n_layers - 1), 0]

    plan = SharingPlan.from_yaml("groups: [{layers: 0..5, assign: ends}]")
    assert plan == SharingPlan.from_yaml("groups: [{layers: [0, 5]}]")
