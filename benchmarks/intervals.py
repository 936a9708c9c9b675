"""Print the intervals of a run's perplexities, and those of their ratios to the unshared model.

python benchmarks/intervals.py runs/smollm2
"""

import sys

from sharetune.results.judging.examples import example_interval, ratio_interval
from sharetune.results.judging.front import comparable
from sharetune.results.judging.rows import rows_of
from sharetune.results.judging.unshared import unshared_trial
from sharetune.results.reading.study import read_study


def main() -> None:
    """Print one line of Markdown for each trained trial."""
    study = read_study(sys.argv[1])
    quality, unshared = study.quality, unshared_trial(study.frame)
    print(f"| plan | {quality.title} | interval | ratio to unshared | its interval | parts |")
    print("|---|---|---|---|---|---|")
    for trial in rows_of(comparable(study.frame, [quality])):
        own = example_interval(trial, quality)
        paired = unshared and ratio_interval(trial, unshared, quality)
        if own is None or unshared is None or paired is None:
            continue
        value, times = trial.value(quality), trial.value(quality) / unshared.value(quality)
        print(
            f"| {trial.title} | {value:.2f} | {own.low:.2f}..{own.high:.2f} | {times:.3f} | "
            f"{paired[0]:.3f}..{paired[1]:.3f} | {own.count} |"
        )


if __name__ == "__main__":
    main()
