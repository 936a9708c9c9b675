"""A report tells nothing of the machines a study ran on, unless it is asked to."""

import json

import pytest

from sharetune.results.as_json import studies_as_json
from sharetune.results.page.candidate_pages import draw_cards
from sharetune.results.page.report import write_report
from sharetune.results.reading.privacy import published, without_private
from sharetune.results.reading.study import read_study
from tests.results.conftest import candidate, complete, ended

SECRETS = ("secret-host", "someone", "db.example", "42424242")
TRACE = 'File "/home/someone/code/train.py", line 3, in f'


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("/home/someone/data/train.csv", "train.csv"),
        (TRACE, 'File "train.py", line 3, in f'),
        ("no space on /mnt/disk", "no space on disk"),
        ("~/models/bert", "bert"),
        ("org/model", "org/model"),
        ("https://example.org/a/b", "https://example.org/a/b"),
        ("postgresql://me@host:5432/db", "postgresql://HOST/db"),
        (
            "no answer from postgresql+psycopg://me@host/db",
            "no answer from postgresql+psycopg://HOST/db",
        ),
        ("1/2 of 3 / 4", "1/2 of 3 / 4"),
        ("../data/train.csv", "../data/train.csv"),
    ],
)
def test_absolute_paths_lose_their_folders(text, wanted):
    assert without_private(text) == wanted


@pytest.fixture
def run(make_run):
    from optuna.trial import TrialState

    where = {"host": "secret-host", "pid": 42424242, "threads": 2}
    gone = "/home/someone/x is gone from secret-host.example"
    error = {"kind": "OSError", "message": gone, "traceback": TRACE}
    taught = candidate(distill={"teacher": "/home/someone/teacher"}, steps=4)
    return make_run(
        complete(0.9, 100.0, circumstances=where) | {"candidate": taught},
        ended(TrialState.FAIL, error=error, circumstances=where),
        circumstances=where,
        model={"name": "/home/someone/model", "stacks": {"layers": 6}, "labels": ["no", "yes"]},
        config={
            "name": "demo",
            "task": {"train": "/home/someone/train.csv"},
            "storage": "postgresql://me@db.example:5432/x",
        },
    )


@pytest.mark.slow
def test_a_report_holds_no_host_and_no_folders_unless_asked(run):
    page = write_report(run).read_text()
    assert not [word for word in SECRETS if word in page]
    assert str(run.parent) not in page
    assert "train.csv" in page
    asked = write_report(run, private=True).read_text()
    assert "secret-host" in asked and "/home/someone/train.csv" in asked


def test_nor_do_its_trials_and_commands(run):
    """The page holds them packed."""
    (run / "trials" / "0" / "model").mkdir(parents=True)
    shown = repr(draw_cards(published(read_study(run))))
    assert not [word for word in SECRETS if word in shown]
    assert str(run.parent) not in shown and "sharetune export run 0 " in shown
    assert f"sharetune export {run} 0 " in repr(draw_cards(read_study(run)))


def test_nor_does_its_json(run):
    written = studies_as_json([run])
    assert not [word for word in SECRETS if word in written]
    assert str(run.parent) not in written
    (study,) = json.loads(written)["studies"]
    assert study["run"] == "run"
    assert study["trials"][0]["recipe.distill.teacher"] == "teacher"
    assert "secret-host" in studies_as_json([run], private=True)
