"""How good plans are that were found without training, and what local distillation adds.

    python benchmarks/planning/without_training.py MODEL RESULTS.jsonl [--text debian] [--local]

Scores single edits of a pretrained model alone, solves plans for parts of its layer stacks,
improves them by exchanging edits on the scored text, and measures them on text that neither units,
nor fits, nor scores have seen; compares predicted with measured distances of random plans. All that
is measured is written to RESULTS.jsonl at once and not measured again. Two processes of one thread
each; times are of what this run measured.

Texts are in three disjoint sets: one chooses and fits units and teaches, one scores, one judges.
`debian` is the one-line descriptions in `apt-cache dumpavail`, `pip` the long ones of installed
Python packages, `emoji` the English and French names of emoji, for an encoder-decoder. MODEL is a
folder: SmolLM2's as `examples/smollm2/prepare.py` writes it, MiniLM's as
`examples/bbc-news/prepare.py` does, an encoder-decoder's as a study's dense export leaves it.
"""

import argparse
import json
import random
import resource
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from math import exp
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import transformers
from materials import debian, emoji_names, pip
from scipy.stats import kendalltau, spearmanr
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
)

from sharetune.spaces.errors import PlanError
from sharetune.spaces.evaluator import PlanScore
from sharetune.spaces.local_start import LocalStart
from sharetune.spaces.plan import SharingPlan
from sharetune.spaces.planning.edits import Edit, plan_of
from sharetune.spaces.planning.exchange import improve
from sharetune.spaces.planning.grid import KINDS, grid
from sharetune.spaces.planning.solving import Scored, Solution, needs_of, solve
from sharetune.trainers.measuring.counting import Counting
from sharetune.trainers.models.calibration import MOMENT_TOKENS, record_activations
from sharetune.trainers.models.structure import find_stacks, stack_shapes
from sharetune.trainers.scoring.editable import without_labels
from sharetune.trainers.scoring.local_distillation import distil_locally, start_from_
from sharetune.trainers.scoring.scorer import Scorer

BLOCK = 256
"""Tokens of a block of a language model, as a short training would have it."""

PAIRS = 32
"""Sources with their targets in a block of an encoder-decoder."""

UNSEEN = 8
"""Blocks that solved plans are judged on; random ones are on the first half."""

PARTS = (0.9, 0.8, 0.6)
"""Parts of the layer stacks that plans keep."""

RANDOM_PLANS = 40
PROCESSES = 2
SETS = ("fitted", "scored", "unseen")


Texts = Sequence[str] | Sequence[tuple[str, str]]
"""Texts to go on with, or sources with their targets."""

TEXTS: dict[str, Callable[[], Texts]] = {"debian": debian, "pip": pip, "emoji": emoji_names}


@dataclass(frozen=True)
class Subject:
    """A pretrained model in the folder `path`, and packages' texts in three disjoint sets."""

    path: str
    text: str
    scored: int
    fitted: int = MOMENT_TOKENS

    @cached_property
    def config(self) -> Any:
        """The model's configuration."""
        return AutoConfig.from_pretrained(self.path)

    @property
    def kind(self) -> Any:
        """The class to load it with: one that gives logits where it writes text."""
        if self.config.is_encoder_decoder:
            return AutoModelForSeq2SeqLM
        writes = "CausalLM" in (self.config.architectures or [""])[0]
        return AutoModelForCausalLM if writes else AutoModel

    @cached_property
    def model(self) -> Any:
        """The model in float32."""
        return self.kind.from_pretrained(self.path, dtype=torch.float32)

    @cached_property
    def blocks(self) -> dict[str, list[dict[str, Tensor]]]:
        """Blocks of each set, one a batch, spread over its text."""
        every, found = TEXTS[self.text](), {}
        for place, name in enumerate(SETS):
            own = every[place::3][:3000]
            made = self._running(own) if isinstance(own[0], str) else self._paired(own)
            most = min(len(made), self.fitted // made[0]["input_ids"].numel())
            found[name] = [made[i * len(made) // most] for i in range(most)]
        return found

    @cached_property
    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        return AutoTokenizer.from_pretrained(self.path)

    def _running(self, texts: Sequence[Any]) -> list[dict[str, Tensor]]:
        """Cut texts, one after the other, into blocks, with labels where the model writes."""
        length = min(BLOCK, getattr(self.config, "max_position_embeddings", BLOCK) // 2)
        ids = self.tokenizer("".join(texts))["input_ids"]
        cut = torch.tensor(ids[: len(ids) // length * length]).view(-1, 1, length)
        if self.kind is AutoModel:
            return [{"input_ids": block} for block in cut]
        return [{"input_ids": block, "labels": block} for block in cut]

    def _paired(self, pairs: Sequence[Any]) -> list[dict[str, Tensor]]:
        """Gather pairs into padded blocks; padding of the targets does not count."""
        found = []
        for start in range(0, len(pairs) - PAIRS + 1, PAIRS):
            sources, targets = zip(*pairs[start : start + PAIRS], strict=True)
            block = dict(self.tokenizer(list(sources), padding=True, return_tensors="pt"))
            block.pop("token_type_ids", None)
            labels = self.tokenizer(list(targets), padding=True, return_tensors="pt")
            kept = labels["attention_mask"].bool()
            block["labels"] = labels["input_ids"].where(kept, torch.tensor(-100))
            prepared = self.model.prepare_decoder_input_ids_from_labels(block["labels"])
            found.append(block | {"decoder_input_ids": prepared})
        return found

    def batches(self, name: str, count: int | None = None) -> list[dict[str, Tensor]]:
        """Return the first `count` blocks of a set."""
        return self.blocks[name][:count]

    @cached_property
    def activations(self) -> Any:
        """Inputs and moments on the text that units are chosen and fitted on."""
        given = map(without_labels, self.batches("fitted"))
        return record_activations(self.model, given, moment_tokens=self.fitted)

    @cached_property
    def scorers(self) -> dict[str, Scorer]:
        """Scorers on the text that edits are scored on, and on what judges plans."""
        scored, unseen = self.batches("scored", self.scored), self.batches("unseen", UNSEEN)
        sets = {"scored": scored, "unseen": unseen, "half": unseen[: UNSEEN // 2]}
        return {name: Scorer(self.model, own, self.activations) for name, own in sets.items()}

    def counting(self) -> tuple[Counting, dict[str, int]]:
        """Return what counts plans, and the width of each stack's residual stream."""
        with torch.device("meta"):
            shell = self.kind.from_config(self.config, attn_implementation="eager")
        given = {k: v.to("meta") for k, v in without_labels(self.batches("scored", 1)[0]).items()}
        width = self.config.hidden_size
        return Counting(shell, given), dict.fromkeys(find_stacks(shell), width)


SUBJECT: list[Subject] = []
"""The one subject, which worker processes get with their memory."""


def measured(task: tuple[str, dict[str, Any]]) -> tuple[PlanScore | None, float]:
    """Measure a plan on a set in a worker process, and time it."""
    name, written = task
    start = time.perf_counter()
    try:
        score = SUBJECT[0].scorers[name].score(SharingPlan.model_validate(written))
    except PlanError:  # a form that this model cannot have
        score = None
    return score, time.perf_counter() - start


class Results:
    """Measurements in a file of JSON lines, each made once."""

    def __init__(self, path: Path, pool: ProcessPoolExecutor) -> None:
        self.path, self.pool = path, pool
        lines = path.read_text().splitlines() if path.exists() else []
        self.known: dict[tuple[str, str], PlanScore | None] = {}
        for line in map(json.loads, lines):
            score = PlanScore(line["distance"], line["loss"]) if "distance" in line else None
            self.known[line["on"], json.dumps(line["plan"], sort_keys=True)] = score

    def of(self, name: str, plans: Sequence[SharingPlan]) -> list[PlanScore | None]:
        """Return the score of each plan on a set; measure those that are not in the file."""
        written = [plan.written() for plan in plans]
        keys = [(name, json.dumps(plan, sort_keys=True)) for plan in written]
        left = [(name, p) for key, p in zip(keys, written, strict=True) if key not in self.known]
        start = time.perf_counter()
        with self.path.open("a") as file:
            for (_, plan), (score, spent) in zip(left, self.pool.map(measured, left), strict=True):
                found = {} if score is None else {"distance": score.distance, "loss": score.loss}
                file.write(json.dumps({"on": name, "plan": plan, "s": spent} | found) + "\n")
                file.flush()
                self.known[name, json.dumps(plan, sort_keys=True)] = score
        if len(left) > 1:
            spent = time.perf_counter() - start
            print(f"{len(left)} of {len(plans)} plans measured on {name} text in {spent:.0f} s")
        return [self.known[key] for key in keys]

    def one(self, name: str, plan: SharingPlan) -> PlanScore:
        """Return the score of one plan on a set."""
        (found,) = self.of(name, [plan])
        assert found is not None
        return found


def _cpu_s() -> float:
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


def random_plan(scores: Sequence[Scored], part: float, whole: float, seed: int) -> Solution:
    """Draw edits that do not meet until a part of the stacks is left."""
    rng = random.Random(seed)
    chosen: list[Scored] = []
    used: set[Any] = set()
    for each in rng.sample(list(scores), len(scores)):
        if not used & each.edit.slots:
            chosen.append(each)
            used |= each.edit.slots
        if sum(c.saved["parameters"] for c in chosen) >= (1 - part) * whole:
            break
    return Solution.of(chosen, ("parameters",))


def savings(
    edits: Sequence[Edit], counting: Counting, unshared: Mapping[str, float]
) -> Iterator[tuple[Edit, dict[str, float]]]:
    """Yield the edits that make the model smaller, with what they save."""
    for edit in edits:
        try:
            sizes = counting.facts(plan_of([edit]))
        except PlanError:
            continue
        saved = {name: unshared[name] - sizes[name] for name in ("parameters", "bytes", "flops")}
        if saved["parameters"] > 0:
            yield edit, saved


def taught(plan: SharingPlan, steps: int) -> PlanScore:
    """Return the score, on unseen text, of a plan whose new weights learnt locally."""
    subject = SUBJECT[0]
    scorer = subject.scorers["unseen"]
    learning = subject.batches("fitted")
    learnt = distil_locally(scorer, plan.groups, learning, LocalStart(local_steps=steps))
    plain = scorer.shared

    def started(bound: SharingPlan) -> Any:
        shared, first = plain(bound)
        start_from_(shared, learnt)
        return shared, first

    scorer.shared = started  # type: ignore[method-assign]
    try:
        return scorer.score(plan)
    finally:
        scorer.shared = plain  # type: ignore[method-assign]


def _text(score: PlanScore) -> str:
    loss = "" if score.loss is None else f" (perplexity {exp(score.loss):.1f})"
    return f"{score.distance:.3f}{loss}"


@dataclass(frozen=True)
class Solver:
    """Scored edits of a counted model, and the results that plans are measured into."""

    scores: list[Scored]
    counting: Counting
    unshared: Mapping[str, float]
    results: Results

    def print_solved(self, part: float, exchanges: int, local: Sequence[int]) -> None:
        """Solve for a part of the stacks, improve on scored text, judge on unseen text."""
        whole = self.unshared["stack_parameters"]
        limit = {"parameters": self.unshared["parameters"] - (1 - part) * whole}
        start = time.perf_counter()
        best = solve(self.scores, limit, self.unshared, count=1)[0]
        solved_s = time.perf_counter() - start
        shapes = {name: stack.shape for name, stack in self.counting.stacks.items()}
        found = self.results.one("unseen", best.plan.bound(shapes))
        kept = self.counting.facts(best.plan)["stack_parameters"] / whole
        print(
            f"{kept:.3f} of the stacks, {len(best.edits)} edits: predicted {best.cost:.3f}, "
            f"measured {_text(found)}; solved in {solved_s:.2f} s",
            flush=True,
        )
        plan = best.plan.bound(shapes)
        if exchanges:
            start = time.perf_counter()
            made = improve(
                best,
                self.scores,
                needs_of(self.scores, limit, self.unshared),
                lambda one: self.results.one("scored", one.bound(shapes)).distance,
                measurements=exchanges,
            )
            better = min(made, key=lambda one: one.measured)
            plan = better.solution.plan.bound(shapes)
            print(
                f"    {exchanges} exchanges, {made[0].measured:.3f} to {better.measured:.3f} on "
                f"scored text in {time.perf_counter() - start:.0f} s: measured "
                f"{_text(self.results.one('unseen', plan))}",
                flush=True,
            )
        print(f"    {plan}", flush=True)
        for steps in local:
            start, before = time.perf_counter(), _cpu_s()
            after = taught(plan, steps)
            print(
                f"    {steps} steps of local distillation in {time.perf_counter() - start:.0f} s "
                f"({_cpu_s() - before:.0f} s of CPU): {_text(after)}",
                flush=True,
            )

    def print_random(self) -> None:
        """Compare predicted with measured distances of random plans at 0.8 of the stacks."""
        whole = self.unshared["stack_parameters"]
        drawn = [random_plan(self.scores, 0.8, whole, seed) for seed in range(RANDOM_PLANS)]
        seen = self.results.of("half", [solution.plan for solution in drawn])
        pairs = [(d.cost, s.distance) for d, s in zip(drawn, seen, strict=True) if s is not None]
        predicted, distances = zip(*pairs, strict=True)
        rho, tau = spearmanr(predicted, distances)[0], kendalltau(predicted, distances)[0]
        print(
            f"{len(pairs)} random plans at 0.8, {min(distances):.2f} to {max(distances):.2f}: "
            f"Spearman {rho:.3f}, Kendall {tau:.3f}",
            flush=True,
        )


def main(subject: Subject, path: Path, options: argparse.Namespace) -> None:
    """Print every figure."""
    began = time.perf_counter()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    SUBJECT.append(subject)
    counting, widths = subject.counting()
    unshared = counting.facts(SharingPlan())
    shapes = stack_shapes(counting.unshared)
    edits = dict(savings(grid(shapes, widths=widths, kinds=options.kinds), counting, unshared))
    start = time.perf_counter()
    assert subject.scorers  # recorded once, before processes share it
    print(f"activations and references in {time.perf_counter() - start:.0f} s", flush=True)
    # workers have the model's memory, since they are forked
    with ProcessPoolExecutor(PROCESSES, mp_context=get_context("fork")) as pool:
        results = Results(path, pool)
        print(f"unshared, unseen text: {_text(results.one('unseen', SharingPlan()))}")
        found = results.of("scored", [plan_of([edit]).bound(shapes) for edit in edits])
        scores = [
            Scored(edit, score.distance, saved)
            for (edit, saved), score in zip(edits.items(), found, strict=True)
            if score is not None
        ]
        print(f"{len(scores)} edits; all so far in {time.perf_counter() - began:.0f} s")
        solver = Solver(scores, counting, unshared, results)
        for part in options.parts:
            solver.print_solved(part, options.exchanges, options.local)
        if options.random:
            solver.print_random()
    print(f"all in {time.perf_counter() - began:.0f} s, {_cpu_s():.0f} s of CPU")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("results", type=Path)
    parser.add_argument("--text", choices=TEXTS, default="debian")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=["drop", "narrow", "tie"])
    parser.add_argument("--scored", type=int, default=2, help="blocks that edits are scored on")
    parser.add_argument(
        "--fitted", type=int, default=MOMENT_TOKENS, help="tokens units are fitted on"
    )
    parser.add_argument("--parts", nargs="+", type=float, default=PARTS)
    parser.add_argument("--exchanges", type=int, default=4, help="plans measured to improve one")
    parser.add_argument("--local", nargs="*", type=int, default=[], help="steps, such as 80 240")
    parser.add_argument("--random", action="store_true", help="also measure random plans")
    given = parser.parse_args()
    main(Subject(given.model, given.text, given.scored, given.fitted), given.results, given)
