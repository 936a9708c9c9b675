"""Errors of a search from Python name arguments, and frames instead of their files."""

import pandas as pd
from datasets import Dataset

from sharetune.search.python.words import in_python, names_of_files
from sharetune.spaces.errors import DataError, RunError
from sharetune.spaces.run_folder import RunFolder


def test_options_are_arguments():
    error = in_python(RunError("no", "continue it with --resume, or choose another with --out"), {})
    assert error.hint == "continue it with resume=True, or choose another with out="
    error = in_python(RunError("no", "by --set executor=local"), {})
    assert error.hint == 'by executor="local"'
    error = in_python(RunError("no", "--set latency.rounds=10"), {})
    assert error.hint == 'in Python latency={..., "rounds": 10}'


def test_files_have_the_names_of_what_was_given(tmp_path):
    frame = pd.DataFrame({"text": ["a"]})
    data = {"train": frame, "test": Dataset.from_pandas(frame), "validation": "file.csv"}
    files = names_of_files(data, RunFolder(tmp_path))
    inputs = tmp_path / "inputs"
    assert files == {
        f"{inputs}/train.parquet": "the train frame",
        f"{inputs}/test": "the test data set",
        f"{inputs}/model": "the given model",
    }
    error = in_python(DataError(f"{inputs}/train.parquet is empty", f"see {inputs}/test"), files)
    assert isinstance(error, DataError)
    assert (error.message, error.hint) == ("the train frame is empty", "see the test data set")
