"""A search of a pretrained model scores single edits first, and trains plans solved from them."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from sharetune.search.run import run
from sharetune.search.score_first import scores_a_training
from sharetune.search.study.writer import StudyWriter
from sharetune.spaces.errors import ConfigError, DataError, PlanError, RunError
from sharetune.spaces.evaluator import PlanScore
from sharetune.spaces.plan import SharingPlan
from sharetune.spaces.planning.score_file import ScoreFile
from tests.search.fakes import FakeEvaluator
from tests.search.studies import study
from tests.search.test_run import trials

LAYERS = {"within": "0..-1", "min": 2}
RECIPE = {"steps": 1}
SPACE = {"plan": [{"layers": LAYERS, "form": {"choices": ["drop", "tie"]}}], "recipe": RECIPE}
"""6 layers dropped; of 5 pairs, two parts tied from the first layer and from the last: 26 edits.

Besides, of each pair, two parts of low rank: 10. By the fake, narrowing one layer saves nothing.
"""


def scored_study(**changes):
    changes = {"space": SPACE, "scoring": "auto", "budget": {"trials": 12}} | changes
    return study(**changes)


def noted(folder):
    store = StudyWriter.open(folder)
    found = store.attributes
    store.close()
    return found


def plans(folder):
    """The plans of a study's trials by anchor."""
    return {
        t.user_attrs.get("anchor"): SharingPlan.model_validate(t.user_attrs["candidate"]["plan"])
        for t in trials(folder)
    }


def scored_plans(folder):
    return [path.read_text() for path in folder.glob("*.scored")]


@dataclass(frozen=True)
class Scored(FakeEvaluator):
    """A fake that is pretrained and counts what it scores in `folder`."""

    pretrained: bool = True

    def score(self, candidate, resources):
        before = len(list(self.folder.glob("*.scored"))) if self.folder else 0
        if before == getattr(self, "stop_at", None):
            raise KeyboardInterrupt
        return super().score(candidate, resources)


def test_edits_are_scored_and_solved_plans_trained_before_the_sampler_draws(tmp_path, capsys):
    run(scored_study(), out=tmp_path / "run", evaluator=Scored())
    assert "36 edits scored in " in capsys.readouterr().err
    stored = ScoreFile(tmp_path / "run" / "scores.jsonl").read()
    assert (len(stored.scored), len(stored.outside)) == (26, 10)
    found = trials(tmp_path / "run")
    first = ["unshared", "solved-0", "solved-1", "solved-2", "solved-3"]
    assert [trial.user_attrs.get("anchor") for trial in found[:8]] == [
        *first,
        "tied",
        "drop-third",
        "drop-half",
    ]
    assert len(found) >= 12
    note = noted(tmp_path / "run")["scoring"]
    assert (note["edits"], note["wanted"]) == (36, 36) and "note" not in note


def test_solved_plans_are_of_the_space_and_rivals_edits_are_not(tmp_path):
    space = {"plan": [{"layers": LAYERS, "form": "tie"}], "recipe": RECIPE}
    run(scored_study(space=space), out=tmp_path / "run", evaluator=Scored())
    stored = ScoreFile(tmp_path / "run" / "scores.jsonl").read()
    assert {one.edit.kind for one in stored.scored.values()} == {"tie"}
    assert {one.edit.kind for one in stored.outside.values()} == {"drop", "lowrank"}
    solved = [plan for name, plan in plans(tmp_path / "run").items() if "solved" in str(name)]
    assert solved and {group.form.name for plan in solved for group in plan.groups} == {"tie"}


def test_a_distance_is_known_of_every_trained_plan(tmp_path):
    run(scored_study(), out=tmp_path / "run", evaluator=Scored(folder=tmp_path))
    for trial in trials(tmp_path / "run"):
        facts = trial.user_attrs["facts"]
        if trial.user_attrs.get("started"):
            assert facts["distance"] >= 0
            assert facts["predicted_distance"] >= 0
    found = scored_plans(tmp_path)
    assert len(found) == len(set(found))  # none is measured twice


def test_drops_are_chosen_by_measured_effect(tmp_path):
    """The fake's effects rise with the layer: the first ones go, not those in the middle."""
    run(scored_study(), out=tmp_path / "run", evaluator=Scored())
    found = plans(tmp_path / "run")
    assert str(found["drop-third"]) == "layers 0..1 drop"
    assert str(found["drop-half"]) == "layers 0..2 drop"


def test_without_scores_the_middle_layers_are_dropped(tmp_path):
    run(study(), out=tmp_path / "run", evaluator=Scored())
    assert str(plans(tmp_path / "run")["drop-third"]) == "layers 2..3 drop"
    assert not (tmp_path / "run" / "scores.jsonl").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "evaluator", "words"),
    [
        ({}, FakeEvaluator(), "the model is trained from scratch"),
        ({"budget": {"trials": 4}}, Scored(), "anchors and plans use up all 4 trials"),
        (
            {"space": {"plan": [{"layers": 0, "form": "tie"}], "recipe": RECIPE}},
            Scored(),
            "no edit that the space allows makes the model smaller",
        ),
    ],
)
def test_one_line_says_why_nothing_is_scored(tmp_path, capsys, changes, evaluator, words):
    run(scored_study(**changes), out=tmp_path / "run", evaluator=evaluator)
    assert f"no edits are scored: {words}" in capsys.readouterr().err
    assert words in noted(tmp_path / "run")["scoring"]["note"]
    assert not any("distance" in t.user_attrs["facts"] for t in trials(tmp_path / "run"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "error",
    [
        DataError("scoring takes at least 4 training examples", "give more"),
        PlanError("the plan cannot be scored: ValueError: no", "leave it out"),
    ],
)
def test_a_model_without_scores_is_searched_all_the_same(tmp_path, capsys, error):
    class Unable(Scored):
        def score(self, candidate, resources):
            raise error

    run(scored_study(), out=tmp_path / "run", evaluator=Unable())
    assert f"no edits are scored: {error.message}" in capsys.readouterr().err
    anchors = [trial.user_attrs.get("anchor") for trial in trials(tmp_path / "run")]
    assert anchors[:4] == ["unshared", "tied", "drop-third", "drop-half"]


@pytest.mark.slow
def test_scoring_ends_after_its_seconds(tmp_path):
    config = scored_study(scoring={"seconds": 0.05})
    run(config, out=tmp_path / "run", evaluator=Scored(seconds=0.01))
    note = noted(tmp_path / "run")["scoring"]
    assert note["edits"] < 12 and note["wanted"] == 36


class Costly(Scored):
    """A fake that scores on 64 examples. A training of 2 steps of 16 costs 96, which is 1.5 scores;
    a fifth of 12 trainings is 3.6."""

    def score(self, candidate, resources):
        return PlanScore(super().score(candidate, resources).distance, examples=64)


COSTLY = {"steps": 2, "batch_size": 16}


@pytest.mark.slow
def test_scoring_costs_a_fifth_of_the_trainings(tmp_path):
    run(scored_study(space=SPACE | {"recipe": COSTLY}), out=tmp_path / "run", evaluator=Costly())
    note = noted(tmp_path / "run")["scoring"]
    assert (note["edits"], note["scores_a_training"]) == (4, 1.5)


@pytest.mark.slow
def test_a_merge_that_costs_what_its_drop_does_takes_nothing_of_the_limit(tmp_path):
    forms = {"choices": ["merge", {"narrow": {"keep": 0.5}}, "drop"]}
    space = {"plan": [{"layers": LAYERS, "form": forms}], "recipe": COSTLY}
    run(scored_study(space=space), out=tmp_path / "run", evaluator=Costly())
    found = ScoreFile(tmp_path / "run" / "scores.jsonl").read().scored.values()
    assert sorted(one.edit.layers for one in found if one.edit.kind == "drop") == [
        (0,),
        (1,),
        (2,),
        (3,),
    ]
    assert sum(one.edit.kind == "merge" for one in found) == 7  # those that leave out 0 to 3


def test_a_training_costs_three_forward_passes_a_step():
    score = PlanScore(0.0, 0.5, examples=64)
    assert scores_a_training(score, 24 * 16) == 18.0
    assert scores_a_training(PlanScore(0.0), 16) is None


@pytest.mark.slow
def test_a_scoring_that_was_killed_goes_on_where_it_was(tmp_path):
    counted, folder = tmp_path / "counted", tmp_path / "run"
    counted.mkdir()

    class Killed(Scored):
        stop_at = 30

    with pytest.raises(KeyboardInterrupt):
        run(scored_study(), out=folder, evaluator=Killed(folder=counted))
    assert sorted(path.name for path in folder.iterdir()) == ["scores.jsonl"]
    run(scored_study(), out=folder, evaluator=Scored(folder=counted))
    found = scored_plans(counted)
    assert len(found) == len(set(found)) > 36
    assert len(ScoreFile(folder / "scores.jsonl").read().all_scored) == 36


@pytest.mark.slow
def test_a_resumed_search_measures_nothing_again(tmp_path):
    run(scored_study(), out=tmp_path / "run", evaluator=Scored(folder=tmp_path))
    more = scored_study(budget={"trials": 16})
    run(more, out=tmp_path / "run", resume=True, evaluator=Scored(folder=tmp_path))
    found = scored_plans(tmp_path)
    assert len(found) == len(set(found))
    assert all("distance" in t.user_attrs["facts"] for t in trials(tmp_path / "run"))


@pytest.mark.slow
def test_a_study_begun_without_scores_goes_on_without(tmp_path):
    run(study(space=SPACE), out=tmp_path / "run", evaluator=Scored())
    more = scored_study(budget={"trials": 14})
    run(more, out=tmp_path / "run", resume=True, evaluator=Scored())
    assert not (tmp_path / "run" / "scores.jsonl").exists()
    assert "scoring" not in noted(tmp_path / "run")


def test_scores_of_another_space_are_an_error(tmp_path):
    run(scored_study(), out=tmp_path / "run", evaluator=Scored())
    scores = (tmp_path / "run" / "scores.jsonl").read_text()
    other = tmp_path / "other"
    other.mkdir()
    (other / "scores.jsonl").write_text(scores)
    space = {"plan": [{"layers": "0..-1", "form": "drop"}], "recipe": RECIPE}
    with pytest.raises(RunError, match="are of another space"):
        run(scored_study(space=space), out=other, evaluator=Scored())


def test_settings_are_read_from_the_study_file(tmp_path):
    assert scored_study(scoring=False).scores is None  # YAML reads `off` so
    assert scored_study(scoring=True).scores.tokens == 1024
    config = scored_study(scoring={"tokens": 512, "kinds": "drop", "seconds": 60})
    assert (config.scores.tokens, config.scores.kinds) == (512, ("drop",))
    run(config, out=tmp_path / "run", evaluator=Scored())
    lines = (tmp_path / "run" / "scores.jsonl").read_text().splitlines()
    kinds = {json.loads(line)["edit"].get("form") for line in lines[1:] if '"edit"' in line}
    assert kinds == {"drop"}
    assert json.loads(lines[0])["depends"]["tokens"] == "512"
    with pytest.raises(ConfigError, match="scoring.*'dorp'"):
        scored_study(scoring={"kinds": ["dorp"]})


@pytest.mark.slow
def test_a_plan_far_from_the_unshared_model_is_not_trained(tmp_path: Path):
    class Far(Scored):
        def score(self, candidate, resources):
            found = super().score(candidate, resources)
            ties = any(group.form.shares for group in candidate.plan.groups)
            return PlanScore(found.distance * (100 if ties else 1), found.loss)

    config = scored_study(budget={"trials": 24}, sampler="random")
    run(config, out=tmp_path / "run", evaluator=Far())
    reasons = [t.user_attrs.get("reason", "") for t in trials(tmp_path / "run")]
    refused = [reason for reason in reasons if reason.startswith("untrained it is ")]
    assert refused and "plans no larger are" in refused[0]
    in_a_row = "".join("x" if reason in refused else " " for reason in reasons).split()
    assert max(map(len, in_a_row)) <= 8


@pytest.mark.slow
def test_rivals_of_the_front_are_trained_at_the_end(tmp_path):
    """A quarter of 16 trials: the cheapest kind of each member first, with the member's recipe."""
    run(scored_study(budget={"trials": 16}), out=tmp_path / "run", evaluator=Scored())
    found = {trial.number: trial for trial in trials(tmp_path / "run")}
    rivals = [trial for trial in found.values() if "rival" in trial.user_attrs]
    assert 1 <= len(rivals) <= 4
    assert sum("started" in trial.user_attrs for trial in found.values()) == 16
    for trial in rivals:
        of, kind = trial.user_attrs["rival"]["of"], trial.user_attrs["rival"]["kind"]
        assert trial.user_attrs["anchor"] == f"{kind.replace(' ', '-')}-for-{of}"
        member, own = found[of].user_attrs, trial.user_attrs
        assert own["candidate"]["recipe"] == member["candidate"]["recipe"]
        if kind == "drops":  # of other forms the fake's sizes do not add up
            assert own["facts"]["parameters"] <= member["facts"]["parameters"]
    noted_rivals = noted(tmp_path / "run")["rivals"]
    assert noted_rivals["trials"] == 16 and len(noted_rivals["found"]) == len(rivals)


@pytest.mark.slow
def test_rivals_are_chosen_anew_for_a_larger_budget(tmp_path):
    run(scored_study(), out=tmp_path / "run", evaluator=Scored())
    more = scored_study(budget={"trials": 20})
    run(more, out=tmp_path / "run", resume=True, evaluator=Scored())
    names = [t.user_attrs["anchor"] for t in trials(tmp_path / "run") if "rival" in t.user_attrs]
    assert len(names) == len(set(names)) >= 2
    assert noted(tmp_path / "run")["rivals"]["trials"] == 20
