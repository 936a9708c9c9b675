"""Environment variables in paths, and paths of nothing."""

import pytest

from sharetune.spaces.errors import ConfigError, DataError, ModelError
from sharetune.spaces.paths import expanded, require_data, require_model


def test_variables_of_this_machine_are_put_in(monkeypatch):
    monkeypatch.setenv("MODELS", "/srv/models")
    assert expanded("${MODELS}/minilm") == expanded("$MODELS/minilm") == "/srv/models/minilm"
    assert expanded("bert-base-uncased") == "bert-base-uncased"


def test_a_variable_that_is_not_set_is_one_error(monkeypatch):
    monkeypatch.delenv("MODELS", raising=False)
    with pytest.raises(ConfigError, match="names the environment variable MODELS, which is not"):
        expanded("${MODELS}/minilm")


@pytest.mark.parametrize(
    "model",
    ["./nothing", "../nothing", "/no/model", "a/b/c", "models/x", "no thing", "nothing/"],
)
def test_a_model_that_can_only_be_a_folder(tmp_path, model):
    (tmp_path / "models").mkdir()
    with pytest.raises(ModelError, match=f"no such folder: {model}"):
        require_model(model, tmp_path)


def test_a_model_that_may_be_one_of_the_hub(tmp_path, monkeypatch):
    monkeypatch.setenv("MODELS", str(tmp_path))
    for name in ("bert-base-uncased", "google/vit", "o.o/a_b-c.1", "${MODELS}", str(tmp_path)):
        require_model(name, tmp_path / "elsewhere")


def test_what_is_near_or_wrong_is_in_the_hint(tmp_path, monkeypatch):
    (tmp_path / "minilm").mkdir()
    (tmp_path / "file").write_text("")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError) as caught:
        require_model("./minlm")
    assert caught.value.hint == (
        f"did you mean 'minilm'? paths are relative to the working directory, {tmp_path}"
    )
    with pytest.raises(ModelError, match="file is a file") as caught:
        require_model("file")
    monkeypatch.setenv("HOME", "/home/ada")
    with pytest.raises(ModelError) as caught:
        require_model("~/minilm")
    assert caught.value.hint == "write the home folder out: /home/ada/minilm"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("trian.csv", "no such data file: trian.csv"),
        ("trian-*.csv", "no data files match trian-*.csv"),
        ("./data", "no such data file or folder: ./data"),
    ],
)
def test_data_that_can_only_be_files(tmp_path, source, message):
    (tmp_path / "train-1.csv").write_text("")
    with pytest.raises(DataError) as caught:
        require_data(source, tmp_path)
    assert caught.value.message == message
    for known in ("train-*.csv", "train-1.csv", "nyu-mll/glue:sst2", "imdb"):
        require_data(known, tmp_path)
