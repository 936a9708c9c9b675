"""Several processes train one candidate as one process does with the whole batch."""

import multiprocessing
import os
import signal
import traceback
from dataclasses import replace

import pytest
import safetensors.torch
import torch

from sharetune.spaces import Recipe, SharingPlan
from sharetune.spaces.compression import Compression
from sharetune.spaces.errors import CandidateFault, StoppedAtRung
from sharetune.spaces.evaluator import Job, JobResources
from sharetune.spaces.run_folder import RunFolder
from sharetune.trainers.loading import load_shared
from sharetune.trainers.training.data_parallel import follow, lead
from sharetune.trainers.training.trainer import CandidateTrainer
from tests.trainers.conftest import Listening, candidate, saved

pytestmark = pytest.mark.slow
HOST = "127.0.0.1"
# one that loads the libraries once: a process that has trained cannot be forked
servers = multiprocessing.get_context("forkserver")
servers.set_forkserver_preload([__name__])


def given(evaluator, compression=None, **part):
    """A candidate without dropout, whose batches of 14 are parted unevenly at an epoch's end."""
    part = {key: getattr(Recipe(**part), key) for key in part}
    settings = {"steps": 8, "dropout": 0.0, "batch_size": 14, "warmup_ratio": 0.0} | part
    found = candidate(evaluator, SharingPlan.range(0, 3, 0.5), **settings)
    return found.model_copy(update={"compression": compression or Compression()})


def die_at(step):
    """Let this process be killed when it begins a step of a training, counted from 1."""
    begun, real = [], CandidateTrainer.training_step

    def deadly(*given):
        begun.append(1)
        if len(begun) == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*given)

    CandidateTrainer.training_step = deadly


def assist(evaluator, job, resources, rank, size, port, told, dies):
    if dies:
        die_at(dies)
    try:
        team = follow(size, rank, HOST, port)
        evaluator.assist(job, replace(resources, team=team))
        told.put("")
    except BaseException:
        told.put(traceback.format_exc())


def trained(evaluator, what, folder, *, size=2, rungs=(), report=None, dies=None, **given):
    """What a leader of `size` finds, or raises, and what the others said at their end."""
    told, resources = servers.Queue(), JobResources(**given)
    job = Job(0, what, RunFolder(folder).trial(0), rungs)
    team = lead(size, HOST) if size > 1 else None
    others = []
    for rank in range(1, size):
        asked = (evaluator, job, resources, rank, size, team.store.port, told, dies)
        others.append(servers.Process(target=assist, args=asked))
        others[-1].start()
    try:
        leading = replace(resources, team=team)
        found = evaluator.evaluate(job, leading, Listening(report))
    except StoppedAtRung as stop:
        found = stop
    return found, [told.get(timeout=300) for _ in others]


def losses(found):
    return [loss for _, loss in found.curve]


def assert_alike(evaluator, what, folder, size=2, **given):
    alone, _ = trained(evaluator, what, folder / "alone", size=1)
    together, said = trained(evaluator, what, folder / "together", size=size, **given)
    assert said == [""] * (size - 1)
    assert losses(together) == pytest.approx(losses(alone), abs=1e-4)
    assert max(losses(alone)) - min(losses(alone)) > 0.005
    pairs = zip(
        load_shared(saved(folder / "alone")).parameters(),
        load_shared(saved(folder / "together")).parameters(),
        strict=True,
    )
    assert all(torch.allclose(one, two, atol=2e-3) for one, two in pairs)


def test_two_processes_learn_as_one_with_the_whole_batch(evaluator, tmp_path):
    """Also with what DistributedDataParallel refuses: a penalty on weights that the forward pass
    does not read. Layers are exchanged half-way."""
    what = given(evaluator, soften="pull", pull=1.0, bank_l2=1e-4)
    assert_alike(evaluator, what, tmp_path)


@pytest.mark.parametrize(
    "part",
    [
        {"distill": {"hidden": 1.0, "relations": 1.0}},
        {"r_drop": 1.0, "adversary": "pgd"},
        {"adversary": {"freelb": {"start": 0.0}}, "label_smoothing": 0.1},
        {"patience": 2, "augment": {"swap": 0.2}},
    ],
    ids=lambda part: "+".join(part),
)
def test_every_part_is_trained_together(evaluator, tmp_path, part):
    assert_alike(evaluator, given(evaluator, **part), tmp_path)


def test_three_prune_and_recover_together(evaluator, tmp_path):
    what = given(evaluator, Compression(heads=0.5, magnitude=0.2, recover=0.5), bank_lr_rule="sqrt")
    assert_alike(evaluator, what, tmp_path, size=3)


def test_all_stop_at_the_rung_where_the_leader_is_stopped(evaluator, tmp_path):
    seen = []

    def report(rung, metrics):
        seen.append((rung, metrics["step"], "accuracy" in metrics))
        return rung < 1

    found, said = trained(evaluator, given(evaluator), tmp_path, rungs=(0.25, 0.5), report=report)
    assert seen == [(0, 2, True), (1, 4, True)]
    assert isinstance(found, StoppedAtRung)
    assert said[0].strip().endswith("StoppedAtRung: stopped at rung 1, step 4")


def test_batches_in_parts_are_the_same(evaluator, tmp_path):
    whole, _ = trained(evaluator, given(evaluator), tmp_path / "1", size=1)
    parts, said = trained(evaluator, given(evaluator), tmp_path / "2", accumulation=2)
    assert said == [""]
    assert losses(parts)[0] == pytest.approx(losses(whole)[0], abs=1e-4)


def test_members_draw_different_dropout(evaluator, tmp_path):
    what = given(evaluator, dropout=0.5, steps=2)
    one, two = (trained(evaluator, what, tmp_path / name)[0] for name in "ab")
    alone, _ = trained(evaluator, what, tmp_path / "c", size=1)
    assert losses(one) == losses(two) != losses(alone)


@pytest.mark.parametrize("shard", [False, True], ids=["copies", "shards"])
@pytest.mark.parametrize("part", [{}, {"patience": 9, "dropout": 0.1}], ids=str)
def test_a_team_that_lost_a_member_goes_on_from_its_checkpoint(evaluator, tmp_path, part, shard):
    """Bit for bit as one that lost none, rungs told again and each member's dropout included."""
    seen = []

    def report(rung, metrics):
        seen.append((rung, metrics["step"]))
        return True

    what = given(evaluator, **part)
    told = {"rungs": (0.25,), "report": report, "shard": shard}
    whole, _ = trained(evaluator, what, tmp_path / "whole", **told)
    kept = told | {"checkpoint_s": 0.0}
    with pytest.raises(RuntimeError):
        trained(evaluator, what, tmp_path / "cut", dies=6, **kept)
    again, said = trained(evaluator, what, tmp_path / "cut", **kept)
    assert said == [""]
    assert again.circumstances["continued_at"] == [5]
    assert (again.scores, again.curve) == (whole.scores, whole.curve)
    assert seen == [(0, 2)] * 3
    models = [load_shared(saved(tmp_path / name)) for name in ("whole", "cut")]
    weights = [torch.cat([p.flatten() for p in model.parameters()]) for model in models]
    assert torch.equal(*weights)


@pytest.mark.parametrize(
    "part",
    [
        {"distill": {"hidden": 1.0, "relations": 1.0}, "layer_lr_decay": 0.9},
        {"adversary": {"freelb": {"start": 0.0}}, "gradient_checkpointing": True},
        {"soften": "untie", "r_drop": 1.0},
        {"trains": "shared", "label_smoothing": 0.1},
        {"soften": "interpolate", "bank_l2_start": 0.01, "patience": 2, "micro_batch": "auto"},
    ],
    ids=lambda part: "+".join(part),
)
def test_every_part_is_trained_sharded(evaluator, tmp_path, part):
    assert_alike(evaluator, given(evaluator, **part), tmp_path, shard=True)


def test_a_sharded_team_saves_each_bank_once(evaluator, tmp_path):
    """The file has the names, shapes and size that one process writes, and no other copy."""
    what = given(evaluator)
    alone, _ = trained(evaluator, what, tmp_path / "alone", size=1)
    together, _ = trained(evaluator, what, tmp_path / "together", shard=True)
    files = [saved(tmp_path / name) / "model.safetensors" for name in ("alone", "together")]
    one, two = (safetensors.torch.load_file(file) for file in files)
    assert {n: t.shape for n, t in one.items()} == {n: t.shape for n, t in two.items()}
    banks = [name for name in two if name.startswith("banks.")]
    assert len(banks) == 6  # of q, k, v, o and the FFN's two
    assert files[0].stat().st_size == files[1].stat().st_size == evaluator.sizes(what)["bytes"]
    assert "sharded" not in alone.circumstances
    assert together.circumstances["sharded"] is True


def test_what_cannot_be_sharded_is_the_candidates_fault(evaluator, tmp_path):
    for part in ({"optimizer": "adafactor"}, {"soften": "replace"}):
        with pytest.raises(CandidateFault, match="cannot be sharded"):
            trained(evaluator, given(evaluator, **part), tmp_path, size=1, shard=True)
