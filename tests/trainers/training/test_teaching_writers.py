"""Distillation of models that write: which tokens count, both stacks, and cached answers."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from sharetune.spaces import Candidate, Recipe
from sharetune.spaces.distillation import Distillation
from sharetune.spaces.errors import ModelError
from sharetune.spaces.evaluator import JobResources
from sharetune.trainers.tasks.base import read_task
from sharetune.trainers.training import teachers as of_teachers
from sharetune.trainers.training.cached_answers import CachedAnswers, Likely, Taught
from sharetune.trainers.training.distillation import Distiller, Lesson
from sharetune.trainers.training.teachers import Teachers, check_tokens
from tests.families import tiny
from tests.trainers.conftest import evaluated
from tests.trainers.tasks.test_tasks import LENGTHS, prepared

RECIPE = Recipe(steps=4, learning_rate=1e-3, batch_size=4, max_length=24, dropout=0.0)
WRITERS = [
    ("text-generation", "llama"),
    ("translation", "t5"),
    ("automatic-speech-recognition", "wav2vec2"),
    ("automatic-speech-recognition", "whisper-second"),
]
RESAMPLED = {"whisper-second": {"resample": True}}


def taught(evaluator, **settings):
    length = LENGTHS.get(evaluator.task.task.name, 24)
    changes = {"distill": Distillation(**settings), "max_length": length}
    return Candidate(recipe=RECIPE.model_copy(update=changes)).bound(evaluator.stacks)


@pytest.fixture(scope="module")
def writer(tmp_path_factory):
    return prepared(tmp_path_factory.mktemp("writer"), "text-generation", "llama")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "family"), WRITERS)
def test_every_writer_learns_from_a_teacher(tmp_path, name, family):
    length = LENGTHS.get(name, 24)
    made = prepared(tmp_path, name, family, length, **RESAMPLED.get(family, {}))
    wanted = taught(made, hidden=1.0, relations=1.0, schedule="falling")
    made.refuse([wanted])
    made.rehearse(wanted, JobResources())
    assert len(evaluated(made, wanted, tmp_path / "run").curve) == 4


@pytest.mark.slow
@pytest.mark.parametrize(("name", "family"), WRITERS)
def test_a_writer_has_nothing_to_learn_from_itself(tmp_path, name, family):
    length = LENGTHS.get(name, 24)
    made = prepared(tmp_path, name, family, length, **RESAMPLED.get(family, {}))
    split, _ = made.task.splits(length, None)
    batch = split.collate([split.rows[i] for i in range(3)])
    settings = Distillation(hidden=1.0, relations=1.0, task=0.0)
    model, lesson = made.task.load().eval(), Lesson(made.task.load(), None, made.task.task.counted)
    distiller = Distiller(settings, model, lesson)
    with distiller.listening():
        outputs = model(**batch, **distiller.requests)
        loss = distiller.loss(outputs.loss, outputs, batch, 0.0)
    assert loss.item() == pytest.approx(0.0, abs=1e-6)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    with distiller.listening():
        outputs = model(**batch, **distiller.requests)
        assert distiller.loss(outputs.loss, outputs, batch, 0.0).item() > 1e-4


def test_the_tokens_that_count_of_a_causal_model():
    task = read_task({"name": "text-generation", "train": "train.csv"})
    logits = torch.arange(8.0).reshape(2, 4, 1)
    labels = torch.tensor([[5, 6, -100, 7], [-100, -100, -100, 9]])
    # labels 6, 7 and 9 are predicted one place before
    assert task.counted(None, logits, {"labels": labels}).flatten().tolist() == [0, 2, 6]


def test_the_tokens_that_count_of_a_decoder():
    task = read_task({"name": "translation", "train": "train.csv"})
    logits = torch.arange(6.0).reshape(2, 3, 1)
    labels = torch.tensor([[5, 6, -100], [7, -100, -100]])
    assert task.counted(None, logits, {"labels": labels}).flatten().tolist() == [0, 1, 3]


def test_a_row_s_length_does_not_weigh():
    settings, model = Distillation(temperature=2.0, task=0.0), tiny("llama")
    task = read_task({"name": "text-generation", "train": "train.csv"})
    distiller = Distiller(settings, model, Lesson(counted=task.counted))
    student, teacher = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([[0.0, 2.0, 0.0]])
    for tokens in (2, 9):
        outputs = type("Outputs", (), {"logits": student.expand(2, tokens, 3)})
        batch = {
            "labels": torch.ones(2, tokens),
            "teacher_logits": (teacher.expand(2 * tokens - 2, 3),),
        }
        # of one prediction, as tests/trainers/training/test_distillation.py has it
        loss = distiller.loss(torch.tensor(1.0), outputs, batch, 0.0)
        assert loss.item() == pytest.approx(0.852313, abs=1e-5)


def test_the_most_likely_classes_and_all_others_as_one():
    teacher = torch.tensor([[0.5, 0.25, 0.125, 0.125]]).log()
    student = torch.tensor([[0.25, 0.25, 0.25, 0.25]]).log()
    likely = Likely.of(teacher, 2, 1.0)
    assert likely.classes.tolist() == [[0, 1]]
    assert likely.logs.exp().tolist() == [pytest.approx([0.5, 0.25, 0.25])]
    own = likely.of_the_same(student)
    assert own.exp().tolist() == [pytest.approx([0.25, 0.25, 0.5])]
    # 0.5 ln 2 + 0.25 ln 1 + 0.25 ln 0.5, less than the 0.215762 of all four classes
    found = functional.kl_div(own, likely.logs, log_target=True, reduction="batchmean")
    assert found.item() == pytest.approx(0.173287, abs=1e-6)


def test_a_gradient_where_a_student_is_almost_sure_is_finite():
    logits = torch.tensor([[40.0, 0.0, 0.0, 0.0]], requires_grad=True)
    likely = Likely.of(torch.tensor([[0.0, 0.0, 0.0, 3.0]]), 1, 1.0)
    own = likely.of_the_same(logits.log_softmax(-1))
    functional.kl_div(own, likely.logs, log_target=True, reduction="sum").backward()
    assert logits.grad.isfinite().all()
    assert logits.grad.abs().max() < 2


def test_rows_held_out_take_their_answers_along():
    answers = CachedAnswers((np.arange(6.0)[:, None],), np.array([0, 2, 3, 6]))
    rows = [{"n": 0}, {"n": 1}, {"n": 2}]
    (found,) = Taught(torch.utils.data.Subset(rows, [2]), answers)[0]["teacher_logits"]
    assert found.flatten().tolist() == [3.0, 4.0, 5.0]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "family"), WRITERS[:2])
def test_cached_answers_train_as_the_teacher_itself_does(tmp_path, monkeypatch, name, family):
    writer = prepared(tmp_path, name, family)
    wanted = taught(writer, temperature=2.0)
    kept = evaluated(writer, wanted, tmp_path / "kept").curve
    split, _ = writer.task.splits(24, None)
    made = Teachers(writer.task, wanted.recipe.plain())
    lesson = made.lesson(wanted.recipe.distill, split)
    assert lesson.teacher is None
    predictions = sum(map(len, split.rows["labels"])) - len(split.rows) * (family == "llama")
    assert lesson.answers.arrays[0].shape == (predictions, writer.task.skeleton.config.vocab_size)
    monkeypatch.setattr(of_teachers, "MOST_CACHED_BYTES", 0)
    assert made.lesson(wanted.recipe.distill, split).teacher is not None
    live = evaluated(writer, wanted, tmp_path / "live").curve
    assert [loss for _, loss in kept] == pytest.approx([loss for _, loss in live], abs=2e-5)


@pytest.mark.slow
def test_answers_that_do_not_fit_are_cut_to_the_most_likely(writer, tmp_path, monkeypatch):
    exact = evaluated(writer, taught(writer), tmp_path / "exact").curve
    monkeypatch.setattr(of_teachers, "MOST_CACHED_BYTES", 0)
    classes = writer.task.skeleton.vocab_size
    # all classes but one, and the others together: nothing is left out
    most = taught(writer, top_k=classes - 1)
    cut = evaluated(writer, most, tmp_path / "cut").curve
    assert [loss for _, loss in cut] == pytest.approx([loss for _, loss in exact], abs=2e-5)
    split, _ = writer.task.splits(24, None)
    made = Teachers(writer.task, most.recipe.plain())
    lesson = made.lesson(most.recipe.distill.model_copy(update={"top_k": 2}), split)
    classes, logs = lesson.answers.arrays
    assert isinstance(classes, np.memmap)
    assert (classes.shape[1], logs.shape[1]) == (2, 3)
    assert np.exp(logs).sum(1) == pytest.approx(np.ones(len(logs)), abs=1e-4)


def test_a_teacher_of_another_tokenizer_is_refused(writer, tmp_path):
    other = prepared(tmp_path, "translation", "t5").task.start
    with pytest.raises(ModelError, match="reads other tokens than the student, though as many"):
        check_tokens(writer.task, other)
    check_tokens(writer.task, writer.task.start)


def test_a_teacher_in_16_bits_answers_in_the_student_s_dtype(writer):
    settings = Distillation(hidden=1.0, teacher_dtype="bfloat16")
    split, _ = writer.task.splits(24, None)
    batch = split.collate([split.rows[0]])
    model = writer.task.load().eval()
    distiller = Distiller(
        settings, model, Lesson(writer.task.load(), None, writer.task.task.counted)
    )
    assert distiller.teacher.dtype == torch.bfloat16
    outputs = model(**batch, **distiller.requests)
    loss = distiller.loss(0 * outputs.loss, outputs, batch, 0.0)
    assert 0 < loss.item() < 0.01  # what rounding to 8 bits of mantissa makes of it
    assert loss.dtype == torch.float32
