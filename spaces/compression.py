"""Settings of pruning and quantisation after training; docs/recipes.md explains each one."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Compression(BaseModel):
    """Pruning and quantisation of a trained model; by default neither.

    Units (heads, neurons) are removed by fraction from a layer's shared and private ones alike,
    rounded down, the least important first. A unit of a bank is removed from all its readers.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    heads: float = Field(
        0.0, ge=0, lt=1, description="Fraction of each layer's attention heads that is removed."
    )
    neurons: float = Field(
        0.0, ge=0, lt=1, description="Fraction of each layer's FFN neurons that is removed."
    )
    magnitude: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Fraction of the layers' matrix entries set to zero, the smallest first.",
    )
    recover: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Training after pruning, as a fraction of the recipe's steps; 0 is none.",
    )
    quantize: Literal["int8", "dynamic-int8"] | None = Field(
        None,
        description="Quantisation of the body's matrices: `int8` stores them in 8 bits with one "
        "scale for each row, `dynamic-int8` also multiplies in 8 bits, with inputs rounded for "
        "each token; `null` is none.",
    )

    @property
    def removes_units(self) -> bool:
        """Return whether heads or neurons are removed, so that layers become narrower."""
        return self.heads > 0 or self.neurons > 0

    @property
    def prunes(self) -> bool:
        """Return whether any unit is removed or any weight set to zero."""
        return self.removes_units or self.magnitude > 0

    def canonical(self) -> "Compression":
        """Return an equal setting without keys that have no effect."""
        inert: dict[str, Any] = {} if self.prunes else {"recover": 0.0}
        return self.model_copy(update=inert)

    def __str__(self) -> str:
        settings = self.model_dump(exclude_defaults=True)
        return ", ".join(f"{key} {value}" for key, value in settings.items()) or "none"
