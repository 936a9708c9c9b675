"""Shared models on disk: small, loud where they must be, loaded in one line."""

import json
import logging
import subprocess
import sys

import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
)

from sharetune.spaces import SharingPlan
from sharetune.spaces.errors import ModelError
from sharetune.trainers import load_shared, share_, share_params
from tests.families import logits, tiny


@pytest.fixture()
def folder(tmp_path):
    share_params(tiny("bert"), 1, 4, 0.7).save_pretrained(tmp_path / "m")
    return tmp_path / "m"


def test_auto_classes_load_a_shared_model(folder):
    loaded = AutoModelForSequenceClassification.from_pretrained(folder)
    assert type(loaded).__name__ == "SharedBertForSequenceClassification"
    assert torch.equal(logits(loaded), logits(share_params(tiny("bert"), 1, 4, 0.7)))
    assert AutoModel.from_pretrained(folder).sharing == loaded.sharing


@pytest.mark.slow
def test_a_plain_loader_fails_loudly(folder):
    code = f"from transformers import AutoModel; AutoModel.from_pretrained({str(folder)!r})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode != 0
    assert "`sharetune`" in result.stderr


@pytest.mark.parametrize("dtype", [torch.bfloat16, "bfloat16"])
def test_the_auto_classes_load_in_another_dtype(folder, dtype):
    loaded = AutoModelForSequenceClassification.from_pretrained(folder, dtype=dtype)
    assert loaded.dtype == loaded.config.dtype == torch.bfloat16
    assert {tensor.dtype for tensor in loaded.parameters()} == {torch.bfloat16}
    # bfloat16 has 8 bits of precision: 2^-8 of logits below 0.1
    assert torch.allclose(logits(loaded).float(), logits(load_shared(folder)), atol=4e-4)
    assert AutoModel.from_pretrained(folder, dtype="auto").dtype == torch.float32


def test_what_a_family_keeps_in_float32_stays_so_in_a_bank(tmp_path):
    rule = {"layers": "0..2", "stack": "encoder", "form": {"bank": {"ratio": 0.5}}}
    share_(tiny("t5"), SharingPlan.model_validate({"groups": [rule]})).save_pretrained(tmp_path)
    loaded = load_shared(tmp_path, dtype=torch.float16)
    exact = {name for name, tensor in loaded.named_parameters() if tensor.dtype == torch.float32}
    # T5's wo: a bank, the private parts of three layers, and four layers of their own
    assert len(exact) == 8 and all(name.endswith(("wo.weight", "private.weight")) for name in exact)
    assert "banks.0.layer_1_DenseReluDense_wo.weight" in exact
    assert load_shared(tmp_path, dtype=torch.bfloat16).dtype == torch.bfloat16


@pytest.mark.parametrize("map", ["cpu", {"": "cpu"}, "auto"], ids=str)
def test_a_device_map_names_one_device(folder, map):
    auto = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    expected = auto if map == "auto" and auto else torch.device("cpu")
    assert AutoModel.from_pretrained(folder, device_map=map).device.type == expected.type


def test_attention_is_the_kind_that_is_asked_for(folder):
    kinds = [
        AutoModel.from_pretrained(folder, attn_implementation=kind).config._attn_implementation
        for kind in (None, "sdpa", "eager")
    ]
    assert kinds == ["sdpa", "sdpa", "eager"]


@pytest.mark.parametrize(
    ("keyword", "value", "message"),
    [
        ("dtype", "int8", "dtype must be a type of floating-point numbers, but got 'int8'"),
        ("device_map", "balanced", "one device, but got device_map='balanced'"),
        ("device_map", {"bert": 0, "classifier": "cpu"}, "one device, but got device_map="),
        ("device_map", "gpu", "a device must be there, but got 'gpu'"),
        ("num_labels", 7, "cannot be loaded with id2label given"),
        ("hidden_dropout_prob", 0.3, "cannot be loaded with hidden_dropout_prob given"),
        ("output_loading_info", True, "cannot be loaded with output_loading_info given"),
        ("quantization_config", {"bits": 4}, "cannot be loaded with quantization_config given"),
    ],
)
def test_keywords_that_cannot_be_honoured(folder, keyword, value, message):
    with pytest.raises(ModelError, match=message):
        AutoModelForSequenceClassification.from_pretrained(folder, **{keyword: value})


def test_keywords_that_say_nothing_of_the_model(folder):
    loaded = AutoModel.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    assert loaded.dtype == torch.float32


def test_a_missing_tensor_is_an_error(folder):
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    del tensors["banks.0.attention_self_key.weight"]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ModelError, match=r"1 missing, 0 unexpected.*attention_self_key"):
        load_shared(folder)


def test_an_ordinary_model_is_named_as_such(tmp_path):
    tiny("bert").save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="ordinary bert model"):
        load_shared(tmp_path)


def test_no_folder(tmp_path):
    with pytest.raises(ModelError, match="no such folder: "):
        load_shared(tmp_path / "nothing")
    with pytest.raises(ModelError, match="no model in "):
        load_shared(tmp_path)


def test_the_configuration_says_all(folder):
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == "sharetune"
    assert config["architectures"] == ["BertForSequenceClassification"]
    assert config["base"]["num_hidden_layers"] == 6
    assert config["plan"]["groups"][0]["layers"] == "1..4"


@pytest.mark.parametrize(
    ("sizes", "ends"),
    [
        ({"vocab_size": 128_256, "max_position_embeddings": 131_072}, (128_000, 128_001)),
        ({"vocab_size": 152_064, "max_position_embeddings": 131_072}, (151_643, 151_645)),
        ({"vocab_size": 256_000, "intermediate_size": 36_864}, (2, 1)),
    ],
    ids=["llama-3", "qwen2.5", "gemma-2"],
)
def test_numbers_of_large_language_models_are_no_sign_of_damage(tmp_path, sizes, ends):
    config = LlamaConfig(
        **{"intermediate_size": 16} | sizes,
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        bos_token_id=ends[0],
        eos_token_id=ends[1],
        tie_word_embeddings=True,
    )
    share_params(LlamaForCausalLM(config), 0, 1, 1.0, units="first").save_pretrained(tmp_path)
    assert load_shared(tmp_path).config.vocab_size == sizes["vocab_size"]


@pytest.mark.parametrize(
    ("name", "supported", "is_news"),
    [
        ("SharedBertForSequenceClassification", "BertForSequenceClassification", False),
        ("SharedBertModel", "BertForSequenceClassification", True),
        ("OtherModel", "BertForSequenceClassification", True),
    ],
)
def test_pipelines_report_a_shared_model_only_where_they_cannot_take_it(
    caplog, name, supported, is_news
):
    report = (
        f"The model '{name}' is not supported for a-task. Supported models are ['{supported}']."
    )
    logger = logging.getLogger("transformers.pipelines.base")
    logger.addHandler(caplog.handler)
    logger.error(report)
    logger.removeHandler(caplog.handler)
    assert (report in caplog.text) is is_news
