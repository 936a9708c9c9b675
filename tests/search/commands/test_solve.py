"""Solving from stored scores as users do it: any size, in no time, into a study file."""

import subprocess
import sys
import time

import pytest
import yaml
from typer.testing import CliRunner

from sharetune import results
from sharetune.search.commands.cli import app
from sharetune.search.commands.insert_plans import insert_plans
from sharetune.search.scoring import improved, score_study
from sharetune.search.study_file import load_config
from sharetune.spaces.errors import ConfigError, RunError
from sharetune.spaces.plan import SharingPlan
from sharetune.spaces.planning.score_file import ScoreFile, ScoresHeader
from sharetune.spaces.planning.solving import needs_of, solve
from tests.checkpoint import write_study_data
from tests.search.commands.test_score import STUDY
from tests.search.fakes import FakeEvaluator
from tests.search.studies import study
from tests.spaces.planning.scores import UNSHARED, language_model_scores

DROPS = {"plan": [{"layers": "0..-1", "form": "drop"}]}
"""The fake's 6 layers cost 0.10 to 0.15 and save 1.7M parameters of 22M, each."""


def call(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope="module")
def drops(tmp_path_factory):
    """A run folder with the scores of the fake model's drops."""
    folder = tmp_path_factory.mktemp("drops") / "run"
    score_study(study(space=DROPS), out=folder, evaluator=FakeEvaluator())
    return folder


@pytest.fixture(scope="module")
def language_model(tmp_path_factory):
    """A run folder with scores like those of a language model of 30 layers."""
    folder = tmp_path_factory.mktemp("language")
    file = ScoreFile(folder / "scores.jsonl")
    file.begin(ScoresHeader({}, UNSHARED, {}))
    for one in language_model_scores():
        file.add_score(one, None)
    return folder


def rows(result):
    assert result.exit_code == 0, result.output
    table, _, written = result.stdout.partition("\n\n")
    return [line.split() for line in table.split("\n")], yaml.safe_load(written)["plans"]


def test_the_cheapest_plans_are_printed_with_their_sizes_and_as_yaml(drops):
    (head, first, second), plans = rows(call("solve", drops, "--parameters", "19M", "--count", 2))
    assert head == ["plan", "predicted", "parameters", "bytes", "flops", "edits"]
    assert first[:2] == ["1", "0.210"] and second[:2] == ["2", "0.220"]
    assert " ".join(first[2:]) == "18.6 M (84.5 %) 74.4 MB (84.5 %) 667 MFLOP (66.7 %) 2 drop"
    assert [plan["groups"][0]["layers"] for plan in plans] == ["0..1", [0, 2]]


@pytest.mark.parametrize(
    "size", ["18600000", "18.6M", "18600K", "0.0186G", "0.0186B", "18.6m", "84.6%", " 84.6% "]
)
def test_a_size_has_a_suffix_or_is_part_of_the_unshared_model(drops, size):
    (_, first), _ = rows(call("solve", drops, "--parameters", size, "--count", 1))
    assert first[1] == "0.210"


def test_several_sizes_hold_at_once(drops):
    words = ["--parameters", "90%", "--bytes", "80MB", "--flops", "0.51G", "--count", 1]
    (_, first), _ = rows(call("solve", drops, *words))
    assert first[1] == "0.330"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--parameters", "1M"], "raise the limit (the least, each alone: 13,500,000 parameters)"),
        (["--parameters", "80x"], "--parameters 100M, or 80% of the unshared model"),
        ([], "add --parameters 80%"),
        (["--latency-ms", "30"], "were not timed\n\nhint: sharetune score STUDY.yaml --out"),
    ],
)
def test_a_size_that_cannot_be_had_is_one_error(drops, words, said):
    result = call("solve", drops, *words)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ") and said in result.stderr


def test_parts_that_no_plan_changes_are_named(tmp_path):
    file = ScoreFile(tmp_path / "scores.jsonl")
    file.begin(ScoresHeader({}, UNSHARED, {}, {"layers": ["ffn"]}))
    for one in language_model_scores():
        file.add_score(one, None)
    result = call("solve", tmp_path, "--parameters", "80%", "--count", 1)
    assert result.stderr.startswith("No plan shares or narrows the ffn of stack 'layers', ")
    assert len(rows(result)[1]) == 1


def test_a_folder_without_scores_says_how_to_get_them(tmp_path):
    result = call("solve", tmp_path, "--parameters", "80%")
    assert result.exit_code == 2
    assert f"hint: sharetune score STUDY.yaml --out {tmp_path}" in result.stderr


def test_the_front_is_one_line_for_each_size(drops):
    result = call("solve", drops, "--front")
    assert result.stdout.split("\n") == [
        "parameters\tpercent\tdistance",
        "22000000\t100.0\t0",
        "20300000\t92.3\t0.1",
        "18600000\t84.5\t0.21",
        "16900000\t76.8\t0.33",
        "15200000\t69.1\t0.46",
        "13500000\t61.4\t0.6",
        "",
    ]


@pytest.mark.slow
def test_a_language_model_is_solved_in_well_under_a_second(language_model):
    call("solve", language_model, "--parameters", "99%")  # imports
    start = time.process_time()
    result = call("solve", language_model, "--parameters", "100M")
    assert result.exit_code == 0
    assert time.process_time() - start < 3
    front = call("solve", language_model, "--front").stdout.split("\n")
    assert len(front) > 1000


def test_solving_loads_neither_torch_nor_ray_nor_optuna(language_model):
    code = (
        "import sys\nfrom typer.testing import CliRunner\n"
        "from sharetune.search.commands.cli import app\n"
        f"words = ['solve', {str(language_model)!r}, '--parameters', '80%']\n"
        "assert CliRunner().invoke(app, words).exit_code == 0\n"
        "print({'torch', 'ray', 'optuna', 'transformers', 'pandas'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr


STUDY_TEXT = """\
# a study of ours
model: fake-model
task: {name: text-classification, train: t.csv}   # not here
objectives: [accuracy, parameters]
PLANS
space:
  plan:
    - layers: 0..-1   # all
"""


@pytest.mark.parametrize(
    ("plans", "expected"),
    [
        ("", []),
        ("plans:", []),
        ("plans: []", []),
        ("plans: [albert-ffn, sandwich]  # ours", ["albert-ffn", "sandwich"]),
        (
            "plans:\n  - albert-ffn   # ours\n  - sandwich\n\n# the space",
            ["albert-ffn", "sandwich"],
        ),
        ("plans:\n- groups:\n  - layers: 0..1\n    form: drop  # two", [[[0, 1]]]),
    ],
)
def test_plans_are_added_and_the_rest_of_the_file_stays(drops, tmp_path, plans, expected):
    path = tmp_path / "study.yaml"
    text = STUDY_TEXT.replace("PLANS\n", f"{plans}\n" if plans else "")
    path.write_text(text)
    words = ["--parameters", "19M", "--count", 2, "--into", path]
    assert "2 of 2 plans are new in" in call("solve", drops, *words).stderr
    assert len(load_config(path).plans) == len(expected) + 2
    changed = path.read_text()
    assert changed.count("#") == text.count("#")
    assert [line for line in text.split("\n") if line.startswith("#") or "space" in line] == [
        line for line in changed.split("\n") if line.startswith("#") or "space" in line
    ]
    assert "0 of 2 plans are new in" in call("solve", drops, *words).stderr
    assert path.read_text() == changed


def test_plans_that_cannot_be_added_to_are_refused(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text("all: &a [sandwich]\nplans: *a\n")
    with pytest.raises(ConfigError, match="none can be added to"):
        insert_plans(path, [{"groups": []}])
    assert path.read_text() == "all: &a [sandwich]\nplans: *a\n"


def test_the_best_plan_is_written_as_a_plan_file(drops, tmp_path):
    result = call("solve", drops, "--parameters", "19M", "--out", tmp_path / "plan.yaml")
    assert result.exit_code == 0
    assert SharingPlan.load(tmp_path / "plan.yaml") == SharingPlan.drop([0, 1]).model_copy(
        update={"groups": SharingPlan.load(tmp_path / "plan.yaml").groups}
    )
    assert str(SharingPlan.load(tmp_path / "plan.yaml")) == "layers 0..1 drop"


class Colliding(FakeEvaluator):
    """Adjacent layers cost 0.1 more together."""

    def score(self, candidate, resources):
        found = super().score(candidate, resources)
        layers = {i for group in candidate.plan.groups for i in group.layers}
        more = 0.1 * sum(i + 1 in layers for i in layers)
        return type(found)(found.distance + more, found.loss)


def test_measured_plans_are_improved_by_exchange_and_kept(drops, tmp_path, monkeypatch):
    counted = tmp_path / "counted"
    counted.mkdir()
    fake = Colliding(folder=counted)
    monkeypatch.setattr("sharetune.search.scoring.real_evaluator", lambda *_: fake)
    result = call("solve", drops, "--parameters", "19M", "--measure", 4, "--count", 1)
    (head, best), plans = rows(result)
    assert head[1:3] == ["predicted", "measured"]
    assert (best[1], best[2]) == ("0.220", "0.220")
    assert plans[0]["groups"][0]["layers"] == [0, 2]
    assert 2 <= len(list(counted.glob("*.scored"))) <= 4
    measured = ScoreFile(drops / "scores.jsonl").read().plans
    assert sorted(one.distance for one in measured.values())[:3] == pytest.approx([0, 0.22, 0.23])
    before = len(list(counted.glob("*.scored")))
    call("solve", drops, "--parameters", "19M", "--measure", 4)
    assert len(list(counted.glob("*.scored"))) == before


def test_scores_of_another_model_are_not_measured(drops, monkeypatch):
    class Other(FakeEvaluator):
        identity = {"model": "other", "data": "fake"}  # noqa: RUF012

    monkeypatch.setattr("sharetune.search.scoring.real_evaluator", lambda *_: Other())
    stored = ScoreFile(drops / "scores.jsonl").read()
    scored = list(stored.scored.values())
    limits = {"parameters": 19e6}
    (start,) = solve(scored, limits, stored.header.unshared, count=1)
    needs = needs_of(scored, limits, stored.header.unshared)
    with pytest.raises(RunError, match="are of another model"):
        improved(start, stored, needs, 2, drops)


@pytest.mark.slow
def test_a_real_model_is_scored_solved_measured_and_searched(tmp_path):
    folder = write_study_data(tmp_path, 60)
    data = {**STUDY, "budget": {"trials": 10}}
    (folder / "study.yaml").write_text("# ours\n" + yaml.safe_dump(data))
    assert call("score", folder / "study.yaml", "--out", folder / "run").exit_code == 0
    solving = ["solve", folder / "run", "--parameters", "80%", "--count", 1]
    (_, best), _ = rows(call(*solving, "--measure", 3, "--into", folder / "study.yaml"))
    assert float(best[2]) >= 0
    result = call("search", folder / "study.yaml", "--out", folder / "run")
    assert result.exit_code == 0, result.output
    (given,) = yaml.safe_load((folder / "study.yaml").read_text())["plans"]
    trained = results.load(folder / "run")
    plans = [SharingPlan.model_validate(candidate["plan"]) for candidate in trained["candidate"]]
    assert SharingPlan.model_validate(given) in plans
    assert trained["anchor"].str.startswith("solved-").any()


def test_latency_is_timed_once_for_edits_of_equal_shape(tmp_path):
    counted = tmp_path / "counted"
    counted.mkdir()
    fake = FakeEvaluator(folder=counted)
    parts = {"choices": [["attention"], ["ffn"], ["attention", "ffn"]]}
    forms = {"choices": ["drop", "tie", "merge"]}
    space = {"plan": [{"layers": "0..-1", "parts": parts, "form": forms}]}
    found = score_study(study(space=space), out=tmp_path / "run", latency=True, evaluator=fake)
    assert len(found.scored) == 46
    assert len(list(counted.glob("*.timed"))) == 5  # drop, merge; attention, FFN and both tied
    result = call("solve", tmp_path / "run", "--latency-ms", "7", "--count", 1)
    (head, best), _ = rows(result)
    assert head[-2] == "latency_ms"
    assert "6.67 ms (66.7 %)" in " ".join(best).replace("\N{NARROW NO-BREAK SPACE}", " ")
    assert best[1] == "0.100"  # one merge: the fake counts both of its layers as gone
    assert "latency adds up only roughly" in result.stderr
    score_study(study(space=space), out=tmp_path / "run", latency=True, evaluator=fake)
    assert len(list(counted.glob("*.timed"))) == 5


@pytest.mark.parametrize("place", ["/proc/self/mem", "/", "/dev/full", "/none/plan.yaml"])
def test_a_plan_that_cannot_be_written_is_one_error(drops, place):
    result = call("solve", drops, "--parameters", "90%", "--out", place)
    assert result.exit_code == 2
    assert "error: " in result.stderr and "hint: name a path" in result.stderr
