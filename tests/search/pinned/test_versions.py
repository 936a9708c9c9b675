"""With a release that was not tried, the libraries' own ways are used, with the same results."""

import pytest

from sharetune.search.pinned import versions
from sharetune.search.pinned.versions import is_known
from sharetune.search.run import run
from tests.search.fakes import FakeEvaluator
from tests.search.studies import study
from tests.search.test_run import trials


def test_the_installed_releases_were_tried():
    assert is_known("optuna") and is_known("ray")


@pytest.mark.slow
def test_an_unknown_release_searches_the_same(tmp_path, monkeypatch, caplog):
    config = study(budget={"trials": 6}, latency={"rounds": 0})
    run(config, out=tmp_path / "known", evaluator=FakeEvaluator())
    monkeypatch.setitem(versions.TRIED, "optuna", ("4.9",))
    is_known.cache_clear()
    try:
        run(config, out=tmp_path / "unknown", evaluator=FakeEvaluator())
    finally:
        is_known.cache_clear()
    assert "was not tried with ShareTune (4.9 was)" in caplog.text
    known, unknown = (trials(tmp_path / name) for name in ("known", "unknown"))
    assert [t.values for t in known] == [t.values for t in unknown]
    assert [t.params for t in known] == [t.params for t in unknown]
    for one, other in zip(known, unknown, strict=True):
        assert one.user_attrs.keys() == other.user_attrs.keys()
