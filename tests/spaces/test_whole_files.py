"""A reader finds the old file or the new one, and after an error the old one."""

import os
import stat
import tempfile

import pytest

from sharetune.spaces import whole_files
from sharetune.spaces.whole_files import follow_umask, write_whole, written_whole


def test_a_text_replaces_the_one_before(tmp_path):
    path = tmp_path / "page.html"
    write_whole(path, "old")
    assert write_whole(path, "new").read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["page.html"]


def test_after_an_error_the_old_file_is_there_and_no_draft(tmp_path):
    path = write_whole(tmp_path / "page.html", "old")
    with pytest.raises(ZeroDivisionError), written_whole(path) as draft:
        draft.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["page.html"]


def test_a_folder_takes_its_place_at_once(tmp_path):
    with written_whole(tmp_path / "model") as draft:
        draft.mkdir()
        (draft / "weights").write_text("1")
        assert not (tmp_path / "model").exists()
    assert (tmp_path / "model" / "weights").read_text() == "1"


@pytest.fixture(params=["as Linux tells", "by setting it"])
def umask(request, monkeypatch, tmp_path):
    if request.param == "by setting it":
        monkeypatch.setattr(whole_files, "STATUS", tmp_path / "nothing")
    before = os.umask(0o027)
    yield
    assert os.umask(before) == 0o027


def rights(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_what_went_through_temporary_files_has_the_rights_of_others(umask, tmp_path):
    with written_whole(tmp_path / "model") as draft:
        draft.mkdir(0o700)
        handle, name = tempfile.mkstemp(dir=draft)
        os.close(handle)
        assert rights(draft / name) == 0o600
    (weights,) = (tmp_path / "model").iterdir()
    assert (rights(tmp_path / "model"), rights(weights)) == (0o750, 0o640)


def test_other_rights_stay(umask, tmp_path):
    for mode in (0o400, 0o755, 0o644):
        file = tmp_path / f"{mode:o}"
        file.write_text("")
        file.chmod(mode)
        follow_umask(file)
        assert rights(file) == mode
