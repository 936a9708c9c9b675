"""Two processes have the loss curve of one with the whole batch, whatever a plan shares."""

import multiprocessing
from dataclasses import dataclass, field, replace

import pytest
import torch
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback

from sharetune.spaces import Recipe, SharingPlan
from sharetune.spaces.forms import LowRank
from sharetune.spaces.group import Group
from sharetune.trainers.training.data_parallel import follow, joined, lead
from sharetune.trainers.training.trainer import TrainingInputs, train
from tests.trainers.training.gradients import padded, shared, texts

HOST = "127.0.0.1"
ENGINES = ["copies", "shards"]
WHOLE = SharingPlan.range(0, 3, 1.0)
LOW_RANK = SharingPlan(groups=(Group(layers="0..3", form=LowRank(rank=2)),))
CASES = {
    "tie": (WHOLE, {}),
    "bank": (SharingPlan.range(0, 3, 0.5), {}),
    "lowrank": (LOW_RANK, {"bank_l2": 0.01}),
    "pull": (WHOLE, {"soften": "pull", "pull": 1.0, "soften_until": 0.5}),
    "adversary": (SharingPlan.range(0, 3, 0.5), {"adversary": "pgd", "micro_batch": 4}),
    "recomputed": (WHOLE, {"gradient_checkpointing": True}),
    "parts": (LOW_RANK, {"r_drop": 1.0, "micro_batch": 2}),
}


@dataclass
class Losses(TrainerCallback):
    """Keeps the loss of every step, unrounded, and how many numbers this process `held`.

    These are of all weights, of the banks, and of AdamW's moments."""

    seen: list[float] = field(default_factory=list)
    held: tuple[int, int, int] = (0, 0, 0)

    def on_step_end(self, args, state, control, model=None, optimizer=None, **_):
        moments = [t for s in optimizer.state.values() for t in s.values() if t.dim()]
        kinds = (model.parameters(), model.banks.parameters(), moments)
        self.held = tuple(sum(own(tensor).numel() for tensor in kind) for kind in kinds)

    def on_log(self, args, state, control, logs=None, **_):
        self.seen += [logs["loss"]] if "loss" in (logs or {}) else []


def own(tensor):
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def losses(case, engine="copies"):
    return trained(case, engine).seen


def trained(case, engine="copies"):
    """The losses of a causal model on texts of unlike numbers of tokens that count, one none."""
    plan, part = CASES[case]
    settings = {"steps": 8, "batch_size": 4, "learning_rate": 3e-4, "warmup_ratio": 0.0}
    recipe = Recipe.model_validate(settings | {"dropout": 0.0} | part)
    torch.manual_seed(0)
    model, kept = shared("llama", plan, schedule=recipe.soften), Losses()
    rows = texts(labelled=False)[:5]  # an epoch's second batch has one, and a member none
    inputs = TrainingInputs(rows, padded, recipe.steps, callbacks=[kept])
    train(model, recipe, replace(inputs, sharded=engine == "shards"))
    return kept


def run(rank, port, told):
    torch.set_num_threads(1)
    for case in CASES:
        for engine in ENGINES:
            team = lead(2, HOST) if rank == 0 else follow(2, rank, HOST, port.get(timeout=300))
            if rank == 0:
                port.put(team.store.port)
            with joined(team):
                kept = trained(case, engine)
                told.put((case, engine, rank, kept.seen, kept.held))


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_a_team_of_one_has_the_curve_of_a_process_alone(engine):
    """Through all that a larger team goes through, here and, below, on a GPU."""
    with joined(lead(1, HOST)):
        found = losses("lowrank", engine)
    assert found == pytest.approx(losses("lowrank"), abs=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("case", CASES)
def test_a_team_of_one_has_it_on_a_gpu(engine, case):
    with joined(lead(1, HOST)):
        found = losses(case, engine)
    assert found == pytest.approx(losses(case), abs=1e-4)


@pytest.fixture(scope="module")
def together():
    """The losses of both processes by case and engine, and the numbers that they held."""
    spawn = multiprocessing.get_context("spawn")
    port, told = spawn.Queue(), spawn.Queue()
    members = [spawn.Process(target=run, args=(rank, port, told)) for rank in range(2)]
    for member in members:
        member.start()
    found = {}
    for _ in range(2 * len(CASES) * len(ENGINES)):
        case, engine, rank, *kept = told.get(timeout=300)
        found[case, engine, rank] = kept
    for member in members:
        member.join(60)
    assert [member.exitcode for member in members] == [0, 0]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("case", CASES)
def test_two_processes_have_the_curve_of_one(together, case, engine):
    alone = losses(case)
    assert len(alone) == 8
    assert max(alone) - min(alone) > 0.01
    assert together[case, engine, 0][0] == together[case, engine, 1][0]
    assert together[case, engine, 0][0] == pytest.approx(alone, abs=1e-5)


@pytest.mark.slow
def test_only_shards_divide_weights_banks_and_moments(together):
    alone = trained("bank").held
    assert min(alone) > 0
    copies, shards = ([together["bank", e, rank][1] for rank in range(2)] for e in ENGINES)
    assert copies == [alone, alone]
    assert tuple(map(sum, zip(*shards, strict=True))) == alone
    assert all(1.9 * part < total for part, total in zip(shards[0], alone, strict=True))
