"""What is off costs nothing: the plain step is the library's own."""

from functools import wraps

from transformers import Trainer

from sharetune.spaces import Recipe
from sharetune.trainers.training.arguments import arguments
from sharetune.trainers.training.trainer import CandidateTrainer
from tests.trainers.conftest import RECIPE


def test_the_plain_step_is_the_librarys(evaluator, tmp_path, monkeypatch):
    """One forward pass a step, no hook, and nothing of our own on the way."""
    split, _ = evaluator.task.splits(12, None)
    model = evaluator.task.load()
    passes, steps = [], []
    real = Trainer.training_step
    monkeypatch.setattr(Trainer, "training_step", lambda *a: (steps.append(1), real(*a))[1])
    forward = model.forward
    counted = wraps(forward)(lambda **k: (passes.append(1), forward(**k))[1])
    monkeypatch.setattr(model, "forward", counted)
    trainer = CandidateTrainer(
        recipe=RECIPE,
        lesson=None,
        model=model,
        args=arguments(RECIPE, str(tmp_path), 3),
        train_dataset=split.rows,
        data_collator=split.collate,
    )
    assert trainer.plain_loss
    trainer.train()
    assert (len(steps), len(passes)) == (3, 3)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert trainer.args.remove_unused_columns
    assert trainer.label_smoother is None


def test_what_is_on_is_not_plain(evaluator, tmp_path):
    model = evaluator.task.load()
    for changes in ({"r_drop": 1.0}, {"bank_l2": 1.0}):
        recipe = Recipe(**changes, steps=1)
        args = arguments(recipe, str(tmp_path), 1)
        trainer = CandidateTrainer(recipe=recipe, lesson=None, model=model, args=args)
        assert not trainer.plain_loss
