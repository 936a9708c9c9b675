"""What a trial costs its worker beside its training, once workers are warm.

The same short trainings are run by ShareTune and by Ray Tune's own ``OptunaSearch`` with a function
trainable, in turns, on the real MiniLM and BBC News.

    python examples/bbc-news/prepare.py
    python benchmarks/warm.py [--trials 24] [--turns 2]

From the moment on at which each worker has ended one trial: seconds of worker a trial, less the
seconds that the trials themselves say they took to load the model, to train and to evaluate it. The
aim is below 0.3 s.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import overhead
from overhead import EXAMPLE, TEST_ROWS, WORKERS, timed

STEPS = 2


def ours(folder: Path, trials: int) -> list[tuple[float, float]]:
    """When each trial of a ShareTune search ended, and its own seconds."""
    from sharetune import results

    overhead.ours(folder, trials=trials, steps=STEPS, sampler="tpe")
    frame = results.load(folder / "run")
    ends = [end.timestamp() for end in frame["completed"]]
    return list(zip(ends, frame["total_s"].astype(float), strict=True))


def theirs(folder: Path, trials: int) -> list[tuple[float, float]]:
    """The same of ``OptunaSearch``."""
    timed(__file__, "--reference", folder, "--trials", trials)
    found: list[tuple[float, float]] = json.loads((folder / "ends.json").read_text())
    return found


def train(config: dict[str, Any]) -> dict[str, float]:
    """A function trainable, which runs in a process of its own."""
    import torch
    from transformers import (
        AutoModelForSequenceClassification,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
    )

    torch.set_num_threads(1)
    start = time.perf_counter()
    tokenizer, splits = overhead.tokenised({"train": 16 * STEPS, "test": TEST_ROWS})
    trainer = Trainer(
        model=AutoModelForSequenceClassification.from_pretrained(EXAMPLE / "model", num_labels=5),
        args=TrainingArguments(
            output_dir=config["folder"],
            max_steps=STEPS,
            learning_rate=config["learning_rate"],
            per_device_train_batch_size=16,
            per_device_eval_batch_size=32,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
        ),
        train_dataset=splits["train"],
        eval_dataset=splits["test"],
        data_collator=DataCollatorWithPadding(tokenizer),
    )
    trainer.train()
    loss = trainer.evaluate()["eval_loss"]
    return {"loss": loss, "own_s": time.perf_counter() - start}


def reference(folder: Path, trials: int) -> None:
    """Ray Tune's search; runs in a process of its own."""
    import ray
    from ray import tune
    from ray.tune.search.optuna import OptunaSearch

    ray.init(address="local", num_cpus=WORKERS, include_dashboard=False, log_to_driver=False)
    tuner = tune.Tuner(
        tune.with_resources(train, {"cpu": 1}),
        param_space={
            "learning_rate": tune.loguniform(1e-5, 1e-3),
            "folder": str(folder / "out"),
        },
        tune_config=tune.TuneConfig(
            search_alg=OptunaSearch(metric="loss", mode="min"),
            metric="loss",
            mode="min",
            num_samples=trials,
            max_concurrent_trials=WORKERS,
        ),
        run_config=tune.RunConfig(storage_path=str(folder / "ray"), verbose=0),
    )
    ends = [(result.metrics["timestamp"], result.metrics["own_s"]) for result in tuner.fit()]
    (folder / "ends.json").write_text(json.dumps(ends))


def beside(trials: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Seconds of worker a trial beside its own, and its own, of trials that end after each worker
    is warm."""
    ended = sorted(trials)
    warm = ended[WORKERS:]
    whole = WORKERS * (ended[-1][0] - ended[WORKERS - 1][0]) / len(warm)
    own = mean(seconds for _, seconds in warm)
    return whole - own, own


def main(trials: int, turns: int) -> None:
    """Runs both in turns and prints what a trial cost."""
    print(f"{trials} trials of {STEPS} steps, {TEST_ROWS} test articles, {WORKERS} workers")
    for turn in range(turns):
        for name, run in (("ShareTune", ours), ("OptunaSearch, functions", theirs)):
            with tempfile.TemporaryDirectory() as folder:
                besides, own = beside(run(Path(folder), trials))
            print(
                f"turn {turn}  {name:24} {besides:6.2f} s a trial beside {own:.2f} s of its own",
                flush=True,
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--reference", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.reference:
        reference(options.reference, options.trials)
    else:
        main(options.trials, options.turns)
