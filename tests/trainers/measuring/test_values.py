"""Models that look at values, or are made in odd ways, are counted, or one error names them."""

import copy

import pytest
import torch
from transformers import (
    LongformerConfig,
    LongformerModel,
    MixtralConfig,
    MixtralForCausalLM,
    XLNetConfig,
    XLNetModel,
)

from sharetune.spaces.errors import ModelError
from sharetune.spaces.plan import SharingPlan
from sharetune.trainers import share_
from sharetune.trainers.measuring.counting import Counting
from sharetune.trainers.measuring.sizes import facts, forward_flops
from sharetune.trainers.models.pretrained import COUNTED

SIZES = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
KINDS = {
    "mixture of experts": (
        MixtralForCausalLM,
        MixtralConfig(**SIZES, intermediate_size=64, num_key_value_heads=2, num_local_experts=4),
    ),
    "looks at values": (
        LongformerModel,
        LongformerConfig(
            **SIZES, intermediate_size=64, max_position_embeddings=40, attention_window=4
        ),
    ),
    "made elsewhere": (
        XLNetModel,
        XLNetConfig(vocab_size=64, d_model=32, n_layer=3, n_head=4, d_inner=64),
    ),
}
INPUTS = {"input_ids": torch.ones(1, 8, dtype=torch.long, device="meta")}


def skeleton(name):
    kind, config = KINDS[name]
    with torch.device("meta"):
        model = kind._from_config(copy.deepcopy(config), **COUNTED)
    return model.to("meta").eval()


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_what_is_counted_is_what_is_built(name):
    model = skeleton(name)
    plan = SharingPlan.drop([1])
    counted = Counting(model, INPUTS).facts(plan)
    assert counted == facts(model, share_(copy.deepcopy(model), plan), INPUTS)
    assert counted["flops"] < forward_flops(model, INPUTS)


def test_a_model_that_does_not_run_is_named():
    model = skeleton("looks at values")
    with pytest.raises(ModelError, match="the sizes of LongformerModel cannot be counted"):
        forward_flops(model, {"no_such_argument": INPUTS["input_ids"]})
