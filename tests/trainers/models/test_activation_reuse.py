"""Keys, values and scores of another layer: the same function as the papers', counted, refused."""

import copy
import threading

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from sharetune.spaces import SharingPlan
from sharetune.spaces.errors import ModelError, PlanError, SharetuneError
from sharetune.trainers import is_shared, load_shared, materialize_, share_
from sharetune.trainers.exports.base import export
from sharetune.trainers.measuring.sizes import facts, parameters
from sharetune.trainers.models.activation_reuse import handovers
from sharetune.trainers.models.softening import soft_layers
from sharetune.trainers.models.structure import Slot, find_stacks
from tests.families import CONFIGS, FAMILIES, inputs, inputs_of, labels_of, logits, tiny

KV = {"reuse": {"what": "kv"}}
SCORES = {"reuse": {"what": "scores"}}
REENTRANT = {"use_reentrant": True}


def plan(form, layers="all", **group):
    return SharingPlan.model_validate({"groups": [{"layers": layers, "form": form, **group}]})


def reused(family, form, **group):
    return share_(tiny(family), plan(form, units="first", **group))


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_readers_attend_to_the_owners_keys_and_values(family):
    dense = tiny(family)
    (stack,) = find_stacks(dense).values()
    for slot in stack.slots:
        if slot.role in ("k", "v"):
            kept = []
            first, *others = (layer.get_submodule(slot.path) for layer in stack.layers)
            first.register_forward_hook(lambda _, __, output, kept=kept: kept.append(output))
            for other in others:
                other.register_forward_hook(lambda _, __, ___, kept=kept: kept[-1])
    assert torch.equal(logits(reused(family, KV)), logits(dense))


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_layers_that_reuse_scores_have_the_owners_probabilities(family):
    model = reused(family, SCORES, assign={"sequence": 2})
    model.set_attn_implementation("eager")
    with torch.no_grad():
        found = model(**inputs(), output_attentions=True).attentions
    half = len(found) // 2
    for bank in (found[:half], found[half:]):
        assert all(torch.equal(bank[0], other) for other in bank[1:])
    assert not torch.allclose(found[0], found[half], atol=1e-3)


@pytest.mark.parametrize(
    ("family", "form", "saved"),
    [
        # 48 x 48 and a bias, twice, in 5 of 6 layers
        ("bert", KV, 5 * 2 * 2_352),
        ("bert", SCORES, 5 * 2 * 2_352),
        # two KV groups of 12 rows; queries of 48; no biases; in 3 of 4 layers
        ("llama", KV, 3 * 2 * 24 * 48),
        ("llama", SCORES, 3 * (24 + 48) * 48),
        # rows of fused matrices
        ("gpt2", KV, 3 * 2 * 2_352),
        ("gpt-neox", SCORES, 3 * 2 * 2_352),
        ("modernbert", KV, 3 * 2 * 2_304),
    ],
    ids=str,
)
def test_readers_store_no_projections(family, form, saved):
    before, after = tiny(family), reused(family, form)
    assert parameters([before]) - parameters([after]) == saved


def test_facts_count_what_is_gone():
    with torch.device("meta"):
        config = copy.deepcopy(CONFIGS["bert"])
        model = AutoModelForSequenceClassification.from_config(config, attn_implementation="eager")
    ids = {"input_ids": torch.ones(1, 8, dtype=torch.long, device="meta")}
    before = facts(model, copy.deepcopy(model), ids)
    after = facts(model, share_(copy.deepcopy(model), plan(KV)), ids)
    # 2 of a layer's 8 times 48 x 48, in all but one layer, for 8 tokens
    assert after["effective_ratio"] == 0.25
    assert before["flops"] - after["flops"] == 5 * 2 * 2 * 8 * 2_304


def test_rows_of_fused_matrices():
    by_section = Slot("qkv", ("q", "k", "v"), 0, 2, (4, 2, 2))
    assert by_section.rows(("k", "v")) == [4, 5, 6, 7]
    by_head = Slot("query_key_value", ("q", "k", "v"), 0, 2, (12,))
    assert by_head.rows(("q", "k")) == [0, 1, 2, 3, 6, 7, 8, 9]
    assert Slot("k", ("k",), 0, 2, (3,)).rows(("k", "v")) == [0, 1, 2]


def test_other_groups_share_what_is_left():
    both = [{"layers": "1..4", "form": KV}, {"layers": "1..4", "parts": ["q", "o", "ffn"]}]
    model = share_(tiny("bert"), SharingPlan.model_validate({"groups": both}))
    # 2,352 each: k and v of three layers; q and o less their biases; two of 48 x 96
    assert parameters([tiny("bert")]) - parameters([model]) == 3 * (4_704 + 4_608 + 9_216)


def test_nothing_is_held_after_a_pass_and_passes_do_not_meet():
    model = reused("bert", KV)
    one, two = inputs(2), inputs(3)
    with torch.no_grad():
        expected = [model(**given).logits for given in (one, two)]
    barrier = threading.Barrier(2, timeout=60)
    model.bert.encoder.layer[0].register_forward_hook(lambda *_: barrier.wait() * 0 or None)
    found = [None, None]

    def run(i, given):
        with torch.no_grad():
            found[i] = model(**given).logits

    threads = [threading.Thread(target=run, args=case) for case in enumerate((one, two))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert len(handovers(model)) == 2
    assert all(handover.tensor is None for handover in handovers(model))


def gradients_of_two_passes(model):
    """Both forward passes come before the backward pass."""
    losses = [model(**inputs(n), labels=labels_of(model, n)).loss for n in (2, 3)]
    sum(losses).backward()
    return [parameter.grad for parameter in model.parameters()]


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_:FutureWarning")
def test_replayed_layers_find_what_their_own_pass_handed_on():
    plain, replayed = reused("bert", KV).eval(), reused("bert", KV).eval()
    replayed.gradient_checkpointing_enable()
    replayed = copy.deepcopy(replayed)
    for module in replayed.modules():
        module.training = hasattr(module, "gradient_checkpointing")
    pairs = zip(gradients_of_two_passes(plain), gradients_of_two_passes(replayed), strict=True)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in pairs)
    assert all(handover.tensor is None for handover in handovers(replayed))


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_:FutureWarning")
def test_checkpointing_that_cannot_replay_is_refused():
    with pytest.raises(ModelError, match="with reentrant gradient checkpointing"):
        reused("bert", KV).gradient_checkpointing_enable(REENTRANT)
    early = tiny("bert")
    early.gradient_checkpointing_enable()
    model = share_(early, plan(KV)).train()
    loss = model(**inputs(), labels=labels_of(model)).loss
    with pytest.raises(ModelError, match="reuses what an earlier one has not computed"):
        loss.backward()


def test_reuse_stays_when_the_rest_is_materialised(tmp_path):
    groups = [
        {"layers": [4], "form": "drop"},
        {"layers": [0, 5], "form": "tie"},
        {"layers": [1, 2, 3], "form": KV},
        {"layers": [1, 2, 3], "parts": "ffn", "form": {"bank": {"ratio": 0.5}}},
    ]
    model = share_(tiny("bert"), SharingPlan.model_validate({"groups": groups}))
    before = logits(model)
    materialize_(model)
    assert is_shared(model)
    assert str(model.sharing.plan) == "layers 1..3 reuse kv"
    assert torch.allclose(logits(model), before, atol=1e-6)
    model.save_pretrained(tmp_path)
    loaded = load_shared(tmp_path)
    assert torch.equal(logits(loaded), logits(model))
    assert loaded.config.num_hidden_layers == 5


@pytest.mark.parametrize(
    ("format", "message"),
    [
        ("dense", "have no dense form: layers 0..5 reuse kv"),
        ("albert", "layers reuse nothing, but attention.self.key of layer 1 does"),
    ],
)
def test_formats_that_cannot_hold_it(format, message, tmp_path):
    with pytest.raises(ModelError, match=message):
        export(reused("bert", KV), tmp_path / "out", format)


def test_schedules_soften_what_has_a_matrix():
    groups = [{"layers": "1..4", "form": KV}, {"layers": "1..4", "parts": "ffn"}]
    plans = SharingPlan.model_validate({"groups": groups})
    model = share_(tiny("bert"), plans, schedule="interpolate")
    assert len(soft_layers(model)) == 4 * 2
    assert logits(model).isfinite().all()


def test_models_that_skip_layers_are_refused():
    auto, config = FAMILIES["wav2vec2"]
    config = copy.deepcopy(config)
    config.layerdrop = 0.1
    with pytest.raises(PlanError, match="training skips layers at random: layerdrop=0.1"):
        share_(auto.from_config(config), plan(KV))


def test_plans_of_the_same_model_are_equal():
    assert plan(KV, "1..4", parts="attention") == plan(KV, "1..4", units="best-match")
    assert plan(KV, "1..4", init="last") == plan(KV, "1..4")
    assert SharingPlan.from_yaml(plan(SCORES, "1..4").to_yaml()) == plan(SCORES, "1..4")
    with pytest.raises(SharetuneError, match="reuse takes k and v, but got parts"):
        plan(KV, "1..4", parts=["k", "ffn"])


@pytest.mark.slow
@pytest.mark.parametrize(
    "family", [name for name in FAMILIES if name != "swin" and "deberta" not in name]
)
def test_scores_of_every_family_train_and_generate(family, tmp_path):
    model = tiny(family)
    groups = [{"stack": name, "layers": "all", "form": SCORES} for name in find_stacks(model)]
    share_(model, SharingPlan.model_validate({"groups": groups}))
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(load_shared(tmp_path)), logits(model))
    model(**inputs_of(model), labels=labels_of(model)).loss.backward()
    assert all(p.grad is not None for n, p in model.named_parameters() if ".q" in n)
    if model.can_generate():
        given = {name: t for name, t in inputs_of(model).items() if "decoder" not in name}
        length = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False}
        with_cache = model.generate(**given, **length, use_cache=True)
        assert torch.equal(with_cache, model.generate(**given, **length, use_cache=False))
