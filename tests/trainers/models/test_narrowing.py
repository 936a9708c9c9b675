"""Layers that keep some of their units, and layers that take the place of several."""

import copy

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from sharetune.spaces import SharingPlan
from sharetune.spaces.compression import Compression
from sharetune.spaces.errors import ModelError, PlanError
from sharetune.trainers import is_shared, load_shared, materialize_, share_
from sharetune.trainers.compression.importance import masked_logits
from sharetune.trainers.compression.steps import reshape_
from sharetune.trainers.exports.base import export
from sharetune.trainers.measuring.counting import Counting
from sharetune.trainers.measuring.sizes import forward_flops, parameters
from sharetune.trainers.models.calibration import record_activations
from sharetune.trainers.models.structure import find_stacks, stack_shapes
from tests.families import inputs, logits, tiny

CONFIG = LlamaConfig(
    hidden_size=72,
    num_hidden_layers=8,
    num_attention_heads=9,
    num_key_value_heads=3,
    intermediate_size=192,
    vocab_size=99,
    max_position_embeddings=40,
    tie_word_embeddings=True,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
)
"""SmolLM2's proportions: a KV group holds 4,608 parameters (q and o 1,728 each, k and v 576), a
neuron 216."""


def llama():
    torch.manual_seed(0)
    return LlamaForCausalLM(copy.deepcopy(CONFIG)).eval()


def plan(*groups):
    return SharingPlan.model_validate({"groups": list(groups)})


def narrow(layers, keep, *parts):
    return {"layers": layers, "parts": list(parts), "form": {"narrow": {"keep": keep}}}


def cut(model, activations=None):
    """Layer 1 keeps two of three KV groups, layers 1 and 2 half of their neurons, 3 a quarter."""
    groups = (narrow([1], 0.7, "attention"), narrow("1..2", 0.5, "ffn"), narrow([3], 0.25, "ffn"))
    return share_(model, plan(*groups), activations)


def loud(model):
    """The model with KV groups 0 and 2 and the last neurons of each layer far from zero."""
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight[:, :24] *= 100
            layer.self_attn.o_proj.weight[:, 48:] *= 100
            layer.mlp.down_proj.weight[:, 96:144] *= 10
            layer.mlp.down_proj.weight[:, 144:] *= 100
    return model


KEPT = {
    ("layers", 1, "self_attn"): torch.tensor([0, 2]),
    ("layers", 1, ""): torch.arange(96, 192),
    ("layers", 2, ""): torch.arange(96, 192),
    ("layers", 3, ""): torch.arange(144, 192),
}


def test_what_is_removed_is_gone():
    model = cut(llama())
    assert parameters([llama()]) == 450720
    # one KV group, 2 x 96 and 144 neurons fewer
    assert parameters([model]) == 450720 - 4608 - 41472 - 31104
    attention = model.model.layers[1].self_attn
    assert attention.q_proj.weight.shape == (48, 72)
    assert attention.k_proj.weight.shape == (16, 72)
    assert attention.o_proj.weight.shape == (72, 48)
    assert model.model.layers[3].mlp.down_proj.weight.shape == (72, 48)
    assert model.model.layers[3].mlp.gate_proj.out_features == 48
    shape = find_stacks(model)["layers"].shape
    assert shape.heads == (3, 2, 3, 3, 3, 3, 3, 3)
    assert shape.neurons == (192, 96, 96, 48, 192, 192, 192, 192)


def test_flops_fall_with_the_parameters():
    given = {"input_ids": torch.ones(1, 4, dtype=torch.long)}
    # two a parameter and token; a KV group's scores and mixtures take 2 * 2 * 4 * 4 * 24
    removed = 2 * 4 * (4608 + 41472 + 31104) + 1536
    eager = LlamaForCausalLM._from_config(copy.deepcopy(CONFIG), attn_implementation="eager")
    before = forward_flops(eager, given)
    assert before - forward_flops(cut(eager), given) == removed


def test_the_least_important_units_go_and_the_others_answer_as_before():
    model = loud(llama())
    expected = masked_logits(model, KEPT, inputs())
    assert torch.allclose(logits(cut(model)), expected, rtol=1e-5, atol=1e-4)


def test_units_that_are_silent_on_real_text_go_whatever_their_weights():
    model = llama()
    with torch.no_grad():
        for layer in model.model.layers:
            layer.mlp.up_proj.weight[:144] = 0
            layer.mlp.down_proj.weight[:, :144] *= 100
            layer.self_attn.v_proj.weight[8:16] = 0
            layer.self_attn.o_proj.weight[:, 24:48] *= 100
    expected, seen = logits(model), record_activations(model, [inputs()])
    by_weights = logits(cut(copy.deepcopy(model)))
    assert (by_weights - expected).abs().max() > 1e-3
    assert torch.allclose(logits(cut(model, seen)), expected, atol=1e-6)


def test_layers_that_keep_all_are_unshared():
    model = share_(llama(), plan(narrow("all", 1.0, "attention", "ffn")))
    assert model.sharing.plan == SharingPlan()
    assert torch.equal(logits(model), logits(llama()))


def test_a_part_that_other_weights_count_on_stays():
    with pytest.raises(PlanError, match="the heads of stack 'encoder' cannot be removed") as error:
        share_(tiny("t5"), plan({"stack": "encoder"} | narrow("all", 0.5, "attention", "ffn")))
    assert error.value.hint == "leave attention out of parts"


REST = (
    {"layers": "2..3", "form": "merge", "init": "first"},
    narrow([2], 0.7, "attention"),
    {"layers": [4], "form": "drop"},
    narrow("5..6", 0.25, "ffn"),
    {"layers": "5..6", "form": "tie", "assign": "each", "times": 2},
)
MIXTURES = {
    "bank": [narrow("0..1", 0.5, "ffn"), {"layers": "0..1", "form": {"bank": {"ratio": 0.5}}}],
    "tie": [{"layers": [0, 7], "parts": ["attention", "norms"]}, narrow([0], 0.5, "ffn")],
    "reuse": [{"layers": [0, 1, 7], "form": {"reuse": {"what": "kv"}}}, narrow([7], 0.5, "ffn")],
    "basis": [{"layers": [0, 1], "form": {"basis": {"rank": 40}}}],
    "lowrank": [{"layers": [0, 1], "form": {"lowrank": {"rank": 4, "heads": True}}}],
    "atoms": [
        narrow([0, 7], 0.34, "attention"),
        {"layers": [0, 7], "parts": ["attention"], "form": {"atoms": {"count": 1}}},
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize("form", MIXTURES)
def test_a_mixture_is_saved_counted_and_writes_with_its_cache(form, tmp_path):
    model = share_(llama(), plan(*REST, *MIXTURES[form]))
    model.save_pretrained(tmp_path)
    loaded = load_shared(tmp_path)
    assert torch.equal(logits(loaded), logits(model))
    assert loaded.sharing == model.sharing
    written = [
        model.generate(**inputs(), max_new_tokens=6, do_sample=False, use_cache=use_cache)
        for use_cache in (True, False)
    ]
    assert torch.equal(*written)
    with torch.device("meta"):
        eager = LlamaForCausalLM._from_config(copy.deepcopy(CONFIG), attn_implementation="eager")
    counting = Counting(eager, {"input_ids": torch.ones(1, 4, dtype=torch.long, device="meta")})
    found = counting.facts(model.sharing.plan)
    assert found == counting.built(model.sharing.plan)
    assert found["parameters"] == parameters([model])
    before = logits(model)
    dense = materialize_(model)
    assert torch.allclose(logits(dense), before, atol=1e-6)
    assert is_shared(dense) == (form == "reuse")


def test_a_dense_model_that_still_reuses_is_loaded_as_narrow_as_it_is(tmp_path):
    groups = (narrow([1, 2], 0.5, "ffn"), {"layers": [0, 2], "form": {"reuse": {"what": "kv"}}})
    drop = {"layers": [1], "form": "drop"}
    model = materialize_(share_(llama(), plan(narrow([2], 0.5, "ffn"), groups[1], drop)))
    model.save_pretrained(tmp_path)
    assert str(model.sharing.plan) == "layers 0..1 reuse kv; layers 1 narrow 0.5 ffn"
    assert torch.equal(logits(load_shared(tmp_path)), logits(model))


def test_a_narrowed_pair_shares_what_is_left():
    bank = {"layers": "1..2", "parts": ["ffn"], "form": {"bank": {"ratio": 0.5}}, "init": "first"}
    model = share_(llama(), plan(narrow("1..2", 0.5, "ffn"), bank))
    # 96 neurons are left of each, 48 of them from one bank
    assert model.banks[0]["mlp_down_proj"].weight.shape == (72, 48)
    assert parameters([model]) == 450720 - 2 * 96 * 216 - 48 * 216
    narrowed = share_(llama(), plan(narrow("1..2", 0.5, "ffn")))
    first, second = (m.model.layers[1].mlp for m in (narrowed, model))
    hidden = torch.randn(1, 3, 72, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(first(hidden), second(hidden), atol=1e-6)


def unequal():
    """A dense model whose FFNs have 192, 96 or 64 neurons, as another tool may have left it."""
    model = llama()
    for index, size in ((1, 96), (2, 96), (4, 64)):
        mlp = model.model.layers[index].mlp
        for name in ("gate_proj", "up_proj"):
            setattr(mlp, name, nn.Linear(72, size, bias=False))
        mlp.down_proj = nn.Linear(size, 72, bias=False)
    return model


def test_layers_of_unequal_width_are_a_stack():
    shape = stack_shapes(unequal())["layers"]
    assert (shape.depth, shape.heads) == (8, 3)
    assert shape.neurons == (192, 96, 96, 192, 64, 192, 192, 192)


def test_a_layer_of_another_shape_is_in_no_stack():
    model = llama()
    model.model.layers[3].mlp.down_proj = nn.Linear(192, 36, bias=False)
    found = {name: stack.places for name, stack in find_stacks(model).items()}
    assert found == {"layers[0]": (0, 1, 2, 4, 5, 6, 7)}


def test_layers_of_unequal_width_share_what_is_equal(tmp_path):
    tied = {"layers": "0..7", "parts": ["attention"], "form": "tie"}
    banked = {"layers": "1..2", "parts": ["ffn"], "form": {"bank": {"ratio": 0.5}}}
    model = share_(unequal(), plan(tied, banked, narrow([4], 0.5, "ffn")))
    before = parameters([unequal()])
    assert before - parameters([model]) == 7 * 13824 + 48 * 216 + 32 * 216
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(load_shared(tmp_path)), logits(model))


def test_layers_of_unequal_width_do_not_share_that_part():
    with pytest.raises(PlanError) as error:
        share_(unequal(), plan({"layers": "0..2", "form": {"bank": {"ratio": 0.5}}}))
    assert error.value.message == (
        "layers that share must be of one width, but layer 0 of stack 'layers' has 3 heads and "
        "192 neurons and layer 1 3 heads and 96 neurons"
    )


def test_units_of_a_narrowed_model_are_pruned_after_training(tmp_path):
    model = reshape_(cut(llama()), Compression(heads=0.34, neurons=0.5))
    shape = find_stacks(model)["layers"].shape
    assert shape.heads == 2
    assert shape.neurons == (96, 48, 48, 24, 96, 96, 96, 96)
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(load_shared(tmp_path)), logits(model))


def test_a_dense_export_fills_with_zeros(tmp_path):
    exported = export(cut(llama()), tmp_path / "out", "dense")
    assert exported.difference <= 1e-6
    assert exported.note == (
        "337 heads and neurons that were removed are zeros: its class has one width only."
    )
    loaded = LlamaForCausalLM.from_pretrained(tmp_path / "out")
    assert parameters([loaded]) == 450720
    assert torch.allclose(logits(loaded.eval()), logits(cut(llama())), atol=1e-5)


@pytest.mark.parametrize("family", ["gpt2", "gpt-neox", "bert", "bart"])
def test_fused_and_biased_matrices_are_filled_too(family, tmp_path):
    model = tiny(family)
    stack = next(iter(find_stacks(model)))
    share_(model, plan({"stack": stack} | narrow("0..1", 0.5, "attention", "ffn")))
    assert export(model, tmp_path / "out", "dense").difference <= 1e-5


def test_albert_has_one_width(tmp_path):
    model = share_(tiny("bert"), plan(narrow("all", 0.5, "ffn")))
    with pytest.raises(ModelError, match="ALBERT's layers are of one width, 4 heads and 96 neuro"):
        export(model, tmp_path / "out", "albert")


def merge(layers, **group):
    return {"layers": layers, "form": "merge"} | group


@pytest.mark.parametrize(
    ("init", "dropped"), [("first", (3, 4)), ("middle", (2, 4)), ("last", (2, 3))]
)
def test_a_merge_starts_from_one_layer_and_knows_its_span(init, dropped):
    model = share_(llama(), plan(merge("2..4", init=init)))
    (staying,) = {2, 3, 4} - set(dropped)
    assert model.sharing.plan.spans("layers") == {staying: (2, 3, 4)}
    assert model.sharing.orders == {"layers": (0, 1, staying, 5, 6, 7)}
    assert torch.equal(logits(model), logits(share_(llama(), SharingPlan.drop(dropped))))
    # two layers of 13,824, 41,472 and two norms
    assert parameters([model]) == 450720 - 2 * 55440


def test_a_merge_may_start_from_the_mean():
    model = share_(llama(), plan(merge("2..4", units="first")))
    own = [layer.mlp.up_proj.weight for layer in llama().model.layers[2:5]]
    assert torch.allclose(model.model.layers[2].mlp.up_proj.weight, sum(own) / 3)
    above = [m.model.layers[i].mlp.up_proj.weight for m, i in ((model, 3), (llama(), 5))]
    assert torch.equal(*above)


def test_units_are_matched_before_their_mean_is_taken():
    model = llama()
    layers = model.model.layers
    layers[3].load_state_dict(layers[2].state_dict())
    order = torch.randperm(192, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for name in ("gate_proj", "up_proj"):
            weight = getattr(layers[3].mlp, name).weight
            weight.copy_(weight[order])
        layers[3].mlp.down_proj.weight.copy_(layers[3].mlp.down_proj.weight[:, order])
    expected = logits(share_(copy.deepcopy(model), SharingPlan.drop([3])))
    assert torch.allclose(logits(share_(model, plan(merge("2..3")))), expected, atol=1e-6)


def test_unlike_layers_have_no_mean():
    with pytest.raises(PlanError, match=r"layers 0..1 of stack 'layers' have no mean, because not"):
        share_(unequal(), plan(merge("0..1")))
    assert share_(unequal(), plan(merge("0..1", init="last"))).sharing.plan.groups


def test_merges_of_pairs_are_one_group():
    model = share_(llama(), plan(merge("2..7", assign={"sequence": 3}, init="last")))
    assert model.sharing.plan.spans("layers") == {3: (2, 3), 5: (4, 5), 7: (6, 7)}
