import http.client
from pathlib import Path
from urllib.parse import urlsplit

import optuna
import pytest

from results import record
from results.serve import serving
from spaces.errors import RunError
from tests.results.conftest import complete


def get(address: str, path: str, host: str | None = None) -> tuple[int, str]:
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=30)
    connection.request("GET", path, headers={"Host": host} if host else {})
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def test_the_page_is_made_anew_when_the_storage_changes(make_run):
    run = make_run(complete(0.9, 100.0))
    with serving(run, 0) as address:
        assert address.startswith("http://127.0.0.1:")
        status, page = get(address, "/")
        state = get(address, "/state")[1]
        assert status == 200 and 'id="row-0"' in page and 'id="row-1"' not in page
        assert f'data-state="{state}"' in page and "connect-src 'self'" in page
        study = optuna.load_study(study_name="demo", storage=f"sqlite:///{run / record.STORAGE}")
        study.add_trial(optuna.trial.create_trial(values=[0.8, 50.0]))
        assert get(address, "/state")[1] != state
        assert 'id="row-1"' in get(address, "/")[1]
    assert sorted(path.name for path in run.iterdir()) == ["study.db"]


def test_only_local_names_and_two_paths_are_served(make_run):
    with serving(make_run(complete(0.9, 100.0)), 0) as address:
        assert get(address, "/", host="evil.example:80")[0] == 403
        assert get(address, "/study.db")[0] == 404
        assert get(address, "/state", host="localhost:1")[0] == 200


def test_a_missing_run_and_a_taken_port_are_errors(make_run, tmp_path: Path):
    with pytest.raises(RunError, match="there is no"), serving(tmp_path, 0):
        pass
    run = make_run(complete(0.9, 100.0))
    with serving(run, 0) as address:
        port = urlsplit(address).port
        with pytest.raises(RunError, match=f"port {port} cannot be used"), serving(run, port):
            pass


def test_any_optuna_dashboard_can_open_the_storage(make_run):
    """The address that docs/report.md gives is all that optuna-dashboard needs."""
    run = make_run(complete(0.9, 100.0))
    names = optuna.get_all_study_names(f"sqlite:///{run}/study.db")
    assert names == ["demo"]
