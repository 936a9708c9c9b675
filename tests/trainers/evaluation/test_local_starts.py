"""Candidates start from what the groups of their plans learnt locally, once a study."""

import pytest

from sharetune.spaces import Candidate, Recipe, SharingPlan
from sharetune.spaces.errors import SharetuneError
from sharetune.spaces.local_start import LocalStart
from sharetune.spaces.stack_shape import StackShape
from sharetune.trainers.evaluation import local_starts
from tests.trainers.conftest import candidate, evaluated

TIED_FFNS = SharingPlan.from_yaml("groups: [{layers: 1..2, parts: [ffn], form: tie}]")
START = LocalStart(local_steps=40, learning_rate=3e-3, tokens=600)


@pytest.mark.slow
def test_a_candidate_starts_nearer_and_its_groups_are_taught_once(evaluator, tmp_path, monkeypatch):
    taught, real = [], local_starts.distil_locally
    monkeypatch.setattr(
        local_starts, "distil_locally", lambda *a: (taught.append(len(a[1])), real(*a))[1]
    )
    settings = {"steps": 1, "learning_rate": 1e-8}
    plain = evaluated(evaluator, candidate(evaluator, TIED_FFNS, **settings), tmp_path / "0")
    started = candidate(evaluator, TIED_FFNS, start=START, **settings)
    first = evaluated(evaluator, started, tmp_path / "1")
    again = evaluated(evaluator, started, tmp_path / "2")
    assert taught == [1]
    assert first.scores == again.scores
    assert first.scores != plain.scores
    other = candidate(evaluator, TIED_FFNS, start=START, **settings | {"seed": 1})
    evaluated(evaluator, other, tmp_path / "3")
    assert taught == [1]  # by another seed, too


def test_a_start_without_effect_is_none():
    stacks = {"layers": StackShape(depth=6, heads=12, neurons=1536)}
    recipe = Recipe(start=START)
    for plan in (SharingPlan(), SharingPlan.drop([2])):
        assert Candidate(plan=plan, recipe=recipe).bound(stacks).recipe.start is None
    kept = Candidate(plan=TIED_FFNS, recipe=recipe).bound(stacks)
    assert kept.recipe.start == START


def test_a_start_and_softening_do_not_go_together():
    with pytest.raises(SharetuneError, match="hard from the start, but got soften=interpolate"):
        Recipe(start=START, soften="interpolate")
