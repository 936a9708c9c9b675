"""How layers change from weights of their own to what the plan says, while they train: by name.

`trainers/models/softening.py` has the layers.
"""

from typing import Annotated, ClassVar

from pydantic import AfterValidator

from sharetune.spaces.registry import Registry

SOFTENINGS: Registry[type["Softening"]] = Registry("schedule")


class Softening:
    """Base of all schedules.

    Under one that is `pulled`, layers keep weights of their own, which the loss term `pull` can
    draw to the bank. One that is `of_private` changes a bank's private weights only, so it has no
    effect on a form without any.
    """

    pulled: ClassVar[bool] = True
    of_private: ClassVar[bool] = False


@SOFTENINGS.register("interpolate")
class Interpolate(Softening):
    """theta' = theta * alpha + theta' * (1 - alpha), theta the bank's and theta' the layer's"""


@SOFTENINGS.register("replace")
class Replace(Softening):
    """the bank's with probability alpha, else the layer's own (BERT-of-Theseus, 2002.02925)"""


@SOFTENINGS.register("pull")
class Pull(Softening):
    """the layer's own, which the loss term `pull` draws to the bank, then the bank's"""


@SOFTENINGS.register("untie")
class Untie(Softening):
    """one matrix for all layers, whose private part each then goes on with (SWE, 2110.03848)"""

    pulled = False
    of_private = True


SofteningName = Annotated[str, AfterValidator(SOFTENINGS.known)]
