"""A model that was changed after sharing is saved and loads equal, or saving refuses."""

import json
import pickle
import subprocess
import sys

import pytest
import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    BertForSequenceClassification,
    BertModel,
    BertPreTrainedModel,
    pipeline,
)

from sharetune.spaces.errors import ModelError
from sharetune.spaces.plan import SharingPlan
from sharetune.trainers import load_shared, materialize_, share_, share_params
from sharetune.trainers.models.pretrained import skeleton
from sharetune.trainers.models.structure import find_stacks
from tests.checkpoint import write_checkpoint
from tests.families import inputs, logits, tiny


def saved(model, folder):
    model.save_pretrained(folder)
    return load_shared(folder)


def test_settings_that_were_changed_after_sharing_come_back(tmp_path):
    model = share_params(tiny("bert"), 1, 4, 0.7)
    model.config.id2label = {0: "no", 1: "yes"}
    model.config.pad_token_id = 7
    config = saved(model, tmp_path).config
    assert (config.id2label, config.pad_token_id) == ({0: "no", 1: "yes"}, 7)


def test_a_resized_vocabulary_comes_back(tmp_path):
    model = share_params(tiny("bert"), 1, 4, 0.7)
    model.resize_token_embeddings(120)
    loaded = saved(model, tmp_path)
    assert loaded.get_input_embeddings().weight.shape == (120, 48)
    assert torch.equal(logits(loaded), logits(model))


def test_a_new_head_comes_back(tmp_path):
    model = share_params(tiny("bert"), 1, 4, 0.7)
    model.classifier = nn.Linear(48, 5)
    model.num_labels = model.config.num_labels = 5
    assert torch.equal(logits(saved(model, tmp_path)), logits(model))
    again = saved(load_shared(tmp_path), tmp_path / "again")
    assert torch.equal(logits(again), logits(model))


def test_the_settings_come_back_beside_a_drop(tmp_path):
    model = share_(tiny("bert"), SharingPlan.drop([2]))
    model.config.hidden_dropout_prob = 0.25
    config = saved(model, tmp_path).config
    assert (config.num_hidden_layers, config.hidden_dropout_prob) == (5, 0.25)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda m: setattr(m, "classifier", nn.Linear(48, 5)),
            r"does not say how: classifier.bias is of shape \(5,\), but would be of shape \(2,\)",
        ),
        (
            lambda m: setattr(m, "classifier", nn.Sequential(nn.Linear(48, 2))),
            r"classifier.0.bias is of shape \(2,\), but would be missing",
        ),
        (lambda m: setattr(m.bert, "pooler", None), r"pooler.dense.bias is missing"),
        (
            lambda m: setattr(m.config, "num_hidden_layers", 3),
            "num_hidden_layers of the configuration follows from the plan, but was changed "
            "from 5 to 3",
        ),
    ],
)
def test_a_change_that_would_be_lost_is_refused(tmp_path, change, message):
    model = share_(tiny("bert"), SharingPlan.drop([2]))
    change(model)
    with pytest.raises(ModelError, match=message):
        model.save_pretrained(tmp_path / "m")
    assert not (tmp_path / "m").exists()


@pytest.fixture()
def folder(tmp_path):
    share_params(tiny("bert"), 1, 4, 0.7).save_pretrained(tmp_path / "m")
    return tmp_path / "m"


def test_a_class_of_the_library_refuses_the_folder(folder):
    with pytest.raises(ValueError, match=r"load it with sharetune.load_shared\(folder\)"):
        BertForSequenceClassification.from_pretrained(folder)
    with pytest.raises(ValueError, match="load it with sharetune"):
        BertModel.from_pretrained(folder, config=AutoConfig.from_pretrained(folder))


def test_no_part_of_the_configuration_names_a_type_of_the_library(folder):
    config = json.loads((folder / "config.json").read_text())
    parts = [value for value in config.values() if isinstance(value, dict)]
    assert config["base_model_type"] == "bert" and not any("model_type" in p for p in parts)


def test_keywords_of_the_library_are_passed_on(folder):
    loaded = AutoModel.from_pretrained(folder, adapter_kwargs={"revision": None})
    assert torch.equal(loaded(**inputs())[0], AutoModel.from_pretrained(folder)(**inputs())[0])
    with pytest.raises(ModelError, match="unexpected keyword argument 'no_such_keyword'"):
        AutoModel.from_pretrained(folder, no_such_keyword=1)


def test_the_configuration_has_the_attributes_of_the_model(folder):
    config = AutoConfig.from_pretrained(folder)
    assert (config.num_hidden_layers, config.hidden_size, config.num_labels) == (6, 48, 2)
    assert config.model_type == "sharetune" and config.base["vocab_size"] == 99


def test_the_body_of_a_classifier(folder, tmp_path):
    whole, body = load_shared(folder), AutoModel.from_pretrained(folder)
    assert type(body).__name__ == "SharedBertModel"
    with torch.no_grad():
        expected, found = whole.bert(**inputs())[0], body(**inputs())[0]
    assert found.shape == (2, 9, 48) and torch.equal(found, expected)
    body.save_pretrained(tmp_path / "body")
    with torch.no_grad():
        assert torch.equal(load_shared(tmp_path / "body")(**inputs())[0], expected)


def test_the_body_of_a_model_that_has_none_as_a_module(tmp_path):
    model = tiny("t5")
    groups = [
        {"stack": n, "layers": "all", "form": {"bank": {"ratio": 0.5}}} for n in find_stacks(model)
    ]
    share_(model, SharingPlan.model_validate({"groups": groups})).save_pretrained(tmp_path)
    given = inputs() | {"decoder_input_ids": inputs()["input_ids"]}
    with torch.no_grad():
        whole = load_shared(tmp_path)(**given, output_hidden_states=True).decoder_hidden_states[-1]
        body = AutoModel.from_pretrained(tmp_path)
        assert type(body).__name__ == "SharedT5Model" and torch.equal(body(**given)[0], whole)


def test_an_auto_class_of_another_task_refuses(folder):
    with pytest.raises(
        ModelError, match="BertForSequenceClassification, which AutoModelForCausalLM"
    ):
        AutoModelForCausalLM.from_pretrained(folder)


def test_a_shared_folder_is_no_model_to_start_from(folder):
    config = AutoConfig.from_pretrained(folder)
    with pytest.raises(ModelError, match="a model that is shared already"):
        AutoModel.from_config(config)
    with pytest.raises(
        ModelError, match="^the folder holds a model that is shared already"
    ) as told:
        skeleton(AutoModel, str(folder))
    assert "name the folder of the unshared model" in told.value.hint


class Mine(BertPreTrainedModel):
    """A model as users write their own."""

    def __init__(self, config):
        super().__init__(config)
        self.bert = BertModel(config)
        self.head = nn.Linear(48, 3)
        self.post_init()

    def forward(self, input_ids, attention_mask=None, **_):
        return (self.head(self.bert(input_ids, attention_mask)[0][:, 0]),)


def test_a_class_of_the_users_own_is_given_to_load_it(tmp_path):
    model = share_params(Mine(tiny("bert").config).eval(), 1, 4, 0.7)
    model.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="a shared Mine, a class that transformers does not have"):
        load_shared(tmp_path)
    with pytest.raises(ModelError, match="a shared Mine, but got cls=BertModel"):
        load_shared(tmp_path, cls=BertModel)
    with torch.no_grad():
        assert torch.equal(load_shared(tmp_path, cls=Mine)(**inputs())[0], model(**inputs())[0])


def test_a_device_map(folder):
    assert load_shared(folder, device_map="cpu").device == torch.device("cpu")
    assert load_shared(folder, device_map={"": "cpu"}, device="cpu").training is False


@pytest.mark.parametrize(
    "form", [{"bank": {"ratio": 0.7}}, {"reuse": {"what": "kv"}}, "tie"], ids=str
)
def test_a_shared_model_is_pickled_like_any_other(form, tmp_path):
    rule = {"layers": "1..2", "form": form, "times": 2 if form == "tie" else 1}
    model = share_(tiny("bert"), SharingPlan.model_validate({"groups": [rule]}))
    again = pickle.loads(pickle.dumps(model))
    assert type(again) is type(model) and again.sharing == model.sharing
    assert torch.equal(logits(again), logits(model))
    assert again.num_parameters() == model.num_parameters()
    torch.save(model, tmp_path / "model.pt")
    assert torch.equal(logits(torch.load(tmp_path / "model.pt", weights_only=False)), logits(model))


def test_the_readers_of_an_unpickled_model_read_its_banks():
    model = pickle.loads(pickle.dumps(share_params(tiny("bert"), 1, 4, 0.7)))
    before = logits(model)
    with torch.no_grad():
        for parameter in model.banks.parameters():
            parameter.zero_()
    zeroed = logits(model)
    assert not torch.equal(zeroed, before)
    assert torch.allclose(logits(materialize_(model)), zeroed, atol=1e-6)


@pytest.mark.slow
def test_a_shared_model_goes_to_a_process_that_is_spawned(folder, tmp_path):
    script = tmp_path / "spawn.py"
    script.write_text(
        "import sys, torch\n"
        "from torch import multiprocessing\n"
        "from sharetune import load_shared\n"
        "def work(model, queue):\n"
        "    queue.put(model(torch.arange(5)[None]).logits.tolist())\n"
        "if __name__ == '__main__':\n"
        "    context = multiprocessing.get_context('spawn')\n"
        "    queue, model = context.Queue(), load_shared(sys.argv[1]).share_memory()\n"
        "    worker = context.Process(target=work, args=(model.requires_grad_(False), queue))\n"
        "    worker.start()\n"
        "    assert queue.get() == model(torch.arange(5)[None]).logits.tolist()\n"
        "    worker.join()\n"
    )
    subprocess.run([sys.executable, str(script), str(folder)], check=True)


def test_a_pipeline_answers_from_the_shared_model(tmp_path, capfd):
    write_checkpoint(tmp_path / "plain")
    model = BertForSequenceClassification.from_pretrained(tmp_path / "plain", num_labels=3).eval()
    share_params(model, 0, 3, 0.7).save_pretrained(tmp_path / "shared")
    AutoTokenizer.from_pretrained(tmp_path / "plain").save_pretrained(tmp_path / "shared")
    answer = pipeline("text-classification", model=str(tmp_path / "shared"), top_k=None)
    assert "is not supported" not in capfd.readouterr().err
    with torch.no_grad():
        ids = torch.tensor([answer.tokenizer("wave ship")["input_ids"]])
        expected = model(ids).logits.softmax(-1)[0].sort(descending=True).values
    assert torch.allclose(torch.tensor([a["score"] for a in answer(["wave ship"])[0]]), expected)
    assert type(answer.model).__name__ == "SharedBertForSequenceClassification"
