"""Draw and count plans on configurations of 7B and 70B parameters.

    python benchmarks/large_models.py [SIZE ...] [--turns 2]

Each plan is shown by `sharetune show` in a process of its own, from a folder that holds only a
``config.json``. Prints seconds from start to end, those of CPU, and the largest resident memory;
of several turns the quickest.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "dtype": "bfloat16",
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
}

SIZES: dict[str, dict[str, Any]] = {
    "7B": LLAMA
    | {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32}
    | {"num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 32000},
    "70B": LLAMA
    | {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80}
    | {"num_attention_heads": 64, "num_key_value_heads": 8, "vocab_size": 128256},
}
"""Configurations of Llama 2 7B and Llama 3 70B."""

PLANS: dict[str, str] = {
    "tie": "groups: [{layers: 8..-9}]",
    "bank": "groups: [{layers: 8..-9, form: {bank: {ratio: 0.5}}}]",
    "narrow": "groups: [{layers: 8..-9, form: {narrow: {keep: 0.75}}}]",
    "drop": "groups: [{layers: 16..23, form: drop}]",
    "lowrank": "groups: [{layers: 8..-9, form: {lowrank: {rank: 64}}}]",
}
"""Plan files by the name of their form."""


@dataclass(frozen=True)
class Cost:
    """The cost of a process: seconds from start to end, seconds of CPU, peak memory in MiB.

    `text` is what it printed.
    """

    seconds: float
    cpu_s: float
    memory_mib: float
    text: str


def main() -> None:
    """Print a line for each plan on each size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sizes", nargs="*", metavar="SIZE", help=", ".join(SIZES))
    parser.add_argument("--turns", type=int, default=2)
    options = parser.parse_args()
    for size in options.sizes or SIZES:
        for plan in PLANS:
            costs = [shown(size, plan) for _ in range(options.turns)]
            best = min(costs, key=lambda cost: cost.seconds)
            parameters = next(x for x in best.text.splitlines() if x.startswith("parameters"))
            print(
                f"{size:4} {plan:8} {best.seconds:5.1f} s, {best.cpu_s:5.1f} s of CPU, "
                f"{max(cost.memory_mib for cost in costs):4.0f} MiB; {parameters}",
                flush=True,
            )


def shown(size: str, plan: str) -> Cost:
    """Return what `sharetune show` of a plan on a configuration takes.

    Raises :class:`RuntimeError` if it fails.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "config.json").write_text(json.dumps(SIZES[size]))
        (folder / "plan.yaml").write_text(PLANS[plan])
        command = [sys.executable, "-m", "sharetune.search.commands.cli", "show"]
        command += [str(folder / "plan.yaml"), "--model", name]
        return _run(command, folder / "output")


def _run(command: list[str], output: Path) -> Cost:
    """Run a command that prints to `output`, and wait for it with what it used."""
    start = time.perf_counter()
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    with output.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=environment)
        _, status, used = os.wait4(process.pid, 0)
    seconds, text = time.perf_counter() - start, output.read_text()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"show ended with {process.returncode}: {text}")
    return Cost(seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, text)


if __name__ == "__main__":
    main()
