"""How quickly does the report of 2,000 trials open? A made-up study in a real browser.

    python benchmarks/report.py [--trials 2000] [--repeats 5] [--keep FOLDER]

Needs Chromium and the extra `browser`. Prints the size of the file and medians (least to most) of
the seconds

open      from the start of the navigation until the page can be used: its first front is drawn, a
          candidate is open, all rows of the table are there, and a frame was shown after that
thread    what of it the processor worked on the page's main thread
narrow    from a limit's change until table and pictures are narrowed and shown
another   from a click on a row until that candidate is open and shown
"""

import argparse
import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from sharetune.results.page.report import render, write_page
from sharetune.results.reading import attributes as record
from sharetune.results.reading.study import study_record
from sharetune.spaces import Candidate, Recipe, SharingPlan

TRIALS, DEPTH, PARAMETERS, FLOPS, STACK = 2000, 12, 1.1e8, 2.8e9, 0.78
BEGIN = datetime(2026, 1, 1, 12, 0)
OBJECTIVES = {"accuracy": "maximize", "parameters": "minimize", "flops": "minimize"}
LABELS = ["business", "entertainment", "politics", "sport", "tech"]
STUDY = {
    record.OBJECTIVES: list(OBJECTIVES),
    record.REFERENCE: {"accuracy": 0.0, "parameters": PARAMETERS, "flops": FLOPS},
    record.MODEL: {"name": "made-up", "stacks": {"layers": DEPTH}, "labels": LABELS},
    record.CIRCUMSTANCES: {"versions": {"optuna": optuna.__version__}, "threads": 1},
}
ANCHORS = {  # plan, and the fractions of the stack's parameters and FLOPs that it saves
    "unshared": (SharingPlan(), 0.0, 0.0),
    "tied": (SharingPlan.range(0, DEPTH - 1, 1.0, stack="layers"), 11 / 12, 0.0),
    "drop-third": (SharingPlan.drop([4, 5, 6, 7], "layers"), 1 / 3, 1 / 3),
    "drop-half": (SharingPlan.drop([3, 4, 5, 6, 7, 8], "layers"), 1 / 2, 1 / 2),
}
USABLE = """(rows) => new Promise((done) => {
  const usable = () => document.querySelector("[data-figure=front-parameters] .points path")
    && document.querySelector("#candidate[data-trial] svg.layers")
    && document.querySelectorAll("#all-trials tbody tr").length === rows;
  const shown = () => requestAnimationFrame(() => done(performance.now() / 1000));
  const look = () => requestAnimationFrame(usable() ? shown : look);
  look();
})"""
NARROW = """() => {
  const slider = document.querySelector("[name=limit-parameters]");
  slider.value = slider.max / 2;
  slider.dispatchEvent(new Event("input", { bubbles: true }));
  drawn();
}"""
ANOTHER = """() => {
  const panel = document.getElementById("candidate");
  new MutationObserver(() => drawn()).observe(panel, { attributes: true });
  [...document.querySelectorAll("#all-trials tbody tr:not([hidden]) a")].at(-1).click();
}"""
UNTIL_SHOWN = """new Promise((done) => {
  const start = performance.now();
  const end = () => done((performance.now() - start) / 1000);
  const drawn = (frames = 3) => requestAnimationFrame(frames ? () => drawn(frames - 1) : end);
  (CHANGE)();
})"""


def made_up_study(trials: int = TRIALS) -> optuna.Study:
    """A study that a machine could have run: anchors, then drawn candidates, some of which were
    pruned or failed. Every number is drawn from one seed."""
    dice = random.Random(0)
    study = optuna.create_study(study_name="made up", directions=list(OBJECTIVES.values()))
    for key, value in STUDY.items():
        study.set_user_attr(key, value)
    for number in (*range(len(ANCHORS)), *range(50, trials, 40)):
        study.set_user_attr(f"{record.LATENCY}{number}", _latency(dice))
    study.add_trials([*_anchors(dice), *(_drawn(n, dice) for n in range(len(ANCHORS), trials))])
    return study


def _anchors(dice: random.Random) -> Iterator[FrozenTrial]:
    for number, (name, (plan, saved, dropped)) in enumerate(ANCHORS.items()):
        anchor = {record.ANCHOR: name, record.CANDIDATE: Candidate(plan=plan).written()}
        yield _complete(number, saved, dropped, 0.0, dice, anchor)


def _drawn(number: int, dice: random.Random) -> FrozenTrial:
    first = dice.randrange(DEPTH - 2)
    last = dice.randrange(first + 1, DEPTH)
    share, rate = dice.choice((0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)), dice.uniform(-5, -3)
    recipe = Recipe(learning_rate=10**rate, bank_l2=dice.choice((0.0, 1e-6, 1e-5)))
    plan = SharingPlan.range(first, last, share, stack="layers")
    candidate = Candidate(plan=plan, recipe=recipe)
    attributes: dict[str, Any] = {record.CANDIDATE: candidate.written()}
    saved = share * (last - first) / DEPTH
    if number % 17 == 5:
        facts = {"parameters": PARAMETERS * (1 - STACK * saved)}
        attributes |= {record.REASON: "stopped at rung 0", record.FACTS: facts}
        return _ended(number, TrialState.PRUNED, attributes)
    if number % 97 == 11:
        error = {"kind": "RayActorError", "message": "the worker died", "traceback": "at line 3"}
        return _ended(number, TrialState.FAIL, attributes | {record.ERROR: error})
    return _complete(number, saved, 0.0, 0.02 * abs(4 + rate), dice, attributes)


def _complete(
    number: int,
    saved: float,
    dropped: float,
    lost: float,
    dice: random.Random,
    attributes: dict[str, Any],
) -> FrozenTrial:
    """`lost`: accuracy that the recipe costs beside the plan."""
    accuracy = 0.94 - lost - 0.2 * saved**2 - 0.1 * dropped**2 - abs(dice.gauss(0, 0.006))
    parameters, flops = PARAMETERS * (1 - STACK * saved), FLOPS * (1 - dropped)
    row = {"precision": accuracy, "recall": accuracy, "f1": accuracy, "support": 400}
    losses = [[step, 2 / (1 + step / 40) + dice.gauss(0, 0.02)] for step in range(5, 251, 5)]
    facts = {"bytes": 4 * parameters, "flops": flops, "effective_ratio": saved * 12 / 11}
    measured = {
        record.FACTS: {"parameters": parameters, **facts},
        record.METRICS: {"accuracy": accuracy, "macro_f1": accuracy - 0.004},
        record.PER_CLASS: dict.fromkeys(LABELS, row),
        record.CONFUSION: [[368 if i == j else 8 for j in range(5)] for i in range(5)],
        record.CURVE: losses,
        record.SECONDS: {"train": 60.0, "evaluate": 5.0, "total": 66.0},
        record.CIRCUMSTANCES: {"device": "x86_64", "threads": 1, "seed": 0, "steps": 250},
    }
    values = [accuracy, parameters, flops]
    return _ended(number, TrialState.COMPLETE, attributes | measured, values)


def _ended(
    number: int, state: TrialState, attributes: dict[str, Any], values: list[float] | None = None
) -> FrozenTrial:
    trial = create_trial(state=state, values=values, user_attrs=attributes)
    trial.datetime_start = BEGIN + timedelta(seconds=66 * number)
    trial.datetime_complete = trial.datetime_start + timedelta(seconds=66)
    return trial


def _latency(dice: random.Random) -> dict[str, Any]:
    ratio = 1 + dice.gauss(0, 0.01)
    ratios = {"ratio": ratio, "ratio_low": ratio - 0.01, "ratio_high": ratio + 0.01}
    times = {"median_ms": 10 * ratio, "low_ms": 9.9 * ratio, "high_ms": 10.1 * ratio}
    return {"forms": {"stored": {**times, **ratios}}, "unshared_ms": 10.0, "rounds": 30}


def timed(browser: Any, page: Path, rows: int) -> dict[str, float]:
    """Seconds of one visit in a fresh context; raises if the page logs an error."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    tab, errors = context.new_page(), []
    tab.on("console", lambda message: message.type == "error" and errors.append(message.text))
    tab.on("pageerror", lambda error: errors.append(str(error)))
    session = context.new_cdp_session(tab)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    tab.goto(page.as_uri(), wait_until="commit")
    seconds = {"open": tab.evaluate(USABLE, rows)}
    metrics = session.send("Performance.getMetrics")["metrics"]
    seconds["thread"] = next(m["value"] for m in metrics if m["name"] == "TaskDuration")
    tab.locator("[data-figure=front-parameters]").scroll_into_view_if_needed()
    for name, change in (("narrow", NARROW), ("another", ANOTHER)):
        tab.wait_for_timeout(500)
        seconds[name] = tab.evaluate(UNTIL_SHOWN.replace("CHANGE", change))
    context.close()
    assert not errors, errors
    return seconds


def main(trials: int, repeats: int, folder: Path) -> None:
    """Writes the report, visits it, and prints the times."""
    from playwright.sync_api import sync_playwright

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = study_record(folder, made_up_study(trials))
    start = time.perf_counter()
    page = write_page(folder / "report.html", render(study))
    written = time.perf_counter() - start
    print(f"{trials} trials: {page.stat().st_size / 1e6:.1f} MB, written in {written:.1f} s")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        timed(browser, page, trials)
        visits = [timed(browser, page, trials) for _ in range(repeats)]
        browser.close()
    for name in visits[0]:
        values = sorted(visit[name] for visit in visits)
        print(f"{name:8} {median(values):.2f} s ({values[0]:.2f} to {values[-1]:.2f})")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--trials", type=int, default=TRIALS)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--keep", type=Path, help="folder for the page, instead of a temporary one")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        kept = arguments.keep or Path(temporary)
        kept.mkdir(parents=True, exist_ok=True)
        main(arguments.trials, arguments.repeats, kept)
