"""Summarise a study in sentences and in a few large numbers, from its trials alone."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd

from sharetune.results.formatting import (
    THIN,
    bare,
    difference,
    margin,
    plural,
    quantity,
    ratio,
    short_title,
)
from sharetune.results.judging.cost import hours_text, seconds_of_compute
from sharetune.results.judging.examples import example_interval
from sharetune.results.judging.finals import final_study, has_finals
from sharetune.results.judging.front import comparable, hypervolume, pareto_front, smallest_within
from sharetune.results.judging.learning import has_standard
from sharetune.results.judging.rows import BEATEN, ON_FRONT, OPEN, Row, rows_of
from sharetune.results.judging.seeds import Spread, paired_difference
from sharetune.results.judging.unshared import unshared_trial
from sharetune.results.reading.stored_plans import drops_only, shares_only
from sharetune.results.reading.study import StudyRecord
from sharetune.spaces.anchors import UNSHARED
from sharetune.spaces.objectives import PARAMETERS, Objective

SAME_SIZE = 1.01
"""Ratio of parameters up to which a model counts as no larger: plans rarely match exactly."""


@dataclass(frozen=True)
class Tile:
    """One large number of the page, with its label and a note below."""

    label: str
    value: str
    note: str


@dataclass(frozen=True)
class Counts:
    """Numbers of a study's trials by how they ended.

    `again` counts retrainings of finalists, `answered` trials that repeat a finished one and were
    not trained.
    """

    trained: int
    again: int
    answered: int
    pruned: int
    failed: int
    interrupted: int
    running: int
    waiting: int

    @classmethod
    def of(cls, frame: pd.DataFrame) -> "Counts":
        """Count the trials of a table that :func:`results.load` returned."""
        state, repeats = frame["state"], frame["same_as"].notna()
        again = frame["finalist"].notna()
        interrupted = (state == "FAIL") & (frame["reason"] == "interrupted")
        return cls(
            trained=int(((state == "COMPLETE") & ~repeats & ~again).sum()),
            again=int(((state == "COMPLETE") & again).sum()),
            answered=int(((state == "COMPLETE") & repeats).sum()),
            pruned=int((state == "PRUNED").sum()),
            failed=int(((state == "FAIL") & ~interrupted).sum()),
            interrupted=int(interrupted.sum()),
            running=int((state == "RUNNING").sum()),
            waiting=int((state == "WAITING").sum()),
        )

    def __str__(self) -> str:
        texts = [f"{self.trained:,} trained"]
        for count, text in (
            (self.again, "trained again as finalists"),
            (self.answered, "answered from memory"),
            (self.pruned, "pruned"),
            (self.failed, "failed"),
            (self.interrupted, "interrupted and queued again"),
            (self.running, "running"),
            (self.waiting, "waiting"),
        ):
            texts += [f"{count:,} {text}"] if count else []
        return ", ".join(texts)


@dataclass(frozen=True)
class Rivalry:
    """A layer-drop anchor against the best sharing model that is no larger.

    `gain` is how much better the sharing model is, in the quality's unit, and 0 where that is less
    than the last digit shown; None without such a model. `over_seeds` is how much higher its
    quality is, seed by seed, where both are finalists.
    """

    drop: Row
    sharing: Row | None
    gain: float | None
    over_seeds: Spread | None = None

    @property
    def is_settled(self) -> bool:
        """Return whether the 95 % interval over seeds leaves no doubt which is better."""
        return self.over_seeds is not None and self.over_seeds.low * self.over_seeds.high > 0


def summarise(study: StudyRecord) -> list[str]:
    """Write the study's findings in a few sentences; unknown ones are left out.

    Where finalists have final numbers, models are compared by these.
    """
    quality, final = study.quality, final_study(study)
    sentences = [
        _trials(study),
        _splits(study),
        _finalists(final),
        _unshared(final, quality),
        _smallest(final, quality) if has_standard(final) else "",
        _against_drops(final.frame, quality),
        _no_drop_reaches(final),
        _covered(study),
        _cost(study),
    ]
    return [text for text in sentences if text]


def tiles(study: StudyRecord) -> list[Tile]:
    """List the study's large numbers; unknown ones are left out."""
    quality, final = study.quality, final_study(study)
    found = [
        _unshared_tile(final.frame, quality),
        _smallest_tile(final.frame, quality) if has_standard(final) else None,
        _front_tile(final),
        _hypervolume_tile(study),
    ]
    return [tile for tile in found if tile]


def rivalries(frame: pd.DataFrame, quality: Objective) -> list[Rivalry]:
    """Compare each layer-drop anchor with the best sharing model of at most 1 % more parameters."""
    rows = comparable(frame, [quality, PARAMETERS])
    drops = rows[drops_layers(rows)]
    sharing = rows[[shares_only(candidate) for candidate in rows["candidate"]]]
    found = [_rivalry(drop, sharing, quality) for drop in rows_of(drops)]
    return [
        replace(rival, over_seeds=paired_difference(frame, quality, rival.sharing, rival.drop))
        if rival.sharing
        else rival
        for rival in found
    ]


def drops_layers(frame: pd.DataFrame) -> pd.Series:
    """Return which trials (rows of a boolean column) are anchors that drop layers."""
    return frame["anchor"].astype("string").str.startswith("drop-").fillna(False)


def _trials(study: StudyRecord) -> str:
    counts = Counts.of(study.frame)
    total = plural(len(study.frame), "trial")
    running = " The search was still running." if counts.running else ""
    return f"Of {total}: {counts}.{running}" if len(study.frame) else "There is no trial yet."


def _splits(study: StudyRecord) -> str:
    """Say which split trials are selected on, and which finalists are measured on."""
    if not study.rows:
        return ""
    on, tested = study.selected_on, study.rows["test"]
    examples = f"{study.rows[on]:,} {on} examples"
    if on == "test":
        return f"Trials are selected and measured on the same {examples}."
    return f"Trials are selected and measured on {examples}, finalists on {tested:,} test examples."


def _finalists(final: StudyRecord) -> str:
    if not has_finals(final):
        return ""
    finals = [row.final for row in rows_of(final.frame) if row.final]
    words = [one.standing.word for one in finals]
    seeds = sorted({one.seeds for one in finals})
    of = f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else str(seeds[0])
    return (
        f"{plural(len(words), 'finalist')}, trained again on {of} further seeds: "
        f"{words.count(ON_FRONT)} on the front by their means, {words.count(OPEN)} off it within "
        f"their 95{THIN}% intervals, {words.count(BEATEN)} dominated beyond them."
    )


def _unshared(study: StudyRecord, quality: Objective) -> str:
    unshared = unshared_trial(study.frame)
    if unshared is None:
        return "The unshared model is not measured, so nothing can be compared with it."
    value = quantity(quality, unshared.value(quality))
    size = quantity(PARAMETERS, unshared.value(PARAMETERS))
    return f"The unshared model reaches {value} {quality.title} with {size} parameters." + _doubt(
        unshared, quality, study.selected_on
    )


def _doubt(trial: Row, quality: Objective, split: str) -> str:
    if final := trial.final:
        return (
            f" That is the mean of {final.seeds} seeds, with a 95{THIN}% interval of "
            f"{bare(quality, final.low)}–{bare(quality, final.high)} by Student's t."
        )
    interval = example_interval(trial, quality)
    if interval is None:
        return ""
    low, high = bare(quality, interval.low), bare(quality, interval.high)
    on = f"{split} examples" if interval.over == "examples" else f"parts of the {split} split"
    return f" On {interval.count:,} {on} its 95{THIN}% interval is {low}–{high}."


def _smallest(study: StudyRecord, quality: Objective) -> str:
    smallest = smallest_within(study.frame, quality=quality)
    unshared = unshared_trial(study.frame)
    if smallest is None or unshared is None:
        return ""
    least, base = smallest.value(PARAMETERS), unshared.value(PARAMETERS)
    if least >= base:
        return f"No smaller model is within {margin(quality, 1.0)} of it."
    value = quantity(quality, smallest.value(quality))
    return (
        f"The smallest model within {margin(quality, 1.0)} of it is trial {smallest.number} "
        f"({smallest.plan}): {value} with {quantity(PARAMETERS, least)} parameters, "
        f"{ratio(least, base)} the unshared model."
    )


def _against_drops(frame: pd.DataFrame, quality: Objective) -> str:
    rivals = rivalries(frame, quality)
    met = [rival for rival in rivals if rival.gain is not None]
    if not met:
        return "No sharing plan is as small as a plain layer drop yet." if rivals else ""
    won = [rival for rival in met if rival.gain is not None and rival.gain > 0]
    settled = sum(rival.is_settled for rival in won)
    surely = f", beyond the 95{THIN}% interval over seeds at {settled}" if settled else ""
    details = "; ".join(_duel(rival, quality) for rival in met)
    return (
        f"At most 1{THIN}% larger, sharing beats plain layer drop at {len(won)} of "
        f"{plural(len(met), 'size')}{surely} ({details})."
    )


def _no_drop_reaches(study: StudyRecord) -> str:
    """Name the front's models that no trained drop of layers, at most 1 % larger, comes up to."""
    quality = study.quality
    rows = comparable(study.frame, [quality, PARAMETERS])
    drops = rows[[drops_only(candidate) for candidate in rows["candidate"]]]
    names = [
        f"trial {row.number} ({quantity(quality, row.value(quality))} with "
        f"{quantity(PARAMETERS, row.value(PARAMETERS))} parameters)"
        for row in rows_of(pareto_front(study.frame, study.objectives))
        if row.anchor != UNSHARED and _beats_drops(row, drops, quality)
    ]
    return (
        f"No plain layer drop at most 1{THIN}% larger reaches {', '.join(names)}." if names else ""
    )


def _beats_drops(row: Row, drops: pd.DataFrame, quality: Objective) -> bool:
    """Return whether there are drops no larger than a model, and all are visibly worse."""
    values = _no_larger(drops, row)[quality.name]
    gains = [_visible_gain(quality, row.value(quality), value) for value in values]
    return bool(gains) and min(gains) > 0


def _no_larger(rows: pd.DataFrame, than: Row) -> pd.DataFrame:
    """Return the rows of models that count as no larger than another."""
    return rows[rows["parameters"] <= than.value(PARAMETERS) * SAME_SIZE]


def _visible_gain(quality: Objective, value: float, base: float) -> float:
    """Return by how much a value is better, 0 where that is less than the last digit shown."""
    shown = difference(quality, value, base) != "0"
    return float(quality.gain(value, base)) if shown else 0.0


def _duel(rival: Rivalry, quality: Objective) -> str:
    sharing, base = rival.sharing or rival.drop, rival.drop.value(quality)
    by = difference(quality, sharing.value(quality), base)
    text = f"{rival.drop.anchor}: {by} by trial {sharing.number}"
    if rival.over_seeds is None:
        return text
    ends = rival.over_seeds.low, rival.over_seeds.high
    low, high = (difference(quality, base + end, base) for end in ends)
    return f"{text}, {low} to {high} over {plural(len(rival.over_seeds.numbers), 'seed')}"


def _rivalry(drop: Row, sharing: pd.DataFrame, quality: Objective) -> Rivalry:
    small = _no_larger(sharing, drop)
    if small.empty:
        return Rivalry(drop, None, None)
    rising = small.sort_values(quality.name, ascending=quality.direction == "maximize")
    best = rows_of(rising)[-1]
    return Rivalry(drop, best, _visible_gain(quality, best.value(quality), drop.value(quality)))


def _covered(study: StudyRecord) -> str:
    if not study.has_reference or comparable(study.frame, study.objectives).empty:
        return ""
    share = hypervolume(study.frame, study.objectives, study.reference)
    return (
        f"The front covers {share:.3f} of the box between the reference point "
        f"({reference_text(study)}) and the ideal."
    )


def _cost(study: StudyRecord) -> str:
    seconds = float(seconds_of_compute(study).sum())
    return f"The search cost {hours_text(study, seconds)}." if seconds else ""


def reference_text(study: StudyRecord) -> str:
    """Write the reference point of the hypervolume in words."""
    return ", ".join(
        f"{short_title(objective)} {quantity(objective, study.reference[objective.name])}"
        for objective in study.objectives
    )


def _unshared_tile(frame: pd.DataFrame, quality: Objective) -> Tile | None:
    unshared = unshared_trial(frame)
    if unshared is None:
        return None
    size = quantity(PARAMETERS, unshared.value(PARAMETERS))
    value = quantity(quality, unshared.value(quality))
    return Tile(f"unshared {quality.title}", value, f"{size} parameters")


def _smallest_tile(frame: pd.DataFrame, quality: Objective) -> Tile | None:
    smallest, unshared = smallest_within(frame, quality=quality), unshared_trial(frame)
    if smallest is None or unshared is None:
        return None
    least = smallest.value(PARAMETERS)
    note = f"parameters ({ratio(least, unshared.value(PARAMETERS))}), trial {smallest.number}"
    return Tile(f"smallest within {margin(quality, 1.0)}", quantity(PARAMETERS, least), note)


def _front_tile(study: StudyRecord) -> Tile | None:
    front = len(pareto_front(study.frame, study.objectives))
    if has_finals(study):
        finalists = len(comparable(study.frame))
        return Tile("on the front", f"{front:,}", f"of {plural(finalists, 'finalist')}")
    trained = Counts.of(study.frame).trained
    return Tile("on the front", f"{front:,}", f"of {plural(trained, 'trained trial')}")


def _hypervolume_tile(study: StudyRecord) -> Tile | None:
    if not study.has_reference:
        return None
    share = hypervolume(study.frame, study.objectives, study.reference)
    return Tile("hypervolume", f"{share:.3f}", f"reference: {reference_text(study)}")


def objectives_text(objectives: Sequence[Objective]) -> str:
    """Write the objectives with arrows for their directions: ``accuracy ↑, parameters ↓``."""
    arrows = {"maximize": "↑", "minimize": "↓"}
    return ", ".join(f"{short_title(o)} {arrows[o.direction]}" for o in objectives)
