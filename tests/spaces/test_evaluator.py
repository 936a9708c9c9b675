"""Evaluation results are stored as plain data: large confusion matrices by non-zero counts."""

import json
import random

from sharetune.results.page.class_scores import confusion_of
from sharetune.spaces.evaluator import Scores, part_sums, stored_confusion


def test_a_small_confusion_matrix_is_stored_whole():
    assert Scores({"accuracy": 0.5}, None, [[1, 2], [0, 3]]).written() == {
        "metrics": {"accuracy": 0.5},
        "confusion": [[1, 2], [0, 3]],
    }
    assert "confusion" not in Scores({"accuracy": 0.5}).written()


def test_a_large_confusion_matrix_is_stored_by_its_counts():
    matrix = [[0] * 31 for _ in range(31)]
    matrix[2][5], matrix[30][30] = 7, 1
    stored = stored_confusion(matrix)
    assert stored == {"classes": 31, "cells": [[2, 5, 7], [30, 30, 1]]}
    assert confusion_of(stored, [str(i) for i in range(31)]) is None


def test_a_thousand_labels_take_kilobytes():
    draw = random.Random(0)
    matrix = [[0] * 1000 for _ in range(1000)]
    for _ in range(2000):  # examples
        matrix[draw.randrange(1000)][draw.randrange(1000)] += 1
    assert len(json.dumps(matrix)) > 3_000_000
    assert len(json.dumps(stored_confusion(matrix))) < 35_000


def test_examples_are_summed_over_at_most_100_parts():
    assert part_sums(nats=[1.0, 2.0, 4.0], words=[1, 1, 2]) == {
        "nats": [1.0, 2.0, 4.0],
        "words": [1, 1, 2],
    }
    many = part_sums(nats=[1.0] * 250, words=range(250))
    assert {len(column) for column in many.values()} == {100}
    assert many["nats"][:4] == [2, 3, 2, 3] and sum(many["words"]) == 31125
    assert part_sums(nats=[1.0], words=[1]) is None
    assert "part_sums" not in Scores({"perplexity": 2.0}).written()
