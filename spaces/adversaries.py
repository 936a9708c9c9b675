"""Adversaries: perturbations of the embeddings against the model while it trains.

Norms are Euclidean, of one example's embeddings together (tokens x width).
`trainers/training/adversarial.py` has the steps.
"""

from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field, PlainSerializer

from sharetune.spaces.errors import ConfigError
from sharetune.spaces.named import Named, read_named, write_named
from sharetune.spaces.registry import Registry
from sharetune.spaces.settings import reader

ADVERSARIES: Registry[type["Adversary"]] = Registry("adversary")
"""Adversaries by name: classes whose fields are the knobs."""


class Adversary(Named):
    """Base of all adversaries: a perturbation of the embeddings and its largest norm."""

    epsilon: float = Field(
        0.1, gt=0, description="Largest Euclidean norm of one example's perturbation."
    )


@ADVERSARIES.register("fgm")
class FGM(Adversary):
    """one step along the gradient (Miyato et al., arXiv 1605.07725)"""

    name: ClassVar[str] = "fgm"


@ADVERSARIES.register("pgd")
class PGD(Adversary):
    """`steps` steps of length `alpha`, each projected back (Madry et al., arXiv 1706.06083)"""

    name: ClassVar[str] = "pgd"
    alpha: float = Field(
        0.03, gt=0, description="Length of one step, in the norm that `epsilon` limits."
    )
    steps: int = Field(
        3, ge=1, le=20, description="Gradient steps for each batch; each is a forward and backward."
    )


@ADVERSARIES.register("freelb")
class FreeLB(Adversary):
    """as pgd from a random start of norm `start`, learning at every step (arXiv 1909.11764)"""

    name: ClassVar[str] = "freelb"
    alpha: float = Field(
        0.03, gt=0, description="Length of one step, in the norm that `epsilon` limits."
    )
    steps: int = Field(
        3, ge=1, le=20, description="Gradient steps for each batch; the model learns at each one."
    )
    start: float = Field(
        0.03, ge=0, description="Norm of the random perturbation to start from; 0 starts from none."
    )


def read_adversary(value: object) -> Adversary | None:
    """Read an adversary as written: ``fgm`` or ``{pgd: {steps: 2}}``; None for none."""
    if value is None:
        return None
    return read_named(ADVERSARIES, value, example="{pgd: {steps: 3}}", error=ConfigError)


def write_adversary(adversary: Adversary | None) -> str | dict[str, Any] | None:
    """Write an adversary so that :func:`read_adversary` reads it back."""
    return None if adversary is None else write_named(adversary)


AdversaryField = Annotated[
    Adversary | None, BeforeValidator(reader(read_adversary)), PlainSerializer(write_adversary)
]
