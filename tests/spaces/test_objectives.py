import pytest

from sharetune.spaces.objectives import OBJECTIVES, Objective, quality_of

TRAINED = [objective for objective in OBJECTIVES.values() if objective.source == "trained"]


@pytest.mark.parametrize(
    ("name", "base", "near", "far"),
    [
        ("accuracy", 0.90, 0.89, 0.8899),
        ("bleu", 20.0, 19.0, 18.9),
        ("spearman", 0.80, 0.79, 0.789),
        ("perplexity", 50.0, 50.5, 50.6),
        ("eval_loss", 2.0, 2.02, 2.03),
        ("calibration_error", 0.05, 0.06, 0.0601),
    ],
)
def test_a_point_is_the_objective_s_own(name, base, near, far):
    assert OBJECTIVES[name].near(near, base, 1)
    assert not OBJECTIVES[name].near(far, base, 1)
    assert OBJECTIVES[name].near(far, base, 2)


def test_what_is_better_depends_on_the_direction():
    assert OBJECTIVES["bleu"].gain(21.0, 20.0) == 1.0
    assert OBJECTIVES["perplexity"].gain(40.0, 50.0) == 10.0


@pytest.mark.parametrize("objective", TRAINED, ids=lambda objective: objective.name)
def test_the_hypervolume_has_room_for_each(objective):
    assert objective.gain(objective.ideal, objective.useless) > 0


def test_a_measure_of_a_user_s_own_lies_between_0_and_1():
    gain = Objective("gain", "gain", "maximize", source="trained")
    harm = Objective("harm", "harm", "minimize", source="trained")
    assert (gain.ideal, gain.useless, harm.ideal, harm.useless) == (1.0, 0.0, 0.0, 1.0)


@pytest.mark.parametrize(
    ("names", "quality"),
    [
        (("parameters", "accuracy"), "accuracy"),
        (("eval_loss", "accuracy", "flops"), "accuracy"),
        (("parameters", "perplexity", "flops"), "perplexity"),
        (("parameters", "flops"), "parameters"),
    ],
)
def test_the_quality_among_objectives(names, quality):
    assert quality_of([OBJECTIVES[name] for name in names]).name == quality


def test_an_objective_is_read_as_it_was_written():
    written = OBJECTIVES["bleu"].written()
    assert written == {
        "name": "bleu",
        "title": "BLEU",
        "direction": "maximize",
        "source": "trained",
        "best": 100.0,
        "point": 1.0,
    }
    assert Objective.read(written | {"of_a_later_version": 1}) == OBJECTIVES["bleu"]
