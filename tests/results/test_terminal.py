"""The front as the terminal shows it."""

from sharetune.results.terminal import front_table
from sharetune.spaces import SharingPlan
from tests.results.conftest import complete


def test_a_plan_of_the_study_has_its_name_and_its_words_and_a_drawn_one_its_words(make_run):
    run = make_run(
        complete(0.9, 200, anchor="unshared"),
        complete(0.8, 150, SharingPlan.range(1, 4, 0.7), anchor="plan-0"),
        complete(0.7, 140, SharingPlan.range(1, 4, 1)),
    )
    lines = [" ".join(line.split()) for line in front_table(run).splitlines()]
    assert lines[1].endswith("200 unshared")
    assert lines[2].endswith("150 plan-0: 1..4 bank 0.7 attention+ffn from mean")
    assert lines[3].endswith("140 1..4 tie attention+ffn from mean")
