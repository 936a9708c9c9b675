"""How many tokens a model reads, and that no study asks for more."""

import pytest
import torch

from sharetune.spaces.errors import ConfigError
from sharetune.trainers.models.positions import most_tokens, refuse_beyond_positions
from tests.families import FAMILIES

TABLES_OF_40 = ("bert", "electra", "distilbert", "deberta-v2", "gpt2", "opt", "bart", "marian")
UNBOUNDED = ("llama", "qwen2", "gpt-neox", "modernbert", "t5", "vit", "wav2vec2", "whisper")
CASES = {
    "roberta": 38,  # its positions count from 2, after the padding token's number
    **dict.fromkeys(TABLES_OF_40, 40),
    **dict.fromkeys(UNBOUNDED, None),
}


@pytest.mark.parametrize(("family", "most"), CASES.items())
def test_the_longest_input(family, most):
    auto, config = FAMILIES[family]
    with torch.device("meta"):
        model = auto.from_config(config)
    assert most_tokens(model) == most


@pytest.mark.parametrize("family", ["roberta", "bart", "opt", "gpt2"])
def test_a_model_reads_that_many_tokens_and_no_more(family):
    auto, config = FAMILIES[family]
    model = auto.from_config(config).eval()
    most = CASES[family]
    model(input_ids=torch.full((1, most), 5))
    with pytest.raises((IndexError, RuntimeError)):
        model(input_ids=torch.full((1, most + 1), 5))
    refuse_beyond_positions(model, most, "recipe.max_length")
    with pytest.raises(ConfigError, match=f"is {most + 1}, and the model reads at most {most} tok"):
        refuse_beyond_positions(model, most + 1, "recipe.max_length")
