"""Where sharing wins: workloads x sizes x methods x seeds, one training a row.

    python -m benchmarks.matrix run STUDY.yaml ... [--parts 0.8 0.6 0.4 0.2] [--seeds 1 2 3]
                                    [--times 1 4 16] [--methods M ...] [--shard 1/2]
    python -m benchmarks.matrix table [ROWS]
    python -m benchmarks.matrix lengths [ROWS]
    python -m benchmarks.matrix picture [ROWS] > docs/pictures/matrix.svg

Any study file is a workload: its model, data and steps, and the middle of its recipe's ranges; its
space and its trials are what ShareTune's search has. Rows go to ROWS/NAME.csv, one after another,
and those that are there are not trained again; what is prepared lies in RUNS/NAME. From the rows
alone `table` prints all, `lengths` how sharing fares with longer trainings, and `picture` draws.
The files in `workloads` read what `materials.py` and the examples' `prepare.py` write.
"""

import argparse
from pathlib import Path

from benchmarks.matrix.lengths import lengths
from benchmarks.matrix.names import METHODS, PARTS
from benchmarks.matrix.picture import picture
from benchmarks.matrix.rows import read_rows
from benchmarks.matrix.table import table

HERE = Path(__file__).parent
ROWS = HERE / "rows"

PRINTED = {"table": table, "lengths": lengths, "picture": picture}
"""Functions that turn the rows into printed text, by command name."""


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.matrix",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run")
    running.add_argument("studies", nargs="+", type=Path)
    running.add_argument("--parts", nargs="+", type=float, default=PARTS)
    running.add_argument("--times", nargs="+", type=float, default=[1.0])
    running.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    running.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    running.add_argument("--shard", type=_shard, default=(1, 1))
    running.add_argument("--runs", type=Path, default=Path("runs/matrix"))
    running.add_argument("--rows", type=Path, default=ROWS)
    for name in PRINTED:
        commands.add_parser(name).add_argument("rows", nargs="?", type=Path, default=ROWS)
    given = parser.parse_args()
    if given.command in PRINTED:
        print(PRINTED[given.command](read_rows(given.rows)))
    else:
        run(given)


def run(given: argparse.Namespace) -> None:
    """Fill the cells that are asked for, and print each row's numbers."""
    from benchmarks.matrix.running import Asked, Matrix
    from benchmarks.matrix.workload import Workload

    for study in given.studies:
        workload = Workload.of(study, given.runs)
        which, count = given.shard
        of = f"-{which}of{count}" if count > 1 else ""
        rows = given.rows / f"{workload.name}{of}.csv"
        asked = Asked(given.methods, given.parts, given.times, given.seeds, rows, given.shard)
        for row in Matrix(workload, asked).fill():
            print(
                f"{row.workload} {row.method} {row.part:g} x{row.times:g} seed {row.seed}: "
                f"{row.metric} {row.quality:.4g}, loss {row.eval_loss:.4g}, {row.stack:.3f} of the "
                f"stack, {row.steps} steps, {row.seconds:.1f} s",
                flush=True,
            )


def _shard(text: str) -> tuple[int, int]:
    which, count = map(int, text.split("/"))
    return which, count


if __name__ == "__main__":
    main()
