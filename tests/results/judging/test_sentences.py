"""Sentences of the summary and the warnings say what the table's numbers say."""

import os
import re
from math import isclose

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState

from sharetune.results.judging.caveats import caveats
from sharetune.results.judging.summary import summarise
from sharetune.results.reading import attributes as record
from sharetune.results.reading.study import study_record
from sharetune.spaces import Candidate, Recipe, SharingPlan
from tests.results.conftest import complete, ended, make_study

optuna.logging.set_verbosity(optuna.logging.WARNING)
HALF, MORE = SharingPlan.range(1, 4, 0.5), SharingPlan.range(0, 5, 0.75)
DROP = SharingPlan.model_validate({"groups": [{"layers": "3..5", "form": "drop"}]})
NARROW = SharingPlan.model_validate(
    {"groups": [{"layers": "3..5", "form": {"narrow": {"keep": 0.5}}}]}
)
ACCURACY = st.one_of(
    st.sampled_from([0.0, 0.5, 0.8, 0.805, 0.81, 0.8104, 0.82, 1.0]), st.floats(0, 1)
)
PARAMETERS = st.one_of(st.sampled_from([50.0, 100.0, 101.0, 102.0, 200.0]), st.floats(10, 300))


def latency(low, high, drift, preempted):
    """A measurement whose ratio to the unshared model has this interval; None: it has none."""
    form = {"median_ms": 10.0, "low_ms": 9.0, "high_ms": 11.0, "ratio": (low + high) / 2}
    form |= {"ratio_low": low, "ratio_high": high} if low < high else {}
    return {"forms": {"stored": form}, "drift": drift, "preempted": preempted, "unshared_ms": 10.0}


def trial(kind, accuracy, parameters, examples, seed):
    plans = {"unshared": SharingPlan(), "half": HALF, "more": MORE, "drop-half": DROP}
    plans["narrow"] = NARROW
    if kind in ("failed", "over"):
        state = TrialState.FAIL if kind == "failed" else TrialState.PRUNED
        return ended(state, **{record.REASON: "over budget"})
    written = Candidate(plan=plans[kind], recipe=Recipe(seed=seed)).written()
    more = {record.CANDIDATE: written}
    if kind in ("unshared", "drop-half"):
        more["anchor"] = kind
    if examples:
        more[record.PER_CLASS] = {"a": {"support": examples}}
    return complete(accuracy, parameters, plans[kind], **more)


TRIAL = st.builds(
    trial,
    st.sampled_from(["half", "half", "more", "narrow", "unshared", "drop-half", "failed", "over"]),
    ACCURACY,
    PARAMETERS,
    st.sampled_from([0, 20, 1000, 100_000]),
    st.integers(0, 2),
)
RATIO = st.one_of(st.sampled_from([0.2, 0.94, 0.95, 0.97, 1.0, 1.02, 1.05, 1.06, 2.86]))
LATENCY = st.builds(
    lambda ends, drift, preempted: latency(min(ends), max(ends), drift, preempted),
    st.tuples(RATIO, RATIO),
    st.sampled_from([-0.2, -0.052, 0.0, 0.049, 0.051, 0.3]),
    st.sampled_from([0.0, 0.2, 0.254, 3.0]),
)


@st.composite
def studies(draw):
    trials = draw(st.lists(TRIAL, max_size=8))
    anchors = [t for t in trials if t.get("anchor") == "unshared"]
    trials = [t for t in trials if t.get("anchor") != "unshared"]
    trials = anchors[:1] + trials
    measured = {
        number: draw(LATENCY)
        for number, one in enumerate(trials)
        if "state" not in one and draw(st.booleans())
    }
    rows = draw(st.sampled_from([{}, {"train": 90, "test": 30}]))
    study = make_study(None, *trials, latency=measured, rows=rows)
    return study_record("run", study)


EXAMPLES = settings(max_examples=int(os.environ.get("SHARETUNE_EXAMPLES", "8")), deadline=None)
"""Random studies a test, of which the environment may ask for more."""


def found(pattern, texts):
    """The match of `pattern` in the one of `texts` that has it, with plain blanks; else None."""
    plain = [text.replace("\u202f", " ").replace("\N{MINUS SIGN}", "-") for text in texts]
    return next((match for text in plain if (match := re.search(pattern, text))), None)


def trained(study):
    frame = study.frame
    return frame[frame["state"] == "COMPLETE"]


def shares(plan):
    return plan.startswith(("1..4 bank", "0..5 bank"))


@EXAMPLES
@given(studies())
def test_the_summary(study):
    texts, rows = summarise(study), trained(study)
    if found(r"Of (\d+) trials?", texts):
        counts = [int(n) for n in re.findall(r"(\d+) (?:trained|pruned|failed)", texts[0])]
        assert sum(counts) == len(study.frame)
        assert counts[0] == len(rows)
    unshared = rows[rows["anchor"] == "unshared"]
    told = found(r"unshared model reaches ([\d.]+) % accuracy with ([\d.]+) param", texts)
    assert bool(told) == bool(len(unshared))
    if not told:
        return
    base = unshared.iloc[0]
    assert float(told[1]) == pytest.approx(100 * base["accuracy"], abs=0.051)
    interval = found(r"interval is ([\d.]+)–([\d.]+\d)", texts)
    if interval:
        assert float(interval[1]) - 0.1 <= 100 * base["accuracy"] <= float(interval[2]) + 0.1
    if base["accuracy"] == 0:  # has learned nothing, so nothing is compared with it
        assert not found(r"(smallest|smaller) model .*within", texts)
        return
    near = rows[rows["accuracy"] >= base["accuracy"] - 0.01 - 1e-12]
    smaller = near[near["parameters"] < base["parameters"]]
    small = found(r"smallest model within 1 point of it is trial (\d+)", texts)
    assert bool(small) == bool(len(smaller))
    assert bool(found("No smaller model is within", texts)) != bool(small)
    if small:
        chosen = rows[rows["number"] == int(small[1])].iloc[0]
        assert chosen["parameters"] == smaller["parameters"].min()
        assert chosen["accuracy"] >= base["accuracy"] - 0.01 - 1e-9


def duels(study):
    """The gain over each layer drop of the best sharing model at most 1 % larger, in points."""
    rows = trained(study)
    sharing = rows[rows["plan"].map(shares).astype(bool)]
    for _, drop in rows[rows["anchor"] == "drop-half"].iterrows():
        small = sharing[sharing["parameters"] <= 1.01 * drop["parameters"]]
        if len(small):
            yield 100 * (small["accuracy"].max() - drop["accuracy"])


@EXAMPLES
@given(studies())
def test_sharing_against_layer_drop(study):
    gains = list(duels(study))
    won, lost = sum(g >= 0.05 for g in gains), sum(g <= -0.05 for g in gains)
    unsure = sum(isclose(abs(g), 0.05, abs_tol=1e-6) for g in gains)
    told = found(r"sharing beats plain layer drop at (\d+) of (\d+) size", summarise(study))
    assert bool(told) == bool(gains)
    if told and not unsure:
        assert (int(told[1]), int(told[2])) == (won, len(gains))
    details = found(r"sizes? \((.*)\)\.$", summarise(study))
    if details:
        shown = re.findall(r"drop-half: (\S+)", details[1])
        assert sum(text.startswith("+") for text in shown) == int(told[1])
    loses = found("Sharing loses to plain layer drop", caveats(study))
    if not unsure:
        assert bool(loses) == bool(lost and 2 * lost >= len(gains))


@EXAMPLES
@given(studies())
def test_no_layer_drop_of_their_size(study):
    rows = trained(study)
    drops = rows[rows["plan"] == "3..5 drop"]
    told = found(r"No plain layer drop at most 1 % larger reaches (.*)\.$", summarise(study))
    named = {int(n) for n in re.findall(r"trial (\d+) \(", told[1])} if told else set()
    for row in rows.itertuples():
        small = drops[drops["parameters"] <= 1.01 * row.parameters]["accuracy"]
        if row.number in named:
            assert len(small) and row.accuracy > small.max()
            assert row.plan not in ("unshared", "3..5 drop")
    best = rows[rows["plan"] == "3..5 narrow 0.5 attention+ffn"].sort_values("accuracy").tail(1)
    for row in best.itertuples():
        small = drops[drops["parameters"] <= 1.01 * row.parameters]["accuracy"]
        others = rows[rows["number"] != row.number]
        if len(small) and row.accuracy > max(small.max() + 0.001, others["accuracy"].max()):
            assert row.number in named


@EXAMPLES
@given(studies())
def test_latency(study):
    texts, rows = caveats(study), trained(study)
    rows = rows[rows["latency_ratio"].notna()]
    sharing = rows[rows["plan"].map(shares).astype(bool)]
    spans = sharing[["latency_ratio_low", "latency_ratio_high"]].to_numpy(dtype=float)
    same = [low >= 0.95 and high <= 1.05 for low, high in spans]
    apart = [high < 0.95 or low > 1.05 for low, high in spans]
    equal = found(r"does not differ between sharing plans: all (\d+) measured", texts)
    untold = found(r"cannot be told apart: .*?(\d+) of (\d+) sharing plans", texts)
    enough = len(spans) >= 2
    assert bool(equal) == (enough and all(same))
    assert bool(untold) == (enough and not all(same) and not any(apart))
    if untold:
        assert (int(untold[1]), int(untold[2])) == (len(same) - sum(same), len(spans))
    widest = found(r"of trial (\d+), from ([\d.]+) to ([\d.]+) times it", texts)
    if widest:
        low, high = float(widest[2]), float(widest[3])
        beyond = [top - end for (end, top), near in zip(spans, same, strict=True) if not near]
        assert high - low == pytest.approx(
            max(width for width in beyond if width == width), abs=0.011
        )
        assert not (low >= 0.95 and high <= 1.05)


@EXAMPLES
@given(studies())
def test_conditions_of_measuring(study):
    texts, rows = caveats(study), study.frame
    drifts = rows["latency_drift"].dropna().abs()
    drifted = found(r"changed by \+?(-?[\d.]+) % beside trial (\d+) \((\d+) of (\d+)", texts)
    assert bool(drifted) == bool((drifts > 0.05).any())
    if drifted:
        assert abs(float(drifted[1])) == pytest.approx(100 * drifts.max(), abs=0.06)
        assert (int(drifted[3]), int(drifted[4])) == ((drifts > 0.05).sum(), len(drifts))
        assert abs(float(drifted[1])) > 5
    busy = found("The device was not quiet", texts)
    assert bool(busy) == bool((rows["latency_preempted"].dropna() > 0.25).any())


@EXAMPLES
@given(studies())
def test_seeds_splits_and_examples(study):
    texts, rows = caveats(study), trained(study)
    selected = found(r"the best of (\d+) trainings", texts)
    assert bool(selected) == bool(study.rows and len(rows) > 1)
    if selected:
        assert int(selected[1]) == len(rows)
    alone = found(r"Too few seeds: (\d+) of (\d+) models? on the front", texts)
    points = rows[["accuracy", "parameters"]].to_numpy(dtype=float)
    front = [
        row
        for (_, row), (a, p) in zip(rows.iterrows(), points, strict=True)
        if not any(b >= a and q <= p and (b > a or q < p) for b, q in points)
    ]
    seeds = {}
    for _, row in rows.iterrows():
        seeds.setdefault(row["plan"], set()).add(row["recipe.seed"])
    single = [row for row in front if len(seeds[row["plan"]]) == 1]
    assert bool(alone) == bool(single)
    if alone:
        assert (int(alone[1]), int(alone[2])) == (len(single), len(front))
    few = found(r"closer than about ([\d.]+) points .*: ([\d.]+)–([\d.]+) %", texts)
    if few:
        half = (float(few[3]) - float(few[2])) / 2
        assert float(few[1]) == pytest.approx(half, abs=0.11) and half > 0.9


@EXAMPLES
@given(studies())
def test_convergence(study):
    texts, rows = caveats(study), trained(study)
    few = found(r"whether the front has converged: (\d+) trained", texts)
    assert bool(few) == (0 < len(rows) < 20)
    if few:
        assert int(few[1]) == len(rows)


@pytest.mark.parametrize(
    ("accuracies", "text"),
    [
        ([0.4] * 15 + [0.6] * 5, "grew from nothing"),
        ([0.6] * 15 + [0.7] * 5, "grew by 100.0 %"),
        ([0.6] * 20, None),
    ],
)
def test_growth(accuracies, text):
    # the reference is 0.5 at 200 parameters, the box reaches from there to 1 and 0
    study = study_record("run", make_study(None, *(complete(a, 100.0) for a in accuracies)))
    pattern = "The front has not converged: its hypervolume still (.*?) over"
    told = found(pattern, caveats(study))
    assert (told and told[1]) == text


@pytest.mark.parametrize(
    ("spans", "text"),
    [
        ([(1.01, 2.86), (0.28, 2.85)], "reach beyond 5 % of the unshared model, the widest, of "),
        ([(0.97, 1.03), (0.96, 1.04)], "all 2 measured are within 5 % of the unshared model"),
        ([(0.97, 1.03), (1.0, 1.0)], "1 of 2 sharing plans measured have no interval"),
        ([(0.5, 0.6), (0.28, 2.85)], None),
    ],
)
def test_wide_intervals_of_latency_cannot_be_told_apart(spans, text):
    trials = [trial("half", 0.8, 50.0 + i, 0, 0) for i in range(len(spans))]
    measured = {number: latency(*span, 0.0, 0.0) for number, span in enumerate(spans)}
    study = study_record("run", make_study(None, *trials, latency=measured))
    texts = [t.replace("\u202f", " ") for t in caveats(study) if t.startswith("Latency")]
    assert [text in each for each in texts] == ([True] if text else [])
