"""A training that loses its process goes on from its last checkpoint, bit for bit."""

import shutil

import pytest

from sharetune.spaces import Candidate, Recipe, SharingPlan
from sharetune.spaces.compression import Compression
from sharetune.trainers.training.resuming import Checkpoints
from tests.trainers.conftest import RECIPE, evaluated, saved

RECIPES = {
    "plain": {},
    "all layers tied": {"plan": SharingPlan.range(0, 3, 1.0)},
    "interpolate, hard before": {"soften": "interpolate", "soften_until": 0.2},
    "interpolate, soft still": {"soften": "interpolate", "soften_until": 0.9},
    "replace, at random": {"soften": "replace", "soften_until": 0.9},
    "pull": {"soften": "pull", "pull": 0.1, "soften_until": 0.9},
    "untie": {"soften": "untie", "soften_until": 0.3},
    "R-Drop": {"r_drop": 1.0},
    "adversary": {"adversary": "fgm"},
    "patience": {"patience": 14},
    "terms and rates": {"bank_l2_start": 0.01, "bank_lr_rule": "sqrt", "layer_lr_decay": 0.9},
    "teacher": {"distill": {"temperature": 2.0}},
    "batches in parts": {"accumulation": 2},
    "pruned afterwards": {"compression": Compression(magnitude=0.2, recover=0.2)},
}


class Died(BaseException):
    """Stands for a kill: no handler of ours catches it."""


def dying_at(step):
    begun = []

    def beat(in_step):
        begun.extend([1] if in_step else [])
        if in_step and len(begun) == step:
            raise Died

    return beat


def files(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_a_training_that_died_ends_as_if_it_had_not(evaluator, tmp_path, name):
    settings = dict(RECIPES[name])
    options = {"accumulation": settings.pop("accumulation", 1)}
    plan = settings.pop("plan", SharingPlan.range(1, 2, 0.5))
    compression = settings.pop("compression", Compression())
    recipe = Recipe.model_validate(RECIPE.model_dump() | {"steps": 20} | settings)
    wanted = Candidate(plan=plan, recipe=recipe, compression=compression).bound(evaluator.stacks)
    whole = evaluated(evaluator, wanted, tmp_path / "whole", **options)

    kept = options | {"checkpoint_s": 0.0}
    with pytest.raises(Died):
        evaluated(evaluator, wanted, tmp_path / "cut", beat=dying_at(8), **kept)
    with pytest.raises(Died):
        evaluated(evaluator, wanted, tmp_path / "cut", beat=dying_at(7), **kept)
    again = evaluated(evaluator, wanted, tmp_path / "cut", **kept)

    assert again.circumstances["continued_at"] == [7, 13]
    assert "continued_at" not in whole.circumstances
    assert files(saved(tmp_path / "cut")) == files(saved(tmp_path / "whole"))
    assert (again.scores, again.curve) == (whole.scores, whole.curve)


@pytest.mark.slow
def test_rungs_are_told_again_by_a_training_that_goes_on(evaluator, tmp_path):
    wanted = Candidate(recipe=RECIPE.model_copy(update={"steps": 12})).bound(evaluator.stacks)
    told = []

    def report(rung, metrics):
        told.append((rung, metrics))
        return True

    kept = {"checkpoint_s": 0.0}
    kept |= {"rungs": (0.25, 0.75), "report": report}
    with pytest.raises(Died):
        evaluated(evaluator, wanted, tmp_path, beat=dying_at(6), **kept)
    evaluated(evaluator, wanted, tmp_path, **kept)
    assert [(rung, metrics["step"]) for rung, metrics in told] == [(0, 3), (0, 3), (1, 9)]
    assert told[0] == told[1]


@pytest.mark.slow
def test_a_checkpoint_that_was_being_written_does_not_count(evaluator, tmp_path):
    wanted = Candidate(recipe=RECIPE.model_copy(update={"steps": 12})).bound(evaluator.stacks)
    kept = {"checkpoint_s": 0.0}
    with pytest.raises(Died):
        evaluated(evaluator, wanted, tmp_path, beat=dying_at(6), **kept)
    half = saved(tmp_path).parent / "checkpoints" / "1" / "draft" / "checkpoint-9"
    half.mkdir(parents=True)
    (half / "training.pt").write_bytes(b"PK half")
    found = evaluated(evaluator, wanted, tmp_path, **kept)
    assert found.circumstances["continued_at"] == [5]


def test_short_trainings_leave_no_checkpoint(evaluator, tmp_path):
    wanted = Candidate(recipe=RECIPE.model_copy(update={"steps": 12})).bound(evaluator.stacks)
    kept = {"checkpoint_s": 300.0}
    evaluated(evaluator, wanted, tmp_path, **kept)
    assert not list(tmp_path.rglob("training.pt"))


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    """Another byte in the middle of the largest content."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


DAMAGES = {
    **{f"{name} cut": (name, cut) for name in ("training.pt", "optimizer.pt", "scheduler.pt")},
    **{f"{name} cut": (name, cut) for name in ("rng_state.pth", "trainer_state.json")},
    "training.pt flipped": ("training.pt", flip),
    "optimizer.pt empty": ("optimizer.pt", lambda path: path.write_bytes(b"")),
    "rng_state.pth gone": ("rng_state.pth", lambda path: path.unlink()),
    "trainer_state.json a list": ("trainer_state.json", lambda path: path.write_text("[1]")),
}


@pytest.fixture(scope="module")
def died(evaluator, tmp_path_factory):
    """A candidate, and the folder of its training, which died with two checkpoints."""
    folder = tmp_path_factory.mktemp("died")
    wanted = Candidate(recipe=RECIPE.model_copy(update={"steps": 12})).bound(evaluator.stacks)
    with pytest.raises(Died):
        evaluated(evaluator, wanted, folder, beat=dying_at(6), checkpoint_s=0.0)
    kept = saved(folder).parent / "checkpoints" / "1"
    assert sorted(p.name for p in kept.glob("checkpoint-*")) == ["checkpoint-4", "checkpoint-5"]
    return wanted, folder


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_checkpoint_is_put_aside_and_the_one_before_is_taken(died, tmp_path, name):
    kept = tmp_path / "1"
    shutil.copytree(saved(died[1]).parent / "checkpoints" / "1", kept)
    file, damage = DAMAGES[name]
    damage(kept / "checkpoint-5" / file)
    checkpoints = Checkpoints(kept, 0.0)
    assert checkpoints.latest() == kept / "checkpoint-4"
    assert checkpoints.unreadable == [5]
    assert (kept / "unreadable-checkpoint-5").is_dir()


@pytest.mark.slow
def test_without_a_checkpoint_that_can_be_read_a_training_begins_anew(evaluator, died, tmp_path):
    wanted, folder = died
    whole = evaluated(evaluator, wanted, tmp_path / "whole")
    shutil.copytree(folder, tmp_path / "cut")
    for path in (tmp_path / "cut").rglob("optimizer.pt"):
        cut(path)
    found = evaluated(evaluator, wanted, tmp_path / "cut", checkpoint_s=0.0)
    assert found.circumstances["unreadable_checkpoints"] == [5, 4]
    assert "continued_at" not in found.circumstances
    assert (found.scores, found.curve) == (whole.scores, whole.curve)
