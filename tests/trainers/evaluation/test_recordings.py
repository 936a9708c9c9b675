"""Recorded inputs of matrices are written once and read back unchanged."""

from dataclasses import replace
from shutil import copytree, ignore_patterns

import pytest
import torch

from sharetune.spaces import Candidate, SharingPlan
from sharetune.spaces.evaluator import JobResources
from sharetune.trainers.evaluation.recordings import kept_recording
from sharetune.trainers.models.compensation import Moments, Recorded
from tests.trainers.conftest import candidate, evaluated

Q, K, OUT = ("layers", 0, "q"), ("layers", 0, "k"), ("layers", 0, "o")


def recording():
    torch.manual_seed(0)
    whole, given = torch.randn(6, 3), torch.randn(4, 3)
    read = whole[:4]  # a view: what it leaves out is not kept
    return Recorded({Q: read, K: read, OUT: given}, {OUT: Moments.of(torch.randn(9, 3))})


def test_a_recording_is_made_once_and_read_back(tmp_path):
    path, made = tmp_path / "recorded" / "one.pt", []

    def record():
        made.append(recording())
        return made[-1]

    for _ in range(2):
        found = kept_recording(path, record)
        assert set(found) == {Q, K, OUT}
        assert all(torch.equal(found[key], made[0][key]) for key in found)
        assert found[Q] is found[K] and found[Q] is not found[OUT]
        kept, original = found.moments_at(OUT), made[0].moments_at(OUT)
        assert kept.tokens == 9 and torch.equal(kept.products, original.products)
    assert len(made) == 1
    assert len(found[Q].untyped_storage()) == 4 * 3 * 4


def test_a_recording_that_cannot_be_read_is_made_anew(tmp_path):
    path = tmp_path / "one.pt"
    kept_recording(path, recording)
    whole = path.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], b"no recording"):
        path.write_bytes(damaged)
        assert torch.equal(kept_recording(path, recording)[OUT], recording()[OUT])
        assert path.read_bytes() == whole


@pytest.mark.parametrize("scored", [True, False])
def test_what_scores_needed_serves_trainings(evaluator, tmp_path, scored):
    """Scores need moments of more tokens, which the same pass over the data gives."""
    cache = tmp_path / "cache"
    copytree(evaluator.task.cache, cache, ignore=ignore_patterns("recorded"))
    apart = replace(evaluator, task=replace(evaluator.task, cache=cache))
    tied = candidate(apart, SharingPlan.range(0, 1, 1.0), steps=1)
    if scored:
        apart.score(Candidate(plan=tied.plan, recipe=tied.recipe), JobResources())
    evaluated(apart, tied, tmp_path / "run")
    assert len(list((cache / "recorded").glob("*.pt"))) == 1
