"""What a search costs beside its trainings, against Transformers' own search over Ray.

The same 8 trials of 5 steps are run by ShareTune and by
``Trainer.hyperparameter_search(backend="ray")``, in turns, on the real MiniLM and BBC News.

    python examples/bbc-news/prepare.py
    python benchmarks/overhead.py [--turns 2]

Prints seconds of each, the ratio, and for ShareTune the bound of
1.15 x (sum of the trials' seconds / workers) + 20 s.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

EXAMPLE = Path(__file__).parent.parent / "examples" / "bbc-news"
TRIALS, STEPS, TEST_ROWS, WORKERS = 8, 5, 64, 2


def ours(folder: Path, *, trials: int = TRIALS, steps: int = STEPS, **more: object) -> float:
    """Seconds of a ShareTune search, from the command to its end; its run is ``folder / "run"``.

    `more` is what else the study file says.
    """
    import pandas as pd
    import yaml

    test = folder / "test.csv"
    rows = pd.read_csv(EXAMPLE / "data" / "test.csv").sample(TEST_ROWS, random_state=0)
    rows.to_csv(test, index=False)
    study = {
        "name": "overhead",
        "model": str(EXAMPLE / "model"),
        "task": {
            "name": "text-classification",
            "train": str(EXAMPLE / "data" / "train.csv"),
            "test": str(test),
        },
        "anchors": ["unshared"],
        "budget": {"trials": trials},
        "resources": {"workers": WORKERS, "cpu": 1},
        "latency": {"rounds": 0},
        "space": {
            "recipe": {
                "learning_rate": {"low": 1e-5, "high": 1e-3, "log": True},
                "steps": steps,
                "batch_size": 16,
                "max_length": 48,
            }
        },
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(study | more))
    return timed(
        "-m",
        "sharetune.search.commands.cli",
        "search",
        folder / "study.yaml",
        "--out",
        folder / "run",
    )


def theirs(folder: Path) -> float:
    """Seconds of the same trials through ``hyperparameter_search``."""
    return timed(__file__, "--reference", folder)


def timed(*arguments: object) -> float:
    """Wall-clock seconds of a fresh Python process."""
    start = time.perf_counter()
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    command = [sys.executable, *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    if result.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{result.stdout}\n{result.stderr}")
    return time.perf_counter() - start


def reference(folder: Path) -> None:
    """Transformers' search; runs in a process of its own."""
    import ray
    import torch
    from ray import tune
    from transformers import (
        AutoModelForSequenceClassification,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
    )

    torch.set_num_threads(1)
    ray.init(address="local", num_cpus=WORKERS, include_dashboard=False, log_to_driver=False)
    tokenizer, splits = tokenised({"train": None, "test": TEST_ROWS})
    trainer = Trainer(
        model_init=lambda: AutoModelForSequenceClassification.from_pretrained(
            EXAMPLE / "model", num_labels=5
        ),
        args=TrainingArguments(
            output_dir=str(folder / "out"),
            max_steps=STEPS,
            per_device_train_batch_size=16,
            per_device_eval_batch_size=32,
            eval_strategy="steps",
            eval_steps=STEPS,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
        ),
        train_dataset=splits["train"],
        eval_dataset=splits["test"],
        data_collator=DataCollatorWithPadding(tokenizer),
    )
    trainer.hyperparameter_search(
        hp_space=lambda _: {"learning_rate": tune.loguniform(1e-5, 1e-3)},
        backend="ray",
        n_trials=TRIALS,
        resources_per_trial={"cpu": 1},
        storage_path=str(folder / "ray"),
    )


def tokenised(rows: dict[str, int | None]) -> tuple[Any, dict[str, Any]]:
    """Return the tokenizer, and each split's first rows, or all, as a data set."""
    import datasets
    import pandas as pd
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(EXAMPLE / "model")
    splits = {}
    for split, count in rows.items():
        frame = pd.read_csv(EXAMPLE / "data" / f"{split}.csv")
        frame = frame if count is None else frame.sample(count, random_state=0)
        labels = frame["label"].astype("category").cat.codes.tolist()
        tokens = tokenizer(frame["text"].tolist(), truncation=True, max_length=48)
        splits[split] = datasets.Dataset.from_dict({**tokens, "labels": labels})
    return tokenizer, splits


def trial_seconds(run: Path) -> float:
    """Sum of the trials' own training and evaluation seconds."""
    from sharetune import results

    return float(results.load(run)["total_s"].sum())


def main(turns: int) -> None:
    """Runs both in turns and prints the table."""
    print(f"{TRIALS} trials of {STEPS} steps, {TEST_ROWS} test articles, {WORKERS} workers")
    for turn in range(turns):
        folder = Path(tempfile.mkdtemp())
        mine = ours(folder)
        own = trial_seconds(folder / "run")
        other = theirs(folder)
        bound = 1.15 * own / WORKERS + 20
        print(
            f"turn {turn}: ShareTune {mine:.1f} s (trials {own:.1f} s / {WORKERS}, bound "
            f"{bound:.1f} s), hyperparameter_search {other:.1f} s, ratio {mine / other:.2f}",
            flush=True,
        )
        shutil.rmtree(folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--reference", type=Path)
    options = parser.parse_args()
    if options.reference:
        reference(options.reference)
    else:
        main(options.turns)
