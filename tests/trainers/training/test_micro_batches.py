"""A batch in parts has the gradients of the whole batch, whatever the parts count."""

import numpy as np
import pytest
import torch

from sharetune.spaces import SharingPlan
from sharetune.trainers.training.cached_answers import CachedAnswers
from sharetune.trainers.training.distillation import Lesson
from sharetune.trainers.training.micro_batches import (
    SHARES,
    SPARE,
    Shares,
    equal_part,
    most_that_fit,
    share_out,
)
from tests.families import tiny
from tests.trainers.conftest import candidate, evaluated
from tests.trainers.training.gradients import BANK, apart, gradients, padded, shared, texts

CLASSES = "bert"
TOKENS = "llama"


def in_parts(family, size, **recipe):
    labelled, soften = family == CLASSES, recipe.get("soften")
    lesson = Lesson(tiny(family)) if "distill" in recipe else None
    plan = SharingPlan.range(0, 2, 0.5, stack="decoder") if family == "marian" else BANK
    model = shared(family, plan, schedule=soften)
    collate = translated if family == "marian" else padded
    return gradients(model, texts(labelled), collate, lesson, micro_batch=size, **recipe)


def translated(rows):
    """A batch of a translation, whose decoder reads what it is to write."""
    batch = padded(rows)
    return batch | {"decoder_input_ids": batch["input_ids"]}


QUICK = [(TOKENS, {})]
SLOW = [
    (CLASSES, {"distill": {"logits": 1.0, "hidden": 1.0}}),
    (TOKENS, {"bank_l2": 1e-2, "gradient_checkpointing": True}),
    (TOKENS, {"distill": {"logits": 0, "hidden": 1.0, "relations": 1.0}}),
    ("marian", {}),
    ("marian", {"distill": {"logits": 0, "hidden": 1.0, "relations": 1.0}}),
    (CLASSES, {"label_smoothing": 0.1}),
    (CLASSES, {"r_drop": 1.0}),
    (CLASSES, {"adversary": "fgm"}),
    (CLASSES, {"adversary": {"freelb": {"start": 0.0}}}),
    (CLASSES, {"soften": "pull", "pull": 0.5}),
]


@pytest.mark.parametrize(
    ("family", "recipe"),
    [*QUICK, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)],
    ids=lambda value: value if isinstance(value, str) else "+".join(value) or "plain",
)
def test_parts_change_no_gradient_by_more_than_a_millionth(family, recipe):
    whole = in_parts(family, None, **recipe)
    largest = max(float(gradient.abs().max()) for gradient in whole.values())
    assert largest > 1e-2
    assert apart(whole, in_parts(family, 4, **recipe)) < 1e-6
    assert apart(whole, in_parts(family, 1, **recipe)) < 1e-6


def test_the_mean_of_the_parts_means_would_be_another():
    """The texts are of 3 to 10 tokens: were halves weighted alike, gradients would move by 3 %."""
    model, rows = shared(TOKENS).train(), texts(labelled=False)
    halves = share_out([padded(rows[:4]), padded(rows[4:])], model)
    # predicted tokens: 0 + 3 + 4 + 5 and 6 + 7 + 8 + 9; all tokens: 3 + 4 + 5 + 6 and 7 + .. + 10
    assert [half[SHARES].labels for half in halves] == [2 * 12 / 42, 2 * 30 / 42]
    assert [half[SHARES].tokens for half in halves] == [2 * 18 / 52, 2 * 34 / 52]
    assert [half[SHARES].examples for half in halves] == [1.0, 1.0]


def test_a_part_that_counts_nothing_has_a_loss_that_is_a_number():
    rows = texts(labelled=False)
    first, rest = share_out([padded(rows[:1]), padded(rows[1:])], shared(TOKENS))
    assert (first[SHARES].labels, rest[SHARES].labels) == (0.0, 2.0)
    assert first["labels"].tolist() == [[0, 0, 0]]
    spare = padded(rows[1:3]) | {SPARE: torch.tensor(True)}
    _, none = share_out([padded(rows[1:]), spare], shared(TOKENS))
    assert none[SHARES] == Shares(0.0, 0.0, 0.0)
    assert SPARE not in none


@pytest.mark.parametrize(
    ("batch", "most", "part"),
    [(16, 8, 8), (16, 5, 4), (15, 7, 5), (17, 8, 1), (8, 99, 8), (1, 0, 1)],
)
def test_parts_divide_the_batch(batch, most, part):
    assert equal_part(batch, most) == part


def test_memory_rises_with_the_examples():
    """2 examples take 700 bytes and 4 take 900: 100 each. 80 % of 2,000 leave room for 11."""
    assert most_that_fit(lambda n: 500.0 + 100 * n, 2000, 32) == 11
    assert most_that_fit(lambda n: 500.0 + 100 * n, 100, 32) == 1
    assert most_that_fit(lambda _: 500.0, 100, 32) == 32


@pytest.mark.slow
def test_finding_the_parts_changes_nothing(evaluator, tmp_path, monkeypatch):
    """With dropout, a schedule and a tiny model, of which the whole batch fits."""
    plan, soft = SharingPlan.range(1, 2, 0.5), {"soften": "interpolate", "steps": 6}
    given = evaluated(evaluator, candidate(evaluator, plan, **soft), tmp_path / "0")
    found = candidate(evaluator, plan, micro_batch="auto", **soft)
    found = evaluated(evaluator, found, tmp_path / "1")
    assert (found.scores, found.curve) == (given.scores, given.curve)
    assert "accumulation" not in found.circumstances

    where = "sharetune.trainers.training.trainer."
    monkeypatch.setattr(where + "free_memory", lambda device: 5000.0)
    monkeypatch.setattr(
        where + "memory_rise", lambda device, use: [use(), 1000.0 * sizes.pop(0)][1]
    )
    sizes = [2, 2, 4]
    small = candidate(evaluator, plan, micro_batch="auto", **soft)
    small = evaluated(evaluator, small, tmp_path / "2")
    assert small.circumstances["accumulation"] == 2  # 4 of 8 examples fit into 80 % of 5,000 bytes


def test_cached_answers_go_in_parts():
    told = np.linspace(-1, 1, 42 * 99, dtype=np.float32).reshape(42, 99)
    starts = np.cumsum([0, 0, *range(3, 10)])  # the first text counts nothing
    lesson = Lesson(answers=CachedAnswers((told,), starts), counted=next_tokens)
    rows, recipe = texts(labelled=False), {"distill": {"temperature": 1.0}}
    whole, parts = (
        gradients(shared(TOKENS), rows, padded, lesson, micro_batch=size, **recipe)
        for size in (None, 1)
    )
    assert apart(whole, parts) < 1e-6


def next_tokens(model, logits, batch):
    return logits[:, :-1][batch["labels"][:, 1:] != -100]
