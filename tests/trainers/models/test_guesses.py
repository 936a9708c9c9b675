"""Guesses of a model's structure are checked by running it; unchecked ones are warned of."""

import copy

import pytest
import torch
from transformers import (
    BeitConfig,
    BitNetConfig,
    CodeGenConfig,
    GPT2Config,
    GPTNeoConfig,
    LongformerConfig,
    MambaConfig,
    MiniCPM3Config,
    MixtralConfig,
    PreTrainedModel,
    ProphetNetConfig,
)

from sharetune.spaces.errors import ModelError, PlanError
from sharetune.spaces.plan import SharingPlan
from sharetune.trainers import load_shared, materialize_, share_, share_params
from sharetune.trainers.models.permuting import movable_families
from sharetune.trainers.models.sample_inputs import samples
from sharetune.trainers.models.structure import find_stacks
from tests.families import tiny

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
LATENT = {"kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8}
IMAGE = {"image_size": 32, "patch_size": 8}
GPT2 = {"n_embd": 32, "n_layer": 4, "n_head": 4, "vocab_size": 64, "n_positions": 32, **SPECIAL}
DEEP = {"num_encoder_layers": 4, "num_decoder_layers": 4, "encoder_ffn_dim": 64}
DEEP |= {"num_encoder_attention_heads": 4, "num_decoder_attention_heads": 4, "decoder_ffn_dim": 64}
CONFIGS = {
    "CodeGenForCausalLM": CodeGenConfig(**GPT2, rotary_dim=4),
    "BitNetForCausalLM": BitNetConfig(**SIZES, **SPECIAL, num_key_value_heads=4),
    "MambaForCausalLM": MambaConfig(
        **{k: v for k, v in SIZES.items() if "att" not in k and k != "intermediate_size"},
        **SPECIAL,
        state_size=4,
        time_step_rank=4,
    ),
    "MixtralForCausalLM": MixtralConfig(
        **SIZES, **SPECIAL, num_key_value_heads=2, num_local_experts=4
    ),
    "GPTNeoForCausalLM": GPTNeoConfig(
        vocab_size=64,
        hidden_size=32,
        num_layers=4,
        num_heads=4,
        attention_types=[[["global", "local"], 2]],
        window_size=4,
        max_position_embeddings=32,
        bos_token_id=1,
        eos_token_id=2,
    ),
    "LongformerModel": LongformerConfig(
        **SIZES, max_position_embeddings=40, attention_window=[4] * 4, pad_token_id=0
    ),
    "BeitForImageClassification": BeitConfig(
        **{k: v for k, v in SIZES.items() if k != "vocab_size"}, **IMAGE
    ),
    "ProphetNetModel": ProphetNetConfig(
        vocab_size=64, hidden_size=32, **DEEP, decoder_start_token_id=1, pad_token_id=0
    ),
    "MiniCPM3ForCausalLM": MiniCPM3Config(
        **SIZES, **SPECIAL, **LATENT, num_key_value_heads=4, v_head_dim=8
    ),
    "GPT2LMHeadModel": GPT2Config(**GPT2, scale_attn_by_inverse_layer_idx=True),
}


def built(name: str) -> PreTrainedModel:
    """A model of a class of the library whose weights are all random."""
    import transformers

    torch.manual_seed(0)
    model = getattr(transformers, name)(copy.deepcopy(CONFIGS[name])).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.2)
    return model


def first_output(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        return model(**samples(model)[0])[0]


@pytest.mark.parametrize("name", ["CodeGenForCausalLM", "BitNetForCausalLM"])
def test_units_are_matched_only_where_the_model_stays_the_same(name):
    model = built(name)
    (stack,) = find_stacks(model).values()
    for layer in stack.layers:
        layer.load_state_dict(stack.layers[0].state_dict())
    before = first_output(model)
    assert torch.allclose(first_output(share_params(model, 0, 3, 0.5)), before, atol=1e-4)


def test_which_units_can_move(caplog):
    codegen, bitnet = built("CodeGenForCausalLM"), built("BitNetForCausalLM")
    weights = copy.deepcopy(bitnet.state_dict())
    assert movable_families(codegen, find_stacks(codegen)) == {("layers", "attn"), ("layers", "")}
    assert not caplog.messages
    assert movable_families(bitnet, find_stacks(bitnet)) == set()
    assert caplog.messages == [
        "heads of self_attn of stack layers of BitNetForCausalLM stay in place, because permuting "
        "them changes what it computes"
    ]
    assert all(torch.equal(tensor, weights[n]) for n, tensor in bitnet.state_dict().items())


def test_units_stay_in_place_where_nothing_can_be_checked(caplog):
    model = tiny("bert")
    model.forward = None  # no batch can be made up for it
    assert movable_families(model, find_stacks(model)) == set()
    assert "gives no answer to a made-up batch" in caplog.text


def test_units_that_others_count_on_are_not_removed():
    rule = {"layers": "all", "parts": ["attention"], "form": {"narrow": {"keep": 0.5}}}
    with pytest.raises(PlanError, match="the heads of stack 'layers' cannot be removed"):
        share_(built("BitNetForCausalLM"), SharingPlan.model_validate({"groups": [rule]}))


@pytest.mark.parametrize(
    "form", ["tie", {"bank": {"ratio": 0.5}}, {"lowrank": {"rank": 2}}], ids=str
)
@pytest.mark.parametrize("freeze", ["all", "weights", "one layer"])
def test_what_was_frozen_stays_frozen(form, freeze):
    model = tiny("bert")
    for name, parameter in model.bert.named_parameters():
        is_one = ".layer.1." in name if freeze == "one layer" else True
        parameter.requires_grad_(not is_one or (freeze == "weights" and name.endswith("bias")))
    rule = {"layers": "1..2", "parts": ["attention", "ffn", "norms"], "form": form}
    if form != "tie":
        rule["parts"] = ["attention", "ffn"]
    share_(model, SharingPlan.model_validate({"groups": [rule]}))
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    inside = {name for name in trained if name.startswith(("banks", "bert.encoder.layer.1."))}
    if freeze == "all":
        assert trained == {"classifier.weight", "classifier.bias"}
    elif freeze == "weights":
        assert inside and all(name.endswith("bias") for name in inside)
    else:  # a bank that one trained layer made is trained; what is private of the other is not
        assert all(name.startswith("banks") for name in inside) and inside
    materialize_(model)
    after = {name for name, p in model.named_parameters() if p.requires_grad}
    if freeze == "all":
        assert after == {"classifier.weight", "classifier.bias"}
    elif freeze == "weights":
        assert all(name.endswith("bias") for name in after - {"classifier.weight"})


def test_a_plan_that_would_share_nothing_is_refused():
    with pytest.raises(PlanError, match="'layers' has none of the parts .* of a known kind"):
        share_params(built("MambaForCausalLM"), 0, 3, 0.7)
    share_params(built("MambaForCausalLM"), 0, 3, 0)


def test_a_plan_names_only_the_parts_that_it_shares():
    model = share_params(built("MixtralForCausalLM"), 0, 3, 0.5)
    assert str(model.sharing.plan) == "layers 0..3 bank 0.3 attention from mean"
    with pytest.raises(
        PlanError, match=r"'layers' has none of the parts \['ffn'\] of a known kind"
    ):
        share_params(built("MixtralForCausalLM"), 0, 3, 0.5, parts="ffn")


def without(model: PreTrainedModel, layer: int) -> PreTrainedModel:
    plan = [{"stack": name, "layers": [layer], "form": "drop"} for name in find_stacks(model)]
    return share_(model, SharingPlan.model_validate({"groups": plan}))


@pytest.mark.parametrize(
    "name",
    ["GPTNeoForCausalLM", "LongformerModel", "BeitForImageClassification", "ProphetNetModel"],
)
def test_an_ordinary_model_of_fewer_layers_computes_the_same(name, tmp_path):
    model = without(built(name), 1)
    before = first_output(model)
    model.save_pretrained(tmp_path / "shared")
    assert torch.equal(first_output(load_shared(tmp_path / "shared")), before)
    materialize_(model).save_pretrained(tmp_path / "dense")
    loaded = type(model).from_pretrained(tmp_path / "dense").eval()
    assert torch.allclose(first_output(loaded), before, atol=1e-5)


@pytest.mark.parametrize("name", ["MiniCPM3ForCausalLM", "GPT2LMHeadModel"])
def test_a_depth_that_other_numbers_go_by_has_no_ordinary_model(name, tmp_path):
    model = without(built(name), 1)
    before = first_output(model)
    with pytest.raises(ModelError, match="no ordinary model of that depth: it computes something"):
        materialize_(model)
    assert torch.equal(first_output(model), before)
    model.save_pretrained(tmp_path)
    assert torch.equal(first_output(load_shared(tmp_path)), before)
