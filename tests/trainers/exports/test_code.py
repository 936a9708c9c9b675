"""A folder with its own code loads with transformers alone, and computes what the model does."""

import ast

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    BertModel,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    ViTImageProcessor,
)

from sharetune.spaces import SharingPlan
from sharetune.spaces.errors import ModelError
from sharetune.spaces.forms import FORMS
from sharetune.trainers import share_, share_params
from sharetune.trainers.compression.quantisation import (
    DynamicInt8Linear,
    Int4Linear,
    Int8Linear,
    quantise_,
)
from sharetune.trainers.exports.base import export
from sharetune.trainers.exports.code import MODULE, load_with_code
from sharetune.trainers.exports.source import AVAILABLE, source_of
from sharetune.trainers.models.modules import SharedLinear, linear
from sharetune.trainers.models.structure import find_stacks
from tests.checkpoint import write_checkpoint
from tests.families import FAMILIES, inputs, inputs_of, logits, tiny
from tests.trainers.exports.bare import Case, bare_python, loaded_alone, write_answer

KNOBS = {
    "bank": {"bank": {"ratio": 0.5}},
    "lowrank": {"lowrank": {"rank": 2, "diagonal": True, "heads": True}},
    "basis": {"basis": {"rank": 8}},
    "atoms": {"atoms": {"count": 2}},
    "narrow": {"narrow": {"keep": 0.5}},
    "reuse": {"reuse": {"what": "kv"}},
}
RULES = {name: {"form": KNOBS.get(name, name)} for name in FORMS} | {
    "scores": {"form": {"reuse": {"what": "scores"}}},
    "narrow ffn": {"form": KNOBS["narrow"], "parts": ["ffn"]},
    "norms": {"parts": ["attention", "ffn", "norms", "biases"]},
    "loop": {"times": 2, "assign": "each"},
    "loop of a bank": {"times": 2, "order": "layer", "form": KNOBS["bank"]},
}
"""A group of each form, and of layers that run again."""

QUICK = ("tie", "bank", "narrow", "loop")


def shared(family, rule, layers=(0, 1)):
    """A model of one group of two layers in each of its stacks."""
    model = tiny(family)
    groups = [{"layers": layers, **RULES[rule], "stack": stack} for stack in find_stacks(model)]
    return share_(model, SharingPlan.model_validate({"groups": groups}))


def test_every_form_has_a_rule():
    assert set(FORMS) <= set(RULES)


@pytest.mark.parametrize(
    "rule",
    [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in RULES],
)
def test_a_decoder(tmp_path, rule):
    model = shared("llama", rule)
    assert export(model, tmp_path / "out", "code").difference == 0
    loaded = load_with_code(tmp_path / "out")
    assert set(loaded.state_dict()) == set(model.state_dict())
    prompt = inputs()["input_ids"][:1]
    settings = {"max_new_tokens": 12, "do_sample": False}
    cached = loaded.generate(prompt, **settings)
    assert cached.tolist() == loaded.generate(prompt, **settings, use_cache=False).tolist()
    assert cached.tolist() == model.generate(prompt, **settings).tolist()


@pytest.mark.parametrize(("family", "rule"), [("bert", "norms"), ("t5", "bank"), ("vit", "bank")])
def test_other_kinds_of_models(tmp_path, family, rule):
    assert export(shared(family, rule), tmp_path / "out", "code").difference == 0


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("rule", RULES)
def test_every_family_and_form(tmp_path, family, rule):
    try:
        model = shared(family, rule)
    except ValueError:
        pytest.skip("the plan does not fit the family")
    assert export(model, tmp_path / "out", "code").difference <= 1e-5


@pytest.mark.parametrize("kind", [Int8Linear, DynamicInt8Linear, Int4Linear])
def test_few_bits(tmp_path, kind):
    model = shared("llama", "bank")
    quantise_(model, kind)
    assert export(model, tmp_path / "out", "code").difference == 0


def test_the_file_needs_torch_and_transformers_alone(tmp_path):
    export(shared("llama", "tie"), tmp_path / "out", "code")
    tree = ast.parse((tmp_path / "out" / f"{MODULE}.py").read_text())
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {getattr(node, "module", None) or node.names[0].name for node in found}
    assert {"torch", "transformers.models.llama.modeling_llama"} <= names
    assert {name.split(".")[0] for name in names} <= AVAILABLE
    assert "LowRankLinear" not in {getattr(node, "name", "") for node in tree.body}


def test_banks_are_stored_once(tmp_path):
    model = shared("llama", "tie")
    export(model, tmp_path / "out", "code")
    stored = load_file(tmp_path / "out" / "model.safetensors")
    # 92,880 parameters, less the 20,736 of one layer's matrices
    assert sum(tensor.numel() for tensor in stored.values()) == 72_144
    assert sum(parameter.numel() for parameter in tiny("llama").parameters()) == 92_880


@pytest.mark.parametrize("change", ["missing", "shape"])
def test_no_tensor_is_random(tmp_path, change):
    export(shared("llama", "bank"), tmp_path / "out", "code")
    file = tmp_path / "out" / "model.safetensors"
    tensors = load_file(file)
    name = "banks.0.mlp_up_proj.weight"
    tensor = tensors.pop(name)
    save_file(tensors | ({name: tensor[1:]} if change == "shape" else {}), file, {"format": "pt"})
    with pytest.raises((ModelError, RuntimeError, ValueError), match="mlp_up_proj|shape|mismatch"):
        load_with_code(tmp_path / "out")


def test_the_unshared_class_finds_no_weights(tmp_path):
    export(shared("llama", "bank"), tmp_path / "out", "code")
    with pytest.raises(OSError, match="weights-are-read-with-trust_remote_code"):
        LlamaForCausalLM.from_pretrained(tmp_path / "out")
    with pytest.raises(ValueError, match="trust_remote_code"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "out", trust_remote_code=False)


def test_saved_again(tmp_path):
    model = shared("vit", "bank")
    export(model, tmp_path / "out", "code")
    loaded = load_with_code(tmp_path / "out")
    loaded.save_pretrained(tmp_path / "again")
    code = (tmp_path / "out" / f"{MODULE}.py").read_text()
    (tmp_path / "again" / f"{MODULE}.py").write_text(code)
    assert torch.equal(logits(load_with_code(tmp_path / "again")), logits(model))


def test_on_one_device(tmp_path):
    export(shared("llama", "bank"), tmp_path / "out", "code")
    assert load_with_code(tmp_path / "out", device_map="auto").device.type == "cpu"
    # the file defines its own ModelError
    with pytest.raises(ValueError, match="lies on one device, but got device_map='balanced'"):
        load_with_code(tmp_path / "out", device_map="balanced")


def test_a_class_of_the_users_own(tmp_path):
    class MyBert(BertModel):
        """A model that no other machine knows."""

    model = share_params(MyBert(tiny("bert").config).eval(), 0, 1, 0.5)
    with pytest.raises(ModelError, match="MyBert has no auto class of transformers"):
        export(model, tmp_path / "out", "code")
    with pytest.raises(ModelError, match="shares nothing"):
        export(tiny("bert"), tmp_path / "out", "code")


class Halved(SharedLinear):
    """A reader of another's form: half of its bank."""

    @property
    def weight(self):
        """The half."""
        return HALF * self.entry.weight


HALF = 0.5


def test_a_reader_of_another_module(tmp_path):
    model = shared("bert", "tie")
    for path, module in list(model.named_modules()):
        if isinstance(module, SharedLinear):
            halved = Halved(module._banks[0], module._key, module.own_bias)
            model.set_submodule(path, halved)
    assert export(model, tmp_path / "out", "code").difference == 0
    assert "HALF = 0.5" in (tmp_path / "out" / f"{MODULE}.py").read_text()


def test_a_reader_that_code_cannot_be_written_of(tmp_path):
    class Inner(SharedLinear):
        weight = SharedLinear.weight

    with pytest.raises(ModelError, match="defines Inner elsewhere"):
        source_of([Inner])


class Needy(SharedLinear):
    """A reader that needs another package."""

    @property
    def weight(self):
        """A matrix by way of a file."""
        return pytest.importorskip("numpy")


def test_a_reader_that_needs_another_package():
    with pytest.raises(ModelError, match="with torch and transformers alone, but needs pytest"):
        source_of([Needy])


def test_what_is_read_first_is_written_first():
    text = source_of([Halved])
    names = [node.name for node in ast.parse(text).body if isinstance(node, ast.ClassDef)]
    assert names.index("BankReader") < names.index("SharedLinear") < names.index("Halved")
    space: dict = {}
    exec(compile(text, "file", "exec"), space)
    bank = torch.nn.ModuleDict({"key": linear(torch.ones(2, 3))})
    assert space["Halved"](bank, "key", None)(torch.ones(1, 3)).tolist() == [[1.5, 1.5]]


AUTOS = {
    "llama": ("AutoModelForCausalLM", "text-generation"),
    "bert": ("AutoModelForSequenceClassification", "text-classification"),
    "t5": ("AutoModelForSeq2SeqLM", ""),  # transformers has no pipeline for it any more
    "vit": ("AutoModelForImageClassification", "image-classification"),
}
"""The auto class of a family and the task of its pipeline."""

ALONE = ("bank", "tie", "lowrank", "narrow", "drop", "loop")
"""Rules of the next test; T5's heads cannot be removed, as its position biases count on them."""


@pytest.mark.slow
@pytest.mark.parametrize("family", AUTOS)
def test_an_environment_of_torch_and_transformers(tmp_path, family):
    reader = PreTrainedTokenizerFast.from_pretrained(write_checkpoint(tmp_path / "reader"))
    if family == "vit":
        reader = ViTImageProcessor(size={"height": 16, "width": 16})
    cases = []
    for rule in ALONE:
        own = "narrow ffn" if (family, rule) == ("t5", "narrow") else rule
        model = shared(family, own, layers=(1, 2))  # T5's first layer has its position biases
        folder = tmp_path / rule
        export(model, folder, "code", reader=reader)
        answer = write_answer(tmp_path / f"{rule}.pt", inputs_of(model), logits(model))
        cases.append(Case(str(folder), *AUTOS[family], answer))
    found = loaded_alone(bare_python(tmp_path / "bare"), cases, tmp_path)
    assert len(found) == 6
    for record in found:
        assert record["difference"] <= 1e-5
        assert record.get("is_cached_right", True)
        assert "tensors of Shared" in record["missing"]
        assert record.get("pipeline") or family == "t5"


@pytest.mark.parametrize("rule", ["bank", "tie", "lowrank", "loop"])
def test_lora(tmp_path, rule):
    peft = pytest.importorskip("peft")
    model = shared("llama", rule)
    export(model, tmp_path / "out", "code")
    rules = {"r": 2, "init_lora_weights": False}
    names = peft.LoraConfig(target_modules=["q_proj", "v_proj"], **rules)
    adapted = peft.get_peft_model(load_with_code(tmp_path / "out"), names)
    assert not torch.allclose(logits(adapted), logits(model))
    adapted(**inputs(), labels=inputs()["input_ids"]).loss.backward()
    trained = [p for p in adapted.parameters() if p.requires_grad]
    positions = 6 if rule == "loop" else 4
    assert len(trained) == 4 * positions  # A and B of q and v
    assert all(parameter.grad is not None for parameter in trained)
    adapted.save_pretrained(tmp_path / "adapter")
    again = peft.PeftModel.from_pretrained(load_with_code(tmp_path / "out"), tmp_path / "adapter")
    assert torch.equal(logits(again), logits(adapted.eval()))


def test_adapters_on_banks_are_refused(tmp_path):
    peft = pytest.importorskip("peft")
    model = share_params(tiny("llama"), 0, 1, 1)
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules="all-linear"))
    with pytest.raises(ModelError, match="a bank's matrix cannot have an adapter"):
        logits(adapted)


@pytest.mark.parametrize("rule", ["bank", "tie", "lowrank", "loop"])
@pytest.mark.parametrize("safe", [False, True])
def test_adapters_cannot_be_merged_into_shared_weights(tmp_path, rule, safe):
    peft = pytest.importorskip("peft")
    model = shared("llama", rule)
    export(model, tmp_path / "out", "code")
    rules = peft.LoraConfig(target_modules=["q_proj"], r=2, init_lora_weights=False)
    adapted = peft.get_peft_model(load_with_code(tmp_path / "out"), rules).eval()
    before = logits(adapted)
    with pytest.raises(ValueError, match="several layers read cannot be changed at one of them"):
        adapted.merge_adapter(safe_merge=safe)
    with pytest.raises(ValueError, match="several layers read cannot be changed at one of them"):
        adapted.merge_and_unload(safe_merge=safe)
    assert torch.allclose(logits(adapted.base_model.model), before, atol=1e-5)


def test_adapters_of_private_layers_are_merged(tmp_path):
    peft = pytest.importorskip("peft")
    model = shared("llama", "tie")
    rules = peft.LoraConfig(
        target_modules=r".*layers\.[23]\..*q_proj", r=2, init_lora_weights=False
    )
    adapted = peft.get_peft_model(model, rules).eval()
    before = logits(adapted)
    assert torch.allclose(logits(adapted.merge_and_unload()), before, atol=1e-5)


def test_an_adapter_that_reads_the_weights(tmp_path):
    peft = pytest.importorskip("peft")
    model = shared("llama", "bank")
    before = logits(model)
    rules = peft.LoraConfig(target_modules=["q_proj"], r=2, use_dora=True)
    assert torch.allclose(logits(peft.get_peft_model(model, rules).eval()), before, atol=1e-5)
