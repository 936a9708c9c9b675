"""Where a study is, without a server: what the URL may say, and what the folder says."""

import sqlite3

import pytest
from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import OperationalError

from sharetune.results.reading.location import Location, checked_url, first_line
from sharetune.search.study_file import validate
from sharetune.spaces.errors import ConfigError, RunError


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:s3cret@host/studies",
        "postgresql://host/studies?password=s3cret",
        "postgresql://host/studies?sslpassword=s3cret",
    ],
)
def test_a_password_is_refused_and_not_repeated(url):
    with pytest.raises(ConfigError) as caught:
        validate(
            {
                "name": "x",
                "model": "m",
                "task": {"name": "text-classification"},
                "space": {"plan": [{"layers": "0..1"}], "recipe": {"steps": 1}},
                "storage": url,
            },
            "study.yaml",
        )
    assert caught.value.message == (
        "study.yaml: storage: storage holds a password, which would be stored with the study"
    )
    assert "PGPASSWORD" in caught.value.hint


@pytest.mark.parametrize("url", ["mysql://host/studies", "sqlite:///x.db", "postgresql://host"])
def test_other_databases_are_refused(url):
    with pytest.raises(ConfigError, match="must name a PostgreSQL database, but got"):
        checked_url(url)


def test_what_is_no_url_is_refused():
    with pytest.raises(ConfigError, match="storage is not a URL"):
        checked_url("the big server")


def test_a_folder_points_to_its_database(tmp_path):
    url = "postgresql://me@host:5432/studies"
    assert not Location.of(tmp_path).exists
    Location(tmp_path, url, "mine").write()
    found = Location.of(tmp_path)
    assert (found.url, found.study, found.exists) == (url, "mine", True)
    assert str(found) == f"mine in {url}"


@pytest.mark.parametrize("text", ["", "url: postgresql://me@host/studies", "[1, 2"])
def test_a_broken_pointer_is_one_error(tmp_path, text):
    (tmp_path / "storage.yaml").write_text(text)
    with pytest.raises(RunError, match=r"storage.yaml does not say where the study is"):
        Location.of(tmp_path)


def test_the_database_is_quoted_however_often_its_error_was_wrapped():
    own = sqlite3.OperationalError("database or disk is full\n[SQL: UPDATE]")
    wrapped = OperationalError("UPDATE", {}, own)
    wrapped.__cause__ = own
    optunas, rays = StorageInternalError("during the commit"), StorageInternalError("a callback")
    optunas.__cause__, rays.__context__ = wrapped, optunas
    assert first_line(rays) == "database or disk is full"
