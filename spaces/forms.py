"""How the layers of a group read their bank, and what of it they store.

A form is one registered pydantic class whose fields are its native knobs. Only what can be
said without tensors stands here; `sharetune.trainers.models.forms.base` builds the modules.
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, PlainSerializer

from sharetune.spaces.errors import PlanError
from sharetune.spaces.named import Named, read_named, write_named
from sharetune.spaces.registry import Registry

FORMS: Registry[type["Form"]] = Registry("form")


class Form(Named):
    """Base of all forms. `name` is the word used in plans.

    `heeds` says which of a group's rules for making a bank the form goes by. A `calibrated` form
    starts better with what enters the matrices on the task's own text. One that `materializes`
    has a dense model of the same function. One that `shares` nothing stores no bank.
    """

    removes_layers: ClassVar[bool] = False
    shares: ClassVar[bool] = True
    heeds: ClassVar[frozenset[str]] = frozenset({"init", "units"})
    calibrated: ClassVar[bool] = False
    materializes: ClassVar[bool] = True

    def roles(self) -> tuple[str, ...] | None:
        """The matrices it can only take together, which may lie in one with others; None: any."""
        return None

    def canonical(self) -> "Form | None":
        """The simplest form that builds the same model; None where nothing is shared."""
        return self

    def rounded(self, units: tuple[int, ...]) -> "Form":
        """The form with its knobs at values that a model with these unit counts can have."""
        return self

    def share(self) -> float:
        """The fraction of a layer that is read from the bank, for drawings: 0..1."""
        return 1.0


@FORMS.register("bank")
class Bank(Form):
    """a fraction of heads and FFN neurons reads the bank, the rest stays private

    `ratio` is the fraction of units (attention heads or KV groups, FFN neurons in
    multiples of 8), 0..1: 0 is no sharing, 1 a tie.
    """

    name: ClassVar[str] = "bank"
    ratio: float = Field(ge=0, le=1, allow_inf_nan=False, examples=[0.5])

    def canonical(self) -> Form | None:
        if self.ratio == 0:
            return None
        return Tie() if self.ratio == 1 else self

    def rounded(self, units: tuple[int, ...]) -> "Bank":
        return Bank(ratio=_shortest_ratio(self.ratio, units))

    def share(self) -> float:
        return self.ratio


@FORMS.register("tie")
class Tie(Form):
    """every unit reads the bank: one stored copy (ALBERT, arXiv 1909.11942)"""

    name: ClassVar[str] = "tie"


@FORMS.register("drop")
class Drop(Form):
    """the layers are removed: the plain rival of every sharing plan (ShortGPT, LaCo)"""

    name: ClassVar[str] = "drop"
    removes_layers: ClassVar[bool] = True
    shares: ClassVar[bool] = False
    heeds: ClassVar[frozenset[str]] = frozenset()

    def share(self) -> float:
        return 0.0


@FORMS.register("merge")
class Merge(Form):
    """one layer takes the place of adjacent ones, to be distilled to do the work of all

    It starts from one of them, or their mean, as the group's `init` says.
    """

    name: ClassVar[str] = "merge"
    removes_layers: ClassVar[bool] = True
    shares: ClassVar[bool] = False

    def share(self) -> float:
        return 0.0


@FORMS.register("narrow")
class Narrow(Form):
    """each layer keeps its most important heads and FFN neurons, the others are removed

    `keep` is the fraction of units (attention heads or KV groups, FFN neurons in multiples
    of 8) that each layer keeps, above 0 and at most 1; one head and eight neurons are the least.
    """

    name: ClassVar[str] = "narrow"
    shares: ClassVar[bool] = False
    heeds: ClassVar[frozenset[str]] = frozenset()
    calibrated: ClassVar[bool] = True
    keep: float = Field(gt=0, le=1, allow_inf_nan=False, examples=[0.5])

    def canonical(self) -> Form | None:
        return None if self.keep == 1 else self

    def rounded(self, units: tuple[int, ...]) -> "Narrow":
        (count,) = units
        kept = self.kept(count)
        if kept >= count:
            return Narrow(keep=1)
        shorter = (round(kept / count, digits) for digits in range(1, 7))
        return Narrow(keep=next(keep for keep in shorter if round_half_up(keep * count) == kept))

    def share(self) -> float:
        return 0.0

    def kept(self, units: int) -> int:
        """Return how many of `units` units stay."""
        return max(1, round_half_up(self.keep * units))


@FORMS.register("lowrank")
class LowRank(Form):
    """every layer adds a low-rank matrix of its own to the bank (RRT, arXiv 2410.20672)

    `rank` is that of the addition; 0 adds nothing, and from the matrix's smaller side on the
    start is exact. With `diagonal` each layer scales the rows of the bank's matrix, too, and with
    `heads` it mixes what its heads (KV groups) give before the bank's `o` reads it.
    """

    name: ClassVar[str] = "lowrank"
    heeds: ClassVar[frozenset[str]] = frozenset({"init"})
    calibrated: ClassVar[bool] = True
    rank: int = Field(ge=0, examples=[8])
    diagonal: bool = False
    heads: bool = False

    def canonical(self) -> Form:
        return self if self.rank or self.diagonal or self.heads else Tie()


@FORMS.register("basis")
class Basis(Form):
    """layers combine shared basis vectors by coefficients of their own (arXiv 2410.03765)

    `rank` is the number of basis vectors of each matrix, at most what makes it exact.
    """

    name: ClassVar[str] = "basis"
    heeds: ClassVar[frozenset[str]] = frozenset()
    calibrated: ClassVar[bool] = True
    rank: int = Field(ge=1, examples=[8])


@FORMS.register("atoms")
class Atoms(Form):
    """layers mix shared matrices by a number each (MASA, arXiv 2508.04581)

    `count` is the number of shared matrices, at most that of the group's layers.
    """

    name: ClassVar[str] = "atoms"
    heeds: ClassVar[frozenset[str]] = frozenset({"units"})
    calibrated: ClassVar[bool] = True
    count: int = Field(ge=1, examples=[2])


@FORMS.register("reuse")
class Reuse(Form):
    """layers take keys and values, or scores, of the bank's first layer (CLA, arXiv 2405.12981)

    `what` is ``kv``, or ``scores``: queries and keys (Reuse Transformers, arXiv 2110.06821).
    """

    name: ClassVar[str] = "reuse"
    heeds: ClassVar[frozenset[str]] = frozenset({"units"})
    materializes: ClassVar[bool] = False
    what: Literal["kv", "scores"] = Field(examples=["kv"])

    def roles(self) -> tuple[str, ...]:
        return ("k", "v") if self.what == "kv" else ("q", "k")


def _shortest_ratio(ratio: float, units: tuple[int, ...]) -> float:
    """The shortest decimal that rounds to the same whole units as `ratio` does."""
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
    """The nearest whole number; a half goes up, whatever the parity."""
    return int(value + 0.5)


def read_form(value: Any) -> Form:
    """A form as written: ``tie``, ``drop`` or ``{bank: {ratio: 0.7}}``."""
    return read_named(FORMS, value, example="{bank: {ratio: 0.7}}", error=PlanError)


def write_form(form: Form) -> str | dict[str, Any]:
    """The inverse of :func:`read_form`."""
    return write_named(form)


FormField = Annotated[Form, BeforeValidator(read_form), PlainSerializer(write_form)]
