"""Peak memory of a search's driver and of its worker over 10 MB and over 2 GB of text.

    python benchmarks/streaming.py [--megabytes 10 2000] [--executor ray|local] [--folder FOLDER]

Generates texts of words that are drawn by Zipf's law, 4 kB a line, and runs a real search on each
file with `stream: true`: a random Llama of two layers, width 32, its tokenizer learned from the
first part, two trials of 20 steps on one Ray worker; `local` trains in the driver itself. Prints
for each process its largest resident memory, of which files that are mapped (the blocks) are a part
that the system takes back where it is needed, and its largest memory that no file backs, read ten
times a second.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import yaml

WORDS = 30_000
LINE = 4_000
POOL = 1_000_000
"""Words of the lines that a file is put together from, in another order each time."""

CONFIG = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": 2000,
    "max_position_embeddings": 256,
}
STUDY = {
    "objectives": ["perplexity", "parameters"],
    "budget": {"trials": 2},
    "anchors": ["unshared", "tied"],
    "latency": {"rounds": 0},
    "space": {"recipe": {"steps": 20, "batch_size": 4, "max_length": 128}},
}
KINDS = ("VmHWM", "RssAnon")
"""Largest resident memory since the process began, and what of it no file backs now."""


def write_text(file: Path, megabytes: int) -> None:
    """Write lines of words, the n-th drawn in proportion to 1 / n; lines come again."""
    draw = np.random.default_rng(0)
    letters = [*"abcdefghijklmnopqrstuvwxyz"]
    words = np.array(["".join(draw.choice(letters, 2 + n % 8)) for n in range(WORDS)])
    weights = 1 / np.arange(1, WORDS + 1)
    drawn = " ".join(draw.choice(words, POOL, p=weights / weights.sum()))
    pool = [drawn[i : i + LINE].strip() + "\n" for i in range(0, len(drawn), LINE)]
    left = megabytes * 10**6
    with file.open("w") as lines:
        while left > 0:
            left -= lines.write("".join(pool[i] for i in draw.permutation(len(pool))))


def processes(driver: int) -> dict[str, int]:
    """Return the process ids of the driver and of the worker that trains for it, if it runs."""
    found = {"driver": driver}
    for path in Path("/proc").iterdir():
        if path.name.isdigit() and _name(path).startswith("ray::") and _is_of(path, driver):
            found["worker"] = int(path.name)
    return found


def _name(process: Path) -> str:
    try:
        return (process / "cmdline").read_text()
    except OSError:
        return ""


def _is_of(process: Path, driver: int) -> bool:
    """Whether the process trains, and its Ray session was begun by the driver."""
    try:
        environment = (process / "environ").read_bytes()
        parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
        raylet = int(Path(f"/proc/{parent}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, ValueError):
        return False
    return b"RAY_" in environment and raylet == driver and "ResourceTrainable" in _name(process)


def memory(process: int) -> dict[str, int]:
    """Return the kinds of memory of a process in MiB; none for one that has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return {}
    found = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith(KINDS)}
    return {name: int(value) // 1024 for name, value in found.items()}


def measure(folder: Path, megabytes: int, executor: str) -> dict[str, dict[str, int]]:
    """Run a search over generated text, and return each process's peaks in MiB."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "train.txt", megabytes)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    task = {"name": "text-generation", "train": "train.txt", "stream": True}
    study = {"model": ".", "task": task, "executor": executor} | STUDY
    study["resources"] = {"workers": 1} if executor == "ray" else {}
    (folder / "study.yaml").write_text(yaml.safe_dump(study))
    command = [sys.executable, "-m", "sharetune", "search", "study.yaml", "--out", "run"]
    with (folder / "log").open("w") as log:
        search = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, env=os.environ)
        peaks: dict[str, dict[str, int]] = {"driver": {}, "worker": {}}
        while search.poll() is None:
            for name, process in processes(search.pid).items():
                for kind, value in memory(process).items():
                    peaks[name][kind] = max(value, peaks[name].get(kind, 0))
            time.sleep(0.1)
    if search.returncode:
        raise SystemExit((folder / "log").read_text()[-2000:])
    return peaks


def main(sizes: list[int], executor: str, folder: Path) -> None:
    """Print a table, one line a size."""
    print("| text | driver | of it no file | worker | of it no file | seconds | blocks on disk |")
    print("|---|---|---|---|---|---|---|")
    for size in sizes:
        began, place = time.time(), folder / str(size)
        peaks = measure(place, size, executor)
        disk = sum(f.stat().st_size for f in (place / "run/cache").glob("train-*/**/*.arrow"))
        values = [peaks[name].get(kind) for name in peaks for kind in KINDS]
        cells = ["" if value is None else f"{value:,} MiB" for value in values]
        took = f"{time.time() - began:.0f}"
        print(f"| {size} MB | {' | '.join(cells)} | {took} | {disk / 2**20:,.0f} MiB |", flush=True)
        shutil.rmtree(place)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--megabytes", type=int, nargs="+", default=[10, 2000])
    parser.add_argument("--executor", choices=("ray", "local"), default="ray")
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        main(given.megabytes, given.executor, given.folder or Path(scratch))
