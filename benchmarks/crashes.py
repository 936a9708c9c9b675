"""Kills a search at random SQL statements, or cuts the power at random writes, and counts the harm.

    python benchmarks/crashes.py kills [--count 1000] [--seed 0]
    python benchmarks/crashes.py cuts  [--count 50]   [--seed 0]

`kills`: SIGKILL in front of or behind a random SQL statement or commit. `cuts`: a library between
the process and the system (`power_cut.c`, built with `cc`) remembers what was synced and kills in
front of a random write; then of each folder only the names are left that were synced, or those of
the moment, and of each block of a file what was synced, or what was written, by chance. Each search
is resumed until it ends, and what it said was ended must be there, with the same values, and with
its weights. Trials train nothing; the report is left out; all else is real. Searches of 20 trials,
with finalists.
"""

import argparse
import ctypes
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy
from kills import Tally, read
from optuna.trial import TrialState

from sharetune.results.reading import attributes as record
from sharetune.results.reading.location import Location
from sharetune.search import run as running
from sharetune.search.circumstances import code
from sharetune.search.study.writer import StudyWriter

ROOT = Path(__file__).parent.parent
TRIALS = 20
MOST_STATEMENTS, MOST_WRITES = 700, 600
"""Largest numbers drawn of statements, or of writes, until the end: a fraction of a search's."""

BLOCK = 4096
"""Bytes that a disk writes at once."""


def main(what: str, count: int, seed: int) -> int:
    """Runs the crashes; the exit code says whether anything was wrong."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch).resolve()
        if what == "cuts" and "POWER_ROOT" not in os.environ:
            return again_with_the_library(folder)
        crash = Kill() if what == "kills" else Cut.of_environment()
        tally = Tally(TRIALS)
        code()  # asks git once for all processes
        if what == "cuts":
            folder = Path(os.environ["POWER_ROOT"])
        while tally.kills < count:
            one_search(folder / f"run-{tally.counts['searches']}", crash, tally, count, rng)
            if tally.counts["searches"] % 10 == 0 or tally.kills >= count:
                tally.print()
    wrong = ("lost", "running", "duplicated", "off budget", "off seeds", "weights", "errors")
    print(f"{tally.kills} {what}: " + ", ".join(f"{name} {tally.counts[name]}" for name in wrong))
    return int(any(tally.counts[name] for name in wrong))


def again_with_the_library(folder: Path) -> int:
    """Builds the library and runs this script under it."""
    library = folder / "power_cut.so"
    source = Path(__file__).with_name("power_cut.c")
    build = ["cc", "-shared", "-fPIC", "-O1", "-D_LARGEFILE64_SOURCE", "-o", library, source]
    subprocess.run([*build, "-ldl"], check=True)
    places = {"POWER_ROOT": folder / "disk", "POWER_SYNCED": folder / "synced"}
    for place in places.values():
        place.mkdir()
    added = {name: str(place) for name, place in places.items()} | {"LD_PRELOAD": str(library)}
    return subprocess.run([sys.executable, *sys.argv], env=os.environ | added).returncode


def one_search(run: Path, crash: "Kill", tally: Tally, count: int, rng: random.Random) -> None:
    """A search that crashes until it is through, or `count` crashes are done."""
    said = run.with_suffix(".said")
    said.touch()
    while True:
        crash.draw(rng, calm=tally.kills >= count)
        child = os.fork()
        if child == 0:
            search(run, said, crash)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            tally.counts["errors"] += os.waitstatus_to_exitcode(status) != 0
            break
        tally.kills += 1
        crash.settle(run, rng)
        look(run, said, tally)
    look(run, said, tally)
    tally.close(run)
    anchors = [t.number for t in read(run) or [] if record.ANCHOR in t.user_attrs]
    tally.counts["weights"] += sum(not weights_are_whole(run, number) for number in anchors)
    shutil.rmtree(run, ignore_errors=True)


def search(run: Path, said: Path, crash: "Kill") -> None:
    """The search in a process of its own, begun or resumed; it does not return."""
    code = 1
    try:
        sys.path.insert(0, str(ROOT))
        from tests.search.fakes import FakeEvaluator
        from tests.search.studies import study

        running.write_report = lambda folder: folder
        tell = StudyWriter._tell

        def telling(writer, number, state, attributes, values=None):
            trial = tell(writer, number, state, attributes, values)
            with said.open("a") as file:
                file.write(
                    json.dumps([number, state.name, trial.values and [*trial.values]]) + "\n"
                )
            return trial

        StudyWriter._tell = telling
        config = study(
            name=run.name,
            budget={"trials": TRIALS},
            finalists={"seeds": 2, "most": 2},
            early_stopping={"rungs": [0.5]},
            latency={"rounds": 0},
        )
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2 if "--loud" not in sys.argv else 1)
            crash.arm()
            running.run(
                config,
                out=run,
                resume=Location.of(run).exists,
                evaluator=FakeEvaluator(harm=0.3),
            )
        code = 0
    except BaseException:
        Path(f"{said}.error").write_text(traceback.format_exc())
        print(traceback.format_exc(), flush=True)
    finally:
        os._exit(code)


def look(run: Path, said: Path, tally: Tally) -> None:
    """Counts what the search said had ended and is not there now, or is other."""
    trials = {t.number: t for t in read(run) or []}
    for line in said.read_text().splitlines():
        number, state, values = json.loads(line)
        there = trials.get(number)
        same = there is not None and there.state is TrialState[state]
        tally.counts["lost"] += not (same and (there.values or None) == (values or None))


def weights_are_whole(run: Path, number: int) -> bool:
    """Whether the weights of an ended anchor, which are always kept, are there."""
    trial = next(t for t in read(run) or [] if t.number == number)
    model = run / "trials" / str(number) / "model" / "weights"
    not_trained = trial.state is not TrialState.COMPLETE or record.SAME_AS in trial.user_attrs
    return not_trained or (model.is_file() and model.stat().st_size > 0)


class Kill:
    """SIGKILL at a random SQL statement."""

    def __init__(self) -> None:
        self.left = 0

    def draw(self, rng: random.Random, calm: bool) -> None:
        """Chooses the moment; `calm` is never."""
        self.left = -1 if calm else rng.randint(1, MOST_STATEMENTS)

    def arm(self) -> None:
        """Counts statements and commits from here."""
        for event in ("before_cursor_execute", "after_cursor_execute", "commit"):
            sqlalchemy.event.listen(sqlalchemy.Engine, event, self.count)

    def count(self, *_: object) -> None:
        """One more; the last one kills."""
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def settle(self, run: Path, rng: random.Random) -> None:
        """Does what else a crash does to the disk: nothing."""


@dataclass
class Cut(Kill):
    """A power cut at a random write below the folder `root`."""

    root: Path
    synced: Path
    left: int = 0

    @classmethod
    def of_environment(cls) -> "Cut":
        """The cut of a process that the library is loaded into."""
        return cls(Path(os.environ["POWER_ROOT"]), Path(os.environ["POWER_SYNCED"]))

    def draw(self, rng: random.Random, calm: bool) -> None:
        """Chooses the moment; `calm` is never."""
        self.left = 0 if calm else rng.randint(1, MOST_WRITES)

    def arm(self) -> None:
        """Has the library count from here."""
        ctypes.CDLL(None).power_cut_after(ctypes.c_long(self.left))

    def settle(self, run: Path, rng: random.Random) -> None:
        """Leaves on the disk below the root what a power cut leaves there."""
        after = self.root.with_name("after")
        after.mkdir()
        present = {key_of(p): p for p in self.root.rglob("*")}
        self._rebuild(self.root, key_of(self.root), after, present, rng)
        for path in [*self.root.iterdir()]:
            if path.is_dir():
                shutil.rmtree(path)
        for path in [*after.iterdir()]:
            if path.is_dir():
                path.rename(self.root / path.name)
        shutil.rmtree(after)
        shutil.rmtree(self.synced)
        self.synced.mkdir()
        sync_all(self.root)

    def _rebuild(
        self, root: Path | None, key: str, into: Path, present: dict, rng: random.Random
    ) -> None:
        now = [] if root is None else [(key_of(p), p.name) for p in root.iterdir()]
        listing = self.synced / key
        synced = (
            [tuple(line.split(" ", 1)) for line in listing.read_text().splitlines()]
            if (listing.exists())
            else []
        )
        is_kept = root is not None and rng.random() < 0.5
        for child, name in now if is_kept or root == self.root else synced:
            if child.endswith("d"):
                (into / name).mkdir()
                self._rebuild(present.get(child), child, into / name, present, rng)
            else:
                kept = self.synced / child
                old = kept.read_bytes() if kept.exists() else b""
                path = present.get(child)
                new = path.read_bytes() if path is not None else old
                (into / name).write_bytes(mixed(old, new, rng))


def mixed(old: bytes, new: bytes, rng: random.Random) -> bytes:
    """Blocks of what was synced and of what was written since, each by chance; so the length."""
    size = len(rng.choice([old, new]))
    blocks = range(0, size, BLOCK)
    parts = [rng.choice([old, new])[at : at + BLOCK].ljust(BLOCK, b"\0") for at in blocks]
    return b"".join(parts)[:size]


def key_of(path: Path) -> str:
    """The name under which the library keeps a file: inode and birth."""
    text = birth_of(path)
    return f"{text}-{'d' if path.is_dir() else 'f'}"


class _Time(ctypes.Structure):
    _fields_ = (
        ("seconds", ctypes.c_int64),
        ("nanoseconds", ctypes.c_uint32),
        ("_", ctypes.c_int32),
    )


class _Status(ctypes.Structure):
    """The system's `struct statx`, up to what is read here."""

    _fields_ = (
        ("_1", ctypes.c_uint8 * 32),
        ("inode", ctypes.c_uint64),
        ("_2", ctypes.c_uint8 * 40),
        ("birth", _Time),
        ("_3", ctypes.c_uint8 * 256),
    )


def birth_of(path: Path) -> str:
    """A file's inode and birth, which `os.stat` does not tell."""
    found = _Status()
    ctypes.CDLL(None).statx(-100, os.fsencode(path), 0x100, 0xFFF, ctypes.byref(found))
    return f"{found.inode}-{found.birth.seconds}-{found.birth.nanoseconds}"


def sync_all(root: Path) -> None:
    """Writes all files below `root` to the disk, so that the next power cut keeps them."""
    from sharetune.spaces.whole_files import sync_tree

    sync_tree(root)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["kills", "cuts"])
    parser.add_argument("--count", type=int)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    sys.exit(main(given.what, given.count or {"kills": 1000, "cuts": 50}[given.what], given.seed))
