"""A reader finds the old file or the new one, and after an error the old one."""

import pytest

from sharetune.spaces.whole_files import write_whole, written_whole


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
