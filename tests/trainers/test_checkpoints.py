"""Shared models on disk: small, loud where they must be, loaded in one line."""

import json
import subprocess
import sys

import pytest
import torch
from transformers import AutoModel, AutoModelForSequenceClassification

from spaces.errors import ModelError
from tests.families import logits, tiny
from trainers import load_shared, share_params


@pytest.fixture()
def folder(tmp_path):
    share_params(tiny("bert"), 1, 4, 0.7).save_pretrained(tmp_path / "m")
    return tmp_path / "m"


def test_auto_classes_load_a_shared_model(folder):
    loaded = AutoModelForSequenceClassification.from_pretrained(folder)
    assert type(loaded).__name__ == "SharedBertForSequenceClassification"
    assert torch.equal(logits(loaded), logits(share_params(tiny("bert"), 1, 4, 0.7)))
    assert AutoModel.from_pretrained(folder).sharing == loaded.sharing


def test_a_plain_loader_fails_loudly(folder):
    code = f"from transformers import AutoModel; AutoModel.from_pretrained({str(folder)!r})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode != 0
    assert "`sharetune`" in result.stderr


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
    with pytest.raises(ModelError, match="no model in"):
        load_shared(tmp_path / "nothing")


def test_the_configuration_says_all(folder):
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == "sharetune"
    assert config["architectures"] == ["BertForSequenceClassification"]
    assert config["base"]["num_hidden_layers"] == 6
    assert config["plan"]["groups"][0]["layers"] == "1..4"
