import http.client
import json
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import urlopen

import optuna
import pytest

from sharetune.results.page.serving import serving
from sharetune.results.reading import attributes as record
from sharetune.spaces.errors import RunError
from tests.results.conftest import complete


def get(address: str, path: str, host: str | None = None) -> tuple[int, str]:
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=30)
    connection.request("GET", path, headers={"Host": host} if host else {})
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_connection_that_asks_for_nothing_is_closed(make_run, monkeypatch):
    """Also one that stops half way through what it asks."""
    monkeypatch.setattr("sharetune.results.page.serving.IDLE_S", 0.3)
    with serving(make_run(complete(0.9, 100.0)), 0) as address:
        port = urlsplit(address).port
        for begun in (b"", b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n"):
            with socket.create_connection(("127.0.0.1", port), timeout=20) as idle:
                idle.sendall(begun)
                before = time.monotonic()
                assert idle.recv(1) == b""  # the server has closed it
                assert time.monotonic() - before < 10
        assert get(address, "/state")[0] == 200


@pytest.mark.slow
def test_a_missing_run_and_a_taken_port_are_errors(make_run, tmp_path: Path):
    with pytest.raises(RunError, match="there is no"), serving(tmp_path, 0):
        pass
    run = make_run(complete(0.9, 100.0))
    with serving(run, 0) as address:
        port = urlsplit(address).port
        with pytest.raises(RunError, match=f"port {port} cannot be used"), serving(run, port):
            pass


@pytest.mark.slow
def test_optuna_dashboard_opens_the_storage(make_run):
    """With the address that docs/report.md gives, on a free port of this machine."""
    dashboard = shutil.which("optuna-dashboard", path=str(Path(sys.executable).parent))
    if dashboard is None:
        pytest.skip("needs optuna-dashboard: pip install 'sharetune[browser]'")
    run = make_run(complete(0.9, 100.0), complete(0.8, 60.0))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [dashboard, "--host", "127.0.0.1", "--port", str(port), f"sqlite:///{run}/study.db"]
    served = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        studies = answered(f"http://127.0.0.1:{port}/api/studies")["study_summaries"]
        assert [study["study_name"] for study in studies] == ["demo"]
        trials = answered(f"http://127.0.0.1:{port}/api/studies/1?after=0")["trials"]
        assert [trial["values"] for trial in trials] == [[0.9, 100.0], [0.8, 60.0]]
    finally:
        served.terminate()
        served.wait()


def answered(address: str, seconds: float = 60.0) -> dict[str, Any]:
    """What a server that is about to start answers, as JSON."""
    end = time.monotonic() + seconds
    while True:
        try:
            with urlopen(address, timeout=10) as response:
                return json.load(response)
        except URLError:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)
