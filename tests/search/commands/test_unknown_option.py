"""An option that a command does not have is answered by what was probably meant."""

import pytest
from typer.testing import CliRunner

from sharetune.search.commands.cli import app
from sharetune.search.commands.unknown_option import setting_keys
from sharetune.spaces.recipe import Recipe
from sharetune.trainers.tasks.base import TASKS

OPTIONS = "options: --out, --resume, --address, --set; see sharetune search --help; keys of the "


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("search s.yaml --label x", "it is a key of the study: --set task.label=VALUE"),
        ("search s.yaml --trials 4", "it is a key of the study: --set budget.trials=VALUE"),
        ("search s.yaml --steps=4", "it is a key of the study: --set space.recipe.steps=VALUE"),
        ("score s.yaml --workers 4", "it is a key of the study: --set resources.workers=VALUE"),
        ("search s.yaml --gpus 4", "it is a key of the study: --set resources.gpu=VALUE"),
        ("search s.yaml --budget.trials 4", "it is a key of the study: --set budget.trials=VALUE"),
        (
            "search s.yaml --batch-size 4",
            "it is a key of the study: --set lm_eval.batch_size=VALUE or "
            "--set space.recipe.batch_size=VALUE",
        ),
        ("init --label x", "it is a key of the study: --set task.label=VALUE"),
        ("init --text-column x", "it is a key of the study: --set task.text=VALUE"),
        (
            "init --trials 4",
            "it is a key of the study that init writes: sharetune search STUDY.yaml "
            "--set budget.trials=VALUE, or change it in the file",
        ),
        ("search s.yaml --ouut x", "did you mean --out?"),
        ("export r 0 out --formt onnx", "did you mean --format?"),
        ("search s.yaml --foo x", OPTIONS + "study, as in docs/reference.md, by --set KEY=VALUE"),
        ("serve r --foo", "options: --port, --open, --storage; see sharetune serve --help"),
    ],
)
def test_an_unknown_option(line, hint):
    result = CliRunner().invoke(app, line.split())
    assert result.exit_code == 2
    command, option = line.split()[0], next(w for w in line.split() if w.startswith("--"))
    error = f"error: sharetune {command} has no option {option.partition('=')[0]}"
    assert result.stderr.splitlines() == [error, "", f"hint: {hint}"]


def test_every_key_of_a_task_and_of_a_recipe_is_known():
    keys = set(setting_keys())
    assert {f"space.recipe.{name}" for name in Recipe.model_fields} <= keys
    own = {f"task.{name}" for task in TASKS.values() for name in task.model_fields}
    assert own <= keys
    assert {"seed", "budget.stagnation.window", "space.recipe.distill.temperature"} <= keys
