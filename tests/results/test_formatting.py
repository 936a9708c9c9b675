import pytest

from sharetune.results.formatting import (
    difference,
    duration,
    percentage,
    plural,
    quantity,
    ratio,
    setting,
)
from sharetune.spaces.objectives import OBJECTIVES

NAN = float("nan")
THIN = "\u202f"


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("accuracy", 0.9124, "91.2 %"),
        ("parameters", 22_713_216, "22.7 M"),
        ("parameters", 25_000_000, "25 M"),
        ("parameters", 999, "999"),
        ("bytes", 90_865_000, "90.9 MB"),
        ("flops", 1.41e9, "1.41 GFLOP"),
        ("latency_ms", 12.04, "12.0 ms"),
        ("latency_ms", 0.0317, "0.0317 ms"),
        ("eval_loss", 0.0, "0 nats"),
        ("perplexity", 47.05, "47.0"),
        ("matthews", 0.583, "0.583"),
        ("bleu", 17.14, "17.1"),
        ("accuracy", NAN, "–"),
    ],
)
def test_quantities_have_three_digits_and_a_unit(name, value, text):
    assert quantity(OBJECTIVES[name], value).replace(THIN, " ") == text


@pytest.mark.parametrize(
    ("name", "value", "base", "text"),
    [
        ("accuracy", 0.91, 0.919, "−0.9 points"),
        ("parameters", 15.2e6, 22.7e6, "−7.5 M"),
        ("latency_ms", 12.3, 11.8, "+0.5 ms"),
        ("flops", 0.94e9, 1.41e9, "−470 MFLOP"),
        ("flops", 0.521e9, 1.041e9, "−520 MFLOP"),
        ("parameters", 900e3, 22.7e6, "−21.8 M"),
        ("bytes", 100.0, 100.0, "0"),
        ("perplexity", 47.0, 40.1, "+6.9"),
        ("bleu", 16.9, 17.1, "−0.2"),
        ("accuracy", 0.9, NAN, "–"),
    ],
)
def test_differences_are_in_their_own_unit_and_to_the_base_s_digits(name, value, base, text):
    assert difference(OBJECTIVES[name], value, base).replace(THIN, " ") == text


def test_settings_and_percentages_have_a_real_minus():
    assert [setting(value) for value in (0.0, 5, 0.3, 1e-6, 2.5e-5)] == [
        *("0", "5", "0.3", "1e−6", "2.5e−5"),
    ]
    texts = [percentage(-0.26, "+.0%"), percentage(0.05), percentage(0.0123, ".1%")]
    assert [text.replace(THIN, " ") for text in texts] == ["−26 %", "5 %", "1.2 %"]


def test_ratios_durations_and_counts():
    assert (ratio(15.0, 20.0), ratio(1.0, 0.0)) == ("0.75×", "–")
    texts = [duration(seconds).replace(THIN, " ") for seconds in (4.25, 42, 200, 7500, NAN)]
    assert texts == ["4.2 s", "42 s", "3 min 20 s", "2 h 05 min", "–"]
    assert (plural(1, "trial"), plural(2000, "trial")) == ("1 trial", "2,000 trials")
