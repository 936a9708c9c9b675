"""How good solved plans are after an equal short training, beside the best rivals of their size.

    python benchmarks/planning/trained.py STUDY.yaml RUN [--parts 0.8 0.6 0.4] [--seeds 3]

Scores single edits of the study's model in RUN, solves the cheapest plan for each part of the
layer stacks, and the cheapest of drops, of narrowing, of low rank and of sharing alone; trains
each on every seed by the study's recipe, in RUN/seed-N; prints quality and its interval over
seeds, and the solved plan's lead over each rival with the interval of paired differences. All of
it goes on where it was stopped. `--rest 2` trains, after the first seed, only the solved plan and
the two rivals of each size that did best on it.

The files in `studies` read what `materials.py benchmarks/planning/studies/materials` and the
`prepare.py` of the examples bbc-news and smollm2 write.
"""

import argparse
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

import yaml
from scipy.stats import t as student

from sharetune.results.reading.study import read_study
from sharetune.search.config import load_config, read_study_file
from sharetune.search.scoring import score_study
from sharetune.spaces.objectives import OBJECTIVES, Objective, quality_of
from sharetune.spaces.plan import SharingPlan
from sharetune.spaces.planning.rivals import RivalFronts
from sharetune.spaces.planning.score_file import ScoreFile, StoredScores
from sharetune.spaces.planning.solving import front
from sharetune.spaces.run_folder import RunFolder

SOLVED = "solved"
UNSHARED = "unshared"

Qualities = dict[SharingPlan, float]
"""What one seed's models reached on the test split, by their plans."""


@dataclass(frozen=True)
class Method:
    """The plan of one method for a `part` of the stacks, and the distance its edits add up to."""

    part: float
    name: str
    plan: SharingPlan
    predicted: float


def methods(stored: StoredScores, parts: Iterable[float]) -> list[Method]:
    """Solve for each part of the parameters in the layer stacks."""
    unshared = stored.header.unshared
    whole, stacks = unshared["parameters"], unshared["stack_parameters"]
    every, rivals = stored.all_scored, RivalFronts(stored.all_scored, unshared)
    cheapest, found = front(every, "parameters"), list[Method]()
    for part in parts:
        most = whole - (1 - part) * stacks
        solved = {SOLVED: next(cheapest.best(whole - most)), **rivals.at(most)}
        found += [Method(part, name, one.plan, one.cost) for name, one in solved.items()]
    return found


def trained(study: Path, run: Path, seed: int, plans: Iterable[SharingPlan]) -> Qualities:
    """Train the unshared model and plans on one seed, those that were not yet."""
    distinct = list(dict.fromkeys(plan for plan in plans if plan.groups))
    config = load_config(study)
    folder = run / f"seed-{seed}"
    data = {**read_study_file(study), "name": f"{config.name}-{seed}"}
    data |= {"anchors": [UNSHARED], "plans": [plan.written() for plan in distinct]}
    data |= {"scoring": "off", "budget": {"trials": 1 + len(distinct)}, "keep": "none"}
    data |= {"model": config.model, "task": config.task}
    data["space"]["recipe"]["seed"] = seed
    file = run / f"seed-{seed}.yaml"
    file.write_text(yaml.safe_dump(data, sort_keys=False))
    resume = ["--resume"] if (folder / "study.db").exists() else []
    command = ["search", str(file), "--out", str(folder), *resume]
    subprocess.run([sys.executable, "-m", "sharetune", *command], check=True)
    names = {UNSHARED: SharingPlan(), **{f"plan-{i}": plan for i, plan in enumerate(distinct)}}
    found = read_study(folder)
    rows = found.frame[found.frame["state"] == "COMPLETE"]
    values = dict(zip(rows["anchor"], rows[found.quality.name], strict=True))
    return {plan: float(values[name]) for name, plan in names.items() if name in values}


def interval(values: list[float]) -> str:
    """Return the mean and the half width of its 95 % interval by Student's t."""
    if len(values) < 2:
        return f"{mean(values):.3f}"
    half = student.ppf(0.975, len(values) - 1) * stdev(values) / len(values) ** 0.5
    return f"{mean(values):.3f} +- {half:.3f}"


def print_table(quality: Objective, found: list[Method], runs: Sequence[Qualities]) -> None:
    """Print each method's quality over the seeds, and how far the solved plan is ahead of it."""
    print(f"\n| part | plan | predicted | {quality.title} | lead of the solved plan | seeds |")
    print("|---|---|---|---|---|---|")
    unshared = [run[SharingPlan()] for run in runs]
    print(f"| 1 | {UNSHARED} | 0 | {interval(unshared)} | | {len(unshared)} |")
    for method in found:
        solved = next(m.plan for m in found if m.part == method.part and m.name == SOLVED)
        own = [run for run in runs if {method.plan, solved} <= run.keys()]
        leads = [float(quality.gain(run[solved], run[method.plan])) for run in own]
        lead = "the same plan" if method.plan == solved else interval(leads)
        print(
            f"| {method.part:g} | {method.name} | {method.predicted:.3f} | "
            f"{interval([run[method.plan] for run in own])} | "
            f"{'' if method.name == SOLVED else lead} | {len(own)} |",
            flush=True,
        )


def best(quality: Objective, found: list[Method], first: Qualities, most: int) -> list[Method]:
    """Return the solved plans and, of each part, the `most` rivals that did best on a seed."""
    kept = [method for method in found if method.name == SOLVED]
    for part in dict.fromkeys(method.part for method in found):
        own = [m for m in found if m.part == part and m.name != SOLVED and m.plan in first]
        kept += sorted(own, key=lambda m: quality.sign * first[m.plan])[:most]
    return kept


def main(study: Path, run: Path, options: argparse.Namespace) -> None:
    """Score, solve, train and print."""
    config = load_config(study)
    quality = quality_of([OBJECTIVES[name] for name in config.objectives])
    score_study(config, out=run)
    found = methods(ScoreFile(RunFolder(run).scores).read(), options.parts)
    chosen, runs = found, list[Qualities]()
    for seed in range(options.seeds):
        runs.append(trained(study, run, seed, [method.plan for method in chosen]))
        if options.rest is not None:
            chosen = best(quality, found, runs[0], options.rest)
        print_table(quality, found, runs)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--parts", nargs="+", type=float, default=[0.8, 0.6, 0.4])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rest", type=int)
    given = parser.parse_args()
    main(given.study, given.run, given)
