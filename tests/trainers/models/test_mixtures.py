"""A mixture of experts is narrowed to its most important experts, and its router with it."""

import copy
import subprocess
import sys

import pytest
import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from transformers import AutoModel, default_data_collator
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from sharetune.spaces import Group, SharingPlan
from sharetune.spaces.errors import ModelError, PlanError
from sharetune.trainers import load_shared, materialize_, share_
from sharetune.trainers.exports.base import export
from sharetune.trainers.exports.code import load_with_code
from sharetune.trainers.measuring.counting import Counting
from sharetune.trainers.measuring.sizes import facts
from sharetune.trainers.models.calibration import record_activations
from sharetune.trainers.models.mixtures import find_mixtures, layer_tensor, reason_to_keep
from sharetune.trainers.models.sample_inputs import samples
from sharetune.trainers.models.structure import find_stacks
from sharetune.trainers.scoring.scorer import Scorer
from sharetune.trainers.tasks.prediction import losses
from sharetune.trainers.training.patience import held_out_loss
from tests.paths import ROOT
from tests.trainers.models.comparing import close, written

sys.path.insert(0, str(ROOT / "benchmarks"))
from tiny_models import answer, build, model_class, small

COUNTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
TOP_K = ("num_experts_per_tok", "moe_topk", "moe_k")

FAMILIES = (
    *("afmoe", "aria_text", "axk1", "axk2", "cohere2_moe", "deepseek_v2", "deepseek_v3"),
    *("deepseek_v32", "ernie4_5_moe", "exaone_moe", "flex_olmo", "flint", "glm4_moe"),
    *("glm4_moe_lite", "glm_moe_dsa", "gpt_oss", "granitemoe", "granitemoe_swa"),
    *("granitemoehybrid", "granitemoeshared", "hy_v3", "hy_v4", "inkling2_text", "jamba"),
    *("kimi_k25", "kolibri1", "laguna", "lfm2_moe", "llama4_text", "mellum", "minimax"),
    *("minimax_m2", "minimax_m3_vl_text", "mistral_large4_text", "mixtral", "olmoe"),
    *("openai_privacy_filter", "phimoe", "qwen2_moe", "qwen3_5_moe_text", "qwen3_moe"),
    *("qwen3_next", "qwen3_vl_moe_text", "solar_open"),
)
REFUSED = {
    "deepseek_v4": "mlp does not run on a made-up token",
    "inkling_text": "have no experts of a known kind",
    "jetmoe": "it has several mixtures of them",
}


def of_eight(family, **settings):
    """A model whose layers have eight experts and send each token to two of them."""
    config = small(CONFIG_MAPPING[family])
    for one in (config, config.get_text_config()):
        for name, number in [*dict.fromkeys(COUNTS, 8).items(), *dict.fromkeys(TOP_K, 2).items()]:
            if hasattr(one, name):
                setattr(one, name, number)
    for name, number in settings.items():
        setattr(config, name, number)
    torch.manual_seed(0)
    model = model_class(config)._from_config(config).eval()
    with torch.no_grad():
        for tensor in model.parameters():
            tensor += 0.1 * torch.randn(tensor.shape, dtype=tensor.dtype)
    return model


def plan(stack="layers[moe]", layers="all", keep=0.5, parts="experts"):
    form = {"narrow": {"keep": keep}}
    group = {"stack": stack, "layers": layers, "parts": parts, "form": form}
    return SharingPlan.model_validate({"groups": [group]})


class Shut(TorchFunctionMode):
    """Sets the logits of some experts to minus infinity, by the router's matrix."""

    def __init__(self, gone):
        super().__init__()
        self.gone = gone

    def __torch_function__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        if func is functional.linear and id(args[1]) in self.gone:
            found = found.clone()
            found[..., self.gone[id(args[1])]] = -torch.inf
        return found


def shut(model, cut):
    """A mode in which `model` does not take the experts that `cut` does not have."""
    gone = {}
    for whole, narrow in zip(find_mixtures(model), find_mixtures(cut), strict=True):
        names = [name for name, _ in whole.router]
        (matrix,) = (n for n in names if layer_tensor(model, n).numel() > whole.experts)
        before, after = layer_tensor(model, matrix), layer_tensor(cut, matrix)
        left = [bool((row == after).all(1).any()) for row in before]
        gone[id(before)] = torch.tensor(left).logical_not().nonzero().flatten()
        assert len(gone[id(before)]) == whole.experts - narrow.experts
        for name in set(names) - {matrix}:  # also what is added to choose experts
            if "correction" in name or "expert_bias" in name:
                bias = layer_tensor(model, name)
                bias.data.view(-1)[gone[id(before)]] = -torch.inf
    return Shut(gone)


def same_as_shut(model, cut):
    found = answer(cut)
    with shut(model, cut):
        expected = answer(model)
    return close(found, expected)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_narrowed_mixture_is_one_whose_router_never_takes_the_others(family):
    model = of_eight(family)
    for name, stack in find_stacks(model).items():
        if stack.experts:
            cut = share_(copy.deepcopy(model), plan(name))
            assert not close(answer(cut), answer(model))
            assert same_as_shut(copy.deepcopy(model), cut)
            recorded = record_activations(model, [samples(model)[0]])
            assert recorded[name, 0, stack.mixtures[0][0].path].shape[1] == 8


@pytest.mark.slow
@pytest.mark.parametrize("family", REFUSED)
def test_a_mixture_of_another_kind_is_refused_with_the_reason(family):
    model = of_eight(family)
    name = next(name for name, stack in find_stacks(model).items() if stack.experts)
    with pytest.raises(PlanError, match=REFUSED[family]):
        share_(model, plan(name))


@pytest.mark.slow
@pytest.mark.parametrize(
    "family", ["deepseek_v3", "gpt_oss", "jamba", "llama4_text", "mixtral", "qwen3_next"]
)
def test_layers_that_keep_unlike_numbers_are_saved_counted_exported_and_write(family, tmp_path):
    model = of_eight(family)
    name = next(name for name, stack in find_stacks(model).items() if stack.experts)
    groups = [plan(name, [0], 0.5).groups[0], plan(name, [1], 0.25).groups[0]]
    model = share_(model, SharingPlan(groups=tuple(groups)))
    assert find_stacks(model)[name].shape.experts[:2] == (4, 2)
    assert written(model, use_cache=True) == written(model, use_cache=False)
    model.save_pretrained(tmp_path / "shared")
    assert torch.equal(answer(load_shared(tmp_path / "shared")), answer(model))
    assert export(model, tmp_path / "code", "code").difference == 0.0
    skeleton = of_eight(family).to("meta")
    skeleton.config._experts_implementation = "batched_mm"
    inputs = {key: value.to("meta") for key, value in samples(skeleton)[0].items()}
    counted = Counting(skeleton, inputs).facts(model.sharing.plan)
    built = share_(copy.deepcopy(skeleton), model.sharing.plan)
    assert counted == facts(skeleton, built, inputs)
    assert counted["parameters"] == model.num_parameters()
    with pytest.raises(ModelError, match="layers have unlike numbers of experts, 2, 4"):
        export(model, tmp_path / "dense", "dense")


@pytest.mark.slow
def test_a_new_process_loads_a_narrowed_mixture(tmp_path):
    model = share_(build("qwen3_moe"), plan())
    model.save_pretrained(tmp_path)
    code = f"import sharetune; print(sharetune.load_shared({str(tmp_path)!r}).num_parameters())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == model.num_parameters()


@pytest.mark.slow
def test_groups_stay_equal_in_size():
    model = of_eight("deepseek_v3", n_group=2, topk_group=1)
    cut = share_(copy.deepcopy(model), plan())
    assert find_stacks(cut)["layers[moe]"].shape.experts == 4
    with pytest.raises(PlanError, match="keep 3 of 8 experts, but its router chooses in 2 groups"):
        share_(copy.deepcopy(model), plan(keep=0.375))
    assert same_as_shut(model, cut)


def test_what_is_removed_is_gone():
    model = build("qwen3_moe")
    before = model.num_parameters()
    share_(model, plan())
    # of three layers 2 of 4 experts, of three matrices 32 x 32, and their rows of the router
    assert before - model.num_parameters() == 3 * 2 * (3 * 32 * 32 + 32)
    assert same_as_shut(build("qwen3_moe"), model)
    assert find_stacks(model)["layers[moe]"].shape.experts == 2


@pytest.mark.slow
def test_what_is_counted_is_what_is_built():
    model = build("qwen3_moe").to("meta")
    model.config._experts_implementation = "batched_mm"
    inputs = {name: value.to("meta") for name, value in samples(model)[0].items()}
    one = plan(layers=[0, 2], parts=["attention", "experts"])
    counted = Counting(model, inputs).facts(one)
    assert counted == facts(model, share_(copy.deepcopy(model), one), inputs)


@pytest.mark.slow
def test_a_linear_router_of_fewer_rows_keeps_layers_in_one_stack():
    model = share_(build("llama4_text"), plan(layers=[1]))
    assert find_stacks(model)["layers[moe]"].shape.experts == (4, 2, 4)
    assert model.model.layers[3].feed_forward.router.out_features == 2


def test_experts_that_give_most_on_real_text_stay():
    model = build("mixtral")
    seen = record_activations(model, [samples(model)[0]])
    given = seen["layers", 0, "mlp"]
    assert given.shape[1] == 4
    most = given.sum(0).topk(2).indices.sort().values
    row = model.model.layers[0].mlp.gate.weight.clone()
    cut = share_(model, plan("layers"), seen)
    assert torch.equal(cut.model.layers[0].mlp.gate.weight, row[most])


def test_what_experts_give_adds_up_to_what_the_mixture_gives():
    model = of_eight("mixtral", num_experts_per_tok=1)
    outputs = []
    mixture = model.model.layers[0].mlp
    mixture.register_forward_hook(lambda _, __, output: outputs.append(output))
    inputs = samples(model)[0]
    seen = record_activations(model, [inputs])
    found = seen["layers", 0, "mlp"].sum(1)
    expected = outputs[0][inputs["attention_mask"].bool()].norm(dim=1)
    assert torch.allclose(found, expected, atol=1e-5)


def test_without_text_experts_of_large_weights_stay():
    model = build("mixtral")
    with torch.no_grad():
        for layer in model.model.layers:
            layer.mlp.experts.down_proj[[0, 3]] *= 10
            kept = layer.mlp.gate.weight[[0, 3]]
    cut = share_(model, plan("layers"))
    assert torch.equal(cut.model.layers[-1].mlp.gate.weight, kept)


def test_narrowed_experts_are_tied():
    groups = [*plan().groups, {"stack": "layers[moe]", "layers": "all", "parts": "experts"}]
    model = share_(build("qwen3_moe"), SharingPlan.model_validate({"groups": groups}))
    (bank,) = model.banks
    assert bank.mlp_experts.down_proj.shape == (2, 32, 32)
    assert find_stacks(model)["layers[moe]"].shape.experts == 2


def looped(stack="layers", **rule):
    group = {"stack": stack, "layers": [1, 2], "times": 2, "assign": "each"} | rule
    return SharingPlan.model_validate({"groups": [group]})


def test_layers_with_experts_run_several_times():
    model = share_(build("mixtral"), looped())
    assert model.num_parameters() == build("mixtral").num_parameters()
    assert find_stacks(model)["layers"].shape.experts == 4
    before = answer(model)
    assert close(answer(materialize_(model)), before)  # tried against a model of six layers, too
    configs = {id(layer.mlp.experts.config) for layer in model.model.layers}
    assert configs == {id(model.config)}


@pytest.mark.slow
@pytest.mark.parametrize("family", ["deepseek_v3", "granitemoe", "mixtral", "qwen3_moe"])
def test_narrowed_and_tied_experts_run_several_times(family, tmp_path):
    model = build(family)
    name = next(name for name, stack in find_stacks(model).items() if stack.experts)
    tied = looped(name, parts=["experts"], assign="one", init="first").groups
    both = SharingPlan(groups=(*plan(name, [1, 2]).groups, *tied))
    share_(model, both)
    model.save_pretrained(tmp_path)
    assert close(answer(load_shared(tmp_path)), answer(model))
    assert written(model, use_cache=True) == written(model, use_cache=False)
    skeleton = build(family).to("meta")
    skeleton.config._experts_implementation = "batched_mm"
    inputs = {key: value.to("meta") for key, value in samples(skeleton)[0].items()}
    counted = Counting(skeleton, inputs).facts(both)
    assert counted == facts(skeleton, share_(copy.deepcopy(skeleton), both), inputs)


def test_a_layer_whose_mixture_has_a_saved_buffer_beside_experts_runs_once():
    with pytest.raises(PlanError, match="because mlp.e_score_correction_bias lies in no module of"):
        share_(build("minimax_m2"), looped())


def test_the_loss_that_balances_experts_counts_all_of_them():
    model = share_(build("mixtral"), plan("layers", [0, 1]))
    inputs = samples(model)[0]
    out = model.train()(**inputs, labels=inputs["input_ids"], output_router_logits=True)
    assert [logits.shape[1] for logits in out.router_logits] == [4, 4, 4, 4]
    assert out.aux_loss > 0
    out.loss.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert model.model.layers[0].mlp.gate.weight.grad.abs().sum() > 0


def test_the_loss_that_balances_experts_is_no_part_of_what_is_measured():
    model = build("mixtral")
    data = [{name: row[0] for name, row in samples(model)[0].items()}]
    data[0]["labels"] = data[0]["input_ids"]
    settings = {"data": data, "collate": default_data_collator}
    expected, alone = losses(model, **settings), held_out_loss(model, data, default_data_collator)
    model.config.output_router_logits = True
    model.router_aux_loss_coef = 1.0
    assert losses(model, **settings) == expected
    assert expected.nats is not None
    assert held_out_loss(model, data, default_data_collator) == alone


def test_a_model_whose_loss_balances_experts_is_scored():
    model = build("mixtral")
    inputs = samples(model)[0]
    batch = inputs | {"labels": inputs["input_ids"]}
    expected = Scorer(model, [batch], {}).score(plan("layers", [3]))
    model.config.output_router_logits = True
    scorer = Scorer(model, [batch], {})
    assert scorer.score(plan("layers", [3])) == expected
    assert scorer.score(SharingPlan()).distance == 0.0


@pytest.mark.slow
def test_exported_code_counts_all_experts_in_the_loss_that_balances_them(tmp_path):
    model = build("mixtral")
    model.config.output_router_logits = True
    share_(model, plan("layers", [0, 1]))
    assert export(model, tmp_path, "code").difference == 0.0
    inputs = samples(model)[0]
    expected = model.train()(**inputs, labels=inputs["input_ids"])
    out = load_with_code(tmp_path).train()(**inputs, labels=inputs["input_ids"])
    assert torch.equal(out.aux_loss, expected.aux_loss)
    body = AutoModel.from_pretrained(tmp_path, trust_remote_code=True)
    logits = body(**inputs, output_router_logits=True).router_logits
    assert [found.shape[1] for found in logits] == [4, 4, 4, 4]


def test_a_dense_model_of_equally_narrowed_layers_has_fewer_experts(tmp_path):
    model = share_(build("mixtral"), plan("layers"))
    exported = export(model, tmp_path / "out", "dense")
    assert (exported.difference, exported.note) == (0.0, "")
    dense = type(materialize_(model)).from_pretrained(tmp_path / "out")
    assert dense.config.num_local_experts == 2


@pytest.mark.slow
@pytest.mark.parametrize("parts", ["attention", "experts"])
def test_a_dense_model_of_fewer_equally_narrowed_layers_is_written(parts, tmp_path):
    narrowed = plan("layers", [0, 2, 3], parts=parts).groups
    gone = Group.model_validate({"stack": "layers", "layers": [1], "form": "drop"})
    model = share_(build("mixtral"), SharingPlan(groups=(*narrowed, gone)))
    assert export(model, tmp_path, "dense").difference == 0.0


def test_a_mixture_that_computes_something_else_with_fewer_experts_is_refused():
    model = build("mixtral")
    kind = type(model.model.layers[0].mlp)

    class Louder(kind):
        def forward(self, hidden):
            return super().forward(hidden) * len(self.gate.weight)

    for layer in model.model.layers:
        layer.mlp.__class__ = Louder
    before = answer(model)
    with pytest.raises(PlanError, match="because mlp computes something else with fewer"):
        share_(model, plan("layers"))
    assert torch.equal(answer(model), before)


def test_experts_of_equal_logits_in_sixteen_bits_are_no_reason_to_keep_all():
    layer = of_eight("mixtral").to(torch.bfloat16).model.layers[0]
    with torch.no_grad():
        layer.mlp.gate.weight[4:] = layer.mlp.gate.weight[4]
        layer.mlp.gate.weight[4:, 0] *= torch.tensor([1.0, 1.01, 1.02, 1.03])
    (mixture,) = find_mixtures(layer)
    before = copy.deepcopy(layer.state_dict())
    assert reason_to_keep(layer, mixture) == ""
    assert all(torch.equal(tensor, before[name]) for name, tensor in layer.state_dict().items())
    assert layer.mlp.experts.down_proj.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("family", "rule", "message", "hint"),
    [
        (
            "qwen3_moe",
            {"stack": "layers[dense]"},
            r"layers 0..1 of stack 'layers\[dense\]' have no experts of a known kind",
            "leave experts out of parts, or name other layers",
        ),
        (
            "deepseek_v3",
            {"keep": 0.25},
            "would keep 1 of 4 experts, but its router chooses 2 for each token",
            "keep 2 or more: keep: 0.5",
        ),
        (
            "qwen3_moe",
            {"parts": ["experts", "norms"]},
            "norms can only be shared whole, but the form is narrow",
            "use form: tie, or leave norms out of parts",
        ),
    ],
)
def test_what_a_mixture_cannot_lose_is_refused(family, rule, message, hint):
    with pytest.raises(PlanError, match=message) as error:
        share_(build(family), plan(**rule))
    assert error.value.hint == hint
