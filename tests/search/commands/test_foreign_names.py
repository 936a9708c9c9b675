"""Names of others reach a terminal without what moves its cursor or renames its window."""

import json
from dataclasses import replace

import pytest
import yaml
from typer.testing import CliRunner

from sharetune.search.commands.cli import app
from sharetune.spaces import SharingPlan
from sharetune.spaces.planning.edits import Edit
from sharetune.spaces.planning.score_file import ScoreFile, ScoresHeader
from tests.checkpoint import write_checkpoint
from tests.results.conftest import candidate, complete, ended, write_run
from tests.spaces.planning.scores import UNSHARED, language_model_scores

EVIL = "\x1b[2J\x1b]0;owned\x07\x9b31m\u202e"
STUDY = {
    "name": EVIL,
    "model": {"name": EVIL, "stacks": {EVIL: 6}, "labels": [EVIL]},
    "circumstances": {EVIL: EVIL},
    "config": {"name": EVIL, "task": {"name": EVIL, "train": EVIL}},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder whose texts are all evil."""
    from optuna.trial import TrialState

    plan = SharingPlan.model_validate({"groups": [{"layers": "1..4", "stack": EVIL}]})
    error = dict.fromkeys(("kind", "message", "traceback"), EVIL)
    return write_run(
        tmp_path_factory.mktemp("foreign") / "run",
        complete(0.9, 200.0, anchor="unshared"),
        complete(0.89, 120.0, plan, anchor=EVIL),
        complete(0.88, 110.0, finalist=1) | {"candidate": candidate(plan, seed=1)},
        ended(TrialState.PRUNED, reason=EVIL),
        ended(TrialState.FAIL, error=error),
        **STUDY,
    )


def told(*words):
    """Run a command, check that its output has no control character, and return its result."""
    found = CliRunner().invoke(app, [str(word) for word in words])
    for character in "\x1b\x07\x9b\u202e":
        assert character not in found.output
    return found


def test_a_report_prints_names_as_text(run):
    found = told("report", run)
    assert found.exit_code == 0 and "\\x1b[2J" in found.stdout


@pytest.mark.slow
def test_so_do_its_json_and_a_comparison(run, tmp_path):
    studies = json.loads(told("report", run, "--json").stdout)["studies"]
    assert studies[0]["name"] == EVIL  # a program is told the name as it is
    other = write_run(tmp_path / "other", complete(0.8, 100.0), **STUDY)
    assert told("report", run, other).exit_code == 0


@pytest.mark.parametrize(
    "words",
    [
        ("export", "RUN", 1, "OUT"),
        ("export", "RUN", 4, "OUT"),
        ("export", "RUN", 1, "OUT", "--format", EVIL),
        ("solve", "RUN", "--parameters", EVIL),
        ("solve", "RUN", "--parameters", "80%"),
        ("list", EVIL),
        ("show", EVIL, "--model", "MODEL"),
        ("show", "PLAN", "--model", "MODEL"),
        ("show", "albert-all", "--model", EVIL),
        ("search", "STUDY", "--set", f"{EVIL}=1"),
        ("search", "STUDY"),
        ("init", "--task", EVIL, "--model", EVIL, "--data", EVIL, "--out", "NEW"),
    ],
    ids=lambda words: " ".join(map(str, words)).encode("ascii", "backslashreplace").decode(),
)
def test_errors_do_not_print_them_either(run, tmp_path, words):
    write_checkpoint(tmp_path / "model")
    plan = {"groups": [{"layers": "0..1", "stack": EVIL}]}
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan))
    (tmp_path / "study.yaml").write_text(yaml.safe_dump({"name": EVIL, EVIL: EVIL}))
    places = {
        "RUN": run,
        "OUT": tmp_path / "out",
        "MODEL": tmp_path / "model",
        "PLAN": tmp_path / "plan.yaml",
        "STUDY": tmp_path / "study.yaml",
        "NEW": tmp_path / "new.yaml",
    }
    found = told(*(places.get(word, word) for word in words))
    assert found.exit_code == 2
    assert "error: " in found.stderr and "hint: " in found.stderr


def test_plans_from_scores_of_others_are_printed_as_text(tmp_path):
    (tmp_path / "run").mkdir()
    scores = ScoreFile(tmp_path / "run" / "scores.jsonl")
    scores.begin(ScoresHeader({}, UNSHARED, {}))
    for one in language_model_scores()[:60]:
        edit = Edit.read(one.edit.written() | {"stack": EVIL})
        scores.add_score(replace(one, edit=edit), None)
    for more in ((), ("--front",)):
        found = told("solve", tmp_path / "run", "--parameters", "80%", *more)
        assert found.exit_code == 0, found.output
