"""Measures how far each plan of a table, untrained, moves the model from its unshared self.

    python benchmarks/search/distances.py [digits|news]     # distances-digits.csv, ...

One line a plan: the distance (KL divergence in nats, of the new head's answers to 64 training
rows) and the processor's seconds it took on one thread, as a search measures it. The model is the
one that `table.py` pretrains.
"""

import argparse
import json
import time
from collections.abc import Iterator

import pandas as pd
import torch
from lookup import distances_of
from materials import MATERIALS, collate
from table import Bench, candidates
from transformers import logging

from sharetune.spaces.plan import SharingPlan
from sharetune.trainers.scoring.scorer import Scorer

ROWS, BATCHES = 64, 4


def measured(name: str) -> Iterator[dict[str, object]]:
    """Yield the distance of each plan, in the order of the table's candidates."""
    bench = Bench(name)
    size = ROWS // BATCHES
    every = len(bench.train_rows) // ROWS
    rows = bench.train_rows[::every][:ROWS]
    batches = [collate(rows[i : i + size]) for i in range(0, ROWS, size)]
    scorer = Scorer(bench.model, batches, bench.activations)
    plans: dict[SharingPlan, None] = {c.plan: None for c in candidates(bench.stacks)}
    scorer.score(SharingPlan())
    for plan in plans:
        start = time.process_time()
        distance = scorer.score(plan).distance
        seconds = round(time.process_time() - start, 4)
        yield {"plan": json.dumps(plan.written()), "distance": distance, "seconds": seconds}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("material", nargs="?", choices=MATERIALS, default="digits")
    options = parser.parse_args()
    logging.set_verbosity_error()
    torch.set_num_threads(1)
    frame = pd.DataFrame(measured(options.material))
    frame.to_csv(distances_of(options.material), index=False, float_format="%.6g")
    print(f"{len(frame)} plans, {frame['seconds'].sum():.1f} s in all")
