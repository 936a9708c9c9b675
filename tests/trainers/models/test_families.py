"""Families found by structure: their stacks, what is refused, what is kept private, on disk."""

import copy
import os
import time

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from transformers import AlbertConfig, AlbertModel, GenerationConfig, Phi3Config, Phi3ForCausalLM

from sharetune.spaces import SharingPlan
from sharetune.spaces.errors import ModelError, PlanError
from sharetune.trainers import load_shared, materialize_, share_
from sharetune.trainers.measuring.sizes import facts, parameters
from sharetune.trainers.models.alignment import ORDERS, align_, can_align
from sharetune.trainers.models.calibration import record_activations
from sharetune.trainers.models.structure import attention_path, find_stacks
from sharetune.trainers.models.units import shared_units
from sharetune.trainers.training.parameter_groups import top_parameters
from tests.families import FAMILIES, SHALLOW, inputs, inputs_of, labels_of, logits, tiny

SPLIT = [("q", 0, 4), ("k", 0, 4), ("v", 0, 4), ("o", 1, 4)]
GROUPED = [("q", 0, 2), ("k", 0, 2), ("v", 0, 2), ("o", 1, 2)]
FUSED = [("q+k+v", 0, 4), ("o", 1, 4)]
PLAIN = [("fc_in", 0, 96), ("fc_out", 1, 96)]
GATED = [("gate", 0, 96), ("fc_in", 0, 96), ("fc_out", 1, 96)]
K_FIRST = [("k", 0, 4), ("v", 0, 4), ("q", 0, 4), ("o", 1, 4)]
STACKS = {
    "bert": {"layers": (6, SPLIT + PLAIN)},
    "roberta": {"layers": (6, SPLIT + PLAIN)},
    "electra": {"layers": (6, SPLIT + PLAIN)},
    "distilbert": {"layers": (6, SPLIT + PLAIN)},
    "deberta-v2": {"layers": (4, SPLIT + PLAIN)},
    "deberta-v2-own-positions": {"layers": (4, SPLIT + PLAIN)},
    "modernbert": {"layers": (4, [*FUSED, ("fc_in+gate", 0, 96), ("fc_out", 1, 96)])},
    "gpt2": {"layers": (4, [*FUSED, ("fc_in", 0, 192), ("fc_out", 1, 192)])},
    "gpt-neox": {"layers": (4, FUSED + PLAIN)},
    "opt": {"layers": (4, K_FIRST + PLAIN)},
    "llama": {"layers": (4, GROUPED + GATED)},
    "qwen2": {"layers": (4, GROUPED + GATED)},
    "t5": {"encoder": (4, SPLIT + PLAIN), "decoder": (3, SPLIT + SPLIT + PLAIN)},
    "t5-gated": {"encoder": (4, SPLIT + GATED), "decoder": (3, SPLIT + SPLIT + GATED)},
    "bart": {"encoder": (4, K_FIRST + PLAIN), "decoder": (3, K_FIRST + K_FIRST + PLAIN)},
    "marian": {"encoder": (4, K_FIRST + PLAIN), "decoder": (3, K_FIRST + K_FIRST + PLAIN)},
    "whisper": {"encoder": (4, K_FIRST + PLAIN), "decoder": (3, K_FIRST + K_FIRST + PLAIN)},
    "wav2vec2": {"layers": (4, K_FIRST + PLAIN)},
    "hubert": {"layers": (4, K_FIRST + PLAIN)},
    "vit": {"layers": (4, SPLIT + PLAIN)},
    "deit": {"layers": (4, SPLIT + PLAIN)},
    "swin": {
        "stage0": (2, [*GROUPED, ("fc_in", 0, 32), ("fc_out", 1, 32)]),
        "stage2": (2, [*SPLIT, ("fc_in", 0, 128), ("fc_out", 1, 128)]),
    },
}
HEADS_STAY = {"t5", "t5-gated", "swin", "deberta-v2-own-positions"}
TEXT = [name for name in FAMILIES if tiny(name).main_input_name == "input_ids"]
KINDS = {"bert", "gpt2", "llama", "t5"}  # an encoder, fused matrices, grouped heads, two stacks


def plan(model, form, layers="all", **group):
    """The same group in every stack."""
    groups = [{"stack": s, "layers": layers, "form": form, **group} for s in find_stacks(model)]
    return SharingPlan.model_validate({"groups": groups})


def test_every_family_is_listed():
    assert STACKS.keys() == FAMILIES.keys()


@pytest.mark.parametrize("family", STACKS)
def test_stacks_roles_and_units(family):
    found = {
        name: (stack.shape.depth, [("+".join(s.roles), s.axis, s.units) for s in stack.slots])
        for name, stack in find_stacks(tiny(family)).items()
    }
    assert found == STACKS[family]


@pytest.mark.parametrize(
    ("family", "sections"),
    [("gpt2", (48, 48, 48)), ("gpt-neox", (144,)), ("modernbert", (48, 48, 48))],
)
def test_fused_matrices_have_a_section_a_role_unless_they_go_by_head(family, sections):
    assert find_stacks(tiny(family))["layers"].slots[0].sections == sections


def test_a_family_nobody_thought_of_is_found_by_structure():
    config = Phi3Config(**SHALLOW, num_key_value_heads=2, pad_token_id=0)
    slots = find_stacks(Phi3ForCausalLM(config))["layers"].slots
    found = [("+".join(s.roles), s.axis, s.units, s.sections) for s in slots]
    assert found == [
        ("q+k+v", 0, 2, (48, 24, 24)),
        ("o", 1, 2, (48,)),
        ("fc_in+gate", 0, 96, (96, 96)),
        ("fc_out", 1, 96, (96,)),
    ]


@pytest.mark.parametrize("ratio", [0.5, 1.0])
@pytest.mark.parametrize("family", ["bert", "gpt2", "t5"])
def test_a_shared_model_has_the_stacks_it_had(family, ratio):
    model = tiny(family)
    before = {name: (s.path, s.slots) for name, s in find_stacks(model).items()}
    share_(model, plan(model, {"bank": {"ratio": ratio}}))
    assert {name: (s.path, s.slots) for name, s in find_stacks(model).items()} == before


def test_private_top_layers_are_found_beside_shared_ones():
    model = share_(tiny("bert"), SharingPlan.range(0, 4, 1.0))
    top = top_parameters(model, 1)
    assert len(top) == 16
    assert all(name.startswith("bert.encoder.layer.5.") for name in top)


def test_albert_is_shared_by_design():
    model = AlbertModel(AlbertConfig(**SHALLOW, embedding_size=16))
    with pytest.raises(ModelError, match="shares its weights already, by design: its 4 layers re"):
        find_stacks(model)


def test_albert_with_a_group_a_layer_is_not():
    model = AlbertModel(AlbertConfig(**SHALLOW, embedding_size=16, num_hidden_groups=4))
    assert find_stacks(model)["layers"].shape.depth == 4


def test_a_model_without_a_list_of_layers_is_refused():
    model = tiny("bert")
    model.bert.encoder.layer = nn.ModuleList([model.bert.encoder.layer[0], nn.Linear(48, 48)])
    model.config.num_hidden_layers = 2
    with pytest.raises(ModelError, match="no stack of at least two layers of one shape"):
        find_stacks(model)


@pytest.mark.parametrize(
    ("family", "parts", "message"),
    [
        ("gpt2", ["q", "o"], "attn.c_attn of stack 'layers' holds q, k, v in one matrix, but"),
        ("gpt-neox", ["k", "v"], "parts name only k, v"),
        ("modernbert", ["gate"], "mlp.Wi of stack 'layers' holds fc_in, gate in one matrix, but"),
    ],
)
def test_part_of_a_fused_matrix_is_refused_and_nothing_is_changed(family, parts, message):
    model = tiny(family)
    with pytest.raises(PlanError, match=message):
        share_(model, SharingPlan.range(0, 3, 1.0, parts=parts))
    assert not hasattr(model, "banks")


def test_modernberts_first_norm_is_an_identity_and_stays_one():
    model = share_(tiny("modernbert"), SharingPlan.preset("albert-all"))
    layers = model.model.layers
    assert isinstance(layers[0].attn_norm, nn.Identity)
    assert all(layer.attn_norm.weight is layers[1].attn_norm.weight for layer in layers[1:])
    assert all(layer.mlp_norm.weight is layers[0].mlp_norm.weight for layer in layers)
    # 48 x (144 + 48) + 48 x 192 + 96 x 48, and two norms
    assert parameters([model.banks]) == 23_040 + 96


def test_t5s_relative_bias_stays_with_its_first_block():
    model = share_(tiny("t5"), plan(tiny("t5"), "tie", parts=["attention", "ffn", "norms"]))
    biases = [name for name, _ in model.named_parameters() if "relative_attention_bias" in name]
    path = "block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    assert biases == [f"encoder.{path}", f"decoder.{path}"]


@pytest.mark.parametrize(
    ("family", "dropped", "message"),
    [
        ("t5", [0], "only one of them has layer.0.SelfAttention.relative_attention_bias.weight"),
        ("modernbert", [0], "layer 1 of stack 'layers' cannot take the place of layer 0, because"),
        ("swin", [0], "only one of them has shift_size=0"),
    ],
)
def test_layers_that_only_fit_their_own_place_stay(family, dropped, message):
    model = tiny(family)
    before = logits(model)
    with pytest.raises(PlanError, match=message):
        share_(model, plan(model, "drop", dropped))
    assert torch.equal(logits(model), before)


DEPTHS = {
    "t5": {"num_layers": 3, "num_decoder_layers": 2},
    "bart": {"encoder_layers": 3, "decoder_layers": 2},
    "marian": {"encoder_layers": 3, "decoder_layers": 2},
    "whisper": {"encoder_layers": 3, "decoder_layers": 2},
    "swin": {"depths": [1, 1, 1], "num_layers": 3},
    "distilbert": {"n_layers": 5},
    "gpt2": {"n_layer": 3},
    "llama": {"num_hidden_layers": 3},
    "qwen2": {"num_hidden_layers": 3, "layer_types": ["full_attention"] * 3},
    "modernbert": {"layer_types": ["full_attention", "full_attention", "sliding_attention"]},
}


@pytest.mark.parametrize("family", DEPTHS)
def test_the_configuration_knows_which_layers_are_left(family):
    model = share_(tiny(family), plan(tiny(family), "drop", [1]))
    assert {name: getattr(model.config, name) for name in DEPTHS[family]} == DEPTHS[family]


def test_dropping_one_side_leaves_the_other():
    groups = [{"stack": "decoder", "layers": [1], "form": "drop"}]
    model = share_(tiny("t5"), SharingPlan.model_validate({"groups": groups}))
    assert (model.config.num_layers, model.config.num_decoder_layers) == (4, 2)
    assert (model.encoder.config.num_layers, model.decoder.config.num_layers) == (4, 2)


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "t5", "whisper"])
def test_layers_are_numbered_anew_for_the_cache(family):
    model = share_(tiny(family), plan(tiny(family), "drop", [1]))
    for stack in find_stacks(model).values():
        for place, layer in enumerate(stack.layers):
            found = {m.layer_idx for m in layer.modules() if hasattr(m, "layer_idx")}
            assert found <= {place, None}  # an encoder that has no cache numbers none


@pytest.mark.parametrize("form", ["drop", {"bank": {"ratio": 0.5}}])
@pytest.mark.parametrize("family", FAMILIES)
def test_materialised_models_load_as_ordinary_ones(family, form, tmp_path):
    model = tiny(family)
    dense = materialize_(share_(model, plan(model, form, [1] if form == "drop" else "all")))
    dense.save_pretrained(tmp_path)
    again = type(dense).from_pretrained(tmp_path).eval()
    assert torch.equal(logits(again), logits(dense))


@pytest.mark.parametrize("calibrated", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_units_are_permuted_only_where_the_function_stays(family, calibrated):
    model = tiny(family)
    before = logits(model)
    activations = record_activations(model, [inputs_of(model)]) if calibrated else None
    for stack in find_stacks(model).values():
        layers = dict(enumerate(stack.layers))
        for which in dict.fromkeys(attention_path(slot.path) for slot in stack.slots):
            slots = [slot for slot in stack.slots if attention_path(slot.path) == which]
            assert can_align(stack, slots) == (which == "" or family not in HEADS_STAY)
            if can_align(stack, slots):
                shared = [shared_units(slots[0], 0.5)] * len(stack.layers)
                align_(stack.name, layers, slots, ORDERS["importance"], shared, activations)
    assert torch.allclose(logits(model), before, atol=1e-5)


def test_heads_with_a_norm_over_all_of_them_stay():
    model = tiny("bert")
    for layer in model.bert.encoder.layer:
        layer.attention.self.q_norm = nn.LayerNorm(48)
    stack = find_stacks(model)["layers"]
    attention = [slot for slot in stack.slots if attention_path(slot.path)]
    assert not can_align(stack, attention)
    for layer in model.bert.encoder.layer:
        layer.attention.self.q_norm = nn.LayerNorm(12)
    assert can_align(stack, attention)


def test_neurons_with_a_norm_of_their_own_stay():
    model = tiny("bert")
    for layer in model.bert.encoder.layer:
        layer.intermediate.norm = nn.LayerNorm(96)
    stack = find_stacks(model)["layers"]
    assert not can_align(stack, [slot for slot in stack.slots if not attention_path(slot.path)])


@pytest.mark.parametrize("family", FAMILIES)
def test_auto_classes_load_shared_models(family, tmp_path):
    model = tiny(family)
    share_(model, plan(model, {"bank": {"ratio": 0.5}})).save_pretrained(tmp_path)
    loaded = FAMILIES[family][0].from_pretrained(tmp_path)
    assert type(loaded) is type(model)
    assert torch.equal(logits(loaded), logits(model))


@pytest.mark.parametrize(
    "family",
    [pytest.param(name, marks=[] if name in KINDS else [pytest.mark.slow]) for name in TEXT],
)
def test_facts_need_no_weights(family, tmp_path):
    auto, config = FAMILIES[family]
    with torch.device("meta"):
        unshared, shared = (
            auto.from_config(copy.deepcopy(config), attn_implementation="eager").eval()
            for _ in range(2)
        )
    given = {n: t.to("meta") for n, t in inputs_of(tiny(family)).items() if "mask" not in n}
    known = facts(unshared, share_(shared, plan(shared, "tie")), given)
    real = share_(tiny(family), plan(tiny(family), "tie"))
    real.save_pretrained(tmp_path)
    assert known["parameters"] == parameters([real])
    assert known["bytes"] == os.path.getsize(tmp_path / "model.safetensors")
    assert known["effective_ratio"] == 1.0


def test_generation_settings_come_along(tmp_path):
    model = share_(tiny("gpt2"), plan(tiny("gpt2"), "tie"))
    model.generation_config = GenerationConfig(max_new_tokens=7, eos_token_id=2, bos_token_id=1)
    model.save_pretrained(tmp_path)
    assert load_shared(tmp_path).generation_config.max_new_tokens == 7


def test_tied_embeddings_are_stored_once_and_stay_tied(tmp_path):
    share_(tiny("gpt2"), plan(tiny("gpt2"), "tie")).save_pretrained(tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    loaded = load_shared(tmp_path)
    assert loaded.lm_head.weight is loaded.transformer.wte.weight


def test_models_load_in_the_dtype_they_were_saved_in(tmp_path):
    model = share_(tiny("llama"), plan(tiny("llama"), {"bank": {"ratio": 0.5}}))
    model.to(torch.bfloat16).save_pretrained(tmp_path)
    assert {p.dtype for p in load_shared(tmp_path).parameters()} == {torch.bfloat16}


def test_loading_asks_neither_for_alignment_nor_for_a_decomposition(tmp_path, monkeypatch):
    model = share_(tiny("bert"), plan(tiny("bert"), {"bank": {"ratio": 0.5}}, units="importance"))
    model.save_pretrained(tmp_path)
    monkeypatch.setattr("sharetune.trainers.models.sharing.align_", None)
    assert torch.equal(logits(load_shared(tmp_path)), logits(model))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("transformer.wte.weight"), "2 missing, 0 unexpected, 0 of another"),
        (lambda t: t.update(more=torch.ones(1)), "0 missing, 1 unexpected, 0 .* such as more"),
        (lambda t: t.update({"transformer.ln_f.bias": torch.ones(3)}), "1 of another shape"),
    ],
)
def test_a_file_with_other_tensors_is_refused(change, message, tmp_path):
    share_(tiny("gpt2"), plan(tiny("gpt2"), "tie")).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    change(tensors)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=message):
        load_shared(tmp_path)


FORMS_TRAINED_TOGETHER = {
    "tie": "tie",
    "bank": {"bank": {"ratio": 0.5}},
    "reuse": {"reuse": {"what": "kv"}},
}


def gradients_of_half_a_batch(rank, folder):
    """One process of two: the gradients of its half, averaged over both."""
    torch.set_num_threads(1)
    store = f"file://{folder}/store"
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    for name, form in FORMS_TRAINED_TOGETHER.items():
        gradients = train_on_half(rank, form)
        if rank == 0:
            torch.save(gradients, f"{folder}/{name}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def train_on_half(rank, form):
    """The wrapper is gone when this returns, before the group it talks through is ended."""
    model = share_(tiny("bert"), plan(tiny("bert"), form))
    together = DistributedDataParallel(model)
    mine = {key: tensor.chunk(2)[rank] for key, tensor in inputs(4).items()}
    for _ in range(2):
        # the second pass fails if any parameter took no part in the first
        model.zero_grad()
        together(**mine, labels=labels_of(model, 4).chunk(2)[rank]).loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def run_two_processes(function, *arguments, limit_s=120):
    """Ends both after `limit_s`: gloo's threads have been seen waiting at a process's end."""
    context = torch.multiprocessing.spawn(function, arguments, nprocs=2, join=False)
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline and not context.join(timeout=1):
        pass
    for process in context.processes:
        process.kill()


@pytest.mark.slow
def test_two_processes_find_the_gradients_of_the_joined_batch(tmp_path):
    run_two_processes(gradients_of_half_a_batch, str(tmp_path))
    for name, form in FORMS_TRAINED_TOGETHER.items():
        model = share_(tiny("bert"), plan(tiny("bert"), form))
        model(**inputs(4), labels=labels_of(model, 4)).loss.backward()
        found = torch.load(tmp_path / f"{name}.pt")
        for parameter, gradient in model.named_parameters():
            assert torch.allclose(gradient.grad, found[parameter], atol=1e-6), parameter
