"""Parameter counts against the literature, on public configurations, without weights."""

import pytest
import torch
from transformers import ElectraConfig, ElectraModel, LlamaConfig, LlamaForCausalLM

from sharetune.spaces import SharingPlan
from sharetune.trainers import share_
from sharetune.trainers.measuring.sizes import parameters


@pytest.mark.parametrize(
    ("hidden", "layers", "heads", "published_millions", "exact"),
    [
        (768, 12, 12, 12, 11_683_584),
        (1024, 24, 16, 18, 17_683_968),
        (2048, 24, 16, 60, 58_724_864),
    ],
)
def test_albert_base_large_and_xlarge(hidden, layers, heads, published_millions, exact):
    """ALBERT (arXiv 1909.11942), table 1: embeddings of 128, one layer's weights for all.

    ELECTRA's body is BERT's with factored embeddings; ALBERT has a pooler beside.
    """
    config = ElectraConfig(
        vocab_size=30_000,
        embedding_size=128,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * hidden,
    )
    with torch.device("meta"):
        model = share_(ElectraModel(config), SharingPlan.preset("albert-all"))
    pooler = hidden * hidden + hidden
    assert parameters([model]) + pooler == exact
    assert exact / 1e6 == pytest.approx(published_millions, rel=0.03)


def mobilellm(layers):
    config = LlamaConfig(
        vocab_size=32_000,
        hidden_size=576,
        num_hidden_layers=layers,
        num_attention_heads=9,
        num_key_value_heads=3,
        intermediate_size=1536,
        tie_word_embeddings=True,
    )
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    model.tie_weights()
    return model


def test_mobilellm_125m_with_layer_sharing():
    """MobileLLM (arXiv 2402.14905): 60 layers that store 30, 124.6M parameters as without."""
    model = mobilellm(layers=60)
    share_(model, SharingPlan.preset("immediate-repeat"))
    assert parameters([model]) == 124_670_016
    assert parameters([model]) / 1e6 == pytest.approx(124.6, abs=0.1)


def test_mobilellm_125m_with_every_layer_run_twice():
    """The same from its 30 layers: what is stored is exactly the 30-layer model."""
    model = mobilellm(layers=30)
    group = {"layers": "all", "assign": "each", "times": 2, "order": "layer"}
    share_(model, SharingPlan.model_validate({"groups": [group]}))
    assert model.config.num_hidden_layers == len(model.model.layers) == 60
    # the norms of 30 positions less than above
    assert parameters([model]) == 124_635_456
    assert parameters([model]) / 1e6 == pytest.approx(124.6, abs=0.05)
