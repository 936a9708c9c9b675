"""Compression sections of a recipe: the order of methods, and methods from plugins."""

from typing import ClassVar

import pytest
from pydantic import Field

from sharetune.spaces.compression import COMPRESSIONS, Compression, Method
from sharetune.spaces.errors import SharetuneError
from sharetune.spaces.recipe import Candidate
from sharetune.spaces.space import Space
from tests.registries import forget_what_is_registered


@pytest.fixture(autouse=True)
def two_of_a_plugin(monkeypatch):
    forget_what_is_registered(monkeypatch)

    @COMPRESSIONS.register("rounded")
    class Rounded(Method):
        """rounds"""

        name: ClassVar[str] = "rounded"
        needs_building = False
        decimals: int = Field(2, ge=0)

    @COMPRESSIONS.register("int2")
    class Int2(Method):
        """two bits"""

        name: ClassVar[str] = "int2"
        quantizes = True


def names(**compression):
    return [method.name for method in Compression(**compression).chosen]


def test_methods_are_applied_in_the_order_of_their_kinds():
    assert names() == []
    assert names(quantize="int8", magnitude=0.5, heads=0.1) == ["units", "magnitude", "int8"]
    every = {"quantize": "int2", "neurons": 0.1, "methods": {"rounded": {}}}
    assert names(**every) == ["units", "rounded", "int2"]


def test_a_method_holds_the_knobs_of_its_keys():
    (units,) = Compression(heads=0.25).chosen
    assert (units.heads, units.neurons) == (0.25, 0.0)


def test_what_a_compression_is_follows_from_its_methods():
    found = {
        kind: [
            word
            for word in ("prunes", "removes_units", "eight_bits", "needs_building")
            if getattr(Compression(**settings), word)
        ]
        for kind, settings in {
            "nothing": {},
            "heads": {"heads": 0.1},
            "magnitude": {"magnitude": 0.1},
            "int8": {"quantize": "int8"},
            "dynamic-int8": {"quantize": "dynamic-int8"},
            "rounded": {"methods": {"rounded": {}}},
            "int2": {"quantize": "int2"},
        }.items()
    }
    assert found == {
        "nothing": [],
        "heads": ["prunes", "removes_units", "needs_building"],
        "magnitude": ["prunes"],
        "int8": ["eight_bits"],
        "dynamic-int8": ["eight_bits", "needs_building"],
        "rounded": [],
        "int2": ["needs_building"],
    }


def test_a_compression_without_methods_of_plugins_is_written_as_ever():
    assert Candidate(compression=Compression(heads=0.5)).written()["compression"] == {
        "heads": 0.5,
        "neurons": 0.0,
        "magnitude": 0.0,
        "recover": 0.0,
        "quantize": None,
    }


def test_methods_of_plugins_are_read_as_they_are_written():
    given = Compression(methods={"rounded": {"decimals": 3}}, quantize="int2")
    written = given.model_dump(mode="json", exclude_defaults=True)
    assert written == {"quantize": "int2", "methods": {"rounded": {"decimals": 3}}}
    assert Compression.model_validate(written) == given
    assert hash(Compression.model_validate(written)) == hash(given)
    assert str(given) == "quantize int2, methods {'rounded': {'decimals': 3}}"


def test_knobs_of_plugins_are_searched():
    leaf = {"methods": {"rounded": {"decimals": {"low": 1, "high": 4}}}}
    space = Space(compression=leaf)
    found = {c.compression.methods[0].decimals for c in space.check({})}
    assert found == {1, 4}
    assert not space.sized_by_building


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"quantize": "int5"}, "unknown quantisation: 'int5'"),
        ({"quantize": "magnitude"}, "unknown quantisation: 'magnitude'"),
        ({"methods": {"round": {}}}, "unknown compression method: 'round'"),
        ({"methods": {"units": {"heads": 0.5}}}, "the method units has keys of its own"),
        ({"methods": {"rounded": {"decimals": -1}}}, "rounded.decimals: input should be greater"),
        ({"methods": {"rounded": {"digits": 1}}}, "rounded.digits: extra inputs"),
    ],
)
def test_mistakes(settings, message):
    with pytest.raises(SharetuneError, match=message):
        Compression(**settings)
