"""Gives every command and the Python API bad inputs, and counts what none of them may do.

    python benchmarks/attack.py [--count 1500] [--seed 0] [--kind study] [--show 5]

Inputs are made from good ones, in the proportions of `KINDS`: values of another type or size, keys
that are missing or repeated, files that are cut, overwritten or gone, attributes of a storage,
model folders, arguments. Each may be taken or refused with an error and a hint (exit code 2).
Counted are tracebacks, answers that take over 10 s (of the processor's time, or 30 s on the clock),
and refusals that leave or change a file. A search stops when its first trial would be trained,
without a cluster; all else is real. One process, so that it is quick.
"""

import argparse
import copy
import json
import os
import random
import shutil
import signal
import sqlite3
import string
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from transformers import AutoModel
from typer.testing import CliRunner

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import sharetune  # noqa: E402
from sharetune import results  # noqa: E402
from sharetune.results.page.serving import LivePage  # noqa: E402
from sharetune.search import run as running  # noqa: E402
from sharetune.search.commands.cli import app  # noqa: E402
from sharetune.search.config import StudyConfig  # noqa: E402
from sharetune.search.study_file import load_config  # noqa: E402
from sharetune.spaces import Candidate, Recipe, SharingPlan  # noqa: E402
from sharetune.spaces.compression import Compression  # noqa: E402
from sharetune.spaces.errors import SharetuneError  # noqa: E402
from sharetune.spaces.planning.score_file import ScoreFile, ScoresHeader  # noqa: E402
from sharetune.spaces.space import Space  # noqa: E402
from tests.search.fakes import FakeEvaluator  # noqa: E402
from tests.spaces.planning.scores import UNSHARED, language_model_scores  # noqa: E402

WRITTEN = ROOT / "tests" / "data" / "written-at-e71c858"
LIMIT_S = 10.0
ON_THE_CLOCK = 3
"""Limit on the clock, as a multiple: the machine may be busy."""

STUDY: dict[str, Any] = {
    "name": "attacked",
    "model": "fake-model",
    "task": {"name": "text-classification", "train": "t.csv"},
    "executor": "local",
    "objectives": ["accuracy", "parameters"],
    "budget": {"trials": 10, "stagnation": {"window": 5, "gain": 0.01}, "max_parameters": 3e7},
    "early_stopping": {"rungs": [0.25, 0.5], "eta": 3, "brackets": 1},
    "resources": {"workers": 1, "cpu": 1},
    "latency": {"rounds": 4},
    "finalists": {"seeds": 2, "most": 2, "longer": 1.5},
    "anchors": ["unshared", "tied"],
    "plans": [{"groups": [{"layers": "1..3", "form": {"bank": {"ratio": 0.5}}}]}, "albert-all"],
    "sampler": {"tpe": {}},
    "keep": "front",
    "exports": ["shared"],
    "seed": 0,
    "space": {
        "plan": [
            {
                "layers": {"within": "0..-1", "min": 2, "max": 4},
                "count": {"low": 0, "high": 2},
                "assign": {"choices": ["one", {"cycle": 2}]},
                "form": {"choices": ["tie", {"bank": {"ratio": {"low": 0.1, "high": 0.9}}}]},
            },
        ],
        "recipe": {
            "learning_rate": {"low": 1e-5, "high": 1e-3, "log": True},
            "steps": 10,
            "distill": {"logits": {"choices": [0.5, 1.0]}, "temperature": 2.0},
            "adversary": {"choices": [None, "fgm", {"pgd": {"steps": 2}}]},
            "augment": {"swap": 0.1, "copies": 1},
        },
        "compression": {"magnitude": {"choices": [0.0, 0.5]}, "quantize": None},
    },
}
PLAN: dict[str, Any] = {
    "groups": [
        {"layers": "0..1", "form": {"bank": {"ratio": 0.5}}, "parts": ["ffn"], "init": "mean"},
        {"layers": [2, 3], "assign": {"owners": [0, 0]}, "times": 2, "units": "first"},
    ]
}

NASTY: list[Any] = [
    *(None, True, False, -1, 0, 1, 1.5, -0.0, 1e308, float("inf"), float("-inf"), float("nan")),
    *(10**12, 10**18, -(10**30), 99999, 100000, 2**32, 1e-12, 1e-300),
    *(
        "",
        " ",
        "x",
        "x" * 100_000,
        "\x1b[2J\x1b]0;owned\x07",
        "\u202eevil",
        "\0",
        "a\nb: c",
        "null",
    ),
    *(
        "0..99999999999",
        "-1..0",
        "3..1",
        "..",
        "0..-99999",
        "all",
        "1e999",
        "nan",
        "../../etc/passwd",
    ),
    *("<script>alert(1)</script>", "=1+1", "/", "~", "$HOME", "é" * 50, "🙂", "%s%n", "{}", "!!x"),
    *([], {}, [[]], [None], ["a", "a"], [1, [2, [3]]], {"a": {"b": {}}}, {"": 1}, {"low": 1}),
    *({"low": "a", "high": "b"}, {"low": 2, "high": 1}, {"low": 0, "high": 1, "step": 1e-12}),
    *({"low": 0, "high": float("inf")}, {"low": True, "high": 3}, {"low": 1, "high": 2, "log": 3}),
    *(
        {"choices": []},
        {"choices": "abc"},
        {"choices": [{"choices": [{"low": 1}]}]},
        {"bank": None},
    ),
    *({"tie": [1]}, {"bank": {"ratio": "x"}}, {"bank": {"ratio": 2, "x": 1}}, {"cycle": []}),
    *({"cycle": 10**9}, {"owners": [0] * 5000}, {"within": "0..1", "min": 5, "max": 1}),
    *([-1, 0], [0, -1], [5, 5], list(range(3000)), {str(i): i for i in range(3000)}),
]
"""Values that a reader does not expect."""


class TooLong(BaseException):
    """Ends an answer that takes too long; no handler of ordinary errors takes it."""


class Accepted(BaseException):
    """Ends a search whose first trial would be trained."""


def accept(*_: Any) -> None:
    """Stands for the training of a study that was taken."""
    raise Accepted


@dataclass
class Counts:
    """Counts outcomes by kind of input, and keeps the first `most` faults as text."""

    most: int
    outcomes: dict[str, Counter] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def add(self, kind: str, outcome: str, what: str, detail: str = "") -> None:
        """Counts one outcome; of faults the input is kept."""
        self.outcomes.setdefault(kind, Counter())[outcome] += 1
        if outcome not in ("taken", "refused") and len(self.faults) < self.most:
            self.faults.append(f"--- {kind}: {outcome}: {what[:600]}\n{detail[-1500:]}")

    def total(self, *outcomes: str) -> int:
        """How many inputs came to one of these."""
        return sum(count[outcome] for count in self.outcomes.values() for outcome in outcomes)


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raises :class:`TooLong` inside after this many seconds of the process's time."""

    def end(*_: Any) -> None:
        raise TooLong

    timers = {signal.SIGPROF: signal.ITIMER_PROF, signal.SIGALRM: signal.ITIMER_REAL}
    for kind, timer in timers.items():
        signal.signal(kind, end)
        signal.setitimer(timer, seconds if kind == signal.SIGPROF else ON_THE_CLOCK * seconds, 0.5)
    try:
        yield
    finally:
        for kind, timer in timers.items():
            signal.setitimer(timer, 0)
            signal.signal(kind, signal.SIG_DFL)


class Attack:
    """Inputs of all kinds in a folder of their own, and what came of them."""

    def __init__(self, folder: Path, rng: random.Random, most: int) -> None:
        self.folder, self.rng, self.counts = folder, rng, Counts(most)
        self.made = 0
        self.victims = folder / "victims"
        shutil.copytree(WRITTEN, self.victims)
        config = load_config(self.victims / "study.yaml").model_dump(mode="json")
        with sqlite3.connect(self.victims / "finished" / "study.db") as connection:
            connection.execute(
                "UPDATE study_user_attributes SET value_json = ? WHERE key = 'config'",
                (json.dumps(config),),
            )
        self.model = AutoModel.from_pretrained(self.victims / "model")
        scores = ScoreFile(self.victims / "finished" / "scores.jsonl")
        scores.begin(ScoresHeader({}, UNSHARED, {}))
        for one in language_model_scores():
            scores.add_score(one, None)

    def room(self) -> Path:
        """A new empty folder."""
        self.made += 1
        room = self.folder / f"room-{self.made}"
        room.mkdir()
        return room

    def command(self, kind: str, *words: object, room: Path, what: str = "") -> None:
        """Gives a command line; `room` holds everything that it may touch."""
        line = [str(word) for word in words]
        what = f"{what} {' '.join(line)[:300]}"

        def call() -> int:
            found = CliRunner().invoke(app, line, catch_exceptions=False)
            if found.exit_code == 2 and "error: " not in found.stderr.lower():
                assert "Usage:" in found.stderr, found.output
            assert found.exit_code in (0, 2), found.output
            assert "Traceback" not in found.output, found.output
            assert "\x1b" not in found.output, "an escape was printed"
            return found.exit_code

        self.judge(kind, call, what, room)

    def call(self, kind: str, function: Callable[[], Any], what: str, room: Path) -> None:
        """Calls a function of the Python API."""

        def call() -> int:
            try:
                function()
            except SharetuneError as error:
                assert len(error.message) < 5_000, "an input is echoed whole"
                assert error.hint, "there is no hint"
                return 2
            return 0

        self.judge(kind, call, what, room)

    def judge(self, kind: str, call: Callable[[], int], what: str, room: Path) -> None:
        """Notes how a call ends, how long it takes and what it leaves."""
        before, begin = contents(room), time.process_time()
        try:
            with limited(LIMIT_S):
                outcome = "taken" if call() == 0 else "refused"
        except Accepted:
            outcome = "taken"
        except TooLong:
            self.counts.add(kind, "too long", what, traceback.format_exc())
            outcome = ""
        except BaseException:
            self.counts.add(kind, "traceback", what, traceback.format_exc())
            outcome = ""
        if outcome == "refused" and contents(room) != before:
            after = contents(room)
            changed = [p for p in {*after, *before} if after.get(p) != before.get(p)]
            self.counts.add(kind, "changed", what, str(sorted(changed)[:4]))
        elif outcome:
            slow = time.process_time() - begin > LIMIT_S
            self.counts.add(kind, "too long" if slow else outcome, what)
        shutil.rmtree(room, ignore_errors=True)

    # ------------------------------------------------------------------ study files

    def study(self) -> None:
        """A study file with one or two values of another kind."""
        room, rng = self.room(), self.rng
        data = mutated(STUDY, rng)
        text = yaml.safe_dump(data, sort_keys=False, allow_unicode=rng.random() < 0.5)
        (room / "study.yaml").write_text(text, "utf-8", "surrogatepass")
        self.command(
            "study",
            "search",
            room / "study.yaml",
            "--out",
            room / "run",
            room=room,
            what=text[:500],
        )

    def study_text(self) -> None:
        """A study file whose text is damaged."""
        room, rng = self.room(), self.rng
        data = damaged_text(yaml.safe_dump(STUDY, sort_keys=False), rng)
        (room / "study.yaml").write_bytes(data)
        what = repr(data[:300])
        self.command(
            "study text", "search", room / "study.yaml", "--out", room / "run", room=room, what=what
        )

    def setting(self) -> None:
        """A key that is set on the command line."""
        room, rng = self.room(), self.rng
        (room / "study.yaml").write_text(yaml.safe_dump(STUDY))
        place = ".".join(map(str, rng.choice(list(places(STUDY)))))
        value = rng.choice(NASTY)
        written = (
            value if isinstance(value, str) else yaml.safe_dump(value, default_flow_style=True)
        )
        pair = rng.choice([f"{place}={written}", f"{place}.x={written}", place, f"={written}"])
        line = ["search", room / "study.yaml", "--out", room / "run", "--set", pair]
        self.command("set", *line, room=room)

    # ------------------------------------------------------------------ plans

    def plan_file(self) -> None:
        """A plan file, shown on a model."""
        room, rng = self.room(), self.rng
        text = yaml.safe_dump(mutated(PLAN, rng), allow_unicode=False)
        data = damaged_text(text, rng) if rng.random() < 0.3 else text.encode()
        (room / "plan.yaml").write_bytes(data)
        line = ["show", room / "plan.yaml", "--model", self.victims / "model", "--max-length", 8]
        self.command("plan", *line, room=room, what=repr(data[:400]))

    def api(self) -> None:
        """Settings as plain data or as arguments, given to the Python API."""
        rng = self.rng
        model, good = rng.choice(
            [
                (SharingPlan, PLAN),
                (Candidate, {"plan": PLAN, "recipe": {"steps": 3}, "compression": {"heads": 0.1}}),
                (Recipe, STUDY["space"]["recipe"] | {"learning_rate": 1e-4, "adversary": "fgm"}),
                (Compression, {"heads": 0.2, "magnitude": 0.5, "quantize": "int8", "recover": 0.1}),
                (Space, STUDY["space"]),
                (StudyConfig, STUDY),
            ]
        )
        data, way = mutated(good, rng), rng.choice(["read", "make", "use"])
        room = self.room()
        calls = {"read": lambda: model.model_validate(data), "make": lambda: model(**data)}
        calls["use"] = lambda: self._use(model, data, room)
        self.call("api", calls[way], f"{way} {model.__name__} {data}", room)

    def _use(self, model: Any, data: Any, room: Path) -> None:
        """Give the functions that a user calls what makes settings."""
        out = room / "run"
        start, rows = self.victims / "model", self.victims / "train.csv"
        if model is SharingPlan:
            sharetune.share(self.model, data)
        elif model is StudyConfig:
            keys = {key: value for key, value in data.items() if key != "model"}
            sharetune.search(start, rows, out=out, **keys)
        elif model is Space:
            sharetune.search(start, rows, out=out, space=data, executor="local")
        else:
            model.model_validate(data).model_copy().model_dump(mode="json")

    # ------------------------------------------------------------------ run folders

    def attributes(self) -> None:
        """A run folder with an attribute, a value or a name of another kind in its storage."""
        room, rng = self.room(), self.rng
        run = copied_run(self.victims / "finished", room / "run", weights=rng.random() < 0.3)
        what = damage_storage(run / "study.db", rng)
        self.reading("attributes", run, what, room)

    def reading(self, kind: str, run: Path, what: str, room: Path) -> None:
        """One of the ways to read a run folder."""
        rng = self.rng
        way = rng.choice(
            ["report", "json", "compare", "export", "serve", "load", "resume", "solve"]
        )
        if way == "report":
            self.command(kind, "report", run, room=room, what=what)
        elif way == "json":
            self.command(kind, "report", run, "--json", room=room, what=what)
        elif way == "compare":
            self.command(kind, "report", run, self.victims / "finished", room=room, what=what)
        elif way == "export":
            form = rng.choice(["shared", "dense", "albert", "code"])
            words = ["export", run, rng.choice([1, 3, 7, 9, 0]), room / "out", "--format", form]
            self.command(kind, *words, room=room, what=what)
        elif way == "serve":
            self.call(kind, lambda: LivePage(run).page(), f"serve {what}", room)
        elif way == "load":
            self.call(kind, lambda: results.load(run), f"load {what}", room)
        elif way == "resume":
            words = ["search", self.victims / "study.yaml", "--out", run, "--resume"]
            self.command(kind, *words, room=room, what=what)
        else:
            self.command(kind, "solve", run, "--parameters", "80%", room=room, what=what)

    def run_files(self) -> None:
        """A run folder with a file that is cut, overwritten, gone, or a folder."""
        room, rng = self.room(), self.rng
        run = copied_run(self.victims / "finished", room / "run", weights=True)
        (run / "storage.yaml").write_text("url: postgresql://me@127.0.0.1:1/x\nstudy: s\n")
        if rng.random() < 0.7:
            (run / "storage.yaml").unlink()
        path = rng.choice(sorted(p for p in run.rglob("*") if p.is_file()))
        what = damage_file(path, rng)
        self.reading("run files", run, f"{path.relative_to(run)} {what}", room)

    def scores(self) -> None:
        """A file of scores with lines of another kind."""
        room, rng = self.room(), self.rng
        run = room / "run"
        run.mkdir()
        lines = (self.victims / "finished" / "scores.jsonl").read_text().splitlines()[:40]
        at = rng.choice([0, 0, rng.randrange(len(lines))])
        lines[at] = json.dumps(mutated(json.loads(lines[at]), rng))
        data = "\n".join(lines).encode() + b"\n"
        if rng.random() < 0.3:
            data = damaged_bytes(data, rng)
        (run / "scores.jsonl").write_bytes(data)
        size = rng.choice(["80%", "10M", "1e9", "-1", "x", "0", "99999999999999G", "nan", "inf%"])
        option = rng.choice(["--parameters", "--bytes", "--flops", "--latency-ms"])
        more = rng.choice([[], ["--front"], ["--count", rng.choice([1, 3, 10**9, -1])]])
        self.command("scores", "solve", run, option, size, *more, room=room, what=lines[at][:400])

    def model_folder(self) -> None:
        """A shared model's folder that is damaged, loaded or exported."""
        room, rng = self.room(), self.rng
        if rng.random() < 0.5:
            run = copied_run(self.victims / "finished", room / "run", weights=True)
            model, trial = run / "trials" / "1" / "model", 1
        else:
            run, trial = None, 0
            model = room / "model"
            shutil.copytree(self.victims / "shared", model)
        what = damage_model(model, rng)
        if run is not None:
            form = rng.choice(["shared", "dense", "albert", "code"])
            words = ["export", run, trial, room / "out", "--format", form]
            self.command("model folder", *words, room=room, what=what)
            return
        from sharetune.trainers import load_shared

        self.call("model folder", lambda: load_shared(model), what, room)

    def arguments(self) -> None:
        """Command lines with arguments of another kind."""
        room, rng = self.room(), self.rng
        run, study = self.victims / "finished", room / "study.yaml"
        study.write_text(yaml.safe_dump(STUDY))
        paths = [
            run,
            study,
            room,
            room / "none",
            "/dev/null",
            "",
            "\0x",
            "x" * 5000,
            "/proc/self/mem",
        ]
        paths += ["-", "~root", "http://x", room / "study.yaml" / "x"]
        numbers = [-1, 0, 1, 10**20, "x", "1.5", "", 65536, "٣"]
        path, other, number = rng.choice(paths), rng.choice(paths), rng.choice(numbers)
        address = rng.choice(["x", "127.0.0.1:1", "ray://127.0.0.1:1", ":", "auto", "\0"])
        task, new = rng.choice(["text-classification", "x", "", "\x1b[2J"]), room / "new.yaml"
        line = rng.choice(
            [
                ["search", path, "--out", room / "out"],
                ["search", study, "--out", other, "--address", address],
                ["search", study, "--out", path, "--resume"],
                ["search", study, "--out", room / "out", "--set", f"seed={number}"],
                ["score", path, "--out", room / "out"],
                ["solve", path, "--parameters", number],
                ["solve", run, "--parameters", number, "--count", number],
                ["solve", run, "--parameters", "80%", "--out", path],
                ["solve", run, "--parameters", "80%", "--into", path],
                ["report", path],
                ["report", path, other, "--json"],
                ["serve", path, "--port", number],
                ["show", path, "--model", self.victims / "model"],
                ["show", "albert-all", "--model", path],
                ["show", "albert-all", "--model", self.victims / "model", "--max-length", number],
                ["export", run, number, room / "out"],
                ["export", path, 1, room / "out"],
                ["export", run, 1, other, "--format", rng.choice(["x", "shared", "", "\x1b[2J"])],
                ["list", rng.choice(["forms", "x", "", "\x1b[2J", "x" * 9999])],
                ["init", "--task", task, "--model", path, "--data", other, "--out", new],
            ]
        )
        if line[0] == "serve" and path == run and str(number) in ("0", "1", "65536"):
            line[1] = room
        self.command("arguments", *line, room=room)


KINDS: dict[str, tuple[int, Callable[[Attack], None]]] = {
    "study": (500, Attack.study),
    "study text": (150, Attack.study_text),
    "set": (150, Attack.setting),
    "plan": (150, Attack.plan_file),
    "api": (300, Attack.api),
    "attributes": (250, Attack.attributes),
    "run files": (80, Attack.run_files),
    "scores": (80, Attack.scores),
    "model folder": (120, Attack.model_folder),
    "arguments": (120, Attack.arguments),
}
"""Number of inputs of each kind in a run of 1,900, and the method that makes one input."""


def contents(folder: Path) -> dict[str, Any]:
    """Returns a folder's entries by path: bytes of small files, sizes of large ones, "d"."""
    found: dict[str, Any] = {}
    for path in folder.rglob("*") if folder.is_dir() else ():
        status = path.lstat()
        small = path.is_file() and status.st_size < 300_000
        found[str(path)] = path.read_bytes() if small else status.st_size if path.is_file() else "d"
    return found


def places(data: Any, inside: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The places of all values inside plain data."""
    children = data.items() if isinstance(data, dict) else enumerate(data)
    for key, child in children:
        yield (*inside, key)
        if isinstance(child, dict | list):
            yield from places(child, (*inside, key))


def mutated(data: Any, rng: random.Random) -> Any:
    """A copy with one or two values changed, keys gone, added or misspelled."""
    changed = copy.deepcopy(data)
    for _ in range(rng.choice([1, 1, 2])):
        found = list(places(changed))
        if not found:
            return changed
        *inside, last = rng.choice(found)
        owner = changed
        for step in inside:
            owner = owner[step]
        how = rng.random()
        if how < 0.75:
            owner[last] = copy.deepcopy(rng.choice(NASTY))
        elif how < 0.85:
            del owner[last]
        elif isinstance(owner, dict):
            name = "".join(rng.choices(string.ascii_letters, k=5)) if how < 0.95 else f"{last}s"
            owner[name] = copy.deepcopy(rng.choice(NASTY))
        else:
            owner.append(copy.deepcopy(rng.choice(NASTY)))
    return changed


BOMB = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{two}: &{two} [{','.join([f'*{one}'] * 10)}]\n"
    for one, two in zip("abcdefgh", "bcdefghi", strict=True)
)


def damaged_text(text: str, rng: random.Random) -> bytes:
    """The bytes of a text that is no good YAML any more, or other YAML."""
    tails = [
        "name: again\n",
        "x: &x [*x]\n",
        "x: &x {y: *x}\n",
        "x: 2024-99-99\n",
        "x: !!int abc\n",
        "x: !!timestamp x\n",
        "x: !!binary '%%'\n",
        "x: !!python/object/apply:os.system [ls]\n",
        "x: !!set {a, b}\n",
        "? [a]\n: b\n",
        "1: 2\n",
        "null: 2\n",
        "<<: 3\n",
        f"x: {'[' * 5000}\n",
        f"x: {'{a: ' * 3000}\n",
        f"x: {'9' * 6000}\n",
        "x: 1:99:99\n",
        BOMB,
        "--- \n",
        "%YAML 9.9\n---\n",
        "x: *nobody\n",
        "\t\n",
        "x" * 2_000_000,
        "- - - - -\n",
        "x: .inf\ny: .nan\n",
    ]
    how = rng.random()
    if how < 0.6:
        return (text + rng.choice(tails)).encode()
    if how < 0.8:
        return rng.choice(tails).encode()
    return damaged_bytes(text.encode(), rng)


def damaged_bytes(data: bytes, rng: random.Random) -> bytes:
    """Cut, with other bytes in it, or other bytes altogether."""
    at = rng.randrange(max(1, len(data)))
    return rng.choice(
        [
            data[:at],
            data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :],
            data[:at] + b"\0" * 50 + data[at:],
            b"",
            b"\xff\xfe" + data,
            bytes(rng.randrange(256) for _ in range(200)),
            data[at:],
        ]
    )


def damage_file(path: Path, rng: random.Random) -> str:
    """Damages a file in place; says how."""
    how = rng.choice(["bytes", "gone", "folder", "link", "secret"])
    data = path.read_bytes()
    path.unlink()
    if how == "bytes":
        path.write_bytes(damaged_bytes(data, rng))
    elif how == "folder":
        path.mkdir()
    elif how == "link":
        path.symlink_to(path)
    elif how == "secret":
        path.write_bytes(data)
        path.chmod(0)
    return how


def copied_run(run: Path, to: Path, *, weights: bool) -> Path:
    """A copy of a run folder, quickly."""
    skip = shutil.ignore_patterns("cache") if weights else shutil.ignore_patterns("cache", "trials")
    shutil.copytree(run, to, ignore=skip)
    return to


def damage_storage(storage: Path, rng: random.Random) -> str:
    """Changes one value in the tables of a study; says which."""
    with sqlite3.connect(storage) as connection:
        kind = rng.random()
        if kind < 0.45:
            return _damage_attribute(connection, "study_user_attributes", rng)
        if kind < 0.85:
            return _damage_attribute(connection, "trial_user_attributes", rng)
        statement = rng.choice(
            [
                "UPDATE studies SET study_name = char(27) || '[2J'",
                "UPDATE studies SET study_name = ''",
                "INSERT INTO studies VALUES (2, 'second')",
                "DELETE FROM studies",
                "DELETE FROM trials",
                "DELETE FROM trial_values",
                "DELETE FROM study_directions",
                "INSERT INTO study_directions VALUES (9, 'MINIMIZE', 1, 9)",
                "UPDATE trials SET state = 'NONSENSE'",
                "UPDATE trials SET number = 7",
                "UPDATE trials SET number = -1 WHERE trial_id = 1",
                "UPDATE trials SET datetime_start = 'yesterday'",
                "UPDATE trials SET datetime_complete = NULL",
                "UPDATE trials SET datetime_start = '0001-01-01 00:00:00'",
                "UPDATE trial_values SET value = 'x'",
                "UPDATE trial_values SET value = NULL",
                "UPDATE trial_values SET value_type = 'INF_POS'",
                "UPDATE trial_params SET distribution_json = '{}'",
                "UPDATE trial_params SET param_value = 1e300",
                "UPDATE version_info SET schema_version = 99",
                "UPDATE alembic_version SET version_num = 'x'",
                "DROP TABLE trials",
                "DROP TABLE trial_user_attributes",
                "DROP TABLE studies",
                "DELETE FROM study_user_attributes",
                "DELETE FROM trial_user_attributes",
            ]
        )
        connection.execute(statement)
        return statement


def _damage_attribute(connection: sqlite3.Connection, table: str, rng: random.Random) -> str:
    owner = table.split("_")[0] + "_id"
    key, value, number = rng.choice(
        connection.execute(f"SELECT key, value_json, {owner} FROM {table} ORDER BY 1, 3").fetchall()
    )
    data = json.loads(value)
    if isinstance(data, dict | list) and data and rng.random() < 0.75:
        changed = json.dumps(mutated(data, rng))
    else:
        changed = rng.choice([json.dumps(rng.choice(NASTY)), "{", "", "\x1b", "[1,2"])
    connection.execute(
        f"UPDATE {table} SET value_json = ? WHERE key = ? AND {owner} = ?", (changed, key, number)
    )
    return f"{table} {key} of {number}: {changed[:400]}"


def damage_model(folder: Path, rng: random.Random) -> str:
    """Damages a shared model's folder; says how."""
    config, weights = folder / "config.json", folder / "model.safetensors"
    how = rng.random()
    if how < 0.6:
        data = mutated(json.loads(config.read_text()), rng)
        text = json.dumps(data)
        config.write_text(text)
        return text[:600]
    if how < 0.75:
        data = weights.read_bytes()
        size = int.from_bytes(data[:8], "little")
        header = mutated(json.loads(data[8 : 8 + size]), rng)
        written = json.dumps(header).encode()
        weights.write_bytes(len(written).to_bytes(8, "little") + written + data[8 + size :])
        return f"header {written[:400]!r}"
    if how < 0.8:
        (folder / "model.safetensors.index.json").write_text(
            json.dumps(rng.choice([*NASTY, {"weight_map": {"x": "../../x"}}, {"weight_map": []}]))
        )
        return "index"
    if how < 0.85:
        (folder / "generation_config.json").write_text(json.dumps(rng.choice(NASTY)))
        return "generation"
    path = rng.choice([config, weights])
    return f"{path.name} {damage_file(path, rng)}"


@contextmanager
def nothing_trained() -> Iterator[None]:
    """Searches inside have a fake model, no cluster, and end where training begins."""
    replaced: dict[str, Any] = {
        "real_evaluator": lambda *_: FakeEvaluator(),
        "cluster": lambda config, address: nullcontext(),
        "_execute": accept,
    }
    before = {name: getattr(running, name) for name in replaced}
    for name, value in replaced.items():
        setattr(running, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(running, name, value)


def attack(count: int, seed: int, *, kinds: list[str] | None = None, show: int = 0) -> Counts:
    """Makes `count` inputs of these kinds, or of all, and returns what they came to."""
    rng = random.Random(seed)
    chosen = kinds or list(KINDS)
    whole = sum(KINDS[kind][0] for kind in chosen)
    import sharetune.trainers  # noqa: F401 - what all have to wait for once counts for none

    with tempfile.TemporaryDirectory(prefix="attack-") as scratch, nothing_trained():
        place = os.getcwd()
        os.chdir(scratch)
        try:
            attacking = Attack(Path(scratch).resolve(), rng, show)
            for kind in chosen:
                for _ in range(max(1, round(count * KINDS[kind][0] / whole))):
                    KINDS[kind][1](attacking)
        finally:
            os.chdir(place)
    return attacking.counts


def main(count: int, seed: int, kind: str | None, show: int) -> int:
    """Prints the counts; the exit code says whether there was a fault."""
    begin = time.monotonic()
    counts = attack(count, seed, kinds=None if kind is None else [kind], show=show)
    print("\n".join(counts.faults))
    for name, outcomes in counts.outcomes.items():
        print(f"{name}: {dict(outcomes)}")
    found = [counts.total(name) for name in ("traceback", "too long", "changed")]
    print(
        f"{counts.total('taken', 'refused') + sum(found)} inputs in "
        f"{time.monotonic() - begin:.0f} s: {counts.total('refused')} refused, "
        f"{counts.total('taken')} taken, {found[0]} tracebacks, {found[1]} over {LIMIT_S:g} s, "
        f"{found[2]} with files left or changed"
    )
    return int(any(found))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1900)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=list(KINDS))
    parser.add_argument("--show", type=int, default=5, help="faults that are printed")
    given = parser.parse_args()
    sys.exit(main(given.count, given.seed, given.kind, given.show))
