"""After a search the front and the anchors are trained again: exactly once, and told apart."""

import json
from collections import Counter
from dataclasses import replace

import pytest
from optuna.trial import TrialState, create_trial

from sharetune import results
from sharetune.results.reading import attributes as record
from sharetune.results.reading.trial import Trial
from sharetune.search.budget import Spending, spent
from sharetune.search.finalists import choose, lengthened
from sharetune.search.run import run
from sharetune.search.sections import Budget, Finalists, Resources
from sharetune.spaces.evaluator import Scores
from sharetune.spaces.objectives import OBJECTIVES
from sharetune.spaces.recipe import Candidate, Recipe
from tests.search.fakes import FakeEvaluator
from tests.search.studies import study
from tests.search.test_budget import trial
from tests.search.test_run import trials

OBJECTIVE_NAMES = ("accuracy", "parameters", "flops")


def split(folder):
    """The searched trials and the retrainings of a run."""
    found = trials(folder)
    again = [t for t in found if record.FINALIST in t.user_attrs]
    return [t for t in found if t not in again], again


def trained(folder):
    """How often each candidate was trained."""
    return Counter(path.read_text() for path in folder.glob("*.json"))


def front_of(folder):
    frame = results.load(folder)
    frame = frame[frame["number"].isin([t.number for t in split(folder)[0]])]
    return results.pareto_front(frame, [OBJECTIVES[name] for name in OBJECTIVE_NAMES])


def test_the_front_and_the_anchors_are_trained_on_further_seeds(tmp_path):
    run(
        study(finalists={"seeds": 3}),
        out=tmp_path / "run",
        evaluator=FakeEvaluator(folder=tmp_path),
    )
    searched, again = split(tmp_path / "run")
    assert len([t for t in searched if record.STARTED in t.user_attrs]) == 10
    assert all(record.STARTED not in t.user_attrs for t in again)
    wanted = {0, 1, 2, 3} | set(front_of(tmp_path / "run")["number"])
    assert Counter(t.user_attrs[record.FINALIST] for t in again) == dict.fromkeys(wanted, 3)
    assert min(t.number for t in again) > max(t.number for t in searched)
    assert set(trained(tmp_path).values()) == {1}
    for one in again:
        first = searched[one.user_attrs[record.FINALIST]].user_attrs[record.CANDIDATE]
        mine = one.user_attrs[record.CANDIDATE]
        assert mine["recipe"]["seed"] in (1, 2, 3)
        assert mine | {"recipe": mine["recipe"] | {"seed": 0}} == first
        assert one.state is TrialState.COMPLETE


def test_by_default_there_are_none(tmp_path):
    run(study(), out=tmp_path / "run", evaluator=FakeEvaluator())
    assert split(tmp_path / "run")[1] == []


@pytest.mark.slow
def test_the_search_is_the_same_with_and_without(tmp_path):
    run(study(finalists={}), out=tmp_path / "with", evaluator=FakeEvaluator())
    run(study(), out=tmp_path / "without", evaluator=FakeEvaluator())
    first, second = split(tmp_path / "with")[0], split(tmp_path / "without")[0]
    assert [t.user_attrs["candidate"] for t in first] == [t.user_attrs["candidate"] for t in second]


@pytest.mark.slow
def test_a_finished_study_gets_them_later_and_goes_on_as_if_there_were_none(tmp_path):
    for name in ("some", "none"):
        run(study(), out=tmp_path / name, evaluator=FakeEvaluator())
    run(study(finalists={}), out=tmp_path / "some", resume=True, evaluator=FakeEvaluator())
    assert len(split(tmp_path / "some")[1]) >= 12
    for name in ("some", "none"):
        larger = study(budget={"trials": 14})
        run(larger, out=tmp_path / name, resume=True, evaluator=FakeEvaluator())
    first, second = (split(tmp_path / name)[0] for name in ("some", "none"))
    assert [t.user_attrs["candidate"] for t in first] == [t.user_attrs["candidate"] for t in second]


@pytest.mark.slow
@pytest.mark.parametrize("after", [0, 1, 5])
def test_interrupted_retrainings_are_run_again_and_no_other(tmp_path, after):
    class Dying(FakeEvaluator):
        def evaluate(self, job, resources, listener):
            if job.final and len(list(self.folder.glob("*.json"))) >= 10 + after:
                raise KeyboardInterrupt
            return super().evaluate(job, resources, listener)

    config = study(finalists={"seeds": 2})
    with pytest.raises(KeyboardInterrupt):
        run(config, out=tmp_path / "run", evaluator=Dying(folder=tmp_path))
    run(config, out=tmp_path / "run", resume=True, evaluator=FakeEvaluator(folder=tmp_path))
    _, again = split(tmp_path / "run")
    interrupted = [t for t in again if t.user_attrs.get("reason") == "interrupted"]
    assert [t.state for t in interrupted] == [TrialState.FAIL]
    complete = [t for t in again if t.state is TrialState.COMPLETE]
    assert set(Counter(t.user_attrs[record.FINALIST] for t in complete).values()) == {2}
    assert set(trained(tmp_path).values()) == {1}
    before = len(trials(tmp_path / "run"))
    run(config, out=tmp_path / "run", resume=True, evaluator=FakeEvaluator(folder=tmp_path))
    assert len(trials(tmp_path / "run")) == before


@pytest.mark.slow
def test_more_seeds_add_only_those(tmp_path):
    run(study(finalists={"seeds": 2}), out=tmp_path / "run", evaluator=FakeEvaluator())
    count = len(split(tmp_path / "run")[1])
    more = FakeEvaluator(folder=tmp_path)
    run(study(finalists={"seeds": 3}), out=tmp_path / "run", resume=True, evaluator=more)
    assert len(list(tmp_path.glob("*.json"))) == count // 2


@pytest.mark.slow
def test_a_fault_of_the_machine_is_run_again_when_resumed_one_of_the_candidate_is_not(tmp_path):
    class Faulty(FakeEvaluator):
        def evaluate(self, job, resources, listener):
            if job.final and "tie" in str(job.candidate.plan):
                if job.candidate.recipe.seed == 1:
                    raise OSError("no space left on device")
                return replace(super().evaluate(job, resources, listener), scores=Scores({}))
            return super().evaluate(job, resources, listener)

    config = study(finalists={"seeds": 2})
    run(config, out=tmp_path / "run", evaluator=Faulty())
    tied = [t for t in split(tmp_path / "run")[1] if t.user_attrs[record.FINALIST] == 1]
    assert [t.state for t in tied] == [TrialState.FAIL, TrialState.PRUNED]
    assert tied[1].user_attrs["reason"] == "accuracy is None"
    run(config, out=tmp_path / "run", resume=True, evaluator=FakeEvaluator(folder=tmp_path))
    seeds = [json.loads(path.read_text())["recipe"]["seed"] for path in tmp_path.glob("*.json")]
    assert set(seeds) == {1}
    tied = [t for t in split(tmp_path / "run")[1] if t.user_attrs[record.FINALIST] == 1]
    assert [t.state.name for t in tied] == ["FAIL", "PRUNED", "COMPLETE"]


@pytest.mark.slow
def test_of_each_finalist_the_middle_run_s_weights_are_kept(tmp_path):
    run(study(finalists={"seeds": 3}), out=tmp_path / "run", evaluator=FakeEvaluator())
    _, again = split(tmp_path / "run")
    kept = {int(path.name) for path in (tmp_path / "run" / "trials").iterdir()}
    middle = {t.number for t in again if t.user_attrs[record.CANDIDATE]["recipe"]["seed"] == 2}
    assert kept == middle | {0, 1, 2, 3} | set(front_of(tmp_path / "run")["number"])
    run(study(budget={"trials": 11}), out=tmp_path / "run", resume=True, evaluator=FakeEvaluator())
    assert middle <= {int(path.name) for path in (tmp_path / "run" / "trials").iterdir()}


def test_the_last_lines_of_the_search_name_them(tmp_path, capsys):
    run(study(finalists={"seeds": 2}), out=tmp_path / "run", evaluator=FakeEvaluator())
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("trial ")]
    assert ": trial 0 again, seed 1" in lines[10]
    assert "10/10 trials, 0 running, front" in lines[-1]
    assert "of finalists to come" in lines[-2] and "of finalists to come" not in lines[-1]


def member(number, accuracy, parameters, anchor=None, seed=0):
    plan = {"groups": [{"layers": f"{number % 3}..4", "form": {"bank": {"ratio": 0.5}}}]}
    recipe = {"learning_rate": 0.001 * (1 + number // 3), "steps": 1, "seed": seed}
    written = Candidate.model_validate({"plan": plan, "recipe": recipe}).written()
    attributes = {record.CANDIDATE: written} | ({record.ANCHOR: anchor} if anchor else {})
    found = create_trial(
        state=TrialState.COMPLETE, values=[accuracy, parameters], user_attrs=attributes
    )
    found.number = number
    return Trial.of(found)


def test_of_a_large_front_few_are_taken_spread_over_it():
    objectives = [OBJECTIVES["accuracy"], OBJECTIVES["parameters"]]
    front = [member(n, 0.90 + n / 100, 10.0 + n) for n in range(1, 10)]
    anchor, given = member(0, 0.5, 20.0, "unshared"), member(12, 0.4, 30.0, "plan-0")
    chosen = choose(Finalists(most=3), front, [anchor, given], objectives)
    # the most accurate, the one farthest from it, and the one in the middle
    assert [t.number for t in chosen] == [0, 1, 5, 9]
    assert [t.number for t in choose(Finalists(), front[:2], [], objectives)] == [1, 2]
    assert [t.number for t in choose(Finalists(most=0), front, [anchor], objectives)] == [0]


def test_trials_that_differ_in_their_seed_are_one_finalist():
    front = [member(4, 0.9, 10.0), replace(member(4, 0.9, 10.0, seed=1), number=5)]
    chosen = choose(Finalists(), front, [], [OBJECTIVES["accuracy"], OBJECTIVES["parameters"]])
    assert [t.number for t in chosen] == [4]


def test_a_longer_training_has_so_many_times_the_steps_or_epochs():
    assert lengthened(Recipe(steps=25), 2.5).steps == 62
    assert lengthened(Recipe(epochs=3), 1.5).epochs == 4.5
    assert lengthened(Recipe(tokens=101), 1.5).tokens == 152


@pytest.mark.slow
def test_a_search_leaves_hours_for_its_finalists(tmp_path, capsys):
    spending = Spending(Resources())
    for start in range(0, 60, 6):
        spending.add(trial(start, start + 6))  # ten trials in an hour
    assert spent(Budget(wall_hours=1.5), spending, still_to_come=4) is None
    assert spent(Budget(wall_hours=1.5), spending, still_to_come=6) == (
        "1.00 wall hours are spent and finalists take about 0.60 more, at most 1.5 allowed"
    )
    budget = {"trials": 60, "wall_hours": 1.5 / 3600}
    config = study(budget=budget, finalists={"seeds": 2, "most": 1})
    run(config, out=tmp_path / "run", evaluator=FakeEvaluator(seconds=0.03))
    searched, again = split(tmp_path / "run")
    assert len(searched) < 45  # less than 1.5 s of trainings
    assert "and finalists take about" in capsys.readouterr().err
    assert again


def test_finalists_beyond_the_hours_are_left_out_and_said_to_be(tmp_path, capsys):
    run(study(), out=tmp_path / "run", evaluator=FakeEvaluator())
    none_left = study(budget={"trials": 10, "cpu_hours": 1e-9}, finalists={"seeds": 2})
    run(none_left, out=tmp_path / "run", resume=True, evaluator=FakeEvaluator())
    assert split(tmp_path / "run")[1] == []
    assert (
        "trainings of finalists are left out: 0.00 cpu hours are spent" in capsys.readouterr().err
    )


def test_every_trial_says_which_code_ran_on_what(tmp_path):
    run(study(finalists={"seeds": 2}), out=tmp_path / "run", evaluator=FakeEvaluator())
    for one in trials(tmp_path / "run"):
        found = one.user_attrs[record.CIRCUMSTANCES]
        assert {"seed", "steps", "versions", "commit", "dirty"} <= set(found)
        assert found["versions"]["optuna"].startswith("5.")
