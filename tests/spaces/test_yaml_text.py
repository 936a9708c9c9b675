"""YAML as people mean it: 1e-5 is a number."""

import pytest
import yaml

from sharetune.spaces import SharingPlan
from sharetune.spaces.yaml_text import as_number, read_yaml, write_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 0.00001),
        ("1E5", 100000.0),
        ("-2e3", -2000.0),
        ("+.5e1", 5.0),
        ("3.e-4", 0.0003),
        ("1.5", 1.5),
        ("7", 7),
        ("'1e-5'", "1e-5"),
        ("e5", "e5"),
        ("1e", "1e"),
        ("1e-5a", "1e-5a"),
        ("1..4", "1..4"),
        ("0..-1", "0..-1"),
        ("a1e5", "a1e5"),
    ],
)
def test_scalars(text, value):
    found = read_yaml(text)
    assert (found, type(found)) == (value, type(value))


def test_only_plain_values_are_made():
    with pytest.raises(yaml.YAMLError):
        read_yaml("!!python/object/apply:os.getcwd []")


@pytest.mark.parametrize(
    ("value", "number"),
    [("1e-5", 0.00001), (" 12 ", 12), ("-3", -3), ("nan", "nan"), ("inf", "inf"), ("1_0", "1_0")],
)
def test_numbers_in_texts(value, number):
    assert as_number(value) == number


def test_a_plan_s_numbers():
    plan = SharingPlan.from_yaml("groups: [{layers: 0..3, form: {bank: {ratio: 5e-1}}}]")
    assert plan == SharingPlan.from_yaml("groups: [{layers: 0..3, form: {bank: {ratio: 0.5}}}]")


@pytest.mark.parametrize(
    "value", ["1e999", "1e-5", "nan", ".inf", "0x1F", "on", "2024-01-01", "~", "1_000"]
)
def test_texts_that_look_like_others_read_back_as_texts(value):
    assert read_yaml(write_yaml({"name": value})) == {"name": value}
    assert read_yaml(write_yaml([value], flow=None)) == [value]
