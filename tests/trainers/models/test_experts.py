"""A mixture's experts are tied whole, each layer with a router of its own."""

import copy
import sys

import pytest
import torch

from sharetune.spaces import SharingPlan
from sharetune.spaces.errors import PlanError
from sharetune.trainers import load_shared, materialize_, share_
from sharetune.trainers.exports.base import export
from sharetune.trainers.measuring.counting import Counting
from sharetune.trainers.measuring.sizes import facts
from sharetune.trainers.models.sample_inputs import samples
from sharetune.trainers.models.structure import find_stacks
from tests.paths import ROOT
from tests.trainers.models.comparing import close, written

sys.path.insert(0, str(ROOT / "benchmarks"))
from tiny_models import answer, build

EXPERTS = {
    "deepseek_v3": ("layers[moe]", "mlp.experts"),
    "granitemoe": ("layers", "block_sparse_moe.experts"),
    "jamba": ("layers[mamba+moe]", "feed_forward.experts"),
    "llama4_text": ("layers[moe]", "feed_forward.experts"),
    "mixtral": ("layers", "mlp.experts"),
    "qwen3_moe": ("layers[moe]", "mlp.experts"),
    "qwen3_next": ("layers[linear]", "mlp.experts"),
}


def plan(stack, parts="experts", **rule):
    group = {"stack": stack, "layers": "all", "parts": parts, "init": "first", **rule}
    return SharingPlan.model_validate({"groups": [group]})


@pytest.mark.slow
@pytest.mark.parametrize("family", EXPERTS)
def test_tied_experts_compute_what_copies_of_the_first_layers_do(family, tmp_path):
    name, path = EXPERTS[family]
    model, copied = build(family), build(family)
    assert find_stacks(model)[name].experts == (path,)
    first, *others = find_stacks(copied)[name].layers
    for layer in others:
        layer.get_submodule(path).load_state_dict(first.get_submodule(path).state_dict())
    share_(model, plan(name))
    assert close(answer(model), answer(copied))
    assert not close(answer(model), answer(build(family)))
    assert written(model, use_cache=True) == written(model, use_cache=False)
    model.save_pretrained(tmp_path / "shared")
    assert close(answer(load_shared(tmp_path / "shared")), answer(model))
    assert sum("experts" in key for key, _ in model.named_parameters()) < sum(
        "experts" in key for key, _ in copied.named_parameters()
    )
    materialize_(model).save_pretrained(tmp_path / "dense")
    assert close(answer(type(model).from_pretrained(tmp_path / "dense").eval()), answer(copied))


@pytest.mark.parametrize("parts", ["experts", ["attention", "experts", "norms"]])
def test_what_is_counted_is_what_is_built(parts):
    model = build("qwen3_moe").to("meta")
    inputs = {name: value.to("meta") for name, value in samples(model)[0].items()}
    one = plan("layers[moe]", parts)
    counted = Counting(model, inputs).facts(one)
    assert counted == facts(model, share_(copy.deepcopy(model), one), inputs)


def test_a_mixture_of_three_layers_stores_its_experts_once():
    model = build("qwen3_moe")
    before = model.num_parameters()
    share_(model, plan("layers[moe]"))
    # 4 experts of two matrices 32 x 32 and one 32 x 32, no longer in two of three layers
    assert before - model.num_parameters() == 2 * 4 * 3 * 32 * 32


def test_a_bank_gets_the_gradients_of_all_its_readers():
    model, copied = build("qwen3_moe"), build("qwen3_moe")
    layers = find_stacks(copied)["layers[moe]"].layers
    for layer in layers[1:]:
        layer.mlp.experts.load_state_dict(layers[0].mlp.experts.state_dict())
    share_(model, plan("layers[moe]"))
    for one in (model, copied):
        one(**samples(one)[0]).logits.square().mean().backward()
    expected = sum(layer.mlp.experts.down_proj.grad for layer in layers)
    assert torch.allclose(model.banks[0].mlp_experts.down_proj.grad, expected, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("family", EXPERTS)
def test_code_builds_tied_experts(family, tmp_path):
    model = share_(build(family), plan(EXPERTS[family][0]))
    assert export(model, tmp_path / "code", "code").difference == 0.0


@pytest.mark.parametrize(
    ("stack", "rule", "message"),
    [
        (
            "layers[moe]",
            {"form": {"bank": {"ratio": 0.5}}},
            "experts can only be shared whole, but",
        ),
        (
            "layers[dense]",
            {},
            r"layers 0..1 of stack 'layers\[dense\]' cannot share experts, becaus",
        ),
    ],
)
def test_experts_are_shared_whole_or_not_at_all(stack, rule, message):
    with pytest.raises(PlanError, match=message):
        share_(build("qwen3_moe"), plan(stack, **rule))
