"""Plans in one line each: made, drawn, compared, counted, and put to use."""

import pytest
import torch
from transformers import MixtralConfig, MixtralForCausalLM

from sharetune import SharingPlan, draw, plans, share, share_params
from sharetune.spaces.errors import ConfigError, PlanError, SharetuneError
from tests.checkpoint import write_checkpoint
from tests.families import tiny


@pytest.fixture(scope="module")
def model():
    return tiny("bert")


def test_plans_are_made_in_one_line():
    assert plans.bank("1..4", 0.7) == SharingPlan.range(1, 4, 0.7)
    assert plans.drop([1, 2]) == SharingPlan.drop([1, 2])
    assert str(plans.tie("1..2", parts=["ffn"])) == "1..2 tie ffn from mean"
    assert str(plans.narrow(3, 0.5)) == "3 narrow 0.5 attention+ffn"
    assert plans.preset("sandwich") == plans.read("sandwich")
    joined = plans.join(plans.drop(0), plans.tie("1..2"))
    assert [str(group.form.name) for group in joined.groups] == ["drop", "tie"]


def test_a_plan_is_read_from_whatever_says_it(tmp_path):
    plan = plans.bank("1..2", 0.5)
    (tmp_path / "plan.yaml").write_text(plan.to_yaml())
    for given in (plan, plan.written(), plan.to_yaml(), tmp_path / "plan.yaml"):
        assert plans.read(given) == plan


def test_a_plan_is_drawn_on_a_model_with_what_it_stores(model, tmp_path):
    drawn = draw("albert-all", model)
    assert "<svg" in drawn._repr_html_() and "A 100 %" in str(drawn)
    assert drawn.sizes.index[0] == "unshared"
    assert drawn.sizes["parameters"].iloc[0] == model.num_parameters()
    assert drawn.sizes["effective_ratio"].tolist() == [0.0, 1.0]
    on_disk = draw("albert-all", write_checkpoint(tmp_path / "model"))
    assert on_disk.sizes["parameters"].iloc[0] > on_disk.sizes["parameters"].iloc[1]


def test_parts_that_no_plan_changes_are_named():
    sizes = {"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2}
    sizes |= {"vocab_size": 64, "num_hidden_layers": 3, "intermediate_size": 64}
    mixture = MixtralForCausalLM(MixtralConfig(**sizes, num_local_experts=4))
    drawn = draw(plans.bank("0..2", 0.5), mixture)
    for shown in (str(drawn), drawn._repr_html_()):
        assert "No plan shares or narrows the ffn of stack" in shown


def test_two_plans_are_compared(model):
    both = plans.compare("albert-ffn", plans.drop(1), model)
    assert len(both.pictures) == 2 and len(both.sizes) == 3
    assert both.sizes["of_unshared"].iloc[0] == 1.0


def test_what_a_plan_stores_is_what_a_shared_model_stores(model):
    plan = plans.bank("0..1", 0.5)
    smaller = share(model, plan)
    assert plans.count(plan, model)["parameters"] == smaller.num_parameters()
    assert smaller.num_parameters() < model.num_parameters()
    with torch.no_grad():
        assert smaller(torch.tensor([[1, 2, 3]])).logits.shape == (1, 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: plans.bank("1..4", 1.7), "ratio: input should be less than or equal to 1"),
        (lambda m: plans.bank("1..4", "x"), "ratio: input should be a valid number"),
        (lambda m: plans.tie("5..2"), "5..2"),
        (lambda m: plans.tie("0..1", part="ffn"), "unknown key"),
        (lambda m: share_params(m, 0, 1, 1.7), "ratio: input should be less than or equal to 1"),
        (lambda m: SharingPlan.drop(["a"]), "Group: layers"),
        (lambda m: share(m, "albert"), "unknown preset: 'albert'"),
        (lambda m: share(m, {"group": []}), "the plan: group: unknown key"),
        (lambda m: draw(7, m), "a plan is a SharingPlan, a mapping, a file or a preset, but got 7"),
        (lambda m: draw(plans.tie("0..99"), m), "99"),
    ],
)
def test_a_wrong_argument_is_one_sentence(model, call, message):
    with pytest.raises((ConfigError, PlanError, SharetuneError)) as caught:
        call(model)
    assert message in caught.value.message, caught.value.message
    assert "\n" not in caught.value.message and "pydantic" not in str(caught.value)


@pytest.mark.parametrize("tokens", [0, -1, 2.5, True, 10**15], ids=str)
def test_more_or_fewer_tokens_than_a_model_reads_are_refused(tokens):
    with pytest.raises(ConfigError, match=f"^tokens is {tokens}"):
        plans.count("albert-all", tiny("bert"), tokens)
