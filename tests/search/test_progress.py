"""What a search says on its way, for metrics of any direction and unit."""

from datetime import datetime

import pytest
from optuna.trial import TrialState, create_trial

from sharetune.results.reading import attributes as record
from sharetune.results.reading.trial import Trial
from sharetune.search.progress import best_lines, finished_line
from sharetune.spaces import Candidate, SharingPlan
from sharetune.spaces.objectives import OBJECTIVES


def trial(number, value, parameters, **attributes):
    attributes |= {
        record.CANDIDATE: Candidate(plan=SharingPlan.range(1, 4, 0.7)).written(),
        record.FACTS: {"parameters": parameters},
        record.SECONDS: {"total": 23.4},
    }
    values = None if value is None else [parameters, value]
    state = TrialState.PRUNED if value is None else TrialState.COMPLETE
    made = create_trial(state=state, values=values, user_attrs=attributes)
    made.number, made.datetime_start = number, datetime(2026, 1, 1)
    return Trial.of(made)


@pytest.mark.parametrize(
    ("name", "values", "line", "best"),
    [
        ("accuracy", (0.9124, 0.91, 0.5), "accuracy 91.2 %", "best accuracy 91.2 %"),
        ("bleu", (17.1, 16.5, 10.0), "BLEU 17.1", "best BLEU 17.1"),
        ("perplexity", (47.05, 47.2, 60.0), "perplexity 47.0", "best perplexity 47.0"),
    ],
)
def test_a_line_names_the_study_s_own_quality(name, values, line, best):
    objectives = [OBJECTIVES["parameters"], OBJECTIVES[name]]
    trials = [
        trial(0, values[0], 22.7e6, anchor="unshared"),
        trial(1, values[1], 18.0e6),
        trial(2, values[2], 14.0e6),
    ]
    text = finished_line(trials[0], objectives).replace("\u202f", " ")
    assert text == f"trial 0 done in 23 s: {line}, parameters 22.7 M: unshared"
    near = "1 %" if name == "perplexity" else "1 point"
    lines = [text.replace("\u202f", " ") for text in best_lines(trials, objectives)]
    assert lines == [best, f"smallest within {near} of unshared 18 M"]


def test_a_trial_without_a_value_says_why():
    pruned = trial(3, None, 18.0e6, reason="eval_loss is nan")
    text = finished_line(pruned, [OBJECTIVES["parameters"], OBJECTIVES["accuracy"]])
    assert text == (
        "trial 3 pruned in 23 s: 1..4 bank 0.7 attention+ffn from mean: eval_loss is nan"
    )
