"""One batch, forward and backward, finds errors of all trials before a study is created."""

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, ViTConfig, ViTForImageClassification, ViTImageProcessor
from typer.testing import CliRunner

from sharetune.search.commands.cli import app
from sharetune.spaces.distillation import Distillation
from sharetune.spaces.errors import ModelError, OutOfMemory
from sharetune.spaces.evaluator import JobResources
from sharetune.trainers.evaluation import rehearsal
from sharetune.trainers.evaluation.evaluator import CandidateEvaluator
from sharetune.trainers.tasks.base import read_task
from tests.checkpoint import write_checkpoint, write_rows
from tests.trainers.conftest import candidate
from tests.trainers.tasks.test_tasks import pictures

ONE = JobResources(threads=1)

STUDY = """\
name: tiny
model: ./model
task: {name: text-classification, train: train.csv, test: train.csv}
executor: local
budget: {trials: 2}
space:
  plan: [{layers: {within: 0..-1, min: 2}, form: tie}]
  recipe: {steps: 2, max_length: 12, batch_size: 8}
latency: {rounds: 0}
"""


def with_a_token_the_model_lacks(folder: Path) -> Path:
    """A project whose texts hold an added token beyond the model's embeddings."""
    write_checkpoint(folder / "model")
    reader = AutoTokenizer.from_pretrained(folder / "model")
    reader.add_tokens(["[NEW]"], special_tokens=True)
    reader.save_pretrained(folder / "model")
    data = write_rows(folder / "train.csv", 30)
    data.write_text(data.read_text().replace("bread", "[NEW]"))
    (folder / "study.yaml").write_text(STUDY)
    return folder


def test_a_good_study_passes_and_nothing_is_kept(evaluator):
    evaluator.task.splits(12, None)
    before = sorted(evaluator.task.cache.rglob("*"))
    taught = candidate(evaluator, distill=Distillation(), patience=3, r_drop=1.0)
    pace = evaluator.rehearse(taught, ONE)
    assert min(pace.load_s, pace.step_s, pace.judge_s) > 0
    assert pace.memory > 100e6  # torch alone
    rows = evaluator.rows
    assert (pace.examples, pace.judged) == (rows["train"], rows["test"])
    assert sorted(evaluator.task.cache.rglob("*")) == before


def test_a_token_beyond_the_embeddings_makes_no_study(tmp_path):
    folder = with_a_token_the_model_lacks(tmp_path)
    asked = ["search", str(folder / "study.yaml"), "--out", str(tmp_path / "run")]
    result = CliRunner().invoke(app, asked)
    assert result.exit_code == 2
    assert "error: the examples have the token 18, and the model embeds 18" in result.output
    assert "hint: use the tokenizer that the model was trained with" in result.output
    assert not (tmp_path / "run").exists()


def test_init_writes_nothing_that_fails(tmp_path):
    folder, out = with_a_token_the_model_lacks(tmp_path), tmp_path / "written.yaml"
    asked = ["init", "--task", "text-classification", "--model", str(folder / "model")]
    asked += ["--data", str(folder / "train.csv"), "--out", str(out)]
    result = CliRunner().invoke(app, asked)
    assert result.exit_code == 2 and "error: the examples have the token 18" in result.output
    assert not out.exists()


def test_weights_that_are_no_numbers(evaluator, tmp_path):
    shutil.copytree(evaluator.task.model, tmp_path / "model")
    tensors = load_file(tmp_path / "model" / "model.safetensors")
    tensors["encoder.layer.0.output.dense.weight"].fill_(float("nan"))
    save_file(tensors, tmp_path / "model" / "model.safetensors", {"format": "pt"})
    broken = CandidateEvaluator.prepare(
        str(tmp_path / "model"), evaluator.task.task, tmp_path / "cache", 12
    )
    with pytest.raises(ModelError, match="the unshared model cannot be trained: the loss is nan"):
        broken.rehearse(candidate(broken), ONE)


def test_a_processor_of_another_size(tmp_path):
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = ViTConfig(**sizes, intermediate_size=32, image_size=32, patch_size=8)
    ViTForImageClassification(config).save_pretrained(tmp_path / "model")
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(tmp_path / "model")
    data = pictures(tmp_path / "pictures")
    task = read_task({"name": "image-classification", "train": data, "test": data})
    made = CandidateEvaluator.prepare(str(tmp_path / "model"), task, tmp_path / "cache", 128)
    with pytest.raises(ModelError, match=r"the first batch cannot be trained on: \w+: .*16") as why:
        made.rehearse(candidate(made), ONE)
    assert "\n" not in why.value.message and "processor" in why.value.hint


def test_a_teacher_with_fewer_words(evaluator, tmp_path):
    model = evaluator.task.load()
    model.resize_token_embeddings(8)
    model.save_pretrained(tmp_path / "teacher")
    taught = candidate(evaluator, distill=Distillation(teacher=str(tmp_path / "teacher")))
    with pytest.raises(ModelError, match="cannot be trained on: IndexError: index out of range"):
        evaluator.rehearse(taught, ONE)


def test_memory_that_runs_out_here_says_nothing_of_the_workers(evaluator, monkeypatch):
    def exhausted(*_, **__):
        raise OutOfMemory("out of memory")

    monkeypatch.setattr(rehearsal, "train", exhausted)
    assert evaluator.rehearse(candidate(evaluator), ONE) is None
