"""No secret goes to a server that only a run folder names, nor in clear to any."""

import socket
import struct
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from sharetune import results
from sharetune.results.reading.servers import is_named, name_server, protection
from sharetune.search.commands.cli import app
from sharetune.search.study.writer import StudyWriter
from sharetune.spaces.errors import RunError
from tests.search.studies import study

SECRET = "hunter2"
CLEARTEXT, MD5 = struct.pack("!cII", b"R", 8, 3), struct.pack("!cII4s", b"R", 12, 5, b"salt")


@contextmanager
def listener(challenge):
    """Plays a PostgreSQL server that asks for a password; yields its port and all it received."""
    server, heard = socket.create_server(("127.0.0.1", 0)), []

    def serve():
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(5)
                try:
                    while data := connection.recv(4096):
                        heard.append(data)
                        is_ssl_request = data[4:8] == struct.pack("!I", 80877103)
                        connection.sendall(b"N" if is_ssl_request else challenge)
                except OSError:
                    continue

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield server.getsockname()[1], heard
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join()


@pytest.fixture(autouse=True)
def secrets(monkeypatch, tmp_path):
    """A password in each place where libpq looks for one, and a list of servers of one's own."""
    monkeypatch.setenv("PGPASSWORD", SECRET)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def foreign(folder, url):
    folder.mkdir()
    (folder / "storage.yaml").write_text(yaml.safe_dump({"url": url, "study": "theirs"}))
    (folder / "study.yaml").write_text(yaml.safe_dump(study().model_dump(mode="json")))
    return folder


def command_lines(run):
    study_file = str(run / "study.yaml")
    other = ["--out", str(run.parent / "other"), "--set", f"start_from.runs={run}"]
    return {
        "report": ["report", str(run)],
        "report --json": ["report", str(run), "--json"],
        "compare": ["report", str(run), str(run)],
        "export": ["export", str(run), "0", str(run.parent / "out")],
        "serve": ["serve", str(run), "--port", "0"],
        "resume": ["search", study_file, "--out", str(run), "--resume"],
        "search": ["search", study_file, "--out", str(run)],
        "start from": ["search", study_file, *other],
        "score": ["score", study_file, "--out", str(run)],
        "solve": ["solve", str(run), "--parameters", "80%"],
    }


@pytest.mark.parametrize("name", command_lines(Path("run")))
def test_no_command_connects_to_a_server_that_only_the_folder_names(tmp_path, name):
    with listener(CLEARTEXT) as (port, heard):
        run = foreign(tmp_path / "run", f"postgresql://me@127.0.0.1:{port}/theirs")
        found = CliRunner().invoke(app, command_lines(run)[name])
        assert found.exit_code == 2, found.output
        assert heard == []


def test_nor_does_the_python_interface(tmp_path):
    with listener(CLEARTEXT) as (port, heard):
        run = foreign(tmp_path / "run", f"postgresql://me@127.0.0.1:{port}/theirs")
        for read in (results.load, results.write_report, StudyWriter.open):
            with pytest.raises(RunError, match="names a database that you have not named"):
                read(run)
        assert heard == []


@pytest.mark.parametrize("challenge", [CLEARTEXT, MD5])
def test_a_named_server_gets_no_password_in_clear(tmp_path, challenge):
    with listener(challenge) as (port, heard):
        url = f"postgresql://me@127.0.0.1:{port}/theirs"
        run = foreign(tmp_path / "run", url)
        found = CliRunner().invoke(app, ["report", str(run), "--storage", url])
        assert found.exit_code == 2 and "authentication method" in found.output
        assert heard and SECRET.encode() not in b"".join(heard)
        assert b"md5" not in b"".join(heard)


def test_a_server_is_named_by_its_whole_url(tmp_path):
    name_server("postgresql://me@host/a")
    name_server("postgresql://me@host/b")
    assert is_named("postgresql://me@host/a") and is_named("postgresql://me@host/b")
    assert not is_named("postgresql://me@host/a?hostaddr=6.6.6.6")
    assert (tmp_path / "state" / "sharetune" / "servers.txt").read_text().count("\n") == 2


def test_a_list_that_others_may_write_does_not_count(tmp_path):
    name_server("postgresql://me@host/a")
    (tmp_path / "state" / "sharetune").chmod(0o777)
    assert not is_named("postgresql://me@host/a")


def test_without_a_home_to_write_to_there_is_another_list(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", "/proc/nowhere")
    name_server("postgresql://me@host/a")
    assert is_named("postgresql://me@host/a")


@pytest.mark.parametrize(
    ("parameters", "wanted"),
    [
        ({}, {"require_auth": "scram-sha-256,none"}),
        ({"host": "/run/postgresql"}, {"require_auth": "scram-sha-256,none"}),
        ({"host": "127.0.0.1"}, {"require_auth": "scram-sha-256,none"}),
        (
            {"host": "localhost.db"},
            {"require_auth": "scram-sha-256", "sslmode": "require"},
        ),
        ({"host": "db"}, {"require_auth": "scram-sha-256", "sslmode": "require"}),
        (
            {"host": "localhost", "hostaddr": "6.6.6.6"},
            {"require_auth": "scram-sha-256", "sslmode": "require"},
        ),
        (
            {"host": "db", "sslmode": "disable"},
            {"require_auth": "scram-sha-256", "sslmode": "require"},
        ),
        (
            {"host": "db", "sslmode": "verify-full"},
            {"require_auth": "scram-sha-256", "sslmode": "verify-full"},
        ),
    ],
)
def test_only_a_server_on_this_machine_is_spoken_to_in_clear(parameters, wanted, monkeypatch):
    for key in ("PGHOST", "PGHOSTADDR", "PGSERVICE"):
        monkeypatch.delenv(key, raising=False)
    assert protection(parameters) == wanted


def test_a_host_in_the_environment_counts(monkeypatch):
    monkeypatch.setenv("PGHOST", "db")
    assert protection({})["sslmode"] == "require"
