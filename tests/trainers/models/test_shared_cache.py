"""Readers of keys and values find them in their owner's cache, which holds them once."""

import copy

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    GPT2Config,
    LlamaConfig,
    PreTrainedConfig,
    Qwen3Config,
    SmolLM3Config,
    T5Config,
    UMT5Config,
)

from sharetune.spaces import SharingPlan
from sharetune.trainers import share_
from sharetune.trainers.measuring.counting import Counting
from sharetune.trainers.measuring.sizes import facts

LLAMA = {
    "vocab_size": 64,
    "hidden_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}
T5 = {
    "vocab_size": 64,
    "d_model": 48,
    "d_kv": 12,
    "num_heads": 4,
    "num_layers": 4,
    "d_ff": 64,
    "bos_token_id": 0,
}
SIZES: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(**LLAMA),
    "gpt2": GPT2Config(vocab_size=64, n_embd=48, n_layer=4, n_head=4, n_positions=64),
    "qwen3": Qwen3Config(**LLAMA, head_dim=12),
    "smollm3": SmolLM3Config(**LLAMA, no_rope_layers=[1, 0, 1, 0], pad_token_id=0),
    "t5": T5Config(**T5),
    "umt5": UMT5Config(**T5, decoder_start_token_id=0),
}
FULL = {"llama": 2 * 4 * 24, "gpt2": 2 * 4 * 48, "qwen3": 2 * 4 * 24}
"""Bytes that a layer keeps of one token: keys and values, 4 bytes each, 24 or 48 wide."""

IDS = torch.arange(5, 19).reshape(2, 7)


def model_of(family, *groups, meta=False):
    kind = AutoModelForSeq2SeqLM if "t5" in family else AutoModelForCausalLM
    torch.manual_seed(0)
    with torch.device("meta" if meta else "cpu"):
        model = kind.from_config(copy.deepcopy(SIZES[family])).eval()
    return share_(model, plan(*groups)) if groups else model


def plan(*groups):
    return SharingPlan.model_validate({"groups": list(groups)})


KV = {"layers": "all", "form": {"reuse": {"what": "kv"}}, "units": "first"}


def written(model, **settings):
    settings |= {"max_new_tokens": 12, "min_new_tokens": 12, "pad_token_id": 0, "do_sample": False}
    return model.generate(IDS, **settings)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_keys_and_values_are_kept_once(family):
    model = model_of(family, KV)
    with torch.no_grad():
        cache = model(IDS).past_key_values
    shared = [layer.keys is cache.layers[0].keys for layer in cache.layers]
    assert shared == [True] * 4
    again = copy.deepcopy(cache)
    assert again.layers[3].keys is again.layers[0].keys is not cache.layers[0].keys
    assert cache.get_seq_length() == 7


@pytest.mark.parametrize(
    "settings", [{}, {"num_beams": 3}, {"cache_implementation": "static"}], ids=str
)
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_writing_with_the_shared_cache_is_writing_without(family, settings):
    model = model_of(family, KV)
    uncached = {key: value for key, value in settings.items() if key == "num_beams"}
    assert torch.equal(written(model, **settings), written(model, use_cache=False, **uncached))


@pytest.mark.parametrize(("family", "kept"), [("qwen3", 4), ("smollm3", 3)])
def test_keys_that_layers_treat_otherwise_are_kept_by_each(family, kept):
    """Qwen3's are normed by each; two of SmolLM3's layers turn them by their positions."""
    model = model_of(family, KV)
    assert len({id(layer.keys) for layer in model(IDS).past_key_values.layers}) == kept
    assert torch.equal(written(model), written(model, use_cache=False))


def test_a_reader_has_read_no_more_than_its_owner_before_the_pass():
    """UMT5's layers ask the cache how many tokens they have read, for their positions."""
    model = model_of("umt5", KV | {"stack": "decoder"})
    inputs = {"input_ids": IDS, "decoder_input_ids": IDS[:, 2:6]}
    with torch.no_grad():
        whole = model(**inputs, use_cache=False).logits
        begun = model(**inputs | {"decoder_input_ids": IDS[:, 2:5]}, use_cache=True)
        going_on = inputs | {"decoder_input_ids": IDS[:, 5:6]}
        ended = model(**going_on, past_key_values=begun.past_key_values).logits
    parts = torch.cat([begun.logits, ended], 1)
    assert torch.allclose(parts, whole, atol=1e-5)


@pytest.mark.parametrize(
    ("family", "groups", "layers_kept"),
    [
        pytest.param("llama", (), 4, marks=pytest.mark.slow),
        pytest.param("llama", ({"layers": "all", "form": "tie"},), 4, marks=pytest.mark.slow),
        pytest.param("llama", ({"layers": [1, 2], "form": "drop"},), 2, marks=pytest.mark.slow),
        pytest.param(
            "llama",
            ({"layers": [1, 2], "form": {"narrow": {"keep": 0.5}}},),
            3,
            marks=pytest.mark.slow,
        ),
        ("llama", ({"layers": [0, 1], "form": "tie", "times": 2},), 6),
        ("llama", (KV,), 1),
        ("llama", (KV | {"layers": [1, 2, 3]},), 2),
        ("gpt2", (KV | {"layers": [0, 1]}, KV | {"layers": [2, 3]}), 2),
        pytest.param("qwen3", (KV,), 4, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_the_bytes_of_the_cache_are_counted(family, groups, layers_kept):
    """Counted for the plan, counted of the built model, and held by a real cache."""
    inputs = {"input_ids": IDS[:1].to("meta")}
    skeleton, one = model_of(family, meta=True), plan(*groups)
    expected = 7 * FULL[family] * layers_kept
    assert Counting(skeleton, inputs).facts(one)["cache_bytes"] == expected
    built = share_(copy.deepcopy(skeleton), one)
    assert facts(skeleton, built, inputs)["cache_bytes"] == expected
    cache = model_of(family, *groups)(IDS[:1]).past_key_values
    held = {t.data_ptr(): t.nbytes for layer in cache.layers for t in (layer.keys, layer.values)}
    assert sum(held.values()) == expected


def test_an_encoder_decoder_keeps_what_it_crosses_too():
    inputs = {"input_ids": IDS[:1], "decoder_input_ids": IDS[1:, :3]}
    counting = Counting(
        model_of("t5", meta=True), {name: ids.to("meta") for name, ids in inputs.items()}
    )
    tokens, width = 4 * (3 + 7), 2 * 4 * 48
    assert counting.facts(SharingPlan())["cache_bytes"] == tokens * width
    reused = plan(KV | {"stack": "decoder"})
    assert counting.facts(reused)["cache_bytes"] == (3 + 7) * width
    model = share_(model_of("t5"), reused)
    with_cache = written(model, use_cache=True)
    assert torch.equal(with_cache, written(model, use_cache=False))
    cache = model(**inputs).past_key_values
    for side in (cache.self_attention_cache, cache.cross_attention_cache):
        assert len({id(layer.keys) for layer in side.layers}) == 1


def test_an_encoder_keeps_nothing():
    from tests.trainers.measuring.test_counting import counting_of

    assert counting_of("bert").facts(SharingPlan())["cache_bytes"] == 0
