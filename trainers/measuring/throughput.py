"""Measure how many FLOPs a second this process computes, for estimates of durations."""

import time

import torch

SIDE = 512
"""Rows and columns of the matrices: as wide as a small model's layers."""

LEAST_S = 0.05
"""Seconds of products at least, so that starting threads does not count."""


def flops_per_second(threads: int) -> float:
    """Measure matrix products in float32, on a GPU if there is one, else with `threads`."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(threads)
    matrix = torch.randn(SIDE, SIDE, device=device)
    (matrix @ matrix).sum().item()
    products, start = 0, time.perf_counter()
    while time.perf_counter() - start < LEAST_S:
        (matrix @ matrix).sum().item()
        products += 1
    return 2 * SIDE**3 * products / (time.perf_counter() - start)
