"""Kills a search at random moments and counts what is lost, doubled or left hanging.

    python benchmarks/kills.py driver [--kills 50] [--executor local|ray] [--storage URL]
    python benchmarks/kills.py worker [--kills 50]
    python benchmarks/kills.py node   [--kills 50]

`--trials` is how many trials each search has, instead of 30 and 100.

`driver`: SIGKILL to the process that searches, again and again, each time resumed, in searches of
30 trials. `worker`: SIGKILL to a process that trains, in searches of 100. `node`: SIGKILL to all
processes of one of two worker nodes of a cluster on this machine, which is then replaced, in
searches of 100. Every search must end with exactly its budget, and its finalists, the anchors
and two of the front, with exactly two further seeds each. Trials take 0.2 s and train nothing; all
else is real.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import optuna
from optuna.exceptions import StorageInternalError
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from sharetune.results.reading import attributes as record
from sharetune.results.reading.location import Location

ROOT = Path(__file__).parent.parent
SEEDS = 2
TRIALS = {"driver": 30, "worker": 100, "node": 100}
MARK = "SHARETUNE_KILLS"
SEARCH = f"""
import sys
from pathlib import Path
from sharetune.results.reading.location import Location
from sharetune.search.workers import ray_cluster
from sharetune.search.run import run
from tests.search.fakes import FakeEvaluator
from tests.search.studies import study

out, executor, trials, address, storage = Path(sys.argv[1]), *sys.argv[2:]
config = study(name=out.name, executor=executor, budget=dict(trials=int(trials)), keep="none",
               resources=dict(workers=2), early_stopping=dict(rungs=[0.5]),
               finalists=dict(seeds={SEEDS}, most=2), storage=storage or None)
ray_cluster.MOST_PRELOADED = 0  # trials that train nothing need no torch
run(config, out=out, resume=Location.of(out).exists, address=address or None,
    evaluator=FakeEvaluator(seconds=0.2, harm=0.3))
"""


@dataclass
class Tally:
    """Count what went wrong, over all searches of `trials` trials each."""

    trials: int
    kills: int = 0
    counts: Counter = field(default_factory=Counter)
    ended: dict[str, dict[int, tuple]] = field(default_factory=dict)

    def look(self, run: Path) -> None:
        """Notes the ended trials after a kill; counts those that were there and are not now."""
        before = self.ended.get(str(run), {})
        now = {
            trial.number: (trial.state, tuple(trial.values or ()))
            for trial in read(run) or ()
            if trial.state.is_finished()
        }
        self.counts["lost"] += sum(now.get(number) != end for number, end in before.items())
        self.ended[str(run)] = now

    def close(self, run: Path) -> None:
        """Checks a search that has come to its end."""
        self.look(run)
        trials = read(run) or []
        started = [t for t in trials if record.STARTED in t.user_attrs]
        kept = [t for t in started if not interrupted(t)]
        again = [t for t in trials if record.FINALIST in t.user_attrs and not interrupted(t)]
        seeds = Counter(t.user_attrs[record.FINALIST] for t in again)
        keys = Counter(str(t.user_attrs[record.CANDIDATE]) for t in [*kept, *again])
        self.counts["searches"] += 1
        self.counts["running"] += sum(t.state is TrialState.RUNNING for t in trials)
        self.counts["duplicated"] += sum(count - 1 for count in keys.values())
        self.counts["off budget"] += abs(len(kept) - self.trials)
        self.counts["off seeds"] += sum(abs(count - SEEDS) for count in seeds.values())
        self.counts["off seeds"] += SEEDS * max(0, 4 - len(seeds))
        self.counts["failed"] += sum(t.state is TrialState.FAIL for t in [*kept, *again])
        self.counts["interrupted"] += len(started) - len(kept)

    def print(self) -> None:
        """One line."""
        print(f"{self.kills} kills: {dict(self.counts)}", flush=True)


def interrupted(trial: FrozenTrial) -> bool:
    """Whether it ended because its search process did."""
    return trial.user_attrs.get(record.REASON) == "interrupted"


def read(run: Path) -> list[FrozenTrial] | None:
    """The trials in the storage; None before there is a study."""
    location = Location.of(run)
    if not location.exists:
        return None
    try:
        with location.reading() as storage:
            return optuna.load_study(study_name=run.name, storage=storage).get_trials()
    except (KeyError, SQLAlchemyError, StorageInternalError):
        return None


def start(
    run: Path, trials: int, executor: str, *, address: str = "", storage: str = ""
) -> subprocess.Popen:
    """A search in a process of its own, begun or resumed."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), MARK: str(os.getpid())}
    command = [sys.executable, "-c", SEARCH, str(run), executor, str(trials), address, storage]
    errors = run.with_suffix(".stderr").open("w+")
    search = subprocess.Popen(
        command, env=environment, cwd=ROOT, stderr=errors, stdout=subprocess.DEVNULL
    )
    search.errors = errors  # type: ignore[attr-defined]
    return search


def wait(search: subprocess.Popen) -> None:
    """Until it ends by itself, well."""
    if search.wait():
        search.errors.seek(0)  # type: ignore[attr-defined]
        sys.exit(f"the search failed:\n{search.errors.read()[-3000:]}")  # type: ignore


def kill_drivers(
    folder: Path, kills: int, tally: Tally, rng: random.Random, *, executor: str, storage: str
) -> None:
    """Searches that are killed until they are through."""
    while tally.kills < kills:
        run = folder / f"run-{tally.counts['searches']}"
        while tally.kills < kills:
            search = start(run, tally.trials, executor, storage=storage)
            if ended_before(search, run, rng):
                break
            search.kill()
            search.wait()
            tally.kills += 1
            tally.look(run)
            if run.exists() and read(run) is None:
                shutil.rmtree(run)  # killed while the study was made
        if search.returncode < 0:
            search = start(run, tally.trials, executor, storage=storage)
        wait(search)
        tally.close(run)
        tally.print()


def ended_before(search: subprocess.Popen, run: Path, rng: random.Random) -> bool:
    """Waits for the moment to kill: one in five at any time, else after something was told.

    Whether the search ended by itself before.
    """
    any_time, before = rng.random() < 0.2, Location.of(run).state()
    while not any_time and search.poll() is None and Location.of(run).state() == before:
        time.sleep(0.1)
    try:
        search.wait(timeout=rng.uniform(0.0, 3.0))
    except subprocess.TimeoutExpired:
        return False
    return True


def kill_workers(folder: Path, kills: int, tally: Tally, rng: random.Random) -> None:
    """Searches on two workers, of which one after the other dies."""
    while tally.kills < kills:
        run = folder / f"run-{tally.counts['searches']}"
        search = start(run, tally.trials, "ray")
        while tally.kills < kills and not ended_before(search, run, rng):
            victims = trainers()
            if victims:
                os.kill(rng.choice(victims), signal.SIGKILL)
                tally.kills += 1
        wait(search)
        tally.close(run)
        tally.print()


def kill_nodes(folder: Path, kills: int, tally: Tally, rng: random.Random) -> None:
    """Searches on a cluster whose worker nodes die and are replaced."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    while tally.kills < kills:
        run = folder / f"run-{tally.counts['searches']}"
        search = start(run, tally.trials, "ray", address=cluster.address)
        while tally.kills < kills and not ended_before(search, run, rng):
            if read(run):
                cluster.remove_node(nodes.pop(rng.randrange(2)), allow_graceful=False)
                tally.kills += 1
                nodes.append(cluster.add_node(num_cpus=1))
        wait(search)
        tally.close(run)
        tally.print()
    cluster.shutdown()


def trainers() -> list[int]:
    """Processes that train for a search of ours, told by a mark in their environment."""
    mark = f"{MARK}={os.getpid()}".encode()
    numbers = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
    return [pid for pid in numbers if "ray::Worker" in command_of(pid) and mark in environ_of(pid)]


def environ_of(pid: int) -> bytes:
    """A process's environment, or nothing once it is gone."""
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""


def command_of(pid: int) -> str:
    """A process's command line, or nothing once it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def main(who: str, kills: int, trials: int | None, seed: int, **where: str) -> int:
    """Runs the kills; the exit code says whether anything was wrong."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    tally, rng = Tally(trials or TRIALS[who]), random.Random(seed)
    with tempfile.TemporaryDirectory() as scratch:
        if who == "driver":
            kill_drivers(Path(scratch), kills, tally, rng, **where)
        elif who == "worker":
            kill_workers(Path(scratch), kills, tally, rng)
        else:
            kill_nodes(Path(scratch), kills, tally, rng)
    tally.print()
    wrong = ("lost", "running", "duplicated", "off budget", "off seeds")
    return int(any(tally.counts[name] for name in wrong))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("who", choices=["driver", "worker", "node"])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--trials", type=int)
    parser.add_argument("--executor", choices=["local", "ray"], default="ray")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--storage", default="", help="URL of a PostgreSQL database")
    sys.exit(main(**vars(parser.parse_args())))
