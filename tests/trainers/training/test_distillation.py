"""What is learned from a teacher: closed forms, the cache, and mistakes told beforehand."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch

from sharetune.spaces import Candidate, Recipe
from sharetune.spaces.distillation import Distillation
from sharetune.spaces.errors import ConfigError, ModelError, SharetuneError
from sharetune.spaces.stack_shape import StackShape
from sharetune.trainers.training.distillation import (
    TEACHINGS,
    Answers,
    Distiller,
    Lesson,
    check_teacher,
    layer_map,
    relation,
)
from sharetune.trainers.training.losses import consistency
from sharetune.trainers.training.teachers import Teachers
from sharetune.trainers.training.trainer import TrainingInputs, train
from tests.families import inputs, tiny
from tests.trainers.conftest import RECIPE, candidate, evaluated

ONES = torch.ones(1, 2)


def test_the_gradient_of_soft_targets_at_temperature_two():
    student = torch.tensor([[1.0, 0.0, 0.0]], requires_grad=True)
    teacher = torch.tensor([[0.0, 2.0, 0.0]])
    settings = Distillation(temperature=2.0)
    loss = TEACHINGS["logits"](Answers(student), Answers(teacher), ONES, settings, 1)
    loss.backward()
    # T (softmax(z / T) - softmax(t / T)): 2 ([.451863 .274069 .274069] - [.211942 .576117 .211942])
    expected = torch.tensor([[0.479843, -0.604096, 0.124254]])
    assert torch.allclose(student.grad, expected, atol=1e-5)
    # 4 * sum(t log(t / s)): 4 (.211942 log .469039 + .576117 log 2.102087 + .211942 log .773316)
    assert loss.item() == pytest.approx(0.852313, abs=1e-5)


def test_hidden_states_are_compared_without_padding():
    own = (torch.zeros(1, 2, 4), torch.zeros(1, 2, 4))
    other = tuple(torch.full((1, 2, 4), float(i)) for i in (9, 1, 9, 2))
    mask = torch.tensor([[1, 0]])
    said, told = Answers(torch.zeros(1, 2), own), Answers(torch.zeros(1, 2), other)
    # the second and the fourth of the teacher's: (1 + 4) / 2
    loss = TEACHINGS["hidden"](said, told, mask, Distillation(), 1)
    assert loss.item() == pytest.approx(2.5)


@pytest.mark.parametrize(
    ("student", "teacher", "map"),
    [
        (3, 6, [1, 3, 5]),
        (6, 6, [0, 1, 2, 3, 4, 5]),
        (4, 6, [1, 2, 4, 5]),
        (6, 3, [0, 0, 1, 1, 2, 2]),
    ],
)
def test_layers_stand_side_by_side(student, teacher, map):
    nothing = torch.zeros(1)
    pair = Answers(nothing, (nothing,) * student), Answers(nothing, (nothing,) * teacher)
    assert layer_map(*pair) == map


def test_relations_of_two_tokens():
    # one head of width 4: products 4 and 0 over sqrt(4), so softmax([2, 0]) = [.880797, .119203]
    values = torch.tensor([[[2.0, 0.0, 0.0, 0.0], [0.0, 2.0, 0.0, 0.0]]])
    found = relation(values, 1, ONES).exp()
    assert torch.allclose(found[0, 0, 0], torch.tensor([0.880797, 0.119203]), atol=1e-6)
    flat = (torch.zeros(1, 2, 4),)
    said, told = Answers(flat[0], (), flat), Answers(flat[0], (), (values,))
    # KL([.880797 .119203] || [.5 .5])
    loss = TEACHINGS["relations"](said, told, ONES, Distillation(), 1)
    assert loss.item() == pytest.approx(0.327813, abs=1e-5)


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "gpt-neox"])
def test_a_model_has_nothing_to_learn_from_itself(family):
    torch.manual_seed(0)
    model = tiny(family)
    settings = Distillation(hidden=1.0, relations=1.0, task=0.0, relation_heads=2)
    distiller = Distiller(settings, model, Lesson(tiny(family)))
    given = inputs()
    model(**given, **distiller.requests)  # the library keeps hooks of its own from now on
    before = [len(module._forward_hooks) for module in model.modules()]
    with distiller.listening():
        outputs = model(**given, **distiller.requests)
        assert len(distiller._own) == 3
        loss = distiller.loss(torch.tensor(5.0), outputs, given, 0.0)
    assert loss.item() == pytest.approx(0.0, abs=1e-6)
    assert [len(module._forward_hooks) for module in model.modules()] == before


def test_schedule_and_the_steps_without_labels():
    settings = Distillation(schedule="falling", without_labels=0.25, task=2.0, logits=3.0)
    distiller = Distiller(settings, tiny("bert"), Lesson())
    outputs = type("Outputs", (), {"logits": torch.tensor([[1.0, 0.0, 0.0]])})
    told = {"teacher_logits": (torch.tensor([[0.0, 2.0, 0.0]]),), "input_ids": torch.ones(1, 2)}
    losses = [distiller.loss(torch.tensor(1.0), outputs, told, at).item() for at in (0, 0.5, 1)]
    # 3 * .852313; half of that and the task's 2; the task's 2
    assert losses == pytest.approx([2.556939, 3.278470, 2.0], abs=1e-4)


def test_r_drop_is_the_mean_of_both_divergences():
    even, uneven = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.8, 0.2]]).log()
    # KL(even || uneven) = .223144, KL(uneven || even) = .192745
    assert consistency(even, uneven).item() == pytest.approx(0.207944, abs=1e-5)
    assert consistency(even, even).item() == 0.0


def test_a_teacher_is_trained_once_whoever_asks(evaluator, tmp_path, monkeypatch):
    trained, real = [], Teachers._fine_tune
    monkeypatch.setattr(Teachers, "_fine_tune", lambda *a: (trained.append(1), real(*a))[1])
    teachers = Teachers(evaluator.task, RECIPE.model_copy(update={"steps": 3}))
    settings = Distillation()
    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(teachers.folder, settings) for _ in range(2)]
        folders = {future.result() for future in asked}
    assert (len(trained), len(folders)) == (1, 1)
    split, _ = evaluator.task.splits(12, None)
    (answers,) = teachers.lesson(settings, split).answers.arrays
    logits = torch.from_numpy(answers)
    assert logits.shape == (90, 3)
    rows = [{k: v for k, v in split.rows[i].items() if k != "labels"} for i in (0, 7)]
    with torch.no_grad():
        teacher = evaluator.task.load(folders.pop()).eval()
        assert torch.allclose(teacher(**split.collate(rows)).logits, logits[[0, 7]], atol=1e-5)


@pytest.mark.slow
def test_a_student_comes_near_its_teacher(evaluator, tmp_path):
    settings = Distillation(task=0.0, temperature=1.0)
    taught = candidate(evaluator, distill=settings, steps=40, dropout=0.0)
    found = evaluated(evaluator, taught, tmp_path / "taught")
    assert found.scores.metrics["accuracy"] > 0.6  # no label was seen but by the teacher
    deep = Distillation(hidden=1.0, relations=1.0, schedule="falling", without_labels=0.5)
    both = candidate(evaluator, distill=deep, steps=4, r_drop=1.0, patience=9)
    learnt = replace(evaluator, teacher_recipe=taught.recipe.plain())
    found = evaluated(learnt, both, tmp_path / "deep")
    assert len(found.curve) == 4


@pytest.mark.parametrize(
    "adversary",
    [
        "fgm",
        pytest.param({"pgd": {"steps": 2}}, marks=pytest.mark.slow),
        pytest.param({"freelb": {"steps": 2}}, marks=pytest.mark.slow),
    ],
)
def test_perturbed_steps_train(evaluator, tmp_path, adversary):
    recipe = Recipe.model_validate(RECIPE.model_dump() | {"adversary": adversary, "steps": 12})
    found = evaluated(evaluator, Candidate(recipe=recipe), tmp_path)
    assert found.curve[-1][1] < found.curve[0][1]


def test_a_recipe_that_distils_needs_a_teacher():
    with pytest.raises(ConfigError, match="the recipe distils, but there is no teacher"):
        train(None, Recipe(distill={}), TrainingInputs([], None, 1))
    with pytest.raises(SharetuneError, match="distillation without labels needs a term of the te"):
        Distillation(logits=0, without_labels=0.5)


@pytest.mark.parametrize(
    ("settings", "change", "message"),
    [
        ({}, {"num_labels": 5}, "has other labels than the student"),
        ({}, {"vocab_size": 7}, "has other tokens than the student: 7, not 99"),
        ({"hidden": 1.0}, {"hidden_size": 24}, "has other hidden features"),
        ({"relations": 1.0, "relation_heads": 5}, {}, "cannot be divided into 5 relation heads"),
    ],
)
def test_teachers_that_do_not_fit(settings, change, message):
    student, teacher = tiny("bert"), tiny("bert")
    for key, value in change.items():
        setattr(teacher.config, key, value)
    with pytest.raises(ModelError, match=message):
        check_teacher(student, teacher, Distillation(**settings), ["a", "b"])
    check_teacher(student, tiny("bert"), Distillation(), ["a", "b"])


def test_a_teacher_that_names_the_student_s_labels_fits():
    student, teacher = tiny("bert"), tiny("bert")
    teacher.config.id2label = {0: "a", 1: "b"}
    check_teacher(student, teacher, Distillation(), ("a", "b"))
    with pytest.raises(ModelError, match="has other labels than the student"):
        check_teacher(student, teacher, Distillation(), ("b", "a"))


def test_a_missing_teacher_is_told_before_anything_is_trained(evaluator):
    with pytest.raises(ModelError, match="no such folder: /nowhere"):
        evaluator.refuse([candidate(evaluator, distill=Distillation(teacher="/nowhere"))])


def test_distillation_without_effect_is_none():
    stacks = {"layers": StackShape(depth=6, heads=12, neurons=1536)}
    nothing = Candidate(recipe=Recipe(distill={"logits": 0})).bound(stacks)
    assert nothing == Candidate().bound(stacks)
    hot = {"logits": 0, "hidden": 1.0, "temperature": 9.0}
    assert Candidate(recipe=Recipe(distill=hot)).bound(stacks).recipe.distill.temperature == 2.0
