"""A report tells nothing of the machines a study ran on, unless it is asked to."""

import pytest

from sharetune.results.as_json import studies_as_json
from sharetune.results.page.report import write_report
from sharetune.results.reading.privacy import without_private
from tests.results.conftest import complete, ended

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
        ("postgresql://me@host/db", "postgresql://me@host/db"),
        ("1/2 of 3 / 4", "1/2 of 3 / 4"),
        ("../data/train.csv", "../data/train.csv"),
    ],
)
def test_absolute_paths_lose_their_folders(text, wanted):
    assert without_private(text) == wanted


@pytest.fixture
def run(make_run):
    from optuna.trial import TrialState

    where = {"host": "secret-host", "pid": 4242, "threads": 2}
    error = {"kind": "OSError", "message": "/home/someone/x is gone", "traceback": TRACE}
    return make_run(
        complete(0.9, 100.0, circumstances=where),
        ended(TrialState.FAIL, error=error, circumstances=where),
        circumstances=where,
        config={"name": "demo", "task": {"train": "/home/someone/train.csv"}},
    )


def test_a_report_holds_no_host_and_no_folders_unless_asked(run):
    page = write_report(run).read_text()
    assert "secret-host" not in page and "someone" not in page and "train.csv" in page
    asked = write_report(run, private=True).read_text()
    assert "secret-host" in asked and "/home/someone/train.csv" in asked


def test_nor_does_its_json(run):
    assert "secret-host" not in studies_as_json([run]) and "someone" not in studies_as_json([run])
    assert "secret-host" in studies_as_json([run], private=True)
