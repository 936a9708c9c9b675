"""Several processes train one candidate as one process does with the whole batch."""

import multiprocessing
import traceback

import pytest
import torch

from sharetune.spaces import Recipe, SharingPlan
from sharetune.spaces.compression import Compression
from sharetune.spaces.errors import StoppedAtRung
from sharetune.trainers.loading import load_shared
from sharetune.trainers.training.data_parallel import follow, lead
from tests.trainers.conftest import candidate

HOST = "127.0.0.1"
fork = multiprocessing.get_context("fork")  # what is loaded here need not be loaded again


def given(facts, compression=None, **part):
    """A candidate without dropout, whose batches of 14 are parted unevenly at an epoch's end."""
    part = {key: getattr(Recipe(**part), key) for key in part}
    settings = {"steps": 8, "dropout": 0.0, "batch_size": 14, "warmup_ratio": 0.0} | part
    found = candidate(facts, SharingPlan.range(0, 3, 0.5), **settings)
    return found.model_copy(update={"compression": compression or Compression()})


def assist(trainee, what, facts, rank, size, port, options, told):
    try:
        trainee.assist(what, facts, team=follow(size, rank, HOST, port), **options)
        told.put("")
    except BaseException:
        told.put(traceback.format_exc())


def trained(trainee, what, facts, folder, *, size=2, rungs=(), report=None, accumulation=1):
    """What a leader of `size` finds, or raises, and what the others said at their end."""
    options, told = {"rungs": rungs, "accumulation": accumulation}, fork.Queue()
    team = lead(size, HOST) if size > 1 else None
    others = []
    for rank in range(1, size):
        asked = (trainee, what, facts, rank, size, team.store.port, options, told)
        others.append(fork.Process(target=assist, args=asked))
        others[-1].start()
    try:
        found = trainee.evaluate(what, facts, save_to=folder, team=team, report=report, **options)
    except StoppedAtRung as stop:
        found = stop
    return found, [told.get(timeout=60) for _ in others]


def losses(found):
    return [loss for _, loss in found["curve"]]


def assert_alike(trainee, what, facts, folder, size=2):
    alone, _ = trained(trainee, what, facts, folder / "alone", size=1)
    together, said = trained(trainee, what, facts, folder / "together", size=size)
    assert said == [""] * (size - 1)
    assert losses(together) == pytest.approx(losses(alone), abs=1e-4)
    assert max(losses(alone)) - min(losses(alone)) > 0.005
    pairs = zip(
        load_shared(folder / "alone").parameters(),
        load_shared(folder / "together").parameters(),
        strict=True,
    )
    assert all(torch.allclose(one, two, atol=2e-3) for one, two in pairs)


def test_two_processes_learn_as_one_with_the_whole_batch(trainee, facts, tmp_path):
    """Also with what DistributedDataParallel refuses: a penalty on weights that the forward pass
    does not read. Layers are exchanged half-way."""
    what = given(facts, soften="pull", pull=1.0, bank_l2=1e-4)
    assert_alike(trainee, what, facts, tmp_path)


@pytest.mark.slow
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
def test_every_part_is_trained_together(trainee, facts, tmp_path, part):
    assert_alike(trainee, given(facts, **part), facts, tmp_path)


@pytest.mark.slow
def test_three_prune_and_recover_together(trainee, facts, tmp_path):
    what = given(facts, Compression(heads=0.5, magnitude=0.2, recover=0.5), bank_lr_rule="sqrt")
    assert_alike(trainee, what, facts, tmp_path, size=3)


def test_all_stop_at_the_rung_where_the_leader_is_stopped(trainee, facts, tmp_path):
    seen = []

    def report(rung, metrics):
        seen.append((rung, metrics["step"], "accuracy" in metrics))
        return rung < 1

    found, said = trained(trainee, given(facts), facts, tmp_path, rungs=(0.25, 0.5), report=report)
    assert seen == [(0, 2, True), (1, 4, True)]
    assert isinstance(found, StoppedAtRung)
    assert said[0].strip().endswith("StoppedAtRung: stopped at rung 1, step 4")


@pytest.mark.slow
def test_batches_in_parts_are_the_same(trainee, facts, tmp_path):
    whole, _ = trained(trainee, given(facts), facts, tmp_path / "1", size=1)
    parts, said = trained(trainee, given(facts), facts, tmp_path / "2", accumulation=2)
    assert said == [""]
    assert losses(parts)[0] == pytest.approx(losses(whole)[0], abs=1e-4)


@pytest.mark.slow
def test_members_draw_different_dropout(trainee, facts, tmp_path):
    what = given(facts, dropout=0.5, steps=2)
    one, two = (trained(trainee, what, facts, tmp_path / name)[0] for name in "ab")
    alone, _ = trained(trainee, what, facts, tmp_path / "c", size=1)
    assert losses(one) == losses(two) != losses(alone)
