"""A small study over the fake evaluator."""

import yaml

from sharetune.search.config import StudyConfig
from sharetune.search.study_file import validate


def study(**changes) -> StudyConfig:
    """A small study over the fake, run in this process."""
    data = {
        "name": "fake",
        "model": "fake-model",
        "task": {"name": "text-classification", "train": "t.csv"},
        "executor": "local",
        "scoring": "off",
        "budget": {"trials": 10},
        "space": {
            "plan": [
                {
                    "layers": {"within": "0..-1", "min": 2},
                    "form": {"choices": ["tie", {"bank": {"ratio": {"low": 0.1, "high": 0.9}}}]},
                }
            ],
            "recipe": {"learning_rate": {"low": 1e-5, "high": 1e-3, "log": True}, "steps": 1},
        },
    }
    return validate(data | changes, "study.yaml")


GOOD = {
    "model": "model",
    "task": {"name": "text-classification", "train": "data/train.csv"},
    "space": {"recipe": {"steps": 5}},
}
"""A study file without mistakes."""


def write_study_file(folder, data):
    """Write a study file, of a text or of plain data; return its path."""
    path = folder / "study.yaml"
    path.write_text(data if isinstance(data, str) else yaml.safe_dump(data))
    return path
