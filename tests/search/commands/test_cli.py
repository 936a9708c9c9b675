"""The command line as users meet it: real searches, and every mistake in one line."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from functools import partial

import datasets
import optuna
import pytest
import yaml
from optuna.trial import TrialState
from transformers import MixtralConfig
from typer.testing import CliRunner

from sharetune import results
from sharetune.search.commands.cli import app
from tests.checkpoint import write_checkpoint, write_rows, write_study_data
from tests.paths import ROOT

ONE_PROCESS = pytest.mark.xdist_group("cli")  # for the tests of one searched run
STUDY = {
    "model": "model",
    "task": {"name": "text-classification", "train": "train.csv", "test": "test.csv"},
    "executor": "local",
    "budget": {"trials": 6},
    "latency": {"rounds": 0},
    "space": {
        "plan": [{"layers": {"within": "0..-1"}, "form": {"choices": ["tie", "drop"]}}],
        "recipe": {"steps": 3, "max_length": 8},
    },
}


def write_study(folder, **changes):
    """Write `folder`/study.yaml next to a tiny checkpoint and its data; returns its path."""
    write_study_data(folder, 60)
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(STUDY | changes))
    return str(path)


@pytest.fixture()
def study(tmp_path):
    """A writer of study files into a folder with a tiny checkpoint and data."""
    return partial(write_study, tmp_path)


def call(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """The folder of a searched study, its run being `run`, and what the search printed."""
    folder = tmp_path_factory.mktemp("cli")
    path = write_study(folder, latency={"rounds": 1})
    result = call("search", path, "--out", folder / "run")
    assert result.exit_code == 0, result.output
    return folder, result


@ONE_PROCESS
def test_search_then_report(searched):
    folder, result = searched
    assert "unshared" in result.output
    assert re.search(r"trial\s+accuracy\s+parameters\s+FLOPs.*95 % interval", result.stdout)
    search_on = f"sharetune search {folder / 'study.yaml'} --out {folder / 'run'} --resume"
    report, *steps = result.stderr.rstrip().split("\n")[-7:]
    assert report == f"report: {folder / 'run' / 'report.html'}"
    assert steps[0] == "to export the model that the report opens with:"
    assert steps[1].startswith(f"  sharetune export {folder / 'run'} ")
    assert steps[2].startswith("to train the front again on 3 further seeds")
    assert steps[3] == f"  {search_on} --set finalists.seeds=3"
    assert steps[4] == "to search on, up to twice as many trials:"
    assert steps[5] == f"  {search_on} --set budget.trials=12"
    frame = results.load(folder / "run")
    assert frame["latency_ms"].notna().sum() >= 4
    again = call("report", folder / "run")
    assert again.exit_code == 0
    assert again.stdout == result.stdout


@ONE_PROCESS
@pytest.mark.slow
def test_the_same_seed_gives_the_same_accuracies(searched, tmp_path):
    folder, _ = searched
    assert call("search", folder / "study.yaml", "--out", tmp_path / "again").exit_code == 0
    frames = [results.load(run) for run in (folder / "run", tmp_path / "again")]
    runs = [frame[["plan", "accuracy", "eval_loss", "parameters"]] for frame in frames]
    assert runs[0]["accuracy"].notna().sum() >= 4
    assert runs[0].equals(runs[1])


@pytest.mark.slow
def test_finalists_and_a_limit_on_latency_in_a_real_search(study, tmp_path):
    path = study(
        task={
            "name": "text-classification",
            "train": "train.csv",
            "validation": 0.3,
            "test": "test.csv",
        },
        budget={"trials": 4, "max_latency_ms": 10000.0},
        latency={"rounds": 3},
        finalists={"seeds": 2, "most": 1},
    )
    settings = "--set", "finalists.seeds=2", "--set", "seed=0"
    result = call("search", path, "--out", tmp_path / "run", *settings)
    assert result.exit_code == 0, result.output
    assert "on the front" in result.stdout and " over 2 seeds" in result.stdout
    frame = results.load(tmp_path / "run")
    searched, again = frame[frame["finalist"].isna()], frame[frame["finalist"].notna()]
    assert len(searched) == 4 and searched["latency_ms"].notna().all()
    assert len(again) in (8, 10) and (again["state"] == "COMPLETE").all()
    supports = {sum(row["support"] for row in test["per_class"].values()) for test in again["test"]}
    assert supports == {30}
    further = result.stderr.rstrip().split("\n")[-1]
    assert further.endswith("--resume --set finalists.seeds=2 --set seed=0 --set budget.trials=8")


@pytest.mark.slow
def test_what_is_printed_can_be_typed(study, tmp_path):
    out, rungs = tmp_path / "a run", "early_stopping={rungs: [0.5]}"
    result = call("search", study(), "--out", out, "--set", rungs, "--set", "budget.trials=2")
    assert result.exit_code == 0, result.output
    further = result.stderr.rstrip().split("\n")[-1].strip()
    command = shlex.split(further)
    assert command[:3] == ["sharetune", "search", str(tmp_path / "study.yaml")]
    assert command[3:] == [
        "--out",
        str(out),
        "--resume",
        "--set",
        rungs,
        "--set",
        "budget.trials=4",
    ]
    assert call(*command[1:]).exit_code == 0
    assert len(results.load(out)) == 4


@pytest.mark.slow
def test_a_failed_start_leaves_nothing_that_a_later_one_would_train_on(study, tmp_path):
    path, out = study(budget={"trials": 1}), tmp_path / "run"
    nowhere = "start_from={runs: nowhere}"
    assert call("search", path, "--out", out, "--set", nowhere).exit_code == 2
    assert not out.exists()
    (out / "cache").mkdir(parents=True)
    (out / "cache" / "train.parquet").write_text("of a start that was killed")
    write_rows(tmp_path / "train.csv", 30)
    assert call("search", path, "--out", out).exit_code == 0
    (encoded,) = (out / "cache").glob("train-*")
    assert len(datasets.load_from_disk(encoded)) == 30


@pytest.mark.slow
def test_a_refused_search_leaves_the_data_of_the_run_as_they_are(study, tmp_path):
    out = tmp_path / "run"
    assert call("search", study(), "--out", out, "--set", "budget.trials=1").exit_code == 0
    before = {path: path.read_bytes() for path in (out / "cache").glob("*.parquet")}
    write_rows(tmp_path / "train.csv", 45, seed=3)
    refused = call("search", study(), "--out", out, "--resume", "--set", "seed=5")
    assert refused.exit_code == 2
    assert "seed was 0 and is 5" in refused.stderr
    assert {path: path.read_bytes() for path in (out / "cache").glob("*.parquet")} == before


def test_a_folder_that_cannot_be_made_is_one_error(study, tmp_path):
    (tmp_path / "file").write_text("")
    refused = call("search", study(), "--out", tmp_path / "file" / "run")
    assert refused.exit_code == 2
    assert f"\nerror: {tmp_path / 'file'}" in refused.stderr
    assert "hint: " in refused.stderr


@pytest.mark.slow
def test_a_run_without_a_completed_trial_says_so(study, tmp_path):
    never = "resources={checkpoint_s: null}"
    faulty = study(
        budget={"trials": 1},
        anchors=[],
        space={
            "plan": [{"layers": "0..1"}],
            "recipe": {"steps": 3, "max_length": 8, "learning_rate": 1e30},
        },
    )
    result = call("search", faulty, "--out", tmp_path / "run", "--set", never)
    assert result.exit_code == 1, result.output
    assert result.stdout.strip() == "no completed trial"
    assert "error: no trial was completed: 1 of 1 trial ended with the loss is nan" in result.stderr


@pytest.mark.slow
def test_set_overrides_the_study_file(study, tmp_path):
    path = study()
    assert call("search", path, "--out", tmp_path / "r", "--set", "budget.trials=1").exit_code == 0
    assert len(results.load(tmp_path / "r")) == 1


MISTAKES = {
    "missing data file": ({"task.train": "nothing.csv"}, "no such data file"),
    "missing column": ({"task.text": "body"}, "no text column: looked for 'body'"),
    "missing model": ({"model": "./nowhere"}, "no such folder: ./nowhere"),
    "unknown key": ({"budget": {"trails": 3}}, "budget.trails: unknown key"),
    "unknown task": ({"task.name": "text-clasification"}, "unknown task"),
    "unknown task key": ({"task.txt": "a"}, "unknown key"),
    "layer beyond the stack": (
        {"space": {"plan": [{"layers": "2..9"}]}},
        "layer 9 is beyond stack 'layers', which has 4 layers",
    ),
    "overlapping groups": (
        {"space": {"plan": [{"layers": "0..2"}, {"layers": "2..3"}]}},
        "groups must not overlap, but attention and ffn 2 are in two groups",
    ),
    "a ratio of 1.3": (
        {"space": {"plan": [{"layers": "0..2", "form": {"bank": {"ratio": 1.3}}}]}},
        "bank.ratio: input should be less than or equal to 1, but got 1.3",
    ),
    "a plan for another model": (
        {"plans": [{"groups": [{"layers": "0..1", "stack": "decoder"}]}]},
        "no stack 'decoder', and the model has 'layers' of 4 layers",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_end_in_one_error_and_a_hint(study, tmp_path, name):
    changes, message = MISTAKES[name]
    task = {"name": "text-classification", "train": "train.csv", "test": "test.csv"}
    task |= {k.split(".")[1]: v for k, v in changes.items() if k.startswith("task.")}
    others = {k: v for k, v in changes.items() if not k.startswith("task.")}
    result = call("search", study(task=task, **others), "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert re.search(message, result.stderr), result.stderr
    error, blank, hint = result.stderr.rstrip("\n").split("\n")[-3:]
    assert error.startswith("error: ") and blank == "" and hint.startswith("hint: ")
    assert not (tmp_path / "run" / "study.db").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"text,label\n", "has no rows"),
        (b"text,label\na,x\nb,x\n", "has one class only: 'x'"),
        ("text,label\ncaf\xe9,x\nb,y\n".encode("latin1"), "is not UTF-8: line 2"),
    ],
)
def test_bad_data_ends_in_one_error(study, tmp_path, content, message):
    path = study(budget={"trials": 1})
    (tmp_path / "train.csv").write_bytes(content)
    result = call("search", path, "--out", tmp_path / "run")
    assert (result.exit_code, message in result.stderr) == (2, True), result.stderr
    write_rows(tmp_path / "train.csv", 60)
    assert call("search", path, "--out", tmp_path / "run").exit_code == 0


@ONE_PROCESS
def test_an_existing_run_folder_is_kept(searched):
    folder, _ = searched
    before = (folder / "run" / "study.db").read_bytes()
    result = call("search", folder / "study.yaml", "--out", folder / "run")
    assert result.exit_code == 2
    assert "exists already" in result.stderr
    assert (folder / "run" / "study.db").read_bytes() == before


def test_show_draws_a_plan_without_weights(study, tmp_path):
    study()
    (tmp_path / "model" / "model.safetensors").unlink()
    plan = tmp_path / "plan.yaml"
    plan.write_text(
        "groups: [{layers: 1..2, form: {bank: {ratio: 0.5}}}, {layers: [3], form: drop}]"
    )
    result = call("show", plan, "--model", tmp_path / "model", "--max-length", 16)
    assert result.exit_code == 0, result.output
    assert result.stdout.split("\n")[:4] == [
        "layers  0  attention .......... private       ffn .......... private     ",
        "layers  1  attention AAAAA..... A 50 %        ffn AAAAA..... A 50 %      ",
        "layers  2  attention AAAAA..... A 50 %        ffn AAAAA..... A 50 %      ",
        "layers  3  removed",
    ]
    # P = 4 x 32 x 32 + 2 x 32 x 64 = 8,192: stored 3 P - P / 2 of 4 P, which is 1.5 P of 3 P
    assert "effective ratio      0.500" in result.stdout


def test_show_names_the_parts_that_the_plan_does_not_change(tmp_path):
    sizes = {"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2}
    sizes |= {"vocab_size": 64, "num_hidden_layers": 3, "intermediate_size": 64}
    sizes |= {"num_local_experts": 4, "architectures": ["MixtralForCausalLM"]}
    MixtralConfig(**sizes).save_pretrained(tmp_path / "model")
    plan = tmp_path / "plan.yaml"
    plan.write_text("groups: [{layers: 0..2, form: {bank: {ratio: 0.5}}}]")
    result = call("show", plan, "--model", tmp_path / "model", "--max-length", 16)
    assert result.exit_code == 0, result.output
    assert (
        "\nNo plan shares or narrows the ffn of stack 'layers', whose matrices are of no known "
        "kind; a mixture's experts can be tied or narrowed, as `parts: experts`.\n"
    ) in result.stdout
    assert "plan: layers 0..2 bank 0.3 attention from mean" in result.stdout


def test_show_of_more_tokens_than_the_model_reads(tmp_path):
    write_checkpoint(tmp_path / "model")  # of 32 positions
    result = call("show", "albert-all", "--model", tmp_path / "model", "--max-length", 128)
    assert result.exit_code == 2
    assert result.stderr.splitlines() == [
        "error: --max-length is 128, and the model reads at most 32 tokens",
        "",
        "hint: set --max-length to 32 at most",
    ]
    result = call("show", "albert-all", "--model", tmp_path / "model")
    assert result.exit_code == 0, result.output
    assert "FLOPs, 32 tokens" in result.stdout
    result = call("show", "albert-all", "--model", tmp_path / "model", "--max-length", -1)
    assert (result.exit_code, result.stderr.splitlines()[0]) == (2, "error: --max-length is -1")


@pytest.mark.parametrize(
    "length", [33, {"low": 16, "high": 64, "step": 16}, {"choices": [16, 48]}], ids=str
)
def test_a_search_of_more_tokens_than_the_model_reads(study, tmp_path, length):
    path = study(space={"recipe": {"steps": 3, "max_length": length}})
    result = call("search", path, "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert "and the model reads at most 32 tokens" in result.stderr
    assert "hint: set recipe.max_length to 32 at most" in result.stderr


@pytest.mark.parametrize("plan", ["albert-al", "nowhere.yaml"])
def test_show_of_a_plan_that_is_not_there(tmp_path, plan):
    write_checkpoint(tmp_path / "model")
    result = call("show", plan, "--model", tmp_path / "model")
    assert result.exit_code == 2
    assert "no such plan file" in result.stderr


def test_list_names_everything_registered():
    text = call("list").stdout
    for name in ("bank", "cycle_rev", "albert-all", "unshared", "accuracy", "tpe", "bank_l2"):
        assert re.search(rf"^\s+{name}\b", text, re.M), name
    assert re.match(r"bank +a fraction of heads", call("list", "forms").stdout)
    assert "did you mean 'forms'?" in call("list", "form").stderr


def test_report_of_no_run(tmp_path):
    result = call("report", tmp_path)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")


def start_search(path, out, *options):
    command = [
        sys.executable,
        "-m",
        "sharetune.search.commands.cli",
        "search",
        path,
        "--out",
        str(out),
        *options,
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env=environment, preexec_fn=heed_ctrl_c
    )


def heed_ctrl_c():
    """Shells let background jobs ignore SIGINT, and so would a search of a test run by one."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def wait_for_trials(out, count, limit_s=240):
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        time.sleep(0.3)
        if (out / "study.db").exists():
            try:
                if (results.load(out)["state"] == "COMPLETE").sum() >= count:
                    return
            except Exception:  # the study is being created
                continue
    raise AssertionError("the search made no progress")


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
@pytest.mark.parametrize("executor", ["local", "ray"])
@pytest.mark.parametrize("death", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_stopped_search_resumes_to_exactly_its_budget(study, tmp_path, executor, death):
    path = study(
        executor=executor,
        budget={"trials": 12},
        space={
            "plan": [{"layers": {"within": "0..-1"}, "form": {"choices": ["tie", "drop"]}}],
            "recipe": {"steps": 200, "max_length": 8, "learning_rate": {"low": 1e-5, "high": 1e-3}},
        },
    )
    out = tmp_path / "run"
    search = start_search(path, out)
    wait_for_trials(out, 3)
    search.send_signal(death)
    _, errors = search.communicate(timeout=60)
    if death != signal.SIGKILL:
        assert search.returncode == 130, errors
        assert errors.rstrip().split("\n")[-1] == f"sharetune search {path} --out {out} --resume"
    before = results.load(out)
    finished = before[before["state"] == "COMPLETE"].set_index("number")["accuracy"].to_dict()

    resumed = start_search(path, out, "--resume")
    _, errors = resumed.communicate(timeout=240)
    assert resumed.returncode == 0, errors
    after = results.load(out).set_index("number")
    assert all(after["accuracy"][number] == value for number, value in finished.items())
    assert not (after["state"] == "RUNNING").any()
    trained = after[(after["state"] == "COMPLETE") & after["same_as"].isna()]
    assert len(trained) == 12
    assert {"drop-half", "drop-third", "tied", "unshared"} <= set(after["anchor"])
    assert not trained["candidate"].astype(str).duplicated().any()


@ONE_PROCESS
def test_the_storage_has_no_running_trials_after_a_search(searched):
    folder, _ = searched
    storage = f"sqlite:///{folder / 'run' / 'study.db'}"
    (name,) = optuna.get_all_study_names(storage)
    found = optuna.load_study(study_name=name, storage=storage)
    assert TrialState.RUNNING not in {trial.state for trial in found.trials}
