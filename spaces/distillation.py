"""What a candidate learns from a teacher: weights, temperature and schedule."""

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from sharetune.spaces.errors import ConfigError
from sharetune.spaces.registry import Registry

UNSHARED = "unshared"
TEACHER_RECIPE = "teacher_recipe"
TERMS = ("logits", "hidden", "relations")

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


class Distillation(BaseModel):
    """The loss is ``task * the task's + w * (logits * L + hidden * H + relations * R)``.

    L is ``T^2 KL(teacher / T || student / T)`` at `temperature` T (Hinton et al., arXiv
    1503.02531), H the mean square between hidden states, the student's layer l of n standing
    beside the teacher's ``round(l * N / n)`` of N (Patient-KD, arXiv 1908.09355), R the divergence
    of the last layers' query, key and value relations over `relation_heads` heads (MiniLMv2,
    arXiv 2012.15828; None: as many as the student has). w is 1, or falls to 0 over the training
    by the schedule ``falling``. For the first `without_labels` (0..1) of the steps `task` is 0.

    `teacher` is ``unshared``, the study's own unshared model fine-tuned first, or a folder or hub
    name of a fine-tuned model that reads the same tokens and knows the same labels.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    teacher: str = Field(UNSHARED, min_length=1)
    logits: float = Field(1.0, ge=0)
    temperature: float = Field(2.0, gt=0)
    hidden: float = Field(0.0, ge=0)
    relations: float = Field(0.0, ge=0)
    relation_heads: int | None = Field(None, ge=1)
    task: float = Field(1.0, ge=0)
    schedule: FadingName = "constant"
    without_labels: float = Field(0.0, ge=0, le=1)

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
        """Whether anything of the teacher is used."""
        return any(getattr(self, term) > 0 for term in TERMS)

    def canonical(self) -> "Distillation | None":
        """The same without settings that have no effect; None where nothing is learned so."""
        if not self.teaches and self.task == 1:
            return None
        inert: dict[str, Any] = {} if self.logits else {"temperature": 2.0}
        inert |= {} if self.relations else {"relation_heads": None}
        inert |= {"without_labels": 0.0} if self.task == 0 else {}
        return self.model_copy(update=inert)
