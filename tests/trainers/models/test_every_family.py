"""A sample of families, through every check of `benchmarks/families.py`."""

import sys

import pytest

from tests.paths import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

from families import CHECKS, try_family

REFUSED = {
    "embedding_gemma2_text": {
        "save": "layers that share must be of one width",
        "drop": "each has an input by its number",
    },
    "flaubert": {"loop": "neither dropped nor repeated", "drop": "neither dropped nor repeated"},
    "gemma4_unified_text": {"save": "cannot share self_attn.", "count": "cannot share self_attn."},
    "jetmoe": {"tie": "has none of the parts"},
    "mllama": {"drop": "further parts of each in cross_attention_layers"},
    "pegasus_x": {"drop": "cannot take the place", "reuse": "applied to other states as well"},
    "t5gemma2": {"reuse": "applied to other states as well"},
    "wavlm": {"reuse": "reads the weights of"},
    "xlm": {"drop": "neither dropped nor repeated", "loop": "neither dropped nor repeated"},
}
"""Checks that a family is refused, by family, each with a part of the reason."""

RIGHT = (
    *("aria", "bitnet", "clip", "codegen", "data2vec-audio", "gpt_neo", "longformer"),
    *("gemma3n_text", "jamba", "qwen3_moe", "recurrent_gemma"),
    *("marian", "mixtral", "mobilebert", "siglip", "swin", "switch_transformers", "whisper"),
)


@pytest.mark.slow
@pytest.mark.parametrize("family", [*RIGHT, *REFUSED])
def test_no_check_of_a_family_is_wrong_or_a_traceback(family):
    row = try_family(family)
    assert row.reason == "" and row.outcomes.keys() == CHECKS.keys()
    assert row.of_kind("wrong", "error") == {}
    for check, reason in REFUSED.get(family, {}).items():
        assert row.outcomes[check].kind == "refused" and reason in row.outcomes[check].text
