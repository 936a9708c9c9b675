"""What a training step costs with each part of the recipe, and that it costs nothing without.

    python examples/bbc-news/prepare.py
    python benchmarks/parts.py [--rounds 12] [--only NAME ...]

MiniLM on BBC News, 16 x 48 tokens, all six layers reading 80 % of their units from one bank, one
thread. First the library's own Trainer against ours with every part off, then each part against
that, always in turns. A step is the passes, the clipping and AdamW's update; a teacher's passes
are in it (its logits for `distill logits` are computed ahead, as in a study), its own training is
not. Parts that cost something beside the steps, such as `patience` and `augment`, are left out.
"""

import argparse
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from recipes import BASE, COMBINED, EXAMPLE, PARTS, PLAN
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    Trainer,
    logging,
)

from sharetune.spaces import Recipe, SharingPlan
from sharetune.trainers import share_
from sharetune.trainers.data.tables import read_table
from sharetune.trainers.measuring.latency import summarise, time_in_turns
from sharetune.trainers.models.softening import soft_layers
from sharetune.trainers.models.structure import stack_shapes
from sharetune.trainers.training.arguments import arguments
from sharetune.trainers.training.cached_answers import ANSWERS
from sharetune.trainers.training.distillation import Lesson
from sharetune.trainers.training.dropout import set_dropout_
from sharetune.trainers.training.trainer import CandidateTrainer

BESIDE = ("patience", "augment", "without labels")
STEPS = 10**6


def load() -> PreTrainedModel:
    """MiniLM with five labels."""
    return AutoModelForSequenceClassification.from_pretrained(EXAMPLE / "model", num_labels=5)


def first_articles() -> dict[str, torch.Tensor]:
    """A batch of the size of the ablations, of the corpus's first articles."""
    texts = read_table(str(EXAMPLE / "data/train.csv"), "train")["text"][: BASE["batch_size"]]
    tokenizer = AutoTokenizer.from_pretrained(EXAMPLE / "model")
    length = int(BASE["max_length"])
    batch = tokenizer(texts.tolist(), truncation=True, max_length=length, return_tensors="pt")
    return {**batch, "labels": torch.arange(len(texts)) % 5}


def step_of(
    recipe: Recipe,
    batch: dict[str, torch.Tensor],
    hooks: ExitStack,
    *,
    bare: bool = False,
    plan: SharingPlan = PLAN,
) -> Callable[[], object]:
    """One optimiser step by `recipe`, or by the library's own Trainer if `bare`."""
    model = load()
    plan = plan.keeping_top(recipe.kept_top, stack_shapes(model))
    share_(model, plan, schedule=recipe.soften)
    for layer in soft_layers(model):
        layer.alpha = 0.5
    if recipe.dropout is not None:
        set_dropout_(model, recipe.dropout)
    scratch = hooks.enter_context(tempfile.TemporaryDirectory())
    given: dict[str, Any] = {"model": model, "args": arguments(recipe, scratch, STEPS)}
    if bare:
        trainer = Trainer(**given)
        trainer.create_optimizer = lambda: CandidateTrainer.create_optimizer(trainer)
        trainer.recipe = recipe
    else:
        trainer = CandidateTrainer(recipe=recipe, lesson=_lesson(recipe), **given)
        if trainer.distiller is not None:
            hooks.enter_context(trainer.distiller.listening())
    trainer.model_accepts_loss_kwargs = False
    trainer.current_gradient_accumulation_steps = 1
    trainer.state.max_steps = STEPS
    optimizer = trainer.create_optimizer()
    if recipe.distill is not None and _lesson_is_logits(recipe):
        batch = {**batch, ANSWERS: (torch.randn(len(batch["labels"]), 5),)}

    def step() -> None:
        trainer.training_step(model, dict(batch))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def _lesson_is_logits(recipe: Recipe) -> bool:
    assert recipe.distill is not None
    return not (recipe.distill.hidden or recipe.distill.relations)


def _lesson(recipe: Recipe) -> Lesson | None:
    """An unshared teacher, where its logits alone are not enough; a step costs the same whatever
    it has learned."""
    if recipe.distill is None:
        return None
    return Lesson() if _lesson_is_logits(recipe) else Lesson(load())


def compare(
    name: str,
    recipe: Recipe,
    batch: dict[str, torch.Tensor],
    rounds: int,
    *,
    bare: bool = False,
    plan: SharingPlan = PLAN,
) -> None:
    """One line: `recipe` and `plan` against every part off, by the library's Trainer if `bare`."""
    with ExitStack() as hooks:
        runs = {
            "reference": step_of(Recipe(**BASE), batch, hooks, bare=bare),
            "own": step_of(recipe, batch, hooks, plan=plan),
        }
        times = time_in_turns(runs, rounds=rounds, warmup=1, cuda=False)
    found = summarise(times["own"], times["reference"])
    print(
        f"{name:66} {found.median_ms:9.1f} ms   x {found.ratio:.3f} "
        f"[{found.ratio_low:.3f}, {found.ratio_high:.3f}]",
        flush=True,
    )


def main(rounds: int, only: list[str]) -> None:
    """Times every part."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    batch = first_articles()
    if not only:
        print("against the library's Trainer:")
        compare("nothing", Recipe(**BASE), batch, 3 * rounds, bare=True)
        print("against nothing:")
        compare("unshared", Recipe(**BASE), batch, rounds, plan=SharingPlan())
    for name, changes in (PARTS | COMBINED).items():
        if (only and name not in only) or any(word in name for word in BESIDE):
            continue
        compare(name, Recipe.model_validate({**BASE, **changes}), batch, rounds)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME")
    options = parser.parse_args()
    main(options.rounds, options.only)
