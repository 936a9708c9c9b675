"""An environment of torch, transformers and what they require, and folders loaded there."""

import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import torch
from packaging.requirements import Requirement
from torch import Tensor

NEEDED = ("torch", "transformers", "safetensors", "accelerate", "pillow")
"""Packages that are installed there, besides their requirements."""

PROGRAM = Path(__file__).with_name("alone.py")
"""Script that loads the folders there, and compares."""


def bare_python(home: Path) -> Path:
    """The Python of a new environment in `home`, whose packages are links."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", home], check=True)
    (site,) = home.glob("lib/python*/site-packages")
    for name in _required(NEEDED):
        files = distribution(name).files or []
        for top in {file.parts[0] for file in files} - {"..", "__pycache__"}:
            source = Path(str(distribution(name).locate_file(top)))
            if not (site / top).exists():
                (site / top).symlink_to(source)
    return home / "bin" / "python"


def _required(names: tuple[str, ...]) -> set[str]:
    """The names of installed distributions that `names` require, themselves too."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop().lower().replace("_", "-")
        if name in found:
            continue
        try:
            requirements = distribution(name).requires or []
        except ImportError:
            continue
        found.add(name)
        parsed = map(Requirement, requirements)
        waiting += [r.name for r in parsed if not r.marker or r.marker.evaluate({"extra": ""})]
    return found


@dataclass(frozen=True)
class Case:
    """A folder, the auto class and the task of a pipeline that load it, and where `write_answer`
    put what the model answers."""

    folder: str
    auto: str
    pipeline: str
    answer: str


def write_answer(path: Path, given: dict[str, Tensor], logits: Tensor) -> str:
    """Write inputs and the model's logits for :data:`PROGRAM`."""
    torch.save({"inputs": given, "logits": logits}, path)
    return str(path)


def loaded_alone(python: Path, cases: list[Case], scratch: Path) -> list[dict[str, Any]]:
    """Run :data:`PROGRAM` and return its record of each case. Raises if it fails."""
    (scratch / "cases.json").write_text(json.dumps([asdict(case) for case in cases]))
    ran = subprocess.run(
        [python, PROGRAM, scratch / "cases.json"],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        cwd=scratch,
        env={"HF_HOME": str(scratch / "home"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )
    return [json.loads(line) for line in ran.stdout.splitlines() if line.startswith("{")]
