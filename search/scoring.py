"""Do what `sharetune score` and `sharetune solve --measure` ask for, in a run folder."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from sharetune.search.config import StudyConfig
from sharetune.search.edit_scoring import (
    ScoringRun,
    opened,
    score_all,
    score_exchanges,
    wanted_edits,
)
from sharetune.search.latency_limit import measured
from sharetune.search.live import Live
from sharetune.search.progress_bars import Steps
from sharetune.search.run import cluster
from sharetune.search.signals import stopped_at_once
from sharetune.search.starting import held_for_scoring, real_evaluator
from sharetune.search.study.writer import one_error
from sharetune.search.study_file import validate
from sharetune.spaces.errors import ConfigError, PlanError, SharetuneError
from sharetune.spaces.evaluator import Evaluator
from sharetune.spaces.plan import SharingPlan
from sharetune.spaces.planning.edits import Edit, plan_of
from sharetune.spaces.planning.exchange import Measurement, improve
from sharetune.spaces.planning.score_file import StoredScores, Timed
from sharetune.spaces.planning.solving import Solution
from sharetune.spaces.run_folder import RunFolder

UNMEASURED = Live(metric=dict)
"""Functions of a study whose models are compared with the unshared one, and not measured."""


def score_study(
    config: StudyConfig,
    *,
    out: Path,
    address: str | None = None,
    latency: bool = False,
    evaluator: Evaluator | None = None,
) -> StoredScores:
    """Score all edits of a study into the run folder `out`, and return them.

    Those that the folder has already are not scored again. `address` joins a Ray cluster; with
    `latency` edits are timed as well, by the study's protocol, once all are scored;
    `evaluator` replaces the model and its task, for tests. Raises :class:`SharetuneError` for a
    user's mistake, and ``KeyboardInterrupt`` on Ctrl-C or SIGTERM.
    """
    with _scoring(config, out, address, evaluator) as scoring:
        unshared = scoring.unshared()
        stored = opened(scoring, unshared)
        edits = wanted_edits(scoring, unshared)
        if not edits:
            raise ConfigError(
                "no edit that the space allows makes the model smaller",
                "widen space.plan; without it every kind of edit is tried",
            )
        score_all(scoring, stored, edits)
        score_exchanges(scoring, stored, edits)
        found = scoring.file.read()
        if latency:
            _time_all(scoring, found)
    if not found.scored:
        raise PlanError(*_first_refusal(found))
    return found


def improved(
    start: Solution, stored: StoredScores, needs: Mapping[str, float], count: int, out: Path
) -> list[Measurement]:
    """Measure a solved plan, and at most `count` in all with edits exchanged; see :func:`improve`.

    This happens in this process. Plans that the run folder `out` has measured before are not
    measured again.
    """
    config = validate(dict(stored.header.config), str(out))
    config = config.model_copy(update={"executor": "local"})
    scored = list(stored.scored.values())
    bar = Steps("measuring plans", count)
    with _scoring(config, out, None, None) as scoring, stopped_at_once(), bar:
        scoring.refuse_other(stored.header)

        def measure(plan: SharingPlan) -> float:
            if plan not in stored.plans:
                ((_, found),) = scoring.scores([scoring.candidate(plan)])
                if isinstance(found, SharetuneError):
                    raise found
                scoring.file.add_plan(plan, found)
                stored.plans[plan] = found
            bar.advance()
            return stored.plans[plan].distance

        return improve(start, scored, needs, measure, measurements=count)


@contextmanager
def _scoring(
    config: StudyConfig, out: Path, address: str | None, evaluator: Evaluator | None
) -> Iterator[ScoringRun]:
    """Hold the run folder, connect the workers and prepare the model and its data."""
    run = RunFolder(out.resolve())
    with (
        one_error(run.path),
        cluster(config, address) as connected,
        held_for_scoring(config, run),
    ):
        if connected is not None and address is not None:
            connected.result()
        prepared = evaluator or real_evaluator(config, run, UNMEASURED)
        config.space.check(dict(prepared.stacks))
        if connected is not None:
            connected.result()
        yield ScoringRun(config, run, prepared)


def _time_all(scoring: ScoringRun, stored: StoredScores) -> None:
    """Time the edits in this process, one of those with equal shapes for all of them."""
    config = scoring.config
    if not config.latency.rounds:
        raise ConfigError("latency.rounds is 0: nothing is timed", "--set latency.rounds=10")
    alike: dict[str, list[Edit]] = {}
    for key, one in stored.scored.items():
        if key not in stored.latency:
            alike.setdefault(_shape_key(one.edit, scoring.evaluator), []).append(one.edit)
    with stopped_at_once(), Steps("timing edits", len(alike)) as bar:
        for first, *others in alike.values():
            candidate = scoring.candidate(plan_of([first]))
            found = measured(config, scoring.evaluator, candidate, candidate)
            timed = Timed(found["forms"]["stored"]["median_ms"], found["unshared_ms"])
            for edit in (first, *others):
                scoring.file.add_latency(edit, timed)
            bar.advance()


def _shape_key(edit: Edit, evaluator: Evaluator) -> str:
    """Return a key that is the same for edits after which a forward pass does the same work."""
    if not evaluator.stacks[edit.stack].is_uniform:
        return edit.key()
    form = edit.kind, edit.group.form.model_dump()
    return json.dumps([edit.stack, len(edit.layers), form, edit.group.parts])


def _first_refusal(found: StoredScores) -> tuple[str, str]:
    reason = next(iter(found.refused.values()))
    return f"no edit could be scored; the first: {reason}", "see that the model runs on the data"
