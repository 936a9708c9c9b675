"""A study kept in a real PostgreSQL server: the guarantees are those of a run folder."""

import shutil
import subprocess
import sys

import psycopg
import pytest
from optuna.trial import TrialState

from sharetune import results
from sharetune.results.page.report import write_report
from sharetune.results.page.serving import LivePage
from sharetune.results.reading.trial import NO_DRAW
from sharetune.search.run import run
from sharetune.search.study.writer import StudyWriter
from sharetune.spaces.errors import RunError
from tests.paths import ROOT
from tests.search.fakes import FakeEvaluator
from tests.search.postgres import server
from tests.search.studies import study

pytestmark = [pytest.mark.xdist_group("postgres"), pytest.mark.slow]


@pytest.fixture(scope="module")
def server_url():
    with server() as url:
        yield url


@pytest.fixture
def url(server_url, request):
    """A database of its own for each test."""
    name = f"study_{abs(hash(request.node.name))}"
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return server_url.replace("/postgres?", f"/{name}?")


def test_a_search_goes_as_it_does_in_the_folder(url, tmp_path):
    run(study(), out=tmp_path / "folder", evaluator=FakeEvaluator())
    run(study(storage=url), out=tmp_path / "database", evaluator=FakeEvaluator())
    one, two = (results.load(tmp_path / name) for name in ("folder", "database"))
    assert list(one["values"]) == list(two["values"])
    assert list(one["candidate"]) == list(two["candidate"])
    assert not (tmp_path / "database" / "study.db").exists()
    assert (tmp_path / "database" / "storage.yaml").read_text() == f"study: fake\nurl: {url}\n"
    assert write_report(tmp_path / "database").stat().st_size > 100_000


def test_an_interrupted_search_resumes_to_exactly_its_budget(url, tmp_path):
    stopping = FakeEvaluator(faults=(("bank", "interrupt"),))
    with pytest.raises(KeyboardInterrupt):
        run(study(storage=url), out=tmp_path / "run", evaluator=stopping)
    before = results.load(tmp_path / "run")
    assert before["state"].iloc[-1] == "RUNNING"
    run(study(storage=url), out=tmp_path / "run", resume=True, evaluator=FakeEvaluator())
    after = results.load(tmp_path / "run")
    assert (after["state"] == "COMPLETE").sum() - after["same_as"].notna().sum() == 10
    assert after["reason"][len(before) - 1] == "interrupted"


def test_a_missing_table_is_not_made_anew(url, tmp_path):
    run(study(storage=url), out=tmp_path / "run", evaluator=FakeEvaluator())
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP TABLE trial_values")
    with pytest.raises(RunError, match="lacks the table trial_values"):
        run(study(storage=url), out=tmp_path / "run", resume=True, evaluator=FakeEvaluator())
    with pytest.raises(RunError, match="lacks the table trial_values"):
        run(study(storage=url, name="new"), out=tmp_path / "new", evaluator=FakeEvaluator())
    assert not (tmp_path / "new").exists()
    with psycopg.connect(url) as connection:
        found = connection.execute("SELECT to_regclass('trial_values')").fetchone()
    assert found == (None,)


def test_a_trial_is_ended_at_once_or_not_at_all(url, tmp_path, monkeypatch):
    store = StudyWriter.create(tmp_path / "run", "fake", {"objectives": ["accuracy"]}, url)
    number = store.start(NO_DRAW, {"candidate": {}}).number
    with (
        monkeypatch.context() as patch,
        pytest.raises(OSError, match="power cut"),
    ):
        patch.setattr(store.storage, "set_trial_state_values", power_cut)
        store.complete(number, [0.5], {"metrics": {"accuracy": 0.5}})
    (trial,) = store.study.trials
    assert (trial.state, trial.user_attrs) == (TrialState.RUNNING, {"candidate": {}})
    store.close()


def power_cut(*_):
    raise OSError("power cut")


def test_a_second_driver_is_refused_from_any_run_folder(url, tmp_path):
    run(study(storage=url), out=tmp_path / "run", evaluator=FakeEvaluator())
    (tmp_path / "copy").mkdir()
    shutil.copy(tmp_path / "run" / "storage.yaml", tmp_path / "copy")
    store = StudyWriter.open(tmp_path / "run")
    with pytest.raises(RunError, match="another search is running on fake in postgresql://"):
        StudyWriter.open(tmp_path / "copy")
    store.close()
    StudyWriter.open(tmp_path / "copy").close()


def test_two_studies_of_one_name_do_not_mix(url, tmp_path):
    run(study(storage=url), out=tmp_path / "one", evaluator=FakeEvaluator())
    with pytest.raises(RunError, match="holds a study fake already"):
        run(study(storage=url), out=tmp_path / "two", evaluator=FakeEvaluator())
    assert not (tmp_path / "two" / "storage.yaml").exists()
    run(study(storage=url, name="other"), out=tmp_path / "three", evaluator=FakeEvaluator())
    assert len(results.load(tmp_path / "one")) == len(results.load(tmp_path / "three")) == 10


def test_a_driver_that_lost_its_connection_writes_nothing_more(url, tmp_path):
    """The lock went with the connection, so another search may have taken the study."""

    class CutOff(FakeEvaluator):
        def evaluate(self, job, resources, listener):
            if "bank" in str(job.candidate.plan):
                with psycopg.connect(url, autocommit=True) as connection:
                    connection.execute(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                        "WHERE pid <> pg_backend_pid() AND datname = current_database()"
                    )
            return super().evaluate(job, resources, listener)

    with pytest.raises(RunError, match="connection") as caught:
        run(study(storage=url), out=tmp_path / "run", evaluator=CutOff())
    assert "--resume" in caught.value.hint
    states = list(results.load(tmp_path / "run")["state"])
    assert states[-1] == "RUNNING" and set(states[:-1]) == {"COMPLETE"}
    run(study(storage=url), out=tmp_path / "run", resume=True, evaluator=FakeEvaluator())
    assert (results.load(tmp_path / "run")["state"] == "COMPLETE").sum() == 10


def test_the_live_page_notices_what_the_search_writes(url, tmp_path):
    run(study(storage=url), out=tmp_path / "run", evaluator=FakeEvaluator())
    page = LivePage(tmp_path / "run")
    before = page.state()
    assert before == page.state()
    run(
        study(storage=url, budget={"trials": 11}),
        out=tmp_path / "run",
        resume=True,
        evaluator=FakeEvaluator(),
    )
    assert page.state() != before


def test_killed_drivers_lose_and_double_nothing(url, tmp_path):
    command = [sys.executable, ROOT / "benchmarks" / "kills.py", "driver", "--kills", "2"]
    options = ["--executor", "local", "--storage", url]
    result = subprocess.run([*command, *options], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.split("\n")[-2].startswith("2 kills: {'lost': 0, 'searches': ")


def test_a_server_that_is_not_there_is_one_error(tmp_path):
    gone = "postgresql://nobody@127.0.0.1:1/studies"
    with pytest.raises(RunError, match="127.0.0.1:1/studies cannot be reached: .*refused"):
        run(study(storage=gone), out=tmp_path / "run", evaluator=FakeEvaluator())
