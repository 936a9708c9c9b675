"""Distances are those of the whole model run from its first layer, whatever answers from memory."""

import copy

import pytest
import torch
from torch.nn import functional
from transformers import BertModel
from transformers.modeling_outputs import BaseModelOutput

from sharetune.spaces import SharingPlan
from sharetune.spaces.errors import ModelError, PlanError
from sharetune.spaces.evaluator import Exchange
from sharetune.trainers import share_
from sharetune.trainers.models.structure import find_stacks
from sharetune.trainers.scoring.scorer import Scorer
from tests.families import tiny

IDS = torch.arange(24).reshape(2, 12) % 40 + 3


def batches(family):
    if family == "vit":
        pixels = torch.linspace(-1, 1, 2 * 3 * 16 * 16).reshape(2, 3, 16, 16)
        return [{"pixel_values": pixels}]
    batch = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}
    if family == "t5":
        batch["labels"] = IDS[:, :5].contiguous()
    if family in ("gpt2", "llama"):
        batch["labels"] = IDS
    return [batch, {name: values.flip(1).contiguous() for name, values in batch.items()}]


def whole(model, plan, given):
    """KL of the answers by full passes of two models, the mean over all predictions."""
    shared = share_(copy.deepcopy(model), plan).eval()
    total = count = 0
    for batch in given:
        with torch.no_grad():
            wanted, found = (m(**batch).logits.float().log_softmax(-1) for m in (model, shared))
        total += functional.kl_div(found, wanted, log_target=True, reduction="sum").item()
        count += wanted[..., 0].numel()
    return total / count


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "vit", "t5"])
def test_a_distance_is_that_of_the_whole_model(family):
    model, given = tiny(family).eval(), batches(family)
    scorer = Scorer(model, given, activations={})
    for name, stack in find_stacks(model).items():
        last = len(stack.layers) - 1
        for group in ("layers: {0}..{1}, form: tie, init: first", "layers: [{1}], form: drop"):
            text = f"groups: [{{stack: {name}, {group.format(last - 1, last)}}}]"
            plan = SharingPlan.from_yaml(text)
            found = scorer.score(plan).distance
            assert found == pytest.approx(whole(model, plan, given), rel=1e-3, abs=1e-7)
            assert found > 0


def test_hidden_states_are_compared_where_there_are_no_logits():
    model = BertModel(tiny("bert").config, add_pooling_layer=False).eval()
    given = batches("bert")
    plan = SharingPlan.drop([1])
    found = Scorer(model, given, activations={}).score(plan)
    shared = share_(copy.deepcopy(model), plan).eval()
    errors = []
    for batch in given:
        with torch.no_grad():
            wanted, new = (m(**batch).last_hidden_state for m in (model, shared))
        errors.append(float((new - wanted).square().mean() / wanted.var()))
    assert found.distance == pytest.approx(sum(errors) / 2, rel=1e-3)
    assert found.loss is None


def test_outputs_with_nothing_to_compare_are_refused():
    model = tiny("bert").eval()
    model.forward = lambda *_, **__: BaseModelOutput()
    with pytest.raises(ModelError, match="neither logits nor hidden states"):
        Scorer(model, batches("bert"), activations={})


def test_the_unshared_model_is_at_no_distance_and_stays_as_it_was():
    model = tiny("llama").eval()
    before = {name: values.clone() for name, values in model.state_dict().items()}
    scorer = Scorer(model, batches("llama"))
    assert scorer.score(SharingPlan()).distance == 0.0
    scorer.score(SharingPlan.range(0, 2, 0.5))  # matches units, which moves them
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert scorer.score(SharingPlan()).distance == 0.0


def test_only_positions_that_count_are_compared():
    model = tiny("gpt2").eval()
    (one, _) = batches("gpt2")
    labels = one["labels"].clone()
    labels[:, 4:] = -100
    plan = SharingPlan.drop([2])
    part = Scorer(model, [one | {"labels": labels}], activations={}).score(plan)
    shared = share_(copy.deepcopy(model), plan).eval()
    with torch.no_grad():
        wanted, found = (m(**one).logits[:, :4].log_softmax(-1) for m in (model, shared))
    expected = functional.kl_div(found, wanted, log_target=True, reduction="sum").item() / 8
    assert part.distance == pytest.approx(expected, rel=1e-3)


def test_a_loss_is_reported_where_there_are_labels():
    model = tiny("llama").eval()
    given = batches("llama")
    scorer = Scorer(model, given, activations={})
    with torch.no_grad():
        expected = sum(float(model(**batch).loss) for batch in given) / 2
    assert scorer.score(SharingPlan()).loss == pytest.approx(expected, rel=1e-4)
    assert (
        Scorer(tiny("vit").eval(), batches("vit"), activations={}).score(SharingPlan()).loss is None
    )


def test_a_plan_that_does_not_fit_is_refused():
    with pytest.raises(PlanError):
        Scorer(tiny("bert").eval(), batches("bert"), activations={}).score(SharingPlan.drop([99]))


def test_exchanged_layers_are_the_model_with_their_weights_swapped():
    model = tiny("llama").eval()
    scorer = Scorer(model, batches("llama"))
    found = scorer.score_exchange(Exchange("layers", (1, 3)))
    swapped = copy.deepcopy(model)
    layers = swapped.model.layers
    layers[1], layers[3] = layers[3], layers[1]
    total = count = 0
    for batch in batches("llama"):
        with torch.no_grad():
            wanted, seen = (m(**batch).logits.log_softmax(-1) for m in (model, swapped))
        total += functional.kl_div(seen, wanted, log_target=True, reduction="sum").item()
        count += wanted[..., 0].numel()
    assert found.distance == pytest.approx(total / count, rel=1e-3)
    assert scorer.score(SharingPlan()).distance == 0.0


def test_unlike_layers_are_not_exchanged():
    scorer = Scorer(tiny("t5").eval(), batches("t5"), activations={})
    with pytest.raises(PlanError, match="must be alike, but 0 and 1 of stack 'encoder'"):
        scorer.score_exchange(Exchange("encoder", (0, 1)))
