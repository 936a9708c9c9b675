"""The protocol on made-up times, which are exact, and on real models where nothing is exact."""

import gc
import multiprocessing
import os
import time

import pytest
import torch

from sharetune.spaces import SharingPlan
from sharetune.spaces.compression import Compression
from sharetune.spaces.errors import ModelError
from sharetune.trainers.measuring import latency as measuring
from sharetune.trainers.measuring.latency import (
    compare,
    drift,
    exclusive,
    replayed,
    summarise,
    time_in_turns,
)
from tests.families import tiny
from tests.trainers.conftest import candidate, evaluated, latency, saved


def test_medians_keep_outliers_and_ratios_are_to_the_reference():
    found = summarise([10.0, 10.0, 10.0, 10.0, 1000.0], [20.0] * 5)
    assert (found.median_ms, found.ratio) == (10.0, 0.5)
    assert found.high_ms == 1000.0  # three of five draws may be the outlier


def test_the_interval_is_of_pairs_of_rounds():
    slow = [1.0, 2.0, 3.0, 4.0, 5.0]
    found = summarise(slow, [2 * time_ms for time_ms in slow])
    assert (found.ratio_low, found.ratio, found.ratio_high) == (0.5, 0.5, 0.5)


def test_a_slow_change_of_the_clock_does_not_change_the_ratio():
    clock = [1.0, 1.1, 1.2, 1.3, 1.9]
    found = summarise([12.0 * c for c in clock], [10.0 * c for c in clock])
    assert (found.ratio_low, found.ratio, found.ratio_high) == pytest.approx((1.2, 1.2, 1.2))
    # one round that something disturbed moves the times' median, not the ratios'
    found = summarise([10.0, 30.0, 14.0], [10.0, 12.0, 14.0])
    assert (found.median_ms, found.ratio) == (14.0, 1.0)


def test_each_turn_is_followed_by_itself_backwards():
    order = []
    runs = {name: lambda name=name: order.append(name) for name in "ABC"}
    times = time_in_turns(runs, rounds=5, warmup=1)
    assert "".join(order) == "ABCCBABCAACBCABBAC"
    assert {name: len(own) for name, own in times.items()} == {"A": 5, "B": 5, "C": 5}


@pytest.mark.slow
def test_rounds_follow_until_the_ratio_is_narrow():
    device = torch.device("cpu")
    steady = compare({"A": lambda: _work(0.002)}, "A", device, rounds=3, warmup=0)
    assert (steady.rounds, steady.models["A"].ratio) == (3, 1.0)
    uneven = iter([0.0, 0.004] * 6)
    runs = {"A": lambda: _work(0.002), "B": lambda: _work(0.002 + next(uneven))}
    assert compare(runs, "A", device, rounds=3, warmup=0).rounds == 12


@pytest.mark.parametrize(("enough_s", "used"), [(0.0, 1 + 2), (60.0, 5 + 4 * 2)])
def test_long_uses_are_warmed_up_once_and_no_rounds_are_added(monkeypatch, enough_s, used):
    monkeypatch.setattr(measuring, "WARM_S", enough_s)
    monkeypatch.setattr(measuring, "MOST_S", enough_s)
    monkeypatch.setattr(measuring, "_is_precise", lambda found: False)
    uses = []
    found = compare({"A": lambda: uses.append(1)}, "A", torch.device("cpu"), rounds=2, warmup=5)
    assert (len(uses), found.rounds) == (used, 2 if enough_s == 0 else 8)


@pytest.mark.slow
@pytest.mark.xdist_group("ray")  # times are measured while no other test is
def test_a_busy_machine_is_noticed():
    """Four processes that want the one processor that this one may use."""
    processor = min(os.sched_getaffinity(0))
    context = multiprocessing.get_context("fork")
    rivals = [context.Process(target=_spin, args=(processor,)) for _ in range(4)]
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {processor})
    try:
        for rival in rivals:
            rival.start()
        found = compare({"A": lambda: _work(0.02)}, "A", torch.device("cpu"), rounds=20, warmup=0)
    finally:
        os.sched_setaffinity(0, allowed)
        for rival in rivals:
            rival.kill()
            rival.join()
    assert found.preempted > 0.25


def _spin(processor):
    os.sched_setaffinity(0, {processor})
    while True:
        pass


def _work(seconds):
    """Uses the processor for so long."""
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_garbage_is_not_collected_while_the_clock_runs():
    seen = []
    time_in_turns({"A": lambda: seen.append(gc.isenabled())}, rounds=1, warmup=0)
    assert seen == [False] and gc.isenabled()


def test_drift_compares_the_first_third_with_the_last():
    assert drift([10.0, 10.0, 50.0, 12.0, 12.0]) == pytest.approx(0.2)
    assert drift([10.0] * 9) == 0.0
    assert drift([1.0, 2.0]) == 0.0


def _hold(entered, release):
    with exclusive(torch.device("cpu")):
        entered.set()
        release.wait(30)


def test_a_device_is_measured_on_by_one_process_at_a_time():
    context = multiprocessing.get_context("fork")
    first, second, release = context.Event(), context.Event(), context.Event()
    holders = [context.Process(target=_hold, args=(event, release)) for event in (first, second)]
    holders[0].start()
    assert first.wait(30)
    holders[1].start()
    assert not second.wait(0.3)
    release.set()
    assert second.wait(30)
    for holder in holders:
        holder.join()


@pytest.mark.gpu
def test_cuda_events_time_the_device():
    matrix = torch.rand(4096, 4096, device="cuda")
    times = time_in_turns({"A": lambda: matrix @ matrix}, rounds=5, warmup=2, cuda=True)
    start = time.perf_counter()
    matrix @ matrix
    torch.cuda.synchronize()
    assert max(times["A"]) < 1000 * (time.perf_counter() - start) * 10


@pytest.mark.slow
def test_an_untrained_architecture_is_measured_as_its_trained_model_is(evaluator, tmp_path):
    one = candidate(evaluator, SharingPlan.drop([1, 2, 3]), steps=1)
    evaluated(evaluator, one, tmp_path)
    trained = latency(evaluator, saved(tmp_path), rounds=20)
    untrained = latency(evaluator, one, rounds=20)
    assert set(untrained) == set(trained)
    for found in (trained, untrained):  # one layer of four is left
        assert found["forms"]["stored"]["ratio"] < 0.9


@pytest.mark.slow
def test_compressed_architectures_can_be_measured_too(evaluator):
    compression = Compression(quantize="int8", heads=0.5)
    one = candidate(evaluator, SharingPlan.range(0, 3, 0.5)).model_copy(
        update={"compression": compression}
    )
    found = latency(evaluator, one, threads=1, rounds=3)
    assert found["forms"]["stored"]["median_ms"] > 0


@pytest.mark.gpu
def test_a_replayed_cuda_graph_computes_the_same_in_less_time():
    model = tiny("bert").cuda().eval()
    ids = torch.ones(1, 8, dtype=torch.long, device="cuda")
    with torch.inference_mode():
        expected = model(input_ids=ids).logits
    found = torch.zeros_like(expected)

    def eager():
        found.copy_(model(input_ids=ids).logits)

    graph = replayed(eager)
    found.zero_()
    graph()
    assert torch.allclose(found, expected, atol=1e-6)
    compared = compare({"eager": eager, "graph": graph}, "eager", model.device, rounds=20)
    assert compared.models["graph"].ratio < 0.9


@pytest.mark.gpu
def test_a_use_that_waits_for_the_device_is_no_graph():
    numbers = torch.rand(8, device="cuda")
    with pytest.raises(ModelError, match="cannot be captured as a CUDA graph"):
        replayed(lambda: numbers.sum().item())
