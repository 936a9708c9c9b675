"""Settings of pruning and quantisation after training; docs/recipes.md explains each one.

A method is one registered class here, with its knobs, and what it does to a model in
`trainers/compression/`. Methods that come with the package have keys of their own in
:class:`Compression`; others are named under `methods`.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from sharetune.spaces.errors import ConfigError
from sharetune.spaces.named import Named, read_named
from sharetune.spaces.registry import Registry, did_you_mean
from sharetune.spaces.settings import StrictModel, reader

COMPRESSIONS: Registry[type["Method"]] = Registry("compression method")

Fraction = Annotated[float, Field(ge=0, lt=1)]


class Method(Named):
    """Base of all methods. `keys` are those of :class:`Compression` that hold its knobs.

    One that `prunes` comes before the further training, all others after it. One that
    `removes_units` makes layers narrower, one that `quantizes` is a word of the key `quantize`.
    The sizes of one that `needs_building` are only known of the built model. `bits` are those of
    an entry of the body's matrices as stored, None for floating-point numbers; one of 8 has a scale
    a row.
    """

    keys: ClassVar[tuple[str, ...]] = ()
    prunes: ClassVar[bool] = False
    removes_units: ClassVar[bool] = False
    quantizes: ClassVar[bool] = False
    needs_building: ClassVar[bool] = True
    bits: ClassVar[int | None] = None


@COMPRESSIONS.register("units")
class RemoveUnits(Method):
    """the least important heads and neurons are removed"""

    name: ClassVar[str] = "units"
    keys = ("heads", "neurons")
    prunes = True
    removes_units = True
    heads: Fraction = 0.0
    neurons: Fraction = 0.0


@COMPRESSIONS.register("magnitude")
class Magnitude(Method):
    """the smallest matrix entries are set to zero (Han et al., arXiv 1506.02626)"""

    name: ClassVar[str] = "magnitude"
    keys = ("magnitude",)
    prunes = True
    needs_building = False
    magnitude: Fraction = 0.0


@COMPRESSIONS.register("int8")
class Int8(Method):
    """matrices are stored as 8-bit numbers with a scale a row (LLM.int8(), arXiv 2208.07339)"""

    name: ClassVar[str] = "int8"
    quantizes = True
    needs_building = False
    bits = 8


@COMPRESSIONS.register("dynamic-int8")
class DynamicInt8(Method):
    """as int8, and multiplied in 8 bits by what enters, rounded token by token"""

    name: ClassVar[str] = "dynamic-int8"
    quantizes = True
    bits = 8


@COMPRESSIONS.register("int4")
class Int4(Method):
    """matrices are stored as 4-bit numbers with a scale for 32 of a row, embeddings as by int8"""

    name: ClassVar[str] = "int4"
    quantizes = True
    bits = 4


def known_quantisation(name: str) -> str:
    """Return `name` if a method of that name quantises; else raise :class:`ConfigError`."""
    known = [word for word, method in COMPRESSIONS.items() if method.quantizes]
    if name not in known:
        raise ConfigError(f"unknown quantisation: {name!r}", did_you_mean(name, known))
    return name


def read_methods(value: object) -> Any:
    """Methods as written: ``{NAME: {knob: value}}``. Raises :class:`ConfigError`."""
    if not isinstance(value, Mapping):
        return value
    return tuple(_read_method(name, knobs) for name, knobs in value.items())


def _read_method(name: str, knobs: object) -> Method:
    method = COMPRESSIONS[name]
    if method.keys or method.quantizes:
        raise ConfigError(
            f"the method {name} has keys of its own",
            f"write {' or '.join(method.keys)}" if method.keys else f"write quantize: {name}",
        )
    return read_named(COMPRESSIONS, {name: knobs}, example="{NAME: {}}", error=ConfigError)


def write_methods(methods: tuple[Method, ...]) -> dict[str, Any]:
    """The inverse of :func:`read_methods`."""
    return {method.name: method.model_dump(exclude_defaults=True) for method in methods}


MethodsField = Annotated[
    tuple[Method, ...], BeforeValidator(reader(read_methods)), PlainSerializer(write_methods)
]


class Compression(StrictModel):
    """Pruning and quantisation of a trained model; by default neither.

    Units (heads, neurons) are removed by fraction from a layer's shared and private ones alike,
    rounded down, the least important first. A unit of a bank is removed from all its readers.
    """

    heads: Fraction = Field(
        0.0, description="Fraction of each layer's attention heads that is removed."
    )
    neurons: Fraction = Field(
        0.0, description="Fraction of each layer's FFN neurons that is removed."
    )
    magnitude: Fraction = Field(
        0.0,
        description="Fraction of the layers' matrix entries set to zero, the smallest first.",
    )
    recover: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Training after pruning or with rounded weights, as a fraction of the recipe's "
        "steps; 0 is none.",
    )
    quantize: Annotated[str, AfterValidator(known_quantisation)] | None = Field(
        None,
        description="Quantisation of the body's matrices: `int8` stores them in 8 bits with one "
        "scale for each row, `dynamic-int8` also multiplies in 8 bits, with inputs rounded for "
        "each token, `int4` stores them in 4 bits with one scale for 32 of a row; `null` is none.",
    )
    aware: bool = Field(
        False,
        description="Whether the further training, whose length `recover` sets, computes with the "
        "weights as `quantize` rounds them.",
    )

    methods: MethodsField = Field(
        (), description="Methods of plugins, as `{NAME: {knob: value}}`; knobs may be ranges."
    )

    @model_validator(mode="after")
    def _require_further_training(self) -> "Compression":
        if self.aware and self.quantize is not None and self.recover == 0:
            raise ConfigError(
                "aware trains with rounded weights for `recover` of the recipe's steps, but "
                "recover is 0",
                "set recover, for example to 0.2, or leave out aware",
            )
        return self

    @model_serializer(mode="wrap")
    def _without_keys_that_are_off(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out keys that older versions do not know, where they are off."""
        written: dict[str, Any] = write(self)
        off = {key for key in ("methods", "aware") if not getattr(self, key)}
        return {key: value for key, value in written.items() if key not in off}

    @property
    def chosen(self) -> tuple[Method, ...]:
        """Return the methods that have an effect, in the order in which they are applied."""
        found = [method for method in map(self._of, COMPRESSIONS.values()) if method is not None]
        return tuple(sorted(found, key=lambda method: (not method.prunes, method.quantizes)))

    def _of(self, method: type[Method]) -> Method | None:
        """Return the method with its knobs; None where it is off."""
        if method.quantizes:
            return method() if self.quantize == method.name else None
        if not method.keys:
            return next((one for one in self.methods if one.name == method.name), None)
        knobs = {key: getattr(self, key) for key in method.keys}
        return method(**knobs) if any(knobs.values()) else None

    @property
    def removes_units(self) -> bool:
        """Return whether layers become narrower."""
        return any(method.removes_units for method in self.chosen)

    @property
    def prunes(self) -> bool:
        """Return whether anything is removed or set to zero."""
        return any(method.prunes for method in self.chosen)

    @property
    def needs_building(self) -> bool:
        """Return whether only the built model tells its sizes."""
        return any(method.needs_building for method in self.chosen)

    @property
    def eight_bits(self) -> bool:
        """Return whether the body's matrices are stored as 8-bit numbers."""
        return self.bits == 8

    @property
    def bits(self) -> int | None:
        """Return the bits of a stored matrix entry; None for floating-point numbers."""
        return next((method.bits for method in self.chosen if method.bits is not None), None)

    def canonical(self) -> "Compression":
        """Return an equal setting without keys that have no effect."""
        is_aware = self.aware and self.quantize is not None
        inert: dict[str, Any] = {} if self.prunes or is_aware else {"recover": 0.0}
        return self.model_copy(update=inert | {"aware": is_aware})

    def __str__(self) -> str:
        settings = self.model_dump(exclude_defaults=True)
        return ", ".join(f"{key} {value}" for key, value in settings.items()) or "none"
