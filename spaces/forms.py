"""Forms: how the layers of a group read their bank, and what each layer stores of its own.

A form is one registered pydantic class whose fields are its knobs. Only what needs no tensors is
here; `sharetune.trainers.models.forms.base` builds the modules.
"""

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer
from pydantic_core import PydanticKnownError

from sharetune.spaces.errors import PlanError
from sharetune.spaces.named import Named, read_named, write_named
from sharetune.spaces.registry import Registry
from sharetune.spaces.settings import reader

FORMS: Registry[type["Form"]] = Registry("form")
"""Forms by name: classes whose fields are the knobs."""


class Form(Named):
    """Base of all forms. `name` is the word used in plans."""

    removes_layers: ClassVar[bool] = False
    """Whether the group's layers are taken out of the model instead of sharing."""

    shares: ClassVar[bool] = True
    """Whether the form stores a bank that the group's layers read."""

    group_rules: ClassVar[frozenset[str]] = frozenset({"init", "units"})
    """Which of the keys `init` and `units` of a group change the bank that this form builds."""

    calibrated: ClassVar[bool] = False
    """Whether the start is better with the matrices' inputs on the task's own text."""

    materializes: ClassVar[bool] = True
    """Whether a dense model without banks can compute the same function."""

    learns_locally: ClassVar[bool] = True
    """Whether its new weights can learn from the unshared model's hidden states alone."""

    whole: ClassVar[bool] = False
    """Whether layers keep nothing private of what they share."""

    adapts: ClassVar[bool] = False
    """Whether each reader stores low-rank matrices of its own, which can be trained alone."""

    def roles(self) -> tuple[str, ...] | None:
        """Return the only roles it can share, always together; None for any choice of roles.

        The model may store them in one matrix with others, as a fused q, k, v.
        """
        return None

    def canonical(self) -> "Form | None":
        """Return the simplest form that builds the same model; None where nothing is shared."""
        return self

    def rounded(self, units: tuple[int, ...]) -> "Form":
        """Return the form with knobs rounded to what a model with these unit counts can have."""
        return self

    def of(self, places: Sequence[int]) -> "Form":
        """Return the form of those layers of the group that are at `places` (0-based)."""
        return self

    def check(self, layers: int) -> None:
        """Raise :class:`PlanError` if the knobs do not go with a group of `layers` layers."""

    def share(self, place: int = 0) -> float:
        """Return the fraction (0..1) of the group's layer at `place` that is read from the bank.

        A place beyond the layers is a copy that the bank starts from, which gives all of it.
        """
        return 1.0


Ratio = float | tuple[float, ...]
"""A fraction (0..1), or one for each layer of a group."""


def _check_ratio(ratio: Ratio) -> Ratio:
    """Raise pydantic's own errors, without the branch of the union, unless all are in 0..1."""
    for one in ratio if isinstance(ratio, tuple) else (ratio,):
        if not one >= 0:
            raise PydanticKnownError("greater_than_equal", {"ge": 0})
        if not one <= 1:
            raise PydanticKnownError("less_than_equal", {"le": 1})
    return ratio


@FORMS.register("bank")
class Bank(Form):
    """a fraction of heads and FFN neurons reads the bank, the rest stays private"""

    name: ClassVar[str] = "bank"
    ratio: Annotated[Ratio, AfterValidator(_check_ratio)] = Field(
        examples=[0.5],
        description="Fraction of units (attention heads or KV groups, FFN neurons in multiples of "
        "8) that is read from the bank: 0 is no sharing, 1 a tie. A list gives one for each of the "
        "group's layers, in ascending order; a layer with less reads the first units of the bank.",
    )

    def canonical(self) -> Form | None:
        """Return it as one number where layers read alike, and without what one layer reads alone.

        A unit of the bank that a single layer reads is private.
        """
        if isinstance(self.ratio, tuple):
            most = sorted(self.ratio)[-2] if len(self.ratio) > 1 else 0.0
            ratios = tuple(min(ratio, most) for ratio in self.ratio)
            alike = len(set(ratios)) == 1
            return Bank(ratio=ratios[0]).canonical() if alike else Bank(ratio=ratios)
        if self.ratio == 0:
            return None
        return Tie() if self.ratio == 1 else self

    def rounded(self, units: tuple[int, ...]) -> "Bank":
        if isinstance(self.ratio, tuple):
            return Bank(ratio=tuple(_shortest_ratio(ratio, units) for ratio in self.ratio))
        return Bank(ratio=_shortest_ratio(self.ratio, units))

    def of(self, places: Sequence[int]) -> "Bank":
        if not isinstance(self.ratio, tuple):
            return self
        return Bank(ratio=tuple(self.ratio[place] for place in places))

    def check(self, layers: int) -> None:
        if isinstance(self.ratio, tuple) and len(self.ratio) != layers:
            raise PlanError(
                f"a list of ratios has one for each layer, but got {len(self.ratio)} for "
                f"{layers} layers",
                "write one number for all, or as many as the group has layers",
            )

    def share(self, place: int = 0) -> float:
        if not isinstance(self.ratio, tuple):
            return self.ratio
        return self.ratio[place] if place < len(self.ratio) else max(self.ratio)


@FORMS.register("tie")
class Tie(Form):
    """every unit reads the bank: one stored copy (ALBERT, arXiv 1909.11942)"""

    name: ClassVar[str] = "tie"
    whole: ClassVar[bool] = True


@FORMS.register("drop")
class Drop(Form):
    """the layers are removed: the plain rival of every sharing plan (ShortGPT, LaCo)"""

    name: ClassVar[str] = "drop"
    learns_locally: ClassVar[bool] = False
    removes_layers: ClassVar[bool] = True
    shares: ClassVar[bool] = False
    group_rules: ClassVar[frozenset[str]] = frozenset()

    def share(self, place: int = 0) -> float:
        return 0.0


@FORMS.register("merge")
class Merge(Form):
    """one layer takes the place of adjacent ones, to be distilled to do the work of all

    It starts from one of them, or their mean, as the group's `init` says.
    """

    name: ClassVar[str] = "merge"
    whole: ClassVar[bool] = True
    removes_layers: ClassVar[bool] = True
    shares: ClassVar[bool] = False

    def share(self, place: int = 0) -> float:
        return 0.0


@FORMS.register("narrow")
class Narrow(Form):
    """each layer keeps its most important heads, FFN neurons or experts, the others are removed"""

    name: ClassVar[str] = "narrow"
    shares: ClassVar[bool] = False
    group_rules: ClassVar[frozenset[str]] = frozenset()
    calibrated: ClassVar[bool] = True
    keep: float = Field(
        gt=0,
        le=1,
        allow_inf_nan=False,
        examples=[0.5],
        description="Fraction of units (attention heads or KV groups, FFN neurons in multiples of "
        "8, experts of a mixture) that each layer keeps; one head, eight neurons and as many "
        "experts as a token is sent to are the least.",
    )

    def canonical(self) -> Form | None:
        return None if self.keep == 1 else self

    def rounded(self, units: tuple[int, ...]) -> "Narrow":
        (count,) = units
        kept = self.kept(count)
        if kept >= count:
            return Narrow(keep=1)
        shorter = (round(kept / count, digits) for digits in range(1, 7))
        return Narrow(keep=next(keep for keep in shorter if round_half_up(keep * count) == kept))

    def share(self, place: int = 0) -> float:
        return 0.0

    def kept(self, units: int) -> int:
        """Return how many of `units` units stay."""
        return max(1, round_half_up(self.keep * units))


@FORMS.register("lowrank")
class LowRank(Form):
    """every layer adds a low-rank matrix of its own to the bank (RRT, arXiv 2410.20672)"""

    name: ClassVar[str] = "lowrank"
    adapts: ClassVar[bool] = True
    group_rules: ClassVar[frozenset[str]] = frozenset({"init"})
    calibrated: ClassVar[bool] = True
    rank: int = Field(
        ge=0,
        examples=[8],
        description="Rank of each layer's own matrix: 0 adds nothing; from the matrix's smaller "
        "side on, the start is exact.",
    )
    diagonal: bool = Field(
        False, description="Whether each layer also scales the rows of the bank's matrix."
    )
    heads: bool = Field(
        False,
        description="Whether each layer also mixes the outputs of its heads (KV groups) before the "
        "bank's output projection `o`.",
    )

    def canonical(self) -> Form:
        return self if self.rank or self.diagonal or self.heads else Tie()


@FORMS.register("basis")
class Basis(Form):
    """layers combine shared basis vectors by coefficients of their own (arXiv 2410.03765)"""

    name: ClassVar[str] = "basis"
    group_rules: ClassVar[frozenset[str]] = frozenset()
    calibrated: ClassVar[bool] = True
    rank: int = Field(
        ge=1,
        examples=[8],
        description="Basis vectors of each matrix; at most as many as make it exact.",
    )


@FORMS.register("atoms")
class Atoms(Form):
    """layers add shared matrices, each with a weight of its own (MASA, arXiv 2508.04581)"""

    name: ClassVar[str] = "atoms"
    group_rules: ClassVar[frozenset[str]] = frozenset({"units"})
    calibrated: ClassVar[bool] = True
    count: int = Field(
        ge=1, examples=[2], description="Shared matrices; at most as many as the group has layers."
    )


@FORMS.register("reuse")
class Reuse(Form):
    """layers take keys and values, or scores, of the bank's first layer (CLA, arXiv 2405.12981)"""

    name: ClassVar[str] = "reuse"
    group_rules: ClassVar[frozenset[str]] = frozenset({"units"})
    materializes: ClassVar[bool] = False
    learns_locally: ClassVar[bool] = False
    whole: ClassVar[bool] = True
    what: Literal["kv", "scores"] = Field(
        examples=["kv"],
        description="Activations taken over: `kv`, keys and values, or `scores`, queries and keys "
        "(Reuse Transformers, arXiv 2110.06821).",
    )

    def roles(self) -> tuple[str, ...]:
        return ("k", "v") if self.what == "kv" else ("q", "k")


def _shortest_ratio(ratio: float, units: tuple[int, ...]) -> float:
    """Return the shortest decimal that rounds to the same whole units as `ratio` does."""
    shared = [round_half_up(ratio * count) for count in units]
    if all(s == 0 for s in shared):
        return 0.0
    if all(s == count for s, count in zip(shared, units, strict=True)):
        return 1.0
    for digits in range(1, 7):
        scale = 10**digits
        middle = int(ratio * scale)
        near = range(max(0, middle - 10), min(scale, middle + 10) + 1)
        same = [n / scale for n in near if _same_units(n / scale, units, shared)]
        if same:
            return same[0]
    return ratio


def _same_units(ratio: float, units: tuple[int, ...], shared: list[int]) -> bool:
    return [round_half_up(ratio * count) for count in units] == shared


def round_half_up(value: float) -> int:
    """Round to the nearest whole number; a half always goes up, unlike Python's `round`."""
    return int(value + 0.5)


def read_form(value: object) -> Form:
    """Read a form as written: ``tie``, ``drop`` or ``{bank: {ratio: 0.7}}``."""
    return read_named(FORMS, value, example="{bank: {ratio: 0.7}}", error=PlanError)


def write_form(form: Form) -> str | dict[str, Any]:
    """Write a form so that :func:`read_form` reads it back."""
    return write_named(form)


FormField = Annotated[Form, BeforeValidator(reader(read_form)), PlainSerializer(write_form)]
