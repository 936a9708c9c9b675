"""Write the finalists of a study as rows of text: numbers over seeds, and those of the search."""

from collections.abc import Iterator
from dataclasses import dataclass

from sharetune.results.formatting import quantity
from sharetune.results.judging.choices import how_sure, interval_text, speed_text
from sharetune.results.judging.finals import final_study, has_finals
from sharetune.results.judging.front import comparable
from sharetune.results.judging.rows import ORDER, Row, rows_of
from sharetune.results.judging.seeds import Spread, spreads
from sharetune.results.judging.unshared import unshared_trial
from sharetune.results.reading.study import StudyRecord
from sharetune.spaces.objectives import PARAMETERS


@dataclass(frozen=True)
class Finalist:
    """One finalist as texts.

    `interval` is of the mean over seeds, `by_examples` that of one training by its examples;
    `searched` is the quality in the search.
    """

    number: int
    word: str
    standing: str
    quality: str
    interval: str
    by_examples: str
    searched: str
    parameters: str
    speed: str
    seeds: str
    runs: tuple[int, ...]
    plan: str


def finalists(study: StudyRecord) -> list[Finalist]:
    """List the finalists: the front's, then the open, then the beaten, each the best first.

    Empty before there are final numbers.
    """
    final = final_study(study)
    if not has_finals(final):
        return []
    sign = -1 if study.quality.direction == "maximize" else 1
    rows = sorted(_rows(study, final), key=lambda found: (_place(found[1]), sign * found[0]))
    return [row for _, row in rows]


def _place(row: Finalist) -> int:
    return ORDER.index(row.word)


def _rows(study: StudyRecord, final: StudyRecord) -> Iterator[tuple[float, Finalist]]:
    before = {trial.number: trial for trial in rows_of(study.frame)}
    over_seeds = spreads(study.frame, study.quality)
    unshared = unshared_trial(final.frame)
    for trial in rows_of(comparable(final.frame)):
        found = _row(final, trial, before[trial.number], over_seeds[trial.number], unshared)
        yield trial.value(study.quality), found


def _row(
    final: StudyRecord,
    trial: Row,
    searched: Row,
    spread: Spread,
    unshared: Row | None,
) -> Finalist:
    quality, own = final.quality, trial.final
    assert own is not None, "comparable trials of a final study are finalists"
    lost = f", {own.lost} without a result" if own.lost else ""
    return Finalist(
        number=trial.number,
        word=own.standing.word,
        standing=str(own.standing),
        quality=quantity(quality, trial.value(quality)),
        interval=interval_text(quality, spread),
        by_examples=how_sure(quality, trial, None),
        searched=quantity(quality, searched.value(quality)),
        parameters=quantity(PARAMETERS, trial.value(PARAMETERS)),
        speed=speed_text(trial, unshared),
        seeds=f"{own.seeds}{lost}",
        runs=spread.numbers,
        plan=trial.title,
    )
