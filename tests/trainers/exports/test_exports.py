"""Every format gives the model's own logits, and says why where it cannot."""

import json
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    BartConfig,
    BertConfig,
    BertForMaskedLM,
    BertForNextSentencePrediction,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    CLIPConfig,
    CLIPForImageClassification,
    CodeGenConfig,
    CodeGenForCausalLM,
    GPT2Config,
    MobileBertConfig,
    MobileBertForSequenceClassification,
    SiglipConfig,
    SiglipForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

from sharetune.spaces import SharingPlan
from sharetune.spaces.errors import ConfigError, ModelError, RunError
from sharetune.trainers import load_shared, share_, share_params
from sharetune.trainers.exports import base
from sharetune.trainers.exports import onnx as onnx_format
from sharetune.trainers.exports.albert import arrange
from sharetune.trainers.exports.base import EXPORTS, Written, answering, export
from sharetune.trainers.exports.onnx_cache import Steps
from sharetune.trainers.exports.onnx_encoder_decoder import DECODER, ENCODER, SIDES, EncoderDecoder
from sharetune.trainers.exports.onnx_session import open_session
from sharetune.trainers.models.modules import products_apart
from sharetune.trainers.models.sample_inputs import samples
from sharetune.trainers.models.structure import find_stacks
from tests.families import SIZES, inputs, inputs_of, logits, tiny
from tests.paths import ROOT

MINILM = ROOT / "examples" / "bbc-news" / "model"
WHOLE = ["attention", "ffn", "norms", "biases"]


def whole(assign="one", layers="0..5", **group):
    """A plan that ties whole layers, norms and biases too."""
    rule = {"layers": layers, "parts": WHOLE, "assign": assign} | group
    return SharingPlan.model_validate({"groups": [rule]})


def gpt2():
    torch.manual_seed(0)
    sizes = {"n_embd": 48, "n_layer": 4, "n_head": 4, "vocab_size": 99, "n_positions": 40}
    config = GPT2Config(**sizes, bos_token_id=98, eos_token_id=98)
    return AutoModelForSequenceClassification.from_config(config).eval()


def bart():
    torch.manual_seed(0)
    sizes = {f"{side}_{key}": value for side in ("encoder", "decoder") for key, value in BART}
    config = BartConfig(d_model=48, vocab_size=99, max_position_embeddings=40, **sizes)
    return AutoModelForSequenceClassification.from_config(config).eval()


BART = (("layers", 3), ("attention_heads", 4), ("ffn_dim", 96))


def vit():
    torch.manual_seed(0)
    config = ViTConfig(**SIZES | {"image_size": 32, "patch_size": 8})
    return ViTForImageClassification(config).eval()


def size(folder):
    return sum(path.stat().st_size for path in folder.iterdir())


def test_the_formats():
    assert set(EXPORTS) >= {"shared", "dense", "albert", "onnx"}
    with pytest.raises(ConfigError, match="unknown export format: 'onx'"):
        EXPORTS["onx"]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name == "onnx" else [])
        for name in sorted(set(EXPORTS) - {"albert", "openvino", "executorch"})
        if not name.startswith("gguf")  # for decoders only
    ],
)
def test_a_bank_of_70_percent(tmp_path, name):
    exported = export(share_params(tiny("bert"), 1, 4, 0.7), tmp_path / "out", name)
    assert exported.difference <= 1e-6
    assert exported.note == ""
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("name", ["shared", "dense"])
@pytest.mark.parametrize("model", [gpt2, vit], ids=["gpt2", "vit"])
def test_other_families(tmp_path, model, name):
    assert export(share_params(model(), 0, 2, 0.5), tmp_path / "out", name).difference <= 1e-6


WIDTHS = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4}
SEEN = WIDTHS | {"intermediate_size": 64, "image_size": 32, "patch_size": 8}
BOTTLENECK = {"true_hidden_size": 16, "intra_bottleneck_size": 16, "embedding_size": 16}
WITHOUT_SETTINGS = {
    "codegen": lambda: CodeGenForCausalLM(
        CodeGenConfig(n_embd=32, n_layer=4, n_head=4, vocab_size=64, n_positions=32, rotary_dim=4)
    ),
    "mobilebert": lambda: MobileBertForSequenceClassification(
        MobileBertConfig(**WIDTHS | BOTTLENECK, vocab_size=64, intermediate_size=32)
    ),
    "clip": lambda: CLIPForImageClassification(CLIPConfig(vision_config=SEEN, text_config=WIDTHS)),
    "siglip": lambda: SiglipForImageClassification(
        SiglipConfig(vision_config=SEEN, text_config=WIDTHS)
    ),
    "grey vit": lambda: ViTForImageClassification(ViTConfig(**SEEN, num_channels=1)),
}
"""Models whose configurations lack settings, or have them in a part."""


@pytest.mark.parametrize("family", WITHOUT_SETTINGS)
def test_settings_that_a_configuration_lacks_are_not_asked_for(tmp_path, family):
    torch.manual_seed(0)
    model = WITHOUT_SETTINGS[family]().eval()
    parts = ["attention"] if family == "mobilebert" else ["attention", "ffn"]
    share_params(model, 0, 3, 0.5, parts=parts)
    assert export(model, tmp_path / "out", "dense").difference < 1e-5


@pytest.mark.parametrize("name", ["shared", "dense"])
def test_two_stacks(tmp_path, name):
    plan = {"groups": [{"layers": "0..2", "stack": s} for s in ("encoder", "decoder")]}
    model = share_(bart(), SharingPlan.model_validate(plan))
    assert export(model, tmp_path / "out", name).difference <= 1e-6


ENCODERS = ["roberta", "electra", "distilbert"]
DECODERS = ["gpt2", "llama"]
BOTH = ["bart", "t5", "whisper"]


@pytest.mark.slow
@pytest.mark.parametrize("family", ENCODERS + DECODERS + BOTH)
def test_onnx_of_other_families(tmp_path, family):
    model = tiny(family)
    rule = {"layers": "0..1", "form": {"bank": {"ratio": 0.5}}}
    groups = [rule | {"stack": stack} for stack in find_stacks(model)]
    share_(model, SharingPlan.model_validate({"groups": groups}))
    assert export(model, tmp_path / "out", "onnx").difference <= 1e-5
    # other lengths than those it was written with, the decoder's being its own
    if family in BOTH:
        given = inputs_of(model, batch=4)
        assert torch.allclose(
            both(tmp_path / "out").answer(given), answering(model)(given), atol=1e-5
        )
        return
    session = onnx_format.session(tmp_path / "out")
    if family in DECODERS:
        given = inputs(batch=4)
        assert torch.allclose(Steps(session).answer(given), answering(model)(given), atol=1e-5)
        return
    names = [item.name for item in session.get_inputs()]
    given = inputs_of(model, batch=4)
    given = {name: given.get(name, torch.zeros(4, 9, dtype=torch.int64)) for name in names}
    found = session.run(None, {name: tensor.numpy() for name, tensor in given.items()})[0]
    expected = answering(model)(given)
    assert torch.allclose(torch.from_numpy(found), expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("rule", [{"form": {"narrow": {"keep": 0.5}}}, {"times": 2}], ids=str)
def test_onnx_writes_text_by_a_cache(tmp_path, rule):
    plan = SharingPlan.model_validate({"groups": [{"layers": [1, 2], "assign": "each"} | rule]})
    model = share_(tiny("llama"), plan)
    export(model, tmp_path / "out", "onnx")
    session = onnx_format.session(tmp_path / "out")
    heads = {node.name: node.shape for node in session.get_inputs()}
    runs, narrow = (4, 1) if "form" in rule else (6, 2)
    kinds = ("key", "value")
    assert list(heads) == ["input_ids", "attention_mask", "position_ids"] + [
        f"past_key_values.{i}.{kind}" for i in range(runs) for kind in kinds
    ]
    assert heads["past_key_values.1.key"] == ["batch_size", narrow, "past_sequence_length", 12]
    assert [node.name for node in session.get_outputs()] == ["logits"] + [
        f"present.{i}.{kind}" for i in range(runs) for kind in kinds
    ]
    prompt = inputs()["input_ids"][:1]
    text = model.generate(prompt, max_new_tokens=20, do_sample=False, eos_token_id=None)
    assert Steps(session).greedy(prompt[0].tolist(), 20) == text[0, 9:].tolist()


def both(folder):
    """The sessions of an encoder's and a decoder's files."""
    return EncoderDecoder(*(open_session(folder / name) for name in (ENCODER, DECODER)))


@pytest.mark.slow
@pytest.mark.parametrize("rule", [{"form": "tie"}, {"times": 2, "assign": "each"}], ids=str)
@pytest.mark.parametrize("family", ["bart", "t5"])
def test_onnx_of_an_encoder_and_a_decoder_writes_text_by_a_cache(tmp_path, family, rule):
    model = tiny(family)
    # of its own, else the random model says its last token again
    model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight))
    groups = [{"layers": [1, 2], "stack": stack} | rule for stack in find_stacks(model)]
    share_(model, SharingPlan.model_validate({"groups": groups}))
    export(model, tmp_path / "out", "onnx")
    running = both(tmp_path / "out")
    runs = len(find_stacks(model)["decoder"].layers)
    ends = [
        f"{i}.{side}.{kind}" for i in range(runs) for side in SIDES for kind in ("key", "value")
    ]
    own = [f"past_key_values.{end}" for end in ends if ".decoder." in end]
    others = [f"past_key_values.{end}" for end in ends if ".encoder." in end]
    first = ["input_ids", "encoder_attention_mask", "encoder_hidden_states"]
    names = [node.name for node in running.decoder.get_inputs()]
    assert names == [*first, *own, "use_cache_branch", *others]
    assert [n.name for n in running.decoder.get_outputs()] == [
        "logits",
        *map("present.{}".format, ends),
    ]
    # by the library, with its own cache, from an example with padding
    given = inputs()
    text = model.generate(
        **given, max_new_tokens=20, do_sample=False, eos_token_id=None, decoder_start_token_id=3
    )
    starts = given | {"decoder_input_ids": torch.full((2, 1), 3)}
    steps = running.steps(starts)
    found = torch.cat([next(steps) for _ in range(20)], 1)
    assert torch.equal(found[:, :-1], text[:, 1:-1])  # BART forces the last one
    assert len(text.unique()) > 4


@pytest.mark.slow
def test_onnx_does_not_read_a_cache_that_is_switched_off(tmp_path):
    model = share_(
        tiny("t5"), SharingPlan.model_validate({"groups": [{"layers": [0, 1], "stack": "decoder"}]})
    )
    export(model, tmp_path / "out", "onnx")
    running, given = both(tmp_path / "out"), inputs_of(model)
    encoded = running.encode(given)
    logits, *present = running.run(given["decoder_input_ids"], encoded)
    # Optimum fills the past of a first step with zeros
    filled = {name: array * 0 for name, array in running.past(present).items()}
    flag = {"use_cache_branch": np.array([False])}
    ids = {"input_ids": given["decoder_input_ids"].numpy()}
    again = running.decoder.run(["logits"], ids | encoded | filled | flag)[0]
    assert np.array_equal(again, logits)
    # what is given is read, not computed anew from the encoder's states
    changed = {name: array + 1 if ".encoder." in name else array for name, array in filled.items()}
    other = running.decoder.run(
        ["logits"], ids | encoded | changed | {"use_cache_branch": ~np.array([False])}
    )
    assert not np.allclose(other[0], logits)


@pytest.mark.slow
def test_onnx_stores_what_encoder_and_decoder_share_once(tmp_path):
    model = share_params(tiny("t5"), 0, 1, 1, stack="decoder")
    export(model, tmp_path / "out", "onnx")
    places = {
        name: {
            (entry.key, entry.value)
            for tensor in onnx.load(
                tmp_path / "out" / name, load_external_data=False
            ).graph.initializer
            if list(tensor.dims) == list(model.shared.weight.shape)
            for entry in tensor.external_data
        }
        for name in (ENCODER, DECODER)
    }
    assert len(places[ENCODER]) == 3  # file, offset and length of one table
    assert places[ENCODER] == places[DECODER]
    assert (
        tmp_path / "out" / "model.onnx.data"
    ).stat().st_size <= 1.01 * 4 * model.num_parameters()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "format"),
    [
        *[("bert", name) for name in ("shared", "dense", "code", "albert", "onnx")],
        *[("llama", name) for name in ("dense", "code", "gguf", "onnx")],
    ],
)
def test_a_plan_that_leaves_one_layer(tmp_path, family, format):
    model = tiny(family)
    layers = list(range(1, find_stacks(model)["layers"].length))
    plan = SharingPlan.model_validate({"groups": [{"layers": layers, "form": "drop"}]})
    assert export(share_(model, plan), tmp_path / "out", format).difference <= 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("family", ["bert", "llama"])
def test_openvino(tmp_path, family):
    pytest.importorskip("openvino")
    model = share_params(tiny(family), 0, 3, 1)
    exported = export(model, tmp_path / "out", "openvino")
    assert exported.difference <= 1e-5
    # constants once, besides some of the graph's own; the tables of rotary positions are no weights
    assert exported.weights <= 1.05 * 4 * sum(p.numel() for p in model.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("family", ["bert", "llama", "vit"])
def test_executorch(tmp_path, family):
    pytest.importorskip("executorch")
    exported = export(share_params(tiny(family), 1, 2, 1), tmp_path / "out", "executorch")
    apart = export(share_params(tiny(family), 1, 2, 0), tmp_path / "apart", "executorch")
    assert exported.difference <= 1e-5
    assert "one example at a time" in exported.note
    saved = apart.weights - exported.weights
    assert saved == pytest.approx(apart.planned - exported.planned, rel=0.05)


def test_openvino_without_its_package(tmp_path, monkeypatch):
    monkeypatch.setattr(base, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match="the openvino format needs onnx, onnxscript, openvino"):
        export(share_params(tiny("bert"), 1, 4, 0.7), tmp_path / "out", "openvino")


@pytest.mark.slow
def test_onnx_with_tied_embeddings_stores_them_once(tmp_path):
    model = share_params(tiny("gpt2"), 0, 1, 1)
    assert model.lm_head.weight is model.transformer.wte.weight
    export(model, tmp_path / "out", "onnx")
    graph = onnx.load(tmp_path / "out" / "model.onnx").graph
    assert [t.dims for t in graph.initializer].count([99, 48]) == 1
    stored = {t.name for t in graph.initializer}
    assert not [n for n in graph.node if n.op_type == "Transpose" and n.input[0] in stored]


def test_samples_are_what_the_family_reads():
    sizes = {
        family: [{name: tuple(t.shape) for name, t in batch.items()} for batch in samples(model)]
        for family, model in ((name, tiny(name)) for name in ("gpt2", "bart", "whisper"))
    }
    assert sizes["gpt2"][0] == {"input_ids": (2, 8), "attention_mask": (2, 8)}
    assert sizes["bart"][1] == {
        "input_ids": (3, 5),
        "attention_mask": (3, 5),
        "decoder_input_ids": (3, 8),
    }
    # Whisper's encoder has 20 positions here, each of two frames
    assert sizes["whisper"][1] == {"input_features": (3, 8, 40), "decoder_input_ids": (3, 5)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"main_input_name": "input_boxes"},
            "no sample inputs are known for SharedGPT2LMHeadModel",
        ),
        ({"main_input_name": "input_features"}, "the size of the spectrograms that Shared"),
    ],
    ids=["unknown", "unknown size"],
)
def test_a_model_of_unknown_inputs(tmp_path, monkeypatch, change, message):
    model = share_params(tiny("gpt2"), 0, 1, 0.5)
    for name, value in change.items():
        monkeypatch.setattr(type(model), name, value)
    with pytest.raises(ModelError, match=message):
        export(model, tmp_path / "out", "onnx")
    assert list(tmp_path.iterdir()) == []


class Undecided(torch.nn.Module):
    """Does one thing or another, depending on what it is given."""

    def forward(self, hidden):
        return hidden if hidden.sum() > 0 else -hidden


@pytest.mark.slow
def test_what_cannot_be_traced_says_why(tmp_path):
    model = share_params(tiny("bert"), 1, 4, 0.7)
    model.classifier = Undecided()
    with pytest.raises(ModelError, match="as ONNX: Could not guard on data-dependent") as caught:
        export(model, tmp_path / "out", "onnx")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_dropped_layers(tmp_path):
    model = share_(tiny("bert"), SharingPlan.drop([1, 3]))
    for name in ("shared", "dense", "albert"):
        assert export(model, tmp_path / name, name).difference <= 1e-6
    assert json.loads((tmp_path / "dense" / "config.json").read_text())["num_hidden_layers"] == 4


def test_the_model_itself_stays_as_it_was(tmp_path):
    model = share_params(tiny("bert"), 1, 4, 0.7)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.config._name_or_path = model.sharing.base["_name_or_path"] = "/home/me/model"
    for name in ("shared", "dense"):
        export(model, tmp_path / name, name)
        assert "/home/me" not in (tmp_path / name / "config.json").read_text()
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert model.sharing.base["_name_or_path"] == "/home/me/model"


PLAIN_LOAD = """
import json, sys, torch
from transformers import AutoModelForSequenceClassification
inputs = {name: torch.tensor(rows) for name, rows in json.loads(sys.argv[1]).items()}
models = [AutoModelForSequenceClassification.from_pretrained(p).eval() for p in sys.argv[2:]]
assert not {"trainers", "spaces", "search"} & set(sys.modules)
print(json.dumps([model(**inputs).logits.tolist() for model in models]))
"""


@pytest.mark.slow
def test_a_plain_installation_loads_it(tmp_path):
    model = share_(tiny("bert"), whole({"cycle": 2}))
    for name in ("dense", "albert"):
        export(model, tmp_path / name, name)
    rows = json.dumps({key: tensor.tolist() for key, tensor in inputs().items()})
    command = [sys.executable, "-c", PLAIN_LOAD, rows, tmp_path / "dense", tmp_path / "albert"]
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    for found in json.loads(result.stdout.strip().split("\n")[-1]):
        assert torch.allclose(torch.tensor(found), logits(model), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("assign", "numbers", "note"),
    [
        ("one", (6, 1, 1), ""),
        ({"sequence": 3}, (6, 3, 1), ""),
        ({"sequence": 4}, (6, 4, 1), ""),
        ({"cycle": 2}, (3, 1, 2), ""),
        ({"cycle": 3}, (2, 1, 3), ""),
        ({"owners": [0, 0, 0, 0, 1, 1]}, (6, 3, 1), "ALBERT stores 3 layers for this order"),
        ({"cycle_rev": 3}, (6, 6, 1), "ALBERT stores 6 layers for this order, the plan 3."),
    ],
    ids=str,
)
def test_albert_of_whole_layers(tmp_path, assign, numbers, note):
    model = share_(tiny("bert"), whole(assign))
    exported = export(model, tmp_path / "out", "albert")
    assert exported.note.startswith(note) and bool(exported.note) == bool(note)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    names = ("num_hidden_layers", "num_hidden_groups", "inner_group_num")
    assert tuple(config[name] for name in names) == numbers
    albert = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    assert type(albert).__name__ == "AlbertForSequenceClassification"
    assert torch.allclose(logits(albert), logits(model), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("owners", "layers", "groups", "inner", "positions"),
    [
        ([0] * 12, 12, 1, 1, (0,)),
        ([0, 1, 0, 1, 2, 3, 2, 3], 4, 2, 2, (0, 1, 4, 5)),
        ([0, 0, 0, 1, 1], 5, 2, 1, (0, 3)),
        ([0, 0, 1, 2, 2, 3], 6, 4, 1, (0, 2, 3, 5)),
        ([0, 1, 2, 3], 4, 4, 1, (0, 1, 2, 3)),
        ([0, 1, 2, 0, 1, 2], 2, 1, 3, (0, 1, 2)),
    ],
)
def test_the_fewest_layers_that_albert_can_store(owners, layers, groups, inner, positions):
    found = arrange(owners)
    assert (found.num_hidden_layers, found.num_hidden_groups) == (layers, groups)
    assert (found.inner_group_num, found.positions) == (inner, positions)


@pytest.mark.parametrize(
    "head",
    [BertModel, BertForMaskedLM, BertForTokenClassification, BertForQuestionAnswering],
    ids=lambda head: head.__name__,
)
def test_albert_with_other_heads(tmp_path, head):
    torch.manual_seed(0)
    model = share_(head(BertConfig(**SIZES)).eval(), whole())
    exported = export(model, tmp_path / "out", "albert")
    assert exported.difference <= 1e-5
    assert head.__name__.replace("Bert", "Albert") in exported.load("out")


REFUSED = {
    "a partial ratio": (
        lambda: share_params(tiny("bert"), 1, 4, 0.7),
        "attention.self.query of layer 1 is put together from a bank and private weights",
    ),
    "private norms": (
        lambda: share_(tiny("bert"), whole(parts=["attention", "ffn"])),
        "layers 0 and 1 share some tensors and not others, such as attention.*bias",
    ),
    "attention only": (
        lambda: share_(tiny("bert"), SharingPlan.preset("albert-attention")),
        "layers 0 and 1 share some tensors and not others",
    ),
    "roberta": (
        lambda: share_(tiny("roberta"), whole()),
        "only BERT encoders can become ALBERT, and RobertaForSequenceClassification is none",
    ),
    "electra": (
        lambda: share_(tiny("electra"), whole()),
        "only BERT encoders can become ALBERT",
    ),
    "a head that ALBERT lacks": (
        lambda: share_(BertForNextSentencePrediction(BertConfig(**SIZES)), whole()),
        "ALBERT has no head like BertForNextSentencePrediction",
    ),
    "a decoder": (
        lambda: share_(BertModel(BertConfig(**SIZES, is_decoder=True)), whole()),
        "only BERT encoders can become ALBERT",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_albert_cannot_hold(tmp_path, name):
    model, message = REFUSED[name]
    with pytest.raises(ModelError, match=message) as caught:
        export(model(), tmp_path / "out", "albert")
    assert "export as shared, dense or onnx" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_an_unshared_model_is_no_shared_one(tmp_path):
    with pytest.raises(ModelError, match="BertForSequenceClassification shares nothing"):
        export(tiny("bert"), tmp_path / "out")
    assert export(tiny("bert"), tmp_path / "out", "dense").difference <= 1e-6


@pytest.fixture()
def broken(monkeypatch):
    """A format that forgets to write the last layer's weights."""

    def write_wrong(model, folder):
        def reload(path):
            other = load_shared(path)
            torch.nn.init.normal_(other.classifier.weight)
            return answering(other)

        model.save_pretrained(folder)
        return Written(reload, "", tolerance=1e-5)

    monkeypatch.setitem(EXPORTS._entries, "broken", write_wrong)


def test_a_mismatch_is_an_error_and_leaves_nothing(tmp_path, broken):
    model = share_params(tiny("bert"), 1, 4, 0.7)
    with pytest.raises(ModelError, match="the broken export gives other logits than the model"):
        export(model, tmp_path / "out", "broken")
    assert list(tmp_path.iterdir()) == []


def test_nan_is_no_agreement(tmp_path):
    model = share_params(tiny("bert"), 1, 4, 0.7)
    torch.nn.init.constant_(model.classifier.bias, float("nan"))
    with pytest.raises(ModelError, match="they differ by nan, and 1e-05 is allowed"):
        export(model, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_use_is_refused_and_kept(tmp_path):
    model = share_params(tiny("bert"), 1, 4, 0.7)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine").touch()
    for name in ("file", "folder"):
        with pytest.raises(RunError, match=f"{name} exists already"):
            export(model, tmp_path / name)
    with pytest.raises(RunError, match="cannot write .*: Not a directory"):
        export(model, tmp_path / "file" / "below")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder", "mine"]


def test_an_empty_folder_is_taken(tmp_path):
    (tmp_path / "out").mkdir()
    export(share_params(tiny("bert"), 1, 4, 0.7), tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").exists()


@pytest.mark.parametrize("model", [lambda: tiny("bert"), gpt2], ids=["bert", "gpt2"])
def test_products_apart_are_the_same_function(model):
    model = share_params(model(), 0, 3, 0.5)
    (batch, _) = samples(model)
    together = answering(model)(batch)
    with products_apart(model):
        apart = answering(model)(batch)
    assert torch.allclose(apart, together, atol=1e-6, rtol=0)
    assert not torch.equal(apart, together)
    assert torch.equal(answering(model)(batch), together)


@pytest.mark.slow
def test_an_onnx_file_has_each_tensor_once_and_no_paths(tmp_path):
    model = share_(tiny("bert"), whole({"cycle": 2}))
    export(model, tmp_path / "out", "onnx")
    file = tmp_path / "out" / "model.onnx"
    stored = sum(tensor.ByteSize() for tensor in onnx.load(file).graph.initializer)
    counted = 47_234 * 4
    assert sum(p.numel() for p in model.parameters()) * 4 == counted
    assert stored == pytest.approx(counted, rel=0.05)
    assert b".py" not in file.read_bytes()
    session = onnxruntime.InferenceSession(file)
    assert [node.name for node in session.get_outputs()] == ["logits"]
    assert [node.shape for node in session.get_inputs()] == [["batch", "sequence"]] * 3


def test_onnx_without_its_packages(tmp_path, monkeypatch):
    monkeypatch.setattr(base, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match="needs onnx, onnxruntime, onnxscript") as caught:
        export(share_params(tiny("bert"), 1, 4, 0.7), tmp_path / "out", "onnx")
    assert caught.value.hint == "pip install 'sharetune[onnx]'"


@pytest.mark.slow
@pytest.mark.parametrize(("name", "allowed"), [("shared", 1.01), ("albert", 1.03), ("onnx", 1.05)])
def test_tied_bert_base_on_disk(tmp_path, name, allowed):
    torch.manual_seed(0)
    model = share_(BertForSequenceClassification(BertConfig()).eval(), whole(layers="0..11"))
    # 109,483,778 parameters less 11 layers of 7,087,872
    assert sum(p.numel() for p in model.parameters()) == 31_517_186
    export(model, tmp_path / "out", name)
    assert 1.0 <= size(tmp_path / "out") / (4 * 31_517_186) <= allowed


@pytest.mark.slow
@pytest.mark.skipif(not MINILM.exists(), reason="examples/bbc-news/prepare.py makes the model")
@pytest.mark.parametrize("name", ["shared", "dense", "albert", "onnx"])
def test_minilm(tmp_path, name):
    model = AutoModelForSequenceClassification.from_pretrained(MINILM, num_labels=5)
    bank = SharingPlan.range(1, 4, 0.7)
    share_(model, whole({"cycle": 2}) if name == "albert" else bank)
    exported = export(model, tmp_path / "out", name)
    assert exported.difference <= 1e-5
    if name == "onnx":
        counted = 4 * sum(p.numel() for p in model.parameters())
        assert size(tmp_path / "out") <= 1.05 * counted
