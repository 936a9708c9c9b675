"""Compare changes to the training of a pretrained model whose layers are made to share weights.

    python -m benchmarks.matrix.conversion run STUDY.yaml ... [--seeds 1 2 3] [--only NAME ...]
    python -m benchmarks.matrix.conversion table

Each variation changes one thing of the training of the plan that sharing alone has in the matrix at
`PART` of the stack; what narrowing has there is the goal. Rows go to `conversion/`, one file a
workload, in the matrix's own form; those that are there are not trained again.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.matrix.names import NARROWING, SHARING, UNSHARED
from benchmarks.matrix.rows import Row, add_rows, read_rows
from benchmarks.matrix.table import Cells, grouped, interval
from benchmarks.matrix.workload import Trainings, Workload
from sharetune.spaces.forms import LowRank
from sharetune.spaces.group import Group
from sharetune.spaces.parts import read_parts
from sharetune.spaces.plan import SharingPlan

HERE = Path(__file__).parent
MATRIX, ROWS = HERE / "rows", HERE / "conversion"

PART = 0.6
"""Size of the plans, as a fraction of the stack."""

TAUGHT = {"logits": 0.0, "hidden": 1.0}
"""Distillation of hidden states alone."""


@dataclass(frozen=True)
class Variation:
    """One change of the training: of its recipe, its length as a multiple, or its plan."""

    recipe: dict[str, Any] = field(default_factory=dict)
    times: float = 1.0
    plan: str = "as solved"


VARIATIONS = {
    "nothing": Variation(),
    "layers drawn together over 35 % of the steps": Variation(
        {"soften": "interpolate", "soften_until": 0.35}
    ),
    "tied after 35 % of the steps, pulled until then": Variation(
        {"soften": "pull", "soften_until": 0.35, "pull": 0.1}
    ),
    "banks from local distillation": Variation({"start": {"local_steps": 80}}),
    "hidden states distilled": Variation({"distill": TAUGHT}),
    "banks' learning rate x 3": Variation({"bank_lr_scale": 3.0}),
    "banks' learning rate / sqrt readers": Variation({"bank_lr_rule": "sqrt"}),
    "low-rank residuals, rank 16": Variation(plan="residuals"),
    "the four middle layers tied": Variation(plan="middle"),
    "four times the steps": Variation(times=4.0),
    "local distillation, four times the steps": Variation({"start": {"local_steps": 80}}, 4.0),
}
"""Training changes to compare, by the name that rows and tables give them."""


def varied(solved: SharingPlan, name: str) -> SharingPlan:
    """Return a variation's plan."""
    if name == "middle":
        parts = read_parts(("attention", "ffn", "norms", "biases"))
        return SharingPlan(groups=(Group(layers="1..4", stack="layers", parts=parts),))
    if name == "residuals":
        rank = LowRank(rank=16)
        groups = (
            g.model_copy(update={"form": rank}) if g.form.name == "tie" else g
            for g in solved.groups
        )
        return SharingPlan(groups=tuple(groups))
    return solved


def run(
    study: Path, runs: Path, seeds: Sequence[int], names: Sequence[str] = tuple(VARIATIONS)
) -> Iterator[Row]:
    """Train what has no row yet, one seed after another, and yield each new row."""
    plain = Workload.of(study, runs)
    file = ROWS / f"{plain.name}.csv"
    matrix = read_rows(MATRIX / f"{plain.name}.csv")
    solved = next(row for row in matrix if (row.method, row.part) == (SHARING, PART))
    done = {(row.method, row.seed) for row in read_rows(file)}
    for seed in seeds:
        for name in names:
            if (name, seed) in done:
                continue
            variation = VARIATIONS[name]
            workload = plain.with_recipe(variation.recipe)
            plan = varied(SharingPlan.from_yaml(solved.plan), variation.plan)
            row = _trained(workload, replace(solved, method=name, seed=seed), plan, variation.times)
            add_rows(file, [row])
            done.add((name, seed))
            yield row


def _trained(workload: Workload, row: Row, plan: SharingPlan, times: float) -> Row:
    metrics, seconds = Trainings(workload, row.seed, fresh=False).train(plan, times)
    return replace(
        row,
        **workload.described(plan, times, row.seed),
        quality=metrics[row.metric],
        eval_loss=metrics["eval_loss"],
        seconds=seconds,
    )


def table() -> str:
    """Return what each variation reached and gained, the best first, in Markdown."""
    blocks = []
    for (workload, _), rows in grouped(read_rows(ROWS)):
        cells, known = Cells(rows), Cells(read_rows(MATRIX / f"{workload}.csv"))
        goal, whole = known.of(NARROWING, PART), known.of(UNSHARED, 1.0)
        plain = cells.of("nothing", PART)
        goals = f"unshared {interval(whole)}, narrowed {interval(goal)}"
        lines = [
            f"{workload}: {cells.quality.title}; {goals}",
            "",
            "| variation | stored | mean | gain |",
            "|---|---|---|---|",
        ]
        found = [cells.of(name, PART) for name in VARIATIONS]
        for own in sorted(filter(None, found), key=cells.cost):
            gain = "" if own == plain else _gain(cells, own, plain)
            lines.append(f"| {own[0].method} | {own[0].stack:.2f} | {interval(own)} | {gain} |")
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def _gain(cells: Cells, own: Sequence[Row], plain: Sequence[Row]) -> str:
    """Write what a variation gains over none, seed by seed."""
    lead = cells.between(own, plain)
    return f"{lead.mean:+.3g}" + ("" if lead.half is None else f" +- {lead.half:.2g}")


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run")
    running.add_argument("studies", nargs="+", type=Path)
    running.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    running.add_argument("--only", nargs="+", choices=VARIATIONS, default=list(VARIATIONS))
    running.add_argument("--runs", type=Path, default=Path("runs/matrix"))
    commands.add_parser("table")
    given = parser.parse_args()
    if given.command == "table":
        print(table())
        return
    for study in given.studies:
        for row in run(study, given.runs, given.seeds, given.only):
            print(f"{row.workload} seed {row.seed} {row.method}: {row.quality:.4g}", flush=True)


if __name__ == "__main__":
    main()
