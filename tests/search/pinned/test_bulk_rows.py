"""Rows written at once are those that Optuna writes one by one."""

from datetime import datetime

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from sharetune.results.reading.trial import Draw, Trial
from sharetune.search.pinned import bulk_rows as rows
from sharetune.search.study.writer import StudyWriter

DRAW = Draw(
    {"rate": 1e-4, "layers": 3, "form": "bank", "none": None},
    {
        "rate": FloatDistribution(1e-5, 1e-3, log=True),
        "layers": IntDistribution(1, 5, step=2),
        "form": CategoricalDistribution(["tie", "bank"]),
        "none": CategoricalDistribution([None, True]),
    },
    {"nsga2:generation": 2},
)
ATTRIBUTES = {"candidate": {"plan": {"groups": [1]}}, "started": True, "text": "ä <b>"}


@pytest.fixture
def store(tmp_path):
    store = StudyWriter.create(tmp_path / "run", "s", {"objectives": ["accuracy", "parameters"]})
    yield store
    store.close()


@pytest.mark.parametrize(
    ("state", "values"),
    [
        (TrialState.RUNNING, None),
        (TrialState.PRUNED, None),
        (TrialState.COMPLETE, [0.5, float("inf")]),
    ],
)
def test_a_trial_is_the_one_that_optuna_would_have_written(store, state, values):
    given = {"params": DRAW.params, "distributions": DRAW.distributions}
    given |= {"user_attrs": ATTRIBUTES, "system_attrs": DRAW.system_attrs}
    trial = create_trial(**given, state=state, values=values)
    theirs = store.storage.create_new_trial(store._study_id, trial)
    with_rows = rows.create(store.storage, store._study_id, trial)
    store.storage.scoped_session().commit()
    assert with_rows == (theirs + 1, 1)
    expected, found = store.study.trials
    for name in ("state", "values", "params", "distributions", "user_attrs", "system_attrs"):
        assert getattr(found, name) == getattr(expected, name)
    assert (found.datetime_complete is None) == (expected.datetime_complete is None)
    assert abs((found.datetime_start - datetime.now()).total_seconds()) < 60


def test_what_is_told_twice_is_what_was_told_last(store):
    number = store.start(DRAW, ATTRIBUTES).number
    told = store.complete(number, [0.5, 9.0], {"text": "new", "metrics": {"accuracy": 0.5}})
    (found,) = store.study.trials
    assert told.metrics == Trial.of(found).metrics == {"accuracy": 0.5}
    assert told.values == Trial.of(found).values
    written = {name: value for name, value in found.user_attrs.items() if name != "ran"}
    assert written == ATTRIBUTES | {"text": "new", "metrics": {"accuracy": 0.5}}
    assert found.values == [0.5, 9.0]


def test_nothing_of_a_trial_is_written_where_one_row_is_refused(store):
    class Unwritable:
        pass

    with pytest.raises(TypeError, match="not JSON serializable"):
        store.start(DRAW, {"bad": Unwritable()})
    assert store.trials() == []
    number = store.start(DRAW, ATTRIBUTES).number
    assert number == 0
    with pytest.raises(TypeError, match="not JSON serializable"):
        store.end(number, TrialState.FAIL, {"bad": Unwritable()})
    (found,) = store.trials()
    assert found.state is TrialState.RUNNING


def test_optuna_reads_what_was_written(store):
    store.start(DRAW, ATTRIBUTES)
    study = optuna.load_study(study_name="s", storage=store.storage)
    assert study.trials_dataframe()["params_form"].tolist() == ["bank"]
