"""Search widths and depths whose cost is exact and whose worth must be measured."""

import optuna

from sharetune.search.samplers.guided_sampler import GuidedSampler


def cost(params: dict[str, int]) -> float:
    """Return the exact objective."""
    return params["width"] * params["depth"]


def objective(trial: optuna.Trial) -> tuple[float, float]:
    """Return what must be measured, and the cost."""
    width, depth = trial.suggest_int("width", 1, 64), trial.suggest_int("depth", 1, 8)
    return 1 - 1 / (1 + width * depth**0.5), cost(trial.params)


if __name__ == "__main__":
    study = optuna.create_study(
        directions=["maximize", "minimize"], sampler=GuidedSampler({1: cost}, seed=0)
    )
    study.optimize(objective, n_trials=30)
    for trial in study.best_trials:
        print(trial.params, trial.values)
