"""A rough duration, from FLOPs, before any trial has ended."""

from sharetune.search.estimate import flops_of_trial
from sharetune.spaces import Recipe
from sharetune.trainers.measuring.throughput import flops_per_second


def test_the_flops_of_a_trial():
    rows = {"train": 100, "test": 20}
    sizes = {"flops": 1e6}
    # 10 steps of 16, each forward and twice that backward, and 20 test examples forward
    assert flops_of_trial(Recipe(steps=10, batch_size=16), sizes, rows) == 500e6
    # 2 epochs of 7 batches
    assert flops_of_trial(Recipe(epochs=2, batch_size=16), sizes, rows) == (3 * 13 * 16 + 20) * 1e6


def test_this_machine_computes():
    assert 1e8 < flops_per_second(1) < 1e15
