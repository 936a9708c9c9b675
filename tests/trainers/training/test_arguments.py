"""The library trains as the recipe says: precision, memory, optimiser and schedule."""

import pytest
import torch
from transformers import TrainerCallback

from sharetune.spaces import Recipe, SharingPlan
from sharetune.spaces.errors import ConfigError, ModelError
from sharetune.spaces.evaluator import JobResources
from sharetune.trainers.training.arguments import arguments, refuse_untrainable, used_precision
from sharetune.trainers.training.distillation import Lesson
from sharetune.trainers.training.trainer import (
    CandidateTrainer,
    TrainingInputs,
    optimiser_steps,
    train,
)
from tests.families import tiny
from tests.trainers.conftest import candidate, evaluated
from tests.trainers.training.gradients import apart, gradients, padded, shared, texts

WARM = {"learning_rate": 1.0, "steps": 10, "warmup_ratio": 0.2}


def rates(tmp_path, **recipe):
    """The learning rates of ten steps, of which two warm up."""
    wanted = Recipe.model_validate(WARM | recipe)
    args = arguments(wanted, str(tmp_path), 10)
    trainer = CandidateTrainer(recipe=wanted, lesson=None, model=tiny("bert"), args=args)
    trainer.create_optimizer_and_scheduler(10)
    found = []
    for _ in range(10):
        found.append(trainer.lr_scheduler.get_last_lr()[0])
        trainer.optimizer.step()
        trainer.lr_scheduler.step()
    return found


@pytest.mark.parametrize(
    ("scheduler", "after"),
    [
        ("linear", [1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]),
        ("cosine", [1, 0.96194, 0.853553, 0.691342, 0.5, 0.308658, 0.146447, 0.03806]),
        ("constant", [1] * 8),
        ("warmup-stable-decay", [1] * 7 + [0.292893]),  # 1 - sqrt(1 / 2)
    ],
)
def test_the_learning_rate_goes_as_the_scheduler_says(tmp_path, scheduler, after):
    assert rates(tmp_path, scheduler=scheduler) == pytest.approx([0, 0.5, *after], abs=1e-5)


@pytest.mark.parametrize(
    ("optimizer", "state"), [("adamw", 2 * 48 * 99), ("adafactor", 48 + 99)], ids=str
)
def test_the_optimiser_keeps_as_much_as_it_should(tmp_path, optimizer, state):
    """AdamW keeps two numbers for each of an embedding's; Adafactor one for each row and column."""
    wanted = Recipe(optimizer=optimizer, steps=1, batch_size=8, warmup_ratio=0.0, learning_rate=0.1)
    model, kept = shared("bert"), {}
    before = model.get_input_embeddings().weight.clone()

    class Seen(CandidateTrainer):
        def _finalize_training(self, *given):
            words = self.optimizer.state[self.model.get_input_embeddings().weight]
            tensors = [x for x in words.values() if torch.is_tensor(x) and x.dim()]
            kept["numbers"] = sum(tensor.numel() for tensor in tensors)
            return super()._finalize_training(*given)

    trainer = Seen(
        recipe=wanted,
        lesson=None,
        model=model,
        args=arguments(wanted, str(tmp_path), 1),
        train_dataset=texts(labelled=True),
        data_collator=padded,
    )
    trainer.train()
    assert kept["numbers"] == state
    assert not torch.equal(before, model.get_input_embeddings().weight)


def test_8_bit_adamw_keeps_bytes_of_large_matrices_and_learns():
    pytest.importorskip("bitsandbytes")
    recipe = {"optimizer": "adamw-8bit", "steps": 5, "batch_size": 8, "learning_rate": 1e-2}
    kinds = {}

    class Seen(TrainerCallback):
        def on_train_end(self, args, state, control, optimizer=None, **_):
            kinds.update({p.numel(): s["state1"].dtype for p, s in optimizer.state.items()})

    inputs = TrainingInputs(texts(labelled=True), padded, 5, callbacks=[Seen()])
    tied = shared("bert", SharingPlan.range(0, 3, 1.0))
    losses = [loss for _, loss in train(tied, Recipe.model_validate(recipe), inputs)]
    assert losses[-1] < 0.5 * losses[0]
    assert kinds[48 * 96] == torch.uint8  # an FFN's matrix; those below 4,096 numbers stay exact
    assert kinds[48] == torch.float32


def test_what_cannot_be_done_is_refused_before_anything_is_trained(evaluator, monkeypatch):
    monkeypatch.setattr("sharetune.trainers.training.arguments.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="adamw-8bit needs the package bitsandbytes") as mistake:
        evaluator.refuse([candidate(evaluator, optimizer="adamw-8bit")])
    assert "pip install 'sharetune[bitsandbytes]'" in mistake.value.hint
    rigid = tiny("bert")
    rigid.supports_gradient_checkpointing = False
    with pytest.raises(ModelError, match="BertForSequenceClassification cannot recompute"):
        refuse_untrainable(Recipe(gradient_checkpointing=True), rigid)


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_without_a_gpu_auto_is_float32_and_float16_a_mistake(evaluator):
    assert used_precision(Recipe(precision="auto")) == "float32"
    with pytest.raises(ConfigError, match="float16 needs a GPU"):
        evaluator.rehearse(candidate(evaluator, precision="float16"), JobResources())


@pytest.mark.slow
def test_bfloat16_rounds_products_but_no_weights(evaluator, tmp_path):
    plan = SharingPlan.range(1, 2, 0.5)
    exact, rounded = (
        evaluated(evaluator, candidate(evaluator, plan, precision=name, steps=20), tmp_path / name)
        for name in ("float32", "bfloat16")
    )
    assert exact.circumstances["precision"] == "float32"
    assert rounded.circumstances["precision"] == "bfloat16"
    assert rounded.circumstances["dtype"] == "float32"
    assert rounded.curve != exact.curve
    assert [loss for _, loss in rounded.curve] == pytest.approx(
        [loss for _, loss in exact.curve], abs=0.03
    )


def test_training_leaves_nothing_but_weights_at_a_model():
    recipe = {"precision": "bfloat16", "gradient_checkpointing": True}
    model = shared("llama")
    before = [len(module._forward_hooks) for module in model.modules()]
    gradients(model, texts(labelled=False), padded, **recipe)
    assert not {"forward", "_original_forward"} & vars(model).keys()
    assert not any(getattr(m, "gradient_checkpointing", False) for m in model.modules())
    assert [len(module._forward_hooks) for module in model.modules()] == before
    assert {p.dtype for p in model.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("family", "recipe"),
    [
        ("llama", {"bank_l2": 1e-2}),
        pytest.param("llama", {"soften": "interpolate"}, marks=pytest.mark.slow),
        pytest.param("bert", {"adversary": "pgd"}, marks=pytest.mark.slow),
        pytest.param("bert", {"r_drop": 1.0, "dropout": 0.1}, marks=pytest.mark.slow),
        pytest.param(
            "llama",
            {"distill": {"logits": 0, "hidden": 1.0, "relations": 1.0}},
            marks=pytest.mark.slow,
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "+".join(value),
)
def test_recomputed_layers_have_equal_gradients(family, recipe):
    found = []
    for recomputes in (False, True):
        torch.manual_seed(5)
        model = shared(family, schedule=recipe.get("soften"))
        lesson = Lesson(tiny(family)) if "distill" in recipe else None
        rows, also = texts(family == "bert"), {"gradient_checkpointing": recomputes}
        torch.manual_seed(5)
        found.append(gradients(model, rows, padded, lesson, **recipe | also))
    assert apart(*found) < 1e-6


def test_the_gradient_is_scaled_down_to_its_norm():
    rows = texts(labelled=True)
    free, held = (gradients(shared("bert"), rows, padded, max_grad_norm=n) for n in (0, 0.01))

    def norm(found):
        return float(torch.stack([g.norm() for g in found.values()]).norm())

    assert norm(free) > 0.1
    assert norm(held) == pytest.approx(0.01, rel=1e-3)


def test_a_training_in_tokens(evaluator):
    """Texts of 3 to 10 tokens, 52 in all: 104 are two passes of two batches."""
    from datasets import Dataset

    rows = Dataset.from_list(texts(labelled=True))
    assert optimiser_steps(Recipe(tokens=104, batch_size=4), rows) == 4
    assert optimiser_steps(Recipe(tokens=1, batch_size=4), rows) == 1
    with pytest.raises(ConfigError, match="this task's examples have none"):
        optimiser_steps(Recipe(tokens=104), range(8))
    evaluator.refuse([candidate(evaluator, steps=None, tokens=1000)])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_trains_in_bfloat16_as_in_float32():
    """With a batch in parts that free memory sets, recomputed layers and a shared bank."""
    assert used_precision(Recipe(precision="auto")) == "bfloat16"
    curves = []
    for precision in ("float32", "bfloat16"):
        wanted = Recipe(
            precision=precision, micro_batch="auto", steps=20, batch_size=8, learning_rate=1e-3
        )
        inputs = TrainingInputs(texts(labelled=False), padded, 20)
        curves.append([loss for _, loss in train(shared("llama"), wanted, inputs)])
    assert curves[0] == pytest.approx(curves[1], rel=0.02)
    assert curves[1][-1] < curves[1][0]


@pytest.mark.slow
def test_bfloat16_ends_where_float32_does_on_three_seeds(evaluator, tmp_path):
    """The two differ by less than the seeds do."""
    ends = {"float32": [], "bfloat16": []}
    for seed in range(3):
        for precision, found in ends.items():
            wanted = candidate(evaluator, precision=precision, seed=seed, dropout=0.0)
            folder = tmp_path / f"{precision}-{seed}"
            found.append(evaluated(evaluator, wanted, folder).scores.metrics["eval_loss"])
    gaps = [half - whole for half, whole in zip(ends["bfloat16"], ends["float32"], strict=True)]
    assert any(gaps)
    assert max(map(abs, gaps)) < max(ends["float32"]) - min(ends["float32"])
