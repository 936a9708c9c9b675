"""Settings of distillation from a teacher: loss weights, temperature and schedule."""

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from sharetune.spaces.anchors import UNSHARED
from sharetune.spaces.errors import ConfigError
from sharetune.spaces.registry import Registry
from sharetune.spaces.settings import StrictModel

TERMS = ("logits", "hidden", "relations")
"""Keys of the loss terms that need a teacher."""

FADINGS: Registry[Callable[[float], float]] = Registry("distillation schedule")
"""``progress (0..1) of the training -> the teacher's weight w (0..1) in the loss``."""


@FADINGS.register("constant")
def constant(progress: float) -> float:
    """the teacher counts as much to the end"""
    return 1.0


@FADINGS.register("falling")
def falling(progress: float) -> float:
    """the teacher's weight falls linearly to 0"""
    return 1 - progress


FadingName = Annotated[str, AfterValidator(FADINGS.known)]


class Distillation(StrictModel):
    """Distillation loss: ``task * T + w * (logits * L + hidden * H + relations * R)``.

    T is the task's own loss. L is ``t^2 KL(teacher / t || student / t)`` at `temperature` t
    (Hinton et al., arXiv 1503.02531), the mean over examples, or over all tokens that count of
    those that write. H is the mean squared difference of hidden states, the
    student's layer l of n matched to the teacher's ``round(l * N / n)`` of N (Patient-KD, arXiv
    1908.09355). R is the divergence of the last layers' query, key and value relations (MiniLMv2,
    arXiv 2012.15828). w is the factor that `schedule` gives.
    """

    teacher: str = Field(
        UNSHARED,
        min_length=1,
        description="`unshared`, the study's own unshared model fine-tuned first, or the folder or "
        "hub name of a fine-tuned model with the same tokens and labels.",
    )
    logits: float = Field(
        1.0, ge=0, description="Weight of the divergence from the teacher's logits; 0 is none."
    )
    temperature: float = Field(
        2.0, gt=0, description="Temperature by which both models' logits are divided."
    )
    hidden: float = Field(
        0.0, ge=0, description="Weight of the squared difference of hidden states; 0 is none."
    )
    relations: float = Field(
        0.0,
        ge=0,
        description="Weight of the divergence of the last layers' query, key and value relations; "
        "0 is none.",
    )
    relation_heads: int | None = Field(
        None,
        ge=1,
        description="Heads over which relations are compared; `null`: as many as the student has.",
    )
    top_k: int | None = Field(
        None,
        ge=1,
        description="Most likely classes of each prediction of the teacher that are kept on disk, "
        "the others as one class, where its whole logits take more than 256 MiB; `null`: there the "
        "teacher answers each batch.",
    )
    teacher_dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="Dtype in which the teacher answers."
    )
    teacher_device: str | None = Field(
        None,
        min_length=1,
        description="Device of the teacher, such as `cuda:1`; `null`: the student's.",
    )
    task: float = Field(1.0, ge=0, description="Weight of the task's own loss on the labels.")
    schedule: FadingName = Field(
        "constant",
        description="Factor of the teacher's terms: 1 throughout, or `falling` from 1 to 0 over "
        "the training.",
    )
    without_labels: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Fraction of the steps, from the start, in which `task` counts as 0.",
    )

    @model_validator(mode="after")
    def _learns_something(self) -> "Distillation":
        if not self.teaches and (self.task == 0 or self.without_labels > 0):
            raise ConfigError(
                "distillation without labels needs a term of the teacher, but "
                + ", ".join(f"{term} is 0" for term in TERMS),
                "set logits, hidden or relations above 0",
            )
        return self

    @property
    def teaches(self) -> bool:
        """Return whether any term of the loss needs a teacher."""
        return any(getattr(self, term) > 0 for term in TERMS)

    def canonical(self) -> "Distillation | None":
        """Return an equal setting without keys that have no effect; None if the loss is plain."""
        if not self.teaches and self.task == 1:
            return None
        inert: dict[str, Any] = {} if self.logits else {"temperature": 2.0}
        inert |= {} if self.relations else {"relation_heads": None}
        inert |= {} if self.logits and not (self.hidden or self.relations) else {"top_k": None}
        inert |= {} if self.teaches else {"teacher_dtype": "float32", "teacher_device": None}
        inert |= {"without_labels": 0.0} if self.task == 0 else {}
        return self.model_copy(update=inert)
