"""Prepared rows are read from the cache, and prepared again where their file is damaged."""

import pytest

from sharetune.trainers.data.row_cache import cached_rows


def rows(cache, made):
    def make():
        made.append(1)
        yield {"input_ids": [[1, 2], [3]]}

    return cached_rows(cache, "train", ["m"], make)


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("damage", [cut, lambda path: path.unlink(), lambda p: p.write_text("x")])
@pytest.mark.parametrize("pattern", ["*.arrow", "*.json"])
def test_rows_are_made_once_and_again_if_damaged(tmp_path, pattern, damage):
    made = []
    first, name = rows(tmp_path, made)
    assert rows(tmp_path, made)[0]["input_ids"] == first["input_ids"] == [[1, 2], [3]]
    assert made == [1]
    for path in (tmp_path / name).glob(pattern):
        damage(path)
    assert rows(tmp_path, made)[0]["input_ids"] == [[1, 2], [3]]
    assert made == [1, 1] and [p.name for p in tmp_path.iterdir()] == [name]


def test_rows_made_in_parts_are_one_table(tmp_path):
    made = []

    def make():
        made.append(1)
        yield from ({"input_ids": [[number], [number, 0]]} for number in range(12))

    wanted = [ids for number in range(12) for ids in ([number], [number, 0])]
    first, name = cached_rows(tmp_path, "train", ["m"], make)
    assert list(first["input_ids"]) == wanted
    again, _ = cached_rows(tmp_path, "train", ["m"], make)
    assert list(again["input_ids"]) == wanted
    cut(next((tmp_path / name / "000007").glob("*.arrow")))
    assert list(cached_rows(tmp_path, "train", ["m"], make)[0]["input_ids"]) == wanted
    assert made == [1, 1]
