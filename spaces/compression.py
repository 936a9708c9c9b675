"""What is pruned and quantised after training. docs/recipes.md tells of each part."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Compression(BaseModel):
    """What is pruned and quantised after training; by default nothing.

    `heads` and `neurons` are the fractions (0..1) of units removed: of those that are shared and
    of those that are private in each layer, rounded down. The least important go first. A unit of
    a bank goes from all its readers. `magnitude` is the fraction of the layers' matrix entries
    set to zero, smallest first. After pruning the model trains on for `recover` times the
    recipe's steps. `quantize: int8` stores every matrix of the body as 8-bit numbers with a scale
    a row; `dynamic-int8` also multiplies them in 8 bits, by what enters rounded token by token.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    heads: float = Field(0.0, ge=0, lt=1)
    neurons: float = Field(0.0, ge=0, lt=1)
    magnitude: float = Field(0.0, ge=0, lt=1)
    recover: float = Field(0.0, ge=0, le=1)
    quantize: Literal["int8", "dynamic-int8"] | None = None

    @property
    def removes_units(self) -> bool:
        """Whether layers become narrower."""
        return self.heads > 0 or self.neurons > 0

    @property
    def prunes(self) -> bool:
        """Whether anything is removed or set to zero."""
        return self.removes_units or self.magnitude > 0

    def canonical(self) -> "Compression":
        """The same without settings that have no effect."""
        inert: dict[str, Any] = {} if self.prunes else {"recover": 0.0}
        return self.model_copy(update=inert)

    def __str__(self) -> str:
        settings = self.model_dump(exclude_defaults=True)
        return ", ".join(f"{key} {value}" for key, value in settings.items()) or "none"
