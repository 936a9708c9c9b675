"""The front of an earlier study is trained first by a later one."""

import pytest
from optuna.trial import TrialState

from sharetune import results
from sharetune.results.reading.study import read_study
from sharetune.search.run import run
from sharetune.search.sections import StartFrom
from sharetune.search.study_file import load_config
from sharetune.search.warm_start import earlier_fronts
from sharetune.spaces.errors import ConfigError, RunError
from sharetune.spaces.space import Space
from sharetune.spaces.stack_shape import StackShape
from tests.search.fakes import FakeEvaluator
from tests.search.studies import GOOD, study, write_study_file
from tests.search.test_run import trials

SHAPES = {"layers": StackShape(depth=6, heads=12, neurons=1536)}


pytestmark = pytest.mark.xdist_group("warm start")  # one earlier run for all of them


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """The run folder of an earlier search, and the numbers of its front's drawn members."""
    out = tmp_path_factory.mktemp("earlier") / "first"
    run(study(name="first", budget={"trials": 20}), out=out, evaluator=FakeEvaluator())
    record = read_study(out)
    front = results.pareto_front(record.frame, record.objectives)
    return out, sorted(front[front["anchor"].isna()]["number"])


@pytest.mark.slow
def test_the_front_of_an_earlier_study_comes_after_the_anchors(first, tmp_path):
    out, numbers = first
    later = study(start_from={"runs": str(out), "most": 99}, budget={"trials": 4 + len(numbers)})
    run(later, out=tmp_path / "run", evaluator=FakeEvaluator())
    taken = trials(tmp_path / "run")[4:]
    origins = [trial.user_attrs["earlier"] for trial in taken]
    assert sorted(origin["number"] for origin in origins) == numbers
    assert {origin["study"] for origin in origins} == {"first"}
    before = {trial.number: trial for trial in trials(out)}
    for trial in taken:
        source = before[trial.user_attrs["earlier"]["number"]]
        assert trial.state is TrialState.COMPLETE
        assert trial.user_attrs["candidate"] == source.user_attrs["candidate"]
    frame = results.load(tmp_path / "run")
    assert frame["earlier"].dropna().iloc[0] == f"trial {origins[0]['number']} of first"


@pytest.mark.slow
def test_a_large_front_gives_its_most_spread_members(first):
    out, numbers = first
    space = study().space
    two = earlier_fronts(StartFrom(runs=(str(out),), most=2), space, SHAPES)
    assert len(two) == 2 < len(numbers)
    values = {n: trial.values for n, trial in enumerate(trials(out))}
    best = max(numbers, key=lambda number: values[number][0])
    assert two[0]["number"] == best


@pytest.mark.slow
def test_what_is_not_searched_is_as_the_later_study_says(first):
    out, _ = first
    space = Space.model_validate(
        {"recipe": {"steps": 77, "learning_rate": {"low": 1e-6, "high": 1e-2}, "dropout": 0.0}}
    )
    found = earlier_fronts(StartFrom(runs=(str(out),)), space, SHAPES)
    before = {trial.number: trial.user_attrs["candidate"] for trial in trials(out)}
    for each in found:
        source, now = before[each["number"]], each["candidate"]
        assert now["plan"] == source["plan"]
        assert now["recipe"]["learning_rate"] == source["recipe"]["learning_rate"]
        assert (now["recipe"]["steps"], now["recipe"]["dropout"]) == (77, 0.0)


@pytest.mark.slow
def test_resuming_needs_no_earlier_run_and_repeats_none(first, tmp_path):
    _, numbers = first
    copy = tmp_path / "copy"
    run(study(name="copy", budget={"trials": 20}), out=copy, evaluator=FakeEvaluator())
    short = study(start_from={"runs": [str(copy)], "most": 99}, budget={"trials": 5})
    run(short, out=tmp_path / "run", evaluator=FakeEvaluator())
    copy.rename(tmp_path / "gone")
    longer = short.model_copy(update={"budget": study(budget={"trials": 30}).budget})
    run(longer, out=tmp_path / "run", resume=True, evaluator=FakeEvaluator())
    origins = [
        t.user_attrs["earlier"]["number"]
        for t in trials(tmp_path / "run")
        if "earlier" in t.user_attrs
    ]
    assert sorted(origins) == numbers


@pytest.mark.slow
def test_a_front_of_a_deeper_model_is_refused(first):
    out, _ = first
    shallow = {"layers": StackShape(depth=2, heads=12, neurons=1536)}
    with pytest.raises(ConfigError, match="start_from: trial .* does not fit this model") as caught:
        earlier_fronts(StartFrom(runs=(str(out),)), study().space, shallow)
    assert "depths" in caught.value.hint


def test_a_folder_without_a_study_is_refused_before_a_run_folder_is_made(tmp_path):
    (tmp_path / "empty").mkdir()
    wrong = study(start_from={"runs": [str(tmp_path / "empty")]})
    with pytest.raises(RunError, match="a run folder holds study.db"):
        run(wrong, out=tmp_path / "run", evaluator=FakeEvaluator())
    assert not (tmp_path / "run").exists()


def test_runs_are_relative_to_the_study_file(tmp_path):
    config = load_config(write_study_file(tmp_path, GOOD | {"start_from": {"runs": "../first"}}))
    assert config.start_from.runs == (str(tmp_path.parent / "first"),)


def test_a_front_of_anchors_alone_is_refused(tmp_path):
    run(study(budget={"trials": 4}), out=tmp_path / "first", evaluator=FakeEvaluator())
    with pytest.raises(ConfigError, match="hold only anchors"):
        earlier_fronts(StartFrom(runs=(str(tmp_path / "first"),)), study().space, SHAPES)


@pytest.mark.slow
def test_other_runs_are_refused_on_resuming(first, tmp_path):
    out, _ = first
    run(study(), out=tmp_path / "run", evaluator=FakeEvaluator())
    changed = study(start_from={"runs": [str(out)]})
    with pytest.raises(RunError, match="started with: start_from is new"):
        run(changed, out=tmp_path / "run", resume=True, evaluator=FakeEvaluator())
