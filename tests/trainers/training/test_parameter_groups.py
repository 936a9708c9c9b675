"""Which parameter learns at which rate."""

import pytest

from sharetune.spaces import Recipe, SharingPlan
from sharetune.trainers import share_
from sharetune.trainers.training.parameter_groups import (
    LR_RULES,
    bank_readers,
    distances,
    lr_factors,
    parameter_groups,
)
from tests.families import tiny

BANK = "banks.0.attention_self_query.weight"
OWN = "bert.encoder.layer.5.attention.self.query.weight"
HEAD = "classifier.weight"


def shared(first=1, last=4):
    return share_(tiny("bert"), SharingPlan.range(first, last, 1.0))


def test_without_factors_there_are_matrices_and_vectors():
    model = shared()
    groups = parameter_groups(model, Recipe(learning_rate=1e-3, weight_decay=0.5))
    assert [(g["lr"], g["weight_decay"]) for g in groups] == [(1e-3, 0.5), (1e-3, 0.0)]
    assert sum(len(g["params"]) for g in groups) == len(list(model.parameters()))


def test_kept_top_layers_learn_at_their_own_rate():
    model = tiny("bert")
    recipe = Recipe(learning_rate=1e-3, kept_top=1, kept_top_lr_scale=0.1, weight_decay=0.5)
    found = {
        (round(g["lr"], 9), g["weight_decay"]): sum(p.numel() for p in g["params"])
        for g in parameter_groups(model, recipe)
    }
    # one layer: 4 * 48 * 48 + 2 * 48 * 96 in matrices; biases 4 * 48 + 96 + 48, norms 4 * 48
    assert found[1e-4, 0.5] == 18432
    assert found[1e-4, 0.0] == 528
    assert sum(found.values()) == sum(p.numel() for p in model.parameters())


def test_a_bank_is_read_by_every_layer_of_its_group():
    assert bank_readers(shared(1, 4))[BANK] == 4
    assert bank_readers(shared(0, 5))[BANK] == 6
    soft = share_(tiny("bert"), SharingPlan.range(1, 4, 1.0), schedule="interpolate")
    assert bank_readers(soft)[BANK] == 4


@pytest.mark.parametrize(("rule", "factor"), [("none", 1.0), ("sqrt", 0.5), ("readers", 0.25)])
def test_a_banks_rate_goes_by_its_readers(rule, factor):
    # four readers
    factors = lr_factors(shared(), Recipe(bank_lr_rule=rule))
    assert factors.get(BANK, 1.0) == factor
    assert OWN not in factors


def test_every_rule_of_the_recipe_is_registered():
    assert list(LR_RULES) == ["none", "sqrt", "readers"]


def test_factors_multiply():
    recipe = Recipe(
        bank_lr_rule="sqrt", bank_lr_scale=0.2, head_lr_scale=10.0, layer_lr_decay=0.5, kept_top=1
    )
    factors = lr_factors(shared(2, 3), recipe)
    # readers at 4 and 3 layers from the head: 0.2 / sqrt(2) * 0.5 ** 3.5
    assert factors[BANK] == pytest.approx(0.0125)
    assert factors[OWN] == 0.5
    assert factors["bert.encoder.layer.0.attention.self.query.weight"] == 0.5**6
    assert factors["bert.embeddings.word_embeddings.weight"] == 0.5**7
    assert factors["bert.pooler.dense.weight"] == 1.0
    assert factors[HEAD] == 10.0


def test_both_stacks_of_an_encoder_decoder_count_to_their_own_top():
    found = distances(tiny("bart"))  # four layers and three
    assert found["model.encoder.layers.0.fc1.weight"] == 4
    assert found["model.encoder.layers.3.fc1.weight"] == 1
    assert found["model.decoder.layers.0.fc1.weight"] == 3
    assert found["model.decoder.embed_positions.weight"] == 4
