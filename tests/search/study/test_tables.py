"""A storage without a table, or without what each study holds, is refused and stays as it is."""

import shutil
import sqlite3

import pytest

from sharetune.results.reading.location import Location
from sharetune.results.reading.study import read_study
from sharetune.search.pinned.tables import missing_tables
from sharetune.search.run import run
from sharetune.spaces.errors import RunError
from tests.search.fakes import FakeEvaluator
from tests.search.studies import study

TABLES = missing_tables(())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The run folder of a search of two trials."""
    out = tmp_path_factory.mktemp("tables") / "run"
    config = study(budget={"trials": 2}, latency={"rounds": 0})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sharetune.search.run.write_report", lambda path: path)
        return run(config, out=out, evaluator=FakeEvaluator())


def without(table, finished, out):
    """Copy a run folder to `out`, and remove a table from its storage."""
    return harmed(f"DROP TABLE {table}", finished, out)


def harmed(statement, finished, out):
    """Copy a run folder to `out`, and run a statement on its storage."""
    shutil.copytree(finished, out)
    with sqlite3.connect(out / "study.db") as connection:
        connection.execute(statement)
    connection.close()
    return out


def files(folder):
    """All files below a folder, by their paths."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_optuna_makes_tables_that_are_known(finished):
    assert set(TABLES) <= Location.of(finished).tables()
    assert {"alembic_version", "studies", "trials", "version_info"} <= set(TABLES)


@pytest.mark.parametrize("table", TABLES)
def test_a_missing_table_is_one_error_and_stays_missing(finished, tmp_path, table):
    out = without(table, finished, tmp_path / "run")
    before = files(out)
    config = study(budget={"trials": 3}, latency={"rounds": 0})
    with pytest.raises(RunError) as caught:
        run(config, out=out, resume=True, evaluator=FakeEvaluator())
    assert f"study.db lacks the table {table}" in caught.value.message
    assert "take a copy of the folder if there is one" in caught.value.hint
    assert files(out) == before


HARM = {
    "no attributes": "DELETE FROM study_user_attributes",
    "no objectives": "DELETE FROM study_user_attributes WHERE key = 'objectives'",
    "a number as configuration": "UPDATE study_user_attributes SET value_json = '3'",
}


@pytest.mark.parametrize("harm", HARM)
def test_harmed_attributes_are_one_error_and_stay(finished, tmp_path, harm):
    out = harmed(HARM[harm], finished, tmp_path / "run")
    before = files(out)
    config = study(budget={"trials": 3}, latency={"rounds": 0})
    with pytest.raises(RunError) as caught:
        run(config, out=out, resume=True, evaluator=FakeEvaluator())
    assert "take a copy of the folder if there is one" in caught.value.hint
    assert files(out) == before


@pytest.mark.parametrize("table", ["trials", "studies", "trial_user_attributes"])
def test_a_storage_without_a_table_is_not_read(finished, tmp_path, table):
    out = without(table, finished, tmp_path / "run")
    with pytest.raises(RunError):
        read_study(out)


def test_an_empty_file_is_no_storage(tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    (out / "study.db").touch()
    with pytest.raises(RunError, match="lacks the tables alembic_version, studies"):
        run(study(), out=out, resume=True, evaluator=FakeEvaluator())
    assert (out / "study.db").read_bytes() == b""
