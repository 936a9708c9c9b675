"""Plans of the matrix's regular methods, and a cell that is trained once."""

import pytest

from benchmarks.matrix.methods import cycles, fewer_layers, narrower_layers, tied
from benchmarks.matrix.names import DROPS, FOUND, TIED, UNSHARED
from benchmarks.matrix.rows import read_rows
from benchmarks.matrix.running import Asked, Matrix
from benchmarks.matrix.workload import Workload
from sharetune.spaces.stack_shape import StackShape
from tests.checkpoint import write_rows

STACKS = {"encoder": StackShape(5, 4, 128), "decoder": StackShape(5, 4, 128)}


def bound(plans):
    return [plan.bound(STACKS) for plan in plans]


def test_fewer_layers_leave_one_in_each_stack():
    smallest = bound(fewer_layers(STACKS))[-1]
    assert str(smallest) == "decoder 1..4 drop; encoder 1..4 drop"


def test_banks_are_read_in_turns():
    found = list(dict.fromkeys(bound(cycles(STACKS))))
    assert [len(plan.groups) for plan in found] == [0, 2, 4, 4, 2]
    assert found[-1] == bound(tied(STACKS))[0]


def test_narrower_layers_end_at_one_head():
    plans = list(narrower_layers(STACKS))
    assert {g.form.name for g in plans[39].groups} == {"narrow"}


STUDY = """\
name: tiny
model: model
task: {name: text-classification, train: rows.csv, test: rows.csv}
objectives: [accuracy, parameters]
anchors: [unshared, tied]
budget: {trials: 3}
space:
  plan: [{layers: {within: 0..-1, min: 2}}]
  recipe: {learning_rate: 1.0e-3, steps: 2, batch_size: 4, max_length: 8}
latency: {rounds: 0}
"""


@pytest.mark.slow
def test_cells_are_trained_once_and_goes_on(tmp_path):
    """A real model from scratch: rows of equal trainings are copied, known ones left alone."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(
        '{"model_type": "bert", "vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 4, '
        '"num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 16}'
    )
    write_rows(tmp_path / "rows.csv", 40)
    (tmp_path / "tiny.yaml").write_text(STUDY)
    workload = Workload.of(tmp_path / "tiny.yaml", tmp_path / "runs")
    file = tmp_path / "rows" / "tiny.csv"
    asked = Asked([UNSHARED, DROPS, TIED, FOUND], [0.6, 0.3], [1.0], [1, 2], file)
    found = list(Matrix(workload, asked).fill())
    assert {row.seed for row in found} == {1, 2}
    drops = [row for row in found if row.method == DROPS and row.seed == 1]
    assert [row.stack for row in drops] == [0.5, 0.25]
    tie = [row for row in found if row.method == TIED and row.seed == 1]
    assert [row.stack for row in tie] == [0.25, 0.25]
    assert tie[0].seconds == tie[1].seconds  # trained once
    assert all(row.search_pflop > 0 for row in found if row.method == FOUND)
    assert list(Matrix(workload, asked).fill()) == []
    assert len(read_rows(file)) == len(found)
