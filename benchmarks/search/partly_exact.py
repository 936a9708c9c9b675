"""Compare GuidedSampler with Optuna's on studies that have nothing to do with sharing.

    python benchmarks/search/partly_exact.py [--seeds 3] [--trials 30]

Prints the hypervolume that each sampler reaches on two studies: small networks on scikit-learn's
digits (accuracy must be measured, weights are exact), and a smooth function of five numbers.
"""

import argparse
import warnings
from collections.abc import Callable, Sequence
from statistics import mean
from typing import Any

import moocore
import numpy as np
import optuna
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from sklearn.datasets import load_digits
from sklearn.model_selection import cross_val_score
from sklearn.neural_network import MLPClassifier

from sharetune.search.samplers.guided_sampler import GuidedSampler

REFERENCES = {"digits": (0.5, 20_000.0), "smooth": (-0.2, 1024.0)}
"""Accuracy or worth, and cost, that every useful trial is better than."""

X, Y = load_digits(return_X_y=True)


def weights(params: dict[str, Any]) -> float:
    return 64 * params["first"] + params["first"] * params["second"] + params["second"] * 10


def digits(trial: optuna.Trial) -> tuple[float, float]:
    sizes = tuple(trial.suggest_int(name, 2, 128, log=True) for name in ("first", "second"))
    rate = trial.suggest_float("rate", 1e-4, 1e-1, log=True)
    network = MLPClassifier(sizes, learning_rate_init=rate, max_iter=20, random_state=0)
    return cross_val_score(network, X, Y, cv=3).mean(), weights(trial.params)


def area(params: dict[str, Any]) -> float:
    return params["width"] * params["depth"]


def smooth(trial: optuna.Trial) -> tuple[float, float]:
    width, depth = trial.suggest_int("width", 8, 128, log=True), trial.suggest_int("depth", 1, 8)
    places = [trial.suggest_float(f"x{i}", 0, 1) for i in range(3)]
    lost = sum((x - 0.2 - 0.2 * i) ** 2 for i, x in enumerate(places))
    return 1 - 1 / (1 + 0.02 * width * depth**0.5) - lost, area(trial.params)


STUDIES: dict[str, tuple[Callable[..., tuple[float, float]], Callable[..., float]]] = {
    "digits": (digits, weights),
    "smooth": (smooth, area),
}


def samplers(name: str, seed: int) -> dict[str, BaseSampler]:
    exact = STUDIES[name][1]
    return {
        "guided": GuidedSampler({1: exact}, reference=REFERENCES[name], seed=seed),
        "TPE": TPESampler(seed=seed),
        "TPE, multivariate": TPESampler(seed=seed, multivariate=True),
        "random": RandomSampler(seed=seed),
    }


def volume(values: Sequence[Sequence[float]], reference: tuple[float, float]) -> float:
    """Hypervolume as a fraction of the box from the reference to (1, 0)."""
    points = np.array([(-score, cost) for score, cost in values])
    box = (1 - reference[0]) * reference[1]
    return moocore.hypervolume(points, ref=[-reference[0], reference[1]]) / box


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=30)
    asked = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore")
    for name, (objective, _) in STUDIES.items():
        found: dict[str, list[float]] = {}
        for seed in range(asked.seeds):
            for sampler_name, sampler in samplers(name, seed).items():
                study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
                study.optimize(objective, n_trials=asked.trials)
                values = [trial.values for trial in study.trials]
                found.setdefault(sampler_name, []).append(volume(values, REFERENCES[name]))
        for sampler_name, volumes in found.items():
            texts = ", ".join(f"{v:.3f}" for v in volumes)
            print(f"{name}: {sampler_name:18} mean {mean(volumes):.3f} of {texts}", flush=True)


if __name__ == "__main__":
    main()
