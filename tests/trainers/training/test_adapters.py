"""`trains: adapters`: LoRA on what is a layer's own, low-rank matrices of readers, nothing else."""

import multiprocessing

import pytest
import torch
from transformers import TrainerCallback

from sharetune.spaces import Candidate, Recipe, SharingPlan
from sharetune.spaces.compression import Compression
from sharetune.spaces.errors import CandidateFault, ConfigError
from sharetune.trainers import load_shared
from sharetune.trainers.models.sample_inputs import samples
from sharetune.trainers.models.sharing import materialize_, share_
from sharetune.trainers.models.structure import stack_shapes
from sharetune.trainers.training import arguments
from sharetune.trainers.training.adapters import adapted, trained_alone
from sharetune.trainers.training.data_parallel import follow, joined, lead
from sharetune.trainers.training.trainer import TrainingInputs, train
from tests.families import tiny
from tests.trainers.conftest import candidate, evaluated, saved
from tests.trainers.training.gradients import padded, shared, texts
from tests.trainers.training.test_resuming import Died, dying_at

HOST = "127.0.0.1"
LOWRANK = SharingPlan.from_yaml("groups: [{layers: 1..2, form: {lowrank: {rank: 2}}}]")
ADAPTERS = {"trains": "adapters", "adapter_rank": 3, "steps": 8}


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert", "t5"])
def test_merged_adapters_compute_the_same_and_leave_nothing_behind(family):
    pytest.importorskip("peft")
    torch.manual_seed(0)
    model = tiny(family).eval()
    stack = next(iter(stack_shapes(model)))
    text = f"groups: [{{stack: {stack}, layers: 1..2, form: {{lowrank: {{rank: 2}}}}}}]"
    share_(model, SharingPlan.from_yaml(text).bound(stack_shapes(model)))
    attributes, start = set(vars(model)), state(model)
    with adapted(model, 3) as left:
        kept = {id(parameter) for parameter in left}
        for parameter in model.parameters():
            if id(parameter) not in kept:
                parameter.data.add_(0.05 * torch.randn_like(parameter))
        before = output(model)
    assert torch.allclose(output(model), before, atol=1e-5)
    assert not torch.allclose(before, output(restored(model, start)), atol=1e-3)
    assert set(vars(model)) == attributes
    assert all(parameter.requires_grad for parameter in model.parameters())


def output(model):
    with torch.no_grad():
        return model(**samples(model)[0])[0]


def state(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def restored(model, start):
    """The model with the parameters of `start`, which must be all that it has."""
    assert list(dict(model.named_parameters())) == list(start)
    for name, parameter in model.named_parameters():
        parameter.data.copy_(start[name])
    return model


def test_readers_and_own_matrices_change_by_low_ranks_and_all_else_stays(evaluator, tmp_path):
    pytest.importorskip("peft")
    wanted = candidate(evaluator, LOWRANK, **ADAPTERS)
    found = evaluated(evaluator, wanted, tmp_path)
    assert len(found.curve) == 8
    model = load_shared(saved(tmp_path))
    assert evaluator.sizes(wanted)["parameters"] == sum(p.numel() for p in model.parameters())
    start = dict(share_(evaluator.task.load(), wanted.plan).named_parameters())
    changes = {
        name: p - start[name]
        for name, p in model.named_parameters()
        if not name.startswith("classifier") and not torch.equal(p, start[name])
    }
    readers = {name for name in changes if name.endswith((".up.weight", ".down.weight"))}
    assert len(readers) == 2 * 2 * 6  # two layers of six matrices
    own = {name: change for name, change in changes.items() if name not in readers}
    assert len(own) == 2 * 6
    assert all("layer.0." in name or "layer.3." in name for name in own)
    for change in own.values():
        assert torch.linalg.matrix_rank(change, rtol=1e-3) == 3
    scores = evaluator.task.scores(materialize_(model), evaluator.task.splits(12, None)[1])
    for name, value in found.scores.metrics.items():
        assert scores.metrics[name] == pytest.approx(value, abs=1e-5)


def test_the_last_layer_that_is_left_has_adapters(evaluator, tmp_path):
    pytest.importorskip("peft")
    wanted = candidate(evaluator, SharingPlan.drop([0, 1, 2]), **ADAPTERS)
    evaluated(evaluator, wanted, tmp_path)
    found = dict(load_shared(saved(tmp_path)).named_parameters())
    start = dict(share_(evaluator.task.load(), wanted.plan).named_parameters())
    moved = [name for name in start if not torch.equal(start[name], found[name])]
    assert len([name for name in moved if "encoder.layer.0." in name]) == 6
    assert all(name.startswith(("bert.encoder.layer.0.", "classifier")) for name in moved)


@pytest.mark.slow
def test_a_training_of_adapters_that_died_goes_on(evaluator, tmp_path):
    pytest.importorskip("peft")
    wanted = candidate(evaluator, LOWRANK, **ADAPTERS)
    whole = evaluated(evaluator, wanted, tmp_path / "whole")
    with pytest.raises(Died):
        evaluated(evaluator, wanted, tmp_path / "cut", beat=dying_at(5), checkpoint_s=0.0)
    again = evaluated(evaluator, wanted, tmp_path / "cut", checkpoint_s=0.0)
    assert again.circumstances["continued_at"] == [4]
    assert (again.scores, again.curve) == (whole.scores, whole.curve)


@pytest.mark.parametrize(
    ("plan", "compression", "what"),
    [
        (SharingPlan.range(1, 2, 0.5), Compression(), "the form bank"),
        (SharingPlan.range(1, 2, 1.0), Compression(), "the form tie"),
        (LOWRANK, Compression(magnitude=0.2, recover=0.5), "compression.recover"),
    ],
)
def test_what_has_no_place_for_an_adapter_is_refused(
    evaluator, tmp_path, monkeypatch, plan, compression, what
):
    monkeypatch.setattr(arguments, "find_spec", lambda name: name)
    wanted = candidate(evaluator, plan, **ADAPTERS).model_copy(update={"compression": compression})
    with pytest.raises(ConfigError, match=f"no place for those of a layer with {what}"):
        evaluator.refuse([wanted])
    with pytest.raises(CandidateFault, match=f"adapters have no place with {what}"):
        evaluated(evaluator, wanted, tmp_path)


def test_without_the_package_they_are_refused_at_the_start(evaluator, monkeypatch):
    monkeypatch.setattr(arguments, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="trains: adapters needs the package peft") as caught:
        evaluator.refuse([candidate(evaluator, LOWRANK, **ADAPTERS)])
    assert "sharetune[peft]" in caught.value.hint


def test_soft_layers_have_none_and_a_rank_without_adapters_says_nothing(evaluator):
    with pytest.raises(ConfigError, match="adapters are of weights that are hard from the start"):
        Recipe(trains="adapters", soften="interpolate")
    ranked = Candidate(recipe=Recipe(steps=2, adapter_rank=4)).bound(evaluator.stacks)
    assert ranked == Candidate(recipe=Recipe(steps=2)).bound(evaluator.stacks)


def losses_of_adapters():
    settings = {"steps": 8, "batch_size": 4, "learning_rate": 3e-3, "dropout": 0.0}
    recipe = Recipe.model_validate(settings | {"trains": "adapters"})
    torch.manual_seed(0)
    model, kept = shared("llama", LOWRANK), Losses()
    with trained_alone(model, recipe, None) as left:
        rows = texts(labelled=False)[:5]
        inputs = TrainingInputs(rows, padded, recipe.steps, callbacks=[kept], frozen=left)
        train(model, recipe, inputs)
    return kept.seen


class Losses(TrainerCallback):
    """Keeps the loss of every step, unrounded."""

    def __init__(self):
        self.seen = []

    def on_log(self, args, state, control, logs=None, **_):
        self.seen += [logs["loss"]] if "loss" in (logs or {}) else []


def run(rank, port, told):
    torch.set_num_threads(1)
    team = lead(2, HOST) if rank == 0 else follow(2, rank, HOST, port.get(timeout=300))
    if rank == 0:
        port.put(team.store.port)
    with joined(team):
        told.put(losses_of_adapters())


@pytest.mark.slow
def test_two_processes_train_adapters_as_one_does():
    pytest.importorskip("peft")
    spawn = multiprocessing.get_context("spawn")
    port, told = spawn.Queue(), spawn.Queue()
    members = [spawn.Process(target=run, args=(rank, port, told)) for rank in range(2)]
    for member in members:
        member.start()
    found = [told.get(timeout=300) for _ in members]
    for member in members:
        member.join(60)
    alone = losses_of_adapters()
    assert len(alone) == 8 and max(alone) - min(alone) > 0.01
    assert found == [pytest.approx(alone, abs=1e-5)] * 2
