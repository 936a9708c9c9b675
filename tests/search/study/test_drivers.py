"""One driver at a time: the lock cannot be removed, and the study knows who drives it."""

import errno
import fcntl

import pytest
from optuna.trial import TrialState

from sharetune.results.reading.trial import NO_DRAW
from sharetune.search.run import run
from sharetune.search.study.writer import StudyWriter, one_error
from sharetune.spaces.errors import RunError
from tests.search.fakes import FakeEvaluator
from tests.search.studies import study

ATTRIBUTES = {"objectives": ["accuracy"], "reference": {"accuracy": 0.0}}


@pytest.fixture
def first(tmp_path):
    writer = StudyWriter.create(tmp_path / "run", "s", ATTRIBUTES)
    yield writer
    writer.close()


def test_removing_hidden_files_lets_nobody_in(first, tmp_path):
    run_folder = tmp_path / "run"
    for path in run_folder.glob(".*"):
        path.unlink()
    with pytest.raises(RunError, match="another search is running"):
        StudyWriter.open(run_folder)
    with pytest.raises(RunError, match="exists already"):
        run(study(), out=run_folder, evaluator=FakeEvaluator())


@pytest.fixture
def no_locks(monkeypatch):
    """A file system that takes every lock and keeps none."""
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)


def test_a_driver_that_lost_its_study_to_a_second_one_writes_nothing_more(no_locks, tmp_path):
    first = StudyWriter.create(tmp_path / "run", "s", ATTRIBUTES)
    trial = first.start(NO_DRAW, {"candidate": {}})
    second = StudyWriter.open(tmp_path / "run")
    second.note("seen", 1)
    for write in (
        lambda: first.complete(trial.number, [0.5], {"metrics": {}}),
        lambda: first.end(trial.number, TrialState.FAIL, {}, "reason"),
        lambda: first.start(NO_DRAW, {"candidate": {}}),
        lambda: first.answer(NO_DRAW, {"candidate": {}}, [0.5]),
        lambda: first.note("latency:0", {}),
    ):
        with pytest.raises(RunError, match="another search has taken over the study s"):
            write()
    (seen,) = second.study.trials
    assert (seen.state, seen.user_attrs) == (TrialState.RUNNING, {"candidate": {}})
    assert "latency:0" not in second.attributes
    second.end_interrupted()
    assert second.study.trials[0].state is TrialState.FAIL


@pytest.mark.slow
def test_a_folder_that_is_gone_is_noticed(first, tmp_path):
    (tmp_path / "run" / "study.db").rename(tmp_path / "elsewhere.db")
    with pytest.raises(RunError, match="storage of .* failed"), one_error(tmp_path / "run"):
        first.start(NO_DRAW, {"candidate": {}})


def refusing(*refused):
    """Locking, where the kinds of files that are `refused` cannot be locked."""
    lock = fcntl.flock

    def flock(handle, how):
        import os
        import stat

        kind = "folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file"
        if kind in refused:
            raise OSError(errno.ENOLCK, "No locks available")
        return lock(handle, how)

    return flock


def test_where_folders_cannot_be_locked_a_file_is(monkeypatch, tmp_path):
    monkeypatch.setattr(fcntl, "flock", refusing("folder"))
    first = StudyWriter.create(tmp_path / "run", "s", ATTRIBUTES)
    with pytest.raises(RunError, match="another search is running"):
        StudyWriter.open(tmp_path / "run")
    first.close()
    StudyWriter.open(tmp_path / "run").close()


def test_where_nothing_can_be_locked_the_error_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(fcntl, "flock", refusing("folder", "file"))
    with pytest.raises(RunError, match=r"knows no locks \(No locks available\)") as caught:
        run(study(), out=tmp_path / "run", evaluator=FakeEvaluator())
    assert "PostgreSQL" in caught.value.hint and "removing files does not help" in caught.value.hint


def test_a_start_that_was_killed_half_way_leaves_nothing_in_the_way(tmp_path):
    (tmp_path / "run").mkdir()
    for name in ("study.db.part", "study.db.part-journal", ".storage.yaml.1.part", ".lock"):
        (tmp_path / "run" / name).write_text("half")
    out = run(study(budget={"trials": 1}), out=tmp_path / "run", evaluator=FakeEvaluator())
    assert not [p.name for p in out.iterdir() if ".part" in p.name]


def test_a_start_that_fails_leaves_no_folder(tmp_path):
    class Failing(FakeEvaluator):
        def refuse(self, candidates):
            raise RunError("no", "yes")

    with pytest.raises(RunError, match="no"):
        run(study(), out=tmp_path / "a" / "b" / "run", evaluator=Failing())
    assert list(tmp_path.iterdir()) == []
