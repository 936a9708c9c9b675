"""The sampler for any Optuna study whose objectives are partly exact."""

import runpy

import numpy as np
import optuna
import pytest
from optuna.samplers import RandomSampler
from optuna.trial import TrialState

from sharetune.search.samplers.guided_sampler import GuidedSampler
from tests.paths import ROOT

optuna.logging.set_verbosity(optuna.logging.WARNING)


def cost(params):
    return params["width"] * params["depth"]


def score(params):
    """Larger models are better with diminishing returns, and one of three kinds is best."""
    kind = {"a": 0.0, "b": 0.3, "c": 0.1}[params["kind"]]
    return 1 - 1 / (1 + 0.02 * params["width"] * params["depth"] ** 0.5) + kind - params["rate"]


def suggest(trial):
    return {
        "width": trial.suggest_int("width", 8, 128, log=True),
        "depth": trial.suggest_int("depth", 1, 8),
        "kind": trial.suggest_categorical("kind", ["a", "b", "c"]),
        "rate": trial.suggest_float("rate", 0.0, 1.0),
    }


def objective(trial):
    params = suggest(trial)
    return score(params), cost(params)


def front(sampler, trials):
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    study.optimize(objective, n_trials=trials)
    return [trial.params for trial in study.trials]


def test_after_the_first_draws_it_proposes_what_adds_hypervolume():
    """Of the three kinds it soon takes the best one, and rates near the best, far above chance."""
    proposed = front(GuidedSampler({1: cost}, reference=[0.0, 1024.0], seed=0), 40)[20:]
    drawn = front(RandomSampler(seed=0), 40)[20:]
    best = [sum(params["kind"] == "b" for params in some) for some in (proposed, drawn)]
    rate = [np.mean([params["rate"] for params in some]) for some in (proposed, drawn)]
    assert best[0] >= 12 > best[1]
    assert rate[0] < 0.4 < rate[1]


def test_the_same_seed_gives_the_same_parameters():
    assert front(GuidedSampler({1: cost}, seed=3), 14) == front(
        GuidedSampler({1: cost}, seed=3), 14
    )


def test_conditional_parameters_are_proposed_from_a_space():
    def conditional(trial):
        params = {"kind": trial.suggest_categorical("kind", [1, 2])}
        if params["kind"] == 2:
            params["extra"] = trial.suggest_float("extra", 0.0, 1.0)
        return params

    def both(trial):
        params = conditional(trial)
        return params["kind"] - params.get("extra", 0.0), params["kind"]

    sampler = GuidedSampler({1: lambda params: params["kind"]}, space=conditional, seed=0)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    study.optimize(both, n_trials=25)
    assert max(trial.values[0] for trial in study.trials) > 1.8
    assert all(isinstance(trial.params["kind"], int) for trial in study.trials)


def test_what_may_not_be_tried_is_not_proposed():
    def limited(params):
        return None if cost(params) > 200 else cost(params)

    sampler = GuidedSampler({1: limited}, space=suggest, seed=1)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    study.optimize(objective, n_trials=20)
    assert max(trial.values[1] for trial in study.trials) <= 200


def test_pruned_and_failed_trials_are_survived():
    def faulty(trial):
        values = objective(trial)
        if trial.number % 3 == 1:
            raise optuna.TrialPruned
        if trial.number % 3 == 2:
            raise RuntimeError("matrix on fire")
        return values

    sampler = GuidedSampler({1: cost}, seed=0)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    study.optimize(faulty, n_trials=30, catch=RuntimeError)
    assert len(study.get_trials(states=[TrialState.COMPLETE])) == 10


def test_the_package_for_optunahub_runs():
    """Its example as it stands, and its entry."""
    folder = ROOT / "packaging/optunahub/package/samplers/guided_exact"
    names = runpy.run_path(str(folder / "__init__.py"))
    assert names["GuidedSampler"] is GuidedSampler
    example = runpy.run_path(str(folder / "example.py"))
    study = optuna.create_study(
        directions=["maximize", "minimize"], sampler=GuidedSampler({1: example["cost"]}, seed=0)
    )
    study.optimize(example["objective"], n_trials=10)
    assert study.best_trials


@pytest.mark.parametrize(
    ("exact", "message"),
    [
        ({}, "at least one objective must be exact"),
        ({0: cost, 1: cost}, "one at least must be left to be measured"),
        ({2: cost}, r"exact names the objectives \[2\] of a study with 2"),
    ],
)
def test_a_study_it_does_not_fit_is_refused(exact, message):
    with pytest.raises(ValueError, match=message):
        front(GuidedSampler(exact), 3)


def edge_score(trial):
    """One rate is best for every width but the smallest, which learns best at the largest rate."""
    width = trial.suggest_categorical("width", [1, 2, 4, 8, 16, 32])
    rate = trial.suggest_int("rate", 0, 6)
    falls = (
        [0.4, 0.3, 0.2, 0.1, 0.02, 0.03, 0.0] if width == 1 else [0.3, 0.2, 0.1, 0, 0.1, 0.2, 0.3]
    )
    return 0.7 + 0.01 * np.log2(width) - falls[rate], width


@pytest.mark.slow
def test_settings_that_only_the_smallest_model_wants_are_found_before_most_others():
    """The out-of-bag error of the forest keeps the expected gain of such settings above zero."""
    places = []
    for seed in range(12):
        sampler = GuidedSampler({1: lambda p: p["width"]}, reference=[0.2, 33], seed=seed)
        study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
        study.optimize(edge_score, n_trials=42)
        found = [t.number for t in study.trials if t.params == {"width": 1, "rate": 6}]
        places.append(min(found, default=42))
    assert np.mean(places) < 17  # of 42, at random 20.5
