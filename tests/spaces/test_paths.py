"""Environment variables in paths."""

import pytest

from sharetune.spaces.errors import ConfigError
from sharetune.spaces.paths import expanded


def test_variables_of_this_machine_are_put_in(monkeypatch):
    monkeypatch.setenv("MODELS", "/srv/models")
    assert expanded("${MODELS}/minilm") == expanded("$MODELS/minilm") == "/srv/models/minilm"
    assert expanded("bert-base-uncased") == "bert-base-uncased"


def test_a_variable_that_is_not_set_is_one_error(monkeypatch):
    monkeypatch.delenv("MODELS", raising=False)
    with pytest.raises(ConfigError, match="names the environment variable MODELS, which is not"):
        expanded("${MODELS}/minilm")
